"""Evaluation of trained agents, as the command line and `rmt_rl.evaluate` ask for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rmt_rl.acting.evaluate import evaluate_grid
from rmt_rl.config import SEED_LIMIT, SEED_SPACING, Frozen
from rmt_rl.environments import make_env
from rmt_rl.registry import load_task
from rmt_rl.task import check_same_spaces

if TYPE_CHECKING:
    from rmt_rl.acting.evaluate import ProgressReport
    from rmt_rl.agent import BaseAgent
    from rmt_rl.runs.evaluation import Evaluation
    from rmt_rl.runs.options import RunConfig
    from rmt_rl.task import Options, Task


class EvaluationSettings(Frozen):
    """Options of an evaluation."""

    episodes: int = Field(100, ge=1, description="episodes for each value")
    seed: int = Field(1000, ge=0, lt=SEED_LIMIT, description=f"seed of the episodes{SEED_SPACING}")
    num_envs: int = Field(100, ge=1, description="environments played at once, at most")
    target_return: float | None = Field(None, description="return to aim at (unset: the data's best)")
    sample: bool = Field(False, description="sample actions; otherwise the likeliest is taken")


def evaluate_run_grid(
    config: RunConfig,
    agent: BaseAgent,
    vary: Mapping[str, Sequence[Any]],
    settings: EvaluationSettings,
    progress: ProgressReport | None = None,
) -> Iterator[Evaluation]:
    """Evaluate a run's agent in the run's environment lazily, at every combination of the varied options' values.

    All combinations are checked before the first is played. An evaluation without varied options has the reference
    scores of the data that the run learnt from, if the data are still there and have some.

    Args:
        config: the run.
        agent: the run's agent.
        vary: values of environment options.
        settings: how to evaluate.
        progress: called after every step.

    Raises:
        UsageError: as in `evaluate_grid`; or a target return is given, but the agent isn't conditioned on returns.
    """
    task = load_task(config.env)
    evaluations = _evaluate_agent_grid(agent, task, config.env_options, vary, settings, progress)
    return (with_references(evaluation, config) for evaluation in evaluations)


def evaluate_elsewhere(
    agent: BaseAgent, env: str, env_options: Mapping[str, Any], settings: EvaluationSettings
) -> Evaluation:
    """Evaluate an agent in an environment that needn't be the one of its run.

    Args:
        agent: the agent.
        env: the environment's name.
        env_options: options of the environment; its defaults for the rest.
        settings: how to evaluate.

    Raises:
        UsageError: as in `evaluate_run_grid`; or the environment is unknown or has other spaces than the agent.
    """
    task = load_task(env)
    with closing(make_env(task, env_options)) as made:
        check_same_spaces(f"env {env!r}", made, "the agent", agent.spec, "choose an env with the agent's spaces")
    vary = {name: [value] for name, value in env_options.items()}
    return next(_evaluate_agent_grid(agent, task, {}, vary, settings, None))


def _evaluate_agent_grid(
    agent: BaseAgent,
    task: Task,
    options: Options,
    vary: Mapping[str, Sequence[Any]],
    settings: EvaluationSettings,
    progress: ProgressReport | None,
) -> Iterator[Evaluation]:
    return evaluate_grid(
        agent,
        task,
        options,
        vary,
        settings.episodes,
        settings.seed,
        deterministic=not settings.sample,
        target_return=agent.target_return(settings.target_return),
        max_lanes=settings.num_envs,
        progress=progress,
        begin=lambda _: agent.set_random_seed(settings.seed),
    )


def with_references(evaluation: Evaluation, config: RunConfig) -> Evaluation:
    """Return an evaluation of a run with the reference scores of its data, if no option was varied."""
    from rmt_rl.acting.provenance import dataset_ids
    from rmt_rl.data.references import read_references

    if evaluation.options:
        return evaluation
    return replace(evaluation, references=read_references(dataset_ids(config)))
