"""A data set of images of any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset

ENV = "large_data/Noise-v0"
DATASET = "large-data/noise-v0"
SIDE = 64  # of an image, pixels
IMAGE, ACTIONS = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8), spaces.Discrete(4)


class Noise(gymnasium.Env[Any, Any]):
    """The environment that the data name as their origin; nobody plays it."""

    observation_space, action_space = IMAGE, ACTIONS

    def __init__(self, render_mode: None = None) -> None: ...


gymnasium.register(ENV, f"{__name__}:Noise")


def write(count: int, length: int) -> None:
    """Write a data set of `count` episodes of `length` steps."""
    write_dataset(
        DATASET,
        episodes(count, length),
        env_spec=gymnasium.spec(ENV),
        observation_space=IMAGE,
        action_space=ACTIONS,
        algorithm_name="none",
        description="Images of noise, with an action each that their upper quarter tells.",
    )


def episodes(count: int, length: int) -> Iterator[Trajectory]:
    """Yield episodes of noise, which can't be compressed: they take as much space on disk as in memory."""
    ends = np.arange(length) == length - 1
    for number in range(count):
        generator = np.random.default_rng(number)
        pixels = np.frombuffer(generator.bytes((length + 1) * SIDE * SIDE * 3), np.uint8)
        images = pixels.reshape(-1, SIDE, SIDE, 3).copy()
        actions = generator.integers(0, 4, length)
        images[:-1, : SIDE // 4] = 80 * actions[:, None, None, None]
        yield Trajectory(
            images,
            actions,
            generator.random(length),
            ends,
            np.zeros(length, np.bool_),
            seed=number,
        )
