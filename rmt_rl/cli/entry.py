"""The `rmt-rl` command: find the command that is asked for, run it, and put errors into one line."""

from __future__ import annotations

import errno
import signal
import sys
import warnings
from typing import Any

from rmt_rl import __version__, registry, signals
from rmt_rl.cli.arguments import HELP, Arguments, import_typed
from rmt_rl.cli.streams import discard_output, lasting_streams
from rmt_rl.errors import UsageError, is_out_of_memory, out_of_memory
from rmt_rl.launch import is_first_process
from rmt_rl.plugins import without_current_folder
from rmt_rl.printing import replace_unprintable
from rmt_rl.terminal import complain, one_line, say

UNREACHABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG}  # a path's fault
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}  # of a stream, if no path is named


def main(arguments: Arguments | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, 2 for a user's mistake, 1 if the output can't be written. 128 + n for signal n: 130 for
        Ctrl-C, 143 for SIGTERM, 129 for a closed terminal, 138 for SIGUSR1, 141 for a pipe that its reader closed.
    """
    replace_unprintable()
    with lasting_streams(), signals.heard():
        return _status(list(sys.argv[1:] if arguments is None else arguments))


def _status(arguments: Arguments) -> int:
    try:
        return _flushed(arguments)
    except UsageError as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:  # whoever read our output has enough of it, as in `rmt-rl ... | head`
        discard_output()
        return signals.status_of(signals.BROKEN_PIPE)
    except OSError as error:
        return _failed(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _complain(out_of_memory(error, arguments))
        return 2
    except signals.Stopped as stopped:
        return stopped.status
    except KeyboardInterrupt:
        return signals.status_of(signal.SIGINT)


def _flushed(arguments: Arguments) -> int:
    """Run a command; write what it printed before the process ends, when errors can still be told."""
    try:
        status = _run(arguments)
    except SystemExit:  # after --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return status


def _failed(error: OSError) -> int:
    """Put an error of the operating system into one line, if the user can mend it; return the exit status."""
    if error.filename is None and error.errno in UNWRITABLE:
        discard_output()
        _complain(f"the output can't be written ({error.strerror}); free some space or send it elsewhere")
        return 1
    if error.errno not in UNREACHABLE:
        raise error
    _complain(f"{error.filename} can't be opened ({error.strerror}); name another path")
    return 2


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
        warnings.showwarning = _WarningPrinter()
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


class _WarningPrinter:
    """Print one line for a warning that is meant for users; of others, developers want to know the place.

    Each line for users is printed once a command. Python alone can't promise that: whoever changes its filters makes
    it forget what was shown.
    """

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category is not UserWarning:
            text = warnings.formatwarning(message, category, *place[:2])
            complain(text.removesuffix("\n"))
            return
        line = f"warning: {one_line(str(message))}"
        if line not in self._printed:
            self._printed.add(line)
            complain(line)
