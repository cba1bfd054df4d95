"""Helper of privileged experts, which read the simulators' internal state."""

from __future__ import annotations

from typing import Any, TypeVar

from gymnasium.vector import VectorEnv

from rmt_rl.errors import UsageError

Simulator = TypeVar("Simulator")


def simulators(env: VectorEnv[Any, Any, Any], kind: type[Simulator]) -> list[Simulator]:
    """Return the environments of a vector environment, without their wrappers.

    Raises:
        UsageError: an environment isn't of type `kind`, or the environments don't run in this process.
    """
    found = [lane.unwrapped for lane in getattr(env.unwrapped, "envs", ())]
    if not found or not all(isinstance(each, kind) for each in found):
        raise UsageError(f"{env}: this expert reads the simulators' state; give it a SyncVectorEnv of {kind.__name__}")
    return found
