"""The training loop as a pure function: resumable, vmappable, compiled once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from gsm import schedules, training
from gsm.training import Program, TrainState

DATA = jnp.arange(40, dtype=jnp.uint8).reshape(20, 2)
SETTINGS = {"learning_rate": jnp.float32(0.01), "rate": jnp.float32(1e-3)}


def loss(params, learned, key, x, temperature):
    noise = random.normal(key, x.shape)
    return jnp.sum((params["w"] - x / 40 - 0.1 * temperature * noise) ** 2)


PROGRAM = Program(
    init=lambda key: ({"w": random.normal(key, (2,))}, {}),
    loss=loss,
    prepare=lambda key, x: x.astype(jnp.float32),
    hyperparams=lambda step, settings: jnp.exp(-settings["rate"] * step),
    optimizer=optax.scale_by_adam(),
    learned_optimizer=optax.identity(),
    batch_size=4,
)


def run(state, *lengths, settings=SETTINGS):
    losses = []
    for length in lengths:
        state, some = training.run_interval(PROGRAM, length, DATA, settings, state)
        losses.append(some)
    return state, jnp.concatenate(losses)


def start(seed=0):
    return training.init_state(PROGRAM, random.key(seed))


def assert_equal_states(one, other):
    assert int(one.step) == int(other.step)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    jax.tree.map(np.testing.assert_array_equal, one.opt_state, other.opt_state)


def test_a_run_does_not_depend_on_how_it_is_cut():
    whole, losses = run(start(), 60)
    pieces, losses_of_pieces = run(start(), 20, 30, 10)
    assert_equal_states(whole, pieces)
    np.testing.assert_array_equal(losses, losses_of_pieces)
    assert int(whole.step) == 60


def test_losses_are_those_of_steps_and_training_descends():
    state, losses = run(start(), 500)
    assert losses.shape == (500,)
    assert losses[-50:].mean() < 0.5 * losses[:5].mean()
    np.testing.assert_allclose(state.params["w"], DATA.mean(axis=0) / 40, atol=0.1)


def test_one_step_is_the_written_formula():
    """The gradient of the mean loss over the batch drawn by the step's own key."""
    state = start()
    after, value = training.train_step(PROGRAM, DATA, SETTINGS, state)
    key_batch, key_prepare, key_loss = random.split(random.fold_in(state.key, 0), 3)
    del key_prepare
    batch = DATA[random.randint(key_batch, (4,), 0, 20)].astype(jnp.float32)

    def mean(params):
        keys = random.split(random.clone(key_loss), 4)
        return jnp.mean(jnp.stack([loss(params, {}, keys[i], batch[i], 1.0) for i in range(4)]))

    expected, gradient = jax.value_and_grad(mean)(state.params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # The first step of Adam is the sign of the gradient.
    np.testing.assert_allclose(
        after.params["w"], state.params["w"] - 0.01 * jnp.sign(gradient["w"]), rtol=1e-4
    )


def test_seeds_and_settings_under_vmap_equal_lone_runs():
    rates = jnp.array([0.003, 0.01, 0.03])
    settings = {"learning_rate": rates, "rate": jnp.array([0.0, 1e-3, 1e-2])}
    keys = jax.vmap(random.key)(jnp.arange(3))
    states = jax.vmap(functools.partial(training.init_state, PROGRAM))(keys)
    together, losses = jax.vmap(functools.partial(training.run_interval, PROGRAM, 50, DATA))(
        settings, states
    )
    for i in range(3):
        alone, alone_losses = run(start(i), 50, settings={k: v[i] for k, v in settings.items()})
        np.testing.assert_allclose(together.params["w"][i], alone.params["w"], rtol=1e-5)
        np.testing.assert_allclose(losses[i], alone_losses, rtol=1e-4)


def test_nothing_recompiles_as_settings_and_states_change():
    traces = []

    def traced(step, settings):
        traces.append(step)
        return PROGRAM.hyperparams(step, settings)

    program, state = PROGRAM._replace(hyperparams=traced), start()
    for rate in (0.1, 0.2, 0.3):
        settings = {**SETTINGS, "learning_rate": jnp.float32(rate)}
        state, _ = training.run_interval(program, 7, DATA, settings, state)
    assert len(traces) == 1


def test_steps_and_seeds_differ_in_batch_and_noise():
    _, one = run(start(0), 10)
    _, other = run(start(1), 10)
    assert not np.allclose(one, other)
    frozen = {**SETTINGS, "learning_rate": jnp.float32(0)}
    _, losses = run(start(0), 10, settings=frozen)
    assert len(np.unique(np.asarray(losses))) == 10


def test_state_is_a_pytree_of_arrays():
    state = start()
    assert isinstance(jax.tree.map(lambda x: x, state), TrainState)
    assert all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(state))


# --- schedules


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1.0), (999, 1.0), (1000, np.exp(-0.1)), (1999, np.exp(-0.1)), (10_000, 0.5)],
)
def test_temperature_is_the_paper_s(step, expected):
    got = schedules.annealed_temperature(step, 1.0, 1e-4, 0.5, 1000)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_temperature_traces_in_every_argument():
    grid = jax.vmap(schedules.annealed_temperature, (None, None, 0, 0, 0))
    got = grid(5000, 2.0, jnp.array([0.0, 1e-4]), jnp.array([0.5, 0.1]), jnp.array([500, 2000]))
    np.testing.assert_allclose(got, [2.0, 2 * np.exp(-0.4)], rtol=1e-6)


def test_the_learning_rate_of_a_program_scales_the_steps_and_may_fall():
    rates = [schedules.decayed_learning_rate(step, 0.4, 0.25, 10) for step in (0, 5, 10)]
    np.testing.assert_allclose(rates, [0.4, 0.25, 0.1], rtol=1e-6)
    assert schedules.decayed_learning_rate(7, jnp.float32(1e-3), 1.0, 10) == jnp.float32(1e-3)
    descent = PROGRAM._replace(
        optimizer=optax.identity(),
        learning_rate=lambda step, settings: schedules.decayed_learning_rate(
            step, settings["learning_rate"], 0.0, 2
        ),
    )
    state = training.init_state(descent, random.key(0))
    moved = []
    for _ in range(3):
        after, _ = training.train_step(descent, DATA, SETTINGS, state)
        constant, _ = training.train_step(
            descent._replace(learning_rate=training.constant_learning_rate), DATA, SETTINGS, state
        )
        whole = np.asarray(constant.params["w"] - state.params["w"])
        moved.append(np.asarray(after.params["w"] - state.params["w"]) / whole)
        state = after
    np.testing.assert_allclose(moved, [[1, 1], [0.5, 0.5], [0, 0]], atol=1e-3)
