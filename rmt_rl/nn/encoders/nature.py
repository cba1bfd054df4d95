"""The convolutional net of Nature-DQN, for images of 36 x 36 pixels and more (Mnih et al. 2015)."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from torch import nn

from rmt_rl.nn.images import ImageEncoder, image_size, is_image

SMALLEST = 36  # pixels a side, from which on the last convolution has something to see


class Nature(ImageEncoder):
    """Three strided convolutions, then a linear map of all that they give."""

    WANTED = f"uint8 images of at least {SMALLEST} x {SMALLEST} pixels (small and impala take smaller ones)"

    @staticmethod
    def fits(space: Space[Any]) -> bool:
        """Return True for images that are large enough."""
        return is_image(space) and min(image_size(space)) >= SMALLEST

    def build(self, channels: int, size: tuple[int, int], width: int) -> nn.Sequential:
        rows, columns = map(_remaining, size)
        return nn.Sequential(
            nn.Conv2d(channels, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * rows * columns, width),
        )


def _remaining(pixels: int) -> int:
    """Return the pixels of a side that the three convolutions leave."""
    first = (pixels - 8) // 4 + 1
    second = (first - 4) // 2 + 1
    return second - 2


ENCODER = Nature
