"""Every agent as `model` in environments wrapped as Stable-Baselines3's users do: normalised, monitored, filmed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecVideoRecorder

from rmt_rl import registry
from rmt_rl.agent import AgentSpec, BaseAgent
from rmt_rl.errors import UsageError

LENGTH = 10  # cells of the corridor


def tmaze(**options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("rmt_rl/TMaze-v0", corridor_length=LENGTH, **options)


def every_agent() -> list[Any]:
    """Those that learn by acting, too."""
    params = []
    for name in registry.names("agents"):
        try:
            params.append(pytest.param(registry.agent_class(name), id=name))
        except UsageError as missing:
            params.append(pytest.param(None, id=name, marks=pytest.mark.skip(reason=str(missing))))
    return params


def make(cls: Any, env: gymnasium.Env[Any, Any]) -> BaseAgent:
    agent: BaseAgent = cls(cls.Config(), AgentSpec(env.observation_space, env.action_space, target_return=1.0))
    return agent


@pytest.mark.parametrize("cls", every_agent())
def test_normalised_observations_and_rewards(cls: Any) -> None:
    env = VecNormalize(DummyVecEnv([tmaze] * 3), training=False)
    _, lengths = evaluate_policy(make(cls, tmaze()), env, 6, return_episode_rewards=True, warn=False)
    assert isinstance(lengths, list)
    assert len(lengths) == 6
    assert set(lengths) <= set(range(1, LENGTH + 3))


@pytest.mark.parametrize("cls", every_agent())
def test_monitor_notes_its_episodes(cls: Any, tmp_path: Path) -> None:
    env = Monitor(tmaze(), str(tmp_path / "log"), info_keywords=("is_success",))
    evaluate_policy(make(cls, tmaze()), env, 4)
    env.close()
    _, *lines = (tmp_path / "log.monitor.csv").read_text().splitlines()  # the first line is about the environment
    noted = list(csv.DictReader(lines))
    assert len(noted) == 4
    assert all(int(each["l"]) <= LENGTH + 2 for each in noted)
    assert all(float(each["r"]) == (each["is_success"] == "True") for each in noted), "1 at the right goal"


def test_a_video_is_recorded(tmp_path: Path) -> None:
    """As Stable-Baselines3's own examples do it."""
    pytest.importorskip("moviepy")
    agent = make(registry.agent_class("rate"), tmaze())
    env = VecVideoRecorder(
        DummyVecEnv([lambda: tmaze(render_mode="rgb_array")]), str(tmp_path), lambda step: step == 0, video_length=8
    )
    observations, state, starts = env.reset(), None, np.ones(1, bool)
    for _ in range(9):
        actions, state = agent.predict(observations, state, starts)
        observations, _, starts, _ = env.step(actions)
    env.close()
    (film,) = tmp_path.glob("*.mp4")
    assert film.stat().st_size > 500
