"""The state of a token model's core, and the form in which callers hold it: memories and XL memories.

`caller_state` and `core_state` are inverses of each other.

Dimensions: B batch elements, X places of an XL cache, HE width of all attention heads together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, overload

import torch
from torch import Tensor

from rmt_rl.errors import UsageError
from rmt_rl.memory.transformer_xl import Hidden
from rmt_rl.recurrence import Tree

Tensors: TypeAlias = tuple[Tensor, ...]
Memories = Tensor | Tensors


@dataclass(frozen=True, eq=False)
class XLMemories(Sequence[Tensor]):
    """Transformer-XL caches: a sequence with one tensor (2, B, X, HE) for each layer, which holds keys and values.

    The places of a tensor are filled in order, the oldest token first. Places behind a batch element's last token are
    empty: what stands there has no meaning.

    A plain list of tensors has no lengths, and is taken as full: all X places hold tokens. So give `lengths` to caches
    that you have changed yourself: `XLMemories(tuple(layer.detach() for layer in caches), caches.lengths)`.

    Attributes:
        layers: the tensors.
        lengths: int64 (B,), how many places of each batch element hold tokens, the same in all layers.
    """

    layers: Tensors
    lengths: Tensor

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> Tensors: ...

    def __getitem__(self, index: int | slice) -> Tensor | Tensors:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)


torch.export.register_dataclass(XLMemories)  # so that exported models take and return it


def caller_state(state: Tree, has_caches: bool) -> tuple[Memories, XLMemories | None]:
    """Return a core's state as callers hold it.

    Args:
        state: of the core.
        has_caches: True if each `Hidden` in the state is the Transformer-XL cache of a layer. Without them, XL memories
            are None.
    """
    kept, caches = _parts(state, has_caches)
    memories = kept[0] if len(kept) == 1 else tuple(kept)
    return memories, _xl_memories(caches)


def core_state(
    begun: Tree,
    has_caches: bool,
    memories: Memories | None,
    xl_memories: Sequence[Tensor] | None,
) -> Tree:
    """Return the core's state that callers hold as `memories` and `xl_memories`, as copies.

    Args:
        begun: the core's first state; it stands in for memories that are None, and for caches that are None or empty.
        has_caches: as in `caller_state`.
        memories: as `caller_state` returned them.
        xl_memories: as `caller_state` returned them, or a plain sequence of full caches.

    Raises:
        UsageError: memories or caches have other types or shapes than such a model's for as many batch elements.
    """
    kept, caches = _parts(begun, has_caches)
    if memories is not None:
        kept = _copies("memories", memories, kept)
    if isinstance(xl_memories, Tensor) or xl_memories:  # a tensor alone is refused as no sequence
        caches = _caches(xl_memories, caches)
    return _filled(begun, has_caches, iter(kept), iter(caches))


class _Parts(NamedTuple):
    """A state's tensors, and apart from them its Transformer-XL caches."""

    kept: list[Tensor]
    caches: list[Hidden]


def _parts(state: Tree, has_caches: bool) -> _Parts:
    if isinstance(state, Tensor):
        return _Parts([state], [])
    if has_caches and isinstance(state, Hidden):
        return _Parts([], [state])
    whole = _Parts([], [])
    for branch in state:
        part = _parts(branch, has_caches)
        whole.kept.extend(part.kept)
        whole.caches.extend(part.caches)
    return whole


def _filled(
    state: Tree,
    has_caches: bool,
    kept: Iterator[Tensor],
    caches: Iterator[Hidden],
) -> Tree:
    """Return the same tree with other parts: the inverse of `_parts`."""
    if isinstance(state, Tensor):
        return next(kept)
    if has_caches and isinstance(state, Hidden):
        return next(caches)
    branches = [_filled(branch, has_caches, kept, caches) for branch in state]
    if hasattr(state, "_fields"):
        return type(state)(*branches)
    return tuple(branches)


def _xl_memories(caches: list[Hidden]) -> XLMemories | None:
    if not caches:
        return None
    layers = []
    for cache in caches:
        keys_values = cache.hidden_BND.unflatten(2, (2, -1))
        layer = keys_values.permute(2, 0, 1, 3)
        layers.append(layer)
    lengths_B = caches[0].count_B
    return XLMemories(tuple(layers), lengths_B)


def _caches(xl_memories: Sequence[Tensor], begun: list[Hidden]) -> list[Hidden]:
    """Return the caches of these XL memories: the inverse of `_xl_memories`. `begun` are a model's first caches."""
    expected = _xl_memories(begun) or ()
    layers = _copies("xl_memories", xl_memories, list(expected))
    first = layers[0]
    _, batch_size, places, _ = first.shape
    if isinstance(xl_memories, XLMemories):
        lengths_B = _checked_lengths(xl_memories.lengths, batch_size, places)
    else:
        lengths_B = torch.full((batch_size,), places, device=first.device)
    caches = []
    for layer in layers:
        keys_values = layer.permute(1, 2, 0, 3)
        cache = Hidden(keys_values.flatten(2), lengths_B)
        caches.append(cache)
    return caches


def _checked_lengths(lengths: Tensor, batch_size: int, places: int) -> Tensor:
    """Return a copy of an XL cache's lengths, or raise UsageError if they can't be."""
    needed = f"int64 ({batch_size},) from 0 to {places} are needed, as a call of this model returned them"
    is_tensor = isinstance(lengths, Tensor)
    if not (is_tensor and lengths.shape == (batch_size,) and lengths.dtype == torch.int64):
        raise UsageError(f"xl_memories have lengths {lengths}: {needed}")
    if torch.compiler.is_compiling():  # a graph can't branch on values
        return lengths.clone()
    wrong_B = (lengths < 0) | (lengths > places)
    if bool(wrong_B.any()):
        raise UsageError(f"xl_memories have lengths {lengths.tolist()}: {needed}")
    return lengths.clone()


def _copies(name: str, given: Tensor | Sequence[Tensor], expected: list[Tensor]) -> list[Tensor]:
    """Return copies of the tensors that a caller gave back; autograd can't save inference mode's tensors themselves.

    Raises:
        UsageError: they don't have the shapes of the expected tensors, or aren't tensors.
    """
    parts = list(given) if isinstance(given, Sequence) else [given]
    strangers: list[str] = []
    for part in parts:
        if not isinstance(part, Tensor):
            strangers.append(type(part).__name__)
    if strangers:
        others = ", ".join(strangers)
        raise UsageError(f"{name} has {others} in it: give what a call returned as its {name}, tensors")
    shapes = _shapes(parts)
    needed = _shapes(expected)
    if shapes != needed:
        raise UsageError(
            f"{name} of shapes {shapes} given, {needed} needed: give what a call of this model returned for as many "
            "sequences"
        )
    return [part.clone() for part in parts]


def _shapes(tensors: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]
