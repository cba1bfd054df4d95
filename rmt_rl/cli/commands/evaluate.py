"""Roll out a run's agent, over a range of an environment's option too, and write evaluation.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from tyro.conf import Positional, UseAppendAction

from rmt_rl.acting.evaluate_agent import EvaluationSettings, evaluate_run_grid
from rmt_rl.cli.arguments import Arguments, ReadsRuns
from rmt_rl.flags import parse
from rmt_rl.terminal import say

if TYPE_CHECKING:
    from rmt_rl.runs.evaluation import Evaluation


class Evaluate(EvaluationSettings, ReadsRuns):
    """Roll out a run's agent in its environment, and write evaluation.json."""

    run: Positional[Path] = Field(description="folder of the run")
    out: Path | None = Field(None, description="folder of evaluation.json, which plot reads too (unset: the run's)")
    vary: UseAppendAction[tuple[str, ...]] = Field(
        (), description="an env option and its values: corridor_length=90,300; give it again for a grid"
    )
    checkpoint: Literal["last", "best"] = Field("last", description="which of the run's checkpoints")
    device: str = Field("cpu", description="where the agent runs, e.g. cpu or cuda")


def evaluate_run(arguments: Arguments) -> int:
    """Evaluate at every value, print a line for each, and write evaluation.json after each."""
    given = parse(Evaluate, arguments, "rmt-rl evaluate", __doc__ or "")
    given.import_modules()
    from rmt_rl.acting.evaluate import parse_vary
    from rmt_rl.cli.progress import EvaluationProgress, evaluation_line
    from rmt_rl.runs.checkpoint import path_of, read_checkpoint, restore_agent
    from rmt_rl.runs.evaluation import write_evaluation
    from rmt_rl.runs.folder import open_results, read_config

    config = read_config(given.run)
    saved = read_checkpoint(path_of(given.run, given.checkpoint))
    agent = restore_agent(saved, given.device)
    folder = open_results(given.run, config, given.out)
    done: list[Evaluation] = []
    with EvaluationProgress(given.episodes) as progress:
        for evaluation in evaluate_run_grid(config, agent, parse_vary(given.vary), given, progress):
            done.append(evaluation)
            # With its update, so that results of a run that was trained further since aren't kept beside new ones.
            write_evaluation(folder, done, f"{given.checkpoint}, update {saved.header.update}")
            progress.hide()
            say(evaluation_line(evaluation), flush=True)
    return 0


COMMAND = evaluate_run
