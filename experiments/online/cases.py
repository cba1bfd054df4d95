"""The runs of the comparison: tasks, agents, and the options of each run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rmt_rl.runs.named_options import named_config
from rmt_rl.sweeps.engine import PlannedEvaluation
from rmt_rl.sweeps.matrix import Cell

Options = Mapping[str, Any]
NO_OPTIONS: Options = MappingProxyType({})
N_ENVS = 16
EVALUATIONS = 10
"""Points of a learning curve."""
RECURRENT_PPO = "recurrent_ppo"
OWN_OPTIONS = "recurrent_ppo-own-options"
AGENTS = ("rate", "gtrxl", "dlstm", RECURRENT_PPO, OWN_OPTIONS)


class Case(NamedTuple):
    """A task on which agents are compared.

    Attributes:
        env: the environment.
        steps: environment steps of a training.
        score: success_rate or mean_return.
        env_options: options of the environment.
        segment_length: steps of a segment of the agents that have segments.
        truncation: end where the time limit is part of the task.
        normalize_reward: see `PPOOptions`; returns of most tasks are small.
    """

    env: str
    steps: int
    score: str = "success_rate"
    env_options: Options = NO_OPTIONS
    segment_length: int = 32
    truncation: str = "bootstrap"
    normalize_reward: str = "never"


def _popgym(task: str, steps: int = 200_000) -> Case:
    return Case("popgym", steps, "mean_return", {"task": task})


def _tmaze(longest: int, steps: int, segment_length: int) -> Case:
    options = {"corridor_length": [1, longest], "penalty": -1 / longest}
    return Case("tmaze", steps, env_options=options, segment_length=segment_length, truncation="end")


def _lives(env: str) -> Case:
    return Case(env, 200_000, "mean_return", segment_length=20, truncation="end", normalize_reward="large")


CASES = {
    "tmaze-20": _tmaze(20, 160_000, segment_length=10),
    "tmaze-100": _tmaze(100, 400_000, segment_length=25),
    "memory-s13": Case("minigrid_memory", 400_000, env_options={"size": 13}, truncation="end"),
    "repeat_first": _popgym("repeat_first"),
    "repeat_previous": _popgym("repeat_previous"),
    "count_recall": _popgym("count_recall"),
    "position_only_cartpole": _popgym("position_only_cartpole", 100_000),
    "noisy_position_only_cartpole": _popgym("noisy_position_only_cartpole"),
    "lives-tmaze": _lives("tmaze_without_hint"),
    "lives-bandit": _lives("bandit"),
}

OF_PPO: Options = {
    "learner": "ppo",
    "batch_size": 1024,
    "n_epochs": 6,
    "gae_lambda": 0.98,
    "ent_coef": 0.03,
}
"""Options of the agents of this project, on all tasks."""
OF_BASELINES: Mapping[str, Options] = {
    RECURRENT_PPO: {
        "lstm_hidden_size": 64,
        "batch_size": 1024,
        "n_epochs": 6,
        "learning_rate": 1e-3,
        "gae_lambda": 0.98,
        "ent_coef": 0.03,
    },
    OWN_OPTIONS: {"lstm_hidden_size": 64},
}
"""Options of sb3-contrib's agent, on all tasks: those of the other agents, and its own defaults but for the width."""


def cell(name: str, agent: str, seed: int) -> Cell:
    """Return the run of an agent on a task."""
    case = CASES[name]
    is_baseline = agent in OF_BASELINES
    own = {"agent_options": OF_BASELINES[agent]} if is_baseline else _of_ppo(case)
    every = case.steps // EVALUATIONS
    options = {
        **own,
        "env_options": dict(case.env_options),
        "total_timesteps": case.steps,
        "n_envs": N_ENVS,
        "truncation": case.truncation,
        "decay_from": 0.3,
        "eval_every": every,
        "save_every": every,
        "seed": seed,
    }
    config = named_config(case.env, RECURRENT_PPO if is_baseline else agent, options)
    return Cell(f"{name}/{agent}-{seed}", config, (PlannedEvaluation(episodes=100),))


def _of_ppo(case: Case) -> Options:
    agent_options = {"segment_length": case.segment_length}
    return {**OF_PPO, "normalize_reward": case.normalize_reward, "agent_options": agent_options}
