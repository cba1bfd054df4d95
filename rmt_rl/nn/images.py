"""Images as observations: which spaces are images, and the base of the encoders of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from torch import Tensor, nn


def is_image(space: Space[Any]) -> bool:
    """Return True if a space is an image: a Box of uint8 with three dimensions, none of them empty."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and min(space.shape) > 0


def is_channels_last(space: Space[Any]) -> bool:
    """Return True if the last dimension of an image holds its channels, as an image has fewer of them than pixels."""
    shape = space.shape or ()
    return shape[-1] <= shape[0]


def image_size(space: Space[Any]) -> tuple[int, int]:
    """Return height and width of an image in pixels."""
    shape = space.shape or ()
    height, width = shape[:2] if is_channels_last(space) else shape[1:]
    return height, width


def brightness(pixels: Tensor, dtype_of: Tensor) -> Tensor:
    """Return uint8 pixels as floats from -0.5 to 0.5, in the dtype of another tensor."""
    return pixels.to(dtype_of.dtype) / 255 - 0.5


class ImageEncoder(nn.Module, ABC):
    """Base of convolutional encoders. Channels may be first or last."""

    def __init__(self, space: Space[Any], width: int) -> None:
        super().__init__()
        self.channels_last = is_channels_last(space)
        shape = space.shape or ()
        channels = shape[-1] if self.channels_last else shape[0]
        self.convolutions = self.build(channels, image_size(space), width)

    @abstractmethod
    def build(self, channels: int, size: tuple[int, int], width: int) -> nn.Sequential:
        """Return the net from images (N, channels, *size) to (N, width)."""

    def forward(self, value: Tensor) -> Tensor:
        """Map uint8 (..., H, W, C) or (..., C, H, W) to (..., D)."""
        lead = value.shape[:-3]
        images = value.reshape(-1, *value.shape[-3:])
        if self.channels_last:
            images = images.permute(0, 3, 1, 2)
        weights = next(self.parameters())
        out: Tensor = self.convolutions(brightness(images, weights))
        return out.reshape(*lead, -1)
