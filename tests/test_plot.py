from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from rmt_rl.analysis.aggregate import evaluation_cells, life_cells, metric_curve, read_groups, varied_option
from rmt_rl.analysis.comparison import comparison_table
from rmt_rl.analysis.figures import COLOURS
from rmt_rl.analysis.plot import Axis, plot
from rmt_rl.analysis.run_records import Score, read_single_evaluation
from rmt_rl.errors import UsageError
from rmt_rl.statistics import mean_interval, success_interval


def make_run(
    path: Path,
    agent: str = "rate",
    seed: int = 0,
    valve: str = "ca-2",
    curve: Mapping[int, float] | None = None,
    results: Mapping[Any, int] | None = None,
    option: str = "length",
    env: str = "maze",
    dataset: str = "expert-v0",
) -> Path:
    """Write the files of a run; `results` are successes of 100 episodes by the varied option's value."""
    path.mkdir(parents=True)
    (path / "config.toml").write_text(
        f'env = "{env}"\nagent = "{agent}"\nseed = {seed}\n[agent_options]\nvalve = "{valve}"\nwidth = 64\n'
        f'[data]\ndataset = ["{dataset}"]\ncollect_seed = {seed}\nbatch_size = 8\n'
    )
    if curve is not None:
        lines = [{"update": at, "train/loss": 1.0, "eval/success_rate": rate} for at, rate in curve.items()]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results is not None:
        written = [
            {
                "options": {option: value},
                "success_rate": count / 100,
                "success_interval": success_interval(count, 100),
                "mean_return": count / 100,
                "return_interval": None,
            }
            for value, count in results.items()
        ]
        (path / "evaluation.json").write_text(json.dumps({"format": 1, "checkpoint": "best", "results": written}))
    return path


def width(picture: Path) -> int:
    return int(imread(picture).shape[1])


def holds(picture: Path, colour: str) -> bool:
    wanted = np.array([int(colour[index : index + 2], 16) for index in (1, 3, 5)])
    pixels = np.round(imread(picture)[..., :3] * 255)
    return bool((np.abs(pixels - wanted).max(-1) <= 2).any())


def test_runs_are_grouped_by_all_but_their_seeds(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{valve}-{seed}", seed=seed, valve=valve) for valve in ("gru", "ca-2") for seed in (0, 1)
    ]
    runs.append(make_run(tmp_path / "dt", agent="dt", valve="none"))
    groups = read_groups([*runs, runs[0]])
    assert [group.label for group in groups] == ["rate, valve=gru", "rate, valve=ca-2", "dt"]
    assert [len(group.runs) for group in groups] == [2, 2, 1], "a folder that is named twice counts once"


def test_runs_on_different_data_are_no_seeds_of_one_another(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / data, dataset=data, results={90: 50}) for data in ("expert-v0", "random-v0")]
    assert [len(group.runs) for group in read_groups(runs)] == [1, 1]
    assert [line.split("|")[1] for line in comparison_table(runs).splitlines()[2:]] == [
        " rate, dataset=['expert-v0'] ",
        " rate, dataset=['random-v0'] ",
    ]


def test_a_seed_counts_once(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, seed=seed) for name, seed in (("one", 3), ("other", 4), ("again", 3))]
    with pytest.raises(UsageError, match=r"/one and .*/again are of the same config and the same seed, 3; leave one"):
        read_groups(runs)


