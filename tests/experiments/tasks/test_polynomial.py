"""The cost of the polynomial problem at relaxed units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tasks.polynomial import mean_power

TARGET = 0.45


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
def test_derivatives_are_finite_at_the_target_itself_and_right_elsewhere(power):
    """A relaxed unit that is the target made runs of RELAX fail, at a power of 1.5."""

    def cost(on):
        return mean_power(power, TARGET, jnp.array([[on, 1 - on]]))

    for derivative in (cost, jax.grad(cost), jax.grad(jax.grad(cost))):
        assert np.isfinite(derivative(jnp.float32(TARGET)))
    for on in (0.1, 0.9):
        distance, sign = abs(on - TARGET), np.sign(on - TARGET)
        expected = (
            distance**power,
            power * distance ** (power - 1) * sign,
            power * (power - 1) * distance ** (power - 2),
        )
        found = (f(jnp.float32(on)) for f in (cost, jax.grad(cost), jax.grad(jax.grad(cost))))
        np.testing.assert_allclose(list(found), expected, rtol=1e-5, atol=1e-6)
