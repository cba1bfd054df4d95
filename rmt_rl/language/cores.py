"""The cores of `rmt_rl.language.model`, and what of their states callers hold.

Dimensions: B lanes, X tokens of an XL cache, HE width of all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from rmt_rl.errors import UsageError, nearest
from rmt_rl.memory.associative import AssociativeMemory
from rmt_rl.memory.encoder_tokens import EncoderMemoryTokens
from rmt_rl.memory.neural_memory import NeuralMemory
from rmt_rl.memory.titans import MemoryAsContext, MemoryAsGate, MemoryAsLayer
from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.memory.transformer_xl import Hidden
from rmt_rl.memory.valve import VALVES, ValveName
from rmt_rl.nn.decoder import DecoderConfig, decoder
from rmt_rl.nn.hyper_connections import hyper_connected
from rmt_rl.nn.token_shift import TokenShift
from rmt_rl.nn.value_residual import value_residual
from rmt_rl.recurrence import SegmentRecurrent, Stack, Tree

MemoryName = Literal["tokens", "titans_mac", "titans_mag", "titans_mal", "armt", "none"]
Core = SegmentRecurrent[Any, Any]


class Layers(NamedTuple):
    """What a core is made of.

    Attributes:
        config: sizes.
        seq_len, memory_tokens, causal, valve, token_shift, value_residual, streams: of the model.
        layer: makes a layer.
    """

    config: DecoderConfig
    seq_len: int
    memory_tokens: int
    causal: bool
    valve: ValveName
    token_shift: bool
    value_residual: bool
    streams: int
    layer: Callable[[DecoderConfig], Core]

    def made(self) -> list[Core]:
        """All layers, wrapped as the options say."""
        if self.value_residual:
            return value_residual(self.config)
        layers = [self.layer(self.config) for _ in range(self.config.layers)]
        if self.token_shift:
            layers = [TokenShift(layer) for layer in layers]
        return hyper_connected(layers, self.streams) if self.streams > 1 else layers

    def stack(self) -> Stack:
        """All layers, and the final norm."""
        return decoder(self.config, self.made())


def _tokens(layers: Layers) -> Core:
    kind = MemoryTokens if layers.causal else EncoderMemoryTokens
    return kind(layers.stack(), layers.memory_tokens, layers.valve)


def _associations(layers: Layers) -> Core:
    return decoder(layers.config, [AssociativeMemory(layers.made(), layers.memory_tokens, key_width=16)])


def _titans(layers: Layers, block: Callable[[DecoderConfig, NeuralMemory, int], Core]) -> Core:
    """Each layer has a neural memory of its own, which learns a segment at a time."""

    def layer(config: DecoderConfig) -> Core:
        return block(config, NeuralMemory(config.width, layers.seq_len), layers.memory_tokens)

    return layers._replace(layer=layer).stack()


CORES: dict[MemoryName, Callable[[Layers], Core]] = {
    "tokens": _tokens,
    "none": Layers.stack,
    "armt": _associations,
    "titans_mac": partial(_titans, block=MemoryAsContext),
    "titans_mag": lambda layers: _titans(layers, partial(MemoryAsGate, window=layers.seq_len)),
    "titans_mal": lambda layers: _titans(layers, partial(MemoryAsLayer, window=layers.seq_len)),
}
assert set(CORES) == set(get_args(MemoryName))


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Raise an error where a size isn't a whole number, `least` or more."""
    for name, size in sizes.items():
        if not (isinstance(size, Integral) and size >= least):
            raise UsageError(f"{name}={size} must be a whole number, {least} or more")


def check_together(memory: str, layers: Layers, xl: bool, unused_xl: bool, absolute: bool) -> None:
    """Raise an error where options don't go together."""
    if memory not in CORES:
        raise UsageError(f"memory={memory!r} is none of {', '.join(CORES)}{nearest(memory, CORES)}")
    if layers.valve not in VALVES:
        raise UsageError(f"valve={layers.valve!r} is none of {', '.join(VALVES)}{nearest(layers.valve, VALVES)}")
    causal, plain = layers.causal, memory in ("tokens", "none")
    alone = causal and plain and not (xl or layers.token_shift or layers.streams > 1)
    none = layers.memory_tokens < 1 and memory in ("tokens", "armt")
    wrong = [
        (none, f"num_memory_tokens={layers.memory_tokens}", "1 or more; memory='none' has no memory"),
        (layers.valve != "none" and memory != "tokens", f"valve={layers.valve!r}", "memory='tokens'"),
        (not causal and not plain, "causal=False", "memory='tokens' or 'none'"),
        (xl and not (causal and plain), "use_xl_memories=True", "causal=True and memory='tokens' or 'none'"),
        (unused_xl, "xl_mem_len or enhanced_xl_recurrence", "use_xl_memories=True"),
        (xl and absolute, "abs_pos_emb=True, which knows no distances", "use_xl_memories=False"),
        (layers.streams > 1 and memory == "armt", f"num_residual_streams={layers.streams}", "another memory"),
        (
            layers.value_residual and not alone,
            "value_residual=True",
            "causal=True, memory='tokens' or 'none', no XL memories, no token_shift, one residual stream",
        ),
    ]
    for holds, what, needed in wrong:
        if holds:
            raise UsageError(f"{what}, given memory={memory!r}, causal={causal}: it needs {needed}")


# Trees


def parts_of(state: Tree) -> tuple[list[Tensor], list[Hidden]]:
    """A state's tensors and its XL caches."""
    if isinstance(state, Tensor):
        return [state], []
    if isinstance(state, Hidden):
        return [], [state]
    pairs = [parts_of(part) for part in state]
    return [each for kept, _ in pairs for each in kept], [each for _, caches in pairs for each in caches]


def filled(state: Tree, kept: Iterator[Tensor], caches: Iterator[Hidden]) -> Tree:
    """The same tree of others: the inverse of `parts_of`."""
    if isinstance(state, Tensor):
        return next(kept)
    if isinstance(state, Hidden):
        return next(caches)
    parts = [filled(part, kept, caches) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def taken(name: str, given: Tensor | Sequence[Tensor], expected: list[Tensor]) -> list[Tensor]:
    """Copies of the tensors that a caller gave back: of those that inference mode made autograd saves copies alone.

    Raises:
        UsageError: they aren't what is needed.
    """
    parts: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    strangers = [type(each).__name__ for each in parts if not isinstance(each, Tensor)]
    if strangers:
        raise UsageError(f"{name} has {', '.join(strangers)} in it: give what a call returned as its {name}, tensors")
    shapes, needed = ([tuple(each.shape) for each in tensors] for tensors in (parts, expected))
    if shapes != needed:
        raise UsageError(
            f"{name} of shapes {shapes} given, {needed} needed: give what a call of this model returned for as many "
            "sequences"
        )
    return [each.clone() for each in parts]
