"""Means over seeds, and when two of them can be distinguished."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean over seeds."""

    value: float
    error: float | None
    """The standard error of the mean; None for one seed."""
    seeds: int

    def clearly_above(self, other: "Mean") -> bool:
        """Whether it is greater by more than three standard errors of the difference.

        For three seeds against three that is about the 5 % level of Student's t. Two seeds of
        either know their spread badly: then it takes 12.7 (the 5 % level at one degree of freedom).
        With one seed of either, no difference is clear.

        >>> Mean(2.0, 0.1, 3).clearly_above(Mean(1.0, 0.1, 3))
        True
        >>> Mean(2.0, 0.1, 2).clearly_above(Mean(1.0, 0.1, 3))
        False
        >>> Mean(2.0, 0.1, 3).clearly_above(Mean(1.0, None, 1))
        False
        """
        error = math.hypot(self.error or 0, other.error or 0)
        fewest = min(self.seeds, other.seeds)
        return fewest > 1 and self.value - other.value > standard_errors_needed(fewest) * error


def standard_errors_needed(seeds: int) -> float:
    """Standard errors of a difference beyond which it is clear, with so many seeds of each."""
    return {1: math.inf, 2: 12.7}.get(seeds, 3.0)


def mean(values: Sequence[float]) -> Mean:
    """The mean of one value for each seed.

    >>> mean([1.0, 3.0])
    Mean(value=2.0, error=1.0, seeds=2)
    """
    several = len(values) > 1
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if several else None
    return Mean(float(np.mean(values)), error, len(values))
