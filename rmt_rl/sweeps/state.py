"""The state of a cell, read from its run's folder, and the commands that are left to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import JsonValue

from rmt_rl.acting.evaluate import parse_vary
from rmt_rl.config import SavedState, validated
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.reading import parse_json, read_text
from rmt_rl.runs.checkpoint import KEY, about, path_of, read_checkpoint
from rmt_rl.runs.evaluation import read_evaluation
from rmt_rl.runs.folder import CONFIG, read_config
from rmt_rl.runs.options import RunConfig, make_config
from rmt_rl.sweeps.engine import Job, PlannedEvaluation

HEADER = "last.json"  # a copy of the texts in the header of a last checkpoint, in the place of the checkpoint


class Progress(SavedState):
    """The progress of training, as the header of a checkpoint has it."""

    update: int
    progress: dict[str, JsonValue]


def is_finished(job: Job) -> bool:
    """Return True if nothing is left to do for a job."""
    return _trained(job) is not None and all(_is_evaluated(job, plan) for plan in job.evaluations)


def check_same_config(run: Path, config: RunConfig) -> None:
    """Check that a folder holds no run, or one of this config.

    Raises:
        UsageError: the folder holds a run of other options; the message names the first.
    """
    if not (run / CONFIG).exists():
        return
    before = _flat(read_config(run))
    now = _flat(config)
    for name in before | now:
        if before.get(name) != now.get(name):
            raise UsageError(
                f"{run} holds a run with {name}={before.get(name)!r}, but the sweep's has {now.get(name)!r}; remove "
                "the folder, or choose another one for the runs"
            )


def _flat(config: RunConfig) -> dict[str, Any]:
    """Return a config's options by their names, with those of their sections before them."""
    flat = {}
    for section, value in config.model_dump(mode="json").items():
        members = value if isinstance(value, dict) else {"": value}
        for name, member in members.items():
            flat[f"{section}.{name}".strip(".")] = member
    return flat


def due_commands(job: Job, scratch: Path) -> Iterator[list[str]]:
    """Yield the arguments of the `rmt-rl` commands that are left to do, each once the one before it has ended.

    Args:
        job: the cell's job.
        scratch: a folder for the config of a new run.
    """
    given = ["--import", *job.modules] if job.modules else []
    if job.trust_spec:
        given.append("--trust-spec")
    run = job.run
    has_begun = (run / CONFIG).exists()
    if not has_begun:
        file = scratch / CONFIG
        write_atomically(file, tomli_w.dumps(job.config).encode())
        yield ["train", "--config", str(file), "--out", str(run), *given]
    elif _trained(job) is None:
        yield ["train", "--resume", str(run), *given]
    for plan in job.evaluations:
        if not _is_evaluated(job, plan):
            vary = [part for text in plan.vary for part in ("--vary", text)]
            yield ["evaluate", str(run), *vary, "--episodes", str(plan.episodes), *given]


def _trained(job: Job) -> int | None:
    """Return the update of a run's last checkpoint if its training has ended, else None."""
    header = _header(job.run)
    if header is None:
        return None
    is_evaluation_due = header.progress.get("made_before") is not None
    length = make_config(job.config).length
    return None if is_evaluation_due or header.update < length else header.update


def _header(run: Path) -> Progress | None:
    """Return the progress of a run by its last checkpoint, or by a copy of the checkpoint's header alone.

    Raises:
        UsageError: the file is damaged, or can't be read.
    """
    copy, path = run / HEADER, path_of(run)
    if copy.exists():
        with about(copy):
            texts = parse_json(read_text(copy))
            return validated(Progress, parse_json(texts[KEY]))
    if not path.exists():
        return None
    header = read_checkpoint(path).header
    return Progress(update=header.update, progress=header.progress)


def _is_evaluated(job: Job, plan: PlannedEvaluation) -> bool:
    """Return True if the run's `evaluation.json` has the results of all values, of its last checkpoint."""
    record = read_evaluation(job.run)
    if record is None or record["checkpoint"] != f"last, update {_trained(job)}":
        return False
    tested = [(result["options"], len(result["episodes"])) for result in record["results"]]
    return covers(plan, tested)


def covers(plan: PlannedEvaluation, tested: Iterable[tuple[Mapping[str, object], int]]) -> bool:
    """Return True if all values of a planned evaluation are tested.

    Args:
        plan: the evaluation.
        tested: the varied options and the number of episodes of each result.
    """
    written = {_written(options) for options, episodes in tested if episodes == plan.episodes}
    vary = parse_vary(plan.vary)
    settings = [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]
    return written.issuperset(map(_written, settings))


def _written(options: Mapping[str, object]) -> str:
    """Return options as a text, in which NaN equals NaN."""
    return json.dumps(options, sort_keys=True)
