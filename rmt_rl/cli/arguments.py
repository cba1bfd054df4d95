"""Parts of a command line: the names before the options, the values of one option, modules to import."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import tyro
from pydantic import Field

from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.plugins import NAME, find_in_current_folder, import_modules
from rmt_rl.registry import import_named, trust_specs
from rmt_rl.terminal import say

Arguments = Sequence[str]
HELP = {"-h", "--help"}
IMPORT = "modules to import first: those of a run's agent, environment, feed and loggers named as `module:Name`"
RUNS = "folders of runs, or zoo:NAME, or hf://owner/name[@revision]"
RUN = "folder of the run, or zoo:NAME (see rmt-rl list), or hf://owner/name[@revision]"
RUNTIME = "what computes the agent's steps: torch, or onnx by its graph (on the CPU; faster for few environments)"
TRUST = "let files give environments any arguments, even paths and programs to run; only for files you trust"


class ReadsRuns(Frozen):
    """Base of the options of commands that make a run's agent; the run's files import no module by themselves."""

    modules: Annotated[tuple[str, ...], tyro.conf.arg(name="import", metavar="MODULE [MODULE ...]")] = Field(
        (), description=IMPORT
    )

    trust_spec: bool = Field(False, description=TRUST)

    def import_modules(self) -> None:
        """Import what `--import` names, from the current folder too; and take the user's word on specs."""
        import_modules(self.modules)
        trust_specs(self.trust_spec)


def import_typed(names: Iterable[str]) -> None:
    """Import the modules of the names `module:Name` among those that the user typed, from the current folder too.

    Raises:
        UsageError: a module can't be imported.
    """
    for name in names:
        if ":" not in name:
            continue
        match = NAME.fullmatch(name)
        if match is None:
            raise UsageError(f"{name!r} is no name; write module:Name with dots in the module, e.g. mylab.maze:Maze")
        find_in_current_folder(match[1])
        import_named(name)


def leading(arguments: Arguments) -> int:
    """Return how many arguments stand before the first option."""
    return next((index for index, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))


def option_values(option: str, arguments: Arguments) -> list[str]:
    """Return all values that are given to an option, as `--option VALUE ...` or `--option=VALUE`."""
    values: list[str] = []
    for place, argument in enumerate(arguments, start=1):
        name, equals, value = argument.partition("=")
        if name == option:
            behind = arguments[place:]
            values += [value] if equals else behind[: leading(behind)]
    return values


def require_values(option: str, arguments: Arguments, remedy: str) -> None:
    """Raise a UsageError if an option is given without a value, as in `--option` alone or `--option=`."""
    for place, argument in enumerate(arguments, start=1):
        name, equals, value = argument.partition("=")
        if name != option:
            continue
        has_value = value if equals else leading(arguments[place:])
        if not has_value:
            raise UsageError(f"{option} is given without a value; {remedy}")


def positionals(
    arguments: Arguments, wanted: Sequence[str], command: str, description: str
) -> tuple[list[str], Arguments]:
    """Split off the leading names, and import the modules of those that are `module:Name`.

    Args:
        arguments: those behind the command.
        wanted: what the names are, e.g. `("ENV", "AGENT")`.
        command: the command.
        description: printed if the user asks for help without giving names. There are no names then.

    Raises:
        UsageError: there are fewer or more names than wanted, or a module can't be imported.
    """
    count = leading(arguments)
    names, rest = list(arguments[:count]), arguments[count:]
    usage = f"rmt-rl {command} {' '.join(wanted)}"
    if not names and HELP & set(rest):
        say(f"{description}\n\n{usage} --help shows the options, rmt-rl list the names.")
        return [], rest
    if len(names) != len(wanted):
        raise UsageError(
            f"rmt-rl {command} takes {' '.join(wanted)} before any options, not {' '.join(names) or 'nothing'}; "
            "see rmt-rl list"
        )
    import_typed(names)
    return names, rest
