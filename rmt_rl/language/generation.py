"""Generation by a token model, a token at a time, each from its segment's cached keys and values.

Dimensions: B batch elements, T tokens fed at once, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypedDict, cast

import torch
from torch import Tensor, nn

from rmt_rl.errors import UsageError
from rmt_rl.language.model import Output, RecurrentMemoryTransformer
from rmt_rl.language.state import Memories
from rmt_rl.recurrence import Tree, clone, detach


class GenerationOptions(TypedDict, total=False):
    """Options of `RecurrentMemoryTransformerWrapper.generate`, which documents them."""

    memories: Memories | None
    xl_memories: Sequence[Tensor] | None
    temperature: float
    top_k: int | None
    generator: torch.Generator | None


def generate(
    model: RecurrentMemoryTransformer,
    prime: Tensor,
    length: int,
    *,
    memories: Memories | None = None,
    xl_memories: Sequence[Tensor] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    return_state: bool = False,
) -> Output | Tensor:
    """Go on with sequences: the body of `RecurrentMemoryTransformerWrapper.generate`, see there."""
    _check(model, prime, length, temperature, top_k)
    draw = partial(drawn_token, temperature=temperature, top_k=top_k, generator=generator)
    batch_size = len(prime)
    with evaluating(model):
        state = model.state(batch_size, memories, xl_memories)
        stepping = Stepping(model, state, batch_size)
        stepping.feed(prime[:, :-1])
        last = prime[:, -1:]
        new = [prime.new_zeros(batch_size, 0, dtype=torch.long)]
        for _ in range(length - prime.shape[1]):
            y_BTD = stepping.feed(last)
            logits_BV = model.head(y_BTD[:, -1])
            last = draw(logits_BV)
            new.append(last)
        tokens = torch.cat(new, 1)
        return model.output(tokens, stepping.state()) if return_state else tokens


def _check(
    model: RecurrentMemoryTransformer, prime: Tensor, length: int, temperature: float, top_k: int | None
) -> None:
    model.check_tokens(prime)
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
    """A sequence that is fed a few tokens at a time, from segment to segment.

    Args:
        model: the token model.
        state: the core's state before the sequence.
        batch_size: B.
    """

    def __init__(self, model: RecurrentMemoryTransformer, state: Tree, batch_size: int) -> None:
        self.model = model
        self.batch_size = batch_size
        self._begin(state)

    def _begin(self, state: Tree) -> None:
        """Open a segment."""
        model = self.model
        self.begun = state
        self.place = 0
        self.cache = model.core.begin(state, self.batch_size, model.seq_len)

    def feed(self, tokens: Tensor) -> Tensor:
        """Feed ids (B, T) or embeddings (B, T, D).

        Returns:
            The core's outputs of those tokens that are in the last segment; without tokens, an empty tensor.
        """
        model = self.model
        y_BTD = torch.empty(0)
        while tokens.shape[1]:
            if self.place == model.seq_len:
                self._begin(self.state())
            room = model.seq_len - self.place
            part, tokens = tokens.tensor_split([room], 1)
            x_BTD = model.embedded(part, self.place)
            y_BTD, self.cache = model.core.step(x_BTD, self.cache)
            self.place += part.shape[1]
        return y_BTD

    def state(self) -> Tree:
        """Return the core's state as if the segment ended after the tokens fed so far."""
        if not self.place:
            return clone(detach(self.begun))
        return cast("Tree", self.model.core.end(self.cache))


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
