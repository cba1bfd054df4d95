"""Train and evaluate a matrix of runs: rmt-rl sweep SWEEP.toml, or by flags; on this machine, Ray or Slurm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from tyro.conf import UseAppendAction

from rmt_rl import registry
from rmt_rl.acting.evaluate import parse_vary, single_values
from rmt_rl.cli.arguments import Arguments, ReadsRuns, import_typed, leading
from rmt_rl.cli.engines import opened_engine, typed_engine, with_engine_options
from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError
from rmt_rl.flags import parse
from rmt_rl.plugins import import_extra
from rmt_rl.runs.recipes import CHOICE, find_recipe
from rmt_rl.sweeps.engine import Setting
from rmt_rl.sweeps.matrix import SweepConfig, cells_of, read_sweep
from rmt_rl.sweeps.mirror import MirroredReport, mirrored
from rmt_rl.sweeps.naming import dotted
from rmt_rl.sweeps.run import claimed, execute, job_of, unfinished
from rmt_rl.terminal import complain, say
from rmt_rl.urls import without_password

if TYPE_CHECKING:
    from rmt_rl.sweeps.engine import Engine, Job
    from rmt_rl.sweeps.matrix import Cell

_FIELDS = (  # of the file, which flags replace as they are
    "envs",
    "agents",
    "seeds",
    "recipe",
    "cores",
    "gpus",
    "out",
    "store",
    "scratch",
    "engine",
)


class SweepFlags(ReadsRuns):
    """Flags of a sweep. They replace what the file says; `--options` and `--train` are added to its tables."""

    envs: tuple[str, ...] = Field((), description="environments")
    agents: tuple[str, ...] = Field((), description="agents")
    seeds: tuple[int, ...] = Field((), description="training seeds (unset: 0)")
    options: tuple[str, ...] = Field(
        (),
        description="the matrix: options and their values: learning-rate=0.001,0.0003 env.corridor-length=[1,9],[1,88]",
    )
    train: tuple[str, ...] = Field((), description="further options of all runs: updates=500 agent.width=64")
    recipe: str | None = Field(None, description=f"{CHOICE} (unset: default)")
    vary: UseAppendAction[tuple[str, ...]] = Field(
        (), description="evaluate over an env option's values: corridor_length=90,300; give it again for a grid"
    )
    episodes: int | None = Field(None, description="episodes of each evaluation (unset: 100, or no evaluation)")
    cores: int | None = Field(None, description="threads of each run (unset: 1)")
    gpus: float | None = Field(None, description="GPUs of each run, or the share of one (unset: the CPU alone)")
    out: Path | None = Field(None, description="folder of the runs (unset: runs/sweep)")
    store: str | None = Field(
        None, description="URL that keeps the runs where machines share no folder: s3://bucket/sweeps/lr (unset: --out)"
    )
    scratch: Path | None = Field(
        None, description="with --store, folder for runs on the machine that works on them (unset: for temporary files)"
    )
    engine: str | None = Field(None, description="what executes the runs: local, ray or slurm (unset: local)")
    search: int | None = Field(None, description="number of trials; the file's [search] has the ranges of the options")
    dry_run: bool = Field(False, description="print the folders of the runs, one a line, and end")
    engine_options: Frozen


def run_sweep(arguments: Arguments) -> int:
    """Work on all cells that aren't finished; print a line for each, and those that failed again at the end."""
    count = leading(arguments)
    files, flags = arguments[:count], arguments[count:]
    if count > 1:
        raise UsageError(f"rmt-rl sweep takes one SWEEP.toml before any options, not {' '.join(files)}")
    values = read_sweep(Path(files[0])) if files else {}
    given, options = _parse(values, flags)
    typed = [name for name in (*given.envs, *given.agents) if ":" in name]
    import_typed(typed)
    given.import_modules()
    sweep = validated(SweepConfig, _merged(values, given))
    modules = (*given.modules, *typed)
    if sweep.search is not None:
        return _search(sweep, modules, given, options)
    cells = cells_of(sweep)
    if given.dry_run:
        place = without_password(sweep.store.rstrip("/")) if sweep.store else sweep.out
        for cell in cells:
            say(f"{place}/{cell.name}")
        return 0
    _tell_recipes(sweep)
    jobs = [job_of(cell, sweep, modules, given.trust_spec) for cell in cells]
    return _execute(sweep, cells, jobs, options)


