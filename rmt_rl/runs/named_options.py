"""A run's options by the names that they have on the command line, whichever section of the config they are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmt_rl.config import Frozen, validated
from rmt_rl.errors import UsageError, nearest
from rmt_rl.runs.init import hash_of_init, options_of_init
from rmt_rl.runs.options import RunConfig, run_config_class
from rmt_rl.runs.recipes import NO_RECIPE, Recipe

NAMED = ("feed", "logger", "learner")  # options of a run that name what the registry finds
AGENT_NAMED = ("encoder",)  # options of an agent that do
OPTIONS = ("env_options", "agent_options")  # sections whose options aren't the run's own


def named_config(
    env: str, agent: str, options: Mapping[str, Any] | None = None, recipe: Recipe = NO_RECIPE
) -> RunConfig:
    """Return the config of a run from options by the names that they have on the command line.

    Args:
        env: the environment's name.
        agent: the agent's name.
        options: values of the run's options, e.g. `{"updates": 500, "logger": "wandb"}`, whichever section they are
            in; `env_options` and `agent_options` are mappings.
        recipe: tuned options, which those in `options` override one by one.

    Raises:
        UsageError: a name or an option is unknown, or a value is out of range.
    """
    given = options or {}
    cls = run_config_class(env, agent, given.get("learner"))
    sections = _sections(cls)
    of_init = options_of_init(given.get("init"), agent, cls)
    tuned = {section: dict(table) for section, table in recipe.sections.items()}
    for section, table in of_init.items():
        tuned[section] = tuned.get(section, {}) | table
    values: dict[str, Any] = {"env": env, "agent": agent, **tuned}
    if of_init:
        values["init_sha256"] = hash_of_init(given["init"])
    for name, value in given.items():
        if name not in sections:
            raise _unknown(name, value, cls)
        section = sections[name]
        place = values.setdefault(section, {}) if section else values
        is_partial = name in tuned and isinstance(value, Mapping)
        place[name] = {**tuned[name], **value} if is_partial else value
    return validated(cls, values)


def names_in(options: Mapping[str, Any]) -> list[str]:
    """Return the names of feeds, loggers and encoders among a run's options, each possibly `module:Name`."""
    agent_options = options.get("agent_options")
    of_agent = agent_options if isinstance(agent_options, Mapping) else {}
    given = [options.get(option) for option in NAMED]
    given += [of_agent.get(option) for option in AGENT_NAMED]
    names = []
    for value in given:
        values = value if isinstance(value, list | tuple) else [value]
        names += [each for each in values if isinstance(each, str)]
    return names


def named_flags() -> list[str]:
    """Return the flags of the options that name what the registry finds."""
    of_run = [f"--{option}" for option in NAMED if option != "learner"]  # which the command reads by itself
    return of_run + [f"--agent.{option}" for option in AGENT_NAMED]


def _sections(cls: type[RunConfig]) -> dict[str, str]:
    """Return the section that each option of a run is in, `""` for those in none."""
    sections: dict[str, str] = {}
    for name, field in cls.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Frozen) and name not in OPTIONS:
            sections |= dict.fromkeys(kind.model_fields, name)
        else:
            sections[name] = ""
    del sections["env"], sections["agent"]
    return sections


def _unknown(name: str, value: object, cls: type[RunConfig]) -> UsageError:
    for section in OPTIONS:
        options: Any = cls.model_fields[section].annotation
        if name in options.model_fields:
            return UsageError(f"{name}={value!r} is one of {section}: give {section}={{{name!r}: {value!r}}}")
    known = _sections(cls)
    return UsageError(f"unknown option {name}={value!r} (known: {', '.join(known)}){nearest(name, known)}")
