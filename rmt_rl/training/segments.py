"""Offline learning from segments of data sets: one learner for every agent, core and gradient.

Everything random follows from (seed, update), so a run resumed from its last checkpoint makes the same weights as
one that was never interrupted: bit for bit on the CPU, which is what tests check. Some CUDA kernels aren't
deterministic: there two runs of one seed may differ by rounding, interrupted or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from rmt_rl import backprop
from rmt_rl.acting.provenance import dataset_ids
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.config import SavedState, validated
from rmt_rl.data.curriculum import Curriculum, CurriculumFeed
from rmt_rl.data.feed import FeedConfig, Outcome, SegmentFeed, make_feed
from rmt_rl.data.segment import Batch, Segment
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import Tree, clone, detach, tree_leaves, where_lanes
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs.checkpoint import (
    AgentHeader,
    Checkpoint,
    agent_header,
    restore_agent,
    restore_optimizer,
    restore_state,
)
from rmt_rl.runs.metrics import Metrics
from rmt_rl.runs.options import CONFIG, OfflineRun, TrainingConfig
from rmt_rl.training.ageing import Ageing, kept_state
from rmt_rl.training.datasets import check_spaces, large_actions, open_data
from rmt_rl.training.learner import Diverged, Resumable
from rmt_rl.training.optimization import decay_groups, learning_rate
from rmt_rl.training.parallel import FabricProcesses

Step = Callable[[int, Tree], tuple[Tensor, Tree]]
Backpropagate = Callable[[Step, int, Tree], tuple[Tensor, Tree]]
"""Called with a segment's step, the number of segments and the first state; returns the loss and the last state."""


