"""Table and picture of the returns of a life's episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmt_rl.analysis.figures import COLOURS, DASHES, in_default_style, new_figure, save_figure
from rmt_rl.analysis.markdown import markdown_table, mean_cell
from rmt_rl.analysis.results import RunResult
from rmt_rl.analysis.run_records import EvaluatedSetting
from rmt_rl.statistics import mean

EPISODES = (1, 2, 3, 4, 5, 10)
"""Episodes of a life that the table shows."""
LAST = 10
"""Episodes at the end of a long life, of which the table shows the mean."""
EXPERT = "expert"
HEAD = [
    "player",
    *(f"episode {episode}" for episode in EPISODES),
    "share of the expert's, last episode",
    "the same, training goals",
    "mean of the last 10 of 40",
    "seeds",
    "CPU s a training",
]


def lives_table(task: str, results: Sequence[RunResult]) -> str:
    """Return a Markdown table of mean returns on held-out goals by the episode of the life, a row a player.

    Means are over seeds, ± half the 95% interval.
    """
    of_players = by_player(task, results)
    experts = of_players.get(EXPERT, ())
    rows = []
    for player, own in of_players.items():
        curves = _curves(own, "test")
        shown = [mean_cell([curve[episode - 1] for curve in curves]) for episode in EPISODES]
        shares = [_share(_curves(own, goals), _curves(experts, goals)) for goals in ("test", "train")]
        long = [mean(curve[-LAST:]) for curve in _curves(own, "test", long=True)]
        seconds = [result.cpu_seconds["train"] for result in own if result.cpu_seconds]
        rows.append(
            [player, *shown, *shares, mean_cell(long), str(len(own)), f"{mean(seconds):.0f}" if seconds else "-"]
        )
    return markdown_table(HEAD, rows)


def by_player(task: str, results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Return results by player, the levels last."""
    found: dict[str, list[RunResult]] = {}
    for result in results:
        found.setdefault(result.config.removeprefix(f"{task}-"), []).append(result)
    return dict(sorted(found.items(), key=_place))


def _place(item: tuple[str, list[RunResult]]) -> tuple[bool, str]:
    name, results = item
    return not results[0].settings, name


def _curves(results: Sequence[RunResult], goals: str, long: bool = False) -> list[list[float]]:
    """Return the mean returns of a life's episodes for each seed, of lives as long as in training, or longer ones."""
    curves = []
    for result in results:
        for evaluation in result.evaluations:
            if evaluation.options.get("goals") == goals and ("lifetime" in evaluation.options) == long:
                curves.append(_means(evaluation))
    return curves


def _means(evaluation: EvaluatedSetting) -> list[float]:
    return [score.mean for score in evaluation.by_episode_of_life]


def _share(curves: Sequence[Sequence[float]], experts: Sequence[Sequence[float]]) -> str:
    """Return the share of the expert's return that is reached in the last episode."""
    if not experts:
        return "-"
    best = experts[0][-1]
    return mean_cell([curve[-1] / best for curve in curves])


@in_default_style
def draw_lives(task: str, results: Sequence[RunResult], path: Path) -> None:
    """Draw returns on held-out goals by the episode of the life: as long as in training, and four times as long."""
    figure = new_figure(11, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for place, (player, own) in enumerate(by_player(task, results).items()):
        for axes, long in zip(panels, (False, True), strict=True):
            curves = _curves(own, "test", long)
            if not curves:
                continue
            means = [mean(values) for values in zip(*curves, strict=True)]
            look = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}
            axes.plot(range(1, len(means) + 1), means, label=player, **look)
    for axes, title in zip(panels, ("As long as in training", "Four times as long"), strict=True):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("episode of the life")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean return, held-out goals")
    panels[0].legend(fontsize=8)
    save_figure(figure, path, dpi=130)
