"""Composition of a token model's core from its options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

from rmt_rl.config import validated
from rmt_rl.errors import UsageError, nearest
from rmt_rl.language.checks import check_sizes
from rmt_rl.language.mechanisms import TokenCores
from rmt_rl.memory.encoder_tokens import EncoderLayer
from rmt_rl.memory.transformer_xl import RecurrenceName, TransformerXLLayer
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.nn.token_core import Core, Layers, TokenCore


class XLOptions(NamedTuple):
    """Options of Transformer-XL caches.

    Attributes:
        use: `use_xl_memories`.
        length: `xl_mem_len`.
        enhanced: `enhanced_xl_recurrence`.
    """

    use: bool
    length: int | None
    enhanced: bool


def build_core(memory: str, layers: Layers, xl: XLOptions, abs_pos_emb: bool) -> Core:
    """Return a new core of these layers, whose kind (decoder, encoder, Transformer-XL) is chosen here.

    Raises:
        UsageError: no memory mechanism has this name, or options don't go together.
    """
    cores = TokenCores.find()
    core = cores.named(memory)
    if layers.valve not in ("none", *core.valves) and core.valves:
        known = ", ".join(core.valves)
        raise UsageError(f"valve={layers.valve!r} is none of {known}{nearest(layers.valve, core.valves)}")
    for wrong, option, needed in _conflicts(cores, core, layers, xl, abs_pos_emb):
        if wrong:
            raise UsageError(f"{option}, given memory={memory!r}, causal={layers.causal}: it needs {needed}")
    return core.build(layers._replace(layer=_layer(core, layers, xl)))


def decoder_config(
    dim: int,
    depth: int,
    heads: int,
    dim_head: int,
    ff_mult: float,
    ff_glu: bool,
    dropout: float,
    *,
    rotary: bool,
    flash: bool,
) -> DecoderConfig:
    """Return the sizes of a token model's layers; arguments are options of `RecurrentMemoryTransformer`.

    Raises:
        UsageError: a value can't be.
    """
    if not ff_mult > 0:
        raise UsageError(f"ff_mult={ff_mult} must be above 0")
    if rotary and dim_head % 2:
        raise UsageError(f"dim_head={dim_head} must be even for rotary positions, or rotary_pos_emb=False")
    share = 2 / 3 if ff_glu else 1  # a gated net has three matrices in place of two
    options = {
        "layers": depth,
        "width": dim,
        "heads": heads,
        "head_width": dim_head,
        "hidden": round(ff_mult * dim * share),
        "feed_forward": "geglu" if ff_glu else "gelu",
        "dropout": dropout,
        "rotary": rotary,
        "attention": "flash" if flash and find_spec("flash_attn") else "sdpa",
    }
    return validated(DecoderConfig, options)


def _conflicts(
    cores: TokenCores, core: TokenCore, layers: Layers, xl: XLOptions, abs_pos_emb: bool
) -> list[tuple[bool, str, str]]:
    """Return for each option that not every model can have whether it's wrong, the option, and what it needs."""
    plain = layers.causal and not (xl.use or layers.token_shift or layers.streams > 1)
    return [
        (
            core.needs_memory_tokens and layers.memory_tokens < 1,
            f"num_memory_tokens={layers.memory_tokens}",
            "1 or more; memory='none' has no memory",
        ),
        (layers.valve != "none" and not core.valves, f"valve={layers.valve!r}", cores.choice("valves")),
        (not layers.causal and not core.encoder, "causal=False", cores.choice("encoder")),
        (
            xl.use and not (layers.causal and core.xl_memories),
            "use_xl_memories=True",
            f"causal=True and {cores.choice('xl_memories')}",
        ),
        (
            not xl.use and (xl.length is not None or xl.enhanced),
            "xl_mem_len or enhanced_xl_recurrence",
            "use_xl_memories=True",
        ),
        (xl.use and abs_pos_emb, "abs_pos_emb=True, which knows no distances", "use_xl_memories=False"),
        (
            layers.streams > 1 and not core.streams,
            f"num_residual_streams={layers.streams}",
            cores.choice("streams"),
        ),
        (
            layers.value_residual and not (plain and core.value_residual),
            "value_residual=True",
            f"causal=True, {cores.choice('value_residual')}, no XL memories, no token_shift, one residual stream",
        ),
    ]


def _layer(core: TokenCore, layers: Layers, xl: XLOptions) -> Callable[[DecoderConfig], Core]:
    """Return the function that makes a layer."""
    if not xl.use:
        return DecoderLayer if layers.causal else EncoderLayer
    cached = layers.seq_len if xl.length is None else xl.length
    check_sizes(xl_mem_len=cached)
    written = layers.memory_tokens if core.needs_memory_tokens else 0
    if cached <= written:
        raise UsageError(
            f"xl_mem_len={cached} has no room for text: it must be above {written}, the memory tokens written"
        )
    recurrence: RecurrenceName = "enhanced" if xl.enhanced else "ordinary"
    return partial(TransformerXLLayer, cached=cached, cache="keys_values", recurrence=recurrence)
