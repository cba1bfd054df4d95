"""Small replicas of Minari's public data sets, written by Minari itself, with the metadata that the public ones have.

The environments of Gymnasium-Robotics are look-alikes of random observations, registered under the real ids.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ale_py
import gymnasium
import minari
import minigrid
import numpy as np
from gymnasium import Space, spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces.text import alphanumeric
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import METADATA_FILE_NAME
from minari.storage import get_dataset_path
from minigrid.wrappers import FullyObsWrapper

from rmt_rl.trees import map_leaves

AnyEnv = gymnasium.Env[Any, Any]
U_MAZE = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
U_MAZE_FOR_EVALUATION = [[1, 1, 1, 1, 1], [1, "r", 0, 0, 1], [1, 1, 1, 0, 1], [1, "g", 0, 0, 1], [1, 1, 1, 1, 1]]
TASKS = ("microwave", "kettle", "light switch", "slide cabinet")
_SIZES = {"microwave": 1, "kettle": 7, "light switch": 1, "slide cabinet": 1}


def numbers(count: int) -> spaces.Box:
    """Return the space of so many unbounded float64 numbers."""
    return spaces.Box(-np.inf, np.inf, (count,), np.float64)


class LookAlike(AnyEnv):
    """Random observations, rewards of 0, no end of its own."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), 0.0, False, False, {"success": False}


class Maze(LookAlike):
    """A look-alike of PointMaze and AntMaze."""

    def __init__(
        self,
        maze_map: list[list[int | str]] = U_MAZE,  # type: ignore[assignment]
        reward_type: str = "sparse",
        continuing_task: bool = True,
        reset_target: bool = True,
        observation: int = 4,
        action: int = 2,
    ) -> None:
        goals = {"achieved_goal": numbers(2), "desired_goal": numbers(2)}
        self.observation_space = spaces.Dict({**goals, "observation": numbers(observation)})
        self.action_space = spaces.Box(-1, 1, (action,), np.float32)


class Door(LookAlike):
    """A look-alike of AdroitHandDoor."""

    observation_space = numbers(39)
    action_space = spaces.Box(-1, 1, (28,), np.float32)


class Kitchen(LookAlike):
    """A look-alike of FrankaKitchen, whose goals are Dicts in a Dict."""

    def __init__(
        self,
        tasks_to_complete: list[str] = [*TASKS],  # noqa: B006 - as the original has it
        terminate_on_tasks_completed: bool = True,
        remove_task_when_completed: bool = True,
    ) -> None:
        goal = spaces.Dict({task: numbers(_SIZES[task]) for task in tasks_to_complete})
        parts = {"achieved_goal": goal, "desired_goal": copy.deepcopy(goal), "observation": numbers(59)}
        self.observation_space = spaces.Dict(parts)
        self.action_space = spaces.Box(-1, 1, (9,), np.float64)


@contextmanager
def robotics() -> Iterator[None]:
    """Register the look-alikes under the ids of Gymnasium-Robotics while the block runs."""
    made = {
        "PointMaze_UMaze-v3": ("Maze", {"observation": 4, "action": 2}, 300),
        "AntMaze_UMaze-v4": ("Maze", {"observation": 27, "action": 8}, 700),
        "AdroitHandDoor-v1": ("Door", {}, 200),
        "FrankaKitchen-v1": ("Kitchen", {}, 280),
    }
    for identity, (name, kwargs, steps) in made.items():
        gymnasium.register(identity, f"{__name__}:{name}", kwargs=kwargs, max_episode_steps=steps)
    yield
    for identity in made:
        del gymnasium.registry[identity]


def write(
    identity: str,
    env: EnvSpec | None,
    observation_space: Space[Any],
    action_space: Space[Any],
    eval_env: EnvSpec | None = None,
    episodes: int = 6,
    length: int = 5,
    **more: Any,
) -> str:
    """Write random episodes as Minari does; return the id."""
    ends = np.arange(length) == length - 1
    buffers = []
    for seed in range(episodes):
        for space in (observation_space, action_space):
            space.seed(seed)
        facts = {"rewards": np.ones(length), "terminations": ends, "truncations": np.zeros(length, bool), "seed": seed}
        observations = column(observation_space, length + 1)
        buffers.append(EpisodeBuffer(observations=observations, actions=column(action_space, length), **facts))
    with warnings.catch_warnings(action="ignore"):  # of facts left out
        minari.create_dataset_from_buffers(
            identity,
            buffers,
            observation_space=observation_space,
            action_space=action_space,
            algorithm_name="random",
            **more,
        )
    specs = {"env_spec": env, "eval_env_spec": eval_env}
    change_metadata(identity, **{name: spec.to_json() for name, spec in specs.items() if spec})
    return identity


