"""Exports of runs: the graph, a JSON that describes its inputs and outputs, and an example that acts by it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from pydantic import JsonValue

from rmt_rl import registry
from rmt_rl.agent import Agent
from rmt_rl.export import FormatName
from rmt_rl.export.formats import FORMATS, check_installed
from rmt_rl.export.graph import acting_program
from rmt_rl.export.interface import Interface, Port
from rmt_rl.export.runtime import check_acts_from_segments
from rmt_rl.files import check_writable, write_atomically
from rmt_rl.lives import LIFETIME
from rmt_rl.runs.checkpoint import AgentHeader, path_of, read_checkpoint, restore_agent
from rmt_rl.runs.folder import read_config
from rmt_rl.runs.options import RunConfig
from rmt_rl.space_json import space_to_json
from rmt_rl.task import divided

Values = dict[str, JsonValue]

STEM = "agent"
EXAMPLE = "act.py"
FORMAT = 1  # of the description


def export_run(run: Path, format_name: FormatName, out: Path, checkpoint: str = "last") -> list[Path]:
    """Export a run's agent and return the files that were written: the graph, its description, and for ONNX an example.

    Nothing is written before the graph is made.

    Args:
        run: the run's folder.
        format_name: a name of `FORMATS`.
        out: folder of the files.
        checkpoint: `"last"` or `"best"`.

    Raises:
        UsageError: a package is missing, the folder is no run, the checkpoint is missing, the agent can't be exported,
            or the folder can't be written to.
    """
    file_format = FORMATS[format_name]
    check_installed(f"format {format_name!r}", file_format.needs)
    config = read_config(run)
    saved = read_checkpoint(path_of(run, checkpoint))
    agent = check_acts_from_segments(restore_agent(saved))
    check_writable(out, "choose another folder by --out")
    program, interface = acting_program(agent)
    content = file_format.write(program, _names(interface.inputs), _names(interface.outputs))
    described = description(agent, interface, saved.header, config)
    files = {f"{STEM}{file_format.suffix}": content, f"{STEM}.json": to_json(described)}
    if format_name == "onnx":
        files[EXAMPLE] = Path(__file__).with_name(EXAMPLE).read_bytes()
    return write_files(out, files)


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder, which is made if it is missing, and return their paths."""
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def description(agent: Agent, interface: Interface, header: AgentHeader, config: RunConfig) -> Values:
    """Return the description of an exported agent, as JSON values."""
    returns = interface.return_to_go
    return {
        "format": FORMAT,
        "agent": header.agent,
        "update": header.update,
        "rmt_rl": version("rmt-rl"),
        "environment": _environment(config),
        "inputs": [shape_of(port) for port in interface.inputs],
        "outputs": [shape_of(port) for port in interface.outputs],
        "observation": [_part(port, "input") for port in interface.observation],
        "action": [_part(port, "output") for port in interface.action],
        "state": [
            {"input": port.name, "output": following.name}
            for port, following in zip(interface.state, interface.next_state, strict=True)
        ],
        "target_return": None if returns is None else agent.spec.target_return,
        "segment_length": agent.config.segment_length,
        "preprocessing": {
            "place": "inside the graph: inputs are observations as the environment gives them",
            "standardised": agent.spec.standardised,
            "return_scale": None if returns is None else agent.spec.return_scale,
            "encoder": agent.config.encoder,
        },
        "observation_space": json.loads(space_to_json(agent.spec.observation_space)),
        "action_space": json.loads(space_to_json(agent.spec.action_space)),
    }


def _environment(config: RunConfig) -> Values:
    """Return how Gymnasium makes a run's environment: its id, with the module that registers it, and its options.

    Other environments than those found by name have a spec in place of options, if the run's data gave one. If the
    episodes are lives, the number of episodes of a life is the `lifetime`.
    """
    name = config.env
    options = config.env_options.model_dump(mode="json", exclude_unset=True)
    of_episodes, lifetime = divided(registry.load_task(name), config.env_options)
    lives = {} if lifetime is None else {LIFETIME: lifetime}
    if name not in registry.names("envs"):
        return {"id": name, "options": {}, "spec": options.get("spec"), **lives}
    identity = registry.constant("envs", name, "ID")
    arguments = {option: value for option, value in options.items() if option in of_episodes}
    return {"id": f"rmt_rl:{identity}", "options": arguments, "spec": None, **lives}


def shape_of(port: Port) -> Values:
    """Return the name, shape and dtype of a port, as JSON values."""
    return {"name": port.name, "shape": ["batch", *port.shape], "dtype": port.numpy_dtype}


def _part(port: Port, side: str) -> Values:
    """Return the part of an observation or action that a port is: the keys that lead to it, and its own dtype."""
    assert port.place is not None
    return {side: port.name, "part": list(port.place), "dtype": port.space_dtype}


def _names(ports: Iterable[Port]) -> list[str]:
    return [port.name for port in ports]


def to_json(values: Values) -> bytes:
    """Return a description as the content of its file."""
    return (json.dumps(values, indent=1) + "\n").encode()
