"""Evaluations in shards: the same episodes, seeds and random numbers as in one piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rmt_rl.acting.evaluate_agent import EvaluationSettings, evaluate_run_grid
from rmt_rl.acting.evaluate_shards import SavedAgent, evaluate_shards, plan_shards
from rmt_rl.agent import AgentSpec, BaseAgent
from rmt_rl.cli import main
from rmt_rl.errors import UsageError
from rmt_rl.nn.sampling import BatchPart
from rmt_rl.registry import agent_class
from rmt_rl.runs.checkpoint import load_agent, path_of
from rmt_rl.runs.evaluation import FILE
from rmt_rl.runs.folder import read_config
from rmt_rl.training.loop import train
from tests.test_shards import BROKEN, results
from tests.tiny import tiny, work_folder

ACTING = ["--total-timesteps", "16", "--n-envs", "2", "--agent.n-steps", "8", "--agent.batch-size", "16"]
VARIED = ["--vary", "corridor_length=2,9"]
RUNS = {"rate": VARIED, "dt": VARIED, "ppo": []}


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with runs of two agents that learn from data and of one that learns by acting."""
    with work_folder(tmp_path_factory) as folder:
        for agent in ("rate", "dt"):
            train(tiny(agent, updates=2, evaluation={"eval_episodes": 0}), Path(agent))
        Path("late.py").write_text(BROKEN.replace("seed >= 64", "seed == 70"))  # of the second shard
        for env, run in (("CartPole-v1", "ppo"), ("late:Broken", "broken-run")):
            assert main(["train", env, "ppo", *ACTING, "--eval-episodes", "0", "--out", run]) == 0
        yield folder


def evaluated(run: str, *flags: str) -> str:
    """Evaluate a run and return its `evaluation.json` without the times that were measured."""
    Path(run, FILE).unlink(missing_ok=True)
    assert main(["evaluate", run, "--episodes", "13", "--num-envs", "5", *RUNS[run], *flags]) == 0
    return results(Path(run))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("way", [[], ["--sample"]])
def test_results_are_the_same_in_shards(run: str, way: list[str]) -> None:
    """13 episodes in 5 environments: three of them play 3. There can't be more shards than environments."""
    in_one_piece = evaluated(run, *way)
    for shards in ("2", "9"):
        assert evaluated(run, *way, "--shards", shards) == in_one_piece


DISCRETE, BOX = spaces.Discrete(5, start=2), spaces.Box(-1, 1, (3,))
DICT = spaces.Dict({"turn": spaces.MultiDiscrete([2, 3]), "push": spaces.MultiBinary(2), "pull": BOX})
Case = tuple[str, spaces.Space[Any], dict[str, str]]
ONLINE: list[Case] = [(name, space, {}) for name in ("ppo", "recurrent_ppo") for space in (DISCRETE, BOX)]
FAMILIES: list[Case] = [("bc_lstm", BOX, {"head": family}) for family in ("gaussian", "bins", "mixture")]
OTHERS: list[Case] = [("bc_lstm", DISCRETE, {}), ("bc_lstm", DICT, {})]


@pytest.mark.parametrize(("name", "space", "options"), [*ONLINE, *FAMILIES, *OTHERS])
def test_a_part_of_a_batch_samples_what_its_rows_do_in_the_whole(
    name: str, space: spaces.Space[Any], options: dict[str, str]
) -> None:
    cls: Any = agent_class(name)
    agent = cls(cls.Config(**options), AgentSpec(spaces.Box(-1, 1, (4,)), space))
    observations = np.random.default_rng(0).uniform(-1, 1, (3, 7, 4)).astype(np.float32)

    def actions(rows: slice) -> list[Any]:
        """Return the numbers of the actions in three steps; an episode of row 3 begins with the second."""
        agent.set_random_seed(5)
        state, chosen = None, []
        for step, batch in enumerate(observations):
            starts = np.arange(7) == 3 if step == 1 else np.full(7, step == 0)
            played, state = agent.predict(batch[rows], state, starts[rows], deterministic=False)
            parts = played.values() if isinstance(played, dict) else [played]
            chosen.append(np.concatenate([np.reshape(part, (len(batch[rows]), -1)) for part in parts], 1))
        return chosen

    whole = actions(slice(None))
    part = BatchPart(first=2, size=3, whole=7)
    agent.sample_part(part)
    for step, chosen in enumerate(actions(part.rows)):
        np.testing.assert_allclose(chosen, whole[step][part.rows], rtol=1e-5, atol=1e-6)


def test_a_plan_divides_values_and_environments() -> None:
    config, settings = read_config(Path("rate")), EvaluationSettings(episodes=7, num_envs=3)
    agent = SavedAgent(Path("rate"), "last", 2, "cpu")
    vary = {"corridor_length": [2, 9]}
    plan = plan_shards(config, agent, vary, settings, 2)
    assert len(plan.every_shard()) == 4
    for shards in plan.shards:
        assert [(shard.part.first, shard.part.size, shard.episodes) for shard in shards] == [(0, 2, 5), (2, 1, 2)]
    told: list[tuple[int, int]] = []
    made = list(evaluate_shards(plan, map, lambda *numbers: told.append(numbers)))
    whole = list(evaluate_run_grid(config, load_agent("rate"), vary, settings))
    assert [one.episodes for one in made] == [one.episodes for one in whole]
    lengths = [[episode.length for episode in one.episodes] for one in whole]
    assert told == [(sum(each[:count]), count) for each in lengths for count in (5, 7)]
    of_whole_values = plan_shards(config, agent, vary, settings, 1)
    assert len(of_whole_values.every_shard()) == 2


def test_a_checkpoint_that_was_trained_meanwhile_is_refused() -> None:
    with pytest.raises(UsageError, match=r"is of update 2, but of update 1 when the evaluation began"):
        SavedAgent(Path("rate"), "last", 1, "cpu").load()


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--engine", "local"], "engine=local plays shards; say how many by --shards"),
        (["--shards", "2", "--engine", "local", "--device", "cuda:1"], "device=cuda:1: an engine gives each shard"),
        (["--shards", "2", "--engine", "lokal"], "did you mean 'local'"),
        (["--shards", "0"], "shards=0"),
        (["--shards", "2", "--vary", "corridor_lenght=2"], "did you mean 'corridor_length'"),
        (["--shards", "2", "--target-return", "nan"], "target_return"),
        (["--shards", "2", "--device", "qpu"], "device='qpu' can't be used"),
    ],
)
def test_what_does_not_fit_is_one_line(flags: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rate", FILE).unlink(missing_ok=True)
    assert main(["evaluate", "rate", *flags]) == 2
    told = capsys.readouterr().err
    assert error in told
    assert told.count("\n") == 1
    assert not Path("rate", FILE).exists()


def test_an_agent_that_cannot_sample_in_parts_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(agent_class("rate"), "sample_part", BaseAgent.sample_part)
    assert main(["evaluate", "rate", "--shards", "2", "--sample"]) == 2
    assert "leave out --shards or --sample" in capsys.readouterr().err
    assert main(["evaluate", "rate", "--shards", "2"]) == 0


def test_an_error_of_a_shard_is_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "broken-run", "--import", "late", "--episodes", "80", "--seed", "0", "--num-envs", "80"]
    assert path_of("broken-run").exists()
    assert main([*command, "--shards", "2"]) == 2
    assert "observations is not finite in environment" in capsys.readouterr().err
    assert not Path("broken-run", FILE).exists()
