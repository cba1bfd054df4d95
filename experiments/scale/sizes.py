"""The sizes whose costs are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rmt_rl.runs.options import OfflineRun, make_config

SEGMENTS = 3
CORRIDOR = 90  # cells of the longest corridor


@dataclass(frozen=True)
class Size:
    """An agent and its batch.

    Attributes:
        agent: name of the agent.
        source: where the sizes are from.
        options: options of the agent.
        batch_size: sequences of a batch.
        measured: sequences of a batch on which an update is timed; the FLOPs of a step are the same.
    """

    agent: str
    source: str
    options: dict[str, Any]
    batch_size: int
    measured: int

    def config(self, batch_size: int, **training: Any) -> OfflineRun:
        """Return the config of a run on T-Maze."""
        config = make_config(
            {
                "env": "tmaze",
                "agent": self.agent,
                "logger": [],
                "env_options": {"corridor_length": (1, CORRIDOR)},
                "agent_options": self.options,
                "data": {"segments": SEGMENTS, "batch_size": batch_size, "collect_episodes": 200, "bucket_batches": 1},
                "training": {"updates": 10**6, "save_every": 10**6, "accelerator": "cpu", "ageing": 0, **training},
                "evaluation": {"eval_episodes": 0},
            }
        )
        assert isinstance(config, OfflineRun)
        return config


_RATE = {"width": 64, "heads": 4, "head_width": 32, "hidden": 64, "segment_length": 30}

SIZES = {
    "RATE": Size(
        agent="rate",
        source="its T-Maze script, 10 layers of width 64; its own code has 495,168 parameters",
        options=_RATE | {"layers": 10, "memory_tokens": 15},
        batch_size=128,
        measured=16,
    ),
    "ELMUR": Size(
        agent="elmur",
        source="its T-Maze configuration, 2 layers of width 128, 2 slots",
        options={"width": 128, "heads": 2, "layers": 2, "slots": 2, "segment_length": 30},
        batch_size=128,
        measured=32,
    ),
    "RMT": Size(
        agent="rmt",
        source="its WikiText model, 16 layers of width 410 (heads of 40 instead of 41), 10 memory tokens",
        options={
            "width": 410,
            "heads": 10,
            "head_width": 40,
            "hidden": 2100,
            "layers": 16,
            "memory_tokens": 10,
            "segment_length": 30,
        },
        batch_size=64,
        measured=4,
    ),
    "10^8": Size(
        agent="rate",
        source="none: RATE with 14 layers of width 768",
        options={"width": 768, "heads": 12, "layers": 14, "memory_tokens": 15, "segment_length": 30},
        batch_size=64,
        measured=2,
    ),
}
SMALL = Size(
    agent="rate",
    source="the small RATE of experiments/speed, 2 layers of width 64",
    options=_RATE | {"layers": 2, "memory_tokens": 5},
    batch_size=64,
    measured=64,
)

QUICK = Size("rate", "a test", {"width": 16, "heads": 2, "layers": 1, "segment_length": 4}, 8, 8)
