"""Shared parts of all pictures: colours, a figure that needs no screen, the look of a panel, a file written whole."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from matplotlib import matplotlib_fname, rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.style import context

from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically
from rmt_rl.urls import check_no_url

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito, "Color Universal Design", 2008, without its yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOUR_MAP = "viridis"  # told apart by colour-blind readers, and in grey
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")  # 9 and 7 share no divisor: 63 styles
MOST_CHARACTERS = 100  # of a text in a picture
# So that lines that coincide, as at 1.00, all show.
DASHES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")

in_default_style = context("default")
"""Decorator of functions that draw: the user's matplotlibrc, which may need LaTeX or absent fonts, has no effect."""


if matplotlib_fname() == "matplotlibrc":  # of the current folder, whose files may come from anyone
    rcParams["text.usetex"] = False  # which would start LaTeX


class Style(NamedTuple):
    """The look of one line, the same in all panels."""

    color: str
    marker: str
    linestyle: str


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Return a style for each label."""
    looks = map(Style, cycle(COLOURS), cycle(MARKERS), cycle(DASHES))
    return dict(zip(labels, looks, strict=False))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def literal(text: str) -> str:
    """Return a text that may come from a file as Matplotlib draws it.

    Dollar signs begin no formula, a leading underscore hides no label, and the text is cut, as long ones take minutes.
    """
    short = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."
    visible = f" {short}" if short.startswith("_") else short
    return visible.replace("$", r"\$")


def finish(axes: Axes, title: str, across: str, quantity: str) -> None:
    """Give a panel its title, the names of both axes, and its grid."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(literal(across))
    axes.set_ylabel(quantity)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def picture_format(path: Path) -> str:
    """Return `png` or `svg`, the ending of the picture's name.

    Raises:
        UsageError: the name ends in neither, or was meant as a URL.
    """
    check_no_url(path, "name a local file by --out")
    if path.suffix not in (".png", ".svg"):
        raise UsageError(f"picture {str(path)!r}: the name must end in .png or .svg")
    return path.suffix[1:]


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """Write a figure as PNG or SVG, by the ending of the name; `options` are those of Matplotlib's `savefig`.

    Raises:
        UsageError: the name has another ending, or the file can't be written.
    """
    picture = BytesIO()
    figure.savefig(picture, format=picture_format(path), **options)
    write_atomically(path, picture.getvalue())
