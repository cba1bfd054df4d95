"""The sizes at which RATE's official code was measured, its figures, and what we aim at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rmt_rl.runs.options import OfflineRun, make_config

SEGMENTS = 3


@dataclass(frozen=True)
class Anchors:
    """The official code on one thread of a machine like ours. Training counts padded steps."""

    training: float  # environment steps a CPU second, padding included
    acting_1: float  # environment steps a CPU second, one environment
    acting_100: float  # the same, 100 environments in lock-step
    peak_gb: float  # memory in training


@dataclass(frozen=True)
class Aims:
    """Our figures as we aim at them, over those of the official code."""

    training: float = 4  # of a real step
    acting_1: float = 5
    acting_100: float = 20
    peak: float = 0.5


@dataclass(frozen=True)
class Size:
    """An agent, its batch, and the official code's figures at this size."""

    options: dict[str, Any]  # of the agent
    batch_size: int
    anchors: Anchors
    repeats: int  # of every speed, fewer where one takes long
    late_step: int = 0  # how far acting is followed; 0: that, the floor and the profiles are left out

    @property
    def segment_length(self) -> int:
        """Return the steps of a segment."""
        return int(self.options["segment_length"])

    @property
    def in_depth(self) -> bool:
        """Tell whether more is measured than speed and memory."""
        return self.late_step > 0

    @property
    def longest_corridor(self) -> int:
        """Return the longest corridor of RATE's task whose episodes end within the segments, a step to spare."""
        return SEGMENTS * self.segment_length - 2

    def config(self, episodes: int, **training: Any) -> OfflineRun:
        """Return the config of a run at this size on T-Maze, with so many episodes and these training options."""
        config = make_config(
            {
                "env": "tmaze",
                "agent": "rate",
                "env_options": {"corridor_length": (1, self.longest_corridor)},
                "agent_options": self.options,
                "data": {"segments": SEGMENTS, "batch_size": self.batch_size, "collect_episodes": episodes},
                "training": {"accelerator": "cpu", "updates": 10**6, "save_every": 10**6, **training},
                "evaluation": {"eval_episodes": 0},
            }
        )
        assert isinstance(config, OfflineRun)
        return config


_SMALL = {"layers": 2, "width": 64, "heads": 4, "head_width": 32, "hidden": 64, "memory_tokens": 5}
_PAPER = {"layers": 10, "width": 64, "heads": 8, "hidden": 256, "memory_tokens": 15}
_PAPER_ANCHORS = Anchors(training=447, acting_1=60, acting_100=67, peak_gb=4.2)

SIZES = {
    "small": Size(
        _SMALL | {"segment_length": 30},
        64,
        Anchors(training=5418, acting_1=250, acting_100=989, peak_gb=0.80),
        repeats=5,
        late_step=90_000,
    ),
    # The widths of heads and feed-forward net weren't stated. The usual ones: width / heads, and 4 x width; ...
    "paper": Size(_PAPER | {"segment_length": 50}, 128, _PAPER_ANCHORS, repeats=2, late_step=9_000),
    # ... and heads four times as wide, which is how wide they are at the small size.
    "paper-wide": Size(_PAPER | {"head_width": 32, "segment_length": 50}, 128, _PAPER_ANCHORS, repeats=1),
}
