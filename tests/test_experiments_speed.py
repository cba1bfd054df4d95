"""The speed benchmark runs from end to end; how fast anything is, no test says."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median

import pytest
import torch

from experiments.speed import diagonals, exported, growth, growth_measures, official_rmt, rate, rmt
from experiments.speed.peer_ours import Padded, Recomputing
from experiments.speed.peer_report import peers_report
from experiments.speed.report import rate_report
from experiments.speed.sizes import BESIDE
from rmt_rl.memory.tokens import MemoryTokens
from rmt_rl.nn.decoder import DecoderConfig, DecoderLayer

ROOT = Path(__file__).parent.parent


# Stands in for the official repository: the names that the benchmark uses, and none of its arithmetic.
STAND_IN = """
import torch
from torch import nn

class RATE(nn.Module):
    def __init__(self, state_dim, act_dim, d_model, num_mem_tokens, n_head, d_head, **options):
        super().__init__()
        self.mem_tokens = nn.Parameter(torch.zeros(num_mem_tokens, 1, d_model))
        self.r_w_bias, self.r_r_bias = (nn.Parameter(torch.zeros(n_head, d_head)) for _ in range(2))
        self.head = nn.Linear(state_dim, act_dim)

    def forward(self, states, actions, rtgs, target, timesteps, mem_tokens):
        expected = states.shape[1] - (target is None)
        assert (0 if actions is None else actions.shape[1]) == expected
        logits = self.head(states) + mem_tokens.mean()
        return {"logits": logits, "mem_tokens": 0.5 * mem_tokens}
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that stands in for a clone of the official repository."""
    folder = tmp_path / "official"
    (folder / "RATE").mkdir(parents=True)
    (folder / "RATE" / "RATE_model.py").write_text(STAND_IN)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in ("RATE", "RATE.RATE_model"):
        sys.modules.pop(name, None)


def test_the_quick_benchmark_compares_with_the_official_code_in_its_own_run_or_not_at_all(
    tmp_path: Path, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate.main(["--quick", "--out", str(tmp_path), "--official", str(checkout)])
    text = (tmp_path / "rate.md").read_text()
    assert text in capsys.readouterr().out
    written = json.loads((tmp_path / "rate.json").read_text())
    assert written["quick"]
    tiny = written["results"]["tiny"]
    speeds = tiny["speeds"]
    assert set(speeds) == set(BESIDE) | set(BESIDE.values())
    assert min(min(found) for found in speeds.values()) > 0
    rows = text.splitlines()
    for measure, official in BESIDE.items():
        ours, theirs = speeds[measure], speeds[official]
        ratio = median(our / their for our, their in zip(ours, theirs, strict=True))
        assert any(row.startswith(f"| tiny | {measure}, steps / s | ") and f"| **{ratio:.1f}" in row for row in rows)
    assert tiny["parameters"]["official"] == {"all": 4 * 5 + 2 * 16 + 2 * 8, "trained": 4 * 5 + 2 * 16}
    assert 0 < tiny["floor"]["attention_flops_per_step"] < tiny["floor"]["flops_per_step"]
    assert set(tiny["late"]["milliseconds_per_step"]) == {"1", "20"}
    assert sum(row.startswith("| tiny | ") for row in rows) == 2 + 7 + 2 + 1 + 3

    for table in (speeds, tiny["memory"]):
        for official in set(BESIDE.values()) & set(table):
            del table[official]
    del tiny["parameters"]["official"]
    alone = rate_report({}, written["results"])
    assert "official" not in alone
    assert f"| tiny | training, steps / s | {speeds['training'][0]:,.0f} (n = 1) |\n" in alone


def test_a_folder_without_the_official_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        rate.main(["--quick", "--out", str(tmp_path), "--official", str(tmp_path)])
    assert f"--official={tmp_path} has no module RATE.RATE_model" in capsys.readouterr().err
    assert not list(tmp_path.glob("rate.*"))


# Stands in for the original code of RMT: a model that has a memory, and the names that the benchmark uses.
RMT_STAND_IN = """
import torch
from torch import nn

class MemoryCell(nn.Module):
    def __init__(self, base_model, num_mem_tokens):
        super().__init__()
        self.model = base_model
        self.memory = nn.Parameter(torch.zeros(num_mem_tokens))

