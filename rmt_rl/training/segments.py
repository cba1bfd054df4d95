"""Offline learning from segments of data sets: one learner for every agent, core and gradient.

Everything random follows from (seed, update), so a run resumed from its last checkpoint makes the same weights as
one that was never interrupted: bit for bit on the CPU, which is what tests check. Some CUDA kernels aren't
deterministic: there two runs of one seed may differ by rounding, interrupted or not.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from rmt_rl import backprop
from rmt_rl.agent import Agent
from rmt_rl.config import SavedState, validated
from rmt_rl.data.curriculum import Curriculum, CurriculumFeed
from rmt_rl.data.feed import DrawOptions, Feed, Outcome, SegmentFeed, make_feed
from rmt_rl.data.segment import Batch
from rmt_rl.data.store import EpisodeStore
from rmt_rl.recurrence import Tree, clone, detach, where_lanes
from rmt_rl.runs.checkpoint import (
    AgentHeader,
    Checkpoint,
    about,
    agent_header,
    restore_optimizer,
    restore_state,
)
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.runs.metrics import Metrics
from rmt_rl.runs.options import OfflineRun, TrainingConfig
from rmt_rl.training.ageing import Ageing, SavedKept, Segments
from rmt_rl.training.agents import hindsight_weight, new_agent, restored_agent
from rmt_rl.training.datasets import data_origin, large_actions, open_data
from rmt_rl.training.hiding import Hiding, check_hidden_actions
from rmt_rl.training.learner import Resumable
from rmt_rl.training.measures import Counts, Sums, check_finite, decisive_accuracy, exact, mean_square, padding
from rmt_rl.training.needs import check_activations, check_offline, device_bytes
from rmt_rl.training.optimization import decay_groups, learning_rate, make_step, seed_of
from rmt_rl.training.parallel import FabricProcesses
from rmt_rl.training.remarks import Finished, low_level
from rmt_rl.training.runner import SegmentRunner, check_compiler

OF_KEPT = ("train/aged_loss", "data/age", "train/aged_decisive_accuracy")
"""Metrics of the batch that memory ageing keeps."""
RECENT = 20  # updates whose decisive actions are counted in the end
REMEDY = (
    "Try a lower --learning-rate, a smaller --clip, a longer --warmup, or --precision 32-true; and look for huge "
    "numbers in the data"
)
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
    remedy: ClassVar[str] = REMEDY

    def __init__(self, config: OfflineRun, saved: Checkpoint[AgentHeader] | None = None) -> None:
        self.config = config
        check_offline(config)
        check_hidden_actions(config)
        store = open_data(config)
        self.store = store
        self.model = restored_agent(config, saved, store) if saved else new_agent(config, store)
        options = config.training
        self.processes = _processes(config)
        hindsight = hindsight_weight(config, self.model)
        self.runner = SegmentRunner(self.model, self.processes, hindsight, options.compile)
        self.hiding = Hiding(config, self.model, self.processes)
        self.feed = _feed(config, store)
        self.ageing = Ageing(config, store, self.model, self.processes)
        self.backpropagate = _backpropagation(options, self.processes)
        self.carried: Tree = ()  # states of batch elements that go on in the next update
        self.made = 0
        self.recent: deque[Sums] = deque(maxlen=RECENT)

    @staticmethod
    def origin(config: OfflineRun) -> dict[str, JsonValue]:
        return data_origin(config)

    @property
    def done(self) -> bool:
        return self.made >= self.config.length

    def advance(self) -> dict[str, float | Tensor]:
        """Draw a batch, backpropagate through its segments, and make one step of the optimiser."""
        began = time.perf_counter()
        update = self.made
        processes = self.processes
        seed = seed_of(self.config.seed, update, processes.rank)
        torch.manual_seed(seed)
        batch = processes.own(self.feed.batch(update))
        fed = self.feed.measures()
        segments = len(batch.segments)
        fillers = self.ageing.fillers(update, segments)
        border = self.ageing.border(update, segments)
        counts = Counts(processes.device)
        aged: Tree = ()  # the memories behind the border and the filler segments

        def step(index: int, state: Tree) -> tuple[Tensor, Tree]:
            nonlocal aged
            loss, state = self.runner.loss(batch, counts, index, state)
            if index == border and fillers is not None:
                state = aged = self.ageing.aged(state, fillers, self.runner.run)
            return loss, state

        self.model.train()
        self.optimizer.zero_grad()
        first_state = self.initial_state(batch)
        batch = self.prepared(batch, first_state)
        loss, state = self.backpropagate(step, segments, first_state)
        of_kept = self.learn_from_kept(fillers or ())
        loss = processes.sum(loss)
        rate = learning_rate(self.config.training, update)
        norm = processes.clip_gradient(self.model.parameters(), self.config.training.clip)
        make_step(self.optimizer, rate)
        if self.feed.carries:
            self.carried = clone(state)
        if fillers is not None:
            self.ageing.keep(update, batch, len(fillers), aged)
        self.made += 1
        sums = counts.sums(processes)
        self.recent.append(sums)
        _teach(self.feed, update, batch, sums)
        size = mean_square(state, processes.device)
        return {
            "train/decisive_accuracy": sums.decisive_accuracy,
            "train/loss": exact(loss),
            "train/accuracy": sums.right / batch.steps,
            "train/learning_rate": rate,
            "train/gradient_norm": exact(norm),
            "train/state_norm": exact(processes.mean(size)).sqrt(),
            "data/segments": segments,
            "data/padding": padding(batch.segments, processes.batch_size, batch.steps),
            **fed,
            "time/steps_per_second": batch.steps / (time.perf_counter() - began),
            **of_kept,
        }

    def check(self, update: int, metrics: Metrics) -> None:
        of_kept = {name: metrics[name] for name in OF_KEPT if name in metrics}
        check_finite(update, metrics["train/loss"], metrics["train/gradient_norm"], of_kept)

    def learn_from_kept(self, fillers: Segments) -> dict[str, float | Tensor]:
        """Age the kept memories further, and backpropagate the loss of the segments behind them."""
        kept = self.ageing.age_kept(fillers, self.runner.run)
        if kept is None:
            return {}
        counts = Counts(self.processes.device)
        first = len(kept.batch.segments) - kept.later
        batch = self.prepared(kept.batch, kept.state, first)

        def step(index: int, state: Tree) -> tuple[Tensor, Tree]:
            return self.runner.loss(batch, counts, first + index, state)

        loss, _ = self.backpropagate(step, kept.later, kept.state)
        sums = counts.sums(self.processes)
        loss = self.processes.sum(loss)
        return {
            "train/aged_loss": exact(loss),
            "data/age": kept.age,
            "train/aged_decisive_accuracy": sums.decisive_accuracy,
        }

    def prepared(self, batch: Batch, state: Tree, first: int = 0) -> Batch:
        """Return the batch as it is learnt, for segments from `first` on, which begin with `state`."""
        return self.hiding.hide(self.made, batch)

    def initial_state(self, batch: Batch) -> Tree:
        """Return the state before a batch: fresh, carried from the last update, or computed by burn-in."""
        batch_size = len(batch.fresh)
        state: Tree = self.model.initial_state(batch_size)
        if self.feed.carries:
            state = where_lanes(batch.fresh, state, self.carried)
        return self.runner.burn_in(state, batch.burn_in)

    def rehearse(self) -> list[str]:
        """Run one segment, so that what the device can't do fails before anything is written; return warnings."""
        device = self.processes.device
        if self.config.training.compile:
            check_compiler(device)
        self.model.to(device)
        batch = self.feed.batch(self.made)
        self.runner.first_segment(batch.select(torch.tensor([0])))
        check_activations(self.config, batch, self.runner.first_segment, device_bytes(device.type))
        return _warnings(self.config, self.feed, self.store)

    def totals(self) -> Metrics:
        return {}

    def remarks(self, evaluation: Evaluation | None) -> list[str]:
        finished = Finished(self.config, self.model, self.store, decisive_accuracy(self.recent), evaluation)
        return list(filter(None, [self.feed.unreached(), low_level(finished)]))

    def start(self, saved: Checkpoint[AgentHeader] | None = None) -> None:
        self.processes.launch()
        self.processes.prepare(self.model)
        self.optimizer = _optimizer(self.config.training, self.model)
        if self.feed.carries:
            fresh = self.model.initial_state(self.config.data.batch_size)
            self.carried = detach(fresh)
        if saved is not None:
            self._restore(saved)
        self.carried = self.processes.own_state(self.carried)
        self.feed.rows = self.processes.rows  # from now on, as a kept batch is drawn whole when it is restored

    def _restore(self, saved: Checkpoint[AgentHeader]) -> None:
        self.made = saved.header.update
        with about(saved.path):
            progress = validated(_Progress, saved.header.progress)
            self.feed.restore(progress.feed, self.made)
        restore_optimizer(saved, self.optimizer)
        self.processes.prepare_optimizer(self.optimizer)
        kept, drawn = progress.kept, progress.drawn
        kept_like: Tree = ()
        if kept and drawn:
            fresh = self.model.initial_state(drawn.batch_size)
            kept_like = detach(fresh)
        self.carried, memories = restore_state(saved, (self.carried, kept_like))
        # With other options, the kept update's batch would be drawn from other episodes than its memories.
        same_draws = drawn == _drawn(self.config)
        if kept and same_draws and self.config.training.ageing_updates:
            self.ageing.restore(self.feed, kept, memories)

    def header(self, progress: dict[str, JsonValue]) -> AgentHeader:
        return agent_header(self.model, self.config.agent, self.made, progress)

    def progress(self) -> dict[str, JsonValue]:
        own = _Progress(drawn=_drawn(self.config), kept=self.ageing.kept_facts(), feed=self.feed.state())
        return own.model_dump(mode="json")

    def resumable(self) -> Resumable:
        own_state = (self.carried, self.ageing.kept_state())
        whole_state = self.processes.whole_state(own_state)
        return Resumable(self.optimizer, whole_state)

    def confirm(self) -> None:
        """There is nothing to note."""

    def close(self) -> None:
        self.store.close()


