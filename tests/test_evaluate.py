from __future__ import annotations

import json
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rmt_rl.acting.evaluate import evaluate, evaluate_grid, parse_vary
from rmt_rl.agent import AgentSpec
from rmt_rl.errors import UsageError
from rmt_rl.registry import agent_class, load_task
from rmt_rl.runs.evaluation import READ, Evaluation, read_evaluation, read_results, write_evaluation
from tests.recall import Config, Expert, RecallTask

TASK = RecallTask()


class Zero:
    """Never recalls: right half of the time."""

    def predict(
        self, observation: NDArray[Any], state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[NDArray[np.int64], Any]:
        return np.zeros(len(observation), np.int64), state


def expert() -> Expert:
    return Expert(Config())


def outcome(evaluation: Evaluation) -> list[tuple[int, float, int, bool | None]]:
    return [(one.lane, one.episode_return, one.length, one.success) for one in evaluation.episodes]


def test_counts_success_return_and_length() -> None:
    evaluation = evaluate(expert(), TASK, {"length": 7}, episodes=25, seed=0, max_lanes=10)
    assert outcome(evaluation) == [(lane, 1.0, 7, True) for lane in range(10) for _ in range(3 if lane < 5 else 2)]
    assert evaluation.success_rate == evaluation.mean_return == 1.0
    assert evaluation.mean_length == 7
    assert evaluation.success_interval == pytest.approx((0.8668, 1.0), abs=1e-4)
    assert evaluation.return_interval == (1.0, 1.0)


def test_a_policy_without_memory_is_right_half_of_the_time() -> None:
    evaluation = evaluate(Zero(), TASK, {}, episodes=400, seed=0)
    successes = [bool(one.success) for one in evaluation.episodes]
    assert evaluation.success_rate == np.mean(successes) == pytest.approx(0.5, abs=0.1)
    low, high = evaluation.return_interval or (0, 0)
    assert low < evaluation.mean_return < high
    assert high - low == pytest.approx(2 * 1.966 * np.std(successes, ddof=1) / 20, rel=1e-3)


def test_seeds_repeat_and_differ() -> None:
    one, again, other = (outcome(evaluate(Zero(), TASK, {}, 40, seed)) for seed in (3, 3, 4000))
    assert one == again
    assert one != other


def test_without_a_reported_success_there_is_no_rate() -> None:
    class Silent(RecallTask):
        def make(self, **options: Any) -> Any:
            env = RecallTask.make(**options)
            step = env.step
            env.step = lambda action: (*step(action)[:4], {})  # type: ignore[method-assign]
            return env

    evaluation = evaluate(expert(), Silent(), {}, 4, seed=0)
    assert evaluation.success_rate is None
    assert evaluation.success_interval is None
    assert evaluation.mean_return == 1.0


def test_a_target_return_is_observed_as_return_to_go() -> None:
    class Conditioned(Expert):
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
        ) -> tuple[Any, Any]:
            assert (observation["return_to_go"][episode_start] == 0.5).all()
            return super().predict(observation["observation"], state, episode_start)

    assert evaluate(Conditioned(Config()), TASK, {}, 6, seed=0, target_return=0.5, max_lanes=2).success_rate == 1.0


def test_memory_does_not_grow_with_an_episodes_length() -> None:
    def peak(length: int) -> int:
        tracemalloc.start()
        evaluate(expert(), TASK, {"length": length}, 2, seed=0)
        return tracemalloc.get_traced_memory()[1]

    peak(10)
    assert peak(4000) < peak(400) + 20_000


def test_progress_counts_steps_and_episodes() -> None:
    calls: list[tuple[int, int]] = []
    evaluate(expert(), TASK, {"length": 3}, 4, 0, max_lanes=2, progress=lambda *call: calls.append(call))
    # Two lanes of two episodes of three steps; the fourth step resets both lanes.
    assert calls == [(1, 0), (2, 0), (3, 2), (4, 2), (5, 2), (6, 2), (7, 4)]


