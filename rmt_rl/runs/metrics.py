"""Metrics of a run: the interface of loggers, and the log that writes to all loggers of a run.

`metrics.jsonl` is always written, since resuming and plotting read it. Other loggers are chosen by name; each is a file
in `rmt_rl.runs.loggers`, or belongs to another installed package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from rmt_rl import registry
from rmt_rl.errors import UsageError

ALWAYS = "jsonl"

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Settings = Mapping[str, JSON]
Metrics = dict[str, float]
Report = Callable[[int, Metrics], None]
"""Takes the number of updates (or environment steps) made so far, and the metrics logged at that point."""


class LoggerError(Exception):
    """A logger's service can't be used. The message says why."""


class Logger(Protocol):
    """Writes metrics to one place. `LOGGER` of a logger's file is such a class; `EXTRA` names the extra that it needs.

    Args:
        run: folder of the run.
        settings: config of the run.
        update: number of updates made so far. Metrics of later updates, which an earlier process logged before it was
            killed, must not appear twice: the logger drops or overwrites the earlier or ignores the later values.

    Raises:
        OSError: a file can't be written, e.g. because the disk is full; so do the methods.
        LoggerError: the service can't be used; so do the methods.
    """

    def __init__(self, run: Path, settings: Settings, update: int) -> None: ...

    def write(self, update: int, metrics: Metrics) -> None:
        """Log the metrics of an update. Updates increase from call to call."""

    def close(self) -> None:
        """Write what is still buffered, and free resources."""


def check_loggers(names: Sequence[str]) -> None:
    """Import loggers, so that a missing package fails before a run's folder is made.

    Raises:
        UsageError: a logger is unknown or a package that it needs is not installed.
    """
    for name in names:
        registry.logger_class(name)


class Log:
    """All loggers of a run, open for the updates after `update`.

    Args:
        run: folder of the run.
        update: number of updates made so far. Metrics of later updates, which an earlier process logged before it was
            killed, are dropped.
        names: loggers besides `metrics.jsonl`.
        settings: config of the run.

    Raises:
        UsageError: a logger is unknown, `metrics.jsonl` is damaged, the disk is full, or a service can't be used.
    """

    def __init__(self, run: Path, update: int, names: Sequence[str], settings: Settings) -> None:
        self.run = run
        self.loggers: dict[str, Logger] = {}
        with ExitStack() as stack:  # closes the loggers opened so far if the next one fails
            for name in dict.fromkeys((ALWAYS, *names)):
                logger_class = registry.logger_class(name)
                with self._explained(name):
                    self.loggers[name] = logger_class(run, settings, update)
                stack.callback(self._close, name)
            self._stack = stack.pop_all()

    def write(self, update: int, metrics: Metrics) -> None:
        """Log the metrics of an update.

        Raises:
            UsageError: the disk is full, or a service can't be used.
        """
        for name, logger in self.loggers.items():
            with self._explained(name):
                logger.write(update, metrics)

    def close(self) -> None:
        """Close all loggers, even if one of them fails.

        Raises:
            UsageError: the disk is full, or a service can't be used.
        """
        self._stack.close()

    def _close(self, name: str) -> None:
        with self._explained(name):
            self.loggers[name].close()

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn the errors of a logger into a UsageError that says how to continue the run."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"{self.run} can't be written: {reason}; free some space, then go on with --resume {self.run}"
            ) from error
        except LoggerError as error:
            raise UsageError(
                f"logger {name!r} failed: {error}; mend that, or remove {name!r} from `logger` in the config.toml of "
                f"{self.run}, then go on with --resume {self.run}"
            ) from error
