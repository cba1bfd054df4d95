"""What no machine holds is told in one line before it is allocated, beside the memory there is; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rmt_rl.agent import AgentSpec
from rmt_rl.cli import main
from rmt_rl.errors import UsageError, explained, is_out_of_memory, out_of_memory
from rmt_rl.machine import check_fits, in_words, memory_bytes
from rmt_rl.nn.model_size import count_weights
from rmt_rl.registry import agent_class, names
from rmt_rl.training.needs import activation_bytes, check_activations, saved_bytes
from rmt_rl.training.segments import SegmentLearner
from tests.test_bad_input import complaint
from tests.test_cli import TINY
from tests.tiny import tiny, work_folder

Capture = pytest.CaptureFixture[str]
SPEC = AgentSpec(spaces.Box(0, 255, (40, 40, 3), np.uint8), spaces.Discrete(4))
OFFLINE = ["train", "tmaze", "rate", *TINY, "--updates", "1", "--eval-episodes", "0", "--out", "new"]
ONLINE = ["train", "CartPole-v1", "ppo", "--total-timesteps", "32", "--out", "new"]


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with a run."""
    with work_folder(tmp_path_factory) as folder:
        assert main([*OFFLINE[:-2], "--out", "run"]) == 0
        yield folder


SIZES = [
    ([*OFFLINE, "--batch-size", "1000000000000"], "batch_size=1000000000000"),
    ([*OFFLINE, "--batch-size", "9223372036854775807"], "batch_size=9223372036854775807"),
    ([*OFFLINE, "--agent.width", "1000000"], "agent.width=1000000"),
    ([*OFFLINE, "--agent.width", "1000000000000"], "agent.width=1000000000000"),
    ([*OFFLINE, "--agent.layers", "1000000000"], "agent.layers=1000000000"),
    ([*OFFLINE, "--agent.memory-tokens", "1000000000"], "agent.memory_tokens=1000000000"),
    ([*OFFLINE, "--agent.cached", "1000000000000"], "agent.cached=1000000000000"),
    ([*OFFLINE, "--agent.segment-length", "1000000000000"], "segment_length=1000000000000"),
    ([*OFFLINE, "--segments", "9223372036854775807"], "segments=9223372036854775807"),
    ([*OFFLINE, "--feed", "windows", "--burn-in", "4611686018427387904"], "burn_in=4611686018427387904"),
    ([*OFFLINE, "--ageing", "1000000000000000"], "ageing=1000000000000000"),
    ([*OFFLINE, "--eval-episodes", "1000000000000000"], "eval_episodes=1000000000000000"),
    ([*OFFLINE, "--collect-episodes", "1000000000000000"], "episodes=1000000000000000"),
    ([*ONLINE, "--n-envs", "1000000000"], "n_envs=1000000000"),
    ([*ONLINE, "--agent.n-steps", "1000000000000"], "n_steps=1000000000000"),
    ([*ONLINE, "--agent.net-arch", "1000000", "1000000"], "tensors of weights"),
    (["collect", "tmaze", "--episodes", "1000000000000000"], "episodes=1000000000000000"),
    (["evaluate", "run", "--episodes", "1000000000000000"], "episodes=1000000000000000"),
    (["inspect", "run", "--memories", "1000000000000"], "memories=1000000000000"),
]


@pytest.mark.parametrize(("arguments", "named"), SIZES, ids=[" ".join(each[-2:]) for each, _ in SIZES])
def test_what_does_not_fit_is_told_first(arguments: list[str], named: str, folder: Path, capsys: Capture) -> None:
    before = sorted(folder.rglob("*"))
    line = complaint(arguments, capsys)
    assert named in line
    assert " would take " in line
    assert " has " in line
    assert "choose " in line or "collect fewer" in line
    assert sorted(folder.rglob("*")) == before


WHOLE_NUMBERS = [
    [*OFFLINE, "--updates", "99999999999999999999"],
    [*OFFLINE, "--cache-mb", "9" * 400],
    [*OFFLINE, "--agent.width", "9223372036854775808"],
    [*ONLINE, "--total-timesteps", "9223372036854775808"],
    ["collect", "tmaze", "--episodes", "1" + "0" * 30],
    ["evaluate", "run", "--num-envs", "9223372036854775808"],
    ["flops", "rate", "--segments", "1" + "0" * 30],
]


