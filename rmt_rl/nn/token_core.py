"""Declares a memory mechanism to the token model, `rmt_rl.RecurrentMemoryTransformer`.

A file in `rmt_rl/memory`, or a module that an installed package names as an entry point of the group `rmt_rl.memory`,
declares

    TOKEN_CORES = {"mine": TokenCore(build=my_core)}

and `RecurrentMemoryTransformer(memory="mine")` is made of what `my_core` returns. No list is edited.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.nn.hyper_connections import hyper_connected
from rmt_rl.nn.token_shift import TokenShift
from rmt_rl.nn.value_residual import value_residual
from rmt_rl.recurrence import SegmentRecurrent, Stack

Core = SegmentRecurrent[Any, Any]


class Layers(NamedTuple):
    """The layers of a token model, and the options by which they become a core.

    Attributes:
        config: the sizes of a layer, and the number of layers.
        seq_len: the most tokens of a segment.
        memory_tokens: the option `num_memory_tokens`.
        causal: False for an encoder, whose layers see their whole segment.
        valve: the name of the valve that joins old and new memory tokens; `none` for none.
        token_shift: wrap each layer so that it sees half of the token before.
        value_residual: let each layer attend to the first layer's values too.
        streams: the number of residual streams; above 1 they are hyper-connections.
        layer: makes one layer.
    """

    config: DecoderConfig
    seq_len: int
    memory_tokens: int
    causal: bool = True
    valve: str = "none"
    token_shift: bool = False
    value_residual: bool = False
    streams: int = 1
    layer: Callable[[DecoderConfig], Core] = DecoderLayer

    def build_list(self) -> list[Core]:
        """Return new cores which, one after the other, are all layers with their options."""
        if self.value_residual:
            return value_residual(self.config)
        layers = [self.layer(self.config) for _ in range(self.config.layers)]
        if self.token_shift:
            layers = [TokenShift(layer) for layer in layers]
        return hyper_connected(layers, self.streams) if self.streams > 1 else layers

    def build_stack(self) -> Stack:
        """Return all layers and the final norm as one new core."""
        return decoder(self.config, self.build_list())


class TokenCore(NamedTuple):
    """A memory mechanism of the token model, and the options that go with it.

    An option that isn't declared here is refused with an error. Token shift goes with every mechanism.

    Attributes:
        build: makes the core, from tokens to tokens of width `config.width`, of the model's layers.
        needs_memory_tokens: True if the core adds `num_memory_tokens` tokens to each segment, and so needs 1 or more.
        valves: the values of `valve` that it knows; empty if it knows no valves.
        encoder: True if it goes with `causal=False`.
        xl_memories: True if its layers may be Transformer-XL layers (`use_xl_memories=True`). Each layer must see the
            same tokens, and no other part of the core may keep a `rmt_rl.memory.transformer_xl.Hidden`.
        streams: True if its layers may be hyper-connected (`num_residual_streams` above 1).
        value_residual: True if it goes with `value_residual=True`.
    """

    build: Callable[[Layers], Core]
    needs_memory_tokens: bool = False
    valves: Collection[str] = ()
    encoder: bool = False
    xl_memories: bool = False
    streams: bool = False
    value_residual: bool = False


WITHOUT_MEMORY = TokenCore(Layers.build_stack, encoder=True, xl_memories=True, streams=True, value_residual=True)
