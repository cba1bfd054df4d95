"""The interfaces of an environment's file (`rmt_rl.envs.<name>`) and of a policy that acts in environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rmt_rl.errors import UsageError

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import VectorEnv

    from rmt_rl.config import Frozen


class Policy(Protocol):
    """Anything that acts, with the signature of Stable-Baselines3's `predict`.

    Shape suffix: N environments of a vector environment.
    """

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Choose an action in every environment.

        Args:
            observation: arrays (N, ...), or a dict or tuple of them.
            state: the state that the previous call returned; None in the first call.
            episode_start: bool (N,), True where the observation is the first of an episode.
            deterministic: take the most likely action instead of sampling.

        Returns:
            Actions (N, ...) and the state to give back with the next observation.
        """


@runtime_checkable
class Privileged(Protocol):
    """A policy that looks into the simulators instead of at observations, as experts may."""

    def attach(self, env: VectorEnv[Any, Any, Any]) -> None:
        """Take hold of the environments to act in; called before they are reset."""


class Task(Protocol):
    """A module that defines a memory task, or a class used as a namespace (its functions static).

    The first line of its docstring is its summary: what it is, its horizon, and what must be remembered for how
    long. The info of the step that ends an episode holds `is_success` (bool), unless returns are its measure.

    Further names are optional:
        EXTRA: a literal string, the extra of rmt-rl that installs what the module imports.
        make_vec: `make_vec(num_envs, **options)` returns a natively vectorised `VectorEnv`, next-step autoreset.
        EPISODES: how many the expert plays where no number is given; 4,000 without it.
        LANES: how many environments may be open at once, where each takes much memory.
        HINDSIGHT_CLASSES, hindsight: `hindsight(trajectory)` gives for each step a class that the rest of the
            trajectory reveals, int64 (T,), -1 for none; an auxiliary loss can have an agent predict it.
        decisive: `decisive(trajectory)` tells the steps whose action depends on what must be remembered, bool (T,).
        idle: `idle(trajectory)` tells the steps that show nothing to remember, bool (T,), of which memory ageing makes
            its fillers; without it, all but an episode's first and last.
    """

    @property
    def ID(self) -> str:
        """Gymnasium id, a literal string, e.g. `"rmt_rl/TMaze-v0"`."""

    @property
    def Config(self) -> type[Frozen]:
        """Frozen options, the keyword arguments of `make`; the defaults are the training task."""

    @property
    def make(self) -> Callable[..., gymnasium.Env[Any, Any]]:
        """One environment, from the fields of `Config` as keyword arguments, and `render_mode`."""

    @property
    def Expert(self) -> Callable[..., Policy]:
        """The policy that data are collected from: `Expert(config, seed=0)`; see `Privileged`."""


def is_task(thing: object) -> bool:
    """Return whether an object has what every task has."""
    return isinstance(getattr(thing, "ID", None), str) and hasattr(thing, "Config") and hasattr(thing, "make")


def default_episodes(task: Task) -> int:
    """Return how many episodes make a data set if no number is given."""
    return getattr(task, "EPISODES", 4000)


def most_lanes(task: Task, wanted: int) -> int:
    """Return how many environments to open at once: as many as wanted, or fewer if the task says so."""
    return min(wanted, getattr(task, "LANES", wanted))


def check_same_spaces(what: str, one: Any, who: str, other: Any, remedy: str) -> None:
    """Raise an error unless two that know their spaces (environments, data, agents' specs) have the same."""
    for name in ("observation_space", "action_space"):
        own, others = getattr(one, name), getattr(other, name)
        if own != others:
            raise UsageError(f"{what} has {name} {own}, but {who} has {others}; {remedy}")
