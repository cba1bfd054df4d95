"""Filtered behaviour cloning (arXiv 2507.10174): `bc` on the best tenth of the episodes; without a memory, too."""

from __future__ import annotations

from rmt_rl.agents.bc import BC


class FilteredBC(BC):
    """Behaviour cloning of the episodes of the highest returns.

    It sees the present observation alone. `--best-episodes` gives another share, and any other agent a share.
    """

    best_episodes = 0.1


AGENT = FilteredBC
