"""The `rmt-rl` command: find the command that is asked for, run it, and put errors into one line."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from typing import Any

from rmt_rl import __version__, registry
from rmt_rl.cli.arguments import HELP, Arguments, import_typed
from rmt_rl.errors import UsageError
from rmt_rl.launch import is_first_process
from rmt_rl.plugins import without_current_folder
from rmt_rl.terminal import complain, one_line, say

UNREACHABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}  # a path's fault


def main(arguments: Arguments | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, 2 for a user's mistake, 130 when interrupted, 1 for a broken pipe.
    """
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:  # whoever read our output has enough of it, as in `rmt-rl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it closes it
        return 1
    except OSError as error:
        if error.errno not in UNREACHABLE:
            raise
        _complain(f"{error.filename} can't be opened ({error.strerror}); name another path")
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: Arguments) -> int:
    if not arguments or arguments[0] in HELP:
        say(_usage())
        return 0
    if arguments[0] == "--version":
        say(f"rmt-rl {__version__}")
        return 0
    name, *rest = arguments
    with without_current_folder(), warnings.catch_warnings():
        import_typed([name])
        command = registry.command(name)
        warnings.showwarning = _show_warning
        return command(rest)


def _usage() -> str:
    names = registry.names("commands")
    width = max(map(len, names))
    lines = [f"  {name:<{width}} {_summary(name)}" for name in names]
    ending = "rmt-rl COMMAND --help tells more, rmt-rl --version the version."
    return "\n".join(["usage: rmt-rl COMMAND ...", "", *lines, "", ending])


def _summary(name: str) -> str:
    try:
        return registry.summary("commands", name)
    except UsageError:  # several packages declare it
        return ""


def _complain(message: str) -> None:
    if is_first_process():
        complain(f"error: {one_line(message)}")


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Print one line for a warning that is meant for users; of others, developers want to know the place."""
    if category is UserWarning:
        complain(f"warning: {one_line(str(message))}")
    else:
        text = warnings.formatwarning(message, category, *place[:2])
        complain(text.removesuffix("\n"))
