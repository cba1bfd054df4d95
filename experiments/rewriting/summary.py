"""The short table of this experiment: a row for each config, from the results of its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rmt_rl.analysis.figures import in_default_style, new_figure, save_figure
from rmt_rl.analysis.markdown import markdown_table, mean_cell
from rmt_rl.analysis.results import Experiment, RunResult
from rmt_rl.files import write_atomically

Setting: TypeAlias = tuple[int, Any]
"""Number of corridors, and their length or its range."""

SIXTEEN: list[Setting] = list(product((1, 3, 5, 10), (5, 10, [1, 5], [1, 10])))
FURTHER: list[Setting] = [(100, 10), (1000, 10), (5, 50), (5, 100), (5, 1000), (100, 100), (1000, 1000)]
SOLVED = 0.95
"""Success rate from which on a configuration counts as solved."""
HEAD = ["corridors x cells", "worst of the sixteen", f"seeds with all sixteen >= {SOLVED}"]


@dataclass(frozen=True)
class Rewriting(Experiment):
    """An experiment whose command also writes and prints the short table, and draws it as `success.png`."""

    def write(self, results: Iterable[RunResult]) -> str:
        """Write all that an experiment does, and `summary.md`; return the short table."""
        results = list(results)
        super().write(results)
        text = summary_table(self.names, results)
        write_atomically(self.folder / "summary.md", f"{text}\n".encode())
        draw_summary(self.names, results, self.folder / "success.png")
        return text


def summary_table(configs: Sequence[str], results: Sequence[RunResult]) -> str:
    """Return a Markdown table of success rates: mean over seeds ± half the 95% interval."""
    rows = []
    for config in configs:
        own = [_rates(result) for result in results if result.config == config]
        if own:
            rows.append([config, *_cells(own)])
    further = [f"{corridors:,} x {length:,}" for corridors, length in FURTHER]
    return markdown_table([*HEAD, *further], rows)


@in_default_style
def draw_summary(configs: Sequence[str], results: Sequence[RunResult], path: Path) -> None:
    """Draw the worst success rate over seeds of each config, at the sixteen configurations and further ones."""
    names, rows = [], []
    for config in configs:
        own = [_rates(result) for result in results if result.config == config]
        if own:
            names.append(f"{config} ({len(own)})")
            rows.append(_worst_rates(own))
    figure = new_figure(8, 1.2 + 0.32 * len(rows))
    axes = figure.subplots()
    axes.imshow(np.array(rows), vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for row, rates in enumerate(rows):
        for column, rate in enumerate(rates):
            text = "" if np.isnan(rate) else f"{rate:.2f}"
            colour = "black" if rate > 0.5 else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    further = [f"{corridors:,} x\n{length:,}" for corridors, length in FURTHER]
    axes.set_xticks(range(1 + len(further)), ["the\nsixteen", *further])
    axes.set_yticks(range(len(names)), names)
    axes.set_title("worst success rate over seeds (their number); corridors x cells", fontsize=10)
    save_figure(figure, path, dpi=130)


def _worst_rates(seeds: Sequence[dict[str, float]]) -> list[float]:
    """Return the worst rate over seeds at the sixteen and at each further setting; NaN where it wasn't tested."""
    sixteen = [rates[_key(*setting)] for rates in seeds for setting in SIXTEEN]
    worst = [min(sixteen)]
    for setting in FURTHER:
        key = _key(*setting)
        tested = [rates[key] for rates in seeds if key in rates]
        worst.append(min(tested, default=float("nan")))
    return worst


def _rates(result: RunResult) -> dict[str, float]:
    """Return a run's success rates by setting."""
    rates = {}
    for evaluation in result.evaluations:
        options = evaluation.options
        key = _key(options["corridors"], options["corridor_length"])
        rates[key] = evaluation.success_rate or 0.0
    return rates


def _key(corridors: object, length: object) -> str:
    return f"{corridors} x {length}"


def _cells(seeds: Sequence[dict[str, float]]) -> list[str]:
    sixteen = [_key(*setting) for setting in SIXTEEN]
    worst = [min(rates[key] for key in sixteen) for rates in seeds]
    solved = sum(rate >= SOLVED for rate in worst)
    further = []
    for setting in FURTHER:
        key = _key(*setting)
        tested = [rates[key] for rates in seeds if key in rates]
        further.append(mean_cell(tested) if tested else "-")
    return [mean_cell(worst), f"{solved} of {len(seeds)}", *further]
