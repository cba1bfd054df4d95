"""Speed of acting by exported graphs, beside `predict`: `python -m experiments.speed.exported`.

Writes `exported.json` (everything measured) and `exported.md` (the table). Each agent acts in three ways, in turns and
in one process, on one thread: by its own `predict`, by its program of `torch.export`, and by its ONNX model in ONNX
Runtime.
All three go through the same checks of observations. `--quick` measures two agents briefly.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces

from experiments.speed.machine import machine
from experiments.speed.turns import in_turns
from rmt_rl.agent import Agent, AgentSpec, BaseAgent
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.config import validated
from rmt_rl.export.formats import to_onnx, to_torch
from rmt_rl.export.graph import acting_program
from rmt_rl.export.runtime import ExportedAgent, onnx_run, torch_run
from rmt_rl.files import write_atomically
from rmt_rl.registry import agent_class, names

SPEC = AgentSpec(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(4), target_return=1.0)
LANES = (1, 100)
EPISODE = 90  # steps
STEPS = {1: 200, 100: 30}  # of a measure, by the number of environments
REPEATS = 3
QUICK_AGENTS = ("bc", "dgru")
QUICK_STEPS = 8
WAYS = ("predict", "torch", "onnx")
HEAD = (
    "agent",
    *(f"{lanes}: {way}" for lanes in LANES for way in (*WAYS, "onnx / predict")),
)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two agents, few steps")
    parser.add_argument("--only", nargs="+", metavar="AGENT", choices=agents(), help="these agents alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of exported.json and .md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    where = machine()
    found = {}
    chosen = options.only or (QUICK_AGENTS if options.quick else agents())
    for name in chosen:
        found[name] = _speeds(name, options.quick)
        print(name, {key: round(median(speeds)) for key, speeds in found[name].items()}, flush=True)
    text = exported_report(where, found)
    print("\n" + text)
    everything = {"machine": where, "quick": options.quick, "speeds": found}
    write_atomically(options.out / "exported.json", (json.dumps(everything, indent=1) + "\n").encode())
    write_atomically(options.out / "exported.md", text.encode())


def agents() -> list[str]:
    """Return the names of all agents that act from segments."""
    return [name for name in names("agents") if issubclass(agent_class(name), Agent)]


def _speeds(name: str, quick: bool) -> dict[str, list[float]]:
    """Return actions a CPU second of an agent with default options, for each number of environments and each way."""
    cls = agent_class(name)
    torch.manual_seed(0)
    agent = cast("Agent", cls(validated(cls.Config, {}), SPEC).eval())
    ways = dict(zip(WAYS, (agent, *_exported(agent)), strict=True))
    measures = {}
    for lanes in LANES:
        steps = QUICK_STEPS if quick else STEPS[lanes]
        for way, each in ways.items():
            acting = Acting(each, lanes)
            acting.speed(EPISODE if not quick else 1)  # so that environments stand at unlike places
            measures[f"{lanes}: {way}"] = partial(acting.speed, steps)
    return in_turns(measures, 1 if quick else REPEATS)


def _exported(agent: Agent) -> Iterator[BaseAgent]:
    """Yield an agent as its exports act, by PyTorch and by ONNX Runtime."""
    program, interface = acting_program(agent)
    inputs, outputs = ([port.name for port in ports] for ports in (interface.inputs, interface.outputs))
    saved = io.BytesIO(to_torch(program, inputs, outputs))
    yield ExportedAgent(agent, interface, torch_run(torch.export.load(saved).module()))
    yield ExportedAgent(agent, interface, onnx_run(to_onnx(program, inputs, outputs), inputs))


class Acting:
    """An agent that acts in environments whose episodes end after 90 steps, each at another time."""

    def __init__(self, agent: BaseAgent, lanes: int) -> None:
        self.agent, self.lanes = agent, lanes
        self.observation = np.zeros((lanes, 4), np.float32)
        self.places = np.arange(lanes) * EPISODE // lanes
        self.state: Any = None

    def speed(self, steps: int) -> float:
        """Make so many steps of all environments; return actions a CPU second."""
        began = time.process_time()
        for _ in range(steps):
            start = self.places == 0
            _, self.state = self.agent.predict(self.observation, self.state, start)
            self.places = (self.places + 1) % EPISODE
        return self.lanes * steps / (time.process_time() - began)


def exported_report(where: dict[str, str], found: dict[str, dict[str, list[float]]]) -> str:
    """Return the table as Markdown; a ratio is the median of those of all turns."""
    rows = [_row(name, speeds) for name, speeds in found.items()]
    machine_line = ", ".join(f"{key} {value}" for key, value in where.items())
    return (
        "<!-- Written by `python -m experiments.speed.exported`. -->\n\n"
        f"Measured on {machine_line}.\n\n{markdown_table(HEAD, rows)}\n"
    )


def _row(name: str, speeds: dict[str, list[float]]) -> Sequence[str]:
    cells = [name]
    for lanes in LANES:
        of_ways = [speeds[f"{lanes}: {way}"] for way in WAYS]
        cells += [f"{median(each):,.0f}" for each in of_ways]
        ratios = [onnx / own for own, _, onnx in zip(*of_ways, strict=True)]
        cells.append(f"{median(ratios):.1f}")
    return cells


if __name__ == "__main__":
    main()
