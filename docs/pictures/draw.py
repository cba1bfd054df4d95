"""Draw the pictures of the page on concepts: python docs/pictures/draw.py [FOLDER]."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from rmt_rl.analysis.figures import new_figure

INK, GREY, LIGHT = "#333333", "#999999", "#eeeeee"
BLUE, ORANGE, GREEN = "#cfe2f3", "#fbdcc4", "#d5ecd9"
RED, BLUE_INK = "#c0392b", "#0072B2"
Point = tuple[float, float]


def box(axes: Axes, at: Point, size: Point, text: str = "", colour: str = LIGHT, edge: str = INK) -> None:
    """Draw a box whose lower left corner is at a point, with text in its middle."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(at, *size, boxstyle=style, facecolor=colour, edgecolor=edge, linewidth=1))
    middle = at[0] + size[0] / 2, at[1] + size[1] / 2
    axes.text(*middle, text, ha="center", va="center", color=INK, fontsize=9)


def arrow(axes: Axes, start: Point, end: Point, colour: str = INK, style: str = "-") -> None:
    """Draw an arrow."""
    look = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look)


def note(axes: Axes, at: Point, text: str, colour: str = INK, align: str = "center") -> None:
    """Write a line of text."""
    axes.text(*at, text, ha=align, va="center", color=colour, fontsize=9)


def segments(axes: Axes) -> None:
    """Draw an episode as segments, with the state that goes from one to the next."""
    shown = ["cue", "corridor", "corridor", "junction"]
    for place, text in enumerate(shown):
        left = place * 2.6
        colour = ORANGE if text in ("cue", "junction") else LIGHT
        box(axes, (left, 0), (1.6, 0.5), text, colour)
        box(axes, (left, 1), (1.6, 0.6), "core", BLUE)
        note(axes, (left + 0.8, 2.2), "actions")
        arrow(axes, (left + 0.8, 0.5), (left + 0.8, 1))
        arrow(axes, (left + 0.8, 1.6), (left + 0.8, 2.05))
        arrow(axes, (left - 1, 1.3), (left, 1.3), RED)
        note(axes, (left - 0.5, 1.48), "state", RED)
        note(axes, (left + 0.8, -0.25), f"segment {place + 1}", GREY)
    arrow(axes, (9.4, 1.3), (10.4, 1.3), RED)


def tokens(axes: Axes) -> None:
    """Draw the row of tokens that a memory transformer reads."""
    row = [("read", GREEN)] * 2
    for step in (1, 2, 3):
        row += [(f"R{step}", LIGHT), (f"o{step}", ORANGE), (f"a{step}", BLUE)]
    row += [("write", GREEN)] * 2
    for place, (text, colour) in enumerate(row):
        box(axes, (place * 0.85, 0), (0.72, 0.5), text, colour)
    note(axes, (0.8, 0.75), "memory before", RED)
    note(axes, (5.45, 0.75), "a segment of three steps: return-to-go, observation, action", INK)
    note(axes, (10.1, 0.75), "memory after", RED)
    note(axes, (5.45, -0.3), "causal attention: each token sees those to its left", GREY)


def feeds(axes: Axes) -> None:
    """Draw which steps of an episode three feeds read."""
    rows = [
        ("episodes", [(0, 3)], []),
        ("windows", [(4, 7)], [(2, 4)]),
        ("streams", [(0, 3), (3, 6), (6, 9)], []),
    ]
    for height, (name, read, burnt) in enumerate(reversed(rows)):
        note(axes, (-0.3, height + 0.25), name, align="right")
        box(axes, (0, height), (10, 0.5), "", "white", GREY)
        for number, (start, stop) in enumerate(read):
            text = f"update {number + 1}" if len(read) > 1 else "one update"
            box(axes, (start, height), (stop - start, 0.5), text, ORANGE)
        for start, stop in burnt:
            box(axes, (start, height), (stop - start, 0.5), "burn-in", LIGHT)
        for start, _ in read[1:]:
            note(axes, (start, height + 0.68), "state", RED)
            arrow(axes, (start - 0.3, height + 0.56), (start + 0.3, height + 0.56), RED)
    arrow(axes, (0, -0.25), (10, -0.25), GREY)
    note(axes, (5, -0.5), "steps of one episode", GREY)


def ageing(axes: Axes) -> None:
    """Draw the filler segments between writing and reading."""
    parts = [
        ("segment 1\nwrites", ORANGE),
        ("filler", LIGHT),
        ("filler", LIGHT),
        ("...", LIGHT),
        ("segment 2\nreads", ORANGE),
    ]
    for place, (text, colour) in enumerate(parts):
        left = place * 2.1
        edge = GREY if colour == LIGHT else INK
        box(axes, (left, 0), (1.5, 0.8), text, colour, edge)
        if place:
            arrow(axes, (left - 0.6, 0.4), (left, 0.4), RED)
    note(axes, (4.95, 1.05), "0 to 12 segments from the middles of other episodes, without gradient", GREY)
    axes.annotate(
        "",
        (1.2, -0.05),
        (9.0, -0.05),
        arrowprops={"arrowstyle": "-|>", "color": BLUE_INK, "connectionstyle": "arc3,rad=-0.12", "linestyle": "--"},
    )
    note(axes, (4.95, -0.75), "the gradient skips the fillers", BLUE_INK)


def gradient(axes: Axes) -> None:
    """Draw how many segments the gradient of the last loss crosses."""
    rows = [("full", 4, "activations of 4 segments in memory"), ("truncated, --depth 2", 2, "of 2 segments")]
    rows.append(("replay", 4, "of 1 segment; each segment runs twice"))
    for height, (name, reached, cost) in enumerate(reversed(rows)):
        note(axes, (-0.3, height + 0.2), name, align="right")
        for place in range(4):
            inside = place >= 4 - reached
            box(
                axes,
                (place * 1.5, height),
                (1, 0.4),
                str(place + 1),
                BLUE if inside else "white",
                INK if inside else GREY,
            )
            if place and inside and place > 4 - reached:
                arrow(axes, (place * 1.5, height + 0.2), (place * 1.5 - 0.5, height + 0.2), BLUE_INK, "--")
        note(axes, (5.8, height + 0.2), cost, GREY, align="left")


Drawing = Callable[[Axes], None]
PICTURES: dict[str, tuple[Drawing, Point, Point, Point]] = {  # size in inches, limits of x and y
    "segments": (segments, (8, 2.4), (-1.1, 10.5), (-0.45, 2.4)),
    "tokens": (tokens, (8, 1.1), (-0.1, 11.1), (-0.5, 0.95)),
    "feeds": (feeds, (8, 2.4), (-1.3, 10.2), (-0.7, 2.9)),
    "ageing": (ageing, (8, 1.7), (-0.1, 10.1), (-1, 1.25)),
    "gradient": (gradient, (8, 1.8), (-2.2, 10.2), (-0.2, 2.6)),
}


def draw(folder: Path) -> None:
    """Write all pictures into a folder."""
    for name, (drawing, size, x_limits, y_limits) in PICTURES.items():
        with rc_context({"svg.hashsalt": "rmt-rl"}):
            figure = new_figure(*size)
            axes = figure.subplots()
            axes.set(xlim=x_limits, ylim=y_limits)
            axes.axis("off")
            drawing(axes)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
