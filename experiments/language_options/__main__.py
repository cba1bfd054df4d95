"""Trains the token model on English with one option changed at a time: python -m experiments.language_options.

The text is the filler of `experiments.long_context`. Writes `results.json` after every run, then `table.md`; runs that
are in `results.json` aren't done again.

Dimensions: B sequences of a batch (lanes), N tokens of a sequence.
"""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from experiments.long_context.texts import Text, vocabulary
from rmt_rl.analysis.markdown import half_width, markdown_table
from rmt_rl.files import write_atomically
from rmt_rl.language.model import RecurrentMemoryTransformer
from rmt_rl.language.sequences import RecurrentMemoryTransformerWrapper
from rmt_rl.runs.options import LearningRateConfig
from rmt_rl.statistics import mean, mean_interval
from rmt_rl.training.optimization import learning_rate

FOLDER = Path(__file__).parent
VARIANTS: dict[str, dict[str, Any]] = {  # the options in which each variant differs from the first
    "memory tokens, rotary positions": {},
    "learned positions": {"rotary_pos_emb": False, "abs_pos_emb": True},
    "no positions": {"rotary_pos_emb": False},
    "GEGLU": {"ff_glu": True},
    "token shift": {"token_shift": True},
    "value residual": {"value_residual": True},
    "hyper-connections, 4 streams": {"num_residual_streams": 4},
    "RATE's valve": {"valve": "ca-2"},
    "XL cache of a segment": {"use_xl_memories": True},
    "the same, recurrence enhanced": {"use_xl_memories": True, "enhanced_xl_recurrence": True},
    "Titans MAC": {"memory": "titans_mac"},
    "Titans MAG": {"memory": "titans_mag"},
    "Titans MAL": {"memory": "titans_mal"},
    "ARMT": {"memory": "armt"},
    "no memory": {"memory": "none"},
}
SEGMENT, SEGMENTS, LANES = 64, 4, 8
TEST_SEQUENCES, TEST_SEGMENTS = 32, 16
SCHEDULE = LearningRateConfig(learning_rate=1e-3, warmup=40, decay_from=0.1, final_rate=0.02)


def main(seeds: int = 3, jobs: int = 2, updates: int = 200, folder: Path = FOLDER) -> None:
    """Train, test, tabulate.

    Args:
        seeds: the number of seeds for each variant, from 0 on.
        jobs: processes at once, one thread each.
        updates: updates of each training.
        folder: where `results.json` and `table.md` go.
    """
    path = folder / "results.json"
    results = json.loads(path.read_text()) if path.exists() else []
    done = {(one["variant"], one["seed"], one["updates"]) for one in results}
    cells = [(name, seed, updates) for seed in range(seeds) for name in VARIANTS]
    with ProcessPoolExecutor(jobs) as pool:
        for result in pool.map(run, [cell for cell in cells if cell not in done]):
            print(result, flush=True)
            results.append(result)
            write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
    text = table([one for one in results if one["updates"] == updates])
    write_atomically(folder / "table.md", (text + "\n").encode())
    print(text)


def run(cell: tuple[str, int, int]) -> dict[str, Any]:
    """Train and test a variant with a seed for so many updates; return its row of `results.json`."""
    name, seed, updates = cell
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    words = vocabulary(())
    model = RecurrentMemoryTransformerWrapper(
        RecurrentMemoryTransformer(
            96,
            num_tokens=len(words),
            depth=3,
            num_memory_tokens=8,
            seq_len=SEGMENT,
            heads=4,
            dim_head=24,
            **VARIANTS[name],
        )
    )
    began = time.process_time()
    _train(model, Text("train", words, frozenset()), seed, SCHEDULE.model_copy(update={"updates": updates}))
    seconds = time.process_time() - began
    return {
        "variant": name,
        "seed": seed,
        "updates": updates,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_seconds": round(seconds, 1),
        "nats": _test(model, Text("test", words, frozenset())),
    }


def _train(model: RecurrentMemoryTransformerWrapper, text: Text, seed: int, schedule: LearningRateConfig) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True)
    rng = np.random.default_rng([seed, 1])
    for update in range(schedule.updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, update)
        optimizer.zero_grad()
        loss = model(_drawn(text, rng, LANES, SEGMENTS), return_loss=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.inference_mode()
def _test(model: RecurrentMemoryTransformerWrapper, text: Text) -> float:
    """Return nats a word on test sequences, which are the same for all variants.

    The memory is carried through four times as many segments as in training.
    """
    tokens_BN = _drawn(text, np.random.default_rng(1_000_000), TEST_SEQUENCES, TEST_SEGMENTS)
    model.eval()
    return float(model(tokens_BN, return_loss=True))


def _drawn(text: Text, rng: np.random.Generator, lanes: int, segments: int) -> Tensor:
    """Return sequences (B, N) of the text, of so many segments and one token."""
    return torch.from_numpy(text.windows(rng, lanes, segments * SEGMENT + 1))


def table(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table of runs with the same number of updates.

    A row has a variant's mean, and the mean of its differences to the first variant with the same seeds; intervals are
    Student's, 95%.
    """
    first, *_ = VARIANTS
    by_variant = {name: {one["seed"]: one for one in results if one["variant"] == name} for name in VARIANTS}
    head = ["changed", "nats a word", "perplexity", "difference, nats", "parameters", "CPU s"]
    lines = []
    for name, runs in by_variant.items():
        seeds = sorted(runs.keys() & by_variant[first].keys())
        if not seeds:
            continue
        nats = [runs[seed]["nats"] for seed in seeds]
        differences = [runs[seed]["nats"] - by_variant[first][seed]["nats"] for seed in seeds]
        lines.append(
            [
                name,
                f"{mean(nats):.3f}",
                f"{math.exp(mean(nats)):.1f}",
                "" if name == first else f"{mean(differences):+.3f}{half_width(mean_interval(differences), 3)}",
                f"{runs[seeds[0]]['parameters']:,}",
                f"{mean([runs[seed]['cpu_seconds'] for seed in seeds]):.0f}",
            ]
        )
    return markdown_table(head, lines)


if __name__ == "__main__":
    tyro.cli(main)
