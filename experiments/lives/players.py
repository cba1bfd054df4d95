"""Players beside the trained agents: random actions, the expert, and agents whose memory is emptied in each episode."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import EachEpisodeAnew, RandomPolicy, make_expert
from rmt_rl.analysis.results import RunResult
from rmt_rl.analysis.run_records import evaluation_record
from rmt_rl.environments import make_env
from rmt_rl.registry import load_task
from rmt_rl.runs.checkpoint import load_agent
from rmt_rl.runs.folder import read_config
from rmt_rl.task import Policy, Task

REFERENCES = ("random", "expert")
SUFFIX = "emptied"
LIVES = 100
SEED = 1000
"""Seed of the lives: that of evaluations of runs, so all players meet the same goals."""


def reference(name: str, player: str) -> RunResult:
    """Play lives of a task with random actions or with its expert, and return the results."""
    task = load_task(name)
    policy = make_expert(task, {}, SEED) if player == "expert" else _random(task)
    return _played(policy, name, f"{name}-{player}", seed=0)


def emptied(run: Path) -> RunResult:
    """Play lives with a run's agent whose memory is emptied at each start of an episode, and return the results."""
    config = read_config(run)
    agent = load_agent(run, "last")
    return _played(EachEpisodeAnew(agent), config.env, f"{config.env}-{config.agent}-{SUFFIX}", config.seed)


def emptied_name(cell: str) -> str:
    """Return the name of the results of `emptied` for a run, by the run's own name."""
    config, _, seed = cell.rpartition("-")
    return f"{config}-{SUFFIX}-{seed}"


def is_player(result: RunResult) -> bool:
    """Return True for results of this module."""
    return not result.settings


def _random(task: Task) -> Policy:
    with closing(make_env(task, {})) as env:
        return RandomPolicy(env.action_space, SEED)


def _played(policy: Policy, task: str, config: str, seed: int) -> RunResult:
    evaluations = []
    for goals in ("train", "test"):
        evaluation = evaluate(policy, load_task(task), {"goals": goals}, LIVES, SEED)
        record = {**evaluation.to_json(), "options": {"goals": goals}}
        evaluations.append(evaluation_record(record))
    return RunResult(config, seed, {}, {}, evaluations, {})
