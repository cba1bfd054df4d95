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

from rmt_rl.acting.evaluate import Progress, evaluate
from rmt_rl.acting.rollout import Policy, Step, make_vec_env, rollout
from rmt_rl.config import validated
from rmt_rl.data.store import data_root
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset
from rmt_rl.errors import UsageError
from rmt_rl.gymnasium_task import GymnasiumTask
from rmt_rl.registry import load_task, slug
from rmt_rl.task import check_same_spaces, default_episodes, most_lanes, task_file
from rmt_rl.trees import leaves, map_leaves
from rmt_rl.wrappers import VectorReturnToGo

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from pydantic import BaseModel

    from rmt_rl.runs.options import RunConfig
    from rmt_rl.task import Task

LANES = 64  # what the episodes are depends on it, since every lane draws its own random numbers
_HELD = 1 << 18  # bytes of the observations of one step, of all lanes together
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
    if not equals or Path(text).is_dir():
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
    checkpoint: str = "last"  # of trained agents


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
    # Part of a file's name, whose length systems limit.
    kind = slug("-".join(_name(share.policy) for share in behaviour.shares))[:60]
    return f"{slug(task_name)}/{kind}-{episodes}-seed{seed}-{digest[:8]}-v0"


def _name(policy: str) -> str:
    return policy if policy in (EXPERT, RANDOM) else Path(policy).resolve().name


def dataset_ids(config: RunConfig) -> tuple[str, ...]:
    """Return the ids of the data sets that a run learns from: those it names, or the one that the expert makes."""
    data = config.data_options
    if data is None or data.dataset:
        return () if data is None else data.dataset
    episodes = data.collect_episodes or default_episodes(load_task(config.env))
    return (dataset_id(config.env, config.env_options.model_dump(), episodes, data.collect_seed),)


def collect(
    task_name: str,
    options: Mapping[str, Any],
    episodes: int,
    seed: int,
    behaviour: Behaviour = EXPERT_ALONE,
    progress: Progress | None = None,
) -> str:
    """Let policies play, write every episode to a Minari data set, and return its id.

    A data set that is there already is left as it is. Its reference scores, for normalising returns, are the mean
    returns of a random policy and of the expert; where a task has none, of the best policy that plays. They are of
    100 episodes, or as many as are written. Episodes stand one policy after another; how many each has is in the
    metadata.

    Args:
        task_name: the stem of the environment's file, or a Gymnasium id.
        options: of the environment; its defaults for the rest.
        episodes: how many to write.
        seed: of the environment and of all policies.
        behaviour: who acts.
        progress: called after every episode that is written.

    Raises:
        UsageError: the task is unknown or has no expert, or an argument doesn't fit it.
    """
    task = load_task(task_name)
    trained = [share.policy for share in behaviour.shares if share.policy not in (EXPERT, RANDOM)]
    if not trained and (behaviour.sample or behaviour.target_return is not None):
        raise UsageError(
            "sample and target_return are for trained agents; name one with --policy RUN, or leave them out"
        )
    identity = dataset_id(task_name, options, episodes, seed, behaviour)
    if (data_root() / identity).exists():  # it was moved there in one piece
        return identity
    counts = _counts(episodes, behaviour)
    with closing(task.make(**options)) as env:
        players = [_player(share.policy, task, options, env, seed, behaviour) for share in behaviour.shares]
        reference = [EXPERT] if _has_expert(task, options) else [share.policy for share in behaviour.shares]

        def score(name: str) -> float:
            player = _player(name, task, options, env, seed, behaviour)
            games = min(REFERENCE_EPISODES, episodes)
            return evaluate(
                player.policy, task, options, games, seed, deterministic=player.greedy, target_return=player.target
            ).mean_return

        write_dataset(
            identity,
            _reported(
                chain.from_iterable(
                    _played(player, task, options, count, seed + LANES * number, _lanes(env.observation_space))
                    for number, (player, count) in enumerate(zip(players, counts, strict=True))
                ),
                progress,
            ),
            env_spec=env_spec(task, options),
            observation_space=env.observation_space,
            action_space=env.action_space,
            algorithm_name=" + ".join(_name(share.policy) for share in behaviour.shares),
            description=f"{episodes} episodes in {task.ID}, played to the end, none left out.",
            ref_min_score=score(RANDOM),
            ref_max_score=max(map(score, reference)),
            metadata={
                key: json.dumps(value) for key, value in _makers(task, options, episodes, seed, behaviour).items()
            },
        )
    return identity


