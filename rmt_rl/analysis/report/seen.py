"""Observations and pictures as a page shows them: numbers, short texts, and images inside the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray
from PIL import Image

from rmt_rl.categories import categories
from rmt_rl.nn.images import is_image
from rmt_rl.trees import leaves, part_at, place_name

MOST_NUMBERS = 24  # of a part that are written out; more become an image
WIDEST = 720  # pixels of a picture
LARGEST_PNG = 40_000  # bytes; larger pictures are stored with losses
_Part = dict[str, Any]


def image_uri(pixels: NDArray[np.uint8]) -> str:
    """Return a picture, uint8 (height, width, 3) or (height, width), as a `data:` URI."""
    image = Image.fromarray(pixels)
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)))
    stored = _encoded(image, "PNG", optimize=True)
    kind = "png"
    if len(stored) > LARGEST_PNG:
        smaller = _encoded(image.convert("RGB"), "JPEG", quality=85)
        if len(smaller) < len(stored):
            stored, kind = smaller, "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stored).decode()}"


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def seen_parts(observation: Any, space: Space[Any]) -> list[_Part]:
    """Return the parts of an observation, each with its name and its `values`, `text` or `images`."""
    parts = []
    for place, leaf in leaves(space):
        name = place_name("observation", place).removeprefix("observation.")
        value = np.asarray(part_at(observation, place))
        parts.append({"name": name, **_shown(value, leaf)})
    return parts


def _shown(value: NDArray[Any], space: Space[Any]) -> _Part:
    if isinstance(space, spaces.Box) and is_image(space):
        return {"images": [image_uri(_drawable(value))]}
    if value.size <= MOST_NUMBERS:
        return {"values": [number_text(number) for number in np.ravel(value)], "strengths": _strengths(value, space)}
    return {"images": [image_uri(plane) for plane in _planes(value, space)], "grid": True}


def _drawable(value: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image of any number of channels, channels last or first, with three or one."""
    if value.ndim == 3 and value.shape[0] < value.shape[2]:
        value = np.moveaxis(value, 0, -1)
    if value.ndim == 3 and value.shape[2] == 1:
        value = value[..., 0]
    if value.ndim == 3 and value.shape[2] != 3:
        value = value[..., -1]  # of stacked frames the newest
    return np.ascontiguousarray(value, np.uint8)


def _strengths(value: NDArray[Any], space: Space[Any]) -> list[float]:
    """Return the size of each number as a share of the largest in its space, 0 to 1; 0 where there is no bound."""
    low, high = _bounds(space)
    largest = np.maximum(np.abs(low), np.abs(high))
    numbers = np.abs(np.ravel(value).astype(np.float64))
    largest = np.broadcast_to(largest, numbers.shape)
    is_bounded = np.isfinite(largest) & (largest > 0)
    strengths = np.divide(numbers, largest, out=np.zeros(numbers.shape), where=is_bounded)
    return [round(strength, 3) for strength in strengths.clip(0, 1).tolist()]


def _shares(value: NDArray[Any], space: Space[Any]) -> NDArray[np.float64]:
    """Return each number's place between the bounds of its space, 0 to 1; 0.5 where there are none."""
    low, high = _bounds(space)
    numbers = np.ravel(value).astype(np.float64)
    span = np.broadcast_to(high - low, numbers.shape)
    is_bounded = np.isfinite(span) & (span > 0)
    shares = np.full(numbers.shape, 0.5)
    np.divide(numbers - low, span, out=shares, where=is_bounded)
    return shares.clip(0, 1).reshape(value.shape)


def _bounds(space: Space[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if isinstance(space, spaces.Box):
        return np.ravel(space.low).astype(np.float64), np.ravel(space.high).astype(np.float64)
    known = categories(space)
    if known is None:
        return np.array([-np.inf]), np.array([np.inf])
    return known.starts.astype(np.float64), known.last.astype(np.float64)


def _planes(value: NDArray[Any], space: Space[Any]) -> Iterator[NDArray[np.uint8]]:
    """Yield an array of many numbers as grey images, one for each entry of its last dimension if it has three."""
    grey = np.asarray(255 * _shares(value, space), np.uint8)
    if grey.ndim == 3:
        yield from np.moveaxis(grey, -1, 0)
    elif grey.ndim == 2:
        yield grey
    else:
        yield grey.reshape(1, -1)


def number_text(number: Any) -> str:
    """Return a number in a few characters."""
    whole = np.asarray(number).dtype.kind in "iub"
    return str(int(number)) if whole else f"{float(number):.3g}"


def action_text(action: Any) -> str:
    """Return an action, an array or a tree of them, in one line."""
    texts = []
    for place, leaf in leaves(action):
        numbers = " ".join(number_text(number) for number in np.ravel(leaf)[:MOST_NUMBERS])
        texts.append(f"{place_name('', place)} {numbers}".strip())
    return "; ".join(texts)
