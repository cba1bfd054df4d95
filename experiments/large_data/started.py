"""Measures the start of a run and its updates in a process of its own: python -m experiments.large_data.started ID.

Prints JSON: CPU seconds and MiB of the start, and CPU milliseconds of an update and of drawing its batch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from experiments.large_data import walks
from rmt_rl.analysis.process_memory import peak_mb
from rmt_rl.data.store import EpisodeStore
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training.segments import SegmentLearner

UPDATES = 16  # two pools of batches
CACHE = 1  # MB, so that batches are read from disk
MIB = 1e6 / 2**20  # MiB of a MB


def config(dataset: str) -> OfflineRun:
    """Return a run with memory ageing on a data set of walks."""
    made = make_config(
        {
            "env": walks.ENV,
            "agent": "rate",
            "agent_options": {"segment_length": 5, "width": 32, "heads": 2, "layers": 1},
            "data": {"dataset": [dataset], "feed": "windows", "cache_mb": CACHE},
            "training": {"updates": 100, "accelerator": "cpu", "ageing": 2, "ageing_from": 0},
            "evaluation": {"eval_episodes": 0},
        }
    )
    assert isinstance(made, OfflineRun)
    return made


def milliseconds(call: Callable[[int], object]) -> float:
    """Return the mean CPU milliseconds of a call, made with the numbers of `UPDATES` updates."""
    began = time.process_time()
    for number in range(UPDATES):
        call(number)
    return (time.process_time() - began) / UPDATES * 1e3


def main(dataset: str) -> None:
    """Measure a data set, and print JSON."""
    before = peak_mb()
    began = time.process_time()
    store = EpisodeStore(dataset, CACHE << 20)
    seconds = time.process_time() - began
    start = {"start": seconds, "memory": (peak_mb() - before) * MIB}
    store.close()
    learner = SegmentLearner(config(dataset))
    learner.start()
    learner.advance()
    draw = milliseconds(lambda number: learner.feed.batch(UPDATES + number))
    fillers = milliseconds(lambda number: learner.ageing.fillers(UPDATES + number, 2))
    update = milliseconds(lambda _: learner.advance())
    print(json.dumps(start | {"draw": draw, "fillers": fillers, "update": update}))


if __name__ == "__main__":
    main(sys.argv[1])
