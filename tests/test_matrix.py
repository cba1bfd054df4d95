"""Every agent trains in every environment: the smallest run of each pair, and a step of the trained agent.

An agent knows an environment by its spaces alone. So the quick suite has one agent of each kind in every environment,
and every agent in two of them; the slow tests are all other pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from gymnasium.vector import VectorEnv

import rmt_rl
from rmt_rl.acting.collect import collect
from rmt_rl.acting.policies import Behaviour, parse_share
from rmt_rl.acting.rollout import make_vec_env
from rmt_rl.registry import NotInstalled, agent_class, load_task, names
from rmt_rl.sb3_agent import SB3Agent
from tests.tiny import work_folder

SMALL = {"segment_length": 4, "width": 16, "heads": 2, "layers": 1, "n_steps": 4, "batch_size": 4, "n_epochs": 1}
SHORT = {"max_steps": 8, "corridor_length": 3, "episode_length": 5, "size": 7}
"""Options that make episodes short, by name; those that an environment has and whose value fits."""
OFFLINE = {"updates": 1, "batch_size": 2, "segments": 2, "accelerator": "cpu", "eval_episodes": 0}
ONLINE = {"total_timesteps": 8, "n_envs": 2, "eval_episodes": 0}


KINDS = ("bc", "ppo", "rate", "recurrent_ppo")  # without memory and with one, offline and online
COSTLY = "memory_maze"  # takes seconds to make
KINDS_OF_COSTLY = ("ppo", "rate")


def pairs() -> Iterator[Any]:
    """Yield every environment with every agent; environments whose extra isn't installed are skipped."""
    for env, agent in product(names("envs"), names("agents")):
        is_quick = agent in (KINDS_OF_COSTLY if env == COSTLY else KINDS) or env in environments_of(agent)
        yield pytest.param(env, agent, marks=[*unusable(env), *[pytest.mark.slow] * (not is_quick)])


def environments_of(agent: str) -> set[str]:
    """Return two environments, other ones for each agent in turn."""
    usable = [name for name in names("envs") if name != COSTLY and not unusable(name)]
    place = names("agents").index(agent)
    return {usable[(place + step) % len(usable)] for step in (0, len(usable) // 2)}


@cache
def unusable(env: str) -> list[pytest.MarkDecorator]:
    try:
        load_task(env)
    except NotInstalled as error:
        return [pytest.mark.skip(reason=str(error))]
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with work_folder(tmp_path_factory) as made:
        yield made


def options_of(env: str) -> dict[str, Any]:
    """Return options of an environment that make its episodes short."""
    fields = load_task(env).Config.model_fields
    return {name: value for name, value in SHORT.items() if name in fields and (env, name) != ("memory_maze", "size")}


@cache
def dataset_of(env: str) -> str:
    """Return the id of a few episodes of random actions."""
    random = Behaviour((parse_share("random"),))
    return collect(env, options_of(env), 1 if env == COSTLY else 3, 0, random)


@cache
def vector_of(env: str) -> VectorEnv[Any, Any, Any]:
    """Return two environments, made once for all agents; of those that are costly one."""
    return make_vec_env(load_task(env), options_of(env), 1 if env == COSTLY else 2)


@pytest.mark.filterwarnings("ignore:.*are never trained on")  # one update reads eight steps
@pytest.mark.parametrize(("env", "agent"), list(pairs()))
def test_agent_trains_in_env(env: str, agent: str, folder: Path) -> None:
    cls = agent_class(agent)
    small = {name: value for name, value in SMALL.items() if name in cls.Config.model_fields}
    acts = issubclass(cls, SB3Agent)
    options: dict[str, Any] = ONLINE if acts else OFFLINE | {"dataset": dataset_of(env)}
    out = folder / f"{env}-{agent}"
    trained = rmt_rl.train(env, agent, out, env_options=options_of(env), agent_options=small, **options)
    vector = vector_of(env)
    observations, _ = vector.reset(seed=0)
    for deterministic in (True, False):
        actions, _ = trained.predict(observations, deterministic=deterministic)
        assert vector.action_space.contains(actions)
        vector.step(actions)
