"""A run's folder and its `config.toml`.

The folder holds:

config.toml           everything that made the run, enough to make it again
metrics.jsonl         one JSON object a line, as logged
events.out.tfevents*  the same for TensorBoard
last.safetensors      the newest checkpoint, to resume from
best.safetensors      the checkpoint of the best evaluation during training
last.2-of-2.*         the other parts of a checkpoint in shards, see `rmt_rl.runs.shards`
evaluation.json       results of `rmt-rl evaluate`
cpu.json              CPU seconds of training and evaluation, if a sweep made the run
.lock                 names the process that trains the run now
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import JsonValue

from rmt_rl.errors import UsageError
from rmt_rl.files import check_is_text, check_writable, sweep, write_atomically
from rmt_rl.locks import Busy, held
from rmt_rl.reading import parse_toml, read_text
from rmt_rl.runs.options import RunConfig, TrainingConfig, make_config
from rmt_rl.urls import check_local

CONFIG = "config.toml"
LOCK = ".lock"


def read_config(path: Path) -> RunConfig:
    """Read a `config.toml`, or the one in a run's folder.

    Raises:
        UsageError: the file is missing or isn't valid.
    """
    check_local(path)
    path = path / CONFIG if path.is_dir() else path
    try:
        values = parse_toml(read_text(path))
    except OSError as error:
        raise UsageError(
            f"config {path} can't be read ({error.strerror}); name a config.toml or a run's folder"
        ) from None
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"config {path} isn't valid TOML: {error}") from None
    _renew(values)
    return make_config(values, str(path))


def _renew(values: dict[str, Any]) -> None:
    """Change options of older versions, in which `ageing_from` was an update, into those of this version."""
    training = values.get("training")
    if not isinstance(training, dict):
        return
    first = training.get("ageing_from")
    updates = training.get("updates", TrainingConfig.model_fields["updates"].default)
    if type(first) is int and type(updates) is int and first > 0 and updates > 0:
        training["ageing_from"] = min(1.0, first / updates)


def check_new(run: Path) -> None:
    """Check that a folder holds no run.

    Raises:
        UsageError: the folder holds a run.
    """
    if (run / CONFIG).exists():
        raise UsageError(f"out={run} holds a run already; resume it (--resume {run}) or choose another folder")


@contextmanager
def claimed(run: Path) -> Iterator[None]:
    """Keep other processes from training in a run's folder inside the block.

    The folder is made if it is missing, and removed if it is empty in the end.

    Raises:
        UsageError: another process works in the folder, its name isn't text, or it can't be made or written to.
    """
    check_is_text(run)
    check_writable(run, "choose another folder by --out")
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        with ExitStack() as stack:
            try:
                stack.enter_context(held(run / LOCK))
            except Busy as busy:
                raise UsageError(
                    f"{run} is in use by {busy}; wait for it or stop it, or choose another folder by --out"
                ) from None
            sweep(run)
            yield
    finally:
        with suppress(OSError):  # up to the first that isn't empty
            for folder in missing:
                folder.rmdir()


def open_results(run: Path, config: RunConfig, out: Path | None) -> Path:
    """Return the folder for results of a run: the run's own, or `out`, which gets the run's config.

    With the config, plots and tables read `out` like a run.

    Args:
        run: the run's folder.
        config: the run's config.
        out: another folder; None for the run's.

    Raises:
        UsageError: the folder can't be written to, or `out` holds another run or its results.
    """
    if out is None:
        check_writable(run, "name another folder for the results by --out")
        return run
    check_writable(out, "choose another folder by --out")
    if not (out / CONFIG).exists():
        # As it is: with options that are newer than the run, results would seem to be of another config.
        write_atomically(out / CONFIG, read_text(run / CONFIG).encode())
    elif read_config(out) != config:
        raise UsageError(f"out={out} holds another run or its results ({CONFIG} differs); choose another folder")
    return out


def check_origin(run: Path, before: dict[str, JsonValue] | None, now: dict[str, JsonValue]) -> None:
    """Check that a run is resumed with the seed, agent, environment and data that it was started with.

    Args:
        run: the run's folder.
        before: these facts in the run's checkpoint; None if the checkpoint holds none.
        now: the facts at present.

    Raises:
        UsageError: one of them differs, or the checkpoint holds none.
    """
    if before is None:
        raise UsageError(f"{run} can't be resumed: its last checkpoint holds weights alone, as a best one does")
    for name in before | now:
        value, value_now = before.get(name), now.get(name)
        if value == value_now:
            continue
        keep = f"; to keep its data, write dataset = {value} below [data] there" if name == "dataset" else ""
        raise UsageError(
            f"{run} was started with {name}={value}, but would go on with {value_now}; undo what was changed in "
            f"{run / CONFIG} or in the environment or its packages, or start a new run{keep}"
        )


def write_config(config: RunConfig, run: Path) -> None:
    """Write `config.toml` into a run's folder. Unset options are left out, since TOML has no null."""
    values = config.model_dump(mode="json", exclude_none=True)
    write_atomically(run / CONFIG, tomli_w.dumps(values).encode())
