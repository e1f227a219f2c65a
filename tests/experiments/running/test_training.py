"""The training loop as a pure function: resumable, vmappable, compiled once."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments.running import training
from experiments.running.training import Program, TrainState
from experiments.tasks import base
from gsm import schedules

DATA = jnp.arange(40, dtype=jnp.uint8).reshape(20, 2)
SETTINGS = {"learning_rate": jnp.float32(0.01), "rate": jnp.float32(1e-3)}


def loss_of_example(params, key, x, temperature):
    noise = random.normal(key, x.shape)
    return jnp.sum((params["model"]["w"] - x / 40 - 0.1 * temperature * noise) ** 2)


PROGRAM = Program(
    init=lambda key: {"model": {"w": random.normal(key, (2,))}, "estimator": {}},
    loss=base.mean_over_examples(loss_of_example),
    prepare=lambda key, x: x.astype(jnp.float32),
    hyperparams=lambda step, settings: jnp.exp(-settings["rate"] * step),
    learning_rate=lambda step, settings: settings["learning_rate"],
    optimizer=training.optimizer,
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
    np.testing.assert_allclose(state.params["model"]["w"], DATA.mean(axis=0) / 40, atol=0.1)


def test_one_step_is_the_written_formula():
    """The gradient of the mean loss over the batch drawn by the step's own key."""
    state = start()
    after, value = training.train_step(PROGRAM, DATA, SETTINGS, state)
    key_batch, key_prepare, key_loss = random.split(random.fold_in(state.key, 0), 3)
    del key_prepare
    batch = DATA[random.randint(key_batch, (4,), 0, 20)].astype(jnp.float32)

    def mean(params):
        keys = random.split(random.clone(key_loss), 4)
        return jnp.mean(
            jnp.stack([loss_of_example(params, keys[i], batch[i], 1.0) for i in range(4)])
        )

    expected, gradient = jax.value_and_grad(mean)(state.params)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # The first step of Adam is the sign of the gradient.
    np.testing.assert_allclose(
        after.params["model"]["w"],
        state.params["model"]["w"] - 0.01 * jnp.sign(gradient["model"]["w"]),
        rtol=1e-4,
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
        np.testing.assert_allclose(
            together.params["model"]["w"][i], alone.params["model"]["w"], rtol=1e-5
        )
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


def test_no_step_copies_a_kernel(monkeypatch):
    """A kernel is updated in place: after the last product that reads it."""
    program = PROGRAM._replace(
        init=lambda key: {
            "model": {"first": jnp.ones((2, 33)), "second": jnp.ones((33, 2))},
            "estimator": {},
        },
        loss=base.mean_over_examples(
            lambda params, key, x, temperature: jnp.sum(
                (jnp.tanh(x @ params["model"]["first"]) @ params["model"]["second"] - x) ** 2
            )
        ),
    )

    def copies():
        def interval(state):
            return training.run_interval.__wrapped__(program, 5, DATA, SETTINGS, state)

        text = jax.jit(interval).lower(training.init_state(program, random.key(0))).compile()
        return re.findall(r"f32\[33,2\]\S* copy\(%get-tuple-element", text.as_text())

    assert not copies()
    monkeypatch.setattr(training, "_after", lambda tree, value: value)
    assert copies()


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


@pytest.mark.parametrize("name", training.OPTIMIZERS)
def test_every_optimiser_descends_at_its_learning_rate(name):
    """The first step is the learning rate times a direction that does not depend on it."""
    optimizer = functools.partial(training.optimizer, name=name)
    program = PROGRAM._replace(optimizer=optimizer)
    state, moved = training.init_state(program, random.key(0)), []
    for rate in (0.001, 0.003):
        settings = {**SETTINGS, "learning_rate": jnp.float32(rate)}
        after, _ = training.train_step(program, DATA, settings, state)
        moved.append(after.params["model"]["w"] - state.params["model"]["w"])
    np.testing.assert_allclose(moved[1], 3 * moved[0], rtol=1e-3)
    _, losses = training.run_interval(program, 300, DATA, SETTINGS, state)
    assert losses[-50:].mean() < 0.5 * losses[:5].mean()


def test_the_learning_rate_of_the_estimator_s_parts_is_their_own():
    """Networks of baselines have Adam's step of ``learned_rate``, whatever the model's rate is."""
    params = {"model": {"w": jnp.ones(2)}, "estimator": {"network": {"w": jnp.ones(2)}}}
    optimizer = training.optimizer(jnp.float32(0.5), name="sgd", learned_rate=1e-3)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["model"]["w"], -0.5)
    np.testing.assert_allclose(updates["estimator"]["network"]["w"], -1e-3, rtol=1e-4)


def test_the_learning_rate_scales_the_steps_and_may_fall():
    falling = PROGRAM._replace(
        optimizer=functools.partial(training.optimizer, name="sgd", momentum=0.0),
        learning_rate=lambda step, settings: schedules.linear_decay(
            settings["learning_rate"], 0.0, 2
        )(step),
    )
    state, moved = training.init_state(falling, random.key(0)), []
    for _ in range(3):
        after, _ = training.train_step(falling, DATA, SETTINGS, state)
        constant, _ = training.train_step(
            falling._replace(learning_rate=PROGRAM.learning_rate), DATA, SETTINGS, state
        )
        steps = (one.params["model"]["w"] - state.params["model"]["w"] for one in (after, constant))
        moved.append(np.divide(*steps))
        state = after
    np.testing.assert_allclose(moved, [[1, 1], [0.5, 0.5], [0, 0]], atol=1e-3)


def test_several_estimates_are_averaged_from_keys_of_their_own():
    params, batch = start().params, PROGRAM.prepare(None, DATA[:4])

    def gradient(number, key):
        loss = base.mean_over_examples(loss_of_example, number)
        return jax.grad(loss)(params, key, batch, 1.0)["model"]["w"]

    of_each = [
        [jax.grad(loss_of_example)(params, one, x, 1.0)["model"]["w"] for one in random.split(k, 3)]
        for k, x in zip(random.split(random.key(5), 4), batch, strict=True)
    ]
    np.testing.assert_allclose(gradient(3, random.key(5)), np.mean(of_each, axis=(0, 1)), rtol=1e-5)

    # A third of the variance: 20,000 keys give the ratio of two variances to 2 %, 5 deviations.
    keys = random.split(random.key(6), 20_000)
    one, three = (
        float(jax.vmap(lambda k: gradient(number, k))(random.clone(keys)).var(0).sum())  # noqa: B023
        for number in (1, 3)
    )
    np.testing.assert_allclose(one / three, 3, rtol=0.1)
