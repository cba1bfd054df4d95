"""The contract of every environment that the registry finds: files in `envs/` and entry points of packages.

The numbers are those of the defaults of `Config`, the training task.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from pydantic import BaseModel
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from rmt_rl import registry
from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.recording import trajectories
from rmt_rl.acting.rollout import make_vec_env, rollout
from rmt_rl.errors import UsageError
from rmt_rl.gymnasium_task import GymnasiumTask
from rmt_rl.task import Policy, Task

LANES, EPISODES = 20, 400
SLOW = {"memory_maze"}  # each seeded reset builds a simulator: 3 s


def load(name: str) -> Task | None:
    try:
        return registry.load_task(name)
    except UsageError:  # it needs an extra
        return None


def param(name: str) -> Any:
    if name in SLOW:
        return pytest.param(name, marks=pytest.mark.slow)
    return pytest.param(name, marks=() if name in LOADED else pytest.mark.skip(reason="its extra isn't installed"))


TASKS = {name: load(name) for name in registry.names("envs")}
EVERY = [name for name, task in TASKS.items() if not isinstance(task, GymnasiumTask)]
"""Without classes of environments that packages declare: these have neither an expert nor a summary of their own."""
LOADED = [name for name in EVERY if TASKS[name]]
NAMES = [param(name) for name in EVERY]
NATIVE = [name for name in LOADED if hasattr(registry.load_task(name), "make_vec")]
CORE = [name for name in LOADED if registry.constant("envs", name, "EXTRA") is None]
"""Those with an extra have tests of their experts of their own, as their episodes are long."""
UNCERTAIN = {"bandit"}
"""Those whose best policy doesn't always succeed."""


def privileged(name: str) -> bool:
    return hasattr(registry.load_task(name).Expert, "attach")


def step_randomly(env: VectorEnv[Any, Any, Any], seed: int, steps: int) -> list[Any]:
    """Return all that the environment says in response to random actions."""
    said: list[Any] = [env.reset(seed=seed)]
    env.action_space.seed(seed)
    said.extend(env.step(env.action_space.sample()) for _ in range(steps))
    env.close()
    return said


def single_lanes(task: Task, lanes: int) -> SyncVectorEnv:
    return SyncVectorEnv([task.make] * lanes, autoreset_mode=AutoresetMode.NEXT_STEP)


class Forgetful:
    """The expert, to which every step is an episode's first."""

    def __init__(self, expert: Policy) -> None:
        self.expert = expert

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        return self.expert.predict(observation, state, np.ones_like(episode_start), deterministic)


def success(name: str, wrap: Callable[[Policy], Policy] = lambda policy: policy) -> float | None:
    task = registry.load_task(name)
    policy = wrap(task.Expert(task.Config(), seed=0))
    return evaluate(policy, task, {}, EPISODES, seed=0, max_lanes=LANES).success_rate


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_and_stable_baselines3_accept_it(name: str) -> None:
    task = registry.load_task(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(task.ID, render_mode="rgb_array").unwrapped)
        # Of some spaces it says that agents of its own can't have them as they are; ours flatten them.
        warnings.filterwarnings("ignore", message=".*(MultiDiscrete|Tuple|nested|flatten)")
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


@pytest.mark.parametrize("name", [name for name in CORE if name not in UNCERTAIN])
def test_expert_succeeds(name: str) -> None:
    assert success(name) == 1


@pytest.mark.parametrize("name", [name for name in CORE if not privileged(name)])
def test_expert_without_its_memory_fails(name: str) -> None:
    rate = success(name, Forgetful)
    assert rate is not None
    assert rate < 0.6


@pytest.mark.parametrize("name", [name for name in CORE if hasattr(registry.load_task(name), "decisive")])
def test_hindsight_and_decisive_steps_are_told_from_the_data(name: str) -> None:
    task: Any = registry.load_task(name)
    env = make_vec_env(task, {}, LANES)
    found = []
    for trajectory in trajectories(rollout(task.Expert(task.Config(), seed=0), env, LANES, seed=0), LANES):
        decisive = task.decisive(trajectory)
        assert (decisive.shape, decisive.dtype) == ((len(trajectory),), np.bool_)
        assert decisive.any()
        assert not decisive.all()
        if hasattr(task, "hindsight"):
            classes = task.hindsight(trajectory)
            assert (classes.shape, classes.dtype) == ((len(trajectory),), np.int64)
            found.extend(classes.tolist())
    env.close()
    assert set(found) == set(range(getattr(task, "HINDSIGHT_CLASSES", 0)))


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
