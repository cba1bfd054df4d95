"""The zoo: trained runs that come with this package, and `zoo.toml`, the list of them with hashes and results."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from rmt_rl.analysis.run_records import read_run
from rmt_rl.config import Frozen, validated
from rmt_rl.reading import read_toml
from rmt_rl.runs.checkpoint import path_of, read_checkpoint
from rmt_rl.runs.find import ZOO, zoo_names

LIST = ZOO / "zoo.toml"


class ZooResult(Frozen):
    """The success and return of a run at one setting of its environment."""

    options: dict[str, JsonValue]
    episodes: int
    success_rate: float | None = None
    success_interval: tuple[float, float] | None = None
    mean_return: float


class ZooRun(Frozen):
    """A run of the zoo, as `zoo.toml` lists it."""

    summary: str
    env: str
    agent: str
    seed: int
    updates: int
    made_by: str = Field(description="the command that makes the run again")
    sha256: dict[str, str] = Field(description="hash of each file of the run")
    results: tuple[ZooResult, ...]


def read_zoo() -> dict[str, ZooRun]:
    """Return the runs of `zoo.toml` by name."""
    values = read_toml(LIST, "zoo")
    return {name: validated(ZooRun, values[name]) for name in zoo_names()}


def describe_run(folder: Path, summary: str, made_by: str) -> dict[str, Any]:
    """Return the entry of `zoo.toml` for a run, from the run's files.

    Args:
        folder: the run's folder.
        summary: what the run is good at, in a few words.
        made_by: the command that makes the run again.
    """
    run = read_run(folder)
    saved = read_checkpoint(path_of(folder))
    return {
        "summary": summary,
        "env": run.settings["env"],
        "agent": run.settings["agent"],
        "seed": run.seed,
        "updates": saved.header.update,
        "made_by": made_by,
        "sha256": file_hashes(folder),
        "results": [_result(evaluation.options, evaluation) for evaluation in run.evaluations],
    }


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file of a folder, by the file's name."""
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def _result(options: Mapping[str, Any], evaluation: Any) -> dict[str, Any]:
    values = {name: getattr(evaluation, name) for name in ZooResult.model_fields if name != "options"}
    known = {name: value for name, value in values.items() if value is not None}
    return {"options": dict(options), **known}
