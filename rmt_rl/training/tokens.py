"""Language learning: trains a token model on segments of token sequences until a budget of tokens is read.

A feed gives segments and their labels, e.g. next tokens, or answers to questions. The state of a sequence may be
carried from update to update, so that its memory grows older than a gradient reaches.

Everything random follows from (seed, update), so a resumed run makes the same weights as one that was never
interrupted: bit for bit on the CPU.

Dimensions: B sequences of a batch, L tokens of a segment, P labels of a segment, D width, A answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field, JsonValue
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rmt_rl import backprop
from rmt_rl.config import SEED_LIMIT, SavedState, validated
from rmt_rl.data.feed import Feed
from rmt_rl.errors import UsageError
from rmt_rl.language.model import RecurrentMemoryTransformer
from rmt_rl.recurrence import Tree, clone, detach, where_lanes
from rmt_rl.runs.checkpoint import Checkpoint, Header, about, restore_optimizer, restore_state
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.runs.metrics import Metrics
from rmt_rl.runs.options import LearningRateConfig
from rmt_rl.training.learner import Resumable
from rmt_rl.training.measures import check_finite
from rmt_rl.training.optimization import learning_rate, make_step, seed_of
from rmt_rl.training.parallel import Processes

IGNORED = -1  # a label that counts nothing

Right: TypeAlias = tuple[Tensor, ...]
"""For each segment of a batch, bool (B, P): which labels were predicted; False for IGNORED."""


class TokenBatch(NamedTuple):
    """Consecutive segments of sequences, and what to predict in them.

    Attributes:
        segments: ids, int64 (B, L) each.
        labels: for each segment, int64 (B, P): what its last P tokens predict, as ids or as indices of the learner's
            answers; or IGNORED. P may be 0.
        fresh: bool (B,), True for sequences that begin with this batch. The others go on from the carried state.
        aside: the last segment is read on the side: the state before it is carried. A question that ends it thus isn't
            part of the sequence.
    """

    segments: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    fresh: Tensor
    aside: bool = False

    @property
    def tokens(self) -> int:
        """The number of tokens in all segments."""
        return sum(segment.numel() for segment in self.segments)

    @property
    def counted(self) -> Tensor:
        """The number of labels that count, at least 1."""
        counts = torch.cat(self.labels, 1) != IGNORED
        return counts.sum().clamp(min=1)


class TokenFeed(Feed[TokenBatch, Right]):
    """Draws the batches of a token model's training.

    Attributes:
        batch_size: B, the same for every batch.
    """

    batch_size: int


class TokenTraining(LearningRateConfig):
    """Options of a token model's training."""

    seed: int = Field(0, ge=0, lt=SEED_LIMIT, description="seed of the model's first weights and of dropout")
    tokens: int = Field(ge=1, description="tokens to train on: the budget, and the learning rate's clock")
    updates: int = Field(10_000, ge=1, description="equal parts of the budget, in which warm-up is counted")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's shares of the old in its running means")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")


class TokenHeader(Header):
    """The header of a token model's checkpoint."""

    options: dict[str, Any]  # of `RecurrentMemoryTransformer`, which checks them; all but num_tokens
    vocabulary: tuple[str, ...]  # words by their ids


class TokenProgress(SavedState):
    """The learner's part of a checkpoint's progress, besides tensors and the feed's own state."""

    tokens: int = Field(ge=0)  # read so far
    cpu_seconds: float = Field(ge=0)  # spent on updates so far


