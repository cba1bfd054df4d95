"""Generated blocks of docs/memories and docs/environments: options, sizes and recipes, as the code has them.

A block stands between two comments, `<!-- options agents rate rmt -->` and `<!-- end -->`. Its kinds:

- `options KIND NAME ...`: a table of the options that these environments or agents have of their own;
- `options shared CLASS`: the options of a class of `SHARED`, which agents inherit;
- `sizes NAME ...`: parameters and bytes of state of agents;
- `recipe NAME`: the recipe of an environment.

`python -m tests.pages` writes the blocks of all pages; a test compares them with the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rmt_rl.agent_options import AgentConfig
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.analysis.sizes import STATED, default_sizes
from rmt_rl.nn.decoder import DecoderConfig
from rmt_rl.registry import Kind, agent_class, load_task

ROOT = Path(__file__).parents[2]
FOLDERS: Mapping[Kind, Path] = {"agents": ROOT / "docs/memories", "envs": ROOT / "docs/environments"}
SHARED: Mapping[str, type[BaseModel]] = {"AgentConfig": AgentConfig, "DecoderConfig": DecoderConfig}
BLOCK = re.compile(r"<!-- (options|sizes|recipe) ([^>]*?) -->\n(.*?)<!-- end -->", re.DOTALL)
_BOUNDS = {Ge: ("ge", "from {}"), Gt: ("gt", "above {}"), Le: ("le", "to {}"), Lt: ("lt", "below {}")}

Fields = Mapping[str, FieldInfo]


def pages(kind: Kind) -> list[Path]:
    """Return the pages about agents or environments, without their index."""
    return sorted(path for path in FOLDERS[kind].glob("*.md") if path.stem != "index")


def refreshed(text: str) -> str:
    """Return a page's text with its blocks as the code has them now.

    Raises:
        NotInstalled: an environment or agent needs a package that isn't installed.
    """
    return BLOCK.sub(_written, text)


def documented(text: str, kind: Kind) -> set[str]:
    """Return the environments or agents whose options a page lists."""
    listed = [match[2].split() for match in BLOCK.finditer(text) if match[1] == "options"]
    return {name for names in listed if names[0] == kind for name in names[1:]}


def _written(match: re.Match[str]) -> str:
    block, names = match[1], match[2].split()
    if block == "sizes":
        content = _sizes(names)
    elif block == "recipe":
        content = _recipe(*names)
    else:
        content = _options(*names)
    return f"<!-- {block} {match[2]} -->\n{content}<!-- end -->"


def _recipe(env: str) -> str:
    text = (ROOT / f"rmt_rl/recipes/{env}.toml").read_text(encoding="utf-8")
    return f"\n```toml\n{text.strip()}\n```\n\n"


def _sizes(agents: Iterable[str]) -> str:
    rows = []
    for name in agents:
        sizes = default_sizes(name)
        assert sizes is not None, f"{name} carries no state"
        rows.append([f"`{name}`", f"{sizes.parameters:,}", f"{sizes.state_bytes:,}"])
    table = markdown_table(["agent", "parameters", "bytes carried by an environment"], rows)
    return f"\n{table}\n\nConditions: {STATED}.\n\n"


def _options(kind: str, *names: str) -> str:
    prefix = "env" if kind == "envs" else "agent"
    sections = {name: _fields(kind, name) for name in names}
    options = dict.fromkeys(option for section in sections.values() for option in section)
    rows = [_row(prefix, option, sections) for option in options]
    table = markdown_table(["option", "default", "values", "meaning"], rows, left=4)
    return f"\n{table}\n\n" if rows else "\nNone of its own.\n\n"


def _fields(kind: str, name: str) -> Fields:
    if kind == "shared":
        return SHARED[name].model_fields
    config: type[BaseModel] = load_task(name).Config if kind == "envs" else agent_class(name).Config
    inherited = [shared.model_fields for shared in SHARED.values() if issubclass(config, shared)]
    return {key: field for key, field in config.model_fields.items() if not any(key in each for each in inherited)}


def _row(prefix: str, option: str, sections: Mapping[str, Fields]) -> list[str]:
    """Return a row about an option that some of these environments or agents have."""
    owned = {name: section[option] for name, section in sections.items() if option in section}
    name = option.replace("_", "-")
    field = next(iter(owned.values()))
    meaning = str(field.description)
    if len(owned) < len(sections):
        meaning += f" ({', '.join(f'`{owner}`' for owner in owned)} only)"
    return [f"`--{prefix}.{name}`", _defaults(owned), _values(prefix, name, field), meaning]


def _defaults(owned: Mapping[str, FieldInfo]) -> str:
    """Return the default of an option, or that of each owner if they differ."""
    each = {owner: _default(field.default) for owner, field in owned.items()}
    first, *others = dict.fromkeys(each.values())
    return ", ".join(f"`{owner}`: {value}" for owner, value in each.items()) if others else first


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(prefix: str, name: str, field: FieldInfo) -> str:
    """Return the allowed values as far as the field's type tells them; its description tells the others."""
    if field.annotation is bool:
        return f"`--{prefix}.no-{name}` for no" if field.default else f"`--{prefix}.{name}` for yes"
    choices = _choices(field.annotation)
    if choices:
        return ", ".join(f"`{each}`" for each in choices)
    return " ".join(_bound(each) for each in field.metadata if type(each) in _BOUNDS)


def _bound(limit: Any) -> str:
    key, text = _BOUNDS[type(limit)]
    number = getattr(limit, key)
    return text.format(f"{number:,}" if isinstance(number, int) else f"{number:g}")


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values of a Literal, also inside a tuple or a union; nothing for other types."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    for inner in get_args(annotation):
        found = _choices(inner)
        if found:
            return found
    return ()
