"""The video of a model card: one episode of a run's agent, in the run's own environment."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from rmt_rl.acting.evaluate_agent import EvaluationSettings
from rmt_rl.acting.video import check_videos, record_videos
from rmt_rl.hub.card import VIDEO
from rmt_rl.runs.checkpoint import load_agent
from rmt_rl.runs.folder import read_config


def record_replay(folder: Path) -> None:
    """Play an episode with the agent in a run's folder, and write its video there.

    Raises:
        UsageError: the environment can't be drawn, or a package for videos isn't installed.
    """
    config = read_config(folder)
    check_videos(config)
    agent = load_agent(folder)
    settings = EvaluationSettings(episodes=1)
    with TemporaryDirectory() as videos:
        for made in record_videos(config, agent, {}, settings, 1, Path(videos)):
            shutil.move(made, folder / VIDEO)
