"""Costs of training, acting and plotting at one size each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from experiments.speed.acting import play, walking
from experiments.speed.sizes import SIZES
from experiments.speed.turns import peak_of, return_freed_blocks
from rmt_rl.analysis.aggregate import read_groups
from rmt_rl.analysis.plot import PANELS, plot_groups
from rmt_rl.runs.evaluation import EpisodeResult, Evaluation, write_evaluation
from rmt_rl.runs.folder import write_config
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training.segments import SegmentLearner

SEGMENT_LENGTH = 10  # steps, in training
SMALL = {"width": 64, "heads": 4, "layers": 2, "memory_tokens": 5, "segment_length": SEGMENT_LENGTH}
ACTING = SIZES["RATE, small"]
REPEATS = 3
SEEDS = 25  # runs of a group in a plot
LINES = 200  # of metrics of a run
LENGTHS = (90, 300, 900)  # of the corridors that a run was evaluated in


@dataclass(frozen=True)
class Cost:
    """The cost of one size.

    Attributes:
        seconds: CPU seconds of one thread, the median of `REPEATS`.
        mb: most memory that was resident, in MB, above what was resident before.
    """

    seconds: float
    mb: float


def _cost(work: Callable[[], object]) -> Cost:
    seconds = []
    mb = peak_of(work)
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return Cost(median(seconds), mb)


def _learner(segments: int, batch_size: int, gradient: str) -> SegmentLearner:
    """Return a learner whose episodes all fill their segments."""
    steps = segments * SEGMENT_LENGTH
    config = make_config(
        {
            "env": "tmaze",
            "agent": "rate",
            "env_options": {"corridor_length": steps - 2},
            "agent_options": SMALL,
            "data": {"segments": segments, "batch_size": batch_size, "collect_episodes": batch_size},
            "training": {"updates": 100, "accelerator": "cpu", "ageing": 0, "gradient": gradient},
            "evaluation": {"eval_episodes": 0},
        }
    )
    assert isinstance(config, OfflineRun)
    learner = SegmentLearner(config)
    learner.start()
    return learner


def segments(count: int, gradient: str) -> Cost:
    """Measure an update on 16 episodes of `count` segments."""
    return _cost(_learner(count, 16, gradient).advance)


def batch(count: int) -> Cost:
    """Measure an update on `count` episodes of 3 segments."""
    return _cost(_learner(3, count, "full").advance)


def lanes(count: int) -> Cost:
    """Measure a segment played in `count` environments at once; the memory is that of the first, which makes all."""
    segment = ACTING.segment_length
    steps = walking(ACTING, count, 100 * segment)
    mb = peak_of(partial(play, steps, segment))
    later = _cost(partial(play, steps, segment))
    return Cost(later.seconds, mb)


def runs(count: int) -> Cost:
    """Measure reading and plotting `count` runs, each with 200 lines of metrics and 300 evaluated episodes."""
    folder = Path(tempfile.mkdtemp())
    folders = []
    for number in range(count):
        run = folder / str(number)
        group, seed = divmod(number, SEEDS)
        _write_run(run, group, seed)
        folders.append(run)
    return _cost(partial(_plot, folders, folder / "curves.png"))


def _plot(folders: list[Path], picture: Path) -> None:
    plot_groups(read_groups(folders), picture, PANELS)


def _write_run(folder: Path, group: int, seed: int) -> None:
    """Write a run's files with made-up figures, since only their number counts here."""
    config = make_config({"env": "tmaze", "agent": "rate", "seed": seed, "training": {"updates": 1000 + group}})
    assert isinstance(config, OfflineRun)
    folder.mkdir()
    write_config(config, folder)
    lines = []
    for update in range(LINES):
        lines.append(f'{{"update": {update}, "steps": {update}, "train/loss": 0.5}}\n')
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    played = tuple(EpisodeResult(lane, 1.0, 30, True) for lane in range(100))
    evaluations = []
    for length in LENGTHS:
        evaluations.append(Evaluation({"corridor_length": length}, 0, True, None, 100, 0.1, played))
    write_evaluation(folder, evaluations, "last, update 200")


def measured(measure: Callable[[int], Cost], count: int) -> Cost:
    """Call a measure in this process, prepared for it."""
    torch.set_num_threads(1)
    return_freed_blocks()
    return measure(count)
