"""Proving an estimator of one's own: a correct one passes the laws, a plausible one does not.

    python examples/own_estimator.py

Both are the score function with the mean cost of their samples as the baseline. That mean contains
the sample itself, so the second one's gradient is (m - 1) / m of the right one: 0.75 at m = 4,
which no training curve would show. ``gsm.testing.check_laws`` compares it with exact answers.
"""

import functools

import jax
import jax.numpy as jnp

import gsm
from gsm.testing import LawError, check_laws


def mean_baseline(key, logits, f, num_samples=4, corrected=True):
    """Score function of m samples, each less the mean cost of all."""
    z = jax.vmap(gsm.gumbel_max, (0, None))(jax.random.split(key, num_samples), logits)
    costs = jax.vmap(f)(z)
    log_q = jax.vmap(gsm.log_prob, (0, None))(z, logits)
    factor = num_samples / (num_samples - 1) if corrected else 1.0
    signal = jax.lax.stop_gradient(factor * (costs - costs.mean()))
    # The value is the mean cost (value law): the terms of the score add nothing to it.
    return jnp.mean(costs + signal * (log_q - jax.lax.stop_gradient(log_q)))


def broken_law(estimator, num_draws=100_000) -> str | None:
    """The message of the law that an estimator breaks; None if it keeps all of them."""
    try:
        check_laws(estimator, unbiased="any", num_samples=4, num_draws=num_draws)
    except LawError as error:
        return str(error)
    return None


if __name__ == "__main__":
    for corrected in (True, False):
        estimator = functools.partial(mean_baseline, corrected=corrected)
        print(f"corrected={corrected}: {broken_law(estimator) or 'keeps all laws'}")
