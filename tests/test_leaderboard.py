from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rmt_rl.analysis.leaderboard import Rules, as_page, leaderboard
from rmt_rl.analysis.results import FILE, ResultsFile, RunResult
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.statistics import success_interval

RULES = Rules(resamples=100)
SEVERAL = '["tmaze/expert-9-seed5-0a1b2c3d-v0", "tmaze/expert-9-seed999-0a1b2c3d-v0"]'


def make_run(
    path: Path,
    successes: dict[int, int],
    seed: int = 0,
    agent: str = "rate",
    env: str = "tmaze",
    checkpoint: str = "last, update 10",
    evaluation_seed: int = 1000,
    data: str = "",
) -> None:
    """Write the files of a run that was tested in 100 episodes at each corridor length."""
    path.mkdir(parents=True)
    (path / "config.toml").write_text(
        f'env = "{env}"\nagent = "{agent}"\nseed = {seed}\n'
        f'[data]\nfeed = "episodes"\n{data}\n[training]\nupdates = 1500\n'
    )
    results = [
        {
            "options": {"corridor_length": length},
            "seed": evaluation_seed,
            "lanes": 100,
            "success_rate": count / 100,
            "success_interval": success_interval(count, 100),
            "mean_return": count / 100,
            "return_interval": None,
            "episodes": [{"lane": 0, "return": 1.0, "length": 9, "success": True}] * 100,
        }
        for length, count in successes.items()
    ]
    (path / "evaluation.json").write_text(json.dumps({"format": 1, "checkpoint": checkpoint, "results": results}))


def make_runs(folder: Path, agent: str, scores: list[dict[int, int]], **options: str | int) -> None:
    for seed, successes in enumerate(scores):
        make_run(folder / f"{agent}-{seed}", successes, seed, agent, **options)  # type: ignore[arg-type]


def cells(text: str, label: str) -> list[str]:
    (row,) = [line for line in text.splitlines() if f"| {label} |" in line]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_agents_are_ranked_by_the_interquartile_mean_of_all_seeds_and_settings(tmp_path: Path) -> None:
    good = [{90: 100, 900: 80}, {90: 96, 900: 70}, {90: 90, 900: 0}]
    make_runs(tmp_path, "rate", good)
    make_runs(tmp_path, "dt", [{90: 60, 900: 50}] * 3)
    text = leaderboard([tmp_path], RULES)
    first, second = cells(text, "rate"), cells(text, "dt")
    assert (first[0], second[0]) == ("1", "2")
    scores = np.sort([count for run in good for count in run.values()]) / 100
    expected = (1 * scores[1] / 2 + scores[2:4].sum() + scores[4] / 2) / 3  # the middle half of six scores
    trimmed = scores[1:5].mean()  # SciPy's trimmed mean, which rliable takes, drops whole scores: one at each end
    assert first[2].startswith(f"{trimmed:.2f} ")
    assert abs(expected - trimmed) < 0.05
    assert first[3] == f"{(1 + 2 / 3) / 2:.2f}"  # every seed wins at 90, two of three at 900
    assert first[4:] == ["0.95", "0.50", "the expert", "1,500", "3"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"checkpoint": "best, update 5"}, "checkpoint: best, update 5"),
        ({"evaluation_seed": 0}, "tested on the seeds of the data"),
        ({"data": "collect_seed = 1050"}, "tested on the seeds of the data"),  # 100 environments from seed 1000 on
        ({"data": 'dataset = ["tmaze/expert-9-seed999-0a1b2c3d-v0"]'}, "tested on the seeds of the data"),
        ({"data": f"dataset = {SEVERAL}"}, "tested on the seeds of the data"),
    ],
)
def test_what_breaks_a_rule_is_named_and_not_ranked(tmp_path: Path, options: dict[str, str | int], reason: str) -> None:
    make_runs(tmp_path, "rate", [{90: 50}] * 3)
    make_runs(tmp_path, "dt", [{90: 100}] * 3, **options)
    text = leaderboard([tmp_path], RULES)
    assert cells(text, "rate")[0] == "1"
    assert f"Not ranked: dt ({reason})." in text


def test_too_few_seeds_episodes_or_settings_are_not_ranked(tmp_path: Path) -> None:
    make_runs(tmp_path, "rate", [{90: 50, 900: 50}] * 3)
    make_runs(tmp_path, "dt", [{90: 100, 900: 100}] * 2)
    make_runs(tmp_path, "bc", [{90: 100}] * 3)
    text = leaderboard([tmp_path], RULES)
    assert "bc (not tested at corridor_length=900)" in text
    assert "dt (seeds: 2)" in text
    assert "rate (100 episodes at corridor_length=90)" in leaderboard([tmp_path], Rules(episodes=101))


def test_the_command_writes_a_table_and_a_page_in_which_names_are_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_runs(tmp_path / "runs", "a<script>b", [{90: 50}] * 3)
    make_runs(tmp_path / "runs", "x", [{90: 50}] * 3, env="other")
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "board")]) == 0
    text = (tmp_path / "board.md").read_text()
    page = (tmp_path / "board.html").read_text()
    assert "## tmaze" in text
    assert "## other" in text
    assert "<script>" not in page
    assert "a&lt;script&gt;b" in page
    assert page.count("<table>") == 2
    assert page == as_page(text)
    assert text in capsys.readouterr().out


def test_results_files_record_the_seeds_of_data_and_evaluation(tmp_path: Path) -> None:
    for seed in range(3):
        for agent, data in (("rate", "collect_seed = 1000"), ("dt", f"dataset = {SEVERAL}")):
            run = tmp_path / "runs" / f"{agent}-{seed}"
            make_run(run, {90: 50}, seed, agent=agent, data=data)
            ResultsFile(tmp_path / "shared" / FILE).put(RunResult.of(run))
    text = leaderboard([tmp_path / "shared"], RULES)
    for agent in ("dt", "rate"):
        assert f"{agent} (tested on the seeds of the data)" in text


def test_single_runs_take_part_by_name(tmp_path: Path) -> None:
    make_runs(tmp_path, "rate", [{90: 50}] * 3)
    text = leaderboard([str(tmp_path), "zoo:tmaze-rate", "zoo:cartpole_hidden-rate"], Rules(seeds=1))
    assert "## cartpole_hidden" in text
    assert text.count("## tmaze") == 2  # the zoo's run was trained with other options of the environment
    with pytest.raises(UsageError, match="zoo:nowhere isn't in the zoo"):
        leaderboard(["zoo:nowhere"], RULES)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no evaluated runs"):
        leaderboard([tmp_path], RULES)


def test_the_leaderboard_of_the_experiments_is_that_of_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    folder = Path("experiments/leaderboard")
    (command,) = [line for line in (folder / "README.md").read_text().splitlines() if "rmt-rl leaderboard" in line]
    _, _, *names, _, _ = command.split()
    text = leaderboard(names, Rules())
    assert (folder / "board.md").read_text() == text, f"run: {command.strip()}"
    assert (folder / "board.html").read_text() == as_page(text)
    assert "elmur-ageing" in text