def _tell_recipes(sweep: SweepConfig) -> None:
    """Say which recipes the runs begin with."""
    pairs = product(sweep.envs, sweep.agents)
    titles = [find_recipe(env, agent, sweep.recipe).title for env, agent in pairs]
    for title in dict.fromkeys(filter(None, titles)):
        complain(title)


def _parse(values: Mapping[str, Any], flags: Arguments) -> tuple[SweepFlags, Frozen]:
    """Return the flags, and the options of the engine, from the file and the flags."""
    in_file = values.get("engine", "local")
    engine = typed_engine(flags) or in_file
    if not isinstance(engine, str):
        raise UsageError(f"engine={engine!r} is no name; see rmt-rl list")
    model = with_engine_options(SweepFlags, engine)
    own = values.get("engine_options", {}) if engine == in_file else {}
    if not isinstance(own, Mapping):
        raise UsageError(f"engine_options={own!r} is no table; write [engine_options] above its options")
    default = model(engine_options=validated(registry.engine_class(engine).Config, own))
    description = f"{__doc__}\n\nOptions are those of engine {engine!r}; --engine NAME --help shows those of another."
    given = parse(model, flags, "rmt-rl sweep", description, default)
    return given, given.engine_options


def _merged(values: Mapping[str, Any], given: SweepFlags) -> dict[str, Any]:
    """Return the values of the file, with those that flags give in their places."""
    merged = dict(values)
    for name in _FIELDS:
        value = getattr(given, name)
        if value not in ((), None):
            merged[name] = value
    train = dotted(single_values(given.train, "--train"))
    for name, added in (("options", _matrix(given.options)), ("train", train)):
        if added:
            merged[name] = _joined(merged.get(name, {}), added, name)
    if given.search is not None:
        merged["search"] = _joined(values.get("search", {}), {"trials": given.search}, "search")
    if given.vary or given.episodes is not None:
        plan = {"vary": given.vary} | ({} if given.episodes is None else {"episodes": given.episodes})
        merged["evaluate"] = [plan]
    return merged


def _joined(table: Any, added: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise UsageError(f"{name}={table!r} is no table; write [{name}] above its options")
    return {**dotted(table), **added}


def _matrix(texts: Sequence[str]) -> dict[str, list[Any]]:
    return dotted(parse_vary(texts, "--options"))


def _execute(sweep: SweepConfig, cells: Sequence[Cell], jobs: Sequence[Job], options: Frozen) -> int:
    """Work on the jobs that aren't finished; return 1 if some failed."""
    from rmt_rl.cli.sweep_progress import SweepProgress, tell_failures

    with (
        claimed(sweep.out) as own,
        mirrored(sweep.store, sweep.out, own) as mirror,
        SweepProgress(sweep.out, len(jobs)) as progress,
    ):
        report = MirroredReport(progress, mirror) if mirror else progress
        due = unfinished(cells, jobs, report)
        if not due:
            return 0
        with _engine(sweep, options, own) as engine:
            failed = execute(due, engine, report)
    return tell_failures(failed, own)


def _search(sweep: SweepConfig, modules: Sequence[str], given: SweepFlags, options: Frozen) -> int:
    """Search for good options; print the best. Return 1 if runs failed."""
    import_extra("optuna", "sweep", "a search")
    from rmt_rl.cli.sweep_progress import SweepProgress, tell_failures
    from rmt_rl.sweeps.search import Search

    if given.dry_run:
        raise UsageError("a search draws its options while it runs, so --dry-run has nothing to print; leave it out")
    _tell_recipes(sweep)
    with claimed(sweep.out) as own, mirrored(sweep.store, sweep.out, own) as mirror:
        search = Search(sweep, own, modules, given.trust_spec, mirror)
        with SweepProgress(sweep.out, search.cells) as progress, _engine(sweep, options, own) as engine:
            report = MirroredReport(progress, mirror) if mirror else progress
            failed = search.run(engine, report)
        say(search.summary())
    return tell_failures(failed, own)


def _engine(sweep: SweepConfig, options: Frozen, own: Path) -> AbstractContextManager[Engine]:
    """Return a context with the sweep's engine."""
    return opened_engine(sweep.engine, options, Setting(sweep.cores, sweep.gpus, own))


COMMAND = run_sweep
