"""The matrix of a sweep: environments x agents x options x seeds, each combination a run with a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self, TypeAlias

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from rmt_rl.acting.evaluate import parse_vary
from rmt_rl.config import SEED_LIMIT, Frozen, Strings, validated
from rmt_rl.errors import UsageError
from rmt_rl.reading import read_toml
from rmt_rl.registry import engine_class
from rmt_rl.remote import check_url
from rmt_rl.runs.named_options import named_config
from rmt_rl.runs.options import RunConfig
from rmt_rl.runs.recipes import CHOICE, find_recipe
from rmt_rl.sweeps.engine import PlannedEvaluation, check_gpus
from rmt_rl.sweeps.naming import SECTIONS, cell_name, dotted_names
from rmt_rl.sweeps.space import SearchConfig
from rmt_rl.urls import is_url, without_password

_RESERVED = {"seed": "seeds", "env": "envs", "agent": "agents"}  # options with a field of their own
Values: TypeAlias = Mapping[str, Any]


def _plans(values: Any) -> Any:
    """Return evaluations from their tables. Errors are about an evaluation's own options."""
    if not isinstance(values, Sequence) or not all(isinstance(value, Mapping) for value in values):
        return values
    return [validated(PlannedEvaluation, value) for value in values]


def _search(values: Any) -> Any:
    """Return a search from its table. Errors are about the search's own options."""
    return validated(SearchConfig, values) if isinstance(values, Mapping) else values


OptionNames = BeforeValidator(dotted_names)


