"""Choose by the space: nature for images of 36 x 36 pixels and more, small for all else."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from torch import nn

from rmt_rl.nn.encoders.nature import Nature
from rmt_rl.nn.encoders.small import small


def auto(space: Space[Any], width: int) -> nn.Module:
    """Return the encoder of a space."""
    return Nature(space, width) if Nature.fits(space) else small(space, width)


ENCODER = auto
