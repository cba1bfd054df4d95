"""The episodes of the highest returns, for behaviour cloning of the best data alone ("%BC", arXiv 2106.01345)."""

from __future__ import annotations

import math

import numpy as np

from rmt_rl.data.feed import Episodes, Ints


def best_episodes(episodes: Episodes, share: float) -> Ints:
    """Return the indices of the episodes of the highest returns, ascending int64.

    Episodes that tie with the last of them are best, too, so no order or seed decides between equal episodes. Episodes
    of the lowest return of all are not, unless all returns are equal. So with a reward for success alone, only
    successes are best, however few, and of an expert that never fails all episodes are.

    Args:
        episodes: the source of trajectories, at least one; reads a step and all rewards of each.
        share: the share of the episodes that are best, above 0 and at most 1.
    """
    returns = np.array([_return(episodes, index) for index in range(len(episodes.lengths))], np.float32)
    count = math.ceil(share * len(returns))
    last_best = np.sort(returns)[-count]
    is_best = returns >= last_best
    lowest = returns.min()
    if lowest < returns.max():
        is_best &= returns > lowest
    return np.flatnonzero(is_best)


def _return(episodes: Episodes, index: int) -> float:
    """Return the undiscounted return of an episode."""
    span = episodes.span(index, 0, 1)
    return float(span.trajectory.returns_to_go[span.start])
