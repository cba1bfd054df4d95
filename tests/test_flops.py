"""FLOPs by hand, against PyTorch's counter and the paper's figures, and as `rmt-rl flops` shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from rmt_rl.agents.dt import DT, DTConfig
from rmt_rl.agents.rmt import RMT, RMTConfig
from rmt_rl.analysis.flops import (
    CHINCHILLA,
    COUNTINGS,
    MATMULS,
    OPT,
    Counting,
    Shape,
    counted_flops,
    counted_segment_flops,
    forward_terms,
    full_attention_flops,
    segmented_flops,
)
from rmt_rl.analysis.flops_report import model_cost
from rmt_rl.analysis.sizes import SPEC
from rmt_rl.cli import main
from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer, decoder
from rmt_rl.runs.checkpoint import save_agent
from tests.test_bad_input import complaint
from tests.test_cli import TINY
from tests.tiny import work_folder

SMALL = Shape(layers=2, width=4, heads=2, head_width=3, hidden=5, vocabulary=7)


def ratio(model: str, tokens: int, memory: int = 0, counting: Counting = CHINCHILLA) -> float:
    return full_attention_flops(OPT[model], 4096 * tokens, counting) / segmented_flops(
        OPT[model], 4096, tokens, memory, counting
    )


def test_each_term_by_hand() -> None:
    assert forward_terms(SMALL, positions=3, read=2) == {
        "queries, keys, values": 2 * 2 * 3 * (3 * 4 * 6),
        "logits": 2 * 2 * (3 * 3 * 6),
        "softmax": 2 * 3 * (2 * 3 * 3),
        "reduction": 2 * 2 * (3 * 3 * 6),
        "output": 2 * 2 * (3 * 6 * 4),
        "feed-forward": 2 * 2 * 2 * (3 * 4 * 5),
        "head": 2 * (2 * 4 * 7),
    }
    matmuls, causal = (forward_terms(SMALL, 3, 2, COUNTINGS[name]) for name in ("matmuls", "causal"))
    assert matmuls == forward_terms(SMALL, 3, 2) | {"softmax": 0}
    assert causal == matmuls | {"logits": 108, "reduction": 108}
    assert forward_terms(SMALL._replace(matrices=3), 3, 2) == forward_terms(SMALL, 3, 2) | {"feed-forward": 720}
    assert (
        full_attention_flops(SMALL, 3)
        == sum(forward_terms(SMALL, 3).values())
        == 864 + 216 + 108 + 216 + 288 + 480 + 168
    )
    assert segmented_flops(SMALL, 5, 3, memory=2) == 5 * sum(forward_terms(SMALL, 3 + 2 + 2, 3).values())


@pytest.mark.parametrize(
    ("counting", "formula"),
    [
        (CHINCHILLA, "layers x (6 n d a + 4 n² a + 3 h n² + 2 n a d + 2 g n d f) + 2 m d v"),
        (MATMULS, "layers x (6 n d a + 4 n² a + 2 n a d + 2 g n d f) + 2 m d v"),
        (COUNTINGS["causal"], "layers x (6 n d a + 2 n² a + 2 n a d + 2 g n d f) + 2 m d v"),
    ],
)
def test_the_formula_is_stated_as_it_is_computed(counting: Counting, formula: str) -> None:
    assert str(counting) == formula
    product = re.sub(r"(?<=\w) (?=[a-z])", "*", formula.replace("²", "**2").replace("x (", "* ("))
    letters = {"layers": 2, "d": 4, "h": 2, "a": 6, "f": 5, "g": 2, "v": 7, "n": 3, "m": 2}
    assert eval(product, letters) == sum(forward_terms(SMALL, 3, 2, counting).values())


def test_the_papers_ratios_to_rounding() -> None:
    assert ratio("OPT-125M", 512) == pytest.approx(294.8, abs=0.05)
    assert ratio("OPT-175B", 512) == pytest.approx(29.3, abs=0.05)


def test_the_paper_counts_no_embedding() -> None:
    def with_embedding(model: str) -> float:
        embedding = 2 * 4096 * 512 * OPT[model].vocabulary * OPT[model].width
        return (full_attention_flops(OPT[model], 4096 * 512) + embedding) / (
            segmented_flops(OPT[model], 4096, 512) + embedding
        )

    assert [round(with_embedding(model), 1) for model in ("OPT-125M", "OPT-175B")] == [228.7, 29.2]


def test_other_ways_of_counting_give_other_ratios() -> None:
    """With 10 memory tokens read and 10 written beside the 499 new ones of a segment, which alone the head reads."""
    causal = COUNTINGS["causal"]
    assert [round(ratio(model, 499, 10, MATMULS), 1) for model in ("OPT-125M", "OPT-175B")] == [276.1, 27.3]
    assert [round(ratio(model, 499, 10, causal), 1) for model in ("OPT-125M", "OPT-175B")] == [143.7, 14.2]


def test_shapes_are_of_the_models_that_their_names_tell() -> None:
    for name, (layers, width, heads, head_width, hidden, vocabulary, _) in OPT.items():
        assert (heads * head_width, hidden) == (width, 4 * width)
        parameters = layers * (4 * width**2 + 2 * width * hidden) + vocabulary * width
        billions = float(name[4:-1]) / (1000 if name.endswith("M") else 1)
        assert parameters == pytest.approx(billions * 1e9, rel=0.03), name


@pytest.mark.parametrize(
    "options",
    [
        {"width": 32},
        {"width": 24, "heads": 3, "head_width": 10, "hidden": 7, "layers": 1},
        {"width": 24, "heads": 2, "feed_forward": "geglu"},
    ],
)
@pytest.mark.parametrize("reads", ["causal", "free"])
def test_pytorchs_counter_agrees_with_the_formula(options: dict[str, object], reads: str) -> None:
    config = DecoderConfig.model_validate(options)
    layers = [DecoderLayer(config, prefix=3 * (reads == "free")) for _ in range(config.layers)]
    core, head = MemoryTokens(decoder(config, list(layers)), 3), nn.Linear(config.width, 11)
    for length in (1, 20):
        x = torch.randn(1, length, config.width)
        counted = counted_flops(lambda x=x: head(core(x, core.initial_state(1))[0]))  # type: ignore[misc]
        stated = segmented_flops(Shape.of(config, 11), 1, length, 3, MATMULS)
        assert counted == pytest.approx(stated, rel=0.01)  # what was asked for
        assert counted == stated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lstms_are_counted_fused_or_not(dtype: torch.dtype) -> None:
    lstm, x = nn.LSTM(5, 7, num_layers=2, batch_first=True, dtype=dtype), torch.randn(3, 11, 5, dtype=dtype)
    assert counted_flops(lambda: lstm(x)) == 2 * 3 * 11 * 4 * 7 * (5 + 7 + 7 + 7)


def test_a_window_of_past_tokens_is_counted_full() -> None:
    agent = DT(DTConfig(segment_length=4, context=10, width=16, heads=2), SPEC)
    assert counted_segment_flops(agent.core, agent.capacity) == full_attention_flops(
        Shape.of(agent.config), 3 * 10, MATMULS
    )


@pytest.mark.parametrize("agent", ["rate", "elmur", "titans_mac", "dlstm", "dmamba", "bc"])
def test_agents_of_all_kinds_have_their_cost(agent: str) -> None:
    found = model_cost(agent)
    assert found.measured
    assert found.segment > 0
    assert (found.ratio(1000) is None) == (agent in ("dlstm", "dmamba", "bc"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as folder:
        for agent, options in {"rmt": ["--agent.heads", "2", "--agent.memory-tokens", "3"], "bc": []}.items():
            train = ["train", "tmaze", agent, *TINY, *options, "--updates", "1", "--eval-episodes", "0"]
            assert main([*train, "--out", f"runs/{agent}"]) == 0
        yield folder


def rows(text: str) -> dict[str, list[str]]:
    cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| "))
    return {name: rest for name, *rest in cells if not name.startswith("---")}


def test_the_command_shows_opt_models(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["flops"]) == 0
    text = capsys.readouterr().out
    shown = rows(text)
    assert list(shown) == ["model", *OPT]
    assert shown["OPT-125M"] == ["512 tokens", "136 G", "266 M", "165 P", "558 T", "x294.8"]
    assert shown["OPT-175B"][-1] == "x29.3"
    assert str(CHINCHILLA) in text
    flags = ["--tokens", "499", "--memory-tokens", "10", "--counting", "causal", "--plot"]
    for picture, start in (tmp_path / "a.png", b"\x89PNG"), (tmp_path / "new" / "a.svg", b"<?xml"):
        assert main(["flops", "OPT-175B", *flags, str(picture)]) == 0
        text = capsys.readouterr().out
        assert rows(text)["OPT-175B"][-1] == "x14.2"
        assert text.splitlines()[-1] == str(picture)
        assert picture.read_bytes().startswith(start)


def test_the_command_shows_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["flops", "runs/rmt", "runs/bc", "--segments", "1", "--plot", "one.png"]) == 0
    text = capsys.readouterr().out
    shape = Shape(layers=2, width=16, heads=2, head_width=8, hidden=64, vocabulary=0)
    segment, whole = segmented_flops(shape, 1, 12, 3, MATMULS), full_attention_flops(shape, 12, MATMULS)
    shown = rows(text)["runs/rmt"]
    assert shown[0] == "4 steps"
    assert shown[1] == shown[4] == f"{segment / 1e3:.3g} k"
    assert shown[3] == f"{whole / 1e3:.3g} k"
    assert shown[5] == f"x{whole / segment:.1f}"
    assert rows(text)["runs/bc"][-1] == "-"
    assert "element by element" in text


def test_the_kernel_of_a_run_makes_no_difference(tmp_path: Path) -> None:
    agent = RMT(RMTConfig(attention="flex"), SPEC)
    save_agent(tmp_path / "last.safetensors", agent, "rmt", 0)
    assert (
        model_cost(str(tmp_path)).segment
        == model_cost("rmt").segment
        == segmented_flops(Shape.of(agent.config), 1, 90, 5, MATMULS)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["OPT-125"], "model 'OPT-125' is no folder of a run, no agent .*did you mean 'OPT-125M'"),
        (["ppo"], "model 'ppo' learns by acting and has no segments; choose"),
        (["."], "checkpoint last.safetensors doesn't exist"),
        (["--segments", "0"], "segments=0: .*greater than or equal to 1"),
        (["--tokens", "0"], "tokens=0: .*greater than or equal to 1"),
        (["--memory-tokens", "-1"], "memory_tokens=-1: .*greater than or equal to 0"),
        (["--plot", "a.pdf"], "picture 'a.pdf': the name must end in .png or .svg"),
        (["bc", "--plot", "a.png"], "none of these models is made of a decoder"),
    ],
)
def test_what_goes_wrong(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert re.search(message, complaint(["flops", *arguments], capsys))
    assert not Path("a.pdf").exists()
    assert not Path("a.png").exists()
