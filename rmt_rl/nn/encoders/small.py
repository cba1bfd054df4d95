"""Three small convolutions for images of any size, linear maps for all else; the encoder of earlier versions."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from torch import nn

from rmt_rl.nn.images import ImageEncoder, is_image
from rmt_rl.nn.vectors import flat_encoder


class SmallImage(ImageEncoder):
    """Three strided convolutions, pooled to 4 x 4, then a linear map."""

    def build(self, channels: int, size: tuple[int, int], width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(512, width),
        )


def small(space: Space[Any], width: int) -> nn.Module:
    """Return the encoder of a space."""
    return SmallImage(space, width) if is_image(space) else flat_encoder(space, width)


ENCODER = small
