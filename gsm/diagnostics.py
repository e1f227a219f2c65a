"""How good a gradient estimate is: its bias, variance and cosine to a reference, over keys.

Estimates are summed in batches of keys, and every statistic is made of inner products of the
batches' means. Those of different batches are independent, so squared lengths come out unbiased:
the mean of n noisy estimates is never exactly at the reference, and its plain distance would be
read as bias. Error bands are jackknifed over the batches.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Key

Gradient = Any
"""A pytree of arrays; a mapping's top level names the groups of parameters."""

ALL = "all"
"""The group that holds every parameter."""

# Two-sided 95 % quantile of Student's t with 19 degrees of freedom, for 20 batches.
NUM_BATCHES = 20
_QUANTILE = 2.093


class Moments(NamedTuple):
    """What :func:`statistics` needs of the estimates of one group of parameters."""

    products: np.ndarray
    """``[batch, batch]``, inner products of the batches' mean estimates."""
    with_reference: np.ndarray
    """``[batch]``, inner products of those with the reference."""
    reference: float
    """Squared length of the reference."""
    squares: np.ndarray
    """``[batch]``, mean squared length of single estimates."""
    cosines: np.ndarray
    """``[batch]``, mean cosine of single estimates to the reference."""


class Statistic(NamedTuple):
    """A number with its 95 % band."""

    value: float
    low: float
    high: float


def moments(
    gradient: Callable[..., Gradient],
    arguments: tuple,
    reference: Gradient,
    key: Key[Array, ""],
    num_keys: int,
    at_once: int = 1,
) -> dict[str, Moments]:
    """Estimate at many keys and sum up what statistics need, for each group of parameters.

    Args:
      gradient: one estimate, ``gradient(key, *arguments)``.
      arguments: arrays, not compiled in: other values of the same shapes do not compile again.
      reference: the exact gradient or a long-run mean, of the same tree.
      key: random key.
      num_keys: number of estimates, a multiple of ``20 * at_once``.
      at_once: estimates that are vectorised together.

    Returns:
      Moments by group: the top-level names of the gradient, if it is a mapping of several, and
      :data:`ALL`.

    Raises:
      ValueError: ``num_keys`` cannot be divided so.

    Cost: ``num_keys`` gradients; memory for 20 of them.
    """
    each, rest = divmod(num_keys, NUM_BATCHES * at_once)
    if rest or not each:
        raise ValueError(
            f"num_keys must be a positive multiple of {NUM_BATCHES} batches x {at_once} at once; "
            f"got {num_keys}"
        )
    keys = random.split(key, (NUM_BATCHES, each, at_once))
    batches = [jax.device_get(measure_batch(gradient, arguments, reference, k)) for k in keys]
    groups: dict[str, Moments] = {}
    reference = jax.device_get(reference)
    for name in (*_groups(reference), ALL):
        means = [_flat(_group(mean, name)) for mean, _, _ in batches]
        target = _flat(_group(reference, name))
        stacked = np.stack(means)
        groups[name] = Moments(
            products=stacked @ stacked.T,
            with_reference=stacked @ target,
            reference=float(target @ target),
            squares=np.array([float(squares[name]) for _, squares, _ in batches]),
            cosines=np.array([float(cosines[name]) for _, _, cosines in batches]),
        )
    return groups


def statistics(m: Moments) -> dict[str, Statistic]:
    """Relative bias, relative variance and cosines of one group, each with its 95 % band.

    Returns:
      "bias": distance of the mean estimate from the reference, over the reference's length. Its
      square is estimated without bias, so it may come out 0.
      "variance": of one estimate, summed over parameters, over the reference's squared length.
      "cosine": mean cosine of one estimate to the reference.
      "cosine_of_mean": cosine of the mean estimate to the reference.
    """
    batches = np.arange(len(m.squares))
    whole = _point(m, batches)
    left_out = [_point(m, np.delete(batches, i)) for i in batches]
    result = {}
    for name, value in whole.items():
        pseudo = np.array([point[name] for point in left_out])
        error = np.sqrt((len(batches) - 1) * np.mean((pseudo - pseudo.mean()) ** 2))
        result[name] = Statistic(value, value - _QUANTILE * error, value + _QUANTILE * error)
    squared = result.pop("squared_bias")
    result["bias"] = Statistic(*(float(np.sqrt(max(x, 0.0))) for x in squared))
    return result


def _point(m: Moments, kept: np.ndarray) -> dict[str, float]:
    """The statistics of some of the batches."""
    products, count = m.products[np.ix_(kept, kept)], len(kept)
    squared_mean = (products.sum() - np.trace(products)) / (count * (count - 1))
    with_reference = m.with_reference[kept].mean()
    # The cosine of a mean that is not told from zero is not defined: give 0 for it.
    length = np.sqrt(max(squared_mean, 0.0) * m.reference)
    return {
        "squared_bias": (squared_mean - 2 * with_reference + m.reference) / m.reference,
        "variance": (m.squares[kept].mean() - squared_mean) / m.reference,
        "cosine": float(m.cosines[kept].mean()),
        "cosine_of_mean": float(with_reference / length) if length > 0 else 0.0,
    }


@functools.partial(jax.jit, static_argnums=0)
def measure_batch(
    gradient: Callable[..., Gradient],
    arguments: tuple,
    reference: Gradient,
    keys: Key[Array, "each at_once"],
) -> tuple[Gradient, dict[str, Array], dict[str, Array]]:
    """Mean estimate of a batch; mean squared lengths and cosines of its estimates, by group."""

    def some(keys):
        estimates = jax.vmap(lambda key: gradient(key, *arguments))(keys)
        mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), estimates)
        measured = jax.vmap(functools.partial(_lengths, reference))(estimates)
        squares, cosines = jax.tree.map(jnp.mean, measured)
        return mean, squares, cosines

    def add(total, keys):
        return jax.tree.map(jnp.add, total, some(keys)), None

    shapes = jax.eval_shape(lambda keys: some(keys[0]), keys)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, keys)
    return jax.tree.map(lambda x: x / keys.shape[0], total)


def _lengths(reference: Gradient, estimate: Gradient) -> tuple[dict, dict]:
    squares, cosines = {}, {}
    for name in (*_groups(reference), ALL):
        ours, target = _group(estimate, name), _group(reference, name)
        squares[name] = _dot(ours, ours)
        lengths = jnp.sqrt(squares[name] * _dot(target, target))
        cosines[name] = jnp.where(lengths > 0, _dot(ours, target) / lengths, 0)
    return squares, cosines


def _dot(one: Gradient, other: Gradient) -> Float[Array, ""]:
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y), one, other)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _groups(gradient: Gradient) -> tuple[str, ...]:
    several = isinstance(gradient, Mapping) and len(gradient) > 1
    return tuple(gradient) if several else ()


def _group(gradient: Gradient, name: str) -> Gradient:
    return gradient if name == ALL else gradient[name]


def _flat(gradient: Gradient) -> np.ndarray:
    leaves = jax.tree.leaves(gradient)
    return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in leaves])
