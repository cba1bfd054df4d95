"""Offline training on segments: one loop for every agent, core and gradient.

Everything random follows from (seed, update), so a run resumed from its last checkpoint makes the same weights as
one that was never interrupted.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from rmt_rl import backprop, checkpoint
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.collect import collect
from rmt_rl.data.sampler import Sampler, make_sampler
from rmt_rl.data.segment import Batch, Segment
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from rmt_rl.evaluate import evaluate
from rmt_rl.files import write_atomically
from rmt_rl.recurrence import detach, tree_leaves, where_lanes
from rmt_rl.registry import load_agent, load_task
from rmt_rl.run import CONFIG, RunConfig, TrainingConfig, read_config, write_config

METRICS = "metrics.jsonl"
Report = Callable[[int, dict[str, float]], None]


def train(
    config: RunConfig,
    run: Path,
    report: Report = lambda update, metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train an agent in a new folder.

    Args:
        config: the run.
        run: its folder, which must not hold a run yet.
        report: called with the number of updates made and whatever was logged then, after every update.
        should_stop: asked after every update; on True a checkpoint is saved and training ends early.

    Returns:
        How many updates were made.

    Raises:
        UsageError: the data don't fit, the folder can't be written to, or the loss became NaN or infinite.
    """
    if (run / CONFIG).exists():
        raise UsageError(f"out={run} holds a run already; resume it (--resume {run}) or choose another folder")
    store = _open_data(config)
    torch.manual_seed(config.seed)
    agent = load_agent(config.agent)(config.agent_options, _spec(store))
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"out={run} can't be made: {error.strerror}; choose another folder") from None
    write_config(config, run)
    return Trainer(config, run, store, agent).run_updates(report, should_stop)


