"""Calls of one function with many arguments, in any processes, whose results come in order.

A result doesn't depend on the process that computes it, so results are the same for every engine.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rmt_rl.errors import UsageError
from rmt_rl.plugins import import_modules
from rmt_rl.registry import trust_specs

HandleT = TypeVar("HandleT")


class Call(NamedTuple):
    """A call of a function that a module defines, and what its process has to know.

    Attributes:
        function: the function.
        argument: its argument.
        modules: modules that the user named, to import first; `module:Name` stands for its module.
        trust_spec: let files give environments any arguments.
        folder: the current folder, if there is such a folder.
    """

    function: Callable[[Any], Any]
    argument: Any
    modules: tuple[str, ...]
    trust_spec: bool
    folder: Path


def answer(call: Call) -> Any:
    """Make a call and return its result, or the UsageError that it raised."""
    if call.folder.is_dir():
        os.chdir(call.folder)
    try:
        import_modules(call.modules)
        trust_specs(call.trust_spec)
        return call.function(call.argument)
    except UsageError as error:
        return error


def result_of(answered: Any) -> Any:
    """Return the result of a call from what `answer` returned.

    Raises:
        UsageError: the call raised it.
    """
    if isinstance(answered, UsageError):
        raise answered
    return answered


def in_order(
    start: Callable[[Call], HandleT], wait: Callable[[HandleT], Any], calls: Iterable[Call], most: int
) -> Iterator[Any]:
    """Yield the results of calls in order; at most `most` are begun before the first of them is taken.

    Args:
        start: begins a call.
        wait: waits for the end of a call that was begun, and returns its answer.
        calls: the calls.
        most: the largest number of results that are waited for or kept.
    """
    begun: deque[HandleT] = deque()
    for call in calls:
        begun.append(start(call))
        if len(begun) >= most:
            yield result_of(wait(begun.popleft()))
    while begun:
        yield result_of(wait(begun.popleft()))


def calls_of(
    function: Callable[[Any], Any], arguments: Sequence[Any], modules: Sequence[str], trust_spec: bool
) -> list[Call]:
    """Return the calls of a function with each argument, in the current folder."""
    return [Call(function, argument, tuple(modules), trust_spec, Path.cwd()) for argument in arguments]
