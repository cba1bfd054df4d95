"""Decoupled Decision Transformer (arXiv 2601.15953): the latest return-to-go enters behind the core only."""

from __future__ import annotations

from torch import Tensor, nn

from rmt_rl.agent import AgentSpec
from rmt_rl.agents.dt import DT, DTConfig


class DDT(DT):
    """A Decision Transformer on observations and actions, two tokens a step in place of three.

    The return-to-go of a step shifts and scales the transformer's output at this step's observation (adaptive layer
    norm). So no prediction sees an earlier return-to-go. Injection outside of the sequence is also the subject of
    arXiv 2605.06104.

    Differences from the paper: rotary positions instead of learned embeddings of the time step, and the sliding context
    of `dt`, which moves on by segments.
    """

    Config = DTConfig
    tokens = ("observation", "action")
    conditions = ("return_to_go",)

    def __init__(self, config: DTConfig, spec: AgentSpec) -> None:
        super().__init__(config, spec)
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * config.width))

    def readout(self, y: Tensor, conditions: list[Tensor]) -> Tensor:
        (encoded_return,) = conditions
        scale, shift = self.modulation(encoded_return).chunk(2, -1)
        modulated = self.norm(y) * (1 + scale) + shift
        return super().readout(modulated, conditions)


AGENT = DDT
