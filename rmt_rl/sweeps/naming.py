"""Names of options, as sweeps write them, and names of the runs' folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rmt_rl.registry import slug

SECTIONS = ("env", "agent")  # of dotted names, such as agent.width


def dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with tables `[env]` and `[agent]` as dotted names, and all names with underscores."""
    flat = {}
    for name, value in values.items():
        is_section = name in SECTIONS and isinstance(value, Mapping)
        members = {f"{name}.{inner}": member for inner, member in value.items()} if is_section else {name: value}
        for key, member in members.items():
            flat[key.replace("-", "_")] = member
    return flat


def dotted_names(values: Any) -> Any:
    """Return a table of options as `dotted` does, and any other value as it is."""
    return dotted(values) if isinstance(values, Mapping) else values


def cell_name(env: str, agent: str, varied: Mapping[str, Any], seed: int) -> str:
    """Return the name of a run's folder, such as `tmaze-rate-lr0.001-0`; every system allows it."""
    shortened = {name: _initials(name) for name in varied}
    short = list(shortened.values())
    parts = [env, agent]
    for name, value in varied.items():
        initials = shortened[name]
        word = initials if short.count(initials) == 1 else name
        parts.append(f"{word}{_value_text(value)}")
    return slug("-".join([*parts, str(seed)]), kept=".")


def _initials(name: str) -> str:
    """Return `lr` for learning_rate, and a name of one word as it is."""
    *_, last = name.split(".")
    words = [word for word in last.split("_") if word]
    return "".join(word[0] for word in words) if len(words) > 1 else last


def _value_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "_".join(map(_value_text, value))
    return re.sub(r"^(?=[^\d-])", "_", str(value))
