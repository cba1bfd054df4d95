"""The comparison of the token model's options: real runs, and the table by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from experiments.language_options import __main__ as language_options
from experiments.language_options.__main__ import VARIANTS, main, run, table


def test_a_run_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_options, "TEST_SEQUENCES", 4)
    monkeypatch.setattr(language_options, "TEST_SEGMENTS", 4)
    name = next(iter(VARIANTS))
    short, longer = run((name, 0, 1)), run((name, 0, 12))
    assert longer["nats"] < short["nats"] < math.log(2100) + 0.5


def test_the_table_compares_the_same_seeds() -> None:
    first, second, *_ = VARIANTS
    cells = [(first, 0, 3.0), (first, 1, 2.0), (second, 0, 3.5), (second, 1, 2.1), (second, 2, 9.0)]
    rows = [
        {"variant": name, "seed": seed, "nats": nats, "parameters": 1000, "cpu_seconds": 2.0}
        for name, seed, nats in cells
    ]
    lines = table(rows).splitlines()
    assert lines[2].startswith(f"| {first} | 2.500 | 12.2 |  | 1,000 | 2 |")
    assert lines[3].startswith(f"| {second} | 2.800 | 16.4 | +0.300 ± 2.541 |")  # 2 is alone
    assert len(lines) == 4


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    names = list(VARIANTS)
    path = tmp_path / "results.json"
    rows = [
        {"variant": name, "seed": 0, "updates": 1, "parameters": 1, "cpu_seconds": 1.0, "nats": 5.0} for name in names
    ]
    other = rows[0] | {"updates": 2, "nats": 9.0}
    path.write_text(text := json.dumps([*rows, other]))
    main(seeds=1, jobs=1, updates=1, folder=tmp_path)
    assert path.read_text() == text
    assert "9.0" not in (tmp_path / "table.md").read_text()
    assert len((tmp_path / "table.md").read_text().splitlines()) == 2 + len(names)