def resume(
    run: Path,
    report: Report = lambda update, metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Go on with a run from its last checkpoint, or from its config if it had saved none yet; see `train`."""
    config = read_config(run)
    store = _open_data(config)
    if not checkpoint.path_of(run).exists():
        torch.manual_seed(config.seed)
        agent = load_agent(config.agent)(config.agent_options, _spec(store))
        return Trainer(config, run, store, agent).run_updates(report, should_stop)
    saved = checkpoint.read_checkpoint(checkpoint.path_of(run))
    trainer = Trainer(config, run, store, checkpoint.restore_agent(saved))
    trainer.restore(saved)
    return trainer.run_updates(report, should_stop)


class Trainer:
    """The loop, and what it carries from update to update."""

    def __init__(self, config: RunConfig, run: Path, store: EpisodeStore, agent: Agent) -> None:
        self.config, self.run, self.agent = config, run, agent
        options = config.training
        strategy = "ddp" if options.devices > 1 else "auto"
        self.fabric = Fabric(
            accelerator=options.accelerator, devices=options.devices, precision=options.precision, strategy=strategy
        )
        self.fabric.launch()
        self.module = self.fabric.setup_module(agent)
        self.optimizer = torch.optim.AdamW(
            agent.parameters(), options.learning_rate, betas=(0.9, 0.95), weight_decay=options.weight_decay, fused=True
        )
        self.sampler: Sampler = make_sampler(store, config.data, config.agent_options.segment_length, config.seed)
        self.update, self.best = 0, -math.inf
        self.carried: Any = agent.initial_state(self._lanes().numel()) if config.data.feed == "streams" else ()
        self.carried = detach(self.carried)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Go back to where a checkpoint was saved."""
        checkpoint.restore_optimizer(saved, self.optimizer)
        self.carried = checkpoint.restore_state(saved, self.carried)
        self.update = int(saved.header["update"])
        self.best = float(saved.header["progress"]["best"])

    def run_updates(self, report: Report, should_stop: Callable[[], bool]) -> int:
        """Make the updates that are left; see `train`."""
        options, log = self.config.training, Log(self.run, self.update)
        while self.update < options.updates and not should_stop():
            log.add(self._update(self.update))
            self.update += 1
            saving = self._due(options.save_every)
            metrics = log.average() if saving or self._due(options.log_every) else {}
            if self._due(self.config.evaluation.eval_every) and self.config.evaluation.eval_episodes:
                metrics |= self._evaluate()
            if metrics and self.fabric.is_global_zero:
                log.write(self.update, metrics | {"data/padding": self.sampler.padding})
            if saving:
                self._save("last")
            report(self.update, metrics)
        self._save("last")
        return self.update

    def _due(self, every: int) -> bool:
        return self.update % every == 0 or self.update == self.config.training.updates

    # One update

    def _update(self, update: int) -> dict[str, float]:
        """Draw a batch, backpropagate, step; returns what to log."""
        began = time.perf_counter()
        options = self.config.training
        torch.manual_seed(_seed(self.config.seed, update, self.fabric.global_rank))
        batch = self._batch(update)
        sums = {"loss": 0.0, "accuracy": 0.0}
        self.agent.train()
        self.optimizer.zero_grad()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(options, update)
        step = partial(self._segment, batch, self._fillers(update, batch), sums)
        with self.fabric.no_backward_sync(self.module, enabled=self.fabric.world_size > 1):
            state = self._initial_state(batch)
            loss, state = self._gradient()(step, len(batch.segments), state, self.fabric.backward)
        norm = self._clip()
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise self._diverged(float(loss), float(norm))
        self.optimizer.step()
        if self.config.data.feed == "streams":
            self.carried = state
        return {
            "train/loss": float(loss),
            "train/accuracy": sums["accuracy"] / batch.steps,
            "train/learning_rate": learning_rate(options, update),
            "train/gradient_norm": float(norm),
            "train/state_norm": _rms(state),
            "time/steps_per_second": batch.steps / (time.perf_counter() - began),
        }

    def _lanes(self) -> Tensor:
        """This process's lanes of a batch."""
        return torch.arange(self.fabric.global_rank, self.config.data.batch_size, self.fabric.world_size)

    def _batch(self, update: int) -> Batch:
        batch = self.sampler.batch(update)
        if self.fabric.world_size > 1:
            batch = batch.select(self._lanes())
        return batch.to(self.fabric.device)

    def _fillers(self, update: int, batch: Batch) -> tuple[Segment, ...]:
        """The segments that age this update's memories, none before `ageing_from`."""
        options = self.config.training
        if not options.ageing or update < options.ageing_from or len(batch.segments) < 2:
            return ()
        count = int(np.random.default_rng([self.config.seed, update]).integers(0, options.ageing + 1))
        fillers = self.sampler.fillers(update, count, self.config.data.batch_size)
        if self.fabric.world_size > 1:
            fillers = tuple(filler.select(self._lanes()) for filler in fillers)
        return tuple(filler.to(self.fabric.device) for filler in fillers)

    def _initial_state(self, batch: Batch) -> Any:
        fresh = self.agent.initial_state(len(batch.starts))
        return fresh if self.carried == () else where_lanes(batch.starts, fresh, self.carried)

    def _gradient(self) -> Callable[..., tuple[Tensor, Any]]:
        options = self.config.training
        choices: dict[backprop.Gradient, Callable[..., tuple[Tensor, Any]]] = {
            "full": backprop.full,
            "truncated": partial(backprop.truncated, depth=options.depth),
            "replay": backprop.replay,
        }
        return choices[options.gradient]

    def _segment(
        self, batch: Batch, fillers: tuple[Segment, ...], sums: dict[str, float], index: int, state: Any
    ) -> tuple[Tensor, Any]:
        """One segment's share of the batch's mean loss per real step, and the next state."""
        segment = batch.segments[index]
        numbers, state = self.module(segment, state)
        loss, correct = self.agent.losses(numbers, segment)
        if torch.is_grad_enabled():
            sums["accuracy"] += float(correct.sum())
        if index == 0 and fillers:
            state = backprop.straight_through(state, self._aged(state, fillers))
        return loss.sum() / batch.steps, state

    @torch.no_grad()
    def _aged(self, state: Any, fillers: tuple[Segment, ...]) -> Any:
        """The state after the fillers."""
        state = detach(state)
        for filler in fillers:
            _, state = self.module(filler, state)
        return state

    def _clip(self) -> Tensor:
        parameters = [parameter for parameter in self.agent.parameters() if parameter.grad is not None]
        if self.fabric.world_size > 1:
            for parameter in parameters:
                parameter.grad = cast(Tensor, self.fabric.all_reduce(cast(Tensor, parameter.grad), reduce_op="sum"))
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.training.clip)

    def _diverged(self, loss: float, norm: float) -> UsageError:
        kept = checkpoint.path_of(self.run)
        where = f"the last good checkpoint is {kept}" if kept.exists() else "no checkpoint had been saved yet"
        return UsageError(
            f"the loss is {loss} (gradient norm {norm}) at update {self.update + 1}; {where}. Try a lower "
            "--learning-rate, a smaller --clip, a longer --warmup, or --precision 32-true; and look for NaN in the data"
        )

    # Evaluation and checkpoints

    def _evaluate(self) -> dict[str, float]:
        """Roll out in the training task; keep the best agent. Every process does, so that none waits for another."""
        options = self.config.evaluation
        result = evaluate(
            self.agent,
            load_task(self.config.env),
            self.config.env_options.model_dump(),
            options.eval_episodes,
            options.eval_seed,
            target_return=self.agent.spec.target_return,
        )
        success = {} if result.success_rate is None else {"eval/success_rate": result.success_rate}
        score = result.mean_return if result.success_rate is None else result.success_rate
        if score >= self.best:
            self.best = score
            self._save("best")
        return success | {"eval/mean_return": result.mean_return, "eval/mean_length": result.mean_length}

    def _save(self, name: str) -> None:
        if not self.fabric.is_global_zero:
            return
        resumable = {"optimizer": self.optimizer, "state": self.carried} if name == "last" else {}
        checkpoint.save_checkpoint(
            checkpoint.path_of(self.run, name),
            self.agent,
            self.config.agent,
            self.update,
            progress={"best": self.best},
            **resumable,
        )


