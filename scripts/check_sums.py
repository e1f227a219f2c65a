"""Does this version of jax compute sums right? ``python -m scripts.check_sums``

On a CPU, jaxlib 0.10.2 and later hand sums to a library that computes some of them wrong, without
any sign of it (:mod:`gsm.xla`). Each pattern that was found wrong, some that were found right
beside them, and this project's own programs at sizes beyond the 32,768 rows after which rows go
missing are compared with the same sum in float64. Prints the largest error of each; exits with
status 1 if one is wrong.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax import lax, random

from experiments.running import devices
from experiments.tasks import bounds, networks
from gsm import distributions
from gsm.estimators import exact
from gsm.registry import ESTIMATORS

TOLERANCE = 1e-4
"""Relative to the largest entry. The rounding of float32 stays below a tenth of it here."""

ROWS = 40_000
PATTERNS: dict[str, Callable[[], tuple[Any, Any]]] = {}
"""``name -> (what jax computes, the same in float64)``."""


def _pattern(function):
    PATTERNS[function.__name__.strip("_")] = function
    return function


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- patterns that jaxlib 0.10.2 computes wrong ----------------------------------------------


@_pattern
def _squares_of_rows_by_a_constant():
    x = _normal(0, 32_769, 3) + 3
    totals = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x)
    return totals, np.sum(np.float64(x) ** 2, axis=1)


@_pattern
def _squares_of_rows_by_a_parameter():
    x, w = _normal(0, ROWS, 3) + 3, _normal(1, 3, 3)
    totals = jax.jit(lambda x, w: jax.vmap(lambda row: jnp.sum((w @ row) ** 2))(x))(x, w)
    return totals, np.sum((np.float64(x) @ np.float64(w).T) ** 2, axis=1)


@_pattern
def _sum_of_a_product_by_a_constant():
    x = _normal(0, 100, 784) + 1
    return jax.jit(lambda x: jnp.sum(x @ jnp.ones((784, 64))))(x), 64 * np.sum(np.float64(x))


@_pattern
def _sum_of_two_products():
    x, w = _normal(0, 100, 784) + 1, _normal(1, 784, 200) + 1
    total = jax.jit(lambda x, w: jnp.sum((x @ w) @ jnp.ones((200, 64))))(x, w)
    return total, 64 * np.sum(np.float64(x) @ np.float64(w))


@_pattern
def _sum_of_a_convolution_by_a_constant():
    x, kernel = np.ones((4, 8, 8, 64), np.float32), np.ones((3, 3, 64, 64), np.float32)

    def total(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        out = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return jnp.sum(out @ jnp.ones((64, 64)))

    taps = 36 * 9 + 24 * 6 + 4 * 4  # inside, at the sides, in the corners
    return jax.jit(total)(x, kernel), 4 * taps * 64.0**3


# --- patterns that it computes right ---------------------------------------------------------


def _normalised(xp, x, w):
    y = x @ w
    y = (y - xp.mean(y, axis=1, keepdims=True)) / xp.std(y, axis=1, keepdims=True)
    return xp.log(xp.sum(xp.exp(y), axis=1))


@_pattern
def _log_sum_exp_of_a_normalised_product():
    x, w = _normal(0, ROWS, 32), _normal(1, 32, 16)
    ours = jax.jit(lambda x, w: _normalised(jnp, x, w))(x, w)
    return ours, _normalised(np, np.float64(x), np.float64(w))


@_pattern
def _gradient_of_a_mean_of_products():
    x, w = _normal(0, ROWS, 32) + 1, _normal(1, 32, 16)
    ours = jax.jit(jax.grad(lambda w: jnp.mean(jnp.sum((x @ w) ** 2, axis=1))))(w)
    return ours, 2 * np.float64(x).T @ (np.float64(x) @ np.float64(w)) / ROWS


# --- programs of this project ----------------------------------------------------------------

_LOGITS = _normal(2, 2, 3)
_MATRIX = _normal(3, 3, 3)


def _square(z):
    """A cost that multiplies by a constant and ends in a sum."""
    return jnp.sum((jnp.asarray(_MATRIX) @ z[0]) ** 2) + jnp.sum(z[1] * _MATRIX[1])


def _square_64(z):
    by_matrix = z[..., 0, :] @ np.float64(_MATRIX).T
    return np.sum(by_matrix**2, axis=-1) + z[..., 1, :] @ np.float64(_MATRIX[1])


def _value_of(name: str):
    """The value law of a one-sample estimator at many keys."""

    def values(keys):
        return jax.vmap(lambda key: ESTIMATORS[name](key, jnp.asarray(_LOGITS), _square))(keys)

    def pattern():
        keys = random.split(random.key(0), ROWS)
        samples = jax.jit(
            lambda keys: jax.vmap(lambda key: distributions.gumbel_max(key, _LOGITS))(keys)
        )(keys)
        return jax.jit(values)(keys), _square_64(np.float64(samples))

    return pattern


for _name in ("reinmax", "straight_through", "score_function", "local_expectation"):
    PATTERNS[f"{_name} at {ROWS:,} keys"] = _value_of(_name)


def _exact(part: int):
    """Value or gradient of :func:`gsm.estimators.exact` over 3 ** 10 = 59,049 outcomes."""

    def pattern():
        n, k = 10, 3
        logits, matrix = _normal(4, n, k), _normal(5, n * k, n * k)
        ours = jax.jit(
            jax.value_and_grad(lambda x: exact(x, lambda z: jnp.sum((matrix @ z.reshape(-1)) ** 2)))
        )(logits)
        z = np.eye(k)[np.stack(np.unravel_index(np.arange(k**n), (k,) * n), axis=-1)]
        probs = np.exp(np.float64(logits))
        probs /= probs.sum(axis=-1, keepdims=True)
        q = np.prod(np.sum(z * probs, axis=-1), axis=-1)
        costs = np.sum((z.reshape(k**n, -1) @ np.float64(matrix).T) ** 2, axis=-1)
        gradient = np.einsum("o,onk->nk", q * (costs - q @ costs), z - probs)
        return ours[part], (q @ costs, gradient)[part]

    return pattern


PATTERNS["exact, 59,049 outcomes: value"] = _exact(0)
PATTERNS["exact, 59,049 outcomes: gradient"] = _exact(1)


@_pattern
def _bound_of_50_images_at_1000_samples():
    """A chunk of evaluation: 50,000 rows through one linear decoder."""
    n, k, pixels, samples = 20, 10, 28, 1_000
    logits, x = _normal(6, 50, n, k), (_normal(7, 50, pixels) > 0).astype(np.float32)
    decoder = _normal(8, n * k, pixels) / 4

    def log_weights(key, x, logits, number):
        z = distributions.inverse_cdf_classes(key, logits, (number,))
        pixel_logits = networks.Classes(z, networks.Latents(n, k)) @ jnp.asarray(decoder)
        likelihood = jax.vmap(distributions.bernoulli_log_prob, (None, 0))(x, pixel_logits)
        one_hot = jax.nn.one_hot(z, k)
        ratio = functools.partial(distributions.log_prob_ratio, logits_p=0 * logits)
        return likelihood + jax.vmap(lambda z: ratio(z, logits_q=logits))(one_hot)

    def bound(key, x, logits):
        def of_image(key, number):
            return log_weights(key, x, logits, number)

        return bounds.multi_sample_bound(of_image, key, samples, samples)

    keys = random.split(random.key(1), 50)
    ours = jax.jit(jax.vmap(bound))(keys, x, logits)
    # The samples of one chunk, by the documented rule of keys.
    of_chunk = jax.vmap(lambda key: random.fold_in(key, 0))(keys)
    draw = functools.partial(distributions.inverse_cdf_classes, sample_shape=(samples,))
    z = np.eye(k)[jax.jit(jax.vmap(draw))(of_chunk, logits)]
    x, log_q = np.float64(x)[:, None], np.float64(logits)
    log_q -= np.log(np.sum(np.exp(log_q), axis=-1, keepdims=True))
    pixel = z.reshape(50, samples, -1) @ np.float64(decoder)
    log_w = np.sum(x * pixel - np.logaddexp(0, pixel), axis=-1)
    log_w += np.einsum("bsnk,bnk->bs", z, -np.log(k) - log_q)
    return ours, np.logaddexp.reduce(log_w, axis=1) - np.log(samples)


def error(name: str) -> float:
    """The largest error of a pattern, relative to the largest entry; infinite for a NaN."""
    ours, expected = (np.asarray(x, np.float64) for x in PATTERNS[name]())
    assert ours.shape == expected.shape, name
    largest = np.max(np.abs(ours - expected)) / np.max(np.abs(expected))
    return float(np.nan_to_num(largest, nan=np.inf))


def main() -> None:
    devices.keep_float32()
    print(f"jaxlib {jaxlib.__version__}, {jax.default_backend()}: largest relative error")
    errors = {name: error(name) for name in PATTERNS}
    for name, of_pattern in errors.items():
        verdict = "right" if of_pattern < TOLERANCE else "WRONG"
        print(f"{of_pattern:10.1e}  {verdict}  {name.strip('_').replace('_', ' ')}")
    sys.exit(any(of_pattern >= TOLERANCE for of_pattern in errors.values()))


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
