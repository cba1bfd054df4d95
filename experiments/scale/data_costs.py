"""Bytes of data sets on disk, and of their episodes' index in a file and in memory."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rmt_rl.data.index import INDEX_FILE
from rmt_rl.data.store import EpisodeStore
from rmt_rl.data.trajectory import Trajectory
from rmt_rl.data.writing import write_dataset

ENV = "scale/Noise-v0"
ACTIONS = spaces.Discrete(4)
VECTORS = spaces.Box(-1, 1, (4,), np.float32)  # as in T-Maze
IMAGES = spaces.Box(0, 255, (84, 84, 3), np.uint8)
EPISODE = 50  # steps
FEW, MANY = 200, 2_000  # episodes of vectors; differences between the two leave out what doesn't grow
IMAGE_EPISODES = 4


class Noise(gymnasium.Env[Any, Any]):
    """The environment that the data name as their origin; nobody plays it."""

    observation_space, action_space = VECTORS, ACTIONS

    def __init__(self, render_mode: None = None) -> None: ...


gymnasium.register(ENV, f"{__name__}:Noise")


def data_costs() -> dict[str, float]:
    """Write data sets of noise, which can't be compressed, into a temporary folder; return their costs in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        few, many = (_vectors(folder, count) for count in (FEW, MANY))
        images = _written(folder, "scale/images-v0", IMAGES, _noise_images(IMAGE_EPISODES))
        episodes = MANY - FEW
        return {
            "vector_step": (many["disk"] - few["disk"]) / episodes / EPISODE,
            "image_step": images / IMAGE_EPISODES / EPISODE,
            "index_episode": (many["index"] - few["index"]) / episodes,
            "memory_episode": (many["memory"] - few["memory"]) / episodes,
        }


def _vectors(folder: str, count: int) -> dict[str, float]:
    name = f"scale/vectors{count}-v0"
    disk = _written(folder, name, VECTORS, _noise_vectors(count))
    index = Path(folder, name, "data", INDEX_FILE).stat().st_size
    EpisodeStore(name, 1 << 20).close()  # which imports and caches what doesn't count
    tracemalloc.start()
    store = EpisodeStore(name, 1 << 20)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    store.close()
    return {"disk": disk, "index": index, "memory": memory}


def _written(folder: str, name: str, space: spaces.Box, episodes: Iterator[Trajectory]) -> int:
    """Write a data set; return its bytes on disk."""
    write_dataset(
        name,
        episodes,
        env_spec=gymnasium.spec(ENV),
        observation_space=space,
        action_space=ACTIONS,
        algorithm_name="none",
        description="Noise.",
    )
    return sum(file.stat().st_size for file in Path(folder, name).rglob("*.hdf5"))


def _noise_vectors(count: int) -> Iterator[Trajectory]:
    return _noise(count, lambda generator: generator.random((EPISODE + 1, 4), np.float32))


def _noise_images(count: int) -> Iterator[Trajectory]:
    shape = (EPISODE + 1, *(IMAGES.shape or ()))
    return _noise(count, lambda generator: generator.integers(0, 256, shape, np.uint8))


def _noise(count: int, observe: Callable[[np.random.Generator], Any]) -> Iterator[Trajectory]:
    generator = np.random.default_rng(0)
    ends = np.arange(EPISODE) == EPISODE - 1
    for number in range(count):
        actions = generator.integers(0, 4, EPISODE)
        rewards = generator.random(EPISODE)
        yield Trajectory(observe(generator), actions, rewards, ends, np.zeros(EPISODE, np.bool_), seed=number)
