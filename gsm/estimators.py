"""Gradient estimators for discrete variables: the samplers and the operators built on them.

The contract. An estimator is an operator ::

    surrogate = estimator(key, logits, f, **hyperparameters)

``logits [n, k]`` are ``n`` categorical variables with ``k`` classes, ``f`` maps one sample
``z [n, k]`` (one-hot or relaxed) to a scalar cost. Two laws hold for each of them, and the tests
hold each registry entry to them:

1. value law: the surrogate's value is the cost at the sample (the mean over several samples; the
   expectation itself for :func:`exact`);
2. gradient law: ``jax.grad`` of the surrogate, by anything that ``logits`` or ``f`` closes over,
   is the gradient estimate.

So layers nest by closure, decoders train through the same scalar, and ``jit``, ``vmap``, ``scan``
and ``grad`` need no rule of their own. Pathwise estimators are samplers first: take
:func:`gumbel_softmax` or :func:`straight_through` alone into your own code.

To add one: write its function below, then one line in :data:`ESTIMATORS` at the bottom. The tests
are parametrised over the registry, so it is judged from then on.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Key

from gsm import distributions
from gsm.distributions import LogitsND, Scalar, gumbel_max

Cost = Callable[[LogitsND], Float[Array, ""]]
Surrogate = Float[Array, ""]

# --- Two helpers of value zero ---------------------------------------------------------------


def gradient_only(x: Array) -> Array:
    """Zero in value, ``x`` in gradient."""
    return x - stop_gradient(x)


def carry_gradient(x: Array, gradient: Array) -> Float[Array, ""]:
    """Zero in value; its gradient by the array ``x`` is ``gradient``."""
    return jnp.sum(gradient_only(x) * stop_gradient(gradient))


# --- Samplers: z [n, k] with a gradient of its own -------------------------------------------


def straight_through(key: Key[Array, ""], logits: LogitsND) -> LogitsND:
    """Draw a one-hot sample whose gradient is that of ``softmax(logits)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.

    Returns:
      Exactly one-hot ``z [n, k]`` in the dtype of the logits.

    Source: Bengio et al. 2013, section 4, with the softmax's Jacobian (Gu et al. 2016, footnote 3).
    Biased; unbiased if f is affine in each variable.
    """
    soft = distributions.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    return _hard_with_gradient_of(gumbel_max(key, logits), soft).astype(logits.dtype)


def gumbel_softmax(key: Key[Array, ""], logits: LogitsND, temperature: Scalar = 1.0) -> LogitsND:
    """Draw a relaxed one-hot sample, ``softmax((logits + Gumbel noise) / temperature)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      temperature: positive scalar; towards 0 samples become one-hot, towards infinity uniform.

    Returns:
      ``z [n, k]`` on the simplex, differentiable in logits and temperature.

    Raises:
      ValueError: the temperature is a Python number and not positive. A traced 0 gives NaN.

    Source: Jang et al. 2017, equation 2; Maddison et al. 2017. Unbiased for the relaxed objective,
    biased by O(temperature) for the discrete one, with variance O(1 / temperature).
    """
    scores = distributions.perturb(key, logits)
    return distributions.softmax(distributions.temper(scores, temperature)).astype(logits.dtype)


def straight_through_gumbel_softmax(
    key: Key[Array, ""], logits: LogitsND, temperature: Scalar = 1.0
) -> LogitsND:
    """Draw a one-hot sample whose gradient is that of the Gumbel-Softmax sample of the same noise.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      temperature: positive scalar, of the gradient only: the sample's law does not depend on it.

    Returns:
      Exactly one-hot ``z [n, k]`` in the dtype of the logits.

    Raises:
      ValueError: the temperature is a Python number and not positive.

    Source: Jang et al. 2017, section 2.2. Biased; the bias does not vanish as temperature falls.
    """
    scores = distributions.perturb(key, logits)
    soft = distributions.softmax(distributions.temper(scores, temperature))
    # The argmax of the scores, not of `soft`: rounding makes ties in a softmax.
    return _hard_with_gradient_of(distributions.one_hot_argmax(scores), soft).astype(logits.dtype)


def _hard_with_gradient_of(hard: LogitsND, soft: LogitsND) -> LogitsND:
    # This order is exact for every finite value; `soft + hard - stop_gradient(soft)` rounds.
    return stop_gradient(hard).astype(soft.dtype) + gradient_only(soft)


# --- Operators: a surrogate scalar from f ----------------------------------------------------

MAX_OUTCOMES = 2**16


def exact(logits: LogitsND, f: Cost) -> Surrogate:
    """The expectation of f itself, by enumeration of all ``k ** n`` outcomes.

    Args:
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample ``[n, k]``.

    Returns:
      ``sum_z q(z) f(z)``: both laws hold without any sampling.

    Raises:
      ValueError: there are more than 65,536 outcomes.

    Cost: evaluates f ``k ** n`` times, vectorised.
    """
    n, k = logits.shape
    if k**n > MAX_OUTCOMES:
        raise ValueError(
            f"exact enumerates k ** n outcomes, {MAX_OUTCOMES:,} at most; logits have shape "
            f"{(n, k)}: about 1e{round(n * math.log10(k))} outcomes"
        )
    classes = np.stack(np.unravel_index(np.arange(k**n), (k,) * n), axis=-1)
    outcomes = jnp.asarray(np.eye(k)[classes], logits.dtype)
    log_q = jax.vmap(lambda z: distributions.log_prob(z, logits))(outcomes)
    return jnp.sum(jnp.exp(log_q) * jax.vmap(f)(outcomes))


def score_function(
    key: Key[Array, ""], logits: LogitsND, f: Cost, baseline: Scalar = 0.0
) -> Surrogate:
    """The score-function estimator (REINFORCE): ``(f(z) - baseline) grad log q(z)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample; need not be differentiable.
      baseline: scalar that does not depend on the sample; it changes the variance only.

    Returns:
      Surrogate with the value ``f(z)``.

    Source: Williams 1992; Jang et al. 2017, section 3.2. Unbiased. Cost: evaluates f once.
    """
    z = gumbel_max(key, logits)
    cost = f(z)
    signal = stop_gradient(cost - baseline)
    return cost + signal * gradient_only(distributions.log_prob(z, logits))


# --- The registry ----------------------------------------------------------------------------


class Hyperparams(NamedTuple):
    """What estimators share, as scalars that may be traced; each reads only what it needs."""

    temperature: Scalar = 1.0
    """Temperature of Gumbel-Softmax, of the gradient for the straight-through kind."""
    baseline: Scalar = 0.0
    """Constant subtracted from the cost in the score function's signal."""


