"""Draw the pictures of docs/environments, each by the environment's own `render`: python -m tests.pages.pictures [ENV].

Each picture shows the environment's default task, or the options in `SHOWN`, after some steps of the expert.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rmt_rl.registry import load_task, names
from rmt_rl.task import is_privileged
from tests.pages import FOLDERS


class Shown(NamedTuple):
    """The moment of an episode that a picture shows."""

    steps: int
    seed: int = 0
    options: tuple[tuple[str, Any], ...] = ()


SHOWN = {
    "associative_retrieval": Shown(4),
    "atari": Shown(60),
    "bandit": Shown(1),
    "cartpole_hidden": Shown(30),
    "color_cubes": Shown(6),
    "dark_key_to_door": Shown(6),
    "dark_room": Shown(6),
    "endless_tmaze": Shown(7),
    "memory_maze": Shown(20),
    "minigrid_memory": Shown(8, options=(("size", 21),)),
    "popgym": Shown(9, options=(("task", "concentration"),)),
    "tmaze_without_hint": Shown(2),
    "tmaze": Shown(6, options=(("corridor_length", 20),)),
    "vizdoom_two_colors": Shown(1),
}


def picture(env: str) -> NDArray[np.uint8]:
    """Return what an environment draws after some steps of its expert, uint8 (height, width, 3)."""
    shown = SHOWN[env]
    task, options = load_task(env), dict(shown.options)
    worlds = gymnasium.vector.SyncVectorEnv([lambda: task.make(render_mode="rgb_array", **options)])
    expert = task.Expert(task.Config(**options), seed=shown.seed)
    if is_privileged(expert):
        expert.attach(worlds)
    observation, _ = worlds.reset(seed=shown.seed)
    state, start = None, np.ones(1, bool)
    for _ in range(shown.steps):
        action, state = expert.predict(observation, state, start)
        observation, *_ = worlds.step(action)
        start = np.zeros(1, bool)
    drawn: Any = worlds.envs[0].render()
    worlds.close()
    return np.asarray(drawn, np.uint8)


if __name__ == "__main__":
    for name in sys.argv[1:] or names("envs"):
        Image.fromarray(picture(name)).save(FOLDERS["envs"] / f"{name}.png", optimize=True)
