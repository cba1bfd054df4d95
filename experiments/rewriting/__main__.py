"""Remakes the tables and the pictures of this folder: python -m experiments.rewriting --seeds 3."""

from __future__ import annotations

from pathlib import Path

from experiments.rewriting.summary import Rewriting
from rmt_rl.cli.experiment import experiment_command
from rmt_rl.sweeps.engine import PlannedEvaluation

FOLDER = Path(__file__).parent
# Rewards of many corridors add up to 5, the best return of the training data: see README.md on the return-to-go.
HUNDRED = ("corridors=100", "goal_reward=0.05")
THOUSAND = ("corridors=1000", "goal_reward=0.005")
PLANS = [
    PlannedEvaluation(vary=("corridors=1,3,5,10", "corridor_length=5,10,[1,5],[1,10]")),
    PlannedEvaluation(vary=("corridors=5", "corridor_length=50,100,1000")),
    PlannedEvaluation(vary=(*HUNDRED, "corridor_length=10,100"), episodes=32),
    PlannedEvaluation(vary=(*THOUSAND, "corridor_length=10"), episodes=32),
]
# A million steps, one after the other: 20 CPU minutes of each agent that holds on.
LONGEST = PlannedEvaluation(vary=(*THOUSAND, "corridor_length=1000"), episodes=8)
AGENTS = ["rate", "rmt", "elmur", "armt", "dlstm", "dgru", "bc_lstm", "dmamba", "trxl", "gtrxl", "dt", "titans_mac"]
AGED = ["rate", "rmt", "elmur", "dlstm"]
NAMES = [*AGENTS, *(f"{agent}-ageing" for agent in AGED), "rate-ageing-first"]
CONFIGS = {FOLDER / f"{name}.toml": PLANS for name in NAMES}
CONFIGS[FOLDER / "rate-ageing.toml"] = [*PLANS, LONGEST]

if __name__ == "__main__":
    experiment_command(Rewriting(FOLDER, CONFIGS))
