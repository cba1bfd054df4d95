"""Videos of an evaluation's first episodes, which are played again in Gymnasium's `RecordVideo`.

Environment i of an evaluation begins with the seed `seed + i`, so a single environment with this seed plays the same.
Only rounding may differ, which depends on the number of environments that PyTorch computes at once.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordVideo

from rmt_rl.acting.drawing import NoPicturesError, make_drawn_env
from rmt_rl.acting.evaluate import Setting, checked_settings
from rmt_rl.acting.rollout import Env, VecEnv, rollout, shares, with_array_actions
from rmt_rl.errors import UsageError
from rmt_rl.files import check_no_link
from rmt_rl.nn.sampling import BatchPart
from rmt_rl.plugins import import_extra
from rmt_rl.registry import load_task
from rmt_rl.task import Task, most_lanes
from rmt_rl.wrappers import VectorReturnToGo

if TYPE_CHECKING:
    from rmt_rl.acting.evaluate_agent import EvaluationSettings
    from rmt_rl.agent import BaseAgent
    from rmt_rl.runs.options import RunConfig

FOLDER = "videos"
EXTRA = "video"
MOST_FRAMES = 3000  # of a video, all of which are in memory until it is written


class _Recording(RecordVideo[Any, Any]):
    """A recorder whose videos are of bounded length."""

    def step(self, action: Any) -> Any:
        if self.recording and len(self.recorded_frames) >= MOST_FRAMES:
            self.stop_recording()  # type: ignore[no-untyped-call]
        return super().step(action)


def check_videos(config: RunConfig) -> None:
    """Check that the environment of a run can be recorded, before work is done that would be lost.

    Raises:
        UsageError: a package is missing, or the environment can't be drawn.
    """
    import_extra("moviepy", EXTRA, "--video")
    task = load_task(config.env)
    try:
        make_drawn_env(task, config.env_options).close()
    except NoPicturesError as error:
        raise UsageError(f"{error}; leave out --video") from None


def record_videos(
    config: RunConfig,
    agent: BaseAgent,
    vary: Mapping[str, Sequence[Any]],
    settings: EvaluationSettings,
    count: int,
    folder: Path,
) -> Iterator[Path]:
    """Record the first episodes of an evaluation at every combination of the varied options' values; yield the files.

    Args:
        config: the run.
        agent: the run's agent.
        vary: values of environment options.
        settings: those of the evaluation.
        count: number of episodes at each combination.
        folder: gets the files, each whole. A video has at most `MOST_FRAMES` frames.

    Raises:
        UsageError: as in `evaluate_run_grid` and `check_videos`, or the folder can't be written to.
    """
    task = load_task(config.env)
    for setting in checked_settings(agent, task, config.env_options, vary):
        agent.set_random_seed(settings.seed)
        with _unfinished(folder) as unfinished:
            _record(agent, task, setting, settings, min(count, settings.episodes), Path(unfinished))
            for made in sorted(Path(unfinished).iterdir()):
                path = folder / made.name
                os.replace(made, path)
                yield path


def _unfinished(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for files that aren't whole yet, on the same disk."""
    check_no_link(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder)
    except OSError as error:
        raise UsageError(f"{folder} can't be written to ({error.strerror}); name another folder by --out") from None


def _record(
    agent: BaseAgent, task: Task, setting: Setting, settings: EvaluationSettings, episodes: int, folder: Path
) -> None:
    """Play the first episodes at one setting, and write a video of each into a folder."""
    whole = most_lanes(task, min(settings.episodes, settings.num_envs))
    lanes = min(whole, episodes)
    if settings.sample and lanes < whole:
        agent.sample_part(BatchPart(0, lanes, whole))
    recorded = []
    for lane, share in enumerate(shares(episodes, lanes).tolist()):
        name = f"{_name(setting.varied)}env-{lane}"
        recorded.append(partial(_recording_env, task, setting, folder, name, share))
    env: VecEnv = SyncVectorEnv(recorded, autoreset_mode=AutoresetMode.NEXT_STEP)
    target_return = agent.target_return(settings.target_return)
    if target_return is not None:
        env = VectorReturnToGo(env, target_return)
    with closing(env):
        for _ in rollout(agent, env, episodes, settings.seed, deterministic=not settings.sample):
            pass


def _recording_env(task: Task, setting: Setting, folder: Path, name: str, episodes: int) -> Env:
    env = make_drawn_env(task, setting.config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Overwriting existing videos")  # the folder is new
        recording: Env = _Recording(
            env,
            str(folder),
            episode_trigger=lambda episode: episode < episodes,
            name_prefix=name,
        )
    return with_array_actions(recording)


def _name(varied: Mapping[str, Any]) -> str:
    """Return the beginning of a file's name, e.g. `corridor_length=90-`, of characters that every system takes."""
    words = [f"{option}={value}" for option, value in varied.items()]
    return "".join(re.sub(r"[^\w.=+-]+", "_", word)[:60] + "-" for word in words)
