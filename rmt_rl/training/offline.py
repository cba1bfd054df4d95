"""Offline training on segments: to begin a run, and to go on with one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box
from gymnasium.spaces.utils import flatten_space

from rmt_rl.acting.collect import dataset_ids
from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs import checkpoint
from rmt_rl.runs.metrics import Report
from rmt_rl.runs.options import (
    CONFIG,
    OfflineRun,
    TrainingConfig,
    check_new,
    check_origin,
    offline_origin,
    read_config,
    write_config,
)
from rmt_rl.training.datasets import check_spaces, open_data
from rmt_rl.training.trainer import Trainer

LARGE = 10.0  # of an action: heads learn standard deviations up to 7.4
PRETENDED = 1e9  # bounds that stand for none


def train(
    config: OfflineRun,
    run: Path,
    report: Report = lambda update, metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train an agent in a new folder.

    Args:
        config: the run.
        run: its folder, which must not hold a run yet.
        report: called with the number of updates made and whatever was logged then, after every update.
        should_stop: asked before every update; on True a checkpoint is saved and training ends early.

    Returns:
        How many updates were made.

    Raises:
        UsageError: the data don't fit, the device can't do what an option asks for, the folder can't be written to, or
            the loss became NaN or infinite.
    """
    # The other processes of data parallel training, which Fabric starts by the same command, find the folder made.
    first = config.training.devices == 1 or os.environ.get("LOCAL_RANK", "0") == "0"
    if first:
        check_new(run)
    store = open_data(config)
    trainer = Trainer(config, run, store, new_agent(config, store))
    if first:
        trainer.rehearse()
        write_config(config, run)
        unscaled = _unscaled(store.action_space)
        for warning in filter(None, (trainer.sampler.unread(), _too_late(config.training), unscaled)):
            warnings.warn(warning, UserWarning, stacklevel=2)
    trainer.start()
    return trainer.run_updates(report, should_stop)


def resume(
    run: Path,
    report: Report = lambda update, metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Go on with a run from its last checkpoint, or from its start if it had saved none yet.

    Its config may have changed meanwhile in what only says how training goes on, such as `updates`, by which a run is
    prolonged; see `train` for the rest.

    Raises:
        UsageError: besides what `train` raises: the seed, agent, environment or data aren't those it was started with.
    """
    config: OfflineRun = read_config(run)
    path = checkpoint.path_of(run)
    saved = checkpoint.read_checkpoint(path) if path.exists() else None
    if saved:
        # First, since opening the data may collect others. An id of ours tells the environment's source too.
        check_origin(run, saved.header.progress.get("origin"), offline_origin(config, dataset_ids(config)))
    store = open_data(config)
    agent = cast("Agent", checkpoint.restore_agent(saved)) if saved else new_agent(config, store)
    if agent.config != config.agent_options:
        raise UsageError(f"checkpoint {path} is of another agent than {run / CONFIG} says; undo what was changed there")
    if bool(agent.spec.hindsight_classes) != bool(config.training.hindsight):
        raise UsageError(
            f"hindsight={config.training.hindsight}, but checkpoint {path} has {agent.spec.hindsight_classes} classes "
            f"of it; undo what was changed in {run / CONFIG}"
        )
    check_spaces(f"checkpoint {path}", agent.spec, store, "resume with the data that it was trained on")
    trainer = Trainer(config, run, store, agent)
    trainer.start(saved)
    return trainer.run_updates(report, should_stop)


def new_agent(config: OfflineRun, store: EpisodeStore) -> Agent:
    """The agent of a run before its first update, for the spaces and the best return of its data."""
    torch.manual_seed(config.seed)
    classes = getattr(load_task(config.env), "HINDSIGHT_CLASSES", 0) if config.training.hindsight else 0
    spec = AgentSpec(store.observation_space, store.action_space, store.best_return, store.max_return or 1.0, classes)
    return cast("Agent", agent_class(config.agent)(config.agent_options, spec))


def _unscaled(action_space: Space[Any]) -> str | None:
    """What is learnt badly, and the remedy."""
    box = flatten_space(action_space)  # of discrete actions, zeros and ones
    bounds = np.abs([box.low, box.high]) if isinstance(box, Box) else np.zeros(1)
    largest = np.max(bounds, where=np.isfinite(bounds) & (bounds < PRETENDED), initial=0)
    if largest <= LARGE:
        return None
    return (
        f"actions reach {largest:g}, but what is learnt best are numbers of about 1: collect and train in "
        "gymnasium.wrappers.RescaleAction(env, -1, 1)"
    )


def _too_late(options: TrainingConfig) -> str | None:
    """What never happens in so few updates, and the remedy."""
    if not options.ageing or options.ageing_from < options.updates:
        return None
    return (
        f"ageing={options.ageing} begins at update ageing_from={options.ageing_from} and so never in "
        f"updates={options.updates}: give a lower --ageing-from"
    )
