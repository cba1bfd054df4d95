from __future__ import annotations

import numpy as np
import pytest

from rmt_rl.statistics import mean_interval, student_quantile, success_interval


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (99, 1.98422)],
)
def test_students_quantile_equals_the_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(freedom) == pytest.approx(quantile, abs=6e-6 * quantile)


def test_students_quantile_tends_to_the_normal_one() -> None:
    assert student_quantile(1_000_000) == pytest.approx(1.959964 + (1.959964**3 + 1.959964) / 4e6, abs=1e-6)


def test_the_mean_interval_covers_at_its_level() -> None:
    random = np.random.default_rng(0)
    intervals = [mean_interval(random.normal(3.0, 2.0, size=5).tolist()) for _ in range(4000)]
    covered = np.mean([interval is not None and interval[0] < 3.0 < interval[1] for interval in intervals])
    assert covered == pytest.approx(0.95, abs=0.012)  # three standard errors and a half


def test_the_mean_interval_of_few_values() -> None:
    assert mean_interval([1.0]) is None
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0)
    assert mean_interval([0.0, 1.0]) == pytest.approx((0.5 - 12.7062 / 2, 0.5 + 12.7062 / 2), abs=1e-4)


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [(0, 10, (0.0, 0.27753)), (10, 10, (0.72247, 1.0)), (5, 10, (0.23659, 0.76341)), (81, 263, (0.25527, 0.36620))],
)
def test_wilsons_interval(successes: int, trials: int, interval: tuple[float, float]) -> None:
    assert success_interval(successes, trials) == pytest.approx(interval, abs=2e-5)
