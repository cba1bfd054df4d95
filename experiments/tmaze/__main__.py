"""Remakes the table and the pictures of this folder: python -m experiments.tmaze."""

from __future__ import annotations

from pathlib import Path

from rmt_rl.analysis.results import Experiment
from rmt_rl.cli.experiment import experiment_command
from rmt_rl.sweeps.engine import PlannedEvaluation

FOLDER = Path(__file__).parent
LENGTHS = PlannedEvaluation(vary="corridor_length=30,90,300,900,9600")
LONGEST = PlannedEvaluation(vary="corridor_length=96000", episodes=16)
CONFIGS = {
    FOLDER / "rate.toml": [LENGTHS, LONGEST],
    FOLDER / "rate-ageing.toml": [LENGTHS, LONGEST],
    FOLDER / "rate-no-valve.toml": [LENGTHS],
    FOLDER / "rate-no-valve-ageing.toml": [LENGTHS],
    FOLDER / "rate-free-reads.toml": [LENGTHS],
    FOLDER / "dt.toml": [LENGTHS],
}

if __name__ == "__main__":
    experiment_command(Experiment(FOLDER, CONFIGS))
