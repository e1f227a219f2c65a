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

        For three seeds against three that is about the 5 % level of Student's t. With fewer than
        three seeds of either, no difference is clear.

        >>> Mean(2.0, 0.1, 3).clearly_above(Mean(1.0, 0.1, 3))
        True
        >>> Mean(2.0, 0.1, 3).clearly_above(Mean(1.0, None, 1))
        False
        """
        if min(self.seeds, other.seeds) < 3:
            return False
        return self.value - other.value > 3 * math.hypot(self.error or 0, other.error or 0)


def mean(values: Sequence[float]) -> Mean:
    """The mean of one value for each seed.

    >>> mean([1.0, 3.0])
    Mean(value=2.0, error=1.0, seeds=2)
    """
    several = len(values) > 1
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if several else None
    return Mean(float(np.mean(values)), error, len(values))
