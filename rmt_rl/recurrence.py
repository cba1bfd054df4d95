"""The one model interface: a function from a segment and a state to outputs and the next state.

Dimensions in names: B batch elements, L tokens of a segment, T tokens of one step call, D width. Identifiers call a
batch element a lane.

States and caches are values: plain (named) tuples of tensors, each with the batch dimension first. Detaching, moving,
saving, and selecting or replacing batch elements are therefore written once, here, for every mechanism.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, cast

import torch
from torch import Tensor, nn

Tree = Tensor | tuple[Any, ...]
TreeT = TypeVar("TreeT", bound=Tree)
StateT = TypeVar("StateT", bound=Tree)
CacheT = TypeVar("CacheT", bound=Tree)


def tree_map(function: Callable[..., Tensor], tree: TreeT, *others: TreeT) -> TreeT:
    """Return the tree of `function(leaf, *leaves of the others at the same place)`; named tuples stay named tuples."""
    if isinstance(tree, Tensor):
        return cast("TreeT", function(tree, *others))
    parts = [tree_map(function, *branch) for branch in zip(tree, *others, strict=True)]
    return cast("TreeT", type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts))


def tree_leaves(tree: Tree) -> list[Tensor]:
    """Return all tensors of the tree, in order."""
    return [tree] if isinstance(tree, Tensor) else [leaf for part in tree for leaf in tree_leaves(part)]


def tree_fill(tree: TreeT, leaves: Iterable[Tensor]) -> TreeT:
    """Return the same tree with other tensors: the inverse of `tree_leaves`."""
    remaining = iter(leaves)
    return tree_map(lambda _: next(remaining), tree)


def detach(tree: TreeT) -> TreeT:
    """Return the tree, detached from the graph that computed it."""
    return tree_map(Tensor.detach, tree)


def clone(tree: TreeT) -> TreeT:
    """Return a copy of the tree, in which each tensor has its own memory."""
    return tree_map(lambda leaf: leaf.clone(memory_format=torch.contiguous_format), tree)


def select_lanes(tree: TreeT, lanes: Tensor) -> TreeT:
    """Return a tree of the batch elements with these indices (int64), as a copy."""
    return tree_map(lambda leaf: leaf.index_select(0, lanes), tree)


def put_lanes_(tree: TreeT, lanes: Tensor, values: TreeT) -> TreeT:
    """Write `values` into the batch elements with these indices (int64) of `tree`, in place."""
    return tree_map(lambda leaf, new: leaf.index_copy_(0, lanes, new.to(leaf.dtype)), tree, values)


def where_lanes(mask_B: Tensor, tree: TreeT, other: TreeT) -> TreeT:
    """Return the batch elements of `tree` if the bool mask is True, else those of `other`."""
    return tree_map(lambda a, b: torch.where(mask_B.view(-1, *[1] * (a.ndim - 1)), a, b), tree, other)


class SegmentRecurrent(nn.Module, ABC, Generic[StateT, CacheT]):
    """Anything with a memory: a map from one segment and a state to outputs and the next state.

        state = core.initial_state(batch_size)
        for x_BLD in segments:
            y_BLD, state = core(x_BLD, state)

    `begin, step ..., end` computes the same, a few tokens at a time, for acting. This base class runs the open segment
    anew at each step, which is correct for every causal mechanism but slow. A mechanism overrides all three methods
    with its own cache, and the contract tests check that the results are the same.

    `lengths_B` (int64) is the number of real tokens in each batch element. Real tokens come first. The padding behind
    them changes nothing: the outputs and next state of a batch element are those of its first `lengths_B` tokens alone.
    Outputs at padding are arbitrary. None means that all tokens are real.

    Attributes:
        width: D, the width of a token.
        causal: True if output i depends on no later token. If False (an encoder), `step` returns the outputs given the
            tokens so far, and `end` returns the right state all the same.
        lasting: True if the state can hold something over any number of segments; False if it is empty, or depends on
            a bounded number of segments.
    """

    width: int
    causal: ClassVar[bool] = True
    lasting: bool = True

    @abstractmethod
    def initial_state(self, batch_size: int) -> StateT:
        """Return the state before the first segment, for `batch_size` batch elements."""

    @abstractmethod
    def forward(self, x_BLD: Tensor, state: StateT, lengths_B: Tensor | None = None) -> tuple[Tensor, StateT]:
        """Run one segment and return the outputs (B, L, D) and the next state.

        Output i depends on the state and tokens 0 ... i.
        """

    def begin(self, state: StateT, batch_size: int, capacity: int) -> CacheT:
        """Open a segment of at most `capacity` tokens per batch element (padding of a step call needs room too).

        Return a cache that shares no memory with the state, because the cache will be overwritten.
        """
        leaf = next(self.parameters())
        tokens = leaf.new_zeros(batch_size, capacity, self.width)
        return cast("CacheT", OpenSegment(clone(state), tokens, leaf.new_zeros(batch_size, dtype=torch.long)))

    def step(self, x_BTD: Tensor, cache: CacheT, lengths_B: Tensor | None = None) -> tuple[Tensor, CacheT]:
        """Run T more tokens and return the outputs (B, T, D) and the next cache.

        Batch elements may stand at different places. The cache that was passed in may be overwritten: continue with the
        returned one.
        """
        state, tokens, count_B = cast("OpenSegment", cache)
        places_BT = consecutive_places(count_B, x_BTD.shape[1])
        tokens = put_tokens_(tokens.clone(), places_BT, x_BTD)
        y_BLD, _ = self(tokens, state, count_B + x_BTD.shape[1])
        y_BTD = take_tokens(y_BLD, places_BT)
        added = added_tokens(x_BTD.shape[1], lengths_B)
        return y_BTD, cast("CacheT", OpenSegment(state, tokens, count_B + added))

    def end(self, cache: CacheT) -> StateT:
        """Close the segment and return the next state."""
        state, tokens, count_B = cast("OpenSegment", cache)
        return cast("StateT", self(tokens, state, count_B)[1])

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        """Yield small instances, one for each variant, for the contract tests."""
        return iter(())


class Stack(SegmentRecurrent[tuple[Tree, ...], tuple[Tree, ...]]):
    """Layers one after the other. The state is the tuple of the layers' states."""

    def __init__(self, layers: Sequence[SegmentRecurrent[Any, Any]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.width = layers[0].width
        self.lasting = any(layer.lasting for layer in layers)

    def initial_state(self, batch_size: int) -> tuple[Tree, ...]:
        return tuple(layer.initial_state(batch_size) for layer in self._layers())

    def forward(
        self, x_BLD: Tensor, state: tuple[Tree, ...], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tree, ...]]:
        states = []
        for layer, layer_state in zip(self._layers(), state, strict=True):
            x_BLD, new = layer(x_BLD, layer_state, lengths_B)
            states.append(new)
        return x_BLD, tuple(states)

    def begin(self, state: tuple[Tree, ...], batch_size: int, capacity: int) -> tuple[Tree, ...]:
        return tuple(
            layer.begin(layer_state, batch_size, capacity)
            for layer, layer_state in zip(self._layers(), state, strict=True)
        )

    def step(
        self, x_BTD: Tensor, cache: tuple[Tree, ...], lengths_B: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tree, ...]]:
        caches = []
        for layer, layer_cache in zip(self._layers(), cache, strict=True):
            x_BTD, new = layer.step(x_BTD, layer_cache, lengths_B)
            caches.append(new)
        return x_BTD, tuple(caches)

    def end(self, cache: tuple[Tree, ...]) -> tuple[Tree, ...]:
        return tuple(layer.end(layer_cache) for layer, layer_cache in zip(self._layers(), cache, strict=True))

    def _layers(self) -> Iterator[SegmentRecurrent[Any, Any]]:
        return cast("Iterator[SegmentRecurrent[Any, Any]]", iter(self.layers))

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls([Pointwise(nn.Linear(width, width), width), Pointwise(nn.Tanh(), width)])


