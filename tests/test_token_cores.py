"""Memory mechanisms declare themselves to the token model: one file adds one, and what it declares is true."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rmt_rl.memory
from rmt_rl import RecurrentMemoryTransformer, RecurrentMemoryTransformerWrapper
from rmt_rl.errors import UsageError
from rmt_rl.language.mechanisms import TokenCores
from rmt_rl.registry import NotInstalled
from tests.test_language import EVERY

AddFile = Callable[[str, str], None]
SIZES: dict[str, Any] = {
    "dim": 16,
    "num_tokens": 11,
    "depth": 2,
    "num_memory_tokens": 2,
    "seq_len": 4,
    "dim_head": 4,
    "heads": 2,
}
OPTIONS: dict[str, dict[str, Any]] = {  # by the field of TokenCore that allows it
    "valves": {"valve": "gate"},
    "encoder": {"causal": False},
    "xl_memories": {"use_xl_memories": True},
    "streams": {"num_residual_streams": 2},
    "value_residual": {"value_residual": True},
}
CORES = {name: core for cores in TokenCores.find().declared.values() for name, core in cores.items()}
MINE = '''"""The sum of all tokens."""
from typing import NamedTuple

import torch

from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer
from rmt_rl.nn.token_core import TokenCore
from rmt_rl.recurrence import SegmentRecurrent


class SumOfTokens(SegmentRecurrent):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.width = inner, inner.width

    def initial_state(self, batch_size):
        return next(self.parameters()).new_zeros(batch_size, self.width), self.inner.initial_state(batch_size)

    def forward(self, x_BLD, state, lengths_B=None):
        kept_BD, inner = state
        real_BL = torch.arange(x_BLD.shape[1]) < (len(x_BLD[0]) if lengths_B is None else lengths_B[:, None])
        y_BLD, inner = self.inner(x_BLD + kept_BD[:, None], inner, lengths_B)
        return y_BLD, (kept_BD + (x_BLD * real_BL[..., None]).sum(1), inner)

    @classmethod
    def examples(cls, width):
        yield cls(DecoderLayer(DecoderConfig(width=width, heads=2)))


TOKEN_CORES = {"mine": TokenCore(lambda layers: SumOfTokens(layers.build_stack()), streams=True)}
'''


@pytest.fixture
def add_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddFile]:
    """Add a file to the memory mechanisms, from a folder outside the tree."""
    monkeypatch.setattr(rmt_rl.memory, "__path__", [*rmt_rl.memory.__path__, str(tmp_path)])
    before = set(sys.modules)

    def add(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    yield add
    for name in set(sys.modules) - before:
        if name.endswith("_on_trial"):
            del sys.modules[name]


def make(**options: Any) -> RecurrentMemoryTransformer:
    torch.manual_seed(0)
    return RecurrentMemoryTransformer(**SIZES | options).eval()


def ids(length: int) -> Tensor:
    return torch.randint(11, (3, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_new_file_is_a_memory_of_the_token_model(add_file: AddFile) -> None:
    add_file("sums_on_trial", MINE)
    model, x = make(memory="mine"), ids(12)
    wrapper = RecurrentMemoryTransformerWrapper(model)
    out = wrapper(x)
    changed = torch.cat(((x[:, :1] + 1) % 11, x[:, 1:]), 1)
    assert not torch.allclose(wrapper(changed).output[:, -1], out.output[:, -1])  # it remembers
    new = wrapper.generate(x[:, :6], length=12, temperature=0)
    logits = wrapper(torch.cat((x[:, :6], new), 1)[:, :-1]).output
    assert torch.equal(logits[:, 5:].argmax(2), new)
    assert make(memory="mine", num_residual_streams=2)(x[:, :4]).output.isfinite().all()


def test_messages_name_a_new_file_where_it_is_a_choice(add_file: AddFile) -> None:
    add_file("sums_on_trial", MINE)
    with pytest.raises(UsageError, match=r"memory='main' is none of .*tokens.*mine.*none; did you mean 'mine'\?$"):
        make(memory="main")
    with pytest.raises(UsageError, match=r"num_residual_streams=2, given memory='armt'.*needs memory=.*'mine'.* or "):
        make(memory="armt", num_residual_streams=2)
    with pytest.raises(UsageError, match=r"valve='gate', given memory='mine', causal=True: it needs memory='tokens'$"):
        make(memory="mine", valve="gate")


@pytest.mark.parametrize("text", ["TOKEN_CORES = (\n", "import absent_package\n", "raise RuntimeError('no')\n"])
def test_a_broken_file_hurts_only_who_names_it(add_file: AddFile, text: str) -> None:
    add_file("broken_on_trial", text)
    assert make(memory="tokens")(ids(4)).output.isfinite().all()
    with pytest.raises(UsageError, match=r"memory='mine' is none of .*; broken_on_trial can't be imported: ") as raised:
        make(memory="mine")
    assert isinstance(raised.value.__cause__, (SyntaxError, NotInstalled, RuntimeError))


def test_two_files_of_one_name_are_told_apart(add_file: AddFile) -> None:
    add_file("first_on_trial", MINE)
    add_file("second_on_trial", MINE)
    with pytest.raises(UsageError, match="memory='mine' is declared by first_on_trial and by second_on_trial"):
        make(memory="mine")
    make(memory="tokens")


@pytest.mark.parametrize("name", CORES)
def test_a_core_goes_with_the_options_that_it_declares(name: str) -> None:
    for field, option in OPTIONS.items():
        if getattr(CORES[name], field):
            labels = ids(9)
            loss = RecurrentMemoryTransformerWrapper(make(memory=name, **option))(labels, labels=labels)
            assert loss.isfinite()
        else:
            (value,) = option
            with pytest.raises(UsageError, match=rf"{value}=.*, given memory='{name}'.*: it needs .*memory="):
                make(memory=name, **option)
    if CORES[name].needs_memory_tokens:
        with pytest.raises(UsageError, match=f"num_memory_tokens=0, given memory='{name}'"):
            make(memory=name, num_memory_tokens=0)
    else:
        assert make(memory=name, num_memory_tokens=0)(ids(4)).output.isfinite().all()


def test_every_core_is_held_to_the_tests_of_the_token_model() -> None:
    assert {options.get("memory", "tokens") for options in EVERY.values()} == set(CORES)
