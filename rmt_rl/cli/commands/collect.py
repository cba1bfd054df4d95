"""Make a Minari data set: rmt-rl collect ENV plays its expert, --policy RUN a trained agent."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from rmt_rl import registry
from rmt_rl.cli.arguments import RUNTIME, Arguments, ReadsRuns, positionals, require_values
from rmt_rl.cli.engines import ENGINE, computing, with_engine
from rmt_rl.config import SEED_LIMIT, SEED_SPACING, Frozen
from rmt_rl.export import RuntimeName
from rmt_rl.flags import parse, with_options
from rmt_rl.sweeps.engine import Setting
from rmt_rl.task import config_class, default_episodes
from rmt_rl.terminal import say

_ENGINE_FOLDER = Path("runs", ".collect")  # of the engine's own files


class Collection(ReadsRuns):
    """Episodes of an environment's expert, of trained agents, of random actions, or of several mixed."""

    episodes: int | None = Field(None, ge=1, description="episodes to collect (unset: the env's number, mostly 4000)")
    seed: int = Field(0, ge=0, lt=SEED_LIMIT, description=f"seed of the episodes{SEED_SPACING}")
    policy: tuple[str, ...] = Field(
        (),
        description="expert (default), random, histories (a table that learns within lives, see docs/lives.md), or a "
        "run: its folder, zoo:NAME or hf://owner/name; several for a mix, e.g. expert=1 runs/ppo-0=2",
    )
    sample: bool = Field(False, description="trained agents sample their actions; otherwise the likeliest is taken")
    checkpoint: Literal["last", "best"] = Field("last", description="which of the runs' checkpoints")
    runtime: RuntimeName = Field("torch", description=RUNTIME)
    noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="highest level of noise, from which experts and agents then show how to recover; each episode "
        "draws its own, from 0 on: the probability of a random action, or for numbers with bounds the deviation of "
        "noise, as a share of half their range; recorded is what was done",
    )
    target_return: float | None = Field(None, description="return that agents aim at (unset: their data's best)")
    shards: int = Field(
        1,
        ge=1,
        description="parts of each policy's episodes, each with seeds of its own; who plays them changes nothing",
    )
    engine: str | None = Field(None, description=ENGINE)
    env_options: Frozen


def collect_dataset(arguments: Arguments) -> int:
    """Collect a data set and print its id."""
    description = __doc__ or ""
    names, rest = positionals(arguments, ("ENV",), "collect", description)
    if not names:
        return 0
    task = registry.load_task(names[0])
    require_values("--policy", rest, "name policies: --policy random; or leave it out, and the env's expert plays")
    model = with_engine(with_options(Collection, env=config_class(task)), rest)
    given = parse(model, rest, f"rmt-rl collect {names[0]}", description)
    given.import_modules()
    from rmt_rl.acting.collect import collect
    from rmt_rl.acting.policies import EXPERT_ALONE, Behaviour, parse_share
    from rmt_rl.cli.progress import EvaluationProgress

    shares = tuple(map(parse_share, given.policy)) or EXPERT_ALONE.shares
    behaviour = Behaviour(shares, given.sample, given.target_return, given.checkpoint, given.noise, given.runtime)
    episodes = given.episodes or default_episodes(task)
    setting = Setting(cores=1, gpus=0, folder=_ENGINE_FOLDER)
    typed = [name for name in names if ":" in name]
    with computing(given, setting, given.shards, typed) as compute, EvaluationProgress(episodes) as progress:
        identity = collect(
            names[0],
            given.env_options,
            episodes,
            given.seed,
            behaviour,
            progress,
            given.shards,
            compute,
        )
    say(identity)
    return 0


COMMAND = collect_dataset
