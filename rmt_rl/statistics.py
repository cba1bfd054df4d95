"""Means and their 95% confidence intervals.

Nothing here needs SciPy: Student's distribution with a whole number of degrees of freedom has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
Interval = tuple[float, float]


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, correctly rounded before the division."""
    return math.fsum(values) / len(values)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's 95% interval of the mean of independent values; None for fewer than two."""
    count = len(values)
    if count < 2:
        return None
    centre = mean(values)
    variance = math.fsum((value - centre) ** 2 for value in values) / (count - 1)
    half = student_quantile(count - 1) * math.sqrt(variance / count)
    return centre - half, centre + half


def success_interval(successes: int, trials: int) -> Interval:
    """Return Wilson's 95% score interval of a success rate, which is sound at rates of 0 and 1 too.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    rate, shrink = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


@cache
def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return the t with P(|T| < t) = confidence, for T Student-distributed with `freedom` degrees of freedom.

    With theta = atan(t / sqrt(freedom)) that probability is a finite sum of powers of cos(theta) (Abramowitz and
    Stegun, 26.7.3 and 26.7.4), which rises with theta: bisection inverts it to float64 precision.
    """
    odd = freedom % 2
    factors = np.arange(1 + odd, freedom - 1, 2)
    coefficients = np.cumprod(np.concatenate(([1.0], factors / (factors + 1))))
    powers = np.arange(odd, freedom - 1, 2)

    def inside(theta: float) -> float:
        terms = float(coefficients[: len(powers)] @ math.cos(theta) ** powers) * math.sin(theta)
        return 2 / math.pi * (theta + terms) if odd else terms

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return math.sqrt(freedom) * math.tan(low)
