"""The exact answers that estimators are held to, in numpy, sharing no code with gsm."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats


def softmax(logits):
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1)


def outcomes(n, k):
    """All one-hot outcomes, ``[k ** n, n, k]``."""
    return np.eye(k)[np.array(list(itertools.product(range(k), repeat=n)))]


def probabilities(logits):
    """Probability of each of :func:`outcomes`."""
    z = outcomes(*np.shape(logits))
    return np.prod(np.sum(z * softmax(logits), axis=-1), axis=-1)


def costs(logits, f):
    """Cost of each of :func:`outcomes`."""
    z = jnp.asarray(outcomes(*np.shape(logits)))
    return np.asarray(jax.jit(jax.vmap(f))(z), np.float64)


def expectation(logits, f):
    """``E f``."""
    return probabilities(logits) @ costs(logits, f)


def exact_gradient(logits, f):
    """Gradient of ``E f`` by the logits, ``sum_z q(z) f(z) (z - softmax(logits))``."""
    q, z = probabilities(logits), outcomes(*np.shape(logits))
    # In float64: differences of costs are what the gradient is made of.
    with jax.enable_x64(True):
        weights = q * costs(logits, f)
    return np.einsum("o,onk->nk", weights, z - softmax(logits))


class Bed(NamedTuple):
    """A small test bed: logits and a cost that curves strongly within each variable."""

    logits: np.ndarray
    cost_weights: np.ndarray

    def cost(self, z):
        """Not linear, multilinear or quadratic in any variable: no estimator is exact by luck."""
        w = jnp.asarray(self.cost_weights, z.dtype)
        inner = jnp.sum(w * z)
        return jnp.sin(2 * inner) + jnp.sum(jnp.exp(w * z)) / z.size + jnp.prod(0.5 + z[:, 0])


def _bed(seed, n, k):
    generator = np.random.default_rng(seed)
    return Bed(generator.normal(size=(n, k)), 1.5 * generator.normal(size=(n, k)))


def _bernoulli(bed):
    logits = bed.logits.copy()
    logits[:, 1] = 0
    return bed._replace(logits=logits)


BEDS = {
    "two of three classes": _bed(1, 2, 3),
    "three of four classes": _bed(2, 3, 4),
    "three Bernoulli units": _bernoulli(_bed(3, 3, 2)),
}


REQUIRED = {
    "nvil": {"baseline": 0.3},
    "slope_annealed_st": {"slope": 1.5},
    "relax": {"control": lambda y: jnp.sum(jnp.sin(3 * y[:, 0]) + y[:, -1] ** 2)},
}
"""Keywords of the registry entries that have no default for all that they need."""


def one_bernoulli_unit():
    """The bed for which the expectations of relaxed estimators are a quadrature."""
    return _bernoulli(_bed(5, 1, 2))


def assert_mean(samples, expected, alpha=1e-6):
    """``E[samples] == expected`` in every component; family-wise false-alarm rate ``alpha``.

    A t test in each component with the standard error measured from the samples, Bonferroni over
    components. Keys are fixed, so a test that passes once passes for ever.
    """
    s = np.asarray(samples, np.float64)
    s = s.reshape(len(s), -1)
    deviation = s.std(axis=0, ddof=1)
    expected = np.broadcast_to(np.asarray(expected, np.float64).reshape(-1), s.shape[1:])
    moves = deviation > 0
    np.testing.assert_allclose(s.mean(axis=0)[~moves], expected[~moves], rtol=1e-5, atol=1e-6)
    if not moves.any():
        return
    z = (s.mean(axis=0) - expected)[moves] / (deviation[moves] / np.sqrt(len(s)))
    p = 2 * scipy.stats.t.sf(np.abs(z), len(s) - 1)
    assert p.min() > alpha / p.size, f"biased: smallest p {p.min():.1e} of {p.size} means"


def assert_frequencies(counts, probs, alpha=1e-6):
    """Chi-square: the counts come from the probabilities; false-alarm rate ``alpha``."""
    counts, probs = np.asarray(counts, np.float64), np.asarray(probs, np.float64)
    possible = probs > 0
    assert counts[~possible].sum() == 0
    p = scipy.stats.chisquare(
        counts[possible], counts.sum() * probs[possible] / probs[possible].sum()
    ).pvalue
    assert p > alpha, f"wrong law: p {p:.1e}, counts {counts}, expected {counts.sum() * probs}"