class SegmentLearner:
    """Trains an agent on segments, one batch an update, the state carried from segment to segment.

    Data parallel training runs a learner in each of several processes. What they log and save is the whole batch's.

    Args:
        config: the run.
        saved: the checkpoint to resume from, which gives the agent; None begins with a new agent.

    Raises:
        UsageError: the data don't fit, or the device can't do what an option asks for.
    """

    Run = OfflineRun
    remedy: ClassVar[str] = (
        "Try a lower --learning-rate, a smaller --clip, a longer --warmup, or --precision 32-true; and look for huge "
        "numbers in the data"
    )

    def __init__(self, config: OfflineRun, saved: Checkpoint[AgentHeader] | None = None) -> None:
        self.config = config
        self.store = store = open_data(config)
        self.model = _restored(config, saved, store) if saved else new_agent(config, store)
        self.processes = FabricProcesses(config.training, config.data.batch_size)
        self.feed = _feed(config, store)
        self.ageing = Ageing(config, store, self.model, self.processes)
        self.backpropagate = _backpropagation(config.training, self.processes)
        self.carried: Tree = ()  # states of batch elements that go on in the next update
        self.made = 0

    @staticmethod
    def origin(config: OfflineRun) -> dict[str, JsonValue]:
        """Return what must be the same when the run is resumed."""
        return {
            "seed": config.seed,
            "agent": config.agent,
            "env": config.env,
            "env_options": config.env_options.model_dump(mode="json"),
            "dataset": list(dataset_ids(config)),  # an id of ours covers the environment's source too
        }

    @property
    def done(self) -> bool:
        return self.made >= self.config.length

    def advance(self) -> Metrics:
        """Draw a batch, backpropagate through its segments, and make one step of the optimiser."""
        began = time.perf_counter()
        rate = learning_rate(self.config.training, self.made)
        torch.manual_seed(_seed(self.config.seed, self.made, self.processes.rank))
        whole = self.feed.batch(self.made)
        measured = self.feed.measures()
        batch = self.processes.own(whole)
        fillers = self.ageing.fillers(self.made, len(batch.segments))
        counts = Counts(self.processes.device)
        aged: Tree = ()  # the memories behind the first segment and the filler segments

        def step(index: int, state: Tree) -> tuple[Tensor, Tree]:
            nonlocal aged
            loss, state = self.step(batch, counts, index, state)
            if index == 0 and fillers is not None:
                state = aged = self.ageing.aged(state, fillers, self.run_segments)
            return loss, state

        self.model.train()
        self.optimizer.zero_grad()
        loss, state = self.backpropagate(step, len(batch.segments), self.initial_state(batch))
        of_kept = self.learn_from_kept(fillers or ())
        loss = self.processes.sum(loss)
        norm = self.processes.clip_gradient(self.model.parameters(), self.config.training.clip)
        _check_finite(self.made + 1, loss, norm, of_kept)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.feed.carries:
            self.carried = clone(state)
        if fillers is not None:
            self.ageing.keep(self.made, batch, len(fillers), aged)
        self.made += 1
        right, right_decisive, decisive = self.processes.sum(counts.values).tolist()
        accuracy = right / batch.steps
        decisive_accuracy = right_decisive / decisive if decisive else None
        declared = batch.segments[0].decisive is not None
        learnt = decisive_accuracy if declared else accuracy
        if learnt is not None:
            self.feed.learn(self.made - 1, Outcome(len(batch.segments), learnt))
        computed_steps = sum(segment.returns_to_go.numel() for segment in whole.segments)
        known = {} if decisive_accuracy is None else {"train/decisive_accuracy": decisive_accuracy}
        return known | {
            "train/loss": float(loss),
            "train/accuracy": accuracy,
            "train/learning_rate": rate,
            "train/gradient_norm": float(norm),
            "train/state_norm": math.sqrt(self.processes.mean(_mean_square(state, self.processes.device))),
            "data/segments": len(batch.segments),
            "data/padding": 1 - batch.steps / computed_steps,
            **measured,
            "time/steps_per_second": batch.steps / (time.perf_counter() - began),
            **of_kept,
        }

    def step(self, batch: Batch, counts: Counts, index: int, state: Tree) -> tuple[Tensor, Tree]:
        """Return a segment's share of the batch's mean loss per real step, and the next state."""
        segment = batch.segments[index]
        logits, state = self.forward(segment, state)
        loss, right = self.model.losses(logits, segment, self.config.training.hindsight)
        if torch.is_grad_enabled():  # replay runs each segment a first time without gradients
            counts.add(segment, right)
        return loss.sum() / batch.steps, state

    def learn_from_kept(self, fillers: tuple[Segment, ...]) -> Metrics:
        """Age the kept memories further, and backpropagate the loss of the segments behind them."""
        kept = self.ageing.age_kept(fillers, self.run_segments)
        if kept is None:
            return {}
        counts = Counts(self.processes.device)

        def step(index: int, state: Tree) -> tuple[Tensor, Tree]:
            return self.step(kept.batch, counts, index + 1, state)

        loss, _ = self.backpropagate(step, len(kept.batch.segments) - 1, kept.state)
        _, right, decisive = self.processes.sum(counts.values).tolist()
        known = {"train/aged_decisive_accuracy": right / decisive} if decisive else {}
        return {"train/aged_loss": float(self.processes.sum(loss)), "data/age": kept.age, **known}

    def initial_state(self, batch: Batch) -> Tree:
        """Return the state before a batch: fresh, carried from the last update, or computed by burn-in."""
        fresh: Tree = self.model.initial_state(len(batch.fresh))
        state = where_lanes(batch.fresh, fresh, self.carried) if self.feed.carries else fresh
        for segment in batch.burn_in:  # sequences without a step in it keep their state
            state = where_lanes(segment.lengths > 0, self.run_segments(state, (segment,)), state)
        return state

    @torch.no_grad()
    def run_segments(self, state: Tree, segments: tuple[Segment, ...]) -> Tree:
        """Return the state after these segments, which no gradient crosses."""
        state = detach(state)
        for segment in segments:
            _, state = self.forward(segment, state)
        return state

    def forward(self, segment: Segment, state: Tree) -> tuple[Tensor, Tree]:
        """Run a segment in the run's number format; return the logits and the next state."""
        # The context is left after each segment, since it keeps weights that it cast without gradient.
        with self.processes.fabric.autocast():
            logits, state = self.model(segment, state)
        return logits, state

    def rehearse(self) -> list[str]:
        """Run one segment, so that what the device can't do fails before anything is written; return warnings."""
        self.model.to(self.processes.device)
        one = self.feed.batch(self.made).first(1).select(torch.tensor([0])).to(self.processes.device)
        self.forward(one.segments[0], self.model.initial_state(1))
        warnings = [self.feed.unread(), _too_late(self.config.training), large_actions(self.store.action_space)]
        return list(filter(None, warnings))

    def totals(self) -> Metrics:
        return {}

    def remarks(self) -> list[str]:
        return list(filter(None, [self.feed.unreached()]))

    def start(self, saved: Checkpoint[AgentHeader] | None = None) -> None:
        self.processes.launch()
        self.model.to(self.processes.device)
        options = self.config.training
        groups = decay_groups(self.model, options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, options.learning_rate, betas=(0.9, 0.95), fused=True)
        if self.feed.carries:
            self.carried = detach(self.model.initial_state(self.config.data.batch_size))
        if saved is not None:
            self._restore(saved)
        self.carried = self.processes.own_state(self.carried)

    def _restore(self, saved: Checkpoint[AgentHeader]) -> None:
        progress = validated(_Progress, saved.header.progress)
        restore_optimizer(saved, self.optimizer)
        self.made = saved.header.update
        self.feed.restore(saved.header.progress, self.made)
        kept, drawn = progress.kept, progress.drawn
        kept_like: Tree = detach(self.model.initial_state(drawn.batch_size)) if kept and drawn else ()
        self.carried, memories = restore_state(saved, (self.carried, kept_like))
        # With other options, the kept update's batch would be drawn from other episodes than its memories.
        if kept and drawn == _drawn(self.config) and self.config.training.ageing_updates:
            self.ageing.restore(self.feed, kept.update, kept.segments, kept.age, memories)

    def header(self, progress: dict[str, JsonValue]) -> AgentHeader:
        return agent_header(self.model, self.config.agent, self.made, progress)

    def progress(self) -> dict[str, JsonValue]:
        kept = self.ageing.kept
        saved = _Progress(
            drawn=_drawn(self.config),
            kept=_KeptBatch(update=kept.update, segments=len(kept.batch.segments), age=kept.age) if kept else None,
        )
        return saved.model_dump(mode="json") | self.feed.state()

    def resumable(self) -> Resumable:
        state = (self.carried, kept_state(self.ageing.kept))
        return Resumable(self.optimizer, self.processes.whole_state(state))

    def close(self) -> None:
        """There is nothing to release."""


