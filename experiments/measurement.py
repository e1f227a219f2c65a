"""Rows of measured gradient estimators, and the files that they go into."""

import csv
import functools
import io
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import random

from experiments import rundir
from gsm import diagnostics

Row = dict[str, Any]
"""One estimator at one point: text, and numbers with their 95 % bands."""


def measure(
    gradient: Callable[..., Any],
    arguments: tuple,
    reference: Any,
    key: jax.Array,
    num_keys: int,
    at_once: int,
) -> list[Row]:
    """Statistics of one estimator's gradient, a row for each group of parameters."""
    moments = diagnostics.moments(gradient, arguments, reference, key, num_keys, at_once)
    rows = []
    for group, of_group in moments.items():
        row: Row = {"group": group, "keys": num_keys}
        for name, statistic in diagnostics.statistics(of_group).items():
            row |= {name: statistic.value, f"{name}_low": statistic.low}
            row[f"{name}_high"] = statistic.high
        rows.append(row)
    return rows


def relative_times(
    calls: Mapping[str, Callable[[], Any]], to: str, rounds: int = 5
) -> dict[str, float]:
    """Median time of each call over that of one of them, all timed in turn, round after round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if round_:  # the first compiles
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {name: value / medians[to] for name, value in medians.items()}


def timed(loss: Callable[..., jax.Array], arguments: tuple, num_keys: int) -> Callable[[], Any]:
    """A call without arguments that estimates at keys as training does, one after the other.

    Args:
      loss: one value, ``loss(key, params, learned, ...)``, whose gradient is the estimate.
      arguments: those after the key.
      num_keys: number of estimates.

    Returns:
      A call that returns the value at each key, and ``(params, learned)`` as they were.
    """
    keys = random.split(random.key(0), num_keys)
    return lambda: _descend(loss, keys, jnp.float32(0), *arguments)


@functools.partial(jax.jit, static_argnums=0)
def _descend(loss: Callable[..., jax.Array], keys, rate, params, learned, *rest):
    """Gradient descent, a step for each key; the values of the loss.

    Every step needs the value, the whole gradient and the parameters of the step before. So XLA
    can neither drop a part of an estimate nor compute it once for all keys, though the rate is 0.
    """

    def step(state, key):
        value, gradient = jax.value_and_grad(loss, (1, 2))(key, *state, *rest)
        return jax.tree.map(lambda x, slope: x - rate * slope, state, gradient), value

    state, values = jax.lax.scan(step, (params, learned), keys)
    return values, state


def with_costs(row: Row, evaluations: int, relative_time: float) -> Row:
    """The row with its variance at equal evaluations of f and at equal time.

    Averaging m estimates divides the variance by m: so times the evaluations of one estimate it is
    the variance that a budget of one evaluation buys, and times the relative time that of one
    Gumbel-Softmax estimate's time. Times are of value and gradient, as training computes them.
    """
    row = row | {"evaluations": evaluations, "relative_time": relative_time}
    for name, cost in (("per_evaluation", evaluations), ("per_time", relative_time)):
        for end in ("", "_low", "_high"):
            row[f"variance_{name}{end}"] = row[f"variance{end}"] * cost
    return row


def write(folder: Path, name: str, rows: Sequence[Row], about: Mapping[str, Any]) -> Path:
    """``NAME.csv`` by :func:`write_csv`, and ``NAME.json`` with where it comes from."""
    folder.mkdir(parents=True, exist_ok=True)
    text_about = json.dumps({"provenance": rundir.provenance(), **about}, indent=1)
    rundir.write_atomically(folder / f"{name}.json", text_about + "\n")
    return write_csv(folder / f"{name}.csv", rows)


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    """Rows with four significant digits; a column that a row lacks is empty there."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})
    rundir.write_atomically(path, text.getvalue())
    return path
