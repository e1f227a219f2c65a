"""Prove a gradient estimator: the exact answers by enumeration, and the laws of the contract.

Somebody else's estimator is proved in five lines. This one is the score function:

>>> import jax, jax.numpy as jnp
>>> from gsm.distributions import gumbel_max, log_prob
>>> from gsm.testing import check_laws
>>> def mine(key, logits, f):
...     z = gumbel_max(key, logits)
...     cost, log_q = f(z), log_prob(z, logits)
...     return cost + jax.lax.stop_gradient(cost) * (log_q - jax.lax.stop_gradient(log_q))
>>> report = check_laws(mine, unbiased="any")
>>> max(report.values()) < 1
True

A wrong one raises :class:`LawError`, whose message names the law, the problem, the number that is
off and what was expected. With a factor of 2 in the gradient:

>>> def doubled(key, logits, f):
...     z = gumbel_max(key, logits)
...     cost, log_q = f(z), log_prob(z, logits)
...     return cost + 2 * jax.lax.stop_gradient(cost) * (log_q - jax.lax.stop_gradient(log_q))
>>> check_laws(doubled, unbiased="any")  # doctest: +ELLIPSIS
Traceback (most recent call last):
gsm.testing.LawError: gradient law (two of three classes, f: any): biased: ...

The oracle (:func:`outcomes` to :func:`exact_gradient`) is NumPy in float64 and shares no code with
the estimators. Means of draws are judged by t-tests with a stated false-alarm rate instead of
tolerances chosen by hand; keys are fixed, so a check that passes once passes for ever.

Each law is a function of its own that returns how much of its tolerance was used: 1 would fail.
:func:`check_laws` calls them all, in about 4 to 12 seconds on a CPU, most of it compilation.
The examples assume ``import gsm, jax, jax.numpy as jnp``.
"""

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Key
from numpy.typing import ArrayLike

from gsm.registry import entry_of, operator_of

Operator = Callable[..., Float[Array, ""]]
"""``estimator(key, logits, f, **hyperparams) -> surrogate``; a registry entry is one."""

Hyperparameters = Mapping[str, float]


class LawError(AssertionError):
    """An estimator breaks a law; the message says which one, where, and by how much.

    Example:
      >>> gsm.testing.assert_frequencies([50, 50], [1.0, 0.0])
      Traceback (most recent call last):
      gsm.testing.LawError: wrong distribution: a class of probability 0 came; counts [50. 50.]
    """


# --- The oracle ------------------------------------------------------------------------------


def softmax(logits: ArrayLike) -> np.ndarray:
    """Compute class probabilities in float64.

    Args:
      logits: unnormalised log-probabilities ``[..., k]``.

    Returns:
      Probabilities ``[..., k]``.

    Example:
      >>> gsm.testing.softmax([0.0, 0.0])
      array([0.5, 0.5])
    """
    logits = np.asarray(logits, np.float64)
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def outcomes(n: int, k: int) -> np.ndarray:
    """List all one-hot outcomes of n variables with k classes.

    Args:
      n: number of variables.
      k: number of classes.

    Returns:
      Outcomes ``[k ** n, n, k]``, in float64.

    Example:
      >>> gsm.testing.outcomes(1, 2)
      array([[[1., 0.]],
      <BLANKLINE>
             [[0., 1.]]])
    """
    return np.eye(k)[np.array(list(itertools.product(range(k), repeat=n)))]


def probabilities(logits: ArrayLike) -> np.ndarray:
    """Compute the probability of each of the :func:`outcomes`.

    Args:
      logits: unnormalised log-probabilities ``[n, k]``.

    Returns:
      Probabilities ``[k ** n]``, in float64.

    Example:
      >>> gsm.testing.probabilities([[0.0, 0.0]])
      array([0.5, 0.5])
    """
    n, k = np.shape(logits)
    return np.prod(np.sum(outcomes(n, k) * softmax(logits), axis=-1), axis=-1)


def costs(logits: ArrayLike, f: Callable[[Array], Array]) -> np.ndarray:
    """Compute the cost of each of the :func:`outcomes`, by JAX in float64.

    Args:
      logits: an array ``[n, k]``, of which the shape alone matters.
      f: cost of one outcome ``[n, k]``, in JAX; need not be differentiable.

    Returns:
      Costs ``[k ** n]``, in float64.

    Example:
      >>> gsm.testing.costs([[0.0, 0.0]], lambda z: 3 * z[0, 1])
      array([0., 3.])
    """
    n, k = np.shape(logits)
    # In float64: differences of costs are what the gradient is made of.
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(f))(jnp.asarray(outcomes(n, k))), np.float64)


def expectation(logits: ArrayLike, f: Callable[[Array], Array]) -> float:
    """Compute ``E f(z)``, the sum over all outcomes.

    Args:
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of one outcome ``[n, k]``, in JAX; need not be differentiable.

    Returns:
      The expectation, in float64.

    Cost: evaluates f ``k ** n`` times, vectorised.

    Example:
      >>> float(gsm.testing.expectation([[0.0, 0.0]], lambda z: 3 * z[0, 1]))
      1.5
    """
    return probabilities(logits) @ costs(logits, f)


