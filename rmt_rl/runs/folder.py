"""A run's folder and its `config.toml`.

The folder holds:

config.toml           everything that made the run, enough to make it again
metrics.jsonl         one JSON object a line, as logged
events.out.tfevents*  the same for TensorBoard
last.safetensors      the newest checkpoint, to resume from
best.safetensors      the checkpoint of the best evaluation during training
evaluation.json       results of `rmt-rl evaluate`
"""

from __future__ import annotations

from pathlib import Path

import tomli_w
from pydantic import JsonValue

from rmt_rl.errors import UsageError
from rmt_rl.files import parse_toml, read_text, write_atomically
from rmt_rl.runs.options import RunConfig, make_config

CONFIG = "config.toml"


def read_config(path: Path) -> RunConfig:
    """Read a `config.toml`, or the one in a run's folder.

    Raises:
        UsageError: the file is missing or isn't valid.
    """
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
    return make_config(values, str(path))


def check_new(run: Path) -> None:
    """Check that a folder holds no run.

    Raises:
        UsageError: the folder holds a run.
    """
    if (run / CONFIG).exists():
        raise UsageError(f"out={run} holds a run already; resume it (--resume {run}) or choose another folder")


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