def test_labels_say_no_more_than_tells_groups_apart(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", agent="dt")
    assert [group.label for group in read_groups([one, two])] == ["rate", "dt"]
    other = make_run(tmp_path / "other", agent="dt", env="cube")
    assert [group.label for group in read_groups([one, other])] == ["rate, env=maze", "dt, env=cube"]


def test_curves_are_means_with_intervals_over_seeds_at_shared_updates(tmp_path: Path) -> None:
    curves = [{0: 0.5, 100: 0.8, 200: 1.0}, {0: 0.4, 100: 0.9}, {0: 0.6, 100: 0.7, 200: 1.0}]
    runs = [make_run(tmp_path / str(seed), seed=seed, curve=curve) for seed, curve in enumerate(curves)]
    runs.append(make_run(tmp_path / "young", seed=9))  # has no line yet
    curve = metric_curve(read_groups(runs)[0], "eval/success_rate")
    assert list(curve) == [0, 100]
    assert curve[100].mean == pytest.approx(0.8)
    assert curve[100].interval == mean_interval([0.8, 0.9, 0.7])
    assert curve[100].count == 3


def test_cells_are_over_seeds_or_for_one_seed_over_its_episodes(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), seed=seed, results={90: 100, 900: 60 + seed}) for seed in range(3)]
    runs.append(make_run(tmp_path / "dt", agent="dt", results={900: 50}))
    groups = read_groups(runs)
    assert varied_option(groups) == "length"
    cells = evaluation_cells(groups, "length", "success_rate")
    assert cells["rate"][90].interval == (1.0, 1.0)
    assert cells["rate"][900].interval == mean_interval([0.60, 0.61, 0.62])
    assert cells["dt"][900].interval == pytest.approx(success_interval(50, 100))


def test_the_table_is_markdown_in_the_order_of_values(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), seed=seed, results={9600: 90 + seed, 90: 100}) for seed in range(2)]
    runs.append(make_run(tmp_path / "third", seed=2, results={90: 100}))
    runs.append(make_run(tmp_path / "dt", agent="dt", results={90: 50}))
    assert comparison_table(runs).splitlines() == [
        "| success rate at length | 90 | 9,600 | seeds |",
        "| --- | ---: | ---: | ---: |",
        "| rate | 1.00 ± 0.00 | 0.91 ± 0.06 (n = 2) | 3 |",
        "| dt | 0.50 [0.40, 0.60] |  | 1 |",
    ]