class Pointwise(SegmentRecurrent[tuple[()], tuple[()]]):
    """A core without memory that maps each token alone (a norm, an MLP)."""

    lasting = False

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module = module
        self.width = width

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, x_BLD: Tensor, state: tuple[()], lengths_B: Tensor | None = None) -> tuple[Tensor, tuple[()]]:
        return self.module(x_BLD), ()

    def begin(self, state: tuple[()], batch_size: int, capacity: int) -> tuple[()]:
        return ()

    def step(self, x_BTD: Tensor, cache: tuple[()], lengths_B: Tensor | None = None) -> tuple[Tensor, tuple[()]]:
        return self.module(x_BTD), ()

    def end(self, cache: tuple[()]) -> tuple[()]:
        return ()

    @classmethod
    def examples(cls, width: int) -> Iterator[Self]:
        yield cls(nn.LayerNorm(width), width)


class OpenSegment(NamedTuple):
    """The base class's cache: the state at the segment's start, the tokens since, and their number (B)."""

    state: Tree
    tokens_BLD: Tensor
    count_B: Tensor


def consecutive_places(first_B: Tensor, count: int) -> Tensor:
    """Return `count` consecutive places in each batch element, from its `first_B` on: int64 (B, count)."""
    return first_B[:, None] + torch.arange(count, device=first_B.device)


