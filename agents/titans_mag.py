"""Titans MAG (arXiv 2501.00663): a neural memory gates sliding-window attention."""

from __future__ import annotations

from rmt_rl.agent import Agent
from rmt_rl.agents._titans import WindowConfig
from rmt_rl.memory.titans import MemoryAsGate
from rmt_rl.nn.decoder import decoder
from rmt_rl.recurrence import Stack


class TitansMAG(Agent):
    """Titans, memory as gate."""

    Config = WindowConfig

    def build_core(self, config: WindowConfig) -> Stack:
        """Return a decoder whose layers each have their own neural memory."""
        window, memories = config.window or self.capacity, [config.memory(self.capacity) for _ in range(config.layers)]
        return decoder(config, [MemoryAsGate(config, memory, config.persistent_tokens, window) for memory in memories])


AGENT = TitansMAG