def test_a_second_varied_option_joins_the_label(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", results={})
    results = [
        {"options": {"length": length, "penalty": penalty}, "success_rate": None, "mean_return": length + penalty}
        | {"success_interval": None, "return_interval": [0, 1]}
        for penalty in (0, -1)
        for length in (3, 5, 7)
    ]
    (run / "evaluation.json").write_text(json.dumps({"format": 1, "checkpoint": "best", "results": results}))
    assert comparison_table([run]).splitlines()[2:] == [
        "| rate, penalty=0 | 3.00 [0.00, 1.00] | 5.00 [0.00, 1.00] | 7.00 [0.00, 1.00] | 1 |",
        "| rate, penalty=-1 | 2.00 [0.00, 1.00] | 4.00 [0.00, 1.00] | 6.00 [0.00, 1.00] | 1 |",
    ]
    assert comparison_table([run]).startswith("| mean return at length |")
    assert holds(plot([run], tmp_path / "out.png"), COLOURS[1])


def test_results_without_the_varied_option_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", results={3: 50, 900: 50})
    record = json.loads((run / "evaluation.json").read_text())
    record["results"].insert(0, record["results"][0] | {"options": {}})
    (run / "evaluation.json").write_text(json.dumps(record))
    once = make_run(tmp_path / "once", agent="dt", results={3: 50})
    (once / "evaluation.json").write_text(json.dumps(record | {"results": record["results"][:1]}))
    assert comparison_table([run, once]).splitlines() == [
        "| success rate at length | 3 | 900 | seeds |",
        "| --- | ---: | ---: | ---: |",
        "| rate | 0.50 [0.40, 0.60] | 0.50 [0.40, 0.60] | 1 |",
    ]
    assert holds(plot([run, once], tmp_path / "out.png"), COLOURS[0])
    assert comparison_table([once]).splitlines()[2] == "| dt | 0.50 [0.40, 0.60] | 1 |"


def test_the_picture_has_a_panel_for_what_there_is(tmp_path: Path) -> None:
    both = make_run(tmp_path / "both", curve={0: 0.4, 5: 0.9}, results={90: 100, 9600: 70})
    trained = make_run(tmp_path / "trained", agent="dt", curve={0: 0.4, 5: 0.5})
    evaluated = make_run(tmp_path / "evaluated", agent="bc", results={90: 50})
    two = plot([both, trained], tmp_path / "deep" / "two.png")
    one, other = plot([trained], tmp_path / "one.png"), plot([evaluated], tmp_path / "other.png")
    assert width(two) > width(one) == width(other)
    assert holds(two, COLOURS[0])
    assert holds(two, COLOURS[1])
    assert not holds(one, COLOURS[1])


def test_runs_that_are_counted_in_other_units_have_a_panel_each(tmp_path: Path) -> None:
    offline = make_run(tmp_path / "offline", curve={0: 0.4, 5: 0.9})
    online = make_run(tmp_path / "online", agent="ppo", curve={1000: 0.4, 2000: 0.9})
    unknown = make_run(tmp_path / "unknown", agent="not_installed", curve={1: 0.4})
    groups = read_groups([offline, online, unknown])
    assert [group.unit for group in groups] == ["update", "environment step", "update or environment step"]
    one, two = plot([offline], tmp_path / "one.png"), plot([offline, online], tmp_path / "two.png")
    assert width(two) > width(one)


def test_a_single_evaluation_is_asked_for_by_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", results={3: 50})
    assert read_single_evaluation(run).scores == {
        "success_rate": Score(0.5, success_interval(50, 100)),
        "mean_return": Score(0.5, None),
    }
    with pytest.raises(UsageError, match="several has 2 evaluations, but exactly 1 is needed"):
        read_single_evaluation(make_run(tmp_path / "several", results={3: 50, 4: 60}))
    with pytest.raises(UsageError, match="none has 0 evaluations, but exactly 1 is needed"):
        read_single_evaluation(make_run(tmp_path / "none"))


@pytest.mark.parametrize("values", [["easy", "hard"], [[1, 30], [1, 90]], [True, False], [3], [-1, 0, 1]])
def test_any_kind_of_value_can_be_drawn(tmp_path: Path, values: list[Any]) -> None:
    run = make_run(tmp_path / "run", results={})
    results = [
        {"options": {"mode": value}, "success_rate": 0.5, "success_interval": [0.4, 0.6], "mean_return": 0.5}
        | {"return_interval": None}
        for value in values
    ]
    (run / "evaluation.json").write_text(json.dumps({"format": 1, "checkpoint": "best", "results": results}))
    assert holds(plot([run], tmp_path / "out.png"), COLOURS[0])
    assert comparison_table([run]).splitlines()[2].count("0.50 [0.40, 0.60]") == len(values)


@pytest.mark.parametrize(
    ("agent", "value"), [("_hidden", 10**400), ("", "long" * 25_000), ("long" * 25_000, -1e308)], ids=range(3)
)
def test_any_text_and_number_of_a_file_is_drawn_soon(tmp_path: Path, agent: str, value: Any) -> None:
    run = make_run(tmp_path / "run", agent, results={1: 20, value: 50}, option="_option" * 25_000)
    comparison_table([run])
    assert 300 < width(plot([run], tmp_path / "picture.png")) < 3000


@pytest.mark.parametrize("update", ["²", "9" * 5000, "-3", ""])
def test_a_checkpoint_s_update_may_be_any_text(tmp_path: Path, update: str) -> None:
    run = make_run(tmp_path / "run", results={1: 20})
    path = run / "evaluation.json"
    record = json.loads(path.read_text()) | {"checkpoint": f"last, update {update}"}
    path.write_text(json.dumps(record))
    assert read_groups([run])


def test_a_half_written_last_line_is_left_out_and_a_repeated_update_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", curve={0: 0.1, 50: 0.2})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"update": 50, "eval/success_rate": 0.7}\n{"update": 100, "eval/succ')
    curve = metric_curve(read_groups([run])[0], "eval/success_rate")
    assert {update: estimate.mean for update, estimate in curve.items()} == {0: 0.1, 50: 0.7}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"update": 1}\n[1]\n', "line 2, is damaged: no object with an update"),
        (b'{"loss": 1}\n{"update": 1}\n', "line 1, is damaged: no object with an update"),
        (b'{"update": 1}\n\xff\xfe', "is damaged: 'utf-8' codec"),
        (b'{"update": 1, "eval/success_rate": null}\n', "line 1, is damaged: a value is no number"),
    ],
)
def test_damaged_metrics_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    run = make_run(tmp_path / "run", results={3: 50})
    (run / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match=rf"metrics\.jsonl.* {message}"):
        comparison_table([run])


