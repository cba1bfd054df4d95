"""Data sets made by an environment's own expert, under ids that say everything that made them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from rmt_rl.config import validated
from rmt_rl.data.store import data_root, write_dataset
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError
from rmt_rl.evaluate import evaluate
from rmt_rl.registry import load_task
from rmt_rl.rollout import Policy, Step, make_vec_env, rollout

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from pydantic import BaseModel

    from rmt_rl.task import Task

LANES = 64  # what the episodes are depends on it, since every lane draws its own random numbers
REFERENCE_EPISODES = 100


def dataset_id(task_name: str, options: Mapping[str, Any], episodes: int, seed: int) -> str:
    """Return the Minari id of an expert's data set, e.g. `tmaze/expert-4000-seed0-1a2b3c4d-v0`.

    Its eight hexadecimal digits stand for the options (defaults filled in), the environment's source and how data
    are collected: changed data never go by an old id.

    Raises:
        UsageError: the task is unknown, or an option doesn't fit it.
    """
    task = load_task(task_name)
    digest = hashlib.sha256(json.dumps(_makers(task, options, episodes, seed), sort_keys=True).encode()).hexdigest()
    return f"{task_name}/expert-{episodes}-seed{seed}-{digest[:8]}-v0"


def collect(task_name: str, options: Mapping[str, Any], episodes: int, seed: int) -> str:
    """Let a task's expert play, write every episode to a Minari data set, and return its id.

    A data set that is there already is left as it is. Its reference scores, for normalising returns, are the mean
    returns of a random policy and of the expert.

    Args:
        task_name: the stem of the environment's file.
        options: of the environment; its defaults for the rest.
        episodes: how many to write.
        seed: of the environment and of the expert.

    Raises:
        UsageError: the task is unknown or has no expert, or an argument doesn't fit it.
    """
    task = load_task(task_name)
    identity = dataset_id(task_name, options, episodes, seed)
    if (data_root() / identity).exists():  # it was moved there in one piece
        return identity
    expert = make_expert(task, options, seed)
    env = make_vec_env(task, options, max(1, min(LANES, episodes)))
    with closing(env):
        random = RandomPolicy(env.single_action_space, seed)
        write_dataset(
            identity,
            trajectories(rollout(expert, env, episodes, seed), env.num_envs),
            env_spec=env_spec(task, options),
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            algorithm_name=f"{task_name} expert",
            description=f"{episodes} episodes of the expert of {task.ID}, played to the end, none left out.",
            ref_min_score=evaluate(random, task, options, REFERENCE_EPISODES, seed).mean_return,
            ref_max_score=evaluate(
                make_expert(task, options, seed), task, options, REFERENCE_EPISODES, seed
            ).mean_return,
            metadata={key: json.dumps(value) for key, value in _makers(task, options, episodes, seed).items()},
        )
    return identity


def make_expert(task: Task, options: Mapping[str, Any], seed: int) -> Policy:
    """Return the task's expert.

    Raises:
        UsageError: the task has none, or an option doesn't fit it.
    """
    expert = getattr(task, "Expert", None)
    if expert is None:
        raise UsageError(f"{task.ID} has no expert to collect data from; name an existing data set with --dataset")
    policy: Policy = expert(validated(task.Config, options), seed=seed)
    return policy


def env_spec(task: Task, options: Mapping[str, Any]) -> EnvSpec:
    """Return the Gymnasium spec that makes the environment the data came from.

    Raises:
        UsageError: an option doesn't fit the task.
    """
    spec = copy.deepcopy(gymnasium.spec(task.ID))
    spec.kwargs = _plain(validated(task.Config, options))
    return spec


def trajectories(steps: Iterable[Step], lanes: int) -> Iterator[Trajectory]:
    """Cut a rollout into episodes, in the order in which they end.

    Steps are held until the last episode that was open in them ends.
    """
    open_steps: list[Step] = []
    dropped = 0  # steps already let go, so that step number n is open_steps[n - dropped]
    begins = np.zeros(lanes, np.int64)
    for number, step in enumerate(steps):
        open_steps.append(step)
        begins[~step.counted] = number + 1  # nothing to keep of a lane that is being reset, or has played its share
        for lane in np.flatnonzero(step.ends).tolist():
            yield _trajectory(open_steps[begins[lane] - dropped :], lane)
            begins[lane] = number + 1
        if step.ends.any():
            oldest = int(begins.min())
            del open_steps[: oldest - dropped]
            dropped = oldest


class RandomPolicy:
    """Acts uniformly at random."""

    def __init__(self, action_space: gymnasium.Space[Any], seed: int) -> None:
        """Draw from `action_space`, the space of one lane's actions, seeded."""
        self._action_space = copy.deepcopy(action_space)
        self._action_space.seed(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Draw an action for every lane; `episode_start` says how many there are."""
        if state is None:
            state = batch_space(self._action_space, len(episode_start))
        return state.sample(), state


def _trajectory(steps: Sequence[Step], lane: int) -> Trajectory:
    return Trajectory(
        observations=_column([step.observations for step in steps] + [steps[-1].next_observations], lane),
        actions=_column([step.actions for step in steps], lane),
        rewards=np.array([step.rewards[lane] for step in steps]),
        terminations=np.array([step.terminations[lane] for step in steps]),
        truncations=np.array([step.truncations[lane] for step in steps]),
        seed=None,
    )


def _column(batches: Sequence[Any], lane: int) -> Any:
    """Stack one lane of successive batches: (N, ...) each, together (T, ...)."""
    first = batches[0]
    if isinstance(first, dict):
        return {key: _column([batch[key] for batch in batches], lane) for key in first}
    if isinstance(first, tuple):
        return tuple(_column([batch[index] for batch in batches], lane) for index in range(len(first)))
    return np.stack([batch[lane] for batch in batches])


def _makers(task: Task, options: Mapping[str, Any], episodes: int, seed: int) -> dict[str, Any]:
    """Return all that the data depend on, fit for JSON."""
    return {
        "env": task.ID,
        "options": _plain(validated(task.Config, options)),
        "episodes": episodes,
        "seed": seed,
        "lanes": LANES,
        "env_source_sha256": hashlib.sha256(Path(_file(task)).read_bytes()).hexdigest(),
    }


def _plain(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _file(task: Task) -> str:
    file: str = task.__file__  # type: ignore[attr-defined]  # a task is a module
    return file
