"""Pictures in a terminal: two pixels a character, one above the other, as the colours of a half block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.live import Live
from rich.style import Style
from rich.text import Text

from rmt_rl.errors import UsageError

_UPPER_HALF = "▀"
_MARGIN = 4  # lines of the terminal for what stands below

Pixels = NDArray[np.uint8]  # (height, width, 3)


@contextmanager
def pictures_in_terminal() -> Iterator[Callable[[Pixels, float], None]]:
    """Yield a function that shows a picture in the place of the last one, for so many seconds.

    Raises:
        UsageError: the standard error is no terminal that can show pictures.
    """
    console = Console(stderr=True)
    can_show = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
    if not can_show:
        raise UsageError("--render draws in a terminal in UTF-8; to have a file, record a video: --video 1")
    with Live(console=console, auto_refresh=False) as live:

        def show(picture: Pixels, seconds: float) -> None:
            live.update(as_text(picture, console.width, console.height - _MARGIN), refresh=True)
            time.sleep(seconds)

        yield show


def as_text(picture: Pixels, columns: int, lines: int) -> Text:
    """Return a picture as text of at most so many columns and lines, its proportions kept."""
    height, width, _ = picture.shape
    scale = min(columns / width, 2 * max(1, lines) / height, 1.0)
    size = max(1, round(width * scale)), 2 * max(1, round(height * scale / 2))
    pixels = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    text = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append(_UPPER_HALF, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text
