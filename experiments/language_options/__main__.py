"""Trains the token model on English with one option changed at a time: python -m experiments.language_options.

The text is the filler of `experiments.long_context`. Writes `results.json` after every run, then `table.md`; runs that
are in `results.json` aren't done again.

Dimensions: B sequences of a batch, N tokens of a sequence.
"""

from __future__ import annotations

import json
import math
import tempfile
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
from rmt_rl.runs.options import Schedule
from rmt_rl.statistics import mean, mean_interval
from rmt_rl.training.loop import Loop
from rmt_rl.training.tokens import TokenBatch, TokenFeed, TokenLearner, TokenTraining

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
SEGMENT, SEGMENTS, BATCH_SIZE = 64, 4, 8
TEST_SEQUENCES, TEST_SEGMENTS = 32, 16
MODEL = {"dim": 96, "depth": 3, "num_memory_tokens": 8, "seq_len": SEGMENT, "heads": 4, "dim_head": 24}


def main(seeds: int = 3, jobs: int = 2, updates: int = 200, folder: Path = FOLDER) -> None:
    """Train, test, tabulate.

    Args:
        seeds: the number of seeds for each variant, from 0 on.
        jobs: processes at once, one thread each.
        updates: updates of each training.
        folder: where `results.json` and `table.md` go.
    """
    path = folder / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
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


class Stretches(TokenFeed):
    """Stretches of the text from random places, each word labelled with the next one."""

    batch_size = BATCH_SIZE

    def __init__(self, text: Text, seed: int, updates: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self._batches = _drawn(text, rng, updates * BATCH_SIZE, SEGMENTS).split(BATCH_SIZE)

    def batch(self, update: int) -> TokenBatch:
        tokens_BN = self._batches[update]
        words, next_words = tokens_BN[:, :-1], tokens_BN[:, 1:]
        fresh = torch.ones(BATCH_SIZE, dtype=torch.bool)
        return TokenBatch(words.split(SEGMENT, 1), next_words.split(SEGMENT, 1), fresh)


def run(cell: tuple[str, int, int]) -> dict[str, Any]:
    """Train and test a variant with a seed for so many updates; return its row of `results.json`."""
    name, seed, updates = cell
    torch.set_num_threads(1)
    words = vocabulary(())
    feed = Stretches(Text("train", words, frozenset()), seed, updates)
    learner = TokenLearner(MODEL | VARIANTS[name], words, feed, _training(seed, updates))
    learner.start()
    with tempfile.TemporaryDirectory() as folder:
        once = Schedule(log_every=updates, save_every=updates)
        Loop(learner, Path(folder), once, origin={}).run()
    return {
        "variant": name,
        "seed": seed,
        "updates": updates,
        "parameters": sum(parameter.numel() for parameter in learner.model.parameters()),
        "cpu_seconds": round(learner.cpu_seconds, 1),
        "nats": _test(learner.model, Text("test", words, frozenset())),
    }


def _training(seed: int, updates: int) -> TokenTraining:
    return TokenTraining(
        seed=seed,
        tokens=updates * BATCH_SIZE * SEGMENTS * SEGMENT,
        updates=updates,
        learning_rate=1e-3,
        warmup=40,
        decay_from=0.1,
        final_rate=0.02,
    )


@torch.inference_mode()
def _test(model: RecurrentMemoryTransformer, text: Text) -> float:
    """Return nats a word on test sequences, which are the same for all variants.

    The memory is carried through four times as many segments as in training.
    """
    tokens_BN = _drawn(text, np.random.default_rng(1_000_000), TEST_SEQUENCES, TEST_SEGMENTS)
    sequences = RecurrentMemoryTransformerWrapper(model.eval())
    return float(sequences(tokens_BN, return_loss=True))


def _drawn(text: Text, rng: np.random.Generator, count: int, segments: int) -> Tensor:
    """Return `count` sequences (B, N) of the text, of so many segments and one token."""
    return torch.from_numpy(text.windows(rng, count, segments * SEGMENT + 1))


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
