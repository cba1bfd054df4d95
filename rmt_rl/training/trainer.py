"""The loop of offline training: one for every agent, core and gradient.

Everything random follows from (seed, update), so a run resumed from its last checkpoint makes the same weights as
one that was never interrupted: bit for bit on the CPU, which is what tests check. Some CUDA kernels aren't
deterministic: there two runs of one seed may differ by rounding, interrupted or not.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rmt_rl import backprop
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.agent import Agent
from rmt_rl.data.curriculum import Curriculum, Progress
from rmt_rl.data.sampler import Sampler, SamplerConfig, make_sampler
from rmt_rl.data.segment import Batch, Segment
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from rmt_rl.recurrence import clone, detach, select_lanes, tree_leaves, tree_map, where_lanes
from rmt_rl.registry import load_task
from rmt_rl.runs import checkpoint
from rmt_rl.runs.metrics import Log, Metrics, Report
from rmt_rl.runs.options import OfflineRun, TrainingConfig, offline_origin
from rmt_rl.training.optimization import decay_groups, learning_rate


class Kept(NamedTuple):
    """A batch that is asked again and again from its first segment's memories, while these age.

    Attributes:
        update: the update that it was drawn for.
        batch: this process's lanes of it.
        age: how many filler segments its memories have gone through.
        state: these memories, which no gradient leaves.
    """

    update: int
    batch: Batch
    age: int
    state: Any

    def aged(self, fillers: int, state: Any) -> Kept:
        """It after so many fillers more."""
        return self._replace(age=self.age + fillers, state=clone(state))


class Trainer:
    """The loop, and what it carries from update to update.

    Data parallel training runs it in several processes, each with every n-th lane of the batch; what they log and
    save is the whole batch's.
    """

    def __init__(self, config: OfflineRun, run: Path, store: EpisodeStore, agent: Agent) -> None:
        self.config, self.run, self.agent = config, run, agent
        self.origin = offline_origin(config, store.ids)
        self.fabric = _fabric(config.training)
        length = config.agent_options.segment_length
        self.sampler: Sampler = make_sampler(store, config.data, length, config.seed)
        if config.training.ageing:
            if not tree_leaves(agent.initial_state(1)):
                raise UsageError(
                    f"ageing={config.training.ageing}: agent {config.agent!r} carries no state that could age; give 0"
                )
            self.sampler.fillers(0, count=1, lanes=1)  # fails now, and not when ageing begins
        self.update = 0
        self.saved: int | None = None  # the update of the last checkpoint
        self.best: float | None = None  # score of the best evaluation
        self.unlogged: list[Metrics] = []  # of the updates since the last line of metrics
        threshold = config.training.curriculum
        self.curriculum = Curriculum(last=config.data.segments, threshold=threshold) if threshold else None
        self.progress = self.curriculum.begin() if self.curriculum else None
        self.beginnings = self.sampler  # what a curriculum reads
        self.streams_from: int | None = None  # the update at which streams begin
        if self._streams:
            episodes = config.data.model_copy(update={"feed": "episodes"})
            self.beginnings = make_sampler(store, episodes, length, config.seed)
            self.streams_from = None if self.curriculum else 0
        self.kept: Kept | None = None

    def start(self, saved: checkpoint.Checkpoint | None = None) -> None:
        """Get ready for the first update, or for the one after a checkpoint."""
        options, agent = self.config.training, self.agent
        self.fabric.launch()
        agent.to(self.fabric.device)
        groups = decay_groups(agent, options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, options.learning_rate, betas=(0.9, 0.95), fused=True)
        self.carried: Any = detach(agent.initial_state(self.config.data.batch_size)) if self._streams else ()
        if saved is not None:
            checkpoint.restore_optimizer(saved, self.optimizer)
            self.update = self.saved = saved.header.update
            progress = saved.header.progress
            self.best, self.unlogged = progress["best"], progress["unlogged"]
            if self.curriculum and progress["curriculum"]:
                self.progress = Progress(**progress["curriculum"])
            if self._streams:
                self.streams_from = progress.get("streams_from", self.streams_from)
                if self.streams_from is None and not self.curriculum:
                    self.streams_from = self.update  # a curriculum that is broken off here
            self._restore_state(saved, progress.get("kept"))
        self.carried = select_lanes(self.carried, self._lanes())

    def _restore_state(self, saved: checkpoint.Checkpoint, kept: dict[str, Any] | None) -> None:
        drawn, now = saved.header.progress.get("drawn"), self._drawn()
        aged = detach(self.agent.initial_state(drawn["batch_size"])) if kept and drawn else ()
        self.carried, aged = checkpoint.restore_state(saved, (self.carried, aged))
        standing = self.streams_from is not None and self.streams_from < self.update
        if standing and drawn and drawn["segments"] != now["segments"]:
            raise UsageError(
                f"segments={now['segments']}, but checkpoint {saved.path} was made with {drawn['segments']}: its lanes "
                f"stand elsewhere, and their states are of other steps; undo what was changed in {self.run}"
            )
        # Drawn with other options, the update's batch would be of other episodes than the memories.
        if kept and drawn == now and self.config.training.ageing_updates:
            batch = self._own(self._draw(kept["update"]).first(kept["segments"]))
            self.kept = Kept(kept["update"], batch, kept["age"], select_lanes(aged, self._lanes()))

    def _drawn(self) -> Any:
        """What decides which steps an update draws, as JSON."""
        return self.config.data.model_dump(mode="json", include=set(SamplerConfig.model_fields))

    def rehearse(self) -> None:
        """Feed a lane's first segment: what the device can't do with gradients fails before anything is written."""
        self.agent.to(self.fabric.device)
        batch = self._draw(self.update).first(1).select(torch.tensor([0])).to(self.fabric.device)
        self._forward(batch.segments[0], self.agent.initial_state(1))

    def run_updates(self, report: Report, should_stop: Callable[[], bool]) -> int:
        """Make the updates that are left; see `rmt_rl.training.offline.train`."""
        options = self.config.training
        with self._log() as log:
            while self.update < options.updates and not self._any(should_stop()):
                metrics = self._update()
                self.unlogged.append({name: value for name, value in metrics.items() if math.isfinite(value)})
                self.update += 1
                evaluates = self.config.evaluation.eval_episodes and self._due(self.config.evaluation.eval_every)
                evaluated = self._evaluate_safely() if evaluates else {}
                metrics = (self._means() if self._due(options.log_every) else {}) | evaluated
                if log and metrics:
                    log.write(self.update, metrics)
                if self._due(options.save_every):
                    self._save_last()
                if self.fabric.is_global_zero:
                    report(self.update, metrics)
            if self.saved != self.update:
                self._save_last()
        if self._streams and self.streams_from is None and self.update == options.updates:
            warnings.warn(
                f"curriculum={options.curriculum}: the last length, segments={self.config.data.segments}, wasn't "
                f"learnt in updates={options.updates}, so streams never began: give more --updates, or a lower "
                "--curriculum",
                UserWarning,
                stacklevel=2,
            )
        return self.update

    def _log(self) -> AbstractContextManager[Log | None]:
        if not self.fabric.is_global_zero:
            return nullcontext()
        settings = self.config.model_dump(mode="json", exclude_none=True)
        return closing(Log(self.run, self.update, self.config.logger, settings))

    def _due(self, every: int) -> bool:
        return self.update % every == 0 or self.update == self.config.training.updates

    def _means(self) -> Metrics:
        entries, self.unlogged = self.unlogged, []
        keys = dict.fromkeys(key for entry in entries for key in entry)
        return {key: float(np.mean([entry[key] for entry in entries if key in entry])) for key in keys}

    def _any(self, here: bool) -> bool:
        """Whether it is true in any process."""
        return bool(self._sum(torch.tensor(float(here), device=self.fabric.device)))

    def _sum(self, here: Tensor) -> Tensor:
        """The sum over all processes."""
        return cast("Tensor", self.fabric.all_reduce(here, reduce_op="sum"))

    # One update

    def _update(self) -> Metrics:
        """Draw a batch, backpropagate, step; returns what to log."""
        began = time.perf_counter()
        rate = learning_rate(self.config.training, self.update)
        torch.manual_seed(_seed(self.config.seed, self.update, self.fabric.global_rank))
        batch, computed_steps = self._batch()
        of_feed = {"data/streams": float(self.streams_from is not None)} if self._streams else {}
        fillers, counts = self._fillers(len(batch.segments)), torch.zeros(3, device=self.fabric.device)
        aged: Any = None  # the memories after the first segment and the fillers

        def step(index: int, state: Any) -> tuple[Tensor, Any]:
            nonlocal aged
            loss, state = self._segment(batch, counts, index, state)
            if index == 0 and fillers is not None:
                state = aged = backprop.straight_through(state, self._after(state, fillers))
            return loss, state

        self.agent.train()
        self.optimizer.zero_grad()
        loss, state = self._gradient()(step, len(batch.segments), self._initial_state(batch), self.fabric.backward)
        of_aged = self._ask_aged(fillers or ())
        loss, norm = self._sum(loss), self._clip()
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise self._diverged(
                f"the loss is {float(loss)} (gradient norm {float(norm)}"
                + "".join(f", {name} {value:g}" for name, value in of_aged.items())
                + f") at update {self.update + 1}"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.carried = clone(state) if self._streams else ()
        if fillers is not None and self._keeps_another():
            self.kept = Kept(self.update, batch, len(fillers), clone(detach(aged)))
        right, right_where_decisive, decisive = self._sum(counts).tolist()
        if batch.segments[0].decisive is None:
            self._go_on(batch, right / batch.steps)
        elif decisive:
            self._go_on(batch, right_where_decisive / decisive)
        return ({"train/decisive_accuracy": right_where_decisive / decisive} if decisive else {}) | {
            "train/loss": float(loss),
            "train/accuracy": right / batch.steps,
            "train/learning_rate": rate,
            "train/gradient_norm": float(norm),
            "train/state_norm": math.sqrt(self._sum(_mean_square(state, self.fabric.device)) / self.fabric.world_size),
            "data/segments": len(batch.segments),
            "data/padding": 1 - batch.steps / computed_steps,
            **of_feed,
            "time/steps_per_second": batch.steps / (time.perf_counter() - began),
            **of_aged,
        }

    def _ask_aged(self, fillers: tuple[Segment, ...]) -> Metrics:
        """Age the kept memories further, and backpropagate the loss of what comes after them; returns what to log."""
        if self.kept is None:
            return {}
        self.kept = self.kept.aged(len(fillers), self._after(self.kept.state, fillers))
        batch, counts = self.kept.batch, torch.zeros(3, device=self.fabric.device)

        def step(index: int, state: Any) -> tuple[Tensor, Any]:
            return self._segment(batch, counts, index + 1, state)

        loss, _ = self._gradient()(step, len(batch.segments) - 1, self.kept.state, self.fabric.backward)
        _, right, decisive = self._sum(counts).tolist()
        known = {"train/aged_decisive_accuracy": right / decisive} if decisive else {}
        return {"train/aged_loss": float(self._sum(loss)), "data/age": self.kept.age, **known}

    def _keeps_another(self) -> bool:
        """Whether the batch of this update takes the kept one's place."""
        updates = self.config.training.ageing_updates
        generator = np.random.default_rng([self.config.seed, self.update, 1])
        return updates > 0 and (self.kept is None or generator.random() * updates < 1)

    def _go_on(self, batch: Batch, accuracy: float) -> None:
        """Go on to longer sequences where the present ones are learnt."""
        if self.curriculum and self.progress and self.streams_from is None:
            self.progress = self.curriculum.after(self.progress, len(batch.segments), accuracy)
            if self._streams and self.curriculum.finished(self.progress):
                self.streams_from = self.update + 1

    @property
    def _streams(self) -> bool:
        return self.config.data.feed == "streams"

    def _lanes(self) -> Tensor:
        """This process's lanes of a batch."""
        fabric = self.fabric
        lanes = torch.arange(fabric.global_rank, self.config.data.batch_size, fabric.world_size)
        return lanes.to(fabric.device)

    def _batch(self) -> tuple[Batch, int]:
        """This process's lanes of the batch, and how many steps the whole batch computes, padding included."""
        batch = self._draw(self.update)
        if self.progress and self.streams_from is None:
            batch = _beginning(batch, self.progress.length)
        computed_steps = sum(segment.returns_to_go.numel() for segment in batch.segments)
        return self._own(batch), computed_steps

    def _draw(self, update: int) -> Batch:
        """The whole batch of an update, up to the present one."""
        if self.streams_from is None or update < self.streams_from:
            return self.beginnings.batch(update)
        return self.sampler.batch(update - self.streams_from)

    def _own(self, batch: Batch) -> Batch:
        """This process's lanes, on its device."""
        batch = batch.to(self.fabric.device)
        return batch.select(self._lanes()) if self.fabric.world_size > 1 else batch

    def _fillers(self, segments: int) -> tuple[Segment, ...] | None:
        """The segments that age this update's memories; None where there are none to age, or not yet."""
        options = self.config.training
        if not options.ageing or self.update < options.ageing_from or segments < 2:
            return None
        count = int(np.random.default_rng([self.config.seed, self.update]).integers(0, options.ageing + 1))
        fillers = self.sampler.fillers(self.update, count, self.config.data.batch_size)
        return tuple(filler.to(self.fabric.device).select(self._lanes()) for filler in fillers)

    def _initial_state(self, batch: Batch) -> Any:
        fresh = self.agent.initial_state(len(batch.fresh))
        state = where_lanes(batch.fresh, fresh, self.carried) if self._streams else fresh
        for segment in batch.burn_in:  # lanes without a step in it stay as they are
            state = where_lanes(segment.lengths > 0, self._after(state, (segment,)), state)
        return state

    def _gradient(self) -> Callable[..., tuple[Tensor, Any]]:
        options = self.config.training
        choices: dict[backprop.Gradient, Callable[..., tuple[Tensor, Any]]] = {
            "full": backprop.full,
            "truncated": partial(backprop.truncated, depth=options.depth),
            "replay": backprop.replay,
        }
        return choices[options.gradient]

    def _segment(self, batch: Batch, counts: Tensor, index: int, state: Any) -> tuple[Tensor, Any]:
        """One segment's share of the batch's mean loss per real step, and the next state.

        Adds to `counts` right actions, right ones where the action is decisive, and decisive ones, once: replay's
        first pass, without gradients, doesn't count.
        """
        segment = batch.segments[index]
        numbers, state = self._forward(segment, state)
        loss, right = self.agent.losses(numbers, segment, self.config.training.hindsight)
        if torch.is_grad_enabled():
            counts[0] += right.sum()
            if segment.decisive is not None:
                decisive = segment.decisive & segment.mask
                counts[1:] += torch.stack([(right * decisive).sum(), decisive.sum()])
        return loss.sum() / batch.steps, state

    @torch.no_grad()
    def _after(self, state: Any, segments: tuple[Segment, ...]) -> Any:
        """The state after these segments, which no gradient crosses."""
        state = detach(state)
        for segment in segments:
            _, state = self._forward(segment, state)
        return state

    def _forward(self, segment: Segment, state: Any) -> tuple[Tensor, Any]:
        with self.fabric.autocast():  # left after each segment, since it keeps weights that it cast without gradient
            numbers, state = self.agent(segment, state)
        return numbers, state

    def _clip(self) -> Tensor:
        """Sum the gradients of all processes and clip their norm, which is returned."""
        parameters = [parameter for parameter in self.agent.parameters() if parameter.grad is not None]
        if self.fabric.world_size > 1:
            gradients = [cast("Tensor", parameter.grad) for parameter in parameters]
            vector_to_parameters(self._sum(parameters_to_vector(gradients)), gradients)
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.training.clip)

    def _diverged(self, what: str) -> UsageError:
        kept = checkpoint.path_of(self.run)
        where = f"the last good checkpoint is {kept}" if kept.exists() else "no checkpoint had been saved yet"
        return UsageError(
            f"{what}; {where}. Try a lower --learning-rate, a smaller --clip, a longer --warmup, or --precision "
            "32-true; and look for huge numbers in the data"
        )

    # Evaluation and checkpoints

    def _evaluate_safely(self) -> Metrics:
        """Evaluate; where that fails, what was learnt is saved, and goes on without this evaluation."""
        try:
            return self._evaluate()
        except BaseException:
            if self.fabric.world_size == 1:  # saving waits for all processes
                self._save_last()
            raise

    def _evaluate(self) -> Metrics:
        """Roll out in the training task; keep the best agent. Every process does, so that none waits for another."""
        options = self.config.evaluation
        result = evaluate(
            self.agent,
            load_task(self.config.env),
            self.config.env_options.model_dump(),
            options.eval_episodes,
            options.eval_seed,
            target_return=self.agent.target_return(None),
        )
        if self.best is None or result.score >= self.best:
            self.best = result.score
            self._save("best")
        return result.metrics

    def _save_last(self) -> None:
        """Save all that resuming needs."""
        state = (self.carried, self.kept.state if self.kept else ())
        if self.fabric.world_size > 1:
            state = tree_map(self._of_all_lanes, state)
        curriculum = self.progress.model_dump() if self.progress else None
        progress = {"best": self.best, "unlogged": self.unlogged, "origin": self.origin, "curriculum": curriculum}
        progress |= {"streams_from": self.streams_from, "drawn": self._drawn()}
        if kept := self.kept:
            progress["kept"] = {"update": kept.update, "segments": len(kept.batch.segments), "age": kept.age}
        self._save("last", progress=progress, optimizer=self.optimizer, state=state)
        self.saved = self.update

    def _of_all_lanes(self, leaf: Tensor) -> Tensor:
        """The lanes of all processes, in order."""
        lanes = leaf.new_zeros(self.config.data.batch_size, *leaf.shape[1:])
        return self._sum(lanes.index_copy(0, self._lanes(), leaf))

    def _save(self, name: str, **resumable: Any) -> None:
        if not all(torch.isfinite(parameter).all() for parameter in self.agent.parameters()):
            raise self._diverged(f"the weights are NaN or infinite after update {self.update}")
        if self.fabric.is_global_zero:
            path = checkpoint.path_of(self.run, name)
            checkpoint.save_checkpoint(path, self.agent, self.config.agent, self.update, **resumable)


def _fabric(options: TrainingConfig) -> Fabric:
    try:
        return Fabric(
            accelerator=options.accelerator,
            devices=options.devices,
            precision=options.precision,
            strategy="ddp" if options.devices > 1 else "auto",
        )
    except (MisconfigurationException, ImportError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"accelerator={options.accelerator!r}, devices={options.devices}: {error}; choose --accelerator auto "
            "or cpu, or fewer --devices"
        ) from error


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _beginning(batch: Batch, segments: int) -> Batch:
    """So many of the first segments; more where the decisive actions, of which a curriculum is to tell, come later."""
    for count in range(segments, len(batch.segments)):
        first = batch.first(count)
        if any(each.decisive is None or (each.decisive & each.mask).any() for each in first.segments):
            return first
    return batch


def _mean_square(state: Any, device: torch.device) -> Tensor:
    """The mean square of all numbers of a state on a device; 0 for an empty one."""
    leaves = [leaf.flatten().float() for leaf in tree_leaves(state) if leaf.is_floating_point() and leaf.numel()]
    return torch.cat(leaves).square().mean() if leaves else torch.zeros((), device=device)
