from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.scale import data_costs
from experiments.scale.__main__ import BEGIN, PAGE, RESULTS, measured, with_tables
from experiments.scale.costs import costs_of, size_costs
from experiments.scale.report import report
from experiments.scale.sizes import QUICK


def test_the_page_has_the_tables_of_the_results() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert BEGIN in page
    assert with_tables(page, report(results)) == page


def test_costs_follow_from_what_was_measured() -> None:
    costs = costs_of({"forward_flops": 1e6, "steps_per_cpu_second": 1000, "parameters": 10**6, "batch_steps": 10**4})
    assert costs["flops"] == 3e15
    assert costs["core_hours"] == pytest.approx(277.8, abs=0.1)
    assert costs["gpu_hours"] == pytest.approx(3e15 / 312e12 / 0.3 / 3600)
    assert costs["updates"] == 10**5
    assert costs["sent_per_update"] == 7e6, "a ring of 8 sends 7/4 of 4 MB"
    assert costs["adam"] == 16e6
    assert costs["adam_sharded"] == 2e6


def test_a_size_and_data_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(data_costs, "MANY", 300)
    size = size_costs(QUICK)
    assert size["parameters"] == 4660
    assert size["steps_per_cpu_second"] > 0
    data = data_costs.data_costs()
    assert 21_168 < data["image_step"] < 24_000
    assert data["index_episode"] == pytest.approx(8, abs=0.1)


@pytest.mark.slow  # seven processes, each of which imports PyTorch
def test_all_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setattr(data_costs, "MANY", 400)
    results = measured({"quick": QUICK}, {"quick": QUICK}, repeats=1, updates=1)
    assert results["efficiency"]["quick"]["1"]["sums"] == 0
    assert results["efficiency"]["quick"]["2"]["sums"] == 5
    assert results["efficiency"]["quick"]["2"]["sum_bytes"] == pytest.approx(4 * 4660, abs=50), (
        "the gradient and scalars"
    )
    tables = report(results)
    assert "quick" in tables
    for table in tables.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1