def _teach(feed: SegmentFeed, update: int, batch: Batch, sums: Sums) -> None:
    """Tell a feed the outcome of an update. Only feeds that learn make the host wait for it."""
    if type(feed).learn is Feed.learn:
        return
    outcome = _outcome(batch, sums)
    if outcome is not None:
        feed.learn(update, outcome)


def _outcome(batch: Batch, sums: Sums) -> Outcome | None:
    """Return the accuracy on a batch, of decisive actions if the environment declares them; None if it has none."""
    segments = batch.segments
    declared = segments[0].decisive is not None
    accuracy = float(sums.decisive_accuracy if declared else sums.right / batch.steps)
    if math.isnan(accuracy):
        return None
    return Outcome(len(segments), accuracy)


def _processes(config: OfflineRun) -> FabricProcesses:
    """Return the processes of a run, by its strategy. A run in one process has nothing to divide."""
    is_sharded = config.training.strategy == "fsdp" and config.devices * config.num_nodes > 1
    if not is_sharded:
        return FabricProcesses(config.training, config.data.batch_size)
    from rmt_rl.training.sharding import ShardedProcesses  # which costs time to import

    return ShardedProcesses(config.training, config.data.batch_size)


def _optimizer(options: TrainingConfig, model: Agent) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        decay_groups(model, options.weight_decay),
        options.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )


def _backpropagation(options: TrainingConfig, processes: FabricProcesses) -> Backpropagate:
    """Return the function that runs segments and backpropagates as deep as the run asks."""
    backward = processes.fabric.backward
    truncated = partial(backprop.truncated, depth=options.depth)
    choices: dict[backprop.Gradient, Callable[..., tuple[Tensor, Tree]]] = {
        "full": backprop.full,
        "truncated": truncated,
        "replay": backprop.replay,
    }
    chosen = choices[options.gradient]
    return partial(chosen, backward=backward)


def _drawn(config: OfflineRun) -> DrawOptions:
    """Return the options that decide which steps an update draws."""
    options = {}
    for name in DrawOptions.model_fields:
        options[name] = getattr(config.data, name)
    return DrawOptions(**options)


class _Progress(SavedState):
    """The learner's part of a checkpoint, besides tensors and the feed's own state."""

    drawn: DrawOptions | None = None
    kept: SavedKept | None = None
    feed: dict[str, JsonValue] = Field(default_factory=dict)


def _feed(config: OfflineRun, store: EpisodeStore) -> SegmentFeed:
    segment_length = config.agent_options.segment_length
    feed = make_feed(store, config.data, segment_length, config.seed)
    threshold = config.training.curriculum
    if not threshold:
        return feed
    curriculum = Curriculum(last=config.data.segments, threshold=threshold)
    return CurriculumFeed(feed, curriculum)


def _warnings(config: OfflineRun, feed: SegmentFeed, store: EpisodeStore) -> list[str]:
    """Return what the user should know before the run begins."""
    warnings = [
        feed.unread(),
        _too_late(config.training),
        None if config.data.standardise else large_actions(store.action_space),
    ]
    return list(filter(None, warnings))


def _too_late(options: TrainingConfig) -> str | None:
    """Return a warning if ageing begins behind the last update, with the remedy."""
    begins = options.first_aged < options.updates
    if options.ageing in (0, "auto") or begins:
        return None
    return (
        f"ageing={options.ageing} begins after the share ageing_from={options.ageing_from:g} of the updates and so "
        f"never in updates={options.updates}: give a lower --ageing-from"
    )
