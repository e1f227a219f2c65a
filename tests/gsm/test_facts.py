"""The facts that registry entries state of themselves, each measured; their bias is in the laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsm.registry import BERNOULLI_ONLY, ESTIMATORS, RELAXED, Entry
from gsm.testing import PROBLEMS

BED = PROBLEMS["two of three classes"]
UNITS = PROBLEMS["three Bernoulli units"]
REQUIRED = {
    "nvil": {"baseline": 0.3},
    "slope_annealed_st": {"slope": 1.5},
    "relax": {"control": jnp.sum},
}
"""Keywords of the entries that have no default for all that they need."""


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
    required = REQUIRED.get(name, {})
    run = jax.jit(jax.grad(lambda x: entry(key, x, counted.cost, **required)))
    run(logits).block_until_ready()
    jax.effects_barrier()
    assert counted.evaluations == entry.count_evaluations(*logits.shape)
    # What the surrogate's value adds for parameters inside f is one pass more, at the sample.
    assert counted.derivatives == entry.derivatives


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if ESTIMATORS[name].num_samples])
def test_more_samples_are_as_many_evaluations_as_stated(name, key):
    entry, counted = ESTIMATORS[name], Counted()
    logits = logits_of(bed_of(name))
    run = jax.jit(jax.grad(lambda x: entry(key, x, counted.cost, num_samples=7)))
    run(logits).block_until_ready()
    jax.effects_barrier()
    assert counted.evaluations == entry.count_evaluations(*logits.shape, 7)


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
    required = REQUIRED.get(name, {})
    estimate = jax.jit(jax.grad(lambda x: ESTIMATORS[name](key, x, black_box, **required)))
    if ESTIMATORS[name].derivatives == 0:
        assert np.isfinite(estimate(logits)).all()
    else:
        message = f"^{name} differentiates f, and f calls back .* none: exact, score_function, nvil"
        with pytest.raises(ValueError, match=message):
            estimate(logits)


def test_every_entry_says_what_its_table_needs():
    for name, entry in ESTIMATORS.items():
        assert isinstance(entry, Entry)
        assert entry.source, name
        assert entry.choose, name
        assert (name in RELAXED) == entry.relaxed
        assert (entry.num_samples is not None) == (name in ("rloo", "arms", "gumbel_rao"))