class SweepConfig(Frozen):
    """The matrix of a sweep, its evaluations, and where it is executed."""

    envs: Strings = Field(min_length=1, description="environments")
    agents: Strings = Field(min_length=1, description="agents")
    seeds: tuple[Annotated[int, Field(ge=0, lt=SEED_LIMIT)], ...] = Field(
        (0,), min_length=1, description="training seeds"
    )
    options: Annotated[dict[str, tuple[JsonValue, ...]], OptionNames] = Field(
        {}, description='the matrix: a list of values for each option, e.g. "agent.width" = [32, 64]'
    )
    train: Annotated[dict[str, JsonValue], OptionNames] = Field({}, description="further options of all runs")
    recipe: str = Field("default", description=CHOICE)
    evaluate: Annotated[tuple[PlannedEvaluation, ...], BeforeValidator(_plans)] = Field(
        (), description="evaluations of every trained run"
    )
    cores: int = Field(1, ge=1, description="threads of each run")
    gpus: float = Field(0.0, ge=0, description="GPUs of each run, or the share of one; 0: the CPU alone")
    engine: str = Field("local", description="what executes the runs, see rmt-rl list")
    engine_options: dict[str, JsonValue] = Field({}, description="options of the engine")
    search: Annotated[SearchConfig | None, BeforeValidator(_search)] = Field(
        None, description="a search in the place of the matrix"
    )
    out: Path = Field(Path("runs/sweep"), description="folder of the runs, on storage that all machines share")
    store: str = Field(
        "",
        description="URL that keeps the runs in place of shared storage, e.g. s3://bucket/sweeps/lr; `out` gets copies "
        "of their metrics and results",
    )
    scratch: Path | None = Field(
        None, description="folder for runs on the machine that works on them, with `store` (unset: for temporary files)"
    )

    @field_validator("out")
    @classmethod
    def _no_url(cls, out: Path) -> Path:
        if is_url(out):
            shown = without_password(str(out))
            raise UsageError(f"out={shown} is a URL; give it as `store` (--store), and a local folder as `out`")
        return out

    @field_validator("store")
    @classmethod
    def _a_url(cls, store: str) -> str:
        if store:
            check_url(store)
        return store

    @model_validator(mode="after")
    def _store_outlives_runs(self) -> Self:
        in_memory = self.store.startswith("memory://")
        if in_memory and not getattr(engine_class(self.engine), "in_this_process", False):
            raise ValueError(
                f"store={self.store} is the memory of one process, but engine={self.engine!r} starts a process for "
                "each run, with which the run would be lost: choose another URL, such as file:///folder"
            )
        return self

    @field_validator("seeds", "envs", "agents")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        _check_distinct("", values)
        return values

    @field_validator("options", "train")
    @classmethod
    def _no_field(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name in _RESERVED:
                raise UsageError(f"option {name!r} has a field of its own: {_RESERVED[name]}")
        return options

    @field_validator("options")
    @classmethod
    def _some_values(cls, options: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for name, values in options.items():
            if not values:
                raise UsageError(f"option {name!r} has no values; list some")
            _check_distinct(f"option {name!r}: ", values)
        return options

    @model_validator(mode="after")
    def _matrix_or_search(self) -> Self:
        if self.search is not None and self.options:
            raise ValueError("a search draws the options, so there is no matrix; remove [options] or [search]")
        return self

    @field_validator("evaluate")
    @classmethod
    def _readable(cls, plans: tuple[PlannedEvaluation, ...]) -> tuple[PlannedEvaluation, ...]:
        for plan in plans:
            parse_vary(plan.vary)
        return plans

    @field_validator("gpus")
    @classmethod
    def _divisible(cls, gpus: float) -> float:
        check_gpus(gpus)
        return gpus


def _check_distinct(where: str, values: Sequence[Any]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise UsageError(f"{where}{value!r} stands there twice; remove one")


class Cell(NamedTuple):
    """A run of a sweep: its name, which is the name of its folder, its options, and its evaluations after training."""

    name: str
    config: RunConfig
    evaluations: tuple[PlannedEvaluation, ...] = ()


def read_sweep(path: Path) -> dict[str, Any]:
    """Return the values of a sweep's TOML file.

    Raises:
        UsageError: the file can't be read, or isn't TOML.
    """
    return read_toml(path, "sweep")


def cells_of(sweep: SweepConfig) -> list[Cell]:
    """Return all runs of a sweep. Those of one seed stand together, so that early results are of all settings.

    Raises:
        UsageError: options don't fit an environment or agent, or two runs would have the same name.
    """
    names = list(sweep.options)
    cells: dict[str, Cell] = {}
    settings = product(*sweep.options.values())
    for seed, env, agent, values in product(sweep.seeds, sweep.envs, sweep.agents, list(settings)):
        varied = dict(zip(names, values, strict=True))
        cell = make_cell(sweep, env, agent, varied, seed)
        if cell.name.lower() in cells:  # some systems don't tell capitals from small letters
            raise UsageError(
                f"two runs would have the name {cell.name}; choose values that differ in letters or digits"
            )
        cells[cell.name.lower()] = cell
    return list(cells.values())


def make_cell(
    sweep: SweepConfig, env: str, agent: str, varied: Values, seed: int, named_by: Values | None = None
) -> Cell:
    """Return the run with these values of the matrix, or of a search. The values, or `named_by`, are in its name.

    Raises:
        UsageError: options don't fit the environment or the agent; the message names the run.
    """
    name = cell_name(env, agent, varied if named_by is None else named_by, seed)
    try:
        options = _by_section({**sweep.train, **varied, "seed": seed})
        recipe = find_recipe(env, agent, sweep.recipe, options.get("learner"))
        config = named_config(env, agent, options, recipe)
    except UsageError as error:
        raise UsageError(f"run {name}: {error}") from error
    return Cell(name, config, sweep.evaluate)


def _by_section(options: Values) -> dict[str, Any]:
    """Return options with those of the environment and of the agent in mappings of their own."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    own: dict[str, Any] = {}
    for name, value in options.items():
        section, _, inner = name.partition(".")
        place, key = (sections[section], inner) if inner and section in SECTIONS else (own, name)
        place[key] = value
    given = {f"{section}_options": values for section, values in sections.items() if values}
    return own | given
