"""`make demo`: RATE and a Decision Transformer learn the T-Maze, and are tried far beyond what they were trained on.

Both are trained on corridors of 1 to 88 cells (at most 3 segments of 30 steps) and rolled out in corridors of up to
9,600. Prints the table and draws runs/demo/learning.png and runs/demo/success.png. What is finished isn't done again:
delete runs/demo to start anew.
"""

from __future__ import annotations

import time
from pathlib import Path

from experiments.results import write_results
from experiments.suite import Suite, Sweep
from rmt_rl.analysis.aggregate import read_groups

CONFIGS = Path(__file__).parent / "tmaze"
RATE_LENGTHS = Sweep("corridor_length=30,90,300,900,9600")
DT_LENGTHS = Sweep("corridor_length=30,90,300,900")  # nothing changes beyond its context, and it is slower


def main() -> None:
    """Run the demo."""
    began = time.perf_counter()
    configs = {CONFIGS / "rate-ageing.toml": [RATE_LENGTHS], CONFIGS / "dt.toml": [DT_LENGTHS]}
    runs = Suite(configs, seeds=[0], runs=Path("runs/demo"), jobs=2).run()
    print(write_results(read_groups(runs), Path("runs/demo")))
    print("\nruns/demo/learning.png\nruns/demo/success.png")
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
