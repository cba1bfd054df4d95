"""Experiments whose tables are of their own kind, with tiny runs in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.any_dataset import __main__ as any_dataset
from experiments.color_cubes import __main__ as color_cubes
from experiments.defaults import __main__ as defaults
from experiments.heads import hidden
from experiments.heads.__main__ import CASES
from experiments.lives import __main__ as lives
from experiments.lives import players
from experiments.popgym import __main__ as popgym
from experiments.standardised import __main__ as standardised
from rmt_rl.analysis.results import FILE, ResultsFile, RunResult
from rmt_rl.analysis.run_records import EvaluatedSetting
from rmt_rl.cli import main
from rmt_rl.cli.experiment import Making, missing_cells
from rmt_rl.runs.folder import read_config, write_config
from rmt_rl.runs.named_options import named_config
from rmt_rl.runs.options import RunConfig
from rmt_rl.runs.recipes import NO_RECIPE, Recipe, find_recipe
from rmt_rl.sweeps.engine import PlannedEvaluation
from tests.test_experiments_runs import IN_PROCESS

ROOT = Path(__file__).parents[1]
PLANS = (PlannedEvaluation(episodes=2),)
SMALL = {"agent_options": {"segment_length": 4, "width": 16}, "batch_size": 4, "updates": 1, "eval_episodes": 0}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_agents_learn_from_the_episodes_of_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = any_dataset.CASES["cartpole_hidden"]
    online = {"total_timesteps": 16, "n_envs": 2, "agent_options": {"n_steps": 8, "batch_size": 8}, "eval_episodes": 0}
    tiny = replace(case, agent="ppo", online=online, episodes=10, offline={**SMALL, "feed": "windows"})
    monkeypatch.setattr(any_dataset, "CASES", {"tiny": tiny})
    monkeypatch.setattr(any_dataset, "PLANS", PLANS)
    monkeypatch.setattr(any_dataset, "FOLDER", tmp_path)
    runs = tmp_path / "runs"
    any_dataset.main(("tiny",), runs, IN_PROCESS)
    made = rows((tmp_path / "table.md").read_text())
    assert [row[1] for row in made] == ["random", "ppo", "rate", "bc"]
    (dataset,) = read_config(runs / "tiny" / "rate").data_options.dataset  # type: ignore[union-attr]

    # The same run as by the command line, in the environment of the data.
    small = "--feed windows --agent.segment-length 4 --agent.width 16 --batch-size 4 --updates 1 --eval-episodes 0"
    typed = tmp_path / "typed"
    assert main(["train", "--dataset", dataset, "rate", *small.split(), "--out", str(typed)]) == 0
    assert read_config(typed) == read_config(runs / "tiny" / "rate")


def test_tasks_of_popgym_are_tabulated_by_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("popgym")
    seeds = {"rate": 2, "bc": 1}
    for agent in seeds:
        file = tmp_path / f"{agent}.toml"
        file.write_text(
            f'env = "popgym"\nagent = "{agent}"\n'
            "agent_options = { segment_length = 4, width = 16 }\n"
            "data = { collect_episodes = 8, batch_size = 4 }\n"
            "training = { updates = 1 }\n"
            "evaluation = { eval_episodes = 0 }\n"
        )
    monkeypatch.setattr(popgym, "SEEDS", seeds)
    monkeypatch.setattr(popgym, "PLANS", PLANS)
    monkeypatch.setattr(popgym, "FOLDER", tmp_path)
    monkeypatch.setattr(popgym, "RESULTS", ResultsFile(tmp_path / FILE))

    def make(runs: str) -> None:
        popgym.main(("easy",), ("repeat_first",), tuple(seeds), making=Making(tmp_path / runs, execution=IN_PROCESS))

    make("runs")
    made = {row[0]: row for row in rows((tmp_path / "table-easy.md").read_text())}
    assert len(made) == 17
    assert made["autoencode"][3:] == ["-", "-"]
    assert all("(" in cell for cell in made["repeat_first"][3:])
    assert not (tmp_path / "table-hard.md").exists()
    lines = (tmp_path / FILE).read_text()
    assert sorted(path.name for path in (tmp_path / "runs/easy/repeat_first").iterdir()) == ["bc-0", "rate-0", "rate-1"]

    # Nothing whose results are stored is made again.
    make("others")
    assert not (tmp_path / "others").exists()
    assert (tmp_path / FILE).read_text() == lines


def test_stored_results_are_of_the_present_options() -> None:
    pytest.importorskip("popgym")
    plain = [defaults._cell(env, seed) for env in defaults.CASES for seed in range(5)]
    assert missing_cells(plain, defaults.RESULTS) == []
    pendulums = ("position_only_pendulum", "noisy_position_only_pendulum")
    assert missing_cells(hidden._cells(pendulums, hidden.AGENTS, 2, ""), hidden.RESULTS) == []


def test_hidden_actions_are_compared_by_task_and_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("popgym")
    task = "position_only_pendulum"
    small = {"agent_options": {"segment_length": 4, "width": 16}, "updates": 1, "batch_size": 4, "collect_episodes": 8}
    monkeypatch.setitem(CASES, task, CASES[task]._replace(options=small))
    monkeypatch.setattr(hidden, "PLANS", PLANS)
    monkeypatch.setattr(hidden, "FOLDER", tmp_path)
    monkeypatch.setattr(hidden, "RESULTS", ResultsFile(tmp_path / FILE))
    hidden.main((task,), ("rate",), seeds=1, making=Making(tmp_path / "runs", execution=IN_PROCESS))
    ((*of_run, seeds, _),) = rows((tmp_path / "hidden-table.md").read_text())
    assert (of_run[:2], seeds) == ([task, "rate"], "1")
    assert all("(" in cell for cell in of_run[2:])
    folder = tmp_path / "runs" / task / "rate"
    options = {name: read_config(folder / f"{name}-0").model_dump() for name in hidden.VARIANTS}
    assert {name: own["training"]["hide_actions"] for name, own in options.items()} == {
        "seen": 0,
        "fifth": 0.2,
        "half": 0.5,
        "none": 0,
    }
    assert options["none"]["agent_options"]["tokens"] == ("return_to_go", "observation")


def test_popgym_is_made_by_its_recipe() -> None:
    pytest.importorskip("popgym")
    for agent in popgym.SEEDS:
        recipe = named_config("popgym", agent, recipe=find_recipe("popgym", agent))
        assert read_config(ROOT / "experiments" / "popgym" / f"{agent}.toml") == recipe


def test_plain_runs_are_tabulated_by_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(env: str, agent: str, options: dict[str, object], recipe: Recipe) -> RunConfig:
        return named_config(env, agent, {**options, **SMALL, "collect_episodes": 8, "segments": 2}, recipe)

    monkeypatch.setattr(defaults, "named_config", small)
    monkeypatch.setattr(defaults, "CASES", {"tmaze": defaults.Case(("corridor_length=1,6",), 0.0)})
    monkeypatch.setattr(defaults, "FOLDER", tmp_path)
    monkeypatch.setattr(defaults, "RESULTS", ResultsFile(tmp_path / FILE))
    defaults.main(seeds=2, making=Making(tmp_path / "runs", execution=IN_PROCESS))
    made = rows((tmp_path / "table.md").read_text())
    assert [row[:2] for row in made] == [["tmaze", "corridor length 1"], ["tmaze", "corridor length 6"]]
    assert all(row[6] == "2 of 2" for row in made)


def test_cubes_are_tabulated_by_difficulty_and_agent() -> None:
    def result(config: str, seed: int, rate: float) -> RunResult:
        settings = [
            EvaluatedSetting({"phases": phases}, 100, rate, None, 5 * rate, None, {}) for phases in color_cubes.PHASES
        ]
        return RunResult(config, seed, {}, {}, settings, {"train": 60.0})

    results = [result("medium/rate", seed, 1.0) for seed in (0, 1)]
    made = rows(color_cubes.cubes_table([*results, result("extreme/bc", 0, 0.5)]))
    assert made == [
        ["medium", "rate", "1.00 ± 0.00", "5.00 ± 0.00", "1.00 ± 0.00", "2", "60"],
        ["extreme", "bc", "0.50", "2.50", "0.50", "1", "60"],
    ]
    configs = {path.stem for path in color_cubes.FOLDER.glob("*.toml")}
    assert configs == set(color_cubes.EVERY)


def test_lives_are_made_and_tabulated_by_player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = {path.stem for path in lives.FOLDER.glob("*.toml")}
    assert configs == {f"{task}-{agent}" for task in lives.TASKS for agent in lives.SEEDS}
    write_config(
        named_config("dark_room", "rate", {**SMALL, "collect_episodes": 8, "segments": 2}, NO_RECIPE), tmp_path
    )
    (tmp_path / "config.toml").rename(tmp_path / "dark_room-rate.toml")
    monkeypatch.setattr(lives, "FOLDER", tmp_path)
    monkeypatch.setattr(lives, "RESULTS", ResultsFile(tmp_path / FILE))
    monkeypatch.setattr(lives, "PLANS", [plan.model_copy(update={"episodes": 2}) for plan in lives.PLANS])
    monkeypatch.setattr(players, "LIVES", 10)
    for _ in range(2):  # once from what is kept
        lives.main(agents=("rate",), seeds=1, making=Making(tmp_path / "runs", execution=IN_PROCESS))
    made = rows((tmp_path / "table-dark_room.md").read_text())
    assert [row[0] for row in made] == ["rate", "expert", "random", "rate-emptied"]
    expert = made[1]
    assert expert[7:10] == ["1.00", "1.00", "-"]
    assert float(expert[1]) < float(expert[6])
    assert (tmp_path / "lives-dark_room.png").exists()


def test_runs_that_have_a_line_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the experiment is started, and its module is found
    small = {**SMALL, "collect_episodes": 8, "env_options": {"corridor_length": [1, 3]}}
    at_end = {"eval_every": 1, "eval_episodes": 4}
    scales = {"scale 1": standardised.Case(standardised.SCALED_TMAZE, {**small, **at_end}, seeds=(0, 1))}
    monkeypatch.setattr(standardised, "SCALES", scales)
    monkeypatch.setattr(standardised, "TASKS", {"tmaze": standardised.Case("tmaze", small, PLANS, seeds=(0,))})
    monkeypatch.setattr(standardised, "FOLDER", tmp_path)
    monkeypatch.setattr(standardised, "RESULTS", tmp_path / "results.jsonl")
    first = {"case": "scale 1", "standardised": True, "seed": 0, "scores": {"": 0.5}, "cpu_seconds": 1.0}
    standardised.RESULTS.write_text(json.dumps(first) + "\n")
    standardised.main(tmp_path / "runs", IN_PROCESS)
    results = standardised.read_results()
    assert results[0] == first
    made = sorted((result["case"], result["standardised"], result["seed"]) for result in results[1:])
    assert made == [
        ("scale 1", False, 0),
        ("scale 1", False, 1),
        ("scale 1", True, 1),
        ("tmaze", False, 0),
        ("tmaze", True, 0),
    ]
    assert all(result["cpu_seconds"] > 0 for result in results)
    text = standardised.RESULTS.read_text()
    standardised.main(tmp_path / "runs", IN_PROCESS)
    assert standardised.RESULTS.read_text() == text
