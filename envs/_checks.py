"""Checks shared by all environments, so that an error has the same message everywhere."""

from __future__ import annotations

from typing import Any

from gymnasium.error import ResetNeeded

from rmt_rl.errors import UsageError


def check_render_mode(render_mode: str | None) -> None:
    """Raise UsageError if the render mode is neither None nor "rgb_array"."""
    if render_mode not in (None, "rgb_array"):
        raise UsageError(f"render_mode={render_mode!r}: must be None or 'rgb_array'")


def check_no_options(options: dict[str, Any] | None) -> None:
    """Raise UsageError if `reset` is called with options."""
    if options:
        raise UsageError(f"options={options!r}: reset() takes no options; pass them when the environment is made")


def check_running(running: bool) -> None:
    """Raise ResetNeeded if no episode is running."""
    if not running:
        raise ResetNeeded("no episode is running: call reset() before step()")


def check_drawable(render_mode: str | None) -> None:
    """Raise UsageError if the environment was made without a render mode."""
    if render_mode is None:
        raise UsageError("render_mode=None: make the environment with render_mode='rgb_array' to draw it")