@pytest.mark.parametrize("arguments", WHOLE_NUMBERS, ids=[" ".join(each[-2:])[:40] for each in WHOLE_NUMBERS])
def test_whole_numbers_beyond_64_bits(arguments: list[str], capsys: Capture) -> None:
    line = complaint(arguments, capsys)
    assert "a whole number must be below 2^63" in line
    assert arguments[-2].rpartition(".")[2].strip("-").replace("-", "_") in line


def test_large_limits_that_cost_nothing_are_honest() -> None:
    """A cache is as large as the data at most, as are the batches that are sorted together."""
    large = ["--cache-mb", "1000000000000", "--bucket-batches", "1000000000000", "--save-every", "1000000000000"]
    assert main([*OFFLINE[:-2], *large, "--out", "honest"]) == 0
    assert main(["evaluate", "run", "--episodes", "1", "--num-envs", "1000000000"]) == 0


def test_activations_of_a_batch_are_measured() -> None:
    """By one and two sequences; the whole batch saves as much."""
    config = tiny("rate")
    learner = SegmentLearner(config)
    batch = learner.feed.batch(0)
    forward = learner.runner.first_segment
    assert 0.9 < activation_bytes(batch, forward) / saved_bytes(batch, forward) < 1.01
    check_activations(config, batch, forward, None)
    with pytest.raises(UsageError, match=r"batch_size=8, segments=\d: the activations of an update would take"):
        check_activations(config, batch, forward, 1000)


@pytest.mark.parametrize("name", names("agents"))
def test_weights_are_counted_without_making_them(name: str) -> None:
    cls = agent_class(name)
    state = torch.get_rng_state()
    count = count_weights(lambda config: cls(config, SPEC), cls.Config())
    assert torch.equal(torch.get_rng_state(), state)
    agent = cls(cls.Config(), SPEC)
    made = [*agent.parameters(), *agent.buffers()]
    weights = sum(each.numel() * each.element_size() for each in made)
    assert 0.99 * weights <= count.bytes <= 1.01 * weights + 10_000


def test_weights_of_many_layers_are_extrapolated() -> None:
    cls = agent_class("rate")
    make: Any = cls.Config
    counts = {}
    for layers in (10, 11, 10_010):
        counts[layers] = count_weights(lambda config: cls(config, SPEC), make(layers=layers)).bytes
    assert counts[10_010] == counts[10] + 10_000 * (counts[11] - counts[10])


def test_sizes_in_words() -> None:
    words = {0: "0 bytes", 1023: "1023 bytes", 1536: "1.5 KiB", 8 << 40: "8.0 TiB", 700 << 60: "700 EiB"}
    assert {size: in_words(size) for size in words} == words
    assert in_words(10**400) == "more than 1,000,000 EiB"


def test_what_fits_is_not_refused() -> None:
    memory = memory_bytes()
    assert memory is not None
    check_fits("all of it", memory, "no")
    with pytest.raises(UsageError, match=r"a byte more would take .* and this machine has .*; no"):
        check_fits("a byte more", memory + 1, "no")


def numpy_memory() -> None:
    np.zeros(1 << 55)


def torch_memory() -> None:
    torch.zeros(1 << 55)


def python_memory() -> None:
    bytearray(1 << 60)


def torch_overflow() -> None:
    torch.empty(1 << 62, 1 << 62)


@pytest.mark.parametrize("allocate", [numpy_memory, torch_memory, python_memory, torch_overflow])
def test_errors_about_memory_are_one_line(allocate: Callable[[], None], capsys: Capture) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        allocate()
    assert is_out_of_memory(raised.value)
    arguments = ["train", "--updates", "7", "--batch-size=1000", "--agent.width", "90", "--out", "5", "--seed", "4"]
    line = out_of_memory(raised.value, arguments)
    assert "(--batch-size 1000, --agent.width 90, --updates 7)" in line
    assert "\n" not in line
    with pytest.raises(SystemExit, match="2"), explained():
        allocate()
    assert capsys.readouterr().err.startswith("error: the memory of this machine isn't enough")
    assert not is_out_of_memory(RuntimeError("shapes don't fit"))