def exact_gradient(logits: ArrayLike, f: Callable[[Array], Array]) -> np.ndarray:
    """Compute the gradient of ``E f(z)`` with respect to the logits, the sum over all outcomes.

    Args:
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of one outcome ``[n, k]``, in JAX; need not be differentiable.

    Returns:
      The gradient ``[n, k]``, in float64.

    Source: ``sum_z q(z) f(z) (z - softmax(logits))``, the score-function identity enumerated.
    Cost: evaluates f ``k ** n`` times, vectorised.

    Example:
      >>> gsm.testing.exact_gradient([[0.0, 0.0]], lambda z: 3 * z[0, 1])
      array([[-0.75,  0.75]])
    """
    z = outcomes(*np.shape(logits))
    weights = probabilities(logits) * costs(logits, f)
    return np.einsum("o,onk->nk", weights, z - softmax(logits))


# --- Test problems ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """Logits and costs small enough to enumerate.

    The costs are of three kinds, by what estimators state to be unbiased for: :meth:`affine` and
    :meth:`quadratic` in each variable, and :meth:`cost`, which is neither.

    Args:
      name: what messages call it.
      logits: unnormalised log-probabilities ``[n, k]``, in float64.
      weights: weights of the variables in the costs, ``[n, k]``.

    Example:
      >>> problem = gsm.testing.PROBLEMS["two of three classes"]
      >>> gsm.testing.exact_gradient(problem.logits, problem.cost).shape
      (2, 3)
    """

    name: str
    logits: np.ndarray
    weights: np.ndarray

    def cost(self, z: Float[Array, "n k"]) -> Float[Array, ""]:
        """Not linear, multilinear or quadratic in any variable: no estimator is exact by luck."""
        w = jnp.asarray(self.weights, z.dtype)
        inner = jnp.sum(w * z)
        return jnp.sin(2 * inner) + jnp.sum(jnp.exp(w * z)) / z.size + jnp.prod(0.5 + z[:, 0])

    def affine(self, z: Float[Array, "n k"]) -> Float[Array, ""]:
        """Affine in each variable with the others fixed: products of neighbouring variables."""
        n, k = self.logits.shape
        matrices = 1.5 * np.sin(1 + np.arange((n - 1) * k * k)).reshape(n - 1, k, k)
        pairs = jnp.einsum("ij,ijl,il->", z[:-1], jnp.asarray(matrices, z.dtype), z[1:])
        return pairs + jnp.sum(jnp.asarray(self.weights, z.dtype) * z)

    def quadratic(self, z: Float[Array, "n k"]) -> Float[Array, ""]:
        """Quadratic in each variable and in all of them together."""
        size = self.logits.size
        matrix = np.sin(np.arange(size**2)).reshape(size, size)
        flat = z.reshape(-1)
        return flat @ jnp.asarray(matrix, z.dtype) @ flat

    def costs(self, z: Float[Array, "n k"]) -> Float[Array, " 3"]:
        """All three, in the order of :data:`KINDS`."""
        return jnp.stack([self.affine(z), self.quadratic(z), self.cost(z)])


KINDS = ("affine", "quadratic", "any")
"""Kinds of cost, each more general than those before it."""


def _problem(name: str, seed: int, n: int, k: int, bernoulli: bool = False) -> Problem:
    generator = np.random.default_rng(seed)
    logits, weights = generator.normal(size=(n, k)), 1.5 * generator.normal(size=(n, k))
    if bernoulli:
        logits[:, 1] = 0
    return Problem(name, logits, weights)


PROBLEMS = {
    problem.name: problem
    for problem in (
        _problem("two of three classes", 1, 2, 3),
        _problem("three of four classes", 2, 3, 4),
        _problem("three Bernoulli units", 3, 3, 2, bernoulli=True),
        _problem("one Bernoulli unit", 5, 1, 2, bernoulli=True),
    )
}
"""Test problems by name. For the one unit, means of relaxed estimators are integrals over one
number, which a quadrature computes."""

CHECKED = ("two of three classes", "three Bernoulli units")
"""The problems of :func:`check_laws`: two classes have arithmetic of their own."""


@functools.cache
def _exact(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Expectations ``[3]`` and exact gradients ``[3, n, k]`` of the problem's costs."""
    z, q = outcomes(*problem.logits.shape), probabilities(problem.logits)
    weighted = q[:, None] * costs(problem.logits, problem.costs)
    gradients = np.einsum("oc,onk->cnk", weighted, z - softmax(problem.logits))
    return weighted.sum(axis=0), gradients


# --- Judgements ------------------------------------------------------------------------------


