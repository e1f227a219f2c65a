"""Schedules against their formulas, traced, and composed with optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsm import schedules


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1.0), (999, 1.0), (1000, np.exp(-0.1)), (1999, np.exp(-0.1)), (10_000, 0.5)],
)
def test_temperature_is_the_paper_s(step, expected):
    temperature = schedules.exponential(1.0, 1e-4, 0.5, 1000)
    np.testing.assert_allclose(temperature(step), expected, rtol=1e-6)


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (499, 1.0), (500, 1.04), (10**6, 1.5)])
def test_slope_rises_by_the_step_and_is_held_and_capped(step, expected):
    slope = schedules.linear(1.0, 8e-5, 1.5, 500)
    np.testing.assert_allclose(slope(step), expected, rtol=1e-6)


def test_by_default_nothing_is_held_and_nothing_bounds():
    np.testing.assert_allclose(schedules.exponential(2.0, 0.1)(7), 2 * np.exp(-0.7), rtol=1e-6)
    np.testing.assert_allclose(schedules.exponential(1.0, 0.1)(300), np.exp(-30), rtol=1e-5)
    np.testing.assert_allclose(schedules.linear(2.0, 0.1)(10_007), 1002.7, rtol=1e-6)


def test_learning_rate_falls_along_a_line():
    rates = [schedules.linear_decay(0.4, 0.25, 10)(step) for step in (0, 5, 10)]
    np.testing.assert_allclose(rates, [0.4, 0.25, 0.1], rtol=1e-6)
    # A share of 1 is exactly the constant: runs without a decay keep their numbers.
    assert schedules.linear_decay(jnp.float32(1e-3), 1.0, 10)(7) == jnp.float32(1e-3)


HYPERPARAMETERS = {
    "exponential": {"initial": 2.0, "rate": 1e-4, "floor": 0.1, "update_every": 500},
    "linear": {"initial": 1.0, "rate": 1e-4, "cap": 1.3, "update_every": 500},
    "linear_decay": {"initial": 2.0, "final_share": 0.1, "num_steps": 20_000},
}


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_schedules_trace_in_the_step_and_in_every_hyperparameter(name):
    make = schedules.SCHEDULES[name]
    assert make is getattr(schedules, name)
    fields = HYPERPARAMETERS[name]
    steps = jnp.array([0, 499, 1250, 15_000])
    expected = [make(**fields)(int(step)) for step in steps]

    @jax.jit
    def traced(fields):
        return jax.vmap(make(**fields))(steps)

    np.testing.assert_allclose(traced(fields), expected, rtol=1e-5)


def test_runs_with_other_hyperparameters_are_one_program():
    def at(rate, floor, update_every):
        return schedules.exponential(2.0, rate, floor, update_every)(5000)

    got = jax.vmap(at)(jnp.array([0.0, 1e-4]), jnp.array([0.5, 0.1]), jnp.array([500, 2000]))
    np.testing.assert_allclose(got, [2.0, 2 * np.exp(-0.4)], rtol=1e-6)


def test_optax_takes_and_joins_them():
    rate = optax.join_schedules(
        [schedules.linear(0.0, 0.1), schedules.linear_decay(0.4, 0.0, 4)], boundaries=[4]
    )
    optimizer = optax.sgd(rate)
    params = jnp.zeros(())
    state, moved = optimizer.init(params), []
    for _ in range(9):
        updates, state = optimizer.update(jnp.ones(()), state)
        moved.append(-updates)
    np.testing.assert_allclose(
        moved, [0, 0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1, 0], rtol=1e-5, atol=1e-7
    )
