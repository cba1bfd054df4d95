"""MLflow: metrics and params, in a local database or on a server.

Its environment variables apply: `MLFLOW_TRACKING_URI` (by default `mlflow.db` in the current folder), and
`MLFLOW_EXPERIMENT_NAME` (here `rmt-rl` by default). The id of the MLflow run is kept in `mlflow_id.txt` in the run's
folder, so that a resumed run continues under the same id.

MLflow can't replace what was logged. Updates that are made again after a kill keep the values of the first time there;
`metrics.jsonl` has those of the second. Params are those that the run began with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from rmt_rl.runs.loggers._run_id import read_id, write_id
from rmt_rl.runs.metrics import LoggerError, Metrics, Settings

EXTRA = "mlflow"
ID = "mlflow_id.txt"
PARAMS_A_CALL = 100  # MLflow's limit


class MLflow:
    """Log to the MLflow run whose id the run's folder holds, or to a new one."""

    def __init__(self, run: Path, settings: Settings, update: int) -> None:
        run_id = read_id(run / ID)
        with _explained():
            self.client = MlflowClient()
            self.run_id = run_id or self._new_run(run.resolve().name, settings)
            self.client.update_run(self.run_id, status="RUNNING")
            self.last_update = self._last_update()
        if run_id is None:
            write_id(run / ID, self.run_id)

    def write(self, update: int, metrics: Metrics) -> None:
        if update <= self.last_update:
            return
        milliseconds = int(time.time() * 1000)
        entries = [Metric(key, value, milliseconds, update) for key, value in metrics.items()]
        with _explained():
            self.client.log_batch(self.run_id, metrics=entries)

    def close(self) -> None:
        with _explained():
            self.client.set_terminated(self.run_id)

    def _new_run(self, name: str, settings: Settings) -> str:
        """Make an MLflow run with the settings as params; return its id."""
        run_id: str = self.client.create_run(self._experiment(), run_name=name).info.run_id
        params = [Param(key, value) for key, value in _flat(settings)]
        for start in range(0, len(params), PARAMS_A_CALL):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_A_CALL])
        return run_id

    def _experiment(self) -> str:
        """Return the id of the experiment, which is made if there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rmt-rl")
        with suppress(MlflowException):  # it exists, or another run makes it at this moment
            return self.client.create_experiment(name)
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            raise LoggerError(f"MLflow can't make experiment {name!r}")
        return str(experiment.experiment_id)

    def _last_update(self) -> int:
        """Return the last update that was logged; -1 if there is none."""
        keys = self.client.get_run(self.run_id).data.metrics
        histories = [self.client.get_metric_history(self.run_id, key) for key in keys]
        return max((metric.step for history in histories for metric in history), default=-1)


def _flat(settings: Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings of all sections with names such as `agent_options.width`."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of MLflow, or of whatever its store is made with
        raise LoggerError(str(error)) from error


LOGGER = MLflow
