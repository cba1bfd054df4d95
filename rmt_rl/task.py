"""What the library asks of an environment's file (`rmt_rl.envs.<name>`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import gymnasium
    from pydantic import BaseModel

    from rmt_rl.rollout import Policy


class Task(Protocol):
    """A module that defines a memory task.

    The first line of its docstring is its summary: what it is, its horizon, and what must be remembered for how
    long. Two further names are optional: `EXTRA`, a literal string, the extra of rmt-rl that installs what the
    module imports; and `make_vec(num_envs, **options)`, which returns a natively vectorised `VectorEnv` with
    next-step autoreset. The info of the step that ends an episode holds `is_success` (bool).
    """

    @property
    def ID(self) -> str:
        """Gymnasium id, a literal string, e.g. `"rmt_rl/TMaze-v0"`."""

    @property
    def Config(self) -> type[BaseModel]:
        """Frozen options, the keyword arguments of `make`; the defaults are the training task."""

    @property
    def make(self) -> Callable[..., gymnasium.Env[Any, Any]]:
        """One environment, from the fields of `Config` as keyword arguments, and `render_mode`."""

    @property
    def Expert(self) -> Callable[..., Policy]:
        """The policy that data are collected from: `Expert(config, seed=0)`."""
