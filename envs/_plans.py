"""Plans of experts that know all their actions in advance."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class Plan:
    """The actions that an expert plans in one environment, in stages.

    Attributes:
        steps: the actions to come, each behind the number of its stage.
        stage: the stage of the last action.
        left: another action than the planned one is done.
    """

    steps: deque[tuple[int, int]] = field(default_factory=deque)
    stage: int = 0
    left: bool = False

    def next(self, after: int) -> int:
        """Return the next action; `after` where the planned episode is over."""
        if not self.steps:
            return after
        self.stage, action = self.steps.popleft()
        return action
