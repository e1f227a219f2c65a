"""Means of metrics over held-out examples. Knows no estimator, no model and no task by name."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from experiments.running import devices
from experiments.tasks.base import Metric

# Rows [example, sample] in one vectorised call: on a CPU what the cache holds, elsewhere what keeps
# the device busy (300 MB at 784 pixels).
_ROWS_AT_ONCE = {"cpu": 2_000}
_ROWS_AT_ONCE_ELSEWHERE = 100_000
_SAMPLES_AT_ONCE = 1_000  # of which a metric streams more (experiments.tasks.bounds)

# Examples in one call: between calls progress is reported and signals are answered.
_EXAMPLES_PER_CALL = 500


def evaluate(
    metrics: Mapping[str, Metric],
    params: Any,
    key: Key[Array, ""],
    examples: Any,
    between: Callable[[str, int, float], None] = lambda name, left, seconds: None,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    """The mean of each metric over examples, the same draws whenever it is measured.

    Args:
      metrics: by name.
      params: the task's parameters.
      key: random key; example i of each metric gets ``fold_in(key, i)``.
      examples: stored examples, arrays with leading axis N.
      between: called between calls with the metric's name, the number of calls left, and the
        seconds of a call (0 before it is known); it may raise to stop.
      mesh: devices over which the examples are divided; ``params`` and ``examples`` are on each.
    """
    means = {}
    size = len(jax.tree.leaves(examples)[0])
    calls = -(-size // _EXAMPLES_PER_CALL)
    for name, metric in metrics.items():
        values, seconds = [], 0.0
        for call in range(calls):
            first = call * _EXAMPLES_PER_CALL
            rows = slice(first, first + _EXAMPLES_PER_CALL)
            start = time.monotonic()
            piece = jax.tree.map(lambda x: x[rows], examples)  # noqa: B023
            measured = _measure(metric, mesh, params, random.clone(key), piece, first)
            values.append(np.asarray(measured))
            if call == 1:  # the first call compiles
                seconds = time.monotonic() - start
            between(name, calls - call - 1, seconds)
        means[name] = float(np.concatenate(values).mean(dtype=np.float64))
    return means


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(
    metric: Metric,
    mesh: Mesh | None,
    params: Any,
    key: Key[Array, ""],
    examples: Any,
    first: int | Array,
) -> Array:
    rows = _ROWS_AT_ONCE.get(jax.default_backend(), _ROWS_AT_ONCE_ELSEWHERE)
    at_once = max(1, rows // min(metric.num_samples, _SAMPLES_AT_ONCE))

    def measure(params, key, examples, first):
        function = functools.partial(metric.measure, params)
        return map_examples(function, key, examples, at_once, first)

    if mesh is None:
        return measure(params, key, examples, first)

    # Each device measures a share of equal size, for which the last example is repeated.
    number = jax.tree.leaves(examples)[0].shape[0]
    share = -(-number // mesh.size)
    padded = jnp.minimum(jnp.arange(share * mesh.size), number - 1)
    examples = jax.tree.map(lambda x: x[padded], examples)

    def of_share(params, key, examples, first):
        return measure(params, key, examples, first + share * jax.lax.axis_index(devices.AXIS))

    over_devices = P(devices.AXIS)
    shared = jax.shard_map(
        of_share,
        mesh=mesh,
        in_specs=(P(), P(), over_devices, P()),
        out_specs=over_devices,
        check_vma=False,
    )
    values = shared(params, key, examples, jnp.asarray(first))
    return jax.lax.with_sharding_constraint(values, devices.replicated(mesh))[:number]


def map_examples(
    function: Callable[[Key[Array, ""], Any], Any],
    key: Key[Array, ""],
    examples: Any,
    at_once: int,
    first: int | Array = 0,
) -> Any:
    """Apply ``function(key, example)`` to each example, ``at_once`` of them in one vmap.

    Example i gets ``fold_in(key, first + i)``, so the result does not depend on how a data set is
    divided into calls.

    Args:
      function: per-example function.
      key: random key.
      examples: pytree of arrays with leading axis b.
      at_once: how many examples are in memory together.
      first: position of ``examples[0]`` in its data set.

    Returns:
      The results, stacked ``[b, ...]``.
    """

    def one(indexed):
        index, example = indexed
        return function(random.fold_in(key, index), example)

    number = jax.tree.leaves(examples)[0].shape[0]
    return jax.lax.map(one, (first + jnp.arange(number), examples), batch_size=at_once)
