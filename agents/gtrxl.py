"""GTrXL, Gated Transformer-XL (arXiv 1910.06764): Transformer-XL with gates in place of residual sums."""

from __future__ import annotations

from pydantic import Field

from rmt_rl.agents.trxl import TrXL, TrXLConfig
from rmt_rl.memory.gated_transformer_xl import GatedTransformerXLLayer, GateName


class GTrXLConfig(TrXLConfig):
    """Options of GTrXL."""

    gate: GateName = Field("gru", description="gate that joins a layer's branches to its residual stream")


class GTrXL(TrXL):
    """Gated Transformer-XL on the tokens of a trajectory."""

    Config = GTrXLConfig

    def layer(self, config: GTrXLConfig) -> GatedTransformerXLLayer:
        """Return one layer."""
        return GatedTransformerXLLayer(
            config, config.cached, config.cache, config.stop_gradient, config.recurrence, config.gate
        )


AGENT = GTrXL
