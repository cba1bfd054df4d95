"""Collect data sets: policies play, and every episode is written to a Minari data set."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium

from rmt_rl.acting.evaluate import ProgressReport, evaluate
from rmt_rl.acting.histories import Histories
from rmt_rl.acting.policies import (
    EXPERT,
    EXPERT_ALONE,
    HISTORIES,
    RANDOM,
    Behaviour,
    Disturbed,
    RandomPolicy,
    Share,
    has_expert,
    make_expert,
)
from rmt_rl.acting.provenance import Recipe
from rmt_rl.acting.recording import LANES, recorded_lanes, trajectories
from rmt_rl.acting.rollout import make_vec_env, rollout, shares
from rmt_rl.acting.shards import one_thread
from rmt_rl.config import Frozen
from rmt_rl.data.root import data_root
from rmt_rl.data.trajectory import Arrays, Trajectory
from rmt_rl.data.writing import check_storable, making, write_dataset
from rmt_rl.environments import make_env
from rmt_rl.errors import UsageError
from rmt_rl.export.runtime import with_runtime
from rmt_rl.gymnasium_task import ClassTask, GymnasiumTask
from rmt_rl.lives import lifetime_wrapper
from rmt_rl.machine import check_disk
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import load_agent
from rmt_rl.spec_repairs import storable_spec
from rmt_rl.task import Options, Policy, Task, check_same_spaces, divided, most_lanes, task_config
from rmt_rl.wrappers import VectorReturnToGo

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from rmt_rl.acting.shards import Compute

Env = gymnasium.Env[Any, Any]
REFERENCE_EPISODES = 100
EPISODE_BYTES = 1024  # of an episode in a file, at least


def collect(
    task_name: str,
    options: Options,
    episodes: int,
    seed: int,
    behaviour: Behaviour = EXPERT_ALONE,
    progress: ProgressReport | None = None,
    shards: int = 1,
    compute: Compute = map,
) -> str:
    """Let policies play, write every episode to a Minari data set, and return its id.

    An existing data set is left as it is. If another process is making it, wait for that process. The episodes are
    ordered by policy; the metadata hold the number of episodes of each. The reference scores, which normalise returns,
    are mean returns of a random policy and of the expert. If the task has no expert, the best policy of the mix takes
    its place. They are measured on 100 episodes, or on as many as are written if that is fewer.

    Args:
        task_name: the stem of the environment's file, or a Gymnasium id.
        options: options of the environment; its defaults for the rest.
        episodes: number of episodes to write.
        seed: seed of the environment and of all policies.
        behaviour: the policies that play.
        progress: called after every episode that is written.
        shards: parts into which the episodes of each policy are divided, each with seeds of its own. The episodes
            depend on the number of shards, and not on who plays them.
        compute: calls a function with each of several arguments, and returns the results in order. Plays the shards.

    Raises:
        UsageError: the task is unknown or has no expert, or an argument doesn't fit it.
    """
    _check_trained(behaviour)
    task = load_task(task_name)
    recipe = Recipe(task_name, task, task_config(task, options), episodes, seed, behaviour, shards)
    if shards < 1 or shards > min(behaviour.episodes_by_share(episodes)):
        raise UsageError(f"shards={shards}: every policy plays at least an episode in each; choose 1 or more, or fewer")
    identity = recipe.dataset_id()
    with making(identity) as folder:
        if folder is not None:
            check_disk(f"episodes={episodes}: their data", episodes * EPISODE_BYTES, data_root(), "collect fewer")
            with closing(make_env(task, recipe.config)) as env:
                _write(identity, folder, recipe, env, progress, compute)
    return identity


def _check_trained(behaviour: Behaviour) -> None:
    is_trained = any(share.trained for share in behaviour.shares)
    has_options = behaviour.sample or behaviour.target_return is not None or behaviour.runtime != "torch"
    if not is_trained and has_options:
        raise UsageError(
            "sample, target_return and runtime are for trained agents; name one with --policy RUN, or leave them out"
        )


def _write(
    identity: str, folder: Path, recipe: Recipe, env: Env, progress: ProgressReport | None, compute: Compute
) -> None:
    task, policies = recipe.task, recipe.behaviour.shares
    check_storable(env)
    spec = env_spec(task, recipe.config)
    best = (Share(EXPERT),) if has_expert(task, recipe.config) else policies
    write_dataset(
        identity,
        reported(_episodes(recipe, env, compute), progress),
        env_spec=spec,
        observation_space=env.observation_space,
        action_space=env.action_space,
        algorithm_name=" + ".join(share.name for share in policies),
        description=f"{recipe.episodes} episodes in {task.ID}, played to the end, none left out.",
        ref_min_score=_score(Share(RANDOM), recipe, env),
        ref_max_score=max(_score(share, recipe, env) for share in best),
        metadata={name: json.dumps(value) for name, value in recipe.facts().items()},
        folder=folder,
    )


class _Player(NamedTuple):
    """A policy, and how it is asked to play."""

    policy: Policy
    target_return: float | None = None  # None: the policy isn't conditioned on a return
    deterministic: bool = True


def _player(share: Share, recipe: Recipe, env: Env) -> _Player:
    task, behaviour = recipe.task, recipe.behaviour
    if share.policy == RANDOM:
        return _Player(RandomPolicy(env.action_space, recipe.seed))
    if share.policy == HISTORIES:
        return _Player(Histories(env.action_space, divided(task, recipe.config).lifetime, recipe.seed))
    if share.policy == EXPERT:
        return _Player(make_expert(task, recipe.config, recipe.seed))
    agent = with_runtime(load_agent(share.folder, behaviour.checkpoint), behaviour.runtime)
    check_same_spaces(f"policy {share.policy!r}", agent.spec, task.ID, env, "choose another run")
    agent.set_random_seed(recipe.seed)
    return _Player(agent, agent.target_return(behaviour.target_return), not behaviour.sample)


def _recorded_player(share: Share, recipe: Recipe, env: Env) -> _Player:
    """Return a policy as its episodes are recorded: with the noise of the recipe."""
    player = _player(share, recipe, env)
    noise = recipe.behaviour.noise
    if not noise or share.policy == RANDOM:
        return player
    return player._replace(policy=Disturbed(player.policy, env.action_space, noise, recipe.seed))


def _score(share: Share, recipe: Recipe, env: Env) -> float:
    """Return a policy's mean return, without noise, for normalising returns."""
    player = _player(share, recipe, env)
    evaluation = evaluate(
        player.policy,
        recipe.task,
        recipe.config,
        min(REFERENCE_EPISODES, recipe.episodes),
        recipe.seed,
        deterministic=player.deterministic,
        target_return=player.target_return,
    )
    return evaluation.mean_return


