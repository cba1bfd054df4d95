"""The remark at the end of a run: bad runs are told the level they reached and what to try, good ones nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rmt_rl.acting.evaluate import evaluate
from rmt_rl.acting.policies import RandomPolicy
from rmt_rl.environments import make_env
from rmt_rl.registry import load_task
from rmt_rl.runs.evaluation import Evaluation
from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training.loop import train
from rmt_rl.training.remarks import Finished, commonest_answer, low_level
from rmt_rl.training.segments import SegmentLearner
from tests.tiny import tiny, work_folder


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as made:
        yield made


def played(config: OfflineRun, expert: bool) -> Evaluation:
    task = load_task(config.env)
    random = RandomPolicy(make_env(task, config.env_options).action_space, seed=0)
    policy = task.Expert(config.env_options) if expert else random
    return evaluate(policy, task, config.env_options, episodes=8, seed=1)


def remark(config: OfflineRun, accuracy: float | None, evaluation: Evaluation | None) -> str | None:
    learner = SegmentLearner(config)
    return low_level(Finished(config, learner.model, learner.store, accuracy, evaluation))


def test_a_run_that_learnt_nothing_is_told_what_to_try(folder: Path) -> None:
    with pytest.warns(UserWarning, match="acts as if it had no memory: .* decisive actions are right") as caught:
        train(tiny("bc", data={"segments": 2}), folder / "bc")
    (text,) = [str(warning.message) for warning in caught if "Try" in str(warning.message)]
    assert "where random actions reach" in text
    assert "Try the tuned options of this environment: --updates 500" in text
    assert "an agent whose memory lasts, such as rate" in text
    assert text.endswith("more --segments, as an update reads 8 steps of up to 11, or more updates (--updates 20)")


def test_a_good_run_is_told_nothing() -> None:
    config = tiny()
    expert, random = (played(config, expert) for expert in (True, False))
    assert expert.mean_return == 1
    assert remark(config, 0.4, expert) is None, "the evaluation counts"
    assert remark(config, 0.9, None) is None
    assert remark(config, None, None) is None
    low = remark(config, 0.9, random)
    assert low is not None
    assert low.startswith("the agent is far from the expert: mean return")
    unseen = remark(config, 0.5, None)
    assert unseen is not None
    assert unseen.startswith("the agent acts as if it had no memory: 0.50 of the decisive actions are right, 0.")
    assert "whose memory lasts" not in unseen


def test_the_commonest_answer_is_told_from_the_data() -> None:
    share = commonest_answer(SegmentLearner(tiny()).store)
    assert share is not None
    assert 0.5 <= share < 0.8


@pytest.mark.parametrize(("hindsight", "is_proposed"), [(0, True), ("auto", False)])
def test_hindsight_is_proposed_where_it_is_declared_but_not_learnt(hindsight: float | str, is_proposed: bool) -> None:
    values = tiny(hindsight=hindsight).model_dump(mode="json", exclude_none=True)
    values |= {"env": "minigrid_memory", "env_options": {"size": 7}}
    config = make_config(values)
    assert isinstance(config, OfflineRun)
    text = remark(config, 0.5, None)
    assert text is not None
    assert ("--hindsight 1" in text) == is_proposed