def assert_mean(
    samples: ArrayLike, expected: ArrayLike, alpha: float = 1e-6, law: str = "mean"
) -> float:
    """Check ``E[samples] == expected`` in every component.

    A t-test in each component with the standard error measured from the samples, with Bonferroni's
    correction over the components. Components that do not vary must agree to 1e-5.

    Args:
      samples: independent samples ``[num_samples, ...]``.
      expected: their mean ``[...]``.
      alpha: probability of a false alarm, over all components together.
      law: what the message begins with.

    Returns:
      The largest deviation as a share of the largest one that passes.

    Raises:
      LawError: a mean is not what was expected.

    Example:
      >>> gsm.testing.assert_mean([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]], [2.0, 0.0])
      0.0
    """
    standardised = _standardise(samples, expected)
    mean, target, deviates, limit = _judge(standardised, alpha)
    fixed = standardised.errors == 0
    used = _close(f"{law}: biased", mean[fixed], target[fixed], 1e-5, 1e-6, "a mean that is fixed")
    if fixed.all():
        return used
    worst = int(np.argmax(np.where(fixed, -1.0, deviates)))
    if not deviates[worst] <= limit:
        index = [int(i) for i in np.unravel_index(worst, np.shape(samples)[1:])]
        raise LawError(
            f"{law}: biased: the mean{index or ''} of {len(np.asarray(samples)):,} samples is "
            f"{mean[worst]:.5g} +- {standardised.errors[worst]:.2g}, expected {target[worst]:.5g}: "
            f"{deviates[worst]:.1f} standard errors off, at most {limit:.1f} are chance"
        )
    return max(used, float(deviates[worst] / limit))


@dataclass(frozen=True)
class _Standardised:
    means: np.ndarray
    errors: np.ndarray
    expected: np.ndarray
    count: int


def _standardise(samples: ArrayLike, expected: ArrayLike) -> _Standardised:
    flat = np.asarray(samples, np.float64)
    if len(flat) < 2:
        raise ValueError(f"samples must be at least 2; got {len(flat)}")
    flat = flat.reshape(len(flat), -1)
    target = np.asarray(expected, np.float64).reshape(-1)
    errors = flat.std(axis=0, ddof=1) / math.sqrt(len(flat))
    errors[np.ptp(flat, axis=0) == 0] = 0  # the mean of equal numbers is rounded
    return _Standardised(
        flat.mean(axis=0), errors, np.broadcast_to(target, errors.shape), len(flat)
    )


