"""Generation by a token model, a token at a time, each from its segment's cached keys and values.

Prompts of different lengths share a batch. Their real tokens are moved to the front, so batch elements stand at
different places of their segments, and each closes its segments on its own.

Dimensions: B batch elements, N tokens of the longest prompt, T tokens fed at once, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.language.checks import check_mask
from rmt_rl.language.model import Output, RecurrentMemoryTransformer, real_tokens_first
from rmt_rl.language.state import Memories
from rmt_rl.recurrence import Tree, clone, detach, put_lanes_, select_lanes, take_tokens, where_lanes

Counts = NDArray[np.int64]


class GenerationOptions(TypedDict, total=False):
    """Options of `RecurrentMemoryTransformerWrapper.generate`, which documents them."""

    mask: Tensor | None
    memories: Memories | None
    xl_memories: Sequence[Tensor] | None
    temperature: float
    top_k: int | None
    generator: torch.Generator | None


class Prompts(NamedTuple):
    """Prompts of a batch.

    Attributes:
        tokens: ids (B, N) or embeddings (B, N, D), the real tokens of each prompt first.
        lengths: how many real tokens each prompt has, 1 or more.
    """

    tokens: Tensor
    lengths: Counts

    def last(self) -> Tensor:
        """Return the last real token of each prompt: ids (B, 1) or embeddings (B, 1, D)."""
        last_B = torch.as_tensor(self.lengths - 1, device=self.tokens.device)
        return take_tokens(self.tokens, last_B[:, None])


def generate(
    model: RecurrentMemoryTransformer,
    prime: Tensor,
    length: int,
    *,
    mask: Tensor | None = None,
    memories: Memories | None = None,
    xl_memories: Sequence[Tensor] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    return_state: bool = False,
) -> Output | Tensor:
    """Go on with sequences: the body of `RecurrentMemoryTransformerWrapper.generate`, see there."""
    prompts = _prompts(prime, mask)
    model.check_tokens(prompts.tokens)
    _check(model, prime, length, temperature, top_k)
    draw = partial(drawn_token, temperature=temperature, top_k=top_k, generator=generator)
    batch_size = len(prime)
    with evaluating(model):
        state = model.state(batch_size, memories, xl_memories)
        stepping = Stepping(model, state, batch_size)
        stepping.read(prompts.tokens, prompts.lengths - 1)
        last = prompts.last()
        new = [prime.new_zeros(batch_size, 0, dtype=torch.long)]
        for _ in range(length - prime.shape[1]):
            y_B1D = stepping.feed(last)
            logits_BV = model.head(y_B1D[:, -1])
            last = draw(logits_BV)
            new.append(last)
        tokens = torch.cat(new, 1)
        return model.output(tokens, stepping.state()) if return_state else tokens


def _prompts(prime: Tensor, mask: Tensor | None) -> Prompts:
    """Return the prompts with their real tokens in front.

    Raises:
        UsageError: the mask doesn't fit, or leaves a prompt without a token.
    """
    if mask is None:
        batch_size, length, *_ = prime.shape if prime.dim() > 1 else (0, 0)
        return Prompts(prime, np.full(batch_size, length))
    check_mask(mask, prime)
    mask = mask.to(prime.device)
    lengths = mask.sum(1).numpy(force=True)
    empty = np.flatnonzero(lengths == 0).tolist()
    if empty:
        raise UsageError(
            f"mask has no real token (True) in batch elements {empty}: each prompt needs one or more, such as a token "
            "that begins a text"
        )
    order = real_tokens_first(mask)
    padding = ~take_tokens(mask, order)
    tokens = take_tokens(prime, order)
    behind = padding.view(*padding.shape, *[1] * (tokens.dim() - 2))
    tokens = tokens.masked_fill(behind, 0)  # an id out of the vocabulary or a NaN may stand for padding
    return Prompts(tokens, lengths)


def _check(
    model: RecurrentMemoryTransformer, prime: Tensor, length: int, temperature: float, top_k: int | None
) -> None:
    if not model.causal or not 1 <= prime.shape[1] <= length:
        raise UsageError(
            f"can't generate {length} tokens with causal={model.causal} from {prime.shape[1]}: the model must be "
            "causal, and length at least that of prime, which has a token or more"
        )
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k={top_k} must be 1 or more, or None to draw from all tokens")
    if not temperature >= 0:
        raise UsageError(f"temperature={temperature} must be 0 or more; 0 takes the likeliest token")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, and each of its modules back into its own mode in the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Stepping:
    """Sequences that are first read, then fed a token at a time, each from segment to segment.

    Args:
        model: the token model.
        state: the core's state before the sequences.
        batch_size: B.
    """

    def __init__(self, model: RecurrentMemoryTransformer, state: Tree, batch_size: int) -> None:
        self.model = model
        self.begun = state
        self.cache = self._opened(state, batch_size)
        self.places = np.zeros(batch_size, np.int64)  # tokens since the segment's start, of each batch element

    def read(self, tokens: Tensor, lengths: Counts) -> None:
        """Read the first `lengths` tokens of each batch element, before any is fed: ids (B, N) or floats (B, N, D)."""
        seq_len = self.model.seq_len
        for start in range(0, int(lengths.max(initial=0)), seq_len):
            counts = np.minimum(lengths - start, seq_len)
            reading = counts > 0
            self._close_full_segments(reading)
            longest = int(counts.max())
            part = tokens[:, start : start + longest]
            self._read_part(part, counts, reading)

    def _read_part(self, part: Tensor, counts: Counts, reading: NDArray[np.bool_]) -> None:
        """Read the first `counts` tokens of a segment in the batch elements that are reading."""
        core = self.model.core
        x_BTD = self.model.embedded(part)
        self.places = np.where(reading, counts, self.places)
        if (counts == part.shape[1]).all():
            _, self.cache = core.step(x_BTD, self.cache)
            return
        lengths_B = torch.as_tensor(counts, device=part.device)
        if reading.all():
            _, self.cache = core.step(x_BTD, self.cache, lengths_B)
            return
        indices = self._indices(reading)
        some = select_lanes(self.cache, indices)
        _, some = core.step(x_BTD[indices], some, lengths_B[indices])
        self.cache = put_lanes_(self.cache, indices, some)

    def feed(self, tokens: Tensor) -> Tensor:
        """Feed a token, ids (B, 1) or embeddings (B, 1, D); return the core's outputs (B, 1, D)."""
        every = np.ones(len(self.places), np.bool_)
        self._close_full_segments(every)
        place_B = torch.as_tensor(self.places, device=tokens.device)
        x_B1D = self.model.embedded(tokens, place_B)
        y_B1D, self.cache = self.model.core.step(x_B1D, self.cache)
        self.places = self.places + 1
        return y_B1D

    def _close_full_segments(self, going_on: NDArray[np.bool_]) -> None:
        """Open the next segment of those of these batch elements whose segment is full."""
        full = going_on & (self.places == self.model.seq_len)
        if not full.any():
            return
        self.places = np.where(full, 0, self.places)
        if full.all():
            self.cache = self._opened(self._ended(self.cache), len(full))
            return
        indices = self._indices(full)
        state = self._ended(select_lanes(self.cache, indices))
        self.cache = put_lanes_(self.cache, indices, self._opened(state, len(indices)))

    def state(self) -> Tree:
        """Return the core's state as if all segments ended after the tokens fed so far."""
        begun = clone(detach(self.begun))
        inside = self.places > 0
        if not inside.any():
            return begun
        ended = self._ended(self.cache)
        if inside.all():
            return ended
        inside_B = torch.as_tensor(inside, device=self._device())
        return where_lanes(inside_B, ended, begun)

    def _opened(self, state: Tree, batch_size: int) -> Tree:
        return cast("Tree", self.model.core.begin(state, batch_size, self.model.seq_len))

    def _ended(self, cache: Tree) -> Tree:
        return cast("Tree", self.model.core.end(cache))

    def _indices(self, chosen: NDArray[np.bool_]) -> Tensor:
        return torch.as_tensor(np.flatnonzero(chosen), device=self._device())

    def _device(self) -> torch.device:
        return self.model.embed.weight.device


def drawn_token(
    logits_BV: Tensor,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Return a token (B, 1) drawn from these logits; at temperature 0 the likeliest one."""
    if temperature == 0:
        return logits_BV.argmax(1, keepdim=True)
    if top_k is not None:
        count = min(top_k, logits_BV.shape[1])
        least_B1 = logits_BV.topk(count).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    probabilities_BV = (logits_BV / temperature).softmax(1)
    return probabilities_BV.multinomial(1, generator=generator)
