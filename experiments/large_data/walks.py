"""A data set of many short episodes of four numbers a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset

ENV = "large_data/Walk-v0"
PLACES, ACTIONS = spaces.Box(0, 1, (4,)), spaces.Discrete(4)
SHORTEST, LONGEST = 5, 40  # steps of an episode


class Walk(gymnasium.Env[Any, Any]):
    """The environment that the data name as their origin; nobody plays it."""

    observation_space, action_space = PLACES, ACTIONS

    def __init__(self, render_mode: None = None) -> None: ...


gymnasium.register(ENV, f"{__name__}:Walk")


def write(dataset: str, count: int) -> None:
    """Write a data set of `count` episodes."""
    write_dataset(
        dataset,
        episodes(count),
        env_spec=gymnasium.spec(ENV),
        observation_space=PLACES,
        action_space=ACTIONS,
        algorithm_name="none",
        description="Noise, in many short episodes.",
    )


def episodes(count: int) -> Iterator[Trajectory]:
    """Yield episodes of noise of random lengths."""
    generator = np.random.default_rng(0)
    for number in range(count):
        length = int(generator.integers(SHORTEST, LONGEST + 1))
        ends = np.arange(length) == length - 1
        places = generator.random((length + 1, 4), np.float32)
        actions = generator.integers(0, 4, length)
        rewards = generator.random(length)
        yield Trajectory(places, actions, rewards, ends, np.zeros(length, np.bool_), seed=number)
