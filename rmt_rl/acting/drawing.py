"""Environments that draw themselves, for videos and for pictures of single steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rmt_rl.environments import AnyEnv, make_env
from rmt_rl.errors import UsageError
from rmt_rl.task import Options, Task

PICTURES = "rgb_array"  # Gymnasium's name of the render mode that returns arrays
Picture = NDArray[np.uint8]
"""One picture: uint8 (height, width, 3)."""


class NoPicturesError(UsageError):
    """An environment can't be drawn."""


def make_drawn_env(task: Task, options: Options) -> AnyEnv:
    """Return one environment of a task that draws itself as arrays. One picture is drawn to try it.

    Raises:
        NoPicturesError: the environment has no such render mode, or drawing fails.
        UsageError: an option is unknown or its value is out of range.
    """
    make_env(task, options).close()  # whatever is wrong without drawing is told as ever
    try:
        env = make_env(task, options, render_mode=PICTURES)
    except Exception as error:  # any that its own code raises
        raise _no_pictures(task, str(error)) from error
    try:
        env.reset(seed=0)
        picture(env)
    except Exception as error:  # any that its own code raises
        env.close()
        raise _no_pictures(task, str(error)) from error
    return env


def picture(env: AnyEnv) -> Picture:
    """Return a picture of an environment as it stands.

    Raises:
        UsageError: the environment returns something else.
    """
    if env.render_mode != PICTURES:
        raise UsageError(f"its render_mode is {env.render_mode!r}")
    drawn = np.asarray(env.render())
    is_picture = drawn.ndim == 3 and drawn.shape[-1] == 3 and drawn.dtype == np.uint8
    if not is_picture:
        raise UsageError(f"render() returns an array {drawn.shape} of {drawn.dtype}, not uint8 (height, width, 3)")
    return drawn


def _no_pictures(task: Task, reason: str) -> NoPicturesError:
    return NoPicturesError(f"env {task.ID!r} can't be drawn with render_mode={PICTURES!r}: {reason}")
