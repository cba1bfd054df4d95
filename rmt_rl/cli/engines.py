"""Engines as a command line names them: their options, and the calls that they make for a command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from pydantic import BaseModel, Field, create_model

from rmt_rl import registry
from rmt_rl.cli.arguments import Arguments, ReadsRuns, import_typed, option_values
from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.sweeps.calls import calls_of
from rmt_rl.sweeps.engine import Setting
from rmt_rl.terminal import complain

if TYPE_CHECKING:
    from rmt_rl.acting.shards import Compute
    from rmt_rl.sweeps.engine import Engine

Model = TypeVar("Model", bound=BaseModel)


class PlaysShards(ReadsRuns):
    """Base of the options of commands whose work an engine can divide among processes."""

    engine: str | None = Field(
        None, description="what plays the shards: local, ray or slurm (unset: this process); it adds its own options"
    )


def with_engine(model: type[Model], arguments: Arguments) -> type[Model]:
    """Return the config `model`, with the options of the engine that a command line names, if it names one.

    Raises:
        UsageError: no engine has this name, or a package or module that it needs can't be imported.
    """
    engine = typed_engine(arguments)
    return model if engine is None else with_engine_options(model, engine)


def typed_engine(arguments: Arguments) -> str | None:
    """Return the engine that a command line names, if it does; the module of `module:Name` is imported.

    Raises:
        UsageError: the module can't be imported.
    """
    named = option_values("--engine", arguments)
    import_typed(named)
    return named[-1] if named else None


def with_engine_options(model: type[Model], engine: str) -> type[Model]:
    """Return the config `model` with the options of an engine in its field `engine_options`; the flags have no prefix.

    Raises:
        UsageError: no engine has this name, or a package that it needs is not installed.
    """
    options_class = registry.engine_class(engine).Config
    hint: Any = Annotated[options_class, tyro.conf.arg(name="")]
    added: dict[str, Any] = {"engine_options": (hint, options_class())}
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **added)


@contextmanager
def opened_engine(name: str, options: Frozen, setting: Setting) -> Iterator[Engine]:
    """Yield an engine, after its note to the user, and close it in the end."""
    from rmt_rl.sweeps.run import closing_engine  # only now, since it imports PyTorch

    with closing_engine(registry.engine_class(name)(options, setting)) as engine:
        if engine.note:
            complain(engine.note)
        yield engine


@contextmanager
def computing(given: Any, setting: Setting, shards: int, modules: Sequence[str] = ()) -> Iterator[Compute]:
    """Yield a function that plays shards: in this process, or by the engine of `given`, which is closed in the end.

    Args:
        given: the options of a command, a `PlaysShards`.
        setting: facts that the engine needs.
        shards: number of shards.
        modules: modules to import in other processes, besides those of `--import`.

    Raises:
        UsageError: an engine is named for a single shard.
    """
    if given.engine is None:
        yield map
        return
    if shards == 1:
        raise UsageError(f"engine={given.engine} plays shards; say how many by --shards, e.g. --shards 8")
    with opened_engine(given.engine, given.engine_options, setting) as engine:

        def compute(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Iterable[Any]:
            return engine.results(calls_of(function, arguments, [*given.modules, *modules], given.trust_spec))

        yield compute
