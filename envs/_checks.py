"""Checks that every environment makes alike, each with its one message."""

from __future__ import annotations

from typing import Any

from gymnasium.error import ResetNeeded

from rmt_rl.errors import UsageError


def check_render_mode(render_mode: str | None) -> None:
    """Raise a UsageError for a render mode other than None and "rgb_array"."""
    if render_mode not in (None, "rgb_array"):
        raise UsageError(f"render_mode={render_mode!r}: must be None or 'rgb_array'")


def check_no_options(options: dict[str, Any] | None) -> None:
    """Raise a UsageError for any options of a reset."""
    if options:
        raise UsageError(f"options={options!r}: resetting takes none; they are given when the environment is made")


def check_running(running: bool) -> None:
    """Raise ResetNeeded where no episode is running that a step could go on with."""
    if not running:
        raise ResetNeeded("no episode is running: call reset() before step()")


def check_drawable(render_mode: str | None) -> None:
    """Raise a UsageError where an environment was made without a render mode."""
    if render_mode is None:
        raise UsageError("render_mode=None: make the environment with render_mode='rgb_array' to draw it")
