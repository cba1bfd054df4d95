"""Titans MAC (arXiv 2501.00663): attention reads a neural memory as context, and decides what the memory learns."""

from __future__ import annotations

from rmt_rl.agent import Agent
from rmt_rl.agents._titans import TitansConfig
from rmt_rl.memory.titans import MemoryAsContext
from rmt_rl.nn.decoder import decoder
from rmt_rl.recurrence import Stack


class TitansMAC(Agent):
    """Titans, memory as context."""

    Config = TitansConfig

    def build_core(self, config: TitansConfig) -> Stack:
        """Return a decoder whose layers each have their own neural memory."""
        memories = [config.memory(self.capacity) for _ in range(config.layers)]
        return decoder(config, [MemoryAsContext(config, memory, config.persistent_tokens) for memory in memories])


AGENT = TitansMAC
