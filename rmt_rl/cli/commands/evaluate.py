"""Roll out a run's agent, over a range of an environment's option too, and write evaluation.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from tyro.conf import Positional, UseAppendAction

from rmt_rl import registry
from rmt_rl.cli.arguments import Arguments, ReadsRuns
from rmt_rl.config import APART, SEEDS
from rmt_rl.flags import parse

if TYPE_CHECKING:
    from rmt_rl.acting.evaluate import ProgressReport
    from rmt_rl.agent import BaseAgent
    from rmt_rl.data.references import References
    from rmt_rl.runs.evaluation import Evaluation
    from rmt_rl.runs.options import RunConfig


class Evaluate(ReadsRuns):
    """Roll out a run's agent in its environment, and write evaluation.json."""

    run: Positional[Path] = Field(description="folder of the run")
    vary: UseAppendAction[tuple[str, ...]] = Field(
        (), description="an env option and its values: corridor_length=90,300; give it again for a grid"
    )
    episodes: int = Field(100, ge=1, description="episodes for each value")
    seed: int = Field(1000, ge=0, lt=SEEDS, description=f"seed of the episodes{APART}")
    num_envs: int = Field(100, ge=1, description="environments played at once, at most")
    checkpoint: Literal["last", "best"] = Field("last", description="which of the run's checkpoints")
    target_return: float | None = Field(None, description="return to aim at (unset: the data's best)")
    sample: bool = Field(False, description="sample actions; otherwise the likeliest is taken")
    device: str = Field("cpu", description="where the agent runs, e.g. cpu or cuda")


def evaluate_run(arguments: Arguments) -> int:
    """Evaluate at every value, print a line for each, and write evaluation.json after each."""
    given = parse(Evaluate, arguments, "rmt-rl evaluate", __doc__ or "")
    given.import_modules()
    from rmt_rl.cli.progress import EvaluationProgress, evaluation_line
    from rmt_rl.runs.checkpoint import path_of, read_checkpoint, restore_agent
    from rmt_rl.runs.evaluation import write_evaluation
    from rmt_rl.runs.options import read_config

    config = read_config(given.run)
    saved = read_checkpoint(path_of(given.run, given.checkpoint))
    agent = restore_agent(saved, given.device)
    done: list[Evaluation] = []
    with EvaluationProgress(given.episodes) as progress:
        evaluations = _evaluations(given, config, agent, progress)
        references = _references(config)
        for evaluation in evaluations:
            progress.hide()
            if not evaluation.options:
                evaluation = replace(evaluation, references=references)
            print(evaluation_line(evaluation), flush=True)
            done.append(evaluation)
            # With its update, so that results of a run that was trained further since aren't kept beside new ones.
            write_evaluation(given.run, done, f"{given.checkpoint}, update {saved.header.update}")
    return 0


def _evaluations(
    given: Evaluate, config: RunConfig, agent: BaseAgent, progress: ProgressReport
) -> Iterator[Evaluation]:
    from rmt_rl.acting.evaluate import parse_vary, sweep

    return sweep(
        agent,
        registry.load_task(config.env),
        config.env_options.model_dump(),
        parse_vary(given.vary),
        given.episodes,
        given.seed,
        deterministic=not given.sample,
        target_return=agent.target_return(given.target_return),
        max_lanes=given.num_envs,
        progress=progress,
        begin=lambda _: agent.set_random_seed(given.seed),
    )


def _references(config: RunConfig) -> References | None:
    """Return the reference scores of the data that a run learnt from, if the data are still there and have some."""
    from rmt_rl.acting.provenance import dataset_ids
    from rmt_rl.data.references import read_references

    return read_references(dataset_ids(config))


COMMAND = evaluate_run
