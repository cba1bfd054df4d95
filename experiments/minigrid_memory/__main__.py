"""Remakes the table and the pictures of this folder: python -m experiments.minigrid_memory."""

from __future__ import annotations

from pathlib import Path

from rmt_rl.analysis.results import Experiment
from rmt_rl.cli.experiment import experiment_command
from rmt_rl.sweeps.engine import PlannedEvaluation

FOLDER = Path(__file__).parent
SIZES = PlannedEvaluation(vary="size=11,41,101,201")
LARGEST = PlannedEvaluation(vary="size=501", episodes=40)
CONFIGS = {
    FOLDER / "rate.toml": [SIZES, LARGEST],
    FOLDER / "rate-no-ageing.toml": [SIZES, LARGEST],
    FOLDER / "rmt.toml": [SIZES, LARGEST],
    FOLDER / "rate-no-hindsight.toml": [SIZES],
    FOLDER / "rate-no-hindsight-longer.toml": [SIZES],
    FOLDER / "dt.toml": [SIZES],
    FOLDER / "bc.toml": [SIZES],
}

if __name__ == "__main__":
    experiment_command(Experiment(FOLDER, CONFIGS))
