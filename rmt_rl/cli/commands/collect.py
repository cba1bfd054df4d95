"""Make a Minari data set: rmt-rl collect ENV plays its expert, --policy RUN a trained agent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field, create_model

from rmt_rl import registry
from rmt_rl.cli.arguments import Arguments, ReadsRuns, import_typed, option_values, positionals, require_values
from rmt_rl.config import SEED_LIMIT, SEED_SPACING, Frozen
from rmt_rl.errors import UsageError
from rmt_rl.flags import parse, with_options
from rmt_rl.task import default_episodes
from rmt_rl.terminal import complain, say

if TYPE_CHECKING:
    from rmt_rl.acting.collect import Compute

_ENGINE_FOLDER = Path("runs", ".collect")  # of the engine's own files


class Collection(ReadsRuns):
    """Episodes of an environment's expert, of trained agents, of random actions, or of several mixed."""

    episodes: int | None = Field(None, ge=1, description="episodes to collect (unset: the env's number, mostly 4000)")
    seed: int = Field(0, ge=0, lt=SEED_LIMIT, description=f"seed of the episodes{SEED_SPACING}")
    policy: tuple[str, ...] = Field(
        (), description="expert (default), random or a run's folder; several for a mix, e.g. expert=1 runs/ppo-0=2"
    )
    sample: bool = Field(False, description="trained agents sample their actions; otherwise the likeliest is taken")
    checkpoint: Literal["last", "best"] = Field("last", description="which of the runs' checkpoints")
    target_return: float | None = Field(None, description="return that agents aim at (unset: their data's best)")
    shards: int = Field(
        1,
        ge=1,
        description="parts of each policy's episodes, each with seeds of its own; who plays them changes nothing",
    )
    engine: str | None = Field(
        None, description="what plays the shards: local, ray or slurm (unset: this process); it adds its own options"
    )
    env_options: Frozen


def collect_dataset(arguments: Arguments) -> int:
    """Collect a data set and print its id."""
    description = __doc__ or ""
    names, rest = positionals(arguments, ("ENV",), "collect", description)
    if not names:
        return 0
    task = registry.load_task(names[0])
    require_values("--policy", rest, "name policies: --policy random; or leave it out, and the env's expert plays")
    model = _with_engine(with_options(Collection, env=task.Config), rest)
    given = parse(model, rest, f"rmt-rl collect {names[0]}", description)
    given.import_modules()
    if given.engine and given.shards == 1:
        raise UsageError(f"engine={given.engine} plays shards; say how many by --shards, e.g. --shards 8")
    from rmt_rl.acting.collect import collect
    from rmt_rl.acting.policies import EXPERT_ALONE, Behaviour, parse_share
    from rmt_rl.cli.progress import EvaluationProgress

    shares = tuple(map(parse_share, given.policy)) or EXPERT_ALONE.shares
    behaviour = Behaviour(shares, given.sample, given.target_return, given.checkpoint)
    episodes = given.episodes or default_episodes(task)
    with _computing(given, names) as compute, EvaluationProgress(episodes) as progress:
        identity = collect(
            names[0],
            given.env_options,
            episodes,
            given.seed,
            behaviour,
            progress,
            given.shards,
            compute,
        )
    say(identity)
    return 0


def _with_engine(model: type[Collection], arguments: Arguments) -> type[Collection]:
    """Return the options, with those of the engine if one is named."""
    named = option_values("--engine", arguments)
    if not named:
        return model
    import_typed(named)
    options_class = registry.engine_class(named[-1]).Config
    hint: Any = Annotated[options_class, tyro.conf.arg(name="")]
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, engine_options=(hint, options_class()))


@contextmanager
def _computing(given: Any, names: Sequence[str]) -> Iterator[Compute]:
    """Yield what plays the shards: this process, or an engine, which is closed in the end."""
    if given.engine is None:
        yield map
        return
    from rmt_rl.sweeps.calls import calls_of
    from rmt_rl.sweeps.engine import Setting
    from rmt_rl.sweeps.run import closing_engine

    setting = Setting(cores=1, gpus=0, folder=_ENGINE_FOLDER)
    typed = [name.partition(":")[0] for name in names if ":" in name]
    with closing_engine(registry.engine_class(given.engine)(given.engine_options, setting)) as engine:
        if engine.note:
            complain(engine.note)

        def compute(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterable[Any]:
            return engine.results(calls_of(function, arguments, [*given.modules, *typed], given.trust_spec))

        yield compute


COMMAND = collect_dataset
