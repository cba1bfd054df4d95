from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from rmt_rl.config import validated
from rmt_rl.data.curriculum import Curriculum, CurriculumProgress
from rmt_rl.errors import UsageError


def test_a_length_is_added_when_the_running_accuracy_reaches_the_threshold() -> None:
    curriculum = Curriculum(last=3, threshold=0.5, smoothing=0.5)
    progress = curriculum.begin()
    assert progress == CurriculumProgress(length=1, accuracy=0)
    progress = curriculum.after(progress, 1, 0.9)
    assert progress.length == 1
    assert progress.accuracy == pytest.approx(0.45)
    progress = curriculum.after(progress, 1, 0.9)  # .675
    assert progress == CurriculumProgress(length=2, accuracy=0)  # learnt anew


def test_shorter_lengths_count_nothing() -> None:
    curriculum = Curriculum(last=3, threshold=0.5, smoothing=0)
    progress = CurriculumProgress(length=2, accuracy=0.4)
    assert curriculum.after(progress, 1, 1.0) == progress
    assert curriculum.after(progress, 2, 1.0).length == 3


def test_the_last_length_stays_and_is_finished_when_learnt() -> None:
    curriculum = Curriculum(last=2, threshold=0.8, smoothing=0)
    progress = CurriculumProgress(length=2)
    assert not curriculum.finished(progress)
    progress = curriculum.after(progress, 2, 0.9)
    assert progress == CurriculumProgress(length=2, accuracy=0.9)
    assert curriculum.finished(progress)
    assert not curriculum.finished(curriculum.after(progress, 2, 0.1))


def test_reviews_draw_every_length_up_to_the_present_one() -> None:
    rng = np.random.default_rng(0)
    curriculum = Curriculum(last=4, review=0.4)
    drawn = [curriculum.draw(CurriculumProgress(length=4), rng) for _ in range(4000)]
    assert set(drawn) == {1, 2, 3, 4}
    assert np.mean(np.array(drawn) == 4) == pytest.approx(0.6 + 0.4 / 4, abs=0.03)
    assert {Curriculum().draw(CurriculumProgress(length=4), rng) for _ in range(50)} == {4}


def test_progress_survives_json_and_options_are_frozen() -> None:
    progress = CurriculumProgress(length=3, accuracy=0.25)
    assert CurriculumProgress.model_validate(progress.model_dump(mode="json")) == progress
    with pytest.raises(ValidationError):
        Curriculum().threshold = 0.1  # type: ignore[misc]


def test_a_curriculum_rises() -> None:
    with pytest.raises(UsageError, match="first=3 must not be above last=2"):
        validated(Curriculum, {"first": 3, "last": 2})