def change_metadata(identity: str, **facts: object) -> None:
    """Change facts in a data set's metadata, as Minari's scripts do with specs of wrappers that can't be made again."""
    path = get_dataset_path(identity) / "data" / METADATA_FILE_NAME
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | facts))


def column(space: Space[Any], count: int) -> Any:
    """Return samples of a space, as a column of an episode; texts in a list."""
    samples = [space.sample() for _ in range(count)]

    def stacked(*parts: Any) -> Any:
        return list(parts) if isinstance(parts[0], str) else np.stack(parts)

    return map_leaves(stacked, *samples)


def _maze(identity: str, env: str, steps: int) -> str:
    data = gymnasium.make(env, maze_map=U_MAZE, continuing_task=True, reset_target=True, max_episode_steps=1_000_000)
    assert data.spec is not None
    evaluated = copy.deepcopy(data.spec)
    evaluated.kwargs |= {"maze_map": U_MAZE_FOR_EVALUATION, "reset_target": False}
    evaluated.max_episode_steps = steps
    return write(identity, data.spec, data.observation_space, data.action_space, evaluated)


def pointmaze() -> str:
    """D4RL/pointmaze/umaze-v2: a task that goes on for a million steps; evaluated in another map, with a limit."""
    return _maze("D4RL/pointmaze/umaze-v2", "PointMaze_UMaze-v3", 12)


def antmaze() -> str:
    """D4RL/antmaze/umaze-v1, like PointMaze."""
    return _maze("D4RL/antmaze/umaze-v1", "AntMaze_UMaze-v4", 13)


def door() -> str:
    """D4RL/door/human-v2."""
    env = gymnasium.make("AdroitHandDoor-v1", max_episode_steps=30)
    return write("D4RL/door/human-v2", env.spec, env.observation_space, env.action_space)


def kitchen() -> str:
    """D4RL/kitchen/complete-v2: goals are Dicts in a Dict, with spaces in their keys."""
    options: dict[str, Any] = {"tasks_to_complete": list(TASKS), "terminate_on_tasks_completed": False}
    env = gymnasium.make("FrankaKitchen-v1", remove_task_when_completed=False, max_episode_steps=28, **options)
    return write("D4RL/kitchen/complete-v2", env.spec, env.observation_space, env.action_space)


def mujoco() -> str:
    """mujoco/halfcheetah/expert-v0, with observations recorded as float32."""
    env = gymnasium.make("HalfCheetah-v5", max_episode_steps=15)
    observations = spaces.Box(-np.inf, np.inf, env.observation_space.shape or (), np.float32)
    return write("mujoco/halfcheetah/expert-v0", env.spec, observations, env.action_space)


def _babyai(identity: str, wrap: Callable[[AnyEnv], AnyEnv]) -> str:
    gymnasium.register_envs(minigrid)
    env = wrap(gymnasium.make("BabyAI-GoToRedBallGrey-v0", max_episode_steps=14))
    whole = env.observation_space
    assert isinstance(whole, spaces.Dict)
    parts = {key: copy.deepcopy(whole[key]) for key in ("direction", "image")}
    mission = spaces.Text(256, charset=f"{alphanumeric} ")
    return write(identity, env.spec, spaces.Dict({**parts, "mission": mission}), env.action_space)


def babyai() -> str:
    """minigrid/BabyAI-GoToRedBallGrey/optimal-v0: a mission in words beside image and direction."""
    return _babyai("minigrid/BabyAI-GoToRedBallGrey/optimal-v0", lambda env: env)


def babyai_fullobs() -> str:
    """minigrid/BabyAI-GoToRedBallGrey/optimal-fullobs-v0, whose wrapper recorded no arguments."""
    return _babyai("minigrid/BabyAI-GoToRedBallGrey/optimal-fullobs-v0", FullyObsWrapper)


def atari() -> str:
    """atari/breakout/expert-v0: images as JPEG."""
    gymnasium.register_envs(ale_py)
    env = gymnasium.make("ALE/Breakout-v5", repeat_action_probability=0, max_episode_steps=16)
    return write("atari/breakout/expert-v0", env.spec, env.observation_space, env.action_space, episodes=4, length=3)


REPLICAS: dict[Callable[[], str], int] = {
    pointmaze: 12,
    antmaze: 13,
    door: 30,
    kitchen: 28,
    mujoco: 15,
    babyai: 14,
    babyai_fullobs: 14,
    atari: 16,
}
"""Makers of the replicas, with the most steps of an episode in the environment where their agents are evaluated."""