def is_free_to_ask(tensor: Tensor) -> bool:
    """Tell whether Python can read the tensor's values for nothing.

    A GPU would have to be waited for, a compiled graph can't depend on values, and fake tensors have none.
    """
    return type(tensor) is Tensor and tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def used_places(places_BT: Tensor, capacity: int) -> int:
    """Return the number of places, at most `capacity`, up to the last of `places_BT`; the capacity if asking costs."""
    if not places_BT.numel() or not is_free_to_ask(places_BT):
        return capacity
    return int(places_BT.max()) + 1


def added_tokens(length: int, lengths_B: Tensor | None) -> Tensor | int:
    """Return the number of real tokens among `length` new ones: all of them, or `lengths_B` (B,)."""
    return length if lengths_B is None else lengths_B


def joined(kept_BND: Tensor, count_B: Tensor, x_BLD: Tensor) -> Tensor:
    """Return each batch element's first `count_B` kept tokens, directly followed by its new ones.

    The result is (B, the largest count + L, D) on a CPU, (B, all kept places + L, D) elsewhere.
    """
    longest = used_places(count_B - 1, kept_BND.shape[1])
    if not longest:
        return x_BLD
    row = torch.cat((kept_BND[:, :longest].to(x_BLD.dtype), torch.zeros_like(x_BLD)), 1)
    return put_tokens_(row, consecutive_places(count_B, x_BLD.shape[1]), x_BLD)


def put_tokens_(tokens_BLx: Tensor, places_BT: Tensor, values_BTx: Tensor) -> Tensor:
    """Write token t of batch element b at place `places_BT[b, t]`, in place."""
    lanes = torch.arange(tokens_BLx.shape[0], device=tokens_BLx.device)[:, None]
    return tokens_BLx.index_put_((lanes, places_BT), values_BTx.to(tokens_BLx.dtype))


def take_tokens(tokens_BLx: Tensor, places_BT: Tensor) -> Tensor:
    """Return token `places_BT[b, t]` of each batch element b, for each t."""
    lanes = torch.arange(tokens_BLx.shape[0], device=tokens_BLx.device)[:, None]
    return tokens_BLx[lanes, places_BT]


def only_first(tokens_BLx: Tensor, count_B: Tensor) -> Tensor:
    """Return each batch element's first `count_B` tokens, then zeros, because a state must not depend on padding."""
    behind_BL = torch.arange(tokens_BLx.shape[1], device=count_B.device) >= count_B[:, None]
    return tokens_BLx.masked_fill(behind_BL.view(*behind_BL.shape, *[1] * (tokens_BLx.ndim - 2)), 0)
