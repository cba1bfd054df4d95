"""Errors of the operating system, told apart from damaged files: nobody should delete a file that is whole.

A file that another process has locked, that may not be read, or whose disk or network fails is whole. HDF5 wraps such
errors into its own; their number stands in the message.
"""

from __future__ import annotations

import errno
import os
import re

from rmt_rl.errors import UsageError

_NUMBER = re.compile(r"errno = (\d+)")
_LOCKED = (
    "another process is writing to it: wait until that process has ended; if there is none, the file system has no "
    "locks: set HDF5_USE_FILE_LOCKING=FALSE"
)
_FAILING = "the disk or the network file system fails: check it and try again"
_ELSEWHERE = "name another path"
_REMEDIES = {
    errno.EACCES: "make it readable for this user, or ask its owner",
    errno.EPERM: "make it readable for this user, or ask its owner",
    errno.EAGAIN: _LOCKED,
    errno.EDEADLK: _LOCKED,
    errno.ENOLCK: _LOCKED,
    errno.ENOSYS: _LOCKED,
    errno.EOPNOTSUPP: _LOCKED,
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "name a path that can be written",
    errno.EMFILE: "close other files, or raise the limit with `ulimit -n`",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
    errno.EIO: _FAILING,
    errno.ESTALE: _FAILING,
    errno.ETIMEDOUT: _FAILING,
    errno.ENOTCONN: _FAILING,
    errno.ECONNRESET: _FAILING,
    errno.EHOSTDOWN: _FAILING,
    errno.EHOSTUNREACH: _FAILING,
    errno.ENETDOWN: _FAILING,
    errno.ENETUNREACH: _FAILING,
    errno.ENOENT: "it was removed meanwhile: try again",
    errno.EISDIR: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
    errno.ELOOP: _ELSEWHERE,
    errno.ENAMETOOLONG: _ELSEWHERE,
}


class UnreadableFile(UsageError):
    """The system can't open or read a file that may be whole."""


def obstacle(error: BaseException) -> str | None:
    """Return why the system can't open or read a file, with the remedy; None if the error is about the file's content.

    Args:
        error: any error that was raised while a file was used.
    """
    if not isinstance(error, OSError):
        return None
    number = error.errno
    if number is None:
        found = _NUMBER.search(str(error))
        number = int(found[1]) if found else None
    if number is None:
        return None
    return f"{os.strerror(number)}; {_REMEDIES.get(number, 'try again')}"


def unreadable(what: str, error: BaseException) -> UnreadableFile | None:
    """Return the error for a file that the system can't open or read; None if the file's content is at fault.

    Args:
        what: the file, as the message begins.
        error: any error that was raised while it was used.
    """
    reason = obstacle(error)
    return UnreadableFile(f"{what} can't be read: {reason}") if reason else None
