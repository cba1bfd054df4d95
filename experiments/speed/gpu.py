"""Speed of training and acting on a GPU, beside the CPU of the same machine.

    python -m experiments.speed.gpu              # print a table
    python -m experiments.speed.gpu --out FILE   # and write it as Markdown

Times are wall-clock times; the CPU uses all of its threads.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rmt_rl.acting.rollout import Step, make_vec_env, rollout
from rmt_rl.agent import AgentSpec
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training.segments import SegmentLearner
from rmt_rl.wrappers import VectorReturnToGo

CORRIDORS = (1, 88)
SMALL = {"layers": 2, "width": 64, "segment_length": 30}
LARGE = {"layers": 8, "width": 512, "segment_length": 100}
NO_DEVICE = "There is no CUDA device: the checks of GPUs were not run."


class Form(NamedTuple):
    """A way to run an agent: a column of the table."""

    name: str
    training: dict[str, Any]

    @property
    def device(self) -> str:
        """The device's type."""
        return str(self.training["accelerator"])


FORMS = (
    Form("CPU", {"accelerator": "cpu"}),
    Form("CUDA fp32", {"accelerator": "cuda", "matmul_precision": "highest"}),
    Form("CUDA TF32", {"accelerator": "cuda"}),
    Form("CUDA bf16", {"accelerator": "cuda", "precision": "bf16-mixed"}),
    Form("CUDA bf16, compiled", {"accelerator": "cuda", "precision": "bf16-mixed", "compile": True}),
)


class Work(NamedTuple):
    """An agent at a size, and its batch: a row of the table."""

    agent: str
    options: dict[str, int]
    batch_size: int
    updates: int = 20
    steps: int = 200

    @property
    def name(self) -> str:
        """Agent and size."""
        return f"{self.agent}, {self.options['layers']} layers of {self.options['width']}, batch {self.batch_size}"


WORKS = tuple(Work(agent, SMALL, 64) for agent in ("rate", "elmur", "gtrxl", "titans_mal", "dlstm", "dt"))
WORKS += (Work("rate", LARGE, 256, updates=5),)


def config_of(work: Work, form: Form) -> OfflineRun:
    """Return the config of a run on T-Maze."""
    config = make_config(
        {
            "env": "tmaze",
            "agent": work.agent,
            "env_options": {"corridor_length": CORRIDORS},
            "agent_options": work.options,
            "data": {"segments": 3, "batch_size": work.batch_size, "collect_episodes": 4 * work.batch_size},
            "training": {"updates": 10**6, "ageing": 0, **form.training},
            "evaluation": {"eval_episodes": 0},
        }
    )
    assert isinstance(config, OfflineRun)
    return config


def updates_per_second(work: Work, form: Form) -> float:
    """Return the speed of training, after warm-up."""
    learner = SegmentLearner(config_of(work, form))
    learner.start()

    def train(updates: int) -> None:
        for _ in range(updates):
            learner.advance()

    return _per_second(train, work.updates, form.device)


def steps_per_second(work: Work, form: Form, environments: int) -> float:
    """Return the environment steps a second of an untrained agent, after warm-up."""
    config = config_of(work, form)
    env = make_vec_env(load_task("tmaze"), config.env_options, environments)
    spec = AgentSpec(env.single_observation_space, env.single_action_space, 1.0, 1.0)
    agent: Any = agent_class(work.agent)(config.agent_options, spec).to(form.device)
    steps: Iterator[Step] = rollout(agent, VectorReturnToGo(env, 1.0), 10**9, seed=0)

    def play(count: int) -> None:
        for _ in islice(steps, count):
            pass

    return environments * _per_second(play, work.steps, form.device)


def _per_second(do: Callable[[int], None], count: int, device: str) -> float:
    """Return the speed of `do(count)`; a first call of it makes tables, and compiles."""
    do(count)
    _wait(device)
    began = time.perf_counter()
    do(count)
    _wait(device)
    return count / (time.perf_counter() - began)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def table(works: tuple[Work, ...], forms: tuple[Form, ...]) -> list[str]:
    """Return the lines of a Markdown table: speeds of each work in each form."""
    acting = [form for form in forms if form.name in ("CPU", "CUDA fp32")]  # agents act in fp32, and not compiled
    lines = [_row("", [form.name for form in forms]), _row("---", ["---:"] * len(forms))]
    for work in works:
        speeds = [updates_per_second(work, form) for form in forms]
        lines.append(_row(f"{work.name}: updates/s", [f"{speed:.1f}" for speed in speeds]))
        for environments in (1, 100):
            speeds = [steps_per_second(work, form, environments) for form in acting]
            cells = [f"{speed:.0f}" for speed in speeds] + [""] * (len(forms) - len(acting))
            lines.append(_row(f"{work.name}: steps/s, {environments} env.", cells))
    return lines


def _row(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description="speed on a GPU beside the CPU's")
    parser.add_argument("--out", type=Path, help="file to write the table to, as Markdown")
    parser.add_argument("--only-ask", action="store_true", help="only tell if there is a CUDA device")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit(NO_DEVICE)
    device = f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, {os.cpu_count()} cores"
    print(device)
    if options.only_ask:
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        lines = table(WORKS, FORMS)
    text = "\n".join([device, "", *lines, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
