"""Data sets made by acting: by an environment's own expert, trained agents, random actions, or a mix of these.

Their ids tell everything that made them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from rmt_rl.config import validated
from rmt_rl.data.store import data_root, write_dataset
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.errors import UsageError
from rmt_rl.evaluate import evaluate
from rmt_rl.gymnasium_task import GymnasiumTask
from rmt_rl.registry import load_task, slug
from rmt_rl.rollout import Policy, Step, make_vec_env, rollout
from rmt_rl.wrappers import VectorReturnToGo

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from pydantic import BaseModel

    from rmt_rl.run import OfflineRun
    from rmt_rl.task import Task

LANES = 64  # what the episodes are depends on it, since every lane draws its own random numbers
REFERENCE_EPISODES = 100


EXPERT, RANDOM = "expert", "random"  # policies that need no training run


class Share(NamedTuple):
    """Who plays, and for how many parts of the episodes."""

    policy: str  # `expert`, `random`, or the folder of a training run
    parts: float = 1.0


def parse_share(text: str) -> Share:
    """Read `runs/ppo-0`, or `runs/ppo-0=2` for two parts of the episodes.

    Raises:
        UsageError: the parts are no positive number.
    """
    policy, equals, parts = text.rpartition("=")
    if not equals:
        return Share(text)
    try:
        share = Share(policy, float(parts))
    except ValueError:
        share = Share(policy, 0)
    if not 0 < share.parts < float("inf"):
        raise UsageError(f"policy {text!r}: give POLICY, or POLICY=PARTS with a number of parts above 0")
    return share


class Behaviour(NamedTuple):
    """Who acts in the episodes of a data set."""

    shares: tuple[Share, ...] = (Share(EXPERT),)
    sample: bool = False  # trained agents sample their actions; otherwise the likeliest are taken
    target_return: float | None = None  # for agents conditioned on it; None: the best of the data they learnt from


EXPERT_ALONE = Behaviour()


def dataset_id(
    task_name: str, options: Mapping[str, Any], episodes: int, seed: int, behaviour: Behaviour = EXPERT_ALONE
) -> str:
    """Return the Minari id of a data set, e.g. `tmaze/expert-4000-seed0-1a2b3c4d-v0`.

    Its eight hexadecimal digits stand for the options (defaults filled in), the environment's source, who acts and how
    data are collected: changed data never go by an old id.

    Raises:
        UsageError: the task is unknown, an option doesn't fit it, or a training run is missing.
    """
    makers = _makers(load_task(task_name), options, episodes, seed, behaviour)
    digest = hashlib.sha256(json.dumps(makers, sort_keys=True).encode()).hexdigest()
    kind = "-".join(slug(Path(share.policy).name) for share in behaviour.shares)
    return f"{slug(task_name)}/{kind}-{episodes}-seed{seed}-{digest[:8]}-v0"


def dataset_ids(config: OfflineRun) -> tuple[str, ...]:
    """Return the ids of the data sets that a run learns from: those it names, or the one that the expert makes."""
    data = config.data
    options = config.env_options.model_dump()
    return data.dataset or (dataset_id(config.env, options, data.collect_episodes, data.collect_seed),)


def collect(
    task_name: str, options: Mapping[str, Any], episodes: int, seed: int, behaviour: Behaviour = EXPERT_ALONE
) -> str:
    """Let policies play, write every episode to a Minari data set, and return its id.

    A data set that is there already is left as it is. Its reference scores, for normalising returns, are the mean
    returns of a random policy and of the expert; where a task has none, of the best policy that plays. Episodes stand
    one policy after another; the metadata tell how many each has.

    Args:
        task_name: the stem of the environment's file, or a Gymnasium id.
        options: of the environment; its defaults for the rest.
        episodes: how many to write.
        seed: of the environment and of all policies.
        behaviour: who acts.

    Raises:
        UsageError: the task is unknown or has no expert, or an argument doesn't fit it.
    """
    task = load_task(task_name)
    identity = dataset_id(task_name, options, episodes, seed, behaviour)
    if (data_root() / identity).exists():  # it was moved there in one piece
        return identity
    counts = _counts(episodes, [share.parts for share in behaviour.shares])
    with closing(task.make(**options)) as env:
        players = [_player(share.policy, task, options, env, seed, behaviour) for share in behaviour.shares]
        reference = [EXPERT] if hasattr(task, "Expert") else [share.policy for share in behaviour.shares]

        def score(name: str) -> float:
            player = _player(name, task, options, env, seed, behaviour)
            games = min(REFERENCE_EPISODES, episodes)
            return evaluate(
                player.policy, task, options, games, seed, deterministic=player.greedy, target_return=player.target
            ).mean_return

        write_dataset(
            identity,
            chain.from_iterable(
                _played(player, task, options, count, seed + LANES * number)
                for number, (player, count) in enumerate(zip(players, counts, strict=True))
            ),
            env_spec=env_spec(task, options),
            observation_space=env.observation_space,
            action_space=env.action_space,
            algorithm_name=" + ".join(Path(share.policy).name for share in behaviour.shares),
            description=f"{episodes} episodes in {task.ID}, played to the end, none left out.",
            ref_min_score=score(RANDOM),
            ref_max_score=max(map(score, reference)),
            metadata={
                key: json.dumps(value) for key, value in _makers(task, options, episodes, seed, behaviour).items()
            },
        )
    return identity


class _Player(NamedTuple):
    policy: Policy
    target: float | None = None  # the return it aims at, where it is conditioned on one
    greedy: bool = True


def _player(
    name: str, task: Task, options: Mapping[str, Any], env: gymnasium.Env[Any, Any], seed: int, behaviour: Behaviour
) -> _Player:
    if name == RANDOM:
        return _Player(RandomPolicy(env.action_space, seed))
    if name == EXPERT:
        return _Player(make_expert(task, options, seed))
    from rmt_rl.checkpoint import load_agent  # only now, since it imports PyTorch

    agent = load_agent(name)
    for field in ("observation_space", "action_space"):
        ours, theirs = getattr(agent.spec, field), getattr(env, field)
        if ours != theirs:
            raise UsageError(f"policy {name!r} has {field} {ours}, but {task.ID} has {theirs}; choose another run")
    agent.set_random_seed(seed)
    target = agent.spec.target_return if behaviour.target_return is None else behaviour.target_return
    return _Player(agent, target, not behaviour.sample)


def _played(player: _Player, task: Task, options: Mapping[str, Any], episodes: int, seed: int) -> Iterator[Trajectory]:
    """The episodes of one policy."""
    if not episodes:
        return
    env = make_vec_env(task, options, min(LANES, episodes))
    env = env if player.target is None else VectorReturnToGo(env, player.target)
    with closing(env):
        for trajectory in trajectories(rollout(player.policy, env, episodes, seed, player.greedy), env.num_envs):
            seen: Any = trajectory.observations
            yield trajectory if player.target is None else replace(trajectory, observations=seen["observation"])


def _counts(episodes: int, parts: Sequence[float]) -> list[int]:
    """Episodes of each policy, by its parts; rounding never changes the sum."""
    borders = np.rint(np.cumsum([0.0, *parts]) / sum(parts) * episodes).astype(int)
    return [int(count) for count in np.diff(borders)]


def make_expert(task: Task, options: Mapping[str, Any], seed: int) -> Policy:
    """Return the task's expert.

    Raises:
        UsageError: the task has none, or an option doesn't fit it.
    """
    expert = getattr(task, "Expert", None)
    if expert is None:
        raise UsageError(
            f"{task.ID} has no expert to collect data from; name a data set with --dataset, or collect one with "
            "rmt-rl collect --policy"
        )
    policy: Policy = expert(validated(task.Config, options), seed=seed)
    return policy


def env_spec(task: Task, options: Mapping[str, Any]) -> EnvSpec:
    """Return the Gymnasium spec that makes the environment the data came from.

    Raises:
        UsageError: an option doesn't fit the task.
    """
    if isinstance(task, GymnasiumTask):
        return task.spec(**options)
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
        # A stream apart: an environment seeded alike would draw the very same numbers.
        self._action_space.seed(int(np.random.SeedSequence(seed).spawn(1)[0].generate_state(1)[0]))

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


def _makers(task: Task, options: Mapping[str, Any], episodes: int, seed: int, behaviour: Behaviour) -> dict[str, Any]:
    """Return all that the data depend on, fit for JSON."""
    shares = [share._asdict() | _source(share.policy) for share in behaviour.shares]
    return {
        "env": task.ID,
        "options": _plain(validated(task.Config, options)),
        "episodes": episodes,
        "seed": seed,
        "lanes": LANES,
        "env_source_sha256": _env_source(task),
        "behaviour": behaviour._asdict() | {"shares": shares},
    }


def _source(policy: str) -> dict[str, str]:
    """What tells a trained agent from another one."""
    if policy in (EXPERT, RANDOM):
        return {}
    from rmt_rl.checkpoint import path_of

    path = path_of(policy)
    if not path.is_file():
        raise UsageError(
            f"policy {policy!r} is neither 'expert' nor 'random' nor the folder of a training run with a checkpoint"
        )
    return {"policy": Path(policy).name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _env_source(task: Task) -> str:
    """Of an environment of ours its file and the helpers beside it that it imports, of others the package's version."""
    if isinstance(task, GymnasiumTask):
        return task.package
    file = Path(task.__file__)  # type: ignore[attr-defined]  # a task is a module
    source = file.read_bytes()
    helpers = sorted(path for path in file.parent.glob("_[a-z]*.py") if f"envs.{path.stem} ".encode() in source)
    return hashlib.sha256(b"".join([source, *(path.read_bytes() for path in helpers)])).hexdigest()


def _plain(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json")
