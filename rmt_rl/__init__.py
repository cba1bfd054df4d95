"""Recurrent Memory Transformers for reinforcement learning: tasks, agents and memory mechanisms, found by name.

Importing this package registers its environments with Gymnasium and imports neither PyTorch nor any of them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rmt_rl.registry import register_envs

if TYPE_CHECKING:
    from pathlib import Path

    from rmt_rl.agent import BaseAgent
    from rmt_rl.language.model import RecurrentMemoryTransformer
    from rmt_rl.language.sequences import RecurrentMemoryTransformerWrapper

__all__ = ["RecurrentMemoryTransformer", "RecurrentMemoryTransformerWrapper", "__version__", "load"]

__version__ = version("rmt-rl")

_MODULES = {  # of names that are imported when they're asked for
    "RecurrentMemoryTransformer": "rmt_rl.language.model",
    "RecurrentMemoryTransformerWrapper": "rmt_rl.language.sequences",
}

register_envs()


def load(run: str | Path, checkpoint: str = "last", device: str = "cpu") -> BaseAgent:
    """Load a trained agent, ready to act.

    Args:
        run: the folder of a training run.
        checkpoint: `"last"` or `"best"`.
        device: where to put it, e.g. `"cpu"` or `"cuda:0"`.

    Raises:
        UsageError: the folder is no run, or the checkpoint is missing, corrupted or foreign.
    """
    from rmt_rl.runs.checkpoint import load_agent  # only now, since it imports PyTorch

    return load_agent(run, checkpoint, device)


def __getattr__(name: str) -> Any:
    """The language model's classes, imported when they're asked for, since they import PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