def _judge(of: _Standardised, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Means, expected means, deviations in equivalent normal deviates, and their limit."""
    moves = of.errors > 0
    t = np.abs(of.means - of.expected) / np.where(moves, of.errors, np.inf)
    limit = -statistics.NormalDist().inv_cdf(alpha / 2 / max(moves.sum(), 1))
    return of.means, of.expected, normal_deviate(t, of.count - 1), limit


def normal_deviate(t: ArrayLike, degrees: int) -> np.ndarray:
    """Compute the normal deviate with the same tail probability as Student's t.

    Args:
      t: values of the statistic, 0 or more.
      degrees: degrees of freedom. From 20 the tail probability is right to 1e-6 of itself down to
        1e-12.

    Returns:
      Deviates of the shape of ``t``.

    Source: Hill 1970, algorithm 395 of the ACM.

    Example:
      >>> round(float(gsm.testing.normal_deviate(2.0, 20)), 3)
      1.886
    """
    a = degrees - 0.5
    b = 48 * a * a
    y = a * np.log1p(np.square(t) / degrees)
    correction = (((-0.4 * y - 3.3) * y - 24) * y - 85.5) / (0.8 * y * y + 100 + b)
    return ((correction + y + 3) / b + 1) * np.sqrt(y)


def assert_frequencies(counts: ArrayLike, probs: ArrayLike, alpha: float = 1e-6) -> float:
    """Check by a chi-square test that counts come from the stated probabilities.

    Args:
      counts: how often each class came, ``[k]``; each expected count should be 5 or more.
      probs: probability of each class ``[k]``; a class of probability 0 must not come.
      alpha: probability of a false alarm.

    Returns:
      The test's p-value.

    Raises:
      LawError: the counts do not come from these probabilities.

    Example:
      >>> gsm.testing.assert_frequencies([50, 50, 0], [0.5, 0.5, 0.0])
      1.0
    """
    seen, probs = np.asarray(counts, np.float64), np.asarray(probs, np.float64)
    possible = probs > 0
    if seen[~possible].any():
        raise LawError(f"wrong distribution: a class of probability 0 came; counts {seen}")
    expected = seen.sum() * probs[possible] / probs[possible].sum()
    statistic = float(np.sum((seen[possible] - expected) ** 2 / expected))
    p = chi_square_tail(statistic, int(possible.sum()) - 1)
    if not p > alpha:
        raise LawError(
            f"wrong distribution: p {p:.1e}, counts {seen}, expected {seen.sum() * probs}"
        )
    return p


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Compute the probability that a chi-square variable is larger than a number.

    Args:
      statistic: the number, 0 or more.
      degrees: degrees of freedom, a whole number.

    Returns:
      The probability.

    Example:
      >>> round(gsm.testing.chi_square_tail(3.841, 1), 3)
      0.05
    """
    half = statistic / 2
    if half == 0 or degrees == 0:
        return 1.0
    # The incomplete gamma function of a whole or half order is a finite sum.
    orders = np.arange(degrees % 2 / 2, degrees / 2)
    terms = (math.exp(j * math.log(half) - half - math.lgamma(j + 1)) for j in orders)
    return (math.erfc(math.sqrt(half)) if degrees % 2 else 0.0) + math.fsum(terms)


def _close(
    law: str, found: ArrayLike, expected: ArrayLike, rtol: float, atol: float, what: str
) -> float:
    """Largest deviation as a share of the tolerance; LawError beyond it or where one is NaN."""
    found, expected = np.broadcast_arrays(
        np.asarray(found, np.float64), np.asarray(expected, np.float64)
    )
    if not found.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        used = np.abs(found - expected) / (atol + rtol * np.abs(expected))
    used = np.where(found == expected, 0.0, np.where(np.isnan(used), np.inf, used))
    worst = np.unravel_index(np.argmax(used), used.shape)
    if used[worst] > 1:
        index = [int(i) for i in worst]
        raise LawError(
            f"{law}: {what}{index or ''} is {found[worst]:.6g}, expected {expected[worst]:.6g}"
        )
    return float(used[worst])


# --- Estimates, in few programs ----------------------------------------------------------------
# Most of a check's time is compilation. So the laws share these three programs, whose caches go by
# the estimator and the problem; other logits and hyperparameters do not compile again.


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradients(
    estimator: Operator,
    f: Callable[[Array], Array],
    key: Key[Array, ""],
    logits: Float[Array, "n k"],
    hyperparams: Mapping[str, Array],
) -> tuple[Array, tuple[Array, dict[str, Array]]]:
    """Compute the value at one key; its gradients with respect to logits and hyperparameters.

    Args:
      estimator: operator ``(key, logits, f, **hyperparams)``.
      f: cost of one sample ``[n, k]``.
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      hyperparams: scalars to call the estimator with.

    Returns:
      ``(value, (gradient [n, k], gradients with respect to hyperparameters by name))``.

    Example:
      >>> value, (gradient, _) = gsm.testing.value_and_gradients(
      ...     gsm.rloo, jnp.sum, jax.random.key(0), jnp.zeros((2, 3)), {})
      >>> float(value), gradient.shape
      (2.0, (2, 3))
    """

    def surrogate(logits, hyperparams):
        return estimator(key, logits, f, **hyperparams)

    return jax.value_and_grad(surrogate, (0, 1))(logits, hyperparams)


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(
    estimator: Operator,
    problem: Problem,
    keys: Key[Array, " draw"],
    logits: Float[Array, "n k"],
    mixtures: Float[Array, "mixture 3"],
    hyperparams: Mapping[str, Array],
) -> tuple[Float[Array, "draw mixture"], Float[Array, "draw mixture n k"]]:
    """Compute values and gradients at many keys, for each mixture of the problem's three costs.

    Args:
      estimator: operator ``(key, logits, f, **hyperparams)``.
      problem: one of :data:`PROBLEMS`.
      keys: random keys ``[num_draws]``.
      logits: unnormalised log-probabilities ``[n, k]``.
      mixtures: weights of the costs, in the order of :data:`KINDS`, ``[num_mixtures, 3]``.
      hyperparams: scalars to call the estimator with.

    Returns:
      Values ``[num_draws, num_mixtures]`` and gradients ``[num_draws, num_mixtures, n, k]``.

    Example:
      >>> problem = gsm.testing.PROBLEMS["one Bernoulli unit"]
      >>> keys, logits = jax.random.split(jax.random.key(0), 10), jnp.asarray(problem.logits)
      >>> values, gradients = gsm.testing.draw(gsm.rloo, problem, keys, logits, jnp.eye(3), {})
      >>> values.shape, gradients.shape
      ((10, 3), (10, 3, 1, 2))
    """

    def one(key, mixture):
        def surrogate(logits):
            return estimator(key, logits, lambda z: mixture @ problem.costs(z), **hyperparams)

        return jax.value_and_grad(surrogate)(logits)

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(keys, mixtures)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _at_few_keys(estimator, problem, relaxed, keys, logits, hyperparams):
    """Values of probing costs, the value, and the gradient with respect to what f closes over."""

    def probing(probe, z):
        return jnp.sum(probe * z) if relaxed else jnp.prod(jnp.sum(probe * z, axis=-1))

    def one(key):
        def value_of(f):
            return estimator(random.clone(key), logits, f, **hyperparams)

        probed = jax.vmap(lambda p: value_of(functools.partial(probing, p)))(
            jnp.asarray(_probes(problem, relaxed), logits.dtype)
        )
        by_weights = jax.grad(lambda w: value_of(functools.partial(_closing_over, w)))
        return probed, value_of(problem.cost), by_weights(jnp.asarray(problem.weights))

    return jax.vmap(one)(keys)


def _probes(problem: Problem, relaxed: bool) -> np.ndarray:
    n, k = problem.logits.shape
    return np.eye(n * k).reshape(-1, n, k) if relaxed else outcomes(n, k)


def _closing_over(w: Float[Array, "n k"], z: Float[Array, "n k"]) -> Float[Array, ""]:
    """A cost with parameters of its own, as a decoder has."""
    return jnp.sum(jnp.tanh(w * z)) + jnp.sum(w) * z[0, 0]


_FEW = 8


def _few(estimator, problem, relaxed, hyperparams, key):
    keys = random.split(_key(key), _FEW)
    found = _at_few_keys(estimator, problem, relaxed, keys, _logits(problem), _traced(hyperparams))
    return (np.asarray(x, np.float64) for x in found)


def _key(key: Key[Array, ""] | None) -> Key[Array, ""]:
    return random.key(0) if key is None else random.clone(key)


def _logits(problem: Problem) -> Float[Array, "n k"]:
    return jnp.asarray(problem.logits, jnp.float32)


def _traced(hyperparams: Hyperparameters | None) -> dict[str, Array]:
    return {name: jnp.float32(value) for name, value in (hyperparams or {}).items()}


# --- The laws ----------------------------------------------------------------------------------


def check_value_law(
    estimator: Operator,
    problem: Problem,
    *,
    relaxed: bool = False,
    num_samples: int | None = None,
    hyperparams: Hyperparameters | None = None,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that the surrogate's value is the cost at the sample, or its mean over the samples.

    The samples are recovered from the values of costs that are 1 at one outcome and 0 at all
    others (of a relaxed sample, from those of its coordinates).

    Args:
      estimator: operator ``(key, logits, f, **hyperparams)``.
      problem: one of :data:`PROBLEMS`.
      relaxed: whether f sees one point inside the simplex, not one-hot samples.
      num_samples: samples averaged, if known: then every outcome's share must be a multiple of
        ``1 / num_samples``.
      hyperparams: scalars to call the estimator with.
      key: random key.

    Returns:
      The share of the tolerance that was used.

    Raises:
      LawError: the law is broken.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_value_law(gsm.rloo, unit, num_samples=4) < 1
      True
    """
    law = f"value law ({problem.name})"
    probed, values, _ = _few(estimator, problem, relaxed, hyperparams, key)
    if relaxed:
        z = probed.reshape(-1, *problem.logits.shape)
        used = _close(law, z.sum(axis=-1), 1.0, 1e-5, 0, "the sum of a relaxed row")
        outside = ~((z > 0) & (z < 1))
        if outside.any():
            raise LawError(f"{law}: a relaxed sample holds {z[outside][0]:.6g}, expected in (0, 1)")
        expected = _costs_at(problem, z)
    else:
        used = _close(law, probed.sum(axis=-1), 1.0, 1e-5, 0, "the outcomes' total share")
        if probed.min() < -1e-5:
            raise LawError(f"{law}: an outcome's share is {probed.min():.6g}, expected 0 or more")
        if num_samples is not None:
            counts = probed * num_samples
            what = f"an outcome's share of {num_samples} samples"
            used = max(used, _close(law, counts, np.round(counts), 0, 1e-4, what))
        expected = probed @ _costs_at(problem, outcomes(*problem.logits.shape))
    return max(used, _close(law, values, expected, 1e-4, 1e-5, "the value"))


def _costs_at(problem: Problem, z: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(problem.cost))(jnp.asarray(z)))


def check_closure_law(
    estimator: Operator,
    problem: Problem,
    *,
    relaxed: bool = False,
    hyperparams: Hyperparameters | None = None,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check the gradient with respect to what f closes over: that of the cost at the sample.

    So a decoder inside f trains through the same scalar. Arguments, returns and errors are those
    of :func:`check_value_law`.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_closure_law(gsm.rloo, unit) < 1
      True
    """
    probed, _, found = _few(estimator, problem, relaxed, hyperparams, key)
    w = jnp.asarray(problem.weights, jnp.float32)
    slopes = jax.jit(jax.vmap(jax.grad(_closing_over), (None, 0)))
    if relaxed:
        z = probed.reshape(-1, *problem.logits.shape)
        expected = np.asarray(slopes(w, jnp.asarray(z, jnp.float32)))
    else:
        at_outcomes = slopes(w, jnp.asarray(outcomes(*problem.logits.shape), jnp.float32))
        expected = np.einsum("do,onk->dnk", probed, np.asarray(at_outcomes, np.float64))
    law = f"gradient with respect to what f closes over ({problem.name})"
    return _close(law, found, expected, 1e-4, 1e-5, "the gradient")


def check_gradient_law(
    estimator: Operator,
    problem: Problem,
    *,
    unbiased: str = "any",
    mean_gradient: Callable[[np.ndarray, Callable], ArrayLike] | None = None,
    relaxed: bool = False,
    hyperparams: Hyperparameters | None = None,
    num_draws: int = 100_000,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that the mean gradient is the exact one for the costs that are stated.

    Args:
      estimator: operator ``(key, logits, f, **hyperparams)``.
      problem: one of :data:`PROBLEMS`.
      unbiased: for which f the estimator is unbiased: "any"; "quadratic" or "affine" in each
        variable; "quadratic in Bernoulli units"; "none".
      mean_gradient: of a biased estimator, what its mean gradient for ``problem.cost`` is,
        ``mean_gradient(logits, f) -> [n, k]``, with the logits in NumPy and float64.
      relaxed: whether f sees a point inside the simplex; else the mean value must be ``E f`` too.
      hyperparams: scalars to call the estimator with.
      num_draws: number of estimates, at least 100.
      key: random key.

    Returns:
      The largest deviation as a share of the largest one that passes. False alarms come at a rate
      of 1e-6 for each kind of cost.

    Raises:
      LawError: a mean differs from what was expected.
      ValueError: there is no such ``unbiased``, or there are too few draws.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_gradient_law(gsm.rloo, unit, num_draws=10_000) < 1
      True
    """
    stated = _stated(unbiased, problem)
    kinds, values, gradients = _draws(estimator, problem, unbiased, hyperparams, num_draws, key)
    expectations, exact = _exact(problem)
    used = [0.0]
    for i, kind in enumerate(kinds):
        where = f"({problem.name}, f: {kind})"
        of_kind = KINDS.index(kind)
        if kind in stated:
            used.append(assert_mean(gradients[:, i], exact[of_kind], law=f"gradient law {where}"))
        if not relaxed:
            law = f"mean of the value {where}"
            used.append(assert_mean(values[:, i], expectations[of_kind], law=law))
    if mean_gradient is not None:
        expected = mean_gradient(problem.logits, problem.cost)
        law = f"stated mean gradient ({problem.name})"
        used.append(assert_mean(gradients[:, -1], expected, law=law))
    return max(used)


def check_bias_claim(
    estimator: Operator,
    problem: Problem,
    *,
    unbiased: str,
    hyperparams: Hyperparameters | None = None,
    num_draws: int = 100_000,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that a biased estimator is biased for every kind of cost beyond those stated.

    Arguments are those of :func:`check_gradient_law`. This also shows that the draws are enough to
    see the bias.

    Returns:
      The largest ratio of what could be chance to what was found; 0 if nothing is left to show.

    Raises:
      LawError: for a kind beyond those stated no bias can be seen: state more, or take more draws.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> straight_through = testing.from_sampler(gsm.straight_through)
      >>> testing.check_bias_claim(straight_through, unit, unbiased="affine") < 1
      True
    """
    stated = _stated(unbiased, problem)
    if len(stated) == len(KINDS):
        return 0.0
    kinds, _, gradients = _draws(estimator, problem, unbiased, hyperparams, num_draws, key)
    exact = _exact(problem)[1]
    used = [0.0]
    for i, kind in enumerate(kinds):
        if kind in stated:
            continue
        of_kind = _standardise(gradients[:, i], exact[KINDS.index(kind)])
        means, expected, deviates, limit = _judge(of_kind, 1e-6)
        fixed = of_kind.errors == 0
        if np.any(np.abs(means - expected)[fixed] > 1e-4):
            continue
        if not deviates.max() > limit:
            raise LawError(
                f"bias claim ({problem.name}): unbiased={unbiased!r} is stated, but for f: {kind} "
                f"the bias is at most {deviates.max():.1f} standard errors of {num_draws:,} draws, "
                f"expected more than {limit:.1f}"
            )
        used.append(float(limit / deviates.max()))
    return max(used)


def _stated(unbiased: str, problem: Problem) -> tuple[str, ...]:
    """The kinds of cost for which an estimator is stated to be unbiased on a problem."""
    two = problem.logits.shape[1] == 2
    statements = {
        "any": KINDS,
        "quadratic": KINDS[:2],
        "quadratic in Bernoulli units": KINDS[: 2 if two else 1],
        "affine": KINDS[:1],
        "none": (),
    }
    if unbiased not in statements:
        raise ValueError(f"unbiased must be one of {', '.join(statements)}; got {unbiased!r}")
    return statements[unbiased]


_FEWEST_DRAWS = 100


def _draws(
    estimator: Operator,
    problem: Problem,
    unbiased: str,
    hyperparams: Hyperparameters | None,
    num_draws: int,
    key: Key[Array, ""] | None,
) -> tuple[Sequence[str], np.ndarray, np.ndarray]:
    """Kinds of cost that tell something, and values and gradients for each."""
    if num_draws < _FEWEST_DRAWS:
        raise ValueError(f"num_draws must be at least {_FEWEST_DRAWS}; got {num_draws}")
    kinds = KINDS[-1:] if unbiased == "any" else KINDS
    mixtures = jnp.eye(len(KINDS))[-len(kinds) :]
    keys = random.split(_key(key), num_draws)
    values, gradients = draw(
        estimator, problem, keys, _logits(problem), mixtures, _traced(hyperparams)
    )
    return kinds, np.asarray(values), np.asarray(gradients)


def check_shift_invariance(
    estimator: Operator,
    problem: Problem,
    *,
    hyperparams: Hyperparameters | None = None,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that the gradient's rows sum to zero and a shift of a row of logits changes nothing.

    Both follow from a softmax that does not see a constant in a row.

    Args:
      estimator: operator ``(key, logits, f, **hyperparams)``.
      problem: one of :data:`PROBLEMS`.
      hyperparams: scalars to call the estimator with.
      key: random key.

    Returns:
      The share of the tolerance that was used.

    Raises:
      LawError: the law is broken.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_shift_invariance(gsm.rloo, unit) < 1
      True
    """
    law = f"shift invariance ({problem.name})"
    logits = _logits(problem)
    gradient = _gradient(estimator, problem, logits, hyperparams, key)[0]
    shifts = jnp.linspace(-1.0, 2.0, len(logits))[:, None]
    shifted = _gradient(estimator, problem, logits + shifts, hyperparams, key)[0]
    return max(
        _close(law, gradient.sum(axis=-1), 0.0, 0, 1e-4, "the sum of the gradient's row"),
        _close(law, shifted, gradient, 1e-3, 1e-4, "the gradient at shifted logits"),
    )


def _gradient(estimator, problem, logits, hyperparams, key):
    _, gradients = value_and_gradients(
        estimator, problem.cost, _key(key), logits, _traced(hyperparams)
    )
    return gradients


def check_masked_classes(
    estimator: Operator,
    problem: Problem,
    *,
    hyperparams: Hyperparameters | None = None,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that a class with logit ``-inf`` makes no NaN and gets a gradient of exactly 0.

    The gradients with respect to the other logits and to the hyperparameters must be those at a
    logit of -1e9. Arguments, returns and errors are those of :func:`check_shift_invariance`.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_masked_classes(gsm.rloo, unit) < 1
      True
    """
    law = f"masked classes ({problem.name})"
    masked = _logits(problem).at[:, 1].set(-jnp.inf)
    value, (by_logits, by_hyperparams) = value_and_gradients(
        estimator, problem.cost, _key(key), masked, _traced(hyperparams)
    )
    _finite(law, value, by_logits)
    low = jnp.where(masked == -jnp.inf, -1e9, masked)
    logits_low, hyperparams_low = _gradient(estimator, problem, low, hyperparams, key)
    used = [
        _close(law, by_logits[:, 1], 0.0, 0, 1e-30, "the gradient of a masked class"),
        _close(law, by_logits, logits_low, 1e-4, 1e-5, "the gradient"),
    ]
    for name, found in by_hyperparams.items():
        what = f"the gradient with respect to {name}"
        used.append(_close(law, found, hyperparams_low[name], 1e-4, 1e-5, what))
    return max(used)


def check_nan(
    estimator: Operator,
    problem: Problem,
    *,
    hyperparams: Hyperparameters | None = None,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that a NaN among the logits gives a value and a gradient of NaN, not a silent class.

    Arguments, returns and errors are those of :func:`check_shift_invariance`.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_nan(gsm.rloo, unit) == 0
      True
    """
    law = f"NaN in, NaN out ({problem.name})"
    logits = _logits(problem).at[0, 0].set(jnp.nan)
    value, (gradient, _) = value_and_gradients(
        estimator, problem.cost, _key(key), logits, _traced(hyperparams)
    )
    if not np.isnan(value):
        raise LawError(f"{law}: the value is {float(value):.6g}, expected nan")
    if not np.isnan(gradient).any():
        raise LawError(f"{law}: the gradient is {np.asarray(gradient).tolist()}, expected nan")
    return 0.0


def check_extreme_logits(
    estimator: Operator,
    problem: Problem,
    *,
    hyperparams: Hyperparameters | None = None,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that value and gradient are finite where logits are tens of thousands.

    Arguments, returns and errors are those of :func:`check_shift_invariance`.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_extreme_logits(gsm.rloo, unit) == 0
      True
    """
    found = value_and_gradients(
        estimator, problem.cost, _key(key), 1e4 * _logits(problem), _traced(hyperparams)
    )
    return _finite(f"extreme logits ({problem.name})", found[0], found[1][0])


def _finite(law: str, value: Array, gradient: Array) -> float:
    for what, x in (("value", value), ("gradient", gradient)):
        numbers = np.asarray(x, np.float64)
        if not np.isfinite(numbers).all():
            raise LawError(f"{law}: the {what} is {numbers.tolist()}, expected finite numbers")
    return 0.0


def check_low_precision(
    estimator: Operator,
    problem: Problem,
    *,
    dtypes: Sequence[str] = ("bfloat16", "float16"),
    hyperparams: Hyperparameters | None = None,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that logits of a low precision give a finite value and gradient.

    Arguments (with the ``dtypes`` to check), returns and errors are those of
    :func:`check_shift_invariance`.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_low_precision(gsm.rloo, unit) == 0
      True
    """
    for dtype in dtypes:
        law = f"low precision ({problem.name}, {dtype})"
        logits = _logits(problem).astype(dtype)
        value, (gradient, _) = value_and_gradients(
            estimator, problem.cost, _key(key), logits, _traced(hyperparams)
        )
        _finite(law, value, gradient)
    return 0.0


def check_transformations(
    estimator: Operator,
    problem: Problem,
    *,
    hyperparams: Hyperparameters | None = None,
    key: Key[Array, ""] | None = None,
) -> float:
    """Check that the surrogate is one float, and that no transformation of JAX changes it.

    Value and gradient of one call, not compiled, with hyperparameters as Python numbers, must be
    those of a compiled ``vmap`` over keys with hyperparameters traced: so other hyperparameters do
    not compile again. Arguments, returns and errors are those of :func:`check_shift_invariance`.

    Example:
      >>> from gsm import testing
      >>> unit = testing.PROBLEMS["one Bernoulli unit"]
      >>> testing.check_transformations(gsm.rloo, unit) < 1
      True
    """
    law = f"transformations ({problem.name})"
    logits, keys = _logits(problem), random.split(_key(key), 2)

    def surrogate(logits, key, hyperparams):
        value = estimator(key, logits, problem.cost, **hyperparams)
        if jnp.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise LawError(
                f"{law}: the surrogate has dtype {jnp.result_type(value)} and shape "
                f"{jnp.shape(value)}, expected one float"
            )
        return value

    def one(key, hyperparams):
        return jax.value_and_grad(surrogate)(logits, key, hyperparams)

    try:
        together = jax.jit(jax.vmap(one, (0, None)))
        values, gradients = together(keys, _traced(hyperparams))
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise LawError(f"{law}: a traced value is asked for its number: {reason}") from error
    value, gradient = one(random.clone(keys)[1], dict(hyperparams or {}))
    return max(
        _close(law, values[1], value, 1e-5, 1e-6, "the value under jit and vmap"),
        _close(law, gradients[1], gradient, 1e-4, 1e-5, "the gradient under jit and vmap"),
    )


def from_sampler(sampler: Callable[..., Array]) -> Operator:
    """Make the operator ``f(sampler(key, logits, **hyperparams))`` of a sampler with a gradient.

    Args:
      sampler: function ``(key, logits [n, k], **hyperparams)`` that returns a sample ``[n, k]``.

    Returns:
      An operator ``(key, logits, f, **hyperparams)``.

    Example:
      >>> from gsm import testing
      >>> reinmax = testing.from_sampler(gsm.reinmax)
      >>> testing.check_value_law(reinmax, testing.PROBLEMS["one Bernoulli unit"]) < 1
      True
    """

    def estimator(key, logits, f, **hyperparams):
        return f(sampler(key, logits, **hyperparams))

    return estimator


def check_laws(
    estimator: Operator,
    unbiased: str | None = None,
    *,
    mean_gradient: Callable[[np.ndarray, Callable], ArrayLike] | None = None,
    relaxed: bool | None = None,
    num_classes: int | None = None,
    num_samples: int | None = None,
    hyperparams: Hyperparameters | None = None,
    num_draws: int = 100_000,
    key: Key[Array, ""] | None = None,
) -> dict[str, float]:
    """Check all laws of one estimator, on problems whose answers are enumerated.

    Args:
      estimator: operator ``(key, logits, f, **hyperparams)``, such as a registry entry, or a
        sampler that can be called as ``sampler(key, logits)``. Arguments that are not traced
        scalars are bound by ``functools.partial``.
      unbiased: for which f the estimator is unbiased: "any"; "quadratic" or "affine" in each
        variable; "quadratic in Bernoulli units"; "none". None: as a registry entry states, else
        "any". Stating too little is an error too.
      mean_gradient: of a biased estimator, what its mean gradient is,
        ``mean_gradient(logits, f) -> [n, k]``.
      relaxed: whether f sees one point inside the simplex; None: as a registry entry states, else
        that samples are one-hot.
      num_classes: the only number of classes to check, 2, 3 or 4; None: 3 and 2, or 2 of a
        registry entry for Bernoulli units alone.
      num_samples: samples whose costs the value averages, if known.
      hyperparams: scalars to call the estimator with; they must be traceable.
      num_draws: estimates of a mean, at least 100.
      key: random key; None: a fixed one.

    Returns:
      Law -> the share of its tolerance that was used, the largest of all problems; 1 would fail.

    Raises:
      LawError: a law is broken.
      ValueError: there is no such ``unbiased`` or ``num_classes``, or there are too few draws.

    Cost: 4 to 12 seconds on a CPU, most of it compilation.

    Example:
      >>> report = gsm.testing.check_laws(gsm.ESTIMATORS["disarm"], num_draws=10_000)
      >>> max(report.values()) < 1
      True
    """
    estimator = operator_of(estimator)
    entry = entry_of(estimator)
    if unbiased is None:
        unbiased = entry.unbiased if entry else "any"
    if relaxed is None:
        relaxed = bool(entry and entry.relaxed)
    if num_classes is None and entry and entry.bernoulli_only:
        num_classes = 2
    common: dict[str, Any] = {"hyperparams": hyperparams, "key": key}
    drawn = common | {"unbiased": unbiased, "num_draws": num_draws}
    sampled = common | {"relaxed": relaxed}
    problems = _problems_of(num_classes)
    # First, since under the others a tracer's error is JAX's own. On one problem, since half of all
    # the time goes into its untraced call, where each operation is compiled.
    used = {"transformations": check_transformations(estimator, problems[0], **common)}
    laws: dict[str, Callable[[Problem], float]] = {
        "value law": lambda p: check_value_law(estimator, p, num_samples=num_samples, **sampled),
        "gradient law": lambda p: check_gradient_law(
            estimator, p, mean_gradient=mean_gradient, relaxed=relaxed, **drawn
        ),
        "bias claim": lambda p: check_bias_claim(estimator, p, **drawn),
        "gradient with respect to what f closes over": lambda p: check_closure_law(
            estimator, p, **sampled
        ),
        "shift invariance": lambda p: check_shift_invariance(estimator, p, **common),
        "masked classes": lambda p: check_masked_classes(estimator, p, **common),
        "NaN in, NaN out": lambda p: check_nan(estimator, p, **common),
        "extreme logits": lambda p: check_extreme_logits(estimator, p, **common),
        "low precision": lambda p: check_low_precision(estimator, p, **common),
    }
    return used | {law: max(check(problem) for problem in problems) for law, check in laws.items()}


def _problems_of(num_classes: int | None) -> list[Problem]:
    if num_classes is None:
        return [PROBLEMS[name] for name in CHECKED]
    # Of two problems with as many classes the first has more variables.
    found = [p for p in PROBLEMS.values() if p.logits.shape[1] == num_classes][:1]
    if not found:
        raise ValueError(f"num_classes must be 2, 3 or 4, or None for 3 and 2; got {num_classes}")
    return found