class Log:
    """Averages of what each update reports, as lines of `metrics.jsonl` and in TensorBoard."""

    def __init__(self, run: Path, update: int) -> None:
        self.path = run / METRICS
        kept = [line for line in self._lines() if json.loads(line)["update"] <= update]
        write_atomically(self.path, "".join(kept).encode())  # drops what a killed run did after its checkpoint
        self.board = SummaryWriter(str(run), purge_step=update + 1)
        self.entries: list[dict[str, float]] = []

    def _lines(self) -> Iterator[str]:
        """The whole lines of the file; a last one cut short by a kill is dropped."""
        if self.path.exists():
            yield from (line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n"))

    def add(self, entry: dict[str, float]) -> None:
        """Take up one update's numbers."""
        self.entries.append(entry)

    def average(self) -> dict[str, float]:
        """The means since the last call."""
        means = {key: float(np.mean([entry[key] for entry in self.entries])) for key in self.entries[0]}
        self.entries = []
        return means

    def write(self, update: int, metrics: dict[str, float]) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"update": update, **metrics}) + "\n")
        for key, value in metrics.items():
            self.board.add_scalar(key, value, update)
        self.board.flush()


def learning_rate(options: TrainingConfig, update: int) -> float:
    """Linear warm-up, constant, then cosine decay to `final_rate` of the peak; `update` counts from 0."""
    warm = min(1.0, (update + 1) / max(1, options.warmup))
    start = options.decay_from * options.updates
    done = min(1.0, max(0.0, (update - start) / max(1.0, options.updates - start)))
    decay = options.final_rate + (1 - options.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
    return options.learning_rate * warm * decay


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


@torch.no_grad()
def _rms(state: Any) -> float:
    """Root mean square of all numbers of a state; 0 for an empty one."""
    leaves = [leaf for leaf in tree_leaves(state) if leaf.is_floating_point() and leaf.numel()]
    return float(torch.cat([leaf.flatten().float() for leaf in leaves]).square().mean().sqrt()) if leaves else 0.0


def _open_data(config: RunConfig) -> EpisodeStore:
    """The data set, collected first where none is named; its spaces must be the environment's."""
    data, options = config.data, config.env_options.model_dump()
    ids = data.dataset or (collect(config.env, options, data.collect_episodes, data.collect_seed),)
    store = EpisodeStore(ids, cache_bytes=data.cache_mb << 20)
    env = load_task(config.env).make(**options)
    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(store, name), getattr(env, name)
        if theirs != ours:
            raise UsageError(
                f"dataset={', '.join(ids)} has {name} {theirs}, but env {config.env!r} has {ours}; "
                "train in the environment that the data come from, with the same options"
            )
    env.close()
    return store


def _spec(store: EpisodeStore) -> AgentSpec:
    return AgentSpec(store.observation_space, store.action_space, store.best_return, store.max_return or 1.0)