Estimator = Callable[[Key[Array, ""], LogitsND, Cost, Hyperparams], Surrogate]


class _Registry(dict[str, Estimator]):
    def __missing__(self, name: str) -> Estimator:
        raise KeyError(f"unknown estimator {name!r}; the estimators are: {', '.join(self)}")


ESTIMATORS = _Registry(
    {
        "exact": lambda key, logits, f, h: exact(logits, f),
        "score_function": lambda key, logits, f, h: score_function(key, logits, f, h.baseline),
        "straight_through": lambda key, logits, f, h: f(straight_through(key, logits)),
        "gumbel_softmax": lambda key, logits, f, h: f(gumbel_softmax(key, logits, h.temperature)),
        "st_gumbel_softmax": lambda key, logits, f, h: f(
            straight_through_gumbel_softmax(key, logits, h.temperature)
        ),
        # Next, under the same contract: nvil, darn, muprop, slope_annealed_st, rloo, rebar, relax,
        # gumbel_rao, reinmax, disarm, local_expectation.
    }
)
"""Every estimator by name: ``ESTIMATORS[name](key, logits, f, Hyperparams(...)) -> surrogate``."""

RELAXED = frozenset({"gumbel_softmax"})
"""The estimators that hand f a point inside the simplex; all others hand it a one-hot sample."""