class TokenLearner:
    """Trains a token model, one batch an update, the state carried from segment to segment.

    Args:
        options: keyword arguments of `RecurrentMemoryTransformer`, all but num_tokens.
        vocabulary: the words, by their ids.
        feed: draws the batches.
        config: the course of the training.
        answers: ids (A,) that labels choose from, so that these alone compete; None: labels are ids.
    """

    remedy: ClassVar[str] = "Try a lower --learning-rate"

    def __init__(
        self,
        options: Mapping[str, Any],
        vocabulary: Sequence[str],
        feed: TokenFeed,
        config: TokenTraining,
        answers: Tensor | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.options = dict(options)
        self.vocabulary = tuple(vocabulary)
        self.model = _new_model(options, vocabulary)
        self.feed = feed
        self.config = config
        self.answers = answers
        self.processes = Processes()
        self.carried: Tree = ()  # states of sequences that go on in the next update
        self.made = 0
        self.tokens = 0  # read so far
        self.cpu_seconds = 0.0  # spent on updates so far

    @property
    def done(self) -> bool:
        return self.tokens >= self.config.tokens

    # One update

    def advance(self) -> Metrics:
        """Draw a batch, backpropagate through its segments, and make one step of the optimiser."""
        began = time.process_time()
        config = self.config
        clock = config.updates * self.tokens // config.tokens
        rate = learning_rate(config, clock)
        update = self.made
        torch.manual_seed(seed_of(config.seed, update))
        batch = self.feed.batch(update)
        counted = batch.counted
        last = len(batch.segments) - 1
        right: list[Tensor] = []

        def step(index: int, state: Tree) -> tuple[Tensor, Tree]:
            ids, labels = batch.segments[index], batch.labels[index]
            y_BLD, following = self.model.run(ids, state)
            loss, right_BP = self.loss(y_BLD, labels)
            right.append(right_BP)
            on_the_side = batch.aside and index == last
            return loss / counted, state if on_the_side else following

        self.model.train()
        self.optimizer.zero_grad()
        state = self.model.initial_state(len(batch.fresh))
        if self.feed.carries:
            state = where_lanes(batch.fresh, state, self.carried)
        loss, state = backprop.full(step, last + 1, state, Tensor.backward)
        norm = self._descend(loss, rate)
        if self.feed.carries:
            self.carried = clone(state)
        self.feed.learn(update, tuple(right))
        self.made += 1
        self.tokens += batch.tokens
        self.cpu_seconds += time.process_time() - began
        accuracy = torch.cat(right, 1).sum() / counted
        return {
            "train/loss": float(loss),
            "train/accuracy": float(accuracy),
            "train/learning_rate": rate,
            "train/gradient_norm": float(norm),
            **self.feed.measures(),
        }

    def check(self, update: int, metrics: Metrics) -> None:
        """There is nothing to check, because `advance` looks at the loss and the gradient."""

    def _descend(self, loss: Tensor, rate: float) -> Tensor:
        """Make one step of the optimiser; return the norm of the gradient before clipping."""
        parameters = self.model.parameters()
        norm = clip_grad_norm_(parameters, self.config.clip)
        check_finite(self.made + 1, float(loss), float(norm))
        make_step(self.optimizer, rate)
        return norm

    def loss(self, y_BLD: Tensor, labels_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the labels' cross entropies, in nats, and which labels were predicted, bool (B, P)."""
        labelled = labels_BP.shape[1]
        if not labelled:
            no_loss = y_BLD.new_zeros(())
            return no_loss, torch.zeros_like(labels_BP, dtype=torch.bool)
        labels = labels_BP.flatten()
        y_BPD = y_BLD[:, -labelled:]
        y_ND = y_BPD.flatten(0, 1)
        logits = self.model.head(y_ND)
        if self.answers is not None:
            logits = logits[:, self.answers]
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        right = logits.argmax(1) == labels
        right_BP = right.view_as(labels_BP)
        return loss, right_BP

    # Before, between and after updates

    def start(self, saved: Checkpoint[TokenHeader] | None = None) -> None:
        config = self.config
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.learning_rate,
            betas=config.betas,
            fused=True,
        )
        if self.feed.carries:
            state = self.model.initial_state(self.feed.batch_size)
            self.carried = detach(state)
        if saved is not None:
            self._restore(saved)

    def _restore(self, saved: Checkpoint[TokenHeader]) -> None:
        header = saved.header
        same_words = header.vocabulary == self.vocabulary
        if header.options != self.options or not same_words:
            raise UsageError(f"checkpoint {saved.path} is of another model; resume with the options it was made with")
        progress = validated(TokenProgress, header.progress)
        restore_weights(saved, self.model)
        restore_optimizer(saved, self.optimizer)
        self.carried = restore_state(saved, self.carried)
        self.made = header.update
        self.tokens = progress.tokens
        self.cpu_seconds = progress.cpu_seconds
        self.feed.restore(header.progress, self.made)

    def totals(self) -> Metrics:
        return {"data/tokens": self.tokens, "time/cpu_seconds": self.cpu_seconds}

    def header(self, progress: dict[str, JsonValue]) -> TokenHeader:
        return TokenHeader(
            update=self.made,
            progress=progress,
            options=self.options,
            vocabulary=self.vocabulary,
        )

    def progress(self) -> dict[str, JsonValue]:
        learner = TokenProgress(tokens=self.tokens, cpu_seconds=self.cpu_seconds)
        return learner.model_dump() | self.feed.state()

    def resumable(self) -> Resumable:
        return Resumable(self.optimizer, self.carried)

    def confirm(self) -> None:
        """There is nothing to note."""

    def remarks(self, evaluation: Evaluation | None) -> list[str]:
        remark = self.feed.unreached()
        return [remark] if remark else []

    def close(self) -> None:
        """There is nothing to release."""


def restore_model(saved: Checkpoint[TokenHeader]) -> RecurrentMemoryTransformer:
    """Return the model that a checkpoint holds, ready to be evaluated.

    Raises:
        UsageError: the checkpoint's options or weights fit no model.
    """
    header = saved.header
    with about(saved.path):
        model = _new_model(header.options, header.vocabulary)
    restore_weights(saved, model)
    return model.eval()


def restore_weights(saved: Checkpoint[TokenHeader], model: RecurrentMemoryTransformer) -> None:
    """Give a model the weights of a checkpoint.

    Raises:
        UsageError: the weights are of a model of other sizes, or aren't finite.
    """
    with about(saved.path):
        weights = saved.group("model")
        model.load_state_dict(weights)


def _new_model(options: Mapping[str, Any], vocabulary: Sequence[str]) -> RecurrentMemoryTransformer:
    return RecurrentMemoryTransformer(num_tokens=len(vocabulary), **options)
