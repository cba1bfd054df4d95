"""Remakes encoders.md, what encoders learn of images in equal CPU time: python -m experiments.pixels.encoders.

Each net is an encoder, a GELU and a linear map to the expert's action, and sees one image. So the table compares
encoders of images without any memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from rmt_rl.acting.collect import collect
from rmt_rl.analysis.markdown import markdown_table
from rmt_rl.data.store import EpisodeStore
from rmt_rl.nn.space_encoder import observation_encoder

FOLDER = Path(__file__).parent
ENV, OPTIONS = "vizdoom_two_colors", {"max_steps": 150}
WIDTH, BATCH, LEARNING_RATE = 64, 128, 1e-3
TEST_SHARE = 4  # one of so many episodes is held out


class Steps:
    """Images and actions of several episodes."""

    def __init__(self, store: EpisodeStore, episodes: Sequence[int]) -> None:
        read: list[Any] = [store.episode(index) for index in episodes]
        images = np.concatenate([each.observations[:-1] for each in read])
        actions = np.concatenate([each.actions for each in read])
        self.images, self.actions = torch.from_numpy(images), torch.from_numpy(actions).long()

    def accuracy(self, net: nn.Module) -> float:
        """Return the share of actions that are the net's likeliest."""
        with torch.no_grad():
            chosen = [net(part).argmax(1) for part in self.images.split(256)]
        return float((torch.cat(chosen) == self.actions).float().mean())


def main(
    encoders: tuple[str, ...] = ("small", "nature", "impala"),
    seconds: tuple[int, ...] = (5, 10, 20),
    episodes: int = 80,
    seed: int = 0,
) -> None:
    """Collect, train each encoder, tabulate.

    Args:
        encoders: names of encoders.
        seconds: CPU seconds of training after which accuracy is measured.
        episodes: of the expert; every fourth is held out.
        seed: of weights and batches.
    """
    torch.set_num_threads(1)
    store = EpisodeStore(collect(ENV, OPTIONS, episodes, 0))
    cut = episodes - episodes // TEST_SHARE
    seen, held_out = Steps(store, range(cut)), Steps(store, range(cut, episodes))
    rows = []
    for name in encoders:
        torch.manual_seed(seed)
        encoder = observation_encoder(store.observation_space, WIDTH, name)
        space: Any = store.action_space
        net = nn.Sequential(encoder, nn.GELU(), nn.Linear(WIDTH, int(space.n)))
        generator = torch.Generator().manual_seed(seed)
        measured = [(updates, held_out.accuracy(net)) for updates in _trained(net, seen, seconds, generator)]
        parameters = sum(each.numel() for each in encoder.parameters())
        updates, _ = measured[-1]
        rows.append([name, f"{parameters:,}", str(updates), *(f"{accuracy:.2f}" for _, accuracy in measured)])
        print(*rows[-1], flush=True)
    head = ["encoder", "parameters", f"updates in {seconds[-1]} s", *(f"{each} s" for each in seconds)]
    (FOLDER / "encoders.md").write_text(markdown_table(head, rows) + "\n", encoding="utf-8")


def _trained(net: nn.Module, steps: Steps, seconds: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    """Train a net; yield the number of updates whenever it has had so many CPU seconds."""
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
    updates, spent = 0, 0.0
    for limit in seconds:
        while spent < limit:
            began = time.process_time()
            chosen = torch.randint(len(steps.images), (BATCH,), generator=generator)
            _update(net, optimizer, steps.images[chosen], steps.actions[chosen])
            spent += time.process_time() - began
            updates += 1
        yield updates


def _update(net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, actions: Tensor) -> None:
    optimizer.zero_grad()
    loss = F.cross_entropy(net(images), actions)
    torch.autograd.backward(loss)
    optimizer.step()


if __name__ == "__main__":
    tyro.cli(main)
