"""Evaluation in shards: each plays some of the environments, with the random numbers that they have together.

Environment i of an evaluation plays a number of episodes that is fixed beforehand, with the seed `seed + i`. So some
neighbouring environments play the same episodes by themselves. Sampled actions get the random numbers that they would
get in the whole batch. Only rounding may differ, which depends on the number of rows that PyTorch computes at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rmt_rl.acting.evaluate import checked_settings, evaluate
from rmt_rl.acting.evaluate_agent import EvaluationSettings, with_references
from rmt_rl.acting.rollout import shares
from rmt_rl.acting.shards import one_thread
from rmt_rl.errors import UsageError
from rmt_rl.export import RuntimeName
from rmt_rl.export.runtime import with_runtime
from rmt_rl.nn.sampling import BatchPart
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import path_of, read_checkpoint, restore_agent
from rmt_rl.runs.evaluation import EpisodeResult, Evaluation, check_episodes
from rmt_rl.runs.folder import read_config
from rmt_rl.task import most_lanes, task_config

if TYPE_CHECKING:
    from rmt_rl.acting.evaluate import ProgressReport
    from rmt_rl.acting.shards import Compute
    from rmt_rl.agent import BaseAgent
    from rmt_rl.runs.options import RunConfig


class SavedAgent(NamedTuple):
    """An agent as every process finds it.

    Attributes:
        run: the run's folder.
        checkpoint: `last` or `best`.
        update: update of the checkpoint.
        device: where the agent is put.
        runtime: computes the agent's steps.
    """

    run: Path
    checkpoint: str
    update: int
    device: str
    runtime: RuntimeName = "torch"

    def load(self) -> BaseAgent:
        """Return the agent.

        Raises:
            UsageError: the checkpoint can't be used, or is of another update.
        """
        path = path_of(self.run, self.checkpoint)
        saved = read_checkpoint(path)
        if saved.header.update != self.update:
            raise UsageError(
                f"checkpoint {path} is of update {saved.header.update}, but of update {self.update} when the "
                "evaluation began; evaluate the run when its training has ended"
            )
        return with_runtime(restore_agent(saved, self.device), self.runtime)


class Shard(NamedTuple):
    """All that a process needs to play a part of the episodes at one setting.

    Attributes:
        agent: the agent that plays.
        varied: the varied options.
        settings: those of the whole evaluation.
        part: the environments of this shard among those that are played at once.
        episodes: number of episodes of this shard.
    """

    agent: SavedAgent
    varied: Mapping[str, Any]
    settings: EvaluationSettings
    part: BatchPart
    episodes: int


class Plan(NamedTuple):
    """An evaluation in shards: those of each setting, in order."""

    config: RunConfig
    shards: list[list[Shard]]

    def every_shard(self) -> list[Shard]:
        """Return the shards of all settings, in order."""
        return [shard for shards in self.shards for shard in shards]


def plan_shards(
    config: RunConfig,
    agent: SavedAgent,
    vary: Mapping[str, Sequence[Any]],
    settings: EvaluationSettings,
    shards: int,
) -> Plan:
    """Divide an evaluation of a run's agent into shards, after all checks of an evaluation.

    Args:
        config: the run.
        agent: the run's agent.
        vary: values of environment options.
        settings: how to evaluate.
        shards: number of shards at each combination of the values. There are at most as many as environments.

    Raises:
        UsageError: as in `evaluate_run_grid`.
    """
    task = load_task(config.env)
    loaded = agent._replace(device="cpu").load()
    loaded.target_return(settings.target_return)
    check_episodes("episodes", settings.episodes)
    environments = most_lanes(task, min(settings.episodes, settings.num_envs))
    parts = list(_parts(environments, min(shards, environments)))
    if settings.sample and len(parts) > 1:
        loaded.sample_part(parts[0])
    episodes = shares(settings.episodes, environments)
    planned = []
    for setting in checked_settings(loaded, task, config.env_options, vary):
        own = [Shard(agent, setting.varied, settings, part, int(episodes[part.rows].sum())) for part in parts]
        planned.append(own)
    return Plan(config, planned)


def _parts(environments: int, shards: int) -> Iterator[BatchPart]:
    """Divide the environments as evenly as can be."""
    first = 0
    for size in shares(environments, shards).tolist():
        yield BatchPart(first, size, environments)
        first += size


def evaluate_shards(plan: Plan, compute: Compute, progress: ProgressReport | None = None) -> Iterator[Evaluation]:
    """Yield the evaluation at every combination of the varied options' values, once its shards are played.

    Args:
        plan: the shards.
        compute: plays them.
        progress: called after every shard with the steps and the episodes of this combination so far.

    Raises:
        UsageError: a shard raised it.
    """
    played = iter(compute(play_shard, plan.every_shard()))
    for shards in plan.shards:
        evaluations = _reported(islice(played, len(shards)), progress)
        yield with_references(_merged(shards[0], evaluations), plan.config)


def _reported(evaluations: Iterator[Evaluation], progress: ProgressReport | None) -> Iterator[Evaluation]:
    """Yield the same evaluations; after each, tell `progress` the numbers of steps and episodes so far."""
    steps = episodes = 0
    for evaluation in evaluations:
        steps += sum(episode.length for episode in evaluation.episodes)
        episodes += len(evaluation.episodes)
        if progress is not None:
            progress(steps, episodes)
        yield evaluation


def _merged(shard: Shard, evaluations: Iterator[Evaluation]) -> Evaluation:
    """Return the whole evaluation of which `shard` is a part."""
    parts = list(evaluations)
    episodes = [episode for part in parts for episode in part.episodes]
    return replace(
        parts[0],
        options=shard.varied,
        seed=shard.settings.seed,
        lanes=shard.settings.num_envs,
        seconds=sum(part.seconds for part in parts),
        episodes=tuple(episodes),
    )


def play_shard(shard: Shard) -> Evaluation:
    """Play the episodes of a shard; return them with the environments' numbers in the whole evaluation."""
    settings, part = shard.settings, shard.part
    config = read_config(shard.agent.run)
    task = load_task(config.env)
    agent = shard.agent.load()
    agent.set_random_seed(settings.seed)
    if settings.sample and part.size < part.whole:
        agent.sample_part(part)
    with one_thread():
        evaluation = evaluate(
            agent,
            task,
            task_config(task, dict(config.env_options) | dict(shard.varied)),
            shard.episodes,
            settings.seed + part.first,
            deterministic=not settings.sample,
            target_return=agent.target_return(settings.target_return),
            max_lanes=part.size,
        )
    return replace(evaluation, episodes=tuple(_moved(evaluation.episodes, part.first)))


def _moved(episodes: Sequence[EpisodeResult], first: int) -> Iterator[EpisodeResult]:
    return (replace(episode, lane=first + episode.lane) for episode in episodes)