@pytest.mark.parametrize(("episodes", "max_lanes"), [(0, 10), (3, 0)])
def test_nothing_to_play_is_refused(episodes: int, max_lanes: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        evaluate(expert(), TASK, {}, episodes, seed=0, max_lanes=max_lanes)


def test_a_sweep_evaluates_every_combination_when_asked() -> None:
    results = evaluate_grid(expert(), TASK, {"length": 2}, {"length": [3, 9], "cues": [2, 5]}, 2, seed=1)
    first = next(results)
    assert first.options == {"length": 3, "cues": 2}
    assert [(one.options["length"], one.mean_length) for one in results] == [(3, 3), (9, 9), (9, 9)]
    assert [one.options for one in evaluate_grid(expert(), TASK, {}, {}, 1, seed=1)] == [{}]


def test_a_sweep_checks_every_value_before_it_plays() -> None:
    with pytest.raises(UsageError, match="did you mean 'length'"):
        evaluate_grid(expert(), TASK, {}, {"lengths": [3]}, 2, seed=1)
    with pytest.raises(UsageError, match="length=0"):
        evaluate_grid(expert(), TASK, {}, {"length": [3, 0]}, 2, seed=1)


def test_varied_values_are_read_as_json() -> None:
    assert parse_vary(["corridor_length=90,300, 9600", "penalty=-0.5", "active=true,false", "mode=easy,3x"]) == {
        "corridor_length": [90, 300, 9600],
        "penalty": [-0.5],
        "active": [True, False],
        "mode": ["easy", "3x"],
    }
    assert parse_vary(["corridor_length=[1,88],90"]) == {"corridor_length": [[1, 88], 90]}


@pytest.mark.parametrize("text", ["length", "length=", "=3", "length=1"])
def test_malformed_varied_values_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--vary '{text}'"):
        parse_vary(["length=3", text])


def test_a_sweep_says_what_it_begins() -> None:
    begun: list[Any] = []
    results = evaluate_grid(expert(), TASK, {}, {"length": [3, 9]}, 1, seed=1, begin=begun.append)
    next(results)
    assert begun == [{"length": 3}]
    assert len(list(results)) == 1
    assert begun == [{"length": 3}, {"length": 9}]


def evaluated(vary: dict[str, list[Any]], seed: int = 0, **options: Any) -> list[Evaluation]:
    return list(evaluate_grid(expert(), TASK, {}, vary, 3, seed, **options))


def test_the_file_holds_every_result(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path, evaluated({"length": [3, 4]}), checkpoint="best, update 400")
    record = json.loads(path.read_text())
    assert record == read_evaluation(tmp_path)
    assert (record["format"], record["checkpoint"]) == (1, "best, update 400")
    assert [result["options"] for result in record["results"]] == [{"length": 3}, {"length": 4}]
    first = record["results"][0]
    assert (first["seed"], first["success_rate"], first["mean_return"], first["mean_length"]) == (0, 1.0, 1.0, 3.0)
    assert first["episodes"][0] == {"lane": 0, "return": 1.0, "length": 3, "success": True}
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_results_at_other_settings_are_kept_and_those_of_another_checkpoint_dropped(tmp_path: Path) -> None:
    def settings() -> list[tuple[int, int]]:
        return [(result["options"]["length"], result["seed"]) for result in read_results(tmp_path)]

    write_evaluation(tmp_path, evaluated({"length": [3, 4]}), "one")
    write_evaluation(tmp_path, evaluated({"length": [4, 5]}), "one")
    assert settings() == [(3, 0), (4, 0), (5, 0)]
    with pytest.warns(UserWarning, match="3 earlier results are dropped"):
        write_evaluation(tmp_path, evaluated({"length": [6]}), "two")
    assert settings() == [(6, 0)]


@pytest.mark.parametrize("change", [{"seed": 1}, {"deterministic": False}, {"target_return": 0.5}, {"max_lanes": 2}])
def test_results_made_in_another_way_are_dropped(tmp_path: Path, change: dict[str, Any]) -> None:
    class Conditioned(Expert):
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
        ) -> tuple[Any, Any]:
            plain = observation["observation"] if isinstance(observation, dict) else observation
            return super().predict(plain, state, episode_start)

    def write(length: int, **options: Any) -> list[Any]:
        wanted: dict[str, Any] = {"seed": 0} | options
        write_evaluation(
            tmp_path, evaluate_grid(Conditioned(Config()), TASK, {}, {"length": [length]}, 3, **wanted), "one"
        )
        return [result["options"]["length"] for result in read_results(tmp_path)]

    assert [write(3), write(4)] == [[3], [3, 4]]
    with pytest.warns(UserWarning, match="2 earlier results are dropped"):
        assert write(5, **change) == [5]
    assert write(6, **change) == [5, 6]


