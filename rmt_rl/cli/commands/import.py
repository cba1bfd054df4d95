"""Make a Minari data set of others' files: rmt-rl import FORMAT FILES... --env ENV --id NAME."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from rmt_rl import registry
from rmt_rl.cli.arguments import HELP, Arguments, ReadsRuns, import_typed, leading, option_values
from rmt_rl.config import SEED_LIMIT, SEED_SPACING, Frozen
from rmt_rl.errors import UsageError
from rmt_rl.flags import parse, with_options
from rmt_rl.task import config_class
from rmt_rl.terminal import say

_USAGE = "rmt-rl import FORMAT FILES... --env ENV --id NAME"


class ImportFlags(ReadsRuns):
    """The environment that the data are from, the name of the new data set, and what the files' columns mean."""

    id: str = Field(description="id of the new data set: namespace/name-v0")
    env: str = Field(description="the environment that the data are from, see rmt-rl list; it has options of its own")
    map: tuple[str, ...] = Field(
        (),
        description="columns by role, beside the format's: observations=obs actions=a rewards=r terminations=done "
        "truncations=cut; also next_observations, episodes (their numbers), and parts such as observations.image=img",
    )
    scale: tuple[str, ...] = Field(
        (), description="factors of observations, actions or rewards, e.g. actions=0.5 observations=255"
    )
    algorithm: str = Field("unknown", description="name of the policy that acted, for the metadata")
    reference_episodes: int = Field(
        100, ge=0, description="episodes of random actions and of the env's expert, for reference scores; 0: none"
    )
    seed: int = Field(0, ge=0, lt=SEED_LIMIT, description=f"seed of these episodes{SEED_SPACING}")
    env_options: Frozen


def import_files(arguments: Arguments) -> int:
    """Import files and print the id of the data set."""
    count = leading(arguments)
    names, rest = arguments[:count], arguments[count:]
    environments = option_values("--env", rest)
    if not names and HELP & set(rest) and not environments:
        say(f"{__doc__}\n\n{_USAGE} --help shows the options, rmt-rl list the formats and environments.")
        return 0
    if len(names) < 2 or len(environments) != 1:
        raise UsageError(f"name a format, files or folders, and the environment: {_USAGE}; see rmt-rl list")
    data_format, *files = names
    import_typed([data_format, *environments])
    task = registry.load_task(environments[0])
    given: Any = parse(
        with_options(ImportFlags, env=config_class(task)), rest, f"rmt-rl import {data_format}", __doc__ or ""
    )
    given.import_modules()
    from rmt_rl.acting.importing import Import, import_dataset
    from rmt_rl.cli.progress import EvaluationProgress

    wanted = Import(
        format=data_format,
        files=[Path(file) for file in files],
        dataset_id=given.id,
        task_name=given.env,
        options=given.env_options,
        columns=_pairs(given.map, "--map", "ROLE=COLUMN"),
        scales=_scales(given.scale),
        algorithm=given.algorithm,
        reference_episodes=given.reference_episodes,
        seed=given.seed,
    )
    with EvaluationProgress(None) as progress:
        identity = import_dataset(wanted, progress)
    say(identity)
    return 0


def _pairs(texts: Iterable[str], flag: str, form: str) -> dict[str, str]:
    """Read `NAME=VALUE` texts of a flag."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value or name in pairs:
            raise UsageError(f"{flag} {text!r}: give it as {form}, each name once")
        pairs[name] = value
    return pairs


def _scales(texts: Iterable[str]) -> dict[str, float]:
    scales = {}
    for name, value in _pairs(texts, "--scale", "ROLE=FACTOR").items():
        try:
            factor = float(value)
        except ValueError:
            factor = 0.0
        if not factor or not math.isfinite(factor):
            raise UsageError(f"--scale {name}={value}: give a number other than 0")
        scales[name] = factor
    return scales


COMMAND = import_files
