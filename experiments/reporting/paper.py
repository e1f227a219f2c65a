"""The learning curves of Jang et al. 2017, read off its figures 3 and 4 (``results/paper``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.storage.files import read_csv

Curves = Mapping[tuple[str, str], tuple[Sequence[int], Sequence[float]]]
"""Steps and test nats by task and estimator."""

_CURVE_EVERY = 5_000  # steps between two points of a curve, where it is on the plot


def read_curves(path: Path) -> Curves:
    """The curves of a CSV file with the columns task, estimator, step, test_nats.

    Raises:
      RecordError: the file cannot be read.
    """
    curves: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
    for row in read_csv(path):
        steps, nats = curves.setdefault((row["task"], row["estimator"]), ([], []))
        steps.append(row["step"])
        nats.append(row["test_nats"])
    return curves


def at_step(curves: Curves, task: str, estimator: str, step: int) -> float | None:
    """The value of a curve, interpolated between two neighbouring points; None off the plot."""
    steps, nats = curves.get((task, estimator), ([], []))
    near = [one for one in steps if abs(one - step) < _CURVE_EVERY]
    if step not in near and not min(near, default=step) < step < max(near, default=step):
        return None
    return float(np.interp(step, steps, nats))


def best_at_step(curves: Curves, task: str, step: int) -> tuple[str, float] | None:
    """The estimator with the lowest curve of a task at a step, and its nats."""
    values = [(e, at_step(curves, t, e, step)) for t, e in curves if t == task]
    known = [(estimator, value) for estimator, value in values if value is not None]
    return min(known, key=lambda one: one[1], default=None)
