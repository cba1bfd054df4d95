"""Roll out a run's agent, over a range of an environment's option too, and write evaluation.json."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from tyro.conf import Positional, UseAppendAction

from rmt_rl.acting.evaluate_agent import EvaluationSettings, evaluate_run_grid
from rmt_rl.cli.arguments import RUN, RUNTIME, Arguments, ReadsRuns
from rmt_rl.cli.engines import ENGINE, computing, with_engine
from rmt_rl.errors import UsageError
from rmt_rl.export import RuntimeName
from rmt_rl.flags import parse
from rmt_rl.sweeps.engine import Setting
from rmt_rl.terminal import say

if TYPE_CHECKING:
    from rmt_rl.acting.evaluate import ProgressReport
    from rmt_rl.runs.checkpoint import AgentHeader, Checkpoint
    from rmt_rl.runs.evaluation import Evaluation
    from rmt_rl.runs.options import RunConfig

_ENGINE_FOLDER = ".evaluate"  # of the engine's own files, in the folder of the results


class Evaluate(EvaluationSettings, ReadsRuns):
    """Roll out a run's agent in its environment, and write evaluation.json."""

    run: Positional[str] = Field(description=RUN)
    out: Path | None = Field(
        None,
        description="folder of evaluation.json, which plot reads too (unset: the run's, or below runs/ if it is read "
        "only)",
    )
    vary: UseAppendAction[tuple[str, ...]] = Field(
        (), description="an env option and its values: corridor_length=90,300; give it again for a grid"
    )
    checkpoint: Literal["last", "best"] = Field("last", description="which of the run's checkpoints")
    device: str = Field("cpu", description="where the agent runs, e.g. cpu or cuda")
    runtime: RuntimeName = Field("torch", description=RUNTIME)
    shards: int = Field(
        1,
        ge=1,
        description="parts into which the environments are divided, at each value; the episodes stay the same",
    )
    engine: str | None = Field(None, description=ENGINE)
    render: bool = Field(False, description="show the first episode at each value in the terminal, before all else")
    video: int = Field(
        0, ge=0, description="record the first N episodes at each value, into the folder videos beside evaluation.json"
    )


def evaluate_run(arguments: Arguments) -> int:
    """Evaluate at every value, print a line for each, and write evaluation.json after each."""
    given = parse(with_engine(Evaluate, arguments), arguments, "rmt-rl evaluate", __doc__ or "")
    given.import_modules()
    from rmt_rl.cli.progress import EvaluationProgress, evaluation_line
    from rmt_rl.runs.checkpoint import path_of, read_checkpoint
    from rmt_rl.runs.evaluation import FILE, write_evaluation
    from rmt_rl.runs.find import find_run
    from rmt_rl.runs.folder import open_results, read_config

    run = find_run(given.run)
    config = read_config(run.folder)
    if given.video:
        from rmt_rl.acting.video import check_videos

        check_videos(config)
    saved = read_checkpoint(path_of(run.folder, given.checkpoint))
    folder = open_results(run.folder, config, given.out or run.out)
    if given.render:
        _show_episodes(given, config, saved)
    done: list[Evaluation] = []
    with (
        EvaluationProgress(given.episodes) as progress,
        _evaluations(given, run.folder, config, saved, folder, progress) as evaluations,
    ):
        for evaluation in evaluations:
            done.append(evaluation)
            # With its update, so that results of a run that was trained further since aren't kept beside new ones.
            write_evaluation(folder, done, f"{given.checkpoint}, update {saved.header.update}")
            progress.hide()
            say(evaluation_line(evaluation), flush=True)
    if run.out is not None:
        say(folder / FILE)
    if given.video:
        _record_videos(given, config, saved, folder)
    return 0


def _show_episodes(given: Any, config: RunConfig, saved: Checkpoint[AgentHeader]) -> None:
    """Draw the evaluation's first episodes in the terminal."""
    from rmt_rl.acting.evaluate import parse_vary
    from rmt_rl.acting.showing import show_episodes
    from rmt_rl.cli.pictures import pictures_in_terminal
    from rmt_rl.runs.checkpoint import restore_agent

    agent = restore_agent(saved, given.device)
    with pictures_in_terminal() as show:
        show_episodes(config, agent, parse_vary(given.vary), _settings(given), show)


def _record_videos(given: Any, config: RunConfig, saved: Checkpoint[AgentHeader], folder: Path) -> None:
    """Record videos of the evaluation's first episodes, and print their paths."""
    from rmt_rl.acting.evaluate import parse_vary
    from rmt_rl.acting.video import FOLDER, record_videos
    from rmt_rl.runs.checkpoint import restore_agent

    agent = restore_agent(saved, given.device)
    vary = parse_vary(given.vary)
    for path in record_videos(config, agent, vary, _settings(given), given.video, folder / FOLDER):
        say(path, flush=True)


def _settings(given: Any) -> EvaluationSettings:
    return EvaluationSettings(**{name: getattr(given, name) for name in EvaluationSettings.model_fields})


@contextmanager
def _evaluations(
    given: Any,
    run: Path,
    config: RunConfig,
    saved: Checkpoint[AgentHeader],
    folder: Path,
    progress: ProgressReport,
) -> Iterator[Iterator[Evaluation]]:
    """Yield the evaluations at every value, which are made one after the other when they are asked for."""
    from rmt_rl.acting.evaluate import parse_vary
    from rmt_rl.acting.evaluate_shards import SavedAgent, evaluate_shards, plan_shards
    from rmt_rl.export.runtime import with_runtime
    from rmt_rl.runs.checkpoint import restore_agent

    vary = parse_vary(given.vary)
    if given.engine is None and given.shards == 1:
        agent = with_runtime(restore_agent(saved, given.device), given.runtime)
        yield evaluate_run_grid(config, agent, vary, given, progress)
        return
    settings = _settings(given)
    source = SavedAgent(run.absolute(), given.checkpoint, saved.header.update, given.device, given.runtime)
    plan = plan_shards(config, source, vary, settings, given.shards)
    setting = Setting(cores=1, gpus=_gpus(given), folder=folder / _ENGINE_FOLDER)
    asked_for = given.shards * len(plan.shards)
    with computing(given, setting, asked_for) as compute:
        yield evaluate_shards(plan, compute, progress)


def _gpus(given: Any) -> int:
    """Return the number of GPUs of a shard.

    Raises:
        UsageError: the device has a number, but an engine numbers the GPUs of each shard anew.
    """
    kind, colon, _ = given.device.partition(":")
    if given.engine is not None and colon:
        raise UsageError(f"device={given.device}: an engine gives each shard a GPU of its own; write --device {kind}")
    return 1 if kind == "cuda" else 0


COMMAND = evaluate_run
