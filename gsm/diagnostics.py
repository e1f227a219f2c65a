"""How good a gradient estimate is: its bias, variance and cosine to a reference, over keys.

Estimates are summed in batches of keys, and every statistic is made of inner products of the
batches' means. Those of different batches are independent, so squared lengths come out unbiased:
the mean of n noisy estimates is never exactly at the reference, and its plain distance would be
read as bias.

Bands. Squared lengths of single estimates are often heavy-tailed. A jackknife band, symmetric and
with a quantile of Student's t, then misses high values: it covers the variance of estimates with
Student's t with 3 degrees of freedom in 72 % to 82 % of measurements. Here the jackknife gives
pseudo-values of each statistic, one for each batch (Efron and Tibshirani 1993, chapter 11), and the
quantiles are those of the studentised mean of resampled pseudo-values (bootstrap-t, chapter 12).
A resample has a fifth of the batches: for heavy tails the bootstrap of the studentised mean is
consistent only with resamples much smaller than the sample (Hall and LePage 1996). Also:

* variance and 1 - cosine are positive: their bands are on the logarithm;
* squared bias and 1 - cosine of the mean are squared distances, whose standard error vanishes with
  them. For one parameter with mean ``x`` and standard error ``s`` the distance is at most
  ``|x| + q s``, in squares ``x**2 + q (2 |x| s) + q**2 s**2``: the upper end has this last term;
* quantiles are limited to 5 standard errors, for laws whose large values are rare enough to be
  missing from most resamples.

Measured coverage of the 95 % bands (200 to 1,000 repetitions for each of 74 cases: 1 to 1,000
components, 200 to 2,000 keys, biases of 0 to 20 standard errors; normal, exponential, products of
normals, Student's t with 5 and 3 degrees of freedom, one large value in 50): 94 % to 100 % for all
statistics, but 90 % to 94 % for the variance with 3 degrees of freedom, whose fourth moment is
infinite, so that no method is exact. Widths are mostly 1.1 to 1.4 times the range that holds 95 %
of the values; for the variance at 200 keys of one component 1.9 times (exponential) and 7 times
(one large value in 50). What no key has shown cannot be covered: where all cosines are 1, the band
is 1 alone.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Key

Gradient = Any
"""A pytree of arrays; a mapping's top level names the groups of parameters."""

_Numbers = Any
"""A number, or an array of such numbers."""

ALL = "all"
"""The group that holds every parameter."""

NUM_BATCHES = 40
_RESAMPLES = 4_000
_MOST_ERRORS = 5.0


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
      num_keys: number of estimates, a multiple of ``40 * at_once``.
      at_once: estimates that are vectorised together.

    Returns:
      Moments by group: the top-level names of the gradient, if it is a mapping of several, and
      :data:`ALL`.

    Raises:
      ValueError: ``num_keys`` cannot be divided so.

    Cost: ``num_keys`` gradients; memory for 40 of them.
    """
    each, rest = divmod(num_keys, NUM_BATCHES * at_once)
    if rest or not each:
        raise ValueError(
            f"num_keys must be a positive multiple of {NUM_BATCHES} batches x {at_once} at once; "
            f"got {num_keys}"
        )
    keys = random.split(key, (NUM_BATCHES, each, at_once))
    batches = [jax.device_get(measure_batch(gradient, arguments, reference, k)) for k in keys]
    means = jax.tree.map(
        lambda *of_batches: np.stack(of_batches), *(mean for mean, _, _ in batches)
    )
    reference = jax.device_get(reference)
    groups: dict[str, Moments] = {}
    for name in (*_groups(reference), ALL):
        products, with_reference, squared_reference = _products(
            _group(means, name), _group(reference, name)
        )
        groups[name] = Moments(
            products=products,
            with_reference=with_reference,
            reference=squared_reference,
            squares=np.array([float(squares[name]) for _, squares, _ in batches]),
            cosines=np.array([float(cosines[name]) for _, _, cosines in batches]),
        )
    return groups


def _products(means: Gradient, reference: Gradient) -> tuple[np.ndarray, np.ndarray, float]:
    """Inner products of the batches' means, of those with the reference, and of it with itself."""

    def of_leaf(mean, target):
        mean = np.asarray(mean, np.float64).reshape(len(mean), -1)
        target = np.asarray(target, np.float64).reshape(-1)
        return mean @ mean.T, mean @ target, target @ target

    leaves = zip(jax.tree.leaves(means), jax.tree.leaves(reference), strict=True)
    products, with_reference, squared = zip(*(of_leaf(*pair) for pair in leaves), strict=True)
    return sum(products), sum(with_reference), float(sum(squared))


