"""The run that a new run begins with (`init`): its agent with weights, options and scales."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

from rmt_rl.agent import BaseAgent
from rmt_rl.errors import UsageError
from rmt_rl.runs.checkpoint import AgentHeader, Checkpoint, agent_options, path_of, read_checkpoint, restore_agent
from rmt_rl.runs.find import find_run
from rmt_rl.runs.options import RunConfig
from rmt_rl.task import HasSpaces, check_same_spaces

ConfigT = TypeVar("ConfigT", bound=RunConfig)
Sections = dict[str, dict[str, Any]]


def options_of_init(init: object, agent: str, cls: type[RunConfig]) -> Sections:
    """Return the options of a new run that follow from the run it begins with, by section; none if `init` is None.

    Raises:
        UsageError: there is no such run, or it is of another agent.
    """
    if not isinstance(init, str):
        return {}
    header = _read(init, agent).header
    sections: Sections = {"agent_options": agent_options(header).model_dump()}
    if "data" in cls.model_fields:
        sections["data"] = {"standardise": header.standardised}
    return sections


def hash_of_init(init: str) -> str:
    """Return the SHA-256 of the checkpoint of the run that a new one begins with.

    Raises:
        UsageError: there is no such run.
    """
    path = path_of(find_run(init).folder)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"init={init}: {path} can't be read ({error.strerror}); choose another run") from error


def with_hash(config: ConfigT) -> ConfigT:
    """Return the config with the hash of the weights that the run begins with.

    Raises:
        UsageError: there is no such run, or the config has the hash of other weights.
    """
    if config.init is None:
        return config
    _read(config.init, config.agent)
    found = hash_of_init(config.init)
    if config.init_sha256 not in (None, found):
        raise UsageError(
            f"init={config.init} has other weights than init_sha256={config.init_sha256}; to begin with these, leave "
            "init_sha256 out of the config"
        )
    return config.model_copy(update={"init_sha256": found})


def origin_of_init(config: RunConfig) -> dict[str, Any]:
    """Return the name and the hash of what a run began with, for the comparison when it is resumed."""
    return {} if config.init is None else {"init": config.init, "init_sha256": config.init_sha256}


def initial_agent(config: RunConfig, name: str, thing: HasSpaces) -> BaseAgent | None:
    """Return the agent that a new run begins with; None if it begins with random weights.

    Args:
        config: the run.
        name: the environment or data of the run, for error messages.
        thing: the environment or data, whose spaces the agent must have.

    Raises:
        UsageError: there is no such run, or its agent, its options or its spaces aren't those of the new run.
    """
    if config.init is None:
        return None
    saved = _read(config.init, config.agent)
    agent = restore_agent(saved)
    wanted = config.agent_options
    _check_options(config.init, agent, wanted.model_dump())
    if agent.config != wanted:  # in options of learning
        with_options = type(agent)(wanted, agent.spec)
        with_options.load_state_dict(agent.state_dict())
        agent = with_options.eval()
    check_same_spaces(f"init={config.init}", agent.spec, name, thing, "choose a run with the same spaces")
    return agent


def _read(init: str, agent: str) -> Checkpoint[AgentHeader]:
    try:
        saved = read_checkpoint(path_of(find_run(init).folder))
    except UsageError as error:
        raise UsageError(f"init={init}: {error}") from error
    found = saved.header.agent
    if found != agent:
        raise UsageError(f"init={init} is of agent {found!r}, not {agent!r}; train {found!r}, or choose another run")
    return saved


def _check_options(init: str, agent: BaseAgent, wanted: Mapping[str, Any]) -> None:
    for name, value in agent.config.model_dump().items():
        if name not in agent.options_of_learning and wanted.get(name) != value:
            raise UsageError(
                f"agent.{name}={wanted.get(name)}, but init={init} has {value}; leave agent.{name} out, since the "
                "weights are of an agent with these options"
            )
