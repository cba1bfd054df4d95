"""Means and their 95% confidence intervals.

No SciPy is needed, since Student's distribution with a whole number of degrees of freedom has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
Interval = tuple[float, float]
"""Lower and upper bound."""
Floats = NDArray[np.float64]


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, correctly rounded before the division."""
    return math.fsum(values) / len(values)


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Return Student's 95% confidence interval of the mean of independent values; None for fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    degrees_of_freedom = count - 1
    centre = mean(values)
    squares = [(value - centre) ** 2 for value in values]
    variance = math.fsum(squares) / degrees_of_freedom
    standard_error = math.sqrt(variance / count)
    half_width = student_quantile(degrees_of_freedom) * standard_error
    return centre - half_width, centre + half_width


def success_interval(successes: int, trials: int) -> Interval:
    """Return Wilson's 95% score interval of a success rate, which is sound at rates of 0 and 1 too.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    quantile = (1 + CONFIDENCE) / 2
    z = NormalDist().inv_cdf(quantile)
    rate = successes / trials
    twice = 2 * trials
    denominator = 1 + z * z / trials
    centre = (rate + z * z / twice) / denominator
    variance_of_rate = rate * (1 - rate) / trials
    variance = variance_of_rate + (z / twice) ** 2
    half_width = z * math.sqrt(variance) / denominator
    lower = max(0.0, centre - half_width)
    upper = min(1.0, centre + half_width)
    return lower, upper


@cache
def student_quantile(degrees_of_freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return t with P(|T| < t) = confidence, for T distributed by Student with so many degrees of freedom.

    P(|T| < t) rises with theta = atan(t / sqrt(degrees_of_freedom)), so bisection inverts it to float64 precision.
    """
    low = 0.0
    high = math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        probability = _central_probability(middle, degrees_of_freedom)
        if probability < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees_of_freedom) * math.tan(low)


def _central_probability(theta: float, degrees_of_freedom: int) -> float:
    """Return P(|T| < sqrt(degrees_of_freedom) tan(theta)), for T distributed by Student.

    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4, a finite sum of powers of cos(theta).
    """
    powers, coefficients = _cosine_series(degrees_of_freedom)
    cosines = math.cos(theta) ** powers
    terms = float(coefficients @ cosines) * math.sin(theta)
    is_even = degrees_of_freedom % 2 == 0
    if is_even:
        return terms
    return 2 / math.pi * (theta + terms)


@lru_cache(maxsize=1)  # the bisection asks for the same series 60 times
def _cosine_series(degrees_of_freedom: int) -> tuple[Floats, Floats]:
    """Return the powers of cos(theta) in the sum, and their coefficients."""
    is_odd = degrees_of_freedom % 2
    end = degrees_of_freedom - 1
    powers = np.arange(is_odd, end, 2, dtype=np.float64)
    factors = np.arange(1 + is_odd, end, 2, dtype=np.float64)
    ratios = factors / (factors + 1)
    products = np.append(1.0, ratios).cumprod()
    return powers, products[: len(powers)]