def statistics(m: Moments) -> dict[str, Statistic]:
    """Relative bias, relative variance and cosines of one group, each with its 95 % band.

    Returns:
      "bias": distance of the mean estimate from the reference, over the reference's length. Its
      square is estimated without bias, so it may come out 0.
      "variance": of one estimate, summed over parameters, over the reference's squared length.
      "cosine": mean cosine of one estimate to the reference.
      "cosine_of_mean": cosine of the mean estimate to the reference.
    """
    count = len(m.squares)
    each = _Sums(
        products=2 * m.products.sum(axis=1) - np.diag(m.products),
        squared_means=np.diag(m.products),
        with_reference=m.with_reference,
        squares=m.squares,
        cosines=m.cosines,
    )
    total = _Sums(m.products.sum(), *(x.sum() for x in each[1:]))
    left_out = _Sums(*(x - y for x, y in zip(total, each, strict=True)))
    whole = _point(total, count, m.reference)
    without_one = _point(left_out, count - 1, m.reference)
    pseudo = {name: count * whole[name] - (count - 1) * without_one[name] for name in whole}
    # The mean's noise makes its plain distances too long; they serve as scales alone.
    plain = _distances(total.products / count**2, total.with_reference / count, m.reference)
    variance = _positive(whole["variance"], pseudo["variance"])
    bias = _squared_distance(whole["bias"], pseudo["bias"], plain["bias"])
    cosine = _positive(whole["cosine"], pseudo["cosine"])
    cosine_of_mean = _squared_distance(
        whole["cosine_of_mean"], pseudo["cosine_of_mean"], plain["cosine_of_mean"]
    )
    return {
        "bias": Statistic(*(float(np.sqrt(max(x, 0.0))) for x in bias)),
        "variance": variance,
        "cosine": _cosine(cosine),
        "cosine_of_mean": _cosine(cosine_of_mean),
    }


class _Sums(NamedTuple):
    """Over batches, or what each batch adds to them."""

    products: _Numbers
    """Over pairs of batches."""
    squared_means: _Numbers
    with_reference: _Numbers
    squares: _Numbers
    cosines: _Numbers


def _point(sums: _Sums, count: int, reference: float) -> dict[str, _Numbers]:
    """Variance, 1 - cosine, squared bias and 1 - cosine of the mean, of ``count`` batches."""
    squared_mean = (sums.products - sums.squared_means) / (count * (count - 1))
    return {
        "variance": (sums.squares / count - squared_mean) / reference,
        "cosine": 1 - sums.cosines / count,
    } | _distances(squared_mean, sums.with_reference / count, reference)


def _distances(
    squared_mean: _Numbers, with_reference: _Numbers, reference: float
) -> dict[str, _Numbers]:
    """Squared bias and 1 - cosine of a mean, from its squared length and its inner product."""
    # The cosine of a mean that cannot be distinguished from zero is not defined: give 0 for it.
    length = np.sqrt(np.maximum(squared_mean, 0.0) * reference)
    cosine = np.where(length > 0, with_reference / np.where(length > 0, length, 1), 0.0)
    return {
        "bias": (squared_mean - 2 * with_reference + reference) / reference,
        "cosine_of_mean": 1 - cosine,
    }


def _positive(value: _Numbers, pseudo: np.ndarray) -> Statistic:
    """Value and band of a positive statistic, symmetric on the logarithm if its law is."""
    value = max(float(value), 0.0)  # rounding may make it negative
    mean, error, resampled, errors = _resampled(pseudo)
    # Of a resample without a positive mean the logarithm is taken as -infinity.
    positive = (resampled > 0) & (mean > 0)
    logarithms = np.log(np.where(positive, resampled, 1) / np.where(positive, mean, 1))
    low, high = _quantiles(np.where(positive, logarithms * resampled, -np.inf), errors)
    # The standard error of a mean of positive numbers is at most about that mean.
    relative = min(float(error) / value, 1.0) if value > 0 else 0.0
    ends = (value * math.exp(-quantile * relative) for quantile in (high, low))
    return Statistic(value, *ends)


def _squared_distance(value: _Numbers, pseudo: np.ndarray, plain: _Numbers) -> Statistic:
    """Value and band of a squared distance; ``plain`` is that of the mean with its noise."""
    mean, error, resampled, errors = _resampled(pseudo)
    low, high = _quantiles(resampled - mean, errors)
    # Variance of the mean along the distance, since the error is 2 |x| s. The value had this
    # subtracted once to be unbiased; the upper end adds it back, and q**2 times more.
    noise = error**2 / (4 * float(plain)) if plain > 0 else 0.0
    value = float(value)
    return Statistic(value, value - high * error, value - low * error + (1 + low**2) * noise)


def _cosine(distance: Statistic) -> Statistic:
    value, high, low = (float(np.clip(1 - x, -1, 1)) for x in distance)
    return Statistic(value, low, high)


def _resampled(pseudo: np.ndarray) -> tuple[_Numbers, _Numbers, _Numbers, _Numbers]:
    """Mean and standard error of pseudo-values, and those of resamples of a fifth of them."""
    chosen = pseudo[_choices(len(pseudo))]
    return (*_mean_and_error(pseudo), *_mean_and_error(chosen))


def _mean_and_error(x: np.ndarray) -> tuple[_Numbers, _Numbers]:
    return x.mean(axis=-1), x.std(axis=-1, ddof=1) / np.sqrt(x.shape[-1])


@functools.cache
def _choices(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(count, size=(_RESAMPLES, count // 5))


def _quantiles(deviations: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """2.5 % and 97.5 % of deviations in units of their standard errors."""
    # Deviations without an error are 0 where all pseudo-values are equal.
    smallest = np.finfo(np.float64).tiny
    studentised = deviations / np.maximum(errors, smallest)
    low, high = np.quantile(np.clip(studentised, -_MOST_ERRORS, _MOST_ERRORS), [0.025, 0.975])
    return float(low), float(high)


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
