"""Our memory tokens beside the original code of RMT: `python -m experiments.speed.rmt --official CHECKOUT`.

CHECKOUT is the folder of a clone of https://github.com/booydar/recurrent-memory-transformer, whose code needs
transformers. Both sides run in turns in this process, on one thread. Writes `rmt.json` and `rmt.md`. `--quick` runs
every measure for a moment.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.speed.machine import commit, machine
from experiments.speed.official_rmt import OfficialRMT
from experiments.speed.peer_ours import our_memory_tokens
from experiments.speed.peer_sizes import BATCH, TOKEN_SEGMENT, Contestant, tokens
from experiments.speed.report import described, spread
from experiments.speed.turns import Measure, in_turns
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.errors import UsageError
from rmt_rl.files import write_atomically

SEGMENTS = (1, 4)
COLUMNS = ["measure", "ours, ms", "original code, ms", "original code / ours"]


def measured(checkout: Path, repeats: int, generated: int) -> dict[str, Any]:
    """Return parameters, and CPU seconds of training steps, of forward passes and of a token made after others."""
    torch.manual_seed(0)
    sides: dict[str, Contestant] = {"ours": our_memory_tokens(), "official": OfficialRMT(checkout)}
    measures: dict[str, dict[str, Measure]] = {}
    for segments in SEGMENTS:
        data = tokens(segments * TOKEN_SEGMENT)
        name = f"training step, {segments} x {TOKEN_SEGMENT} tokens"
        measures[name] = {side: partial(_seconds, _training_step(model, data)) for side, model in sides.items()}
    name = f"forward, {segments} x {TOKEN_SEGMENT} tokens"
    measures[name] = {side: partial(_seconds, partial(_look, model, data)) for side, model in sides.items()}
    ways = {"ours": sides["ours"].ways()["step"], "official": sides["official"].ways()["generate"]}
    measures["a token"] = {side: partial(_seconds_a_token, way, generated) for side, way in ways.items()}
    return {
        "parameters": {side: sum(leaf.numel() for leaf in model.parameters()) for side, model in sides.items()},
        "seconds": {name: _measured(name, each, repeats) for name, each in measures.items()},
    }


def _measured(name: str, measures: dict[str, Measure], repeats: int) -> dict[str, list[float]]:
    """Measure once to warm up, then in turns."""
    in_turns(measures, 1)
    found = in_turns(measures, repeats)
    print(f"{name}: {json.dumps(found)}", flush=True)
    return found


def _training_step(model: Contestant, data: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model.backward(data, "full")
        optimizer.step()

    return step


@torch.no_grad()
def _look(model: Contestant, data: Tensor) -> None:
    model.look(data)


def _seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


@torch.no_grad()
def _seconds_a_token(generate: Callable[[int], None], count: int) -> float:
    return _seconds(partial(generate, count)) / count


def rmt_report(where: Mapping[str, str], results: Mapping[str, Any]) -> str:
    """Return Markdown: machine, parameters, times."""
    counts = results["parameters"]
    parts = [
        "<!-- Written by `python -m experiments.speed.rmt`. -->\n",
        f"Measured on {described(where)}. Median (lowest to highest of n repeats), float32, CPU time of one thread, "
        f"batches of {BATCH}. Above 1, ours is the faster.\n",
        f"Parameters: ours {counts['ours']:,}, original code {counts['official']:,}.\n",
        markdown_table(COLUMNS, _rows(results["seconds"])),
    ]
    return "\n".join(parts) + "\n"


def _rows(seconds: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[Sequence[str]]:
    for measure, found in seconds.items():
        ours, official = found["ours"], found["official"]
        ratios = [their / our for our, their in zip(ours, official, strict=True)]
        yield [measure, _milliseconds(ours), _milliseconds(official), f"**{spread(ratios, 2)}**"]


def _milliseconds(seconds: Sequence[float]) -> str:
    return spread([1e3 * each for each in seconds], 2)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="CHECKOUT", required=True, help="clone of RMT's original code")
    parser.add_argument("--quick", action="store_true", help="see that every measure runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of rmt.json and rmt.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    repeats, generated = (1, 3) if options.quick else (5, TOKEN_SEGMENT)
    where = machine()
    try:
        results = measured(options.official, repeats, generated)
    except UsageError as error:
        parser.error(str(error))
    where |= {"transformers": version("transformers"), "original code": commit(options.official)}
    text = rmt_report(where, results)
    print("\n" + text)
    everything = {"machine": where, "quick": options.quick, "results": results}
    write_atomically(options.out / "rmt.json", (json.dumps(everything, indent=1) + "\n").encode())
    write_atomically(options.out / "rmt.md", text.encode())


if __name__ == "__main__":
    main()