class RecurrentWrapper(nn.Module):
    def __init__(self, memory_cell, segment_size):
        super().__init__()
        self.cell, self.segment_size = memory_cell, segment_size

    def forward(self, inputs, labels=None):
        assert inputs.shape[1] % self.segment_size <= 1
        logits = self.cell.model(inputs)
        return {"logits": logits, "loss": logits.mean() + self.cell.memory.sum()}

    def generate(self, first, mask, max_new_tokens, do_sample):
        assert max_new_tokens
"""


def test_the_benchmark_beside_the_original_rmt_runs_its_code_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(official_rmt, "_decoder", lambda: torch.nn.Embedding(256, 1))
    checkout = tmp_path / "modeling_rmt"
    checkout.mkdir()
    (checkout / "language_modeling.py").write_text(RMT_STAND_IN)
    results = rmt.measured(tmp_path, repeats=1, generated=2)
    assert results["parameters"]["official"] == 256 + 16
    assert list(results["seconds"]) == [
        "training step, 1 x 256 tokens",
        "training step, 4 x 256 tokens",
        "forward, 4 x 256 tokens",
        "a token",
    ]
    assert all(len(found["ours"]) == len(found["official"]) == 1 for found in results["seconds"].values())
    results["seconds"] = {"a token": {"ours": [0.001, 0.002], "official": [0.003, 0.002]}}
    row = "| a token | 1.50 (1.00 to 2.00, n = 2) | 2.50 (2.00 to 3.00, n = 2) | **2.00 (1.00 to 3.00, n = 2)** |"
    assert row in rmt.rmt_report({}, results).splitlines()

    with pytest.raises(SystemExit, match="2"):
        rmt.main(["--official", str(tmp_path / "nothing"), "--out", str(tmp_path)])
    assert "has no modeling_rmt/language_modeling.py" in capsys.readouterr().err


# Beside the two packages; what runs them is skipped where they aren't installed.


@pytest.mark.parametrize("way", [Padded, Recomputing])
def test_recomputing_does_what_our_steps_do(way: type[Padded]) -> None:
    core = MemoryTokens(DecoderLayer(DecoderConfig(width=8, heads=2)), 3).double()
    slow = way(core)
    x_BLD = torch.randn(2, 5, 8, dtype=torch.float64)
    cache, slow_cache = core.begin(core.initial_state(2), 2, 5), slow.begin(slow.initial_state(2), 2, 5)
    for token in x_BLD.split(1, 1):
        y_BTD, cache = core.step(token, cache)
        slow_y_BTD, slow_cache = slow.step(token, slow_cache)
        torch.testing.assert_close(slow_y_BTD, y_BTD)
    torch.testing.assert_close(slow.end(slow_cache).memory_BMD, core.end(cache).memory_BMD)


def test_ratios_are_taken_repeat_by_repeat_and_replay_is_held_against_a_full_gradient_where_they_have_none() -> None:
    seconds = {"ours, full": [1.0, 2.0, 4.0], "ours, replay": [2.0, 4.0, 8.0], "theirs, full": [3.0, 4.0, 4.0]}
    peaks = {"ours, full": 100.0, "ours, replay": 20.0, "theirs, full": 150.0}
    found = {
        "parameters": {"ours": 90, "theirs": 100},
        "training": {1: seconds, 2: {"ours, replay": [1.0]}},
        "peak_mb": {1: peaks, 2: peaks | {"theirs, full": None}},
        "tokens": 1000,
        "forward": {"ours": [0.5], "theirs": [1.0]},
        "generation": {"ours, step": [0.001], "theirs, cache": [0.007]},
    }
    text = peers_report({"torch": "2"}, {"small": found})
    for row in [
        "| small | 90 | 100 | 0.90 |",
        "| small | 1 | full | 2.000 | 4.000 | **2.00 (1.00 to 3.00, n = 3)** | 100 | 150 | **1.50** |",
        "| small | 1 | replay, theirs full | 4.000 | 4.000 | **1.00 (0.50 to 1.50, n = 3)** | 20 | 150 | **7.50** |",
        "| small | 2 | replay, theirs full | 1.000 |  |  | 20 | too much to run |  |",
        "| small | 2,000 | 1,000 | **2.00 (n = 1)** |",
        "| small | theirs, cache | 7.00 | **7.0 (n = 1)** |",
    ]:
        assert row in text.splitlines()


def test_the_contestants_are_of_one_size_and_give_their_gradients() -> None:
    pytest.importorskip("titans_pytorch")
    pytest.importorskip("recurrent_memory_transformer_pytorch")
    from experiments.speed.peer_pairs import PAIRS
    from experiments.speed.peer_work import parameters

    for name in ("memory tokens", "neural memory", "memory as context"):
        pair = PAIRS[name]
        sizes = parameters(pair)
        assert 0.9 < sizes["ours"] / sizes["theirs"] < 1.1
        data = pair.data(2 * pair.segment)
        for contestant in pair.contestants().values():
            gradients = []
            for gradient in contestant.gradients:
                contestant.zero_grad()
                contestant.backward(data, gradient)
                leaves = [leaf.grad.flatten() for leaf in contestant.parameters() if leaf.grad is not None]
                gradients.append(torch.cat(leaves))
            assert gradients[0].norm() > 0
            torch.testing.assert_close(gradients[-1], gradients[0], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_quick_benchmark_beside_the_packages_measures_everything(tmp_path: Path) -> None:
    pytest.importorskip("titans_pytorch")
    pytest.importorskip("recurrent_memory_transformer_pytorch")
    command = [sys.executable, "-m", "experiments.speed.peers", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "peers.json").read_text())
    tokens = written["results"]["memory tokens"]
    assert written["quick"]
    assert set(tokens["training"]) == {"1", "4"}
    assert len(tokens["training"]["4"]) == len(tokens["peak_mb"]["4"]) == 4
    assert all(min(seconds) > 0 for result in written["results"].values() for seconds in result["forward"].values())
    peaks = {run: [tokens["peak_mb"][segments][run] for segments in "14"] for run in ("ours, full", "ours, replay")}
    assert peaks["ours, full"][1] > 2 * peaks["ours, full"][0]
    assert peaks["ours, replay"][1] < 1.5 * peaks["ours, replay"][0]
    assert (tmp_path / "peers.md").read_text() in done.stdout


def test_the_table_of_growth_has_a_row_for_each_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(growth_measures, "REPEATS", 1)
    growths = {each.name: each.measure for each in growth.GROWTHS}
    found = {}
    for name in ("segments, replay", "environments", "runs plotted"):
        found[name] = {count: asdict(growths[name](count)) for count in (1, 2)}
    assert all(cost["seconds"] > 0 for costs in found.values() for cost in costs.values())
    lines = growth.growth_report({"processor": "one"}, found).splitlines()
    assert sum(line.startswith(("| segments", "| environments", "| runs")) for line in lines) == 6


def test_growth_is_the_exponent_of_the_number() -> None:
    costs = {10: {"seconds": 1.0, "mb": 8.0}, 40: {"seconds": 4.0, "mb": 16.0}}
    *_, row = growth.growth_report({}, {"episodes of a batch": costs}).splitlines()
    assert row == "| episodes of a batch | 40 | 4.000 | 100.00 | 1.00 | 16 | 0.50 |"


def test_layers_in_diagonals_compute_what_layers_in_turn_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diagonals, "REPEATS", 1)
    diagonals.main(["--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "diagonals.json").read_text())["results"]
    assert [one["layer"] for one in found] == list(diagonals.LAYERS)
    assert max(one["difference"] for one in found) < 1e-5
    assert (tmp_path / "diagonals.md").read_text().count("**") == 4 * len(found)


def test_the_table_of_exports_has_ratios_of_each_turn() -> None:
    speeds = {"1: predict": [10.0, 20.0], "1: torch": [5.0, 5.0], "1: onnx": [30.0, 40.0]}
    of_many = {key.replace("1:", "100:"): [1000.0, 1000.0] for key in speeds}
    report = exported.exported_report({"processor": "this one"}, {"rate": speeds | of_many})
    assert report.splitlines()[-1] == "| rate | 15 | 5 | 35 | 2.5 | 1,000 | 1,000 | 1,000 | 1.0 |"


@pytest.mark.slow
def test_the_quick_benchmark_of_exports_measures_every_way(tmp_path: Path) -> None:
    exported.main(["--quick", "--out", str(tmp_path)])
    speeds = json.loads((tmp_path / "exported.json").read_text())["speeds"]
    assert set(speeds) == set(exported.QUICK_AGENTS)
    assert all(min(found) > 0 for ways in speeds.values() for found in ways.values())