def _lanes(observation_space: gymnasium.Space[Any]) -> int:
    """How many play at once: fewer where observations are large, as open episodes are held in memory."""
    size = sum(int(leaf.nbytes) for _, leaf in leaves(observation_space.sample()))
    return max(1, min(LANES, _HELD // size))


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
    from rmt_rl.runs.checkpoint import load_agent  # only now, since it imports PyTorch

    agent = load_agent(name, behaviour.checkpoint)
    check_same_spaces(f"policy {name!r}", agent.spec, task.ID, env, "choose another run")
    agent.set_random_seed(seed)
    return _Player(agent, agent.target_return(behaviour.target_return), not behaviour.sample)


def _played(
    player: _Player, task: Task, options: Mapping[str, Any], episodes: int, seed: int, lanes: int
) -> Iterator[Trajectory]:
    """The episodes of one policy."""
    env = make_vec_env(task, options, most_lanes(task, min(lanes, episodes)))
    env = env if player.target is None else VectorReturnToGo(env, player.target)
    with closing(env):
        for trajectory in trajectories(rollout(player.policy, env, episodes, seed, player.greedy), env.num_envs):
            seen: Any = trajectory.observations
            yield trajectory if player.target is None else replace(trajectory, observations=seen["observation"])


def _reported(episodes: Iterable[Trajectory], progress: Progress | None) -> Iterator[Trajectory]:
    """The same episodes; after each, `progress` hears of all steps and episodes so far."""
    steps = 0
    for number, trajectory in enumerate(episodes, start=1):
        yield trajectory
        steps += len(trajectory)
        if progress:
            progress(steps, number)


def _counts(episodes: int, behaviour: Behaviour) -> list[int]:
    """Episodes of each policy, by its parts; rounding never changes the sum.

    Raises:
        UsageError: a policy would play none.
    """
    if episodes < 1:
        raise UsageError(f"episodes = {episodes}: at least 1 is needed")
    parts = [share.parts for share in behaviour.shares]
    borders = np.rint(np.cumsum([0.0, *parts]) / sum(parts) * episodes).astype(int)
    counts = [int(count) for count in np.diff(borders)]
    for share, count in zip(behaviour.shares, counts, strict=True):
        if count == 0:
            raise UsageError(
                f"policy {share.policy!r} would play none of {episodes} episodes with {share.parts} of {sum(parts)} "
                "parts; collect more episodes or give it more parts"
            )
    return counts


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


def _has_expert(task: Task, options: Mapping[str, Any]) -> bool:
    try:
        make_expert(task, options, seed=0)
    except UsageError:  # of a task without one, or without one for these options
        return False
    return True


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
    """Cut a rollout into episodes, in the order in which they end; only those that are still open are held."""
    open_steps: list[list[_LaneStep]] = [[] for _ in range(lanes)]
    for step in steps:
        for lane in np.flatnonzero(step.counted).tolist():
            open_steps[lane].append(_of_lane(step, lane))
        for lane in np.flatnonzero(step.ends).tolist():
            yield _trajectory(open_steps[lane], _row(step.next_observations, lane))
            open_steps[lane] = []


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


class _LaneStep(NamedTuple):
    """One lane's part of a step, in memory of its own."""

    observation: Any
    action: Any
    reward: float
    terminated: bool
    truncated: bool


def _of_lane(step: Step, lane: int) -> _LaneStep:
    ends = bool(step.terminations[lane]), bool(step.truncations[lane])
    return _LaneStep(_row(step.observations, lane), _row(step.actions, lane), float(step.rewards[lane]), *ends)


def _row(batch: Any, lane: int) -> Any:
    return map_leaves(lambda leaf: np.array(leaf[lane]), batch)


def _trajectory(steps: Sequence[_LaneStep], last: Any) -> Trajectory:
    observations, actions, rewards, terminations, truncations = zip(*steps, strict=True)
    return Trajectory(
        observations=_column([*observations, last]),
        actions=_column(actions),
        rewards=np.array(rewards),
        terminations=np.array(terminations),
        truncations=np.array(truncations),
    )


def _column(rows: Sequence[Any]) -> Any:
    """Stack values of a space, trees of arrays (...), to (T, ...)."""
    first = rows[0]
    if isinstance(first, dict):
        return {key: _column([row[key] for row in rows]) for key in first}
    if isinstance(first, tuple):
        return tuple(map(_column, zip(*rows, strict=True)))
    return np.stack(rows)


def _makers(task: Task, options: Mapping[str, Any], episodes: int, seed: int, behaviour: Behaviour) -> dict[str, Any]:
    """Return all that the data depend on, fit for JSON."""
    counts = _counts(episodes, behaviour)
    shares = [
        share._asdict() | {"episodes": count} | _source(share.policy, behaviour.checkpoint)
        for share, count in zip(behaviour.shares, counts, strict=True)
    ]
    return {
        "env": task.ID,
        "options": _plain(validated(task.Config, options)),
        "episodes": episodes,
        "seed": seed,
        "lanes": (LANES, _HELD),
        "env_source_sha256": _env_source(task),
        "behaviour": behaviour._asdict() | {"shares": shares},
    }


def _source(policy: str, checkpoint: str) -> dict[str, str]:
    """What tells a trained agent from another one."""
    if policy in (EXPERT, RANDOM):
        return {}
    from rmt_rl.runs.checkpoint import path_of

    path = path_of(policy, checkpoint)
    if not path.is_file():
        raise UsageError(
            f"policy {policy!r} is neither 'expert' nor 'random' nor the folder of a training run with a checkpoint"
        )
    return {"policy": _name(policy), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _env_source(task: Task) -> str:
    """Of an environment of ours its file and all helpers (`_name.py`) that it needs."""
    if isinstance(task, GymnasiumTask):
        return task.package
    due, found = [task_file(task)], dict[Path, bytes]()
    while due:
        path = due.pop()
        found[path] = path.read_bytes()
        helpers = (each for each in path.parent.glob("_[a-z]*.py") if each not in found)
        due += [each for each in helpers if f"envs.{each.stem} ".encode() in found[path]]
    return hashlib.sha256(b"".join(found[path] for path in sorted(found))).hexdigest()


def _plain(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json")
