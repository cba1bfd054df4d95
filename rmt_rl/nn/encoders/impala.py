"""The residual convolutional net of IMPALA, for images of any size (arXiv 1802.01561)."""

from __future__ import annotations

from typing import Any

from gymnasium import Space
from torch import Tensor, nn

from rmt_rl.nn.images import ImageEncoder, is_image

CHANNELS = (16, 32, 32)


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        out: Tensor = images + self.convolutions(images)
        return out


class Impala(ImageEncoder):
    """Three stages of a convolution, a max pool that halves the sides, and two residual blocks; then a linear map."""

    WANTED = "uint8 images"

    @staticmethod
    def fits(space: Space[Any]) -> bool:
        """Return True for images."""
        return is_image(space)

    def build(self, channels: int, size: tuple[int, int], width: int) -> nn.Sequential:
        rows, columns = size
        layers: list[nn.Module] = []
        for wider in CHANNELS:
            layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [Residual(wider), Residual(wider)]
            channels = wider
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(channels * rows * columns, width))


ENCODER = Impala
