"""Memory ageing by itself: on where it can help, and off without an error where it can't be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rmt_rl.runs.options import OfflineRun, make_config
from rmt_rl.training.segments import SegmentLearner
from tests.tiny import Values, tiny, work_folder


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with work_folder(tmp_path_factory) as made:
        yield made


def ages(config: OfflineRun) -> bool:
    """Return whether the memories of some update in the second half of a run of 10 updates age."""
    assert config.training.ageing == "auto"
    learner = SegmentLearner(config)
    segments = config.data.segments
    assert learner.ageing.fillers(4, segments) is None, "not in the first half"
    return any(learner.ageing.fillers(update, segments) for update in range(5, 10))


def elsewhere(env: str, env_options: Values) -> OfflineRun:
    values = tiny().model_dump(mode="json", exclude_none=True)
    config = make_config(values | {"env": env, "env_options": env_options})
    assert isinstance(config, OfflineRun)
    return config


def test_memories_that_can_last_age_where_idle_steps_are_declared() -> None:
    assert ages(tiny())


def test_other_memories_do_not() -> None:
    assert not ages(tiny("dt")), "a sliding context"
    assert not ages(tiny("bc")), "no memory"
    assert not ages(tiny(data={"segments": 1})), "no border between segments"
    assert not ages(elsewhere("tmaze", {"corridor_length": 3})), "no run of idle steps is as long as a segment"
    assert not ages(elsewhere("cartpole_hidden", {})), "no idle steps are declared"
