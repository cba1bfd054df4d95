"""Copies of runs to give away: config, metrics and evaluation as they are, and checkpoints with weights alone."""

from __future__ import annotations

from pathlib import Path

from rmt_rl.errors import UsageError
from rmt_rl.file_errors import unreadable
from rmt_rl.files import write_atomically
from rmt_rl.reading import RESULTS_LIMIT, check_regular
from rmt_rl.runs.checkpoint import KEY, path_of, read_checkpoint
from rmt_rl.runs.find import CHECKPOINTS, FILES
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.tensors import write_tensors


def pack_run(run: Path, folder: Path) -> None:
    """Write what others need of a run into a folder: to load, evaluate and plot the run, and to make it again.

    Checkpoints lose the optimiser's state and all else that only resuming needs, two thirds of their size.

    Args:
        run: the run's folder.
        folder: a folder for the copies.

    Raises:
        UsageError: the folder holds no run, the run has no checkpoint, or a file is damaged or can't be written.
    """
    read_config(run)
    for name in CHECKPOINTS:
        path = path_of(run, name)
        if name == CHECKPOINTS[0] or path.exists():
            _copy_weights(path, path_of(folder, name))
    for name in FILES:
        path = run / name
        if path.suffix != path_of(run).suffix and path.exists():
            _copy(path, folder / name)


def _copy_weights(source: Path, target: Path) -> None:
    saved = read_checkpoint(source)
    weights = {f"model/{name}": tensor for name, tensor in saved.group("model").items()}
    header = saved.header.model_copy(update={"progress": {}})
    write_tensors(target, weights, KEY, header.model_dump_json())


def _copy(source: Path, target: Path) -> None:
    try:
        check_regular(source, RESULTS_LIMIT)
        content = source.read_bytes()
    except OSError as error:
        raise unreadable(str(source), error) or UsageError(f"{source} can't be read: {error}") from error
    write_atomically(target, content)
