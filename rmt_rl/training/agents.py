"""The agent of an offline run: a new one, or the one of a checkpoint."""

from __future__ import annotations

import warnings
from typing import cast

import torch

from rmt_rl.agent import Agent, AgentSpec
from rmt_rl.data.store import EpisodeStore
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs.checkpoint import AgentHeader, Checkpoint, restore_agent
from rmt_rl.runs.folder import CONFIG
from rmt_rl.runs.init import initial_agent
from rmt_rl.runs.options import AUTOMATIC_HINDSIGHT, OfflineRun
from rmt_rl.task import HasSpaces, hindsight_classes
from rmt_rl.training.datasets import check_spaces
from rmt_rl.training.standards import standardise


def new_agent(config: OfflineRun, store: EpisodeStore) -> Agent:
    """Return the agent of a run before its first update, for the spaces, the best return and the scales of its data.

    An agent of an earlier run keeps its scales.

    Raises:
        UsageError: the run can't begin with that agent.
    """
    if config.init is not None:
        return _begun(config, store)
    torch.manual_seed(config.seed)
    spec = AgentSpec(
        store.observation_space,
        store.action_space,
        target_return=store.best_return,
        return_scale=store.max_return or 1.0,
        hindsight_classes=_classes_to_learn(config),
        standardised=config.data.standardise,
    )
    make = agent_class(config.agent)
    agent = cast("Agent", make(config.agent_options, spec))
    standardise(agent, store)
    return agent


def restored_agent(config: OfflineRun, saved: Checkpoint[AgentHeader], store: EpisodeStore) -> Agent:
    """Return the agent of a checkpoint.

    Raises:
        UsageError: it isn't the agent that the config describes, or the data have other spaces.
    """
    agent = cast("Agent", restore_agent(saved))
    checkpoint = f"checkpoint {saved.path}"
    described_in = saved.path.parent / CONFIG
    if agent.config not in (config.agent_options, config.agent_options.with_earlier()):
        raise UsageError(f"{checkpoint} is of another agent than {described_in} says; undo what was changed there")
    _check_matches(config, agent, checkpoint, f"undo what was changed in {described_in}")
    check_spaces(checkpoint, agent.spec, store, "resume with the data that it was trained on")
    return agent


def _check_matches(config: OfflineRun, agent: Agent, name: str, remedy: str) -> None:
    """Raise a UsageError unless an agent has the hindsight classes and the scales that a config asks for."""
    hindsight = config.training.hindsight
    classes = agent.spec.hindsight_classes
    if hindsight != "auto" and bool(classes) != bool(hindsight):
        raise UsageError(f"hindsight={hindsight}, but {name} has {classes} classes of it; {remedy}")
    asked = "standardise" in config.data.model_fields_set  # configs of earlier versions lack it
    if asked and agent.spec.standardised != config.data.standardise:
        raise UsageError(
            f"standardise={config.data.standardise}, but {name} was trained with {agent.spec.standardised}; {remedy}"
        )


def _begun(config: OfflineRun, store: EpisodeStore) -> Agent:
    """Return the agent of the run that a run begins with, which aims at the best return of the new data."""
    init = f"init={config.init}"
    agent = cast("Agent", initial_agent(config, f"dataset={', '.join(store.ids)}", cast("HasSpaces", store)))
    _check_matches(config, agent, init, "give the options that it was trained with")
    agent.spec = agent.spec._replace(target_return=store.best_return)
    _warn_of_missing_classes(config, agent)
    return agent


def _warn_of_missing_classes(config: OfflineRun, agent: Agent) -> None:
    declared = hindsight_classes(load_task(config.env))
    classes = agent.spec.hindsight_classes
    if declared and classes != declared and config.training.hindsight == "auto":
        warnings.warn(
            f"init={config.init}: the agent has {classes} hindsight classes, the environment {declared}; it is trained "
            "without their loss",
            UserWarning,
            stacklevel=2,
        )


def hindsight_weight(config: OfflineRun, agent: Agent) -> float:
    """Return the weight of a run's auxiliary loss on hindsight classes.

    With `auto` it is 1 if the agent has as many classes as the environment declares, else 0.
    """
    asked = config.training.hindsight
    if asked != "auto":
        return asked
    classes = agent.spec.hindsight_classes
    is_possible = classes > 0 and classes == hindsight_classes(load_task(config.env))
    return AUTOMATIC_HINDSIGHT if is_possible else 0.0


def _classes_to_learn(config: OfflineRun) -> int:
    """Return the number of the task's hindsight classes; 0 if the run doesn't learn them or there are none."""
    if config.training.hindsight == 0:
        return 0
    return hindsight_classes(load_task(config.env))
