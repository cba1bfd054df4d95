"""A learner by stochastic gradient descent."""

from typing import Any

import torch

from rmt_rl.training.segments import SegmentLearner


class WithSGD(SegmentLearner):
    """Clones behaviour by stochastic gradient descent."""

    def start(self, saved: Any = None) -> None:
        super().start(saved)
        self.optimizer = torch.optim.SGD(self.model.parameters(), self.config.training.learning_rate)


LEARNER = WithSGD