def _episodes(recipe: Recipe, env: Env, compute: Compute) -> Iterator[Trajectory]:
    """Play all episodes, one policy after another."""
    parts = list(_parts(recipe))
    if recipe.shards > 1:
        return chain.from_iterable(compute(play_shard, [Shard.of(recipe, part) for part in parts]))
    players = [_recorded_player(share, recipe, env) for share in recipe.behaviour.shares]
    lanes = recorded_lanes(env.observation_space)
    played = [_played(players[part.policy], recipe, part.episodes, part.seed, lanes) for part in parts]
    return chain.from_iterable(played)


class Part(NamedTuple):
    """Episodes that are played together.

    Attributes:
        policy: number of the policy among those of the mix.
        shard: number of the shard.
        episodes: number of episodes.
        seed: seed of the environments, which count their seeds up from here.
    """

    policy: int
    shard: int
    episodes: int
    seed: int


def _parts(recipe: Recipe) -> Iterator[Part]:
    """Yield the parts of a data set in order."""
    counts = recipe.behaviour.episodes_by_share(recipe.episodes)
    for policy, count in enumerate(counts):
        for shard, episodes in enumerate(shares(count, recipe.shards).tolist()):
            place = policy * recipe.shards + shard
            yield Part(policy, shard, episodes, recipe.seed + place * LANES)


class Shard(NamedTuple):
    """All that a process needs to play a part of a data set."""

    task_name: str
    options: dict[str, Any]
    episodes: int  # of the whole data set
    seed: int
    behaviour: Behaviour
    part: Part

    @classmethod
    def of(cls, recipe: Recipe, part: Part) -> Shard:
        """Return the shard of a recipe that is this part of it."""
        options = dict(recipe.config)
        return cls(recipe.task_name, options, recipe.episodes, recipe.seed, recipe.behaviour, part)


def play_shard(shard: Shard) -> list[Trajectory]:
    """Play the episodes of a shard."""
    task = load_task(shard.task_name)
    config = task_config(task, shard.options)
    seed = shard.seed + shard.part.shard * LANES  # of the policy
    recipe = Recipe(shard.task_name, task, config, shard.episodes, seed, shard.behaviour)
    with closing(make_env(task, config)) as env, one_thread():
        player = _recorded_player(shard.behaviour.shares[shard.part.policy], recipe, env)
        lanes = recorded_lanes(env.observation_space)
        return list(_played(player, recipe, shard.part.episodes, shard.part.seed, lanes))


def _played(player: _Player, recipe: Recipe, episodes: int, seed: int, lanes: int) -> Iterator[Trajectory]:
    """Play the episodes of one policy; record the environment's own observations, without the return-to-go."""
    task = recipe.task
    env = make_vec_env(task, recipe.config, most_lanes(task, min(lanes, episodes)))
    if player.target_return is not None:
        env = VectorReturnToGo(env, player.target_return)
    with closing(env):
        steps = rollout(player.policy, env, episodes, seed, player.deterministic)
        for trajectory in trajectories(steps, env.num_envs):
            if player.target_return is None:
                yield trajectory
            else:
                yield replace(trajectory, observations=_unwrapped(trajectory.observations))


def _unwrapped(observations: Arrays) -> Arrays:
    """Return what `VectorReturnToGo` wrapped."""
    assert isinstance(observations, dict)
    return observations["observation"]


def reported(episodes: Iterable[Trajectory], progress: ProgressReport | None) -> Iterator[Trajectory]:
    """Yield the same episodes; after each, tell `progress` the numbers of steps and episodes so far."""
    steps = 0
    for number, trajectory in enumerate(episodes, start=1):
        yield trajectory
        steps += len(trajectory)
        if progress:
            progress(steps, number)


def env_spec(task: Task, config: Frozen) -> EnvSpec:
    """Return the Gymnasium spec that makes the environment of the data."""
    arguments, lifetime = divided(task, config, "json")
    if isinstance(task, GymnasiumTask) and not isinstance(task, ClassTask):
        spec = copy.copy(task.spec(**arguments))
    else:
        spec = copy.deepcopy(gymnasium.spec(task.ID))
        spec.kwargs = arguments
    if lifetime is not None:
        spec.additional_wrappers += (lifetime_wrapper(lifetime),)
    return storable_spec(spec)
