"""`make demo`: RATE and a Decision Transformer learn the T-Maze, and are tested far beyond their training lengths.

Both are trained on corridors of 1 to 88 cells (at most 3 segments of 30 steps) and rolled out in corridors of up to
9,600. Prints the table and draws runs/demo/learning.png and runs/demo/success.png. Finished work isn't repeated:
delete runs/demo to start anew.
"""

from __future__ import annotations

import time
from pathlib import Path

from rmt_rl.analysis.aggregate import read_groups
from rmt_rl.analysis.results import write_comparison
from rmt_rl.cli.experiment import TWO_AT_ONCE, config_cells, make_runs
from rmt_rl.errors import explained
from rmt_rl.sweeps.engine import PlannedEvaluation

CONFIGS = Path(__file__).parent / "tmaze"
RATE_LENGTHS = PlannedEvaluation(vary="corridor_length=30,90,300,900,9600")
# Nothing changes beyond the Decision Transformer's context, and it is slower.
DT_LENGTHS = PlannedEvaluation(vary="corridor_length=30,90,300,900")
RUNS = Path("runs/demo")


def main() -> None:
    """Run the demo."""
    began = time.perf_counter()
    configs = {
        CONFIGS / "rate-ageing.toml": [RATE_LENGTHS],
        CONFIGS / "dt.toml": [DT_LENGTHS],
    }
    runs = make_runs(config_cells(configs, seeds=[0]), RUNS, TWO_AT_ONCE)
    print(write_comparison(read_groups(runs), RUNS))
    minutes = (time.perf_counter() - began) / 60
    print(f"\n{RUNS / 'learning.png'}\n{RUNS / 'success.png'}\n{minutes:.1f} minutes")


if __name__ == "__main__":
    with explained():
        main()
