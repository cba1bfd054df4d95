"""What every environment keeps, whichever files there are in `envs/`.

The numbers are those of the defaults of `Config`, the training task.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from pydantic import BaseModel
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from rmt_rl import registry
from rmt_rl.errors import UsageError
from rmt_rl.task import Task

NAMES = registry.names("envs")
NATIVE = [name for name in NAMES if hasattr(registry.load_task(name), "make_vec")]
LANES, EPISODES = 20, 400


def step_randomly(env: VectorEnv[Any, Any, Any], seed: int, steps: int) -> list[Any]:
    """Return all that the environment says in response to random actions."""
    said: list[Any] = [env.reset(seed=seed)]
    env.action_space.seed(seed)
    said.extend(env.step(env.action_space.sample()) for _ in range(steps))
    env.close()
    return said


def single_lanes(task: Task, lanes: int) -> SyncVectorEnv:
    return SyncVectorEnv([task.make] * lanes, autoreset_mode=AutoresetMode.NEXT_STEP)


@cache
def expert_success(name: str, memory: bool) -> float:
    """Return the expert's success rate; without memory its every step is an episode's first."""
    task = registry.load_task(name)
    make_vec = getattr(task, "make_vec", None)
    env = make_vec(LANES) if make_vec is not None else single_lanes(task, LANES)
    expert = task.Expert(task.Config(), seed=0)
    observations, _ = env.reset(seed=0)
    state, starts = None, np.ones(LANES, bool)
    results: list[NDArray[np.bool_]] = []
    while sum(map(len, results)) < EPISODES:
        actions, state = expert.predict(observations, state, starts if memory else np.ones(LANES, bool))
        observations, _, terminations, truncations, infos = env.step(actions)
        starts = terminations | truncations
        if "is_success" in infos:
            results.append(infos["is_success"][infos["_is_success"]])
    env.close()
    return float(np.concatenate(results).mean())


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_and_stable_baselines3_accept_it(name: str) -> None:
    task = registry.load_task(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(task.ID, render_mode="rgb_array").unwrapped)
        sb3_check_env(task.make())


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_run(name: str) -> None:
    task = registry.load_task(name)
    one, other, different = (step_randomly(single_lanes(task, 2), seed, 100) for seed in (1, 1, 4))
    assert data_equivalence(one, other)
    assert not data_equivalence(one, different)


@pytest.mark.parametrize("name", NATIVE)
def test_native_vector_env_equals_single_envs(name: str) -> None:
    task = registry.load_task(name)
    native = gymnasium.make_vec(task.ID, 3)
    assert native.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    wanted = single_lanes(task, 3)
    assert native.single_observation_space == wanted.single_observation_space
    assert native.observation_space == wanted.observation_space
    assert native.action_space == wanted.action_space
    assert data_equivalence(step_randomly(native, 5, 400), step_randomly(wanted, 5, 400))


@pytest.mark.parametrize("name", NAMES)
def test_expert_succeeds(name: str) -> None:
    assert expert_success(name, memory=True) == 1


@pytest.mark.parametrize("name", NAMES)
def test_expert_without_its_memory_fails(name: str) -> None:
    assert expert_success(name, memory=False) < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_config_is_what_make_takes(name: str) -> None:
    task = registry.load_task(name)
    config: BaseModel = task.Config()
    assert all(field.description for field in type(config).model_fields.values())
    with pytest.raises(ValueError, match="frozen"):
        setattr(config, next(iter(type(config).model_fields)), None)
    env, default = task.make(**config.model_dump()), task.make()
    assert env.observation_space == default.observation_space
    assert data_equivalence(env.reset(seed=0), default.reset(seed=0))
    with pytest.raises(UsageError, match="no_such_option"):
        task.make(no_such_option=1)


@pytest.mark.parametrize("name", NAMES)
def test_summary_and_id_are_read_without_importing(name: str) -> None:
    task = registry.load_task(name)
    assert 20 < len(registry.summary("envs", name)) <= 120
    assert registry.constant("envs", name, "ID") == task.ID
    assert gymnasium.spec(task.ID).id == task.ID


@pytest.mark.parametrize("name", NAMES)
def test_picture(name: str) -> None:
    env = registry.load_task(name).make(render_mode="rgb_array")
    env.reset(seed=0)
    picture: Any = env.render()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.min() < picture.max()
    env.close()
