"""Remakes the table and the pictures of this folder: python -m experiments.associative_retrieval."""

from __future__ import annotations

from pathlib import Path

from rmt_rl.analysis.results import Experiment
from rmt_rl.cli.experiment import experiment_command
from rmt_rl.sweeps.engine import PlannedEvaluation

FOLDER = Path(__file__).parent
LENGTHS = PlannedEvaluation(vary="episode_length=30,90,180,300,900,9600")
# Nothing changes beyond a context, and agents with one are slower.
CONTEXT = PlannedEvaluation(vary="episode_length=30,90,180,300,900")
CONFIGS = {
    FOLDER / "rate.toml": [LENGTHS],
    FOLDER / "rate-longer.toml": [LENGTHS],
    FOLDER / "rate-no-ageing.toml": [LENGTHS],
    FOLDER / "rmt.toml": [LENGTHS],
    FOLDER / "dt.toml": [CONTEXT],
    FOLDER / "bc.toml": [CONTEXT],
}

if __name__ == "__main__":
    experiment_command(Experiment(FOLDER, CONFIGS))
