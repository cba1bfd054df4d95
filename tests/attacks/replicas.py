"""A registered environment that does with its arguments as real ones do: it runs, imports and reads what they name."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Observation = Any


class Obedient:
    """A class as a default, like MiniGrid's `obstacle_type`."""


class Base(gymnasium.Env[Observation, Any]):
    """Takes further arguments, like ViZDoom's base class."""

    def __init__(self, wad: str = "basic", plugin_dir: str | None = None, seeds: Any = None) -> None:
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        if plugin_dir is not None:
            _ran(f"loaded {plugin_dir}")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Any]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Any]:
        return np.zeros(2, np.float32), 0.0, True, False, {}


class Doom(Base):
    """Like ViZDoom's, MuJoCo's and highway-env's environments."""

    def __init__(
        self,
        size: int = 3,
        vizdoom_path: str = "doom",
        xml_file: str = "level.xml",
        reward_type: str = "sparse",
        config: dict[str, Any] | None = None,
        maze_map: list[Any] | None = None,
        obstacle_type: type = Obedient,
        render_mode: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self.render_mode = render_mode
        if vizdoom_path != "doom":
            subprocess.run([str(Path(vizdoom_path).resolve())], check=False)
        if xml_file != "level.xml":
            _ran(f"read {xml_file}")
        vehicle = (config or {}).get("other_vehicles_type", "")
        if "." in vehicle:
            importlib.import_module(vehicle.rpartition(".")[0])
        if obstacle_type is not Obedient:
            _ran(f"made {obstacle_type}")


def _ran(text: str) -> None:
    Path("ran").write_text(text)


ID = "Attacked/Doom-v0"
if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:Doom", kwargs={"wad": "maps/../basic.wad"}, max_episode_steps=5)