RATED = '"success_interval": null, "mean_return": 0, "return_interval": null'


@pytest.mark.parametrize(
    "content",
    [
        '{"format": 1}',
        '{"format": 1, "checkpoint": "last", "results": [{"options": {}}]}',
        f'{{"format": 1, "checkpoint": "last", "results": [{{"options": {{}}, "success_rate": "x", {RATED}}}]}}',
    ],
)
def test_a_damaged_evaluation_is_named(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "run")
    (run / "evaluation.json").write_text(content)
    with pytest.raises(
        UsageError, match=r"evaluation\.json is damaged \(results are missing, incomplete or out of range\)"
    ):
        comparison_table([run])


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty is no run"):
        plot([tmp_path / "empty"], out)
    with pytest.raises(UsageError, match="no runs were given"):
        plot([], out)
    with pytest.raises(UsageError, match=r"the name must end in \.png or \.svg"):
        plot([make_run(tmp_path / "seen", curve={0: 0.1})], tmp_path / "out.pdf")
    untouched = make_run(tmp_path / "untouched")
    with pytest.raises(UsageError, match="no evaluation to draw"):
        plot([untouched], out)
    with pytest.raises(UsageError, match="none of these runs was evaluated"):
        comparison_table([untouched])
    (untouched / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl, line 1, is damaged"):
        plot([untouched], out)
    (untouched / "config.toml").write_text("env = 3")
    with pytest.raises(UsageError, match=r"config\.toml is damaged: it names no env"):
        plot([untouched], out)
    (untouched / "config.toml").write_text("agent = ")
    with pytest.raises(UsageError, match=r"config\.toml is damaged"):
        plot([untouched], out)
    assert not out.exists()


def evaluated(run: Path, checkpoint: str, seed: int) -> Path:
    """The run, its evaluation made so."""
    record = json.loads((run / "evaluation.json").read_text())
    results = [result | {"seed": seed} for result in record["results"]]
    (run / "evaluation.json").write_text(json.dumps(record | {"checkpoint": checkpoint, "results": results}))
    return run


def test_what_was_evaluated_in_different_ways_or_too_early_is_told(tmp_path: Path) -> None:
    made = [make_run(tmp_path / str(seed), seed=seed, curve={5: 1.0}, results={3: 50}) for seed in range(3)]
    alike = [evaluated(made[0], "last, update 5", 7), evaluated(made[1], "last, update 5", 7)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison_table(alike)
    with pytest.warns(UserWarning, match="0 was evaluated with checkpoint=last, .*2 with checkpoint=best"):
        comparison_table([*alike, evaluated(made[2], "best, update 3", 7)])
    with pytest.warns(UserWarning, match="2 was evaluated at update 3 and has been trained to 5 since"):
        comparison_table([*alike, evaluated(made[2], "last, update 3", 7)])


def test_a_picture_is_what_its_name_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", curve={0: 0.1, 50: 0.2})
    assert plot([run], tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    assert plot([run], tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_runs_without_success_count_only_where_they_are_drawn(tmp_path: Path) -> None:
    rated, unrated = (
        make_run(tmp_path / "rated", results={3: 50}),
        make_run(tmp_path / "other", agent="ppo", env="pole"),
    )
    nothing: dict[str, Any] = {
        "options": {},
        "success_rate": None,
        "success_interval": None,
        "mean_return": 9,
        "return_interval": None,
    }
    record = {"format": 1, "checkpoint": "last", "results": [nothing]}
    (unrated / "evaluation.json").write_text(json.dumps(record))
    assert comparison_table([rated, unrated]).startswith("| success rate at length")


def test_thousands_of_results_are_drawn(tmp_path: Path) -> None:
    """As one band, since bars beside each other would touch; other settings keep their results."""
    results = {each + 1: each % 100 for each in range(3000)}
    run = make_run(tmp_path / "run", results=results)
    assert plot([run], tmp_path / "a.svg").stat().st_size > 10_000
    (group,) = read_groups([run])
    (row,) = evaluation_cells([group], "length", "success_rate").values()
    assert list(row) == sorted(results)
    ticks = Axis.of(list(row)).ticks()
    assert "3,000" in ticks
    assert len(ticks) < 30


def play_lives(run: Path, returns: list[float]) -> None:
    """Add mean returns by the episode of a life to a run's first result."""
    record = json.loads((run / "evaluation.json").read_text())
    means = [{"mean": each, "interval": None} for each in returns]
    record["results"][0]["return_by_episode_of_life"] = means
    (run / "evaluation.json").write_text(json.dumps(record))


def test_the_return_of_lives_is_drawn_by_their_episodes(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), seed=seed, results={3: 50}) for seed in (0, 1)]
    for seed, run in enumerate(runs):
        play_lives(run, [float(episode + seed) for episode in range(3)])
    (row,) = life_cells(read_groups(runs)).values()
    assert {episode: estimate.mean for episode, estimate in row.items()} == {1: 0.5, 2: 1.5, 3: 2.5}
    text = plot(runs, tmp_path / "lives.svg").read_text(encoding="utf-8")
    assert "<!-- episode of the life -->" in text


def many_runs(folder: Path, count: int, values: list[Any]) -> list[Path]:
    """Return runs of so many configs, each evaluated at these values."""
    results = {value: 100 - 2 * place for place, value in enumerate(values)}
    curve = {0: 0.4, 5: 0.9}
    return [make_run(folder / str(n), valve=f"valve-{n}", curve=curve, results=results) for n in range(count)]


def test_lives_of_many_groups_become_a_heat_map(tmp_path: Path) -> None:
    runs = many_runs(tmp_path, 7, [3])
    for run in runs:
        play_lives(run, [0.0, 1.0])
    alone = plot(runs, tmp_path / "alone.svg", ["lives"]).read_text(encoding="utf-8")
    beside = plot(runs, tmp_path / "beside.svg").read_text(encoding="utf-8")
    assert "<!-- episode of the life -->" in alone
    assert "<!-- episode of the life -->" in beside


@pytest.mark.parametrize("values", [[90, 900], ["easy", "hard"], list(range(40))], ids=["numbers", "texts", "many"])
def test_many_groups_get_panels_of_their_own_and_a_heat_map(tmp_path: Path, values: list[Any]) -> None:
    runs = many_runs(tmp_path, 7, values)
    few = plot(runs[:6], tmp_path / "few.png")
    many = plot(runs, tmp_path / "many.png")
    assert holds(few, COLOURS[1])
    assert not holds(many, COLOURS[1]), "no line is told apart by its colour"
    assert holds(many, COLOURS[0])
    assert holds(plot(runs, tmp_path / "scores.png", ["evaluation"]), "#fde725"), "success 1.00 in the map's colour"
    text = plot(runs, tmp_path / "many.svg").read_text(encoding="utf-8")
    assert text.count("<!-- rate, valve=valve-3 -->") == 2, "a small panel's title and a row's name"


def test_a_heat_map_leaves_cells_empty_that_were_not_evaluated(tmp_path: Path) -> None:
    runs = many_runs(tmp_path, 7, [90])
    runs.append(make_run(tmp_path / "dt", agent="dt", results={900: 50}))
    text = plot(runs, tmp_path / "many.svg", ["evaluation"]).read_text(encoding="utf-8")
    assert text.count("<!-- 1.00 ± 0.02 -->") == 7
    assert text.count("<!-- 0.50 ± 0.10 -->") == 1