def _backpropagation(options: TrainingConfig, processes: FabricProcesses) -> Backpropagate:
    """Return the function that runs segments and backpropagates as deep as the run asks."""
    backward = processes.fabric.backward
    choices: dict[backprop.Gradient, Backpropagate] = {
        "full": partial(backprop.full, backward=backward),
        "truncated": partial(backprop.truncated, backward=backward, depth=options.depth),
        "replay": partial(backprop.replay, backward=backward),
    }
    return choices[options.gradient]


def _check_finite(update: int, loss: Tensor, norm: Tensor, more: Metrics) -> None:
    """Raise an error if the loss or the gradient is NaN or infinite."""
    if torch.isfinite(loss) and torch.isfinite(norm):
        return
    shown = "".join(f", {name} {value:g}" for name, value in more.items())
    raise Diverged(f"the loss is {float(loss)} (gradient norm {float(norm)}{shown}) at update {update}")


class Counts:
    """Counts of right actions, of right actions at decisive steps, and of decisive steps: float32 (3,)."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(3, device=device)

    def add(self, segment: Segment, right: Tensor) -> None:
        """Count a segment; `right` is (B, K), 0 to 1, zero at padding."""
        self.values[0] += right.sum()
        if segment.decisive is not None:
            decisive = segment.decisive & segment.mask
            self.values[1:] += torch.stack([(right * decisive).sum(), decisive.sum()])


def _drawn(config: OfflineRun) -> FeedConfig:
    """Return the options that decide which steps an update draws."""
    return FeedConfig.model_construct(**{name: getattr(config.data, name) for name in FeedConfig.model_fields})


class _KeptBatch(SavedState):
    """The facts by which the kept batch is found again."""

    update: int
    segments: int
    age: int


class _Progress(SavedState):
    """The learner's part of a checkpoint, besides tensors and the feed's own state."""

    drawn: FeedConfig | None = None
    kept: _KeptBatch | None = None


def new_agent(config: OfflineRun, store: EpisodeStore) -> Agent:
    """Return the agent of a run before its first update, for the spaces and the best return of its data."""
    torch.manual_seed(config.seed)
    classes = getattr(load_task(config.env), "HINDSIGHT_CLASSES", 0) if config.training.hindsight else 0
    spec = AgentSpec(store.observation_space, store.action_space, store.best_return, store.max_return or 1.0, classes)
    return cast("Agent", agent_class(config.agent)(config.agent_options, spec))


def _restored(config: OfflineRun, saved: Checkpoint[AgentHeader], store: EpisodeStore) -> Agent:
    """Return the agent of a checkpoint, which must be the one that the config describes."""
    agent = cast("Agent", restore_agent(saved))
    if agent.config != config.agent_options:
        raise UsageError(
            f"checkpoint {saved.path} is of another agent than {saved.path.parent / CONFIG} says; undo what was "
            "changed there"
        )
    if bool(agent.spec.hindsight_classes) != bool(config.training.hindsight):
        raise UsageError(
            f"hindsight={config.training.hindsight}, but checkpoint {saved.path} has {agent.spec.hindsight_classes} "
            f"classes of it; undo what was changed in {saved.path.parent / CONFIG}"
        )
    check_spaces(f"checkpoint {saved.path}", agent.spec, store, "resume with the data that it was trained on")
    return agent


def _feed(config: OfflineRun, store: EpisodeStore) -> SegmentFeed:
    feed = make_feed(store, config.data, config.agent_options.segment_length, config.seed)
    threshold = config.training.curriculum
    if not threshold:
        return feed
    return CurriculumFeed(feed, Curriculum(last=config.data.segments, threshold=threshold))


def _too_late(options: TrainingConfig) -> str | None:
    """Return a warning if ageing begins behind the last update, with the remedy."""
    if not options.ageing or options.ageing_from < options.updates:
        return None
    return (
        f"ageing={options.ageing} begins at update ageing_from={options.ageing_from} and so never in "
        f"updates={options.updates}: give a lower --ageing-from"
    )


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _mean_square(state: Any, device: torch.device) -> Tensor:
    """Return the mean square of all floats of a state; 0 for an empty state."""
    floats = [leaf.flatten().float() for leaf in tree_leaves(state) if leaf.is_floating_point() and leaf.numel()]
    return torch.cat(floats).square().mean() if floats else torch.zeros((), device=device)