def test_the_file_says_how_results_were_made(tmp_path: Path) -> None:
    write_evaluation(tmp_path, [evaluate(expert(), TASK, {}, 3, 7, deterministic=False, max_lanes=5)], "one")
    (result,) = read_results(tmp_path)
    made = {"seed": 7, "deterministic": False, "target_return": None, "lanes": 5}
    assert made.items() <= result.items()


def test_a_damaged_file_is_named_when_read_and_replaced_when_written(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path) is None
    (tmp_path / "evaluation.json").write_text('{"format": 1, "resu')
    with pytest.raises(UsageError, match=r"evaluation\.json is damaged"):
        read_evaluation(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="not of format 1"):
        read_evaluation(tmp_path)
    write_evaluation(tmp_path, evaluated({}), "one")
    assert read_evaluation(tmp_path) is not None


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"success_rate": "1"}, "results.0.success_rate"),
        ({"return_interval": [0.5]}, "results.0.return_interval"),
        ({"options": []}, "results.0.options"),
        ({"episodes": [{"lane": 0}]}, "results.0.episodes.0"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    path = write_evaluation(tmp_path, evaluated({}), "one")
    record = json.loads(path.read_text())
    record["results"][0] |= change
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError, match=rf"evaluation\.json is damaged .*: {place}.*; evaluate the run again"):
        read_evaluation(tmp_path)


def test_a_result_needs_only_what_tables_and_plots_read(tmp_path: Path) -> None:
    figures = {name: None for name in READ} | {"options": {}, "mean_return": 1}
    record = {"format": 1, "checkpoint": "one", "results": [figures]}
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    assert read_evaluation(tmp_path) == record


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path, evaluated({}), "one")
    before = path.read_bytes()
    bad = evaluated({})[0]
    object.__setattr__(bad, "seed", object())  # JSON can't hold it
    with pytest.raises(TypeError):
        write_evaluation(tmp_path, [bad], "one")
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file/run can't be written to \(Not a directory\)"):
        write_evaluation(tmp_path / "file" / "run", evaluated({}), "one")


def test_a_task_may_limit_how_many_environments_are_open_at_once() -> None:
    class Large(RecallTask):
        LANES = 2

    found = evaluate(expert(), Large(), {}, 7, seed=0)
    assert {episode.lane for episode in found.episodes} == {0, 1}
    assert len(found.episodes) == 7


def test_what_is_varied_must_leave_an_agent_its_spaces() -> None:
    task, cls = load_task("cartpole_hidden"), agent_class("bc")
    with closing(task.make()) as env:
        agent = cls(cls.Config(), AgentSpec(env.observation_space, env.action_space))
    with pytest.raises(UsageError, match=r"with hide='nothing', .* has observation_space .*; vary another option"):
        evaluate_grid(agent, task, {}, {"hide": ["velocities", "nothing"]}, 1, seed=0)
