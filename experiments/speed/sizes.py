"""The sizes at which our agents and the official code are measured, and our aims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from rmt_rl.runs.options import OfflineRun, make_config

SEGMENTS = 3
OURS, OFFICIAL = "ours", "official"
TRAINING, REPLAY = "training", "training, replay"
ALONE = "acting, 1 environment"
LOCK_STEP = "acting, 100 environments in lock-step"
MIXED = "acting, 100 environments at mixed places"

OFFICIAL_TRAINING = "official, training"
OFFICIAL_ALONE = "official, acting, 1 environment"
OFFICIAL_LOCK_STEP = "official, acting, 100 environments in lock-step"

BESIDE: Mapping[str, str] = MappingProxyType(
    {
        TRAINING: OFFICIAL_TRAINING,
        REPLAY: OFFICIAL_TRAINING,
        ALONE: OFFICIAL_ALONE,
        LOCK_STEP: OFFICIAL_LOCK_STEP,
        MIXED: OFFICIAL_LOCK_STEP,
    }
)
"""The official code's measure that each of ours is compared with."""
AIMS: Mapping[str, float] = MappingProxyType({TRAINING: 4, REPLAY: 4, ALONE: 5, LOCK_STEP: 20, MIXED: 20})
"""Our speed over that of the official code, at least."""
MEMORY_AIM = 0.5
"""Our memory in training over that of the official code, at most."""


@dataclass(frozen=True)
class Size:
    """An agent, its batch, and the effort that it is measured with.

    Attributes:
        agent: name of the agent.
        options: options of the agent. The official code has the same sizes, except for `official_hidden`.
        official_hidden: hidden width of the official feed-forward net; None: the official layers have none.
        batch_size: episodes of a batch.
        repeats: repeats of every speed, fewer if one takes long.
        updates: updates of a repeat of training.
        official_segments: segments of a repeat of the official code's training and of its acting in 100 environments.
        episodes: episodes of the data set.
        vector_steps: steps of all environments in a repeat of acting, at least.
        late_step: step up to which acting is followed; 0: late acting, floor and profiles are left out.
    """

    agent: str
    options: dict[str, Any]
    official_hidden: int | None
    batch_size: int
    repeats: int
    updates: int
    official_segments: int = SEGMENTS
    episodes: int = 1000
    vector_steps: int = 150
    late_step: int = 0

    @property
    def segment_length(self) -> int:
        """Return the steps of a segment."""
        return int(self.options["segment_length"])

    @property
    def longest_corridor(self) -> int:
        """Return the longest corridor of RATE's task whose episodes end within the segments, a step to spare."""
        return SEGMENTS * self.segment_length - 2

    def config(self, **training: Any) -> OfflineRun:
        """Return the config of a run at this size on T-Maze, with these training options."""
        config = make_config(
            {
                "env": "tmaze",
                "agent": self.agent,
                "env_options": {"corridor_length": (1, self.longest_corridor)},
                "agent_options": self.options,
                "data": {"segments": SEGMENTS, "batch_size": self.batch_size, "collect_episodes": self.episodes},
                "training": {"updates": 10**6, "save_every": 10**6, "accelerator": "cpu", "ageing": 0, **training},
                "evaluation": {"eval_episodes": 0},
            }
        )
        assert isinstance(config, OfflineRun)
        return config


_HEADS = {"width": 64, "heads": 4, "head_width": 32, "dropout": 0.2}

QUICK_SIZES = {
    "tiny": Size(
        agent="rate",
        options={
            "width": 16,
            "heads": 2,
            "head_width": 4,
            "dropout": 0.2,
            "layers": 1,
            "hidden": 16,
            "memory_tokens": 2,
            "segment_length": 4,
        },
        official_hidden=16,
        batch_size=8,
        repeats=1,
        updates=1,
        episodes=64,
        vector_steps=1,
        late_step=20,
    ),
}

SIZES = {
    "RATE, small": Size(
        agent="rate",
        options=_HEADS | {"layers": 2, "hidden": 64, "memory_tokens": 5, "segment_length": 30},
        official_hidden=64,
        batch_size=64,
        repeats=3,
        updates=8,
        late_step=10_000,
    ),
    # The paper's: run_experiments/TMaze.sh of the official repository. Our layers can't do without a feed-forward net;
    # one of 64 has as many parameters as the matrices by which the official layers project their positions.
    "RATE, paper": Size(
        agent="rate",
        options=_HEADS | {"layers": 10, "hidden": 64, "memory_tokens": 15, "segment_length": 50},
        official_hidden=None,
        batch_size=128,
        repeats=2,
        updates=4,
        official_segments=1,
        late_step=1_500,
    ),
    # The official repository has no script of ELMUR on T-Maze: these are the sizes of "small". Heads are of 16, because
    # the official ones share the width.
    "ELMUR": Size(
        agent="elmur",
        options={
            "width": 64,
            "heads": 4,
            "layers": 2,
            "hidden": 64,
            "dropout": 0.2,
            "slots": 2,
            "blend": 0.79,
            "distances": 512,
            "segment_length": 30,
        },
        official_hidden=64,
        batch_size=64,
        repeats=3,
        updates=8,
    ),
}
