"""The learner of token models: what it learns, carries and saves; its updates against updates by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor

from rmt_rl import RecurrentMemoryTransformerWrapper
from rmt_rl.errors import UsageError
from rmt_rl.language.model import RecurrentMemoryTransformer
from rmt_rl.recurrence import clone, detach, tree_leaves, where_lanes
from rmt_rl.runs.checkpoint import path_of, read_checkpoint_of
from rmt_rl.runs.options import Schedule
from rmt_rl.training.loop import Loop, never, no_report
from rmt_rl.training.tokens import (
    IGNORED,
    Right,
    TokenBatch,
    TokenFeed,
    TokenHeader,
    TokenLearner,
    TokenTraining,
    restore_model,
)

WORDS = ("a", "b", "c", "d", "what", "filler")
CUES = torch.tensor([0, 1, 2, 3])
WHAT, FILLER = 4, 5
SEGMENT, BATCH_SIZE = 5, 8
MODEL: dict[str, Any] = {
    "dim": 16,
    "depth": 1,
    "num_memory_tokens": 2,
    "seq_len": SEGMENT,
    "heads": 2,
    "dim_head": 8,
    "causal": False,
}


class Recall(TokenFeed):
    """A cue in the first segment, a question in the last. Streams read a cue once, and are asked in three updates."""

    batch_size = BATCH_SIZE

    def __init__(self, stream: bool = False) -> None:
        self.carries = stream
        self.outcomes: list[Right] = []
        self.asked = 0

    def batch(self, update: int) -> TokenBatch:
        life = 3 if self.carries else 1  # updates
        ages = [(update + index) % life for index in range(BATCH_SIZE)]
        begun = [[index, 3 + update - age] for index, age in enumerate(ages)]
        cues_B = torch.tensor([int(np.random.default_rng(each).integers(len(CUES))) for each in begun])
        fresh = torch.tensor(ages) == 0 if update else torch.ones(BATCH_SIZE, dtype=torch.bool)
        first = torch.full((BATCH_SIZE, SEGMENT), FILLER)
        last = first.clone()
        first[:, 1] = torch.where(fresh, cues_B, FILLER)
        last[:, -1] = WHAT
        labels_B1 = cues_B[:, None].clone()
        labels_B1[0] = IGNORED
        return TokenBatch((first, last), (labels_B1[:, :0], labels_B1), fresh, aside=True)

    def learn(self, update: int, outcome: Right) -> None:
        self.outcomes.append(outcome)
        self.asked += BATCH_SIZE

    def state(self) -> dict[str, JsonValue]:
        return {"asked": self.asked}

    def restore(self, state: Mapping[str, JsonValue], update: int) -> None:
        asked = state["asked"]
        assert isinstance(asked, int)
        self.asked = asked

    def measures(self) -> dict[str, float]:
        return {"data/asked": self.asked}


def training(updates: int, **changed: Any) -> TokenTraining:
    settings = {"updates": updates, "tokens": updates * 2 * SEGMENT * BATCH_SIZE, "learning_rate": 1e-2, "warmup": 2}
    return TokenTraining.model_validate(settings | changed)


def recall(updates: int, stream: bool = False, **options: Any) -> TokenLearner:
    return TokenLearner(MODEL | options, WORDS, Recall(stream), training(updates), CUES)


def run(learner: TokenLearner, folder: Path, report: Any = no_report, stop: Callable[[], bool] = never) -> TokenLearner:
    """Begin the run of a folder, or continue it."""
    loop = Loop(learner, folder, Schedule(log_every=3, save_every=4), origin={})
    path = path_of(folder)
    if path.exists():
        saved = read_checkpoint_of(TokenHeader, path)
        learner.start(saved)
        loop.restore(saved)
    else:
        learner.start()
    loop.run(report, stop)
    return learner


@pytest.mark.parametrize("stream", [False, True])
def test_learns_to_recall(stream: bool, tmp_path: Path) -> None:
    learner = run(recall(120, stream), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["train/accuracy"] < 0.6
    assert all(line["train/accuracy"] == 1 for line in lines[-4:])
    assert learner.made == 120
    model, batch = restore_model(read_checkpoint_of(TokenHeader, path_of(tmp_path))), Recall().batch(10**6)
    state = model.initial_state(BATCH_SIZE)
    with torch.no_grad():
        for segment in batch.segments:
            y_BLD, state = model.run(segment, state)
    answers = model.head(y_BLD[:, -1])[:, CUES].argmax(1)
    assert torch.equal(answers[1:], batch.labels[-1][1:, 0])


def test_metrics_add_up(tmp_path: Path) -> None:
    learner = run(recall(7), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [3, 6, 7]
    a_batch = 2 * SEGMENT * BATCH_SIZE
    assert [line["data/tokens"] for line in lines] == [3 * a_batch, 6 * a_batch, 7 * a_batch]
    seconds = [line["time/cpu_seconds"] for line in lines]
    assert 0 < seconds[0] < seconds[1] < seconds[2] == learner.cpu_seconds
    assert isinstance(learner.feed, Recall)
    right = [outcome[-1] for outcome in learner.feed.outcomes]
    assert all(not before.numel() for before, _ in learner.feed.outcomes)
    assert all(right_B1.shape == (BATCH_SIZE, 1) and not right_B1[0] for right_B1 in right)  # 0 isn't asked
    mean = torch.stack(right[:3]).float().sum() / (3 * (BATCH_SIZE - 1))
    assert lines[0]["train/accuracy"] == pytest.approx(float(mean))
    assert lines[0]["data/asked"] == pytest.approx(BATCH_SIZE * 2)  # the mean of 1, 2 and 3 batches
    rates = [line["train/learning_rate"] for line in lines]
    assert rates[0] == pytest.approx((0.5 + 1 + 1) / 3 * 1e-2)
    assert rates[-1] < rates[0]


def test_an_update_is_that_of_the_wrapper_on_next_tokens() -> None:
    """Next tokens as labels: the loss, the gradient and the weights are those of a plain update."""
    tokens_BN = torch.randint(0, len(WORDS), (4, 3 * SEGMENT + 1), generator=torch.Generator().manual_seed(1))
    words, following = tokens_BN[:, :-1], tokens_BN[:, 1:]

    class NextTokens(TokenFeed):
        batch_size = 4

        def batch(self, update: int) -> TokenBatch:
            fresh = torch.ones(4, dtype=torch.bool)
            return TokenBatch(words.split(SEGMENT, 1), following.split(SEGMENT, 1), fresh)

    options = MODEL | {"causal": True}
    learner = TokenLearner(options, WORDS, NextTokens(), training(5, warmup=0))
    learner.start()
    metrics = learner.advance()

    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(num_tokens=len(WORDS), **options)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, betas=(0.9, 0.95), fused=True)
    loss = RecurrentMemoryTransformerWrapper(model)(tokens_BN, return_loss=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    assert metrics["train/loss"] == pytest.approx(loss.item(), rel=1e-6)
    for ours, theirs in zip(learner.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_loss_is_that_of_the_labels_that_count() -> None:
    learner = recall(1)
    y_BLD = torch.randn(BATCH_SIZE, SEGMENT, 16)
    labels_BP = torch.tensor([[1, IGNORED], [2, 3], *[[IGNORED, IGNORED]] * 6])
    loss, right_BP = learner.loss(y_BLD, labels_BP)
    logits_BPA = learner.model.head(y_BLD[:, -2:])[:, :, CUES]
    expected = [
        F.cross_entropy(logits_BPA[index, place], labels_BP[index, place]) for index, place in ((0, 0), (1, 0), (1, 1))
    ]
    assert loss.item() == pytest.approx(torch.stack(expected).sum().item(), rel=1e-6)
    assert torch.equal(right_BP, logits_BPA.argmax(2) == labels_BP)


@pytest.mark.parametrize("aside", [True, False])
def test_the_carried_state_is_that_before_a_question_on_the_side(aside: bool) -> None:
    learner = recall(5, stream=True)
    learner.start()
    learner.advance()
    batch = learner.feed.batch(1)._replace(aside=aside)
    fresh = learner.model.initial_state(BATCH_SIZE)
    state = where_lanes(batch.fresh, fresh, clone(learner.carried))
    with torch.no_grad():
        for segment in batch.segments[: 1 if aside else 2]:
            _, state = learner.model.run(segment, state)
    learner.feed.batch = lambda update: batch  # type: ignore[method-assign]
    learner.advance()
    for ours, theirs in zip(tree_leaves(learner.carried), tree_leaves(state), strict=True):
        assert not ours.requires_grad
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("update", [0, 5, 8])
def test_stopped_and_resumed_is_as_if_never_stopped(update: int, stream: bool, tmp_path: Path) -> None:
    """With dropout, whose random numbers follow from (seed, update) too."""
    whole = run(recall(10, stream, dropout=0.2), tmp_path / "whole")
    made: list[int] = []
    run(
        recall(10, stream, dropout=0.2),
        tmp_path / "stopped",
        lambda n, _: made.append(n),
        lambda: len(made) == update,
    )
    assert read_checkpoint_of(TokenHeader, path_of(tmp_path / "stopped")).header.update == update
    again = run(recall(10, stream, dropout=0.2), tmp_path / "stopped")
    assert again.tokens == whole.tokens
    assert again.feed.measures() == whole.feed.measures()
    ours, theirs = (read_checkpoint_of(TokenHeader, path_of(tmp_path / name)) for name in ("whole", "stopped"))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())
    assert any(name.startswith("state/") for name in ours.tensors) == stream


def test_the_model_is_made_again_from_its_checkpoint_alone(tmp_path: Path) -> None:
    learner = run(recall(3), tmp_path)
    saved = read_checkpoint_of(TokenHeader, path_of(tmp_path))
    assert saved.header.vocabulary == WORDS
    model, batch = restore_model(saved), Recall().batch(0)
    state = detach(model.initial_state(BATCH_SIZE))
    assert not model.training
    learner.model.eval()
    ours, theirs = (each.run(batch.segments[0], state)[0] for each in (learner.model, model))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": MODEL | {"dim": "wide"}}, "can't be used"),
        ({"options": MODEL | {"width": 16}}, "can't be used: .*width"),
        ({"options": MODEL | {"heads": 0}}, "can't be used: .*heads=0"),
        ({"options": MODEL | {"dim": 24}}, "can't be used: .*size mismatch"),
        ({"options": {}}, "can't be used: .*dim"),
        ({"vocabulary": WORDS[:-1]}, "can't be used: .*size mismatch"),
    ],
    ids=str,
)
def test_a_header_that_fits_no_model_is_an_error(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    run(recall(1), tmp_path)
    saved = read_checkpoint_of(TokenHeader, path_of(tmp_path))
    other = type(saved)(saved.path, saved.header.model_copy(update=change), saved.tensors)
    with pytest.raises(UsageError, match=message):
        restore_model(other)


def test_resuming_needs_the_same_model_and_the_feed_of_the_checkpoint(tmp_path: Path) -> None:
    run(recall(1), tmp_path)
    saved = read_checkpoint_of(TokenHeader, path_of(tmp_path))
    with pytest.raises(UsageError, match="is of another model"):
        recall(2, depth=2).start(saved)
    with pytest.raises(UsageError, match="is of another model"):
        TokenLearner(MODEL, WORDS[::-1], Recall(), training(2), CUES).start(saved)
    with pytest.raises(UsageError, match="holds states of other shapes"):
        recall(2, stream=True).start(saved)


def test_a_diverged_run_is_an_error_that_names_the_update_and_the_remedy(tmp_path: Path) -> None:
    learner = recall(9)

    def poison(made: int, _: object) -> None:
        if made == 5:
            with torch.no_grad():
                learner.model.embed.weight.fill_(torch.nan)

    message = r"the loss is nan \(gradient norm nan\) at update 6; the last good checkpoint is .*Try a lower --learning"
    with pytest.raises(UsageError, match=message):
        run(learner, tmp_path, poison)
    assert read_checkpoint_of(TokenHeader, path_of(tmp_path)).header.update == 4


def test_a_gradient_that_is_infinite_alone_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, loss = recall(2), TokenLearner.loss

    def steep(self: TokenLearner, y_BLD: Tensor, labels_BP: Tensor) -> tuple[Tensor, Tensor]:
        value, right_BP = loss(self, y_BLD, labels_BP)
        slope = torch.sqrt((y_BLD * 0).abs().sum())  # 0, with an infinite gradient
        return value + slope, right_BP

    monkeypatch.setattr(TokenLearner, "loss", steep)
    with pytest.raises(UsageError, match=r"gradient norm (nan|inf)\) at update 1; no checkpoint had been saved yet"):
        run(learner, tmp_path)
