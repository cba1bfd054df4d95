"""The experiment on rewriting: its configs are made, and their results tabulated and drawn."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from experiments.rewriting.__main__ import CONFIGS, LONGEST, PLANS
from experiments.rewriting.summary import FURTHER, SIXTEEN, Rewriting
from rmt_rl.acting.evaluate import parse_vary
from rmt_rl.analysis.results import RunResult
from rmt_rl.analysis.run_records import EvaluatedSetting

FOLDER = next(iter(CONFIGS)).parent


def settings() -> list[tuple[Any, ...]]:
    """Return the settings that the evaluations play."""
    grids = [parse_vary(plan.vary) for plan in (*PLANS, LONGEST)]
    return [setting for grid in grids for setting in product(grid["corridors"], grid["corridor_length"])]


def played(setting: tuple[Any, ...], rate: float) -> EvaluatedSetting:
    corridors, length = setting
    options = {"corridors": corridors, "corridor_length": length}
    return EvaluatedSetting(options, 10, rate, (rate, rate), 0.0, (0.0, 0.0), {})


def test_every_config_file_is_made() -> None:
    assert set(CONFIGS) == set(FOLDER.glob("*.toml"))


def test_the_evaluations_are_the_tables_settings() -> None:
    assert sorted(map(str, settings())) == sorted(map(str, [*SIXTEEN, *FURTHER]))


def test_the_short_table_tells_the_worst_of_the_sixteen(tmp_path: Path) -> None:
    configs = {file: CONFIGS[file] for file in list(CONFIGS)[:2]}
    experiment = Rewriting(tmp_path, configs)
    results = []
    for name, seed in product(experiment.names, (0, 1)):
        rates = [0.9 if setting == (10, 10) and seed else 1.0 for setting in settings()]
        evaluations = [played(setting, rate) for setting, rate in zip(settings(), rates, strict=True)]
        curve = {"eval/success_rate": {250: 0.5, 500: 1.0}}
        results.append(RunResult(name, seed, {}, curve, evaluations, {}))
    text = experiment.write(results)
    _, _, *rows = text.splitlines()
    assert len(rows) == 2
    assert rows[0].split(" | ")[:4] == ["| rate", "0.95 ± 0.64", "1 of 2", "1.00 ± 0.00"]
    assert (tmp_path / "summary.md").read_text() == f"{text}\n"
    assert experiment.draw() == text
