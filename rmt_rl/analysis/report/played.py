"""Episodes that an agent plays for the report, and pictures of one of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np

from rmt_rl.acting.drawing import Picture, make_drawn_env, picture
from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import Env, Step, VecEnv, make_vec_env, rollout, with_array_actions
from rmt_rl.agent import BaseAgent
from rmt_rl.config import Frozen
from rmt_rl.data.segment import Span
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError
from rmt_rl.success import success_of
from rmt_rl.task import Task, most_lanes
from rmt_rl.training.datasets import labelled
from rmt_rl.trees import leaves, map_leaves, part_at
from rmt_rl.wrappers import VectorReturnToGo

ENVIRONMENTS = 16  # each plays one episode: one is shown, others give memories to compare with


@dataclass(frozen=True)
class PlayedEpisode:
    """An episode that the agent played.

    Attributes:
        environment: index of the environment; its seed is the first one's plus this index.
        trajectory: the episode, without the return-to-go that was observed beside it; with the task's labels.
        returns_to_go: observed by the agent, (T,); None if it isn't conditioned on returns.
        success: None if the environment reports none.
    """

    environment: int
    trajectory: Trajectory
    returns_to_go: Sequence[float] | None
    success: bool | None


class PlayedEpisodes:
    """Played episodes as a source of trajectories, see `rmt_rl.data.feed.Episodes`."""

    def __init__(self, episodes: Sequence[PlayedEpisode]) -> None:
        self.episodes = episodes
        self.lengths = np.array([len(episode.trajectory) for episode in episodes], np.int64)

    def span(self, index: int, start: int, stop: int) -> Span:
        return Span(self.episodes[index].trajectory, start, stop)


def play(agent: BaseAgent, task: Task, options: Frozen, seed: int) -> PlayedEpisodes:
    """Play an episode in each of some environments with the likeliest actions.

    Raises:
        UsageError: the environment can't be made, or gives numbers that `rollout` refuses.
    """
    count = most_lanes(task, ENVIRONMENTS)
    target_return = agent.target_return(None)
    env: VecEnv = make_vec_env(task, options, count)
    if target_return is not None:
        env = VectorReturnToGo(env, target_return)
    ended: list[tuple[int, bool | None]] = []
    with closing(env):
        steps = _noted(rollout(agent, env, count, seed), ended)
        played = list(trajectories(steps, count))
    episodes = []
    for (environment, success), trajectory in zip(ended, played, strict=True):
        episodes.append(_episode(environment, trajectory, success, target_return, task))
    return PlayedEpisodes(sorted(episodes, key=lambda episode: episode.environment))


def _noted(steps: Iterable[Step], ended: list[tuple[int, bool | None]]) -> Iterator[Step]:
    """Yield the same steps; note each environment whose episode ends, in order, and its success."""
    for step in steps:
        for lane in np.flatnonzero(step.ends).tolist():
            ended.append((lane, success_of(step.infos, lane)))
        yield step


def _episode(
    environment: int, trajectory: Trajectory, success: bool | None, target_return: float | None, task: Task
) -> PlayedEpisode:
    if target_return is None:
        return PlayedEpisode(environment, labelled(task, trajectory), None, success)
    observed: Any = trajectory.observations
    # What is left of the target after the episode: the segments' returns-to-go are then those that were observed.
    later = target_return - float(trajectory.rewards.sum())
    plain = replace(trajectory, observations=observed["observation"], later=later)
    return PlayedEpisode(environment, labelled(task, plain), plain.returns_to_go.tolist(), success)


def drawn_episode(task: Task, options: Frozen, episode: PlayedEpisode, seed: int, steps: int) -> Iterator[Picture]:
    """Play the first steps of an episode again, and yield a picture before each of them and one behind the last.

    Raises:
        UsageError: the environment can't be drawn, or doesn't play the same again.
    """
    trajectory = episode.trajectory
    env: Env = with_array_actions(make_drawn_env(task, options))
    with closing(env):
        observation, _ = env.reset(seed=seed + episode.environment)
        for step in range(min(steps, len(trajectory))):
            _check_same(task, observation, trajectory, step)
            yield picture(env)
            action = map_leaves(itemgetter(step), trajectory.actions)
            observation, *_ = env.step(action)
        yield picture(env)


def _check_same(task: Task, observation: Any, trajectory: Trajectory, step: int) -> None:
    for place, leaf in leaves(trajectory.observations):
        if not np.array_equal(part_at(observation, place), leaf[step]):
            raise UsageError(f"env {task.ID!r} doesn't play an episode again as it was, though seed and actions are")
