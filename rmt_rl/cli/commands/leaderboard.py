"""Rank agents by the evaluations of anyone's runs, a table for each task."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from rmt_rl.cli.arguments import Arguments
from rmt_rl.config import Frozen
from rmt_rl.errors import UsageError
from rmt_rl.flags import parse
from rmt_rl.terminal import say


class Leaderboard(Frozen):
    """Rank agents by inter-quartile means over seeds and settings, a table for each task."""

    runs: Positional[tuple[str, ...]] = Field(
        (), description="folders of runs or of results.jsonl, searched at any depth; or zoo:NAME, or hf://owner/name"
    )
    out: Path = Field(Path("leaderboard"), description="the two files, without their endings .md and .html")
    seeds: int = Field(3, ge=1, description="training seeds that an entry needs")
    episodes: int = Field(30, ge=1, description="episodes that each evaluation needs")
    resamples: int = Field(1000, ge=100, description="bootstrap samples of each interval")


def rank(arguments: Arguments) -> int:
    """Write the tables as Markdown and HTML, and print them."""
    given = parse(Leaderboard, arguments, "rmt-rl leaderboard", __doc__ or "")
    if not given.runs:
        raise UsageError("no runs were given; name folders of runs or one above them, zoo:NAME or hf://owner/name")
    from rmt_rl.analysis.leaderboard import Rules, as_page, leaderboard
    from rmt_rl.files import write_atomically

    rules = Rules(given.seeds, given.episodes, given.resamples)
    text = leaderboard(given.runs, rules)
    page = as_page(text)
    markdown = given.out.with_name(f"{given.out.name}.md")
    html = given.out.with_name(f"{given.out.name}.html")
    write_atomically(markdown, text.encode())
    write_atomically(html, page.encode())
    say(text)
    say(f"{markdown}\n{html}")
    return 0


COMMAND = rank
