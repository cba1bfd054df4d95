"""Weights & Biases: metrics and config, on its server or offline.

Its environment variables apply: `WANDB_PROJECT` (here `rmt-rl` by default), `WANDB_ENTITY`, `WANDB_MODE=offline` etc.
Files go to `wandb/` in the run's folder. The id is kept in `wandb_id.txt`, so that a resumed run continues under the
same id.

The server can't replace a logged value. Updates that are made again after a kill keep the values of the first time
there; `metrics.jsonl` has those of the second. Offline, a resumed run writes a further `wandb/offline-run-*` folder of
the same id, and `wandb sync` uploads all of them to one run, in order of time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wandb
from wandb.errors import Error

from rmt_rl.files import check_no_link
from rmt_rl.runs.loggers._run_id import read_id, write_id
from rmt_rl.runs.metrics import LoggerError, Metrics, Settings

EXTRA = "wandb"
ID = "wandb_id.txt"
FOLDERS = ("wandb", ".wandb")  # where W&B writes, in the run's folder


class WeightsAndBiases:
    """Log to the run of Weights & Biases whose id the run's folder holds, or to a new one."""

    def __init__(self, run: Path, settings: Settings, update: int) -> None:
        for folder in FOLDERS:
            check_no_link(run / folder)
        run_id = read_id(run / ID)
        with _explained():
            self.wandb_run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "rmt-rl"),
                id=run_id,
                name=None if run_id else run.resolve().name,  # a name given since, on the server, stays
                dir=run,
                config=dict(settings),
                allow_val_change=True,  # of the config, e.g. when a run is prolonged
                resume="allow",
                reinit="create_new",  # leaves alone a run that the calling program has open
                settings=wandb.Settings(console="off"),  # what is printed is a progress bar
            )
            self.next_update = self.wandb_run.step
        if run_id is None:
            write_id(run / ID, self.wandb_run.id)

    def write(self, update: int, metrics: Metrics) -> None:
        if update < self.next_update:
            return
        with _explained():
            self.wandb_run.log(metrics, step=update, commit=True)

    def close(self) -> None:
        with _explained():
            self.wandb_run.finish()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Error as error:
        raise LoggerError(str(error)) from error


LOGGER = WeightsAndBiases
