"""The facts that registry entries state of themselves, each measured."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from gsm.estimators import BERNOULLI_ONLY, ESTIMATORS, RELAXED, Entry, Hyperparams
from tests import oracle

BED = oracle.BEDS["two of three classes"]
UNITS = oracle.BEDS["three Bernoulli units"]
DRAWS = 30_000


def bed_of(name):
    return UNITS if name in BERNOULLI_ONLY else BED


def logits_of(bed):
    return jnp.asarray(bed.logits, jnp.float32)


class Counted:
    """A cost that counts how often it and its derivative are evaluated, vmapped or not."""

    def __init__(self):
        self.evaluations = self.derivatives = 0

        @jax.custom_vjp
        def cost(z):
            jax.debug.callback(self._evaluated, z)
            return jnp.sum(jnp.sin(z))

        def forward(z):
            return cost(z), z

        def backward(z, cotangent):
            jax.debug.callback(self._differentiated, z)
            return (cotangent * jnp.cos(z),)

        cost.defvjp(forward, backward)
        self.cost = cost

    def _evaluated(self, z):
        self.evaluations += 1

    def _differentiated(self, z):
        self.derivatives += 1


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimate_takes_as_many_evaluations_and_derivatives_of_f_as_stated(name, key):
    """Counted at run time, so a vectorised evaluation counts as often as it is wide."""
    entry, counted = ESTIMATORS[name], Counted()
    logits = logits_of(bed_of(name))
    required = oracle.REQUIRED.get(name, {})
    run = jax.jit(jax.grad(lambda x: entry(key, x, counted.cost, **required)))
    run(logits).block_until_ready()
    jax.effects_barrier()
    assert counted.evaluations == entry.count_evaluations(*logits.shape)
    # What the surrogate's value adds for parameters inside f is one pass more, at the sample.
    assert counted.derivatives == entry.derivatives


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if ESTIMATORS[name].num_samples])
def test_more_samples_are_as_many_evaluations_as_stated(name, key):
    entry, counted = ESTIMATORS[name], Counted()
    run = jax.jit(jax.grad(lambda x: entry(key, x, counted.cost, num_samples=7)))
    run(logits_of(BED)).block_until_ready()
    jax.effects_barrier()
    assert counted.evaluations == entry.count_evaluations(2, 3, 7)


def black_box(z):
    """Differentiable by nobody."""
    return jax.pure_callback(
        lambda z: np.float32(np.sin(2 * np.sum(z * np.arange(z.size).reshape(z.shape)))),
        jax.ShapeDtypeStruct((), jnp.float32),
        z,
        vmap_method="sequential",
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_derivatives_f_may_be_a_black_box_and_else_it_may_not(name, key):
    logits = logits_of(bed_of(name))
    required = oracle.REQUIRED.get(name, {})
    estimate = jax.jit(jax.grad(lambda x: ESTIMATORS[name](key, x, black_box, **required)))
    if ESTIMATORS[name].derivatives == 0:
        assert np.isfinite(estimate(logits)).all()
    else:
        message = f"^{name} differentiates f, and f calls back .* none: exact, score_function, nvil"
        with pytest.raises(ValueError, match=message):
            estimate(logits)


COSTS = {
    "affine": lambda z: (
        z[0] @ jnp.array([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7], [-1.1, 0.4, 0.9]]) @ z[1] + z[0, 1]
    ),
    "quadratic": lambda z: jnp.sum(
        jnp.sin(jnp.arange(36.0)).reshape(6, 6) * jnp.outer(z, z)
    ),
    "quadratic in Bernoulli units": lambda z: jnp.sum(
        jnp.sin(jnp.arange(9.0)).reshape(3, 3) * jnp.outer(z[:, 0], z[:, 0])
    ) + jnp.sum(z[:, 0]),
}  # fmt: skip
KINDS = {
    "any": set(COSTS),
    "quadratic": set(COSTS),
    "quadratic in Bernoulli units": {"affine", "quadratic in Bernoulli units"},
    "affine": {"affine"},
    "none": set(),
}


@functools.cache
def estimates(name, kind):
    bed = UNITS if kind == "quadratic in Bernoulli units" else BED
    keys = random.split(random.key(11), DRAWS)
    hyperparams = Hyperparams(temperature=0.7, slope=1.5)
    one = jax.grad(lambda x, k: ESTIMATORS[name](k, x, COSTS[kind], hyperparams))
    return jax.jit(jax.vmap(one, (None, 0)))(logits_of(bed), keys)


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("name", [n for n in ESTIMATORS if ESTIMATORS[n].unbiased != "any"])
def test_biased_estimators_are_unbiased_for_the_costs_that_they_state_and_no_others(name, kind):
    """z-tests, false-alarm rate 1e-6. The unbiased for any f have harder costs in the laws."""
    bed = UNITS if kind == "quadratic in Bernoulli units" else BED
    exact = oracle.exact_gradient(bed.logits, COSTS[kind])
    if kind in KINDS[ESTIMATORS[name].unbiased]:
        oracle.assert_mean(estimates(name, kind), exact)
    else:
        with pytest.raises(AssertionError, match="biased"):
            oracle.assert_mean(estimates(name, kind), exact)


def test_every_entry_says_what_its_table_needs():
    for name, entry in ESTIMATORS.items():
        assert isinstance(entry, Entry)
        assert entry.unbiased in KINDS, name
        assert entry.source, name
        assert entry.choose, name
        assert (name in RELAXED) == entry.relaxed
        assert (entry.num_samples is not None) == (name in ("rloo", "gumbel_rao"))
