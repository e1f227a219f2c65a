"""Learned parts: what trains them, that nothing else feels it, and the order of use and update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

import gsm
from gsm import distributions, estimators, learned, testing
from gsm.registry import ESTIMATORS, Hyperparams

BED = testing.PROBLEMS["two of three classes"]
LOGITS = jnp.asarray(BED.logits, jnp.float32)
SIGNALLED = [name for name, entry in ESTIMATORS.items() if "variance" in entry.learned]
CONTROLLED = [name for name, entry in ESTIMATORS.items() if "eta" in entry.learned]


def control(weights, y):
    return jnp.sum(jnp.tanh(weights * y)) + weights[0, 0]


def surrogate(name, key, logits, f, hyperparams, weights):
    keywords = {"control": functools.partial(control, weights)} if name == "relax" else {}
    return ESTIMATORS[name](key, logits, f, hyperparams, **keywords)


# --- baseline and variance


def signal_of(name, key):
    """The learning signals, as what the baseline's gradient leaves: ``-(mean signal - 0)``."""
    return -jax.grad(lambda b: ESTIMATORS[name](key, LOGITS, BED.cost, Hyperparams(baseline=b)))(
        0.0
    )


@pytest.mark.parametrize("name", SIGNALLED)
def test_a_baseline_regresses_on_the_signal_and_the_variance_on_its_square(name, key):
    mean_signal = signal_of(name, key)
    if name in ("score_function", "nvil"):
        value = ESTIMATORS[name](random.clone(key), LOGITS, BED.cost, baseline=0.0)
        np.testing.assert_allclose(mean_signal, value, rtol=1e-6)

    def of(baseline, variance):
        hyperparams = Hyperparams(baseline=baseline, variance=variance)
        return ESTIMATORS[name](random.clone(key), LOGITS, BED.cost, hyperparams)

    by_baseline, by_variance = jax.grad(of, (0, 1))(0.7, 5.0)
    np.testing.assert_allclose(by_baseline, 0.7 - mean_signal, rtol=1e-5)
    # Through 0 baseline and variance, the mean square of the signals.
    mean_square = -jax.grad(of, 1)(0.0, 0.0)
    expected = 5.0 - (mean_square - 2 * 0.7 * mean_signal + 0.7**2)
    np.testing.assert_allclose(by_variance, expected, rtol=1e-4)


@pytest.mark.parametrize("name", SIGNALLED)
@pytest.mark.parametrize("variance", [0.25, 1.0, 9.0])
def test_normalisation_divides_the_whole_mean_gradient(name, variance, monkeypatch, key):
    """By max(1, sqrt(variance)), by enumeration: never an amplification."""

    def mean(hyperparams):
        def at_sample(z):
            monkeypatch.setattr(estimators, "gumbel_max", lambda *_: z)
            return jax.grad(lambda x: ESTIMATORS[name](key, x, BED.cost, hyperparams))(LOGITS)

        samples = jax.vmap(at_sample)(jnp.asarray(testing.outcomes(2, 3), jnp.float32))
        return np.einsum("o,onk->nk", testing.probabilities(BED.logits), samples)

    whole = mean(Hyperparams(baseline=0.3))
    scaled = mean(Hyperparams(baseline=0.3, variance=variance))
    np.testing.assert_allclose(scaled, whole / max(1, variance**0.5), rtol=1e-4, atol=1e-6)


# --- control variates


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "relax" else []) for n in CONTROLLED],
)
def test_eta_temperature_and_control_descend_on_the_length_of_the_estimate(name, key):
    """Against differentiating the squared estimate itself, at single keys."""

    def explicit(k, eta, temperature, weights):
        """The estimate written out once more, without any stop_gradient but the sample's."""
        key_sample, key_condition = random.split(k)

        def scores(x):
            free = distributions.perturb(key_sample, x)
            z = jax.lax.stop_gradient(distributions.one_hot_argmax(free))
            return free, distributions.conditional_gumbels(key_condition, x, z), z

        def c(s):
            y = jax.nn.softmax(s / temperature)
            return eta * BED.cost(y) + (control(weights, y) if name == "relax" else 0.0)

        free, conditioned, z = scores(LOGITS)
        estimate = (BED.cost(z) - c(conditioned)) * (z - jax.nn.softmax(LOGITS))
        _, pull = jax.vjp(lambda x: scores(x)[:2], LOGITS)
        slopes = (jax.grad(c)(free), -jax.grad(c)(conditioned))
        return jnp.sum((estimate + pull(slopes)[0]) ** 2)

    weights = jnp.asarray(BED.weights, jnp.float32)
    point = (0.8, 0.6, weights)

    def learning(k, eta, temperature, weights):
        hyperparams = Hyperparams(temperature=temperature, eta=eta)
        return surrogate(name, k, LOGITS, BED.cost, hyperparams, weights)

    def estimating(x, k):
        return surrogate(name, k, x, BED.cost, Hyperparams(0.6, eta=0.8), weights)

    for k in random.split(key, 1):
        ours = jax.jit(jax.grad(learning, (1, 2, 3)))(k, *point)
        with jax.debug_key_reuse(False):
            theirs = jax.jit(jax.grad(explicit, (1, 2, 3)))(random.clone(k), *point)
            estimate = jax.jit(jax.grad(estimating))(LOGITS, random.clone(k))
            length = jax.jit(explicit)(random.clone(k), *point)
            np.testing.assert_allclose(np.sum(np.square(estimate)), length, rtol=1e-4)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_learning_eta_and_temperature_lowers_the_variance(key):
    """On the toy of Tucker et al.: E (b - 0.45)^2, from a temperature that serves badly."""

    def cost(z):
        return (z[0, 0] - 0.45) ** 2

    logits = jnp.zeros((1, 2))

    def rebar(control, x, k):
        temperature = jnp.exp(control["log_temperature"])
        hyperparams = Hyperparams(temperature=temperature, eta=control["eta"])
        return ESTIMATORS["rebar"](k, x, cost, hyperparams)

    def estimates(control, k):
        keys = random.split(k, 2_000)
        return jax.vmap(jax.grad(rebar, 1), (None, None, 0))(control, logits, keys)

    def loss(control, k):
        keys = random.split(k, 200)
        return jnp.mean(jax.vmap(rebar, (None, None, 0))(control, logits, keys))

    optimizer = optax.adam(0.05)

    def step(carry, k):
        control, state = carry
        updates, state = optimizer.update(jax.grad(loss)(control, k), state)
        return (optax.apply_updates(control, updates), state), None

    start = {"eta": jnp.float32(1.0), "log_temperature": jnp.float32(jnp.log(0.1))}
    key_train, key_test = random.split(key)
    (trained, _), _ = jax.jit(functools.partial(jax.lax.scan, step))(
        (start, optimizer.init(start)), random.split(key_train, 300)
    )
    before, after = (estimates(c, random.clone(key_test)).var() for c in (start, trained))
    assert after < 0.7 * before
    testing.assert_mean(estimates(trained, random.key(3)), testing.exact_gradient(logits, cost))


@pytest.mark.parametrize("name", CONTROLLED)
def test_what_the_cost_closes_over_does_not_learn_to_lower_the_variance(name, key):
    """Its gradient is that of f at the sample, whether or not eta and temperature learn."""
    weights = jnp.asarray(BED.weights, jnp.float32)

    def loss(w, eta, temperature):
        hyperparams = Hyperparams(temperature=temperature, eta=eta)
        return surrogate(
            name, random.clone(key), LOGITS, lambda z: jnp.sum(jnp.sin(w * z)), hyperparams, weights
        )

    alone = jax.grad(loss)(weights, 0.8, 0.6)
    together = jax.grad(loss, (0, 1, 2))(weights, 0.8, 0.6)[0]
    np.testing.assert_array_equal(alone, together)
    z = np.round(np.asarray(alone / jnp.cos(weights)), 5)  # cos(w z) z is z cos(w) for a one-hot z
    np.testing.assert_array_equal(z.sum(axis=-1), 1)
    assert set(np.unique(z)) == {0.0, 1.0}


# --- parts of an entry

PARTS = {
    "score_function": {"moments"},
    "nvil": {"moments", "baseline_network"},
    "darn": {"moments"},
    "muprop": {"moments"},
    "rebar": {"control"},
    "relax": {"control", "control_network"},
}


def parts_of(name, **fields):
    return learned.learned_parts(ESTIMATORS[name], 5, (2, 3), Hyperparams(), **fields)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_entry_learns_what_it_says_and_all_of_it_gets_a_gradient(name, key):
    parts = parts_of(name, normalize=True)
    state = parts.init(key)
    assert set(state) == PARTS.get(name, set())
    if not state:
        return

    @jax.jit
    def slopes(state):
        def loss(state):
            x = jnp.linspace(-1, 1, 5)
            estimator, hyperparams = parts.attach(state, x, Hyperparams())
            return estimator(random.key(1), LOGITS, BED.cost, hyperparams)

        return jax.grad(loss)(state)

    state = jax.tree.map(lambda x: x + 0.1, state)  # networks start at zero
    for leaf in jax.tree.leaves(slopes(state)):
        assert np.isfinite(leaf).all()
        assert (leaf != 0).any()


def test_asked_to_learn_nothing_they_leave_the_hyperparameters_alone(key):
    for name in ("score_function", "muprop", "rebar"):
        parts = parts_of(name, baseline="constant", learn_control=False)
        assert parts.init(random.clone(key)) == {}
        given = Hyperparams(temperature=0.3, baseline=2.0, eta=0.5)
        assert parts.attach({}, jnp.zeros(5), given)[1] == given
    assert set(parts_of("score_function", baseline="network").init(random.clone(key))) == {
        "moments",
        "baseline_network",
    }


@pytest.mark.usefixtures("as_a_user")
def test_relax_on_a_black_box_trains_its_control_and_has_no_weight_of_f(key):
    def black_box(z):
        return jax.pure_callback(lambda z: np.float32(z[0, 0] + 1), jnp.float32(0), z)

    entry = ESTIMATORS["relax"]
    with pytest.raises(ValueError, match=r"need none: .* relax with eta=None"):
        entry(key, jnp.zeros((2, 3)), black_box, control=jnp.sum)
    entry = entry._replace(function=functools.partial(gsm.relax, eta=None))
    parts = learned.learned_parts(entry, 5, (2, 3))
    start = parts.init(key)
    assert start["control"].keys() == {"log_temperature"}
    assert "eta" not in learned.summary(start)

    def loss(logits, own):
        estimator, hyperparams = parts.attach(own, jnp.ones(5), gsm.Hyperparams())
        return estimator(key, logits, black_box, hyperparams)

    slope, of_parts = jax.grad(loss, (0, 1))(jnp.zeros((2, 3)), start)
    assert np.abs(slope).sum() > 0
    assert np.abs(of_parts["control_network"]["Dense_1"]["kernel"]).sum() > 0


def test_an_unknown_baseline_is_told_the_choices():
    with pytest.raises(ValueError, match="baseline must be one of constant, moving_average, netw"):
        parts_of("score_function", baseline="mean")


def test_summary_names_the_scalars():
    moments = {"baseline": jnp.float32(2), "variance": jnp.float32(9)}
    assert learned.summary({"moments": moments}) == {"baseline": 2, "deviation": 3}
    control = {"eta": jnp.float32(0.5), "log_temperature": jnp.float32(0)}
    assert learned.summary({"control": control, "control_network": {}}) == {
        "eta": 0.5,
        "temperature": 1,
    }


# --- the network


def test_networks_start_as_those_of_published_runs_did():
    """The numbers that ``flax.linen.Dense`` gives: with others NVIL and RELAX would train anew."""
    kernels = {
        "nvil": [
            [[-0.25540784, -0.5568039], [-0.81493783, 0.47770745], [0.8439381, 0.14276451]],
            [[-0.07773948, 0.8473166], [-1.1024352, -0.7497021]],
            [[0.0], [0.0]],
        ],
        "relax": [
            [
                [-0.23710348, -0.52234036], [0.60526747, -0.01306026],
                [-0.26456752, -0.03136588], [-0.8157169, -0.8686371],
            ],
            [[-1.057749, -0.46721268], [-0.8710855, 0.4997149]],
            [[0.0], [0.0]],
        ],
    }  # fmt: skip
    for name, logits_shape, input_size in (("nvil", (1, 3), 3), ("relax", (1, 3), 1)):
        parts = learned.learned_parts(
            ESTIMATORS[name], input_size, logits_shape, hidden_sizes=(2, 2)
        )
        state = parts.init(random.key(1))
        network = state["baseline_network" if name == "nvil" else "control_network"]
        for layer, kernel in enumerate(kernels[name]):
            ours = network[f"Dense_{layer}"]["kernel"]
            np.testing.assert_allclose(ours, np.float32(kernel), rtol=1e-6)
            assert (network[f"Dense_{layer}"]["bias"] == 0).all()


# --- in a training loop


def training(name, decay=0.9, learning_rate=1e-3, **fields):
    """The start and the step of a loop; the cost depends on the sample and much on the input.

    A step maps ``(parts, optimiser state)`` and a key to those after it, and the gradient of four
    examples with respect to the logits, which stay.
    """
    parts = learned.learned_parts(ESTIMATORS[name], 1, (2, 3), **fields)
    optimizer = learned.optimizer(decay, learning_rate)

    def loss(logits, state, key, x):
        estimator, hyperparams = parts.attach(state, x, Hyperparams())
        return estimator(key, logits, lambda z: BED.cost(z) + 5 * x[0], hyperparams)

    def losses(logits, state, key):
        key_inputs, key_loss = random.split(key)
        x = random.randint(key_inputs, (4, 1), -20, 20) / 10
        return jax.vmap(loss, (None, None, 0, 0))(logits, state, random.split(key_loss, 4), x)

    def step(carry, key):
        state, opt_state = carry
        gradient, of_state = jax.grad(lambda *args: jnp.mean(losses(*args)), (0, 1))(
            LOGITS, state, key
        )
        updates, opt_state = optimizer.update(of_state, opt_state, state)
        return (optax.apply_updates(state, updates), opt_state), gradient

    state = parts.init(random.key(0))
    return (state, optimizer.init(state)), step, losses


def trained(name, num_steps, **fields):
    start, step, _ = training(name, **fields)
    carry, _ = jax.jit(functools.partial(jax.lax.scan, step))(
        start, random.split(random.key(1), num_steps)
    )
    return carry, step


def test_moments_are_moving_averages_used_first_and_updated_after():
    carry, step, losses = training("score_function", normalize=True, decay=0.8)
    baseline, variance = 0.0, float(carry[0]["moments"]["variance"])
    for k in random.split(random.key(2), 3):
        costs = np.asarray(losses(LOGITS, {}, random.clone(k)), np.float64)
        carry, _ = step(carry, random.clone(k))
        variance = 0.8 * variance + 0.2 * np.mean((costs - baseline) ** 2)
        baseline = 0.8 * baseline + 0.2 * costs.mean()
        np.testing.assert_allclose(carry[0]["moments"]["baseline"], baseline, rtol=1e-4)
        np.testing.assert_allclose(carry[0]["moments"]["variance"], variance, rtol=1e-4)


@pytest.mark.parametrize("name", ["nvil", pytest.param("relax", marks=pytest.mark.slow)])
def test_a_step_of_the_loop_is_unbiased_with_what_was_learned(name, key):
    """Over keys, from a state with a history; false-alarm rate 1e-6."""
    carry, step = trained(name, 200)
    samples = jax.jit(jax.vmap(lambda k: step(carry, k)[1]))(random.split(key, 20_000))
    testing.assert_mean(samples, testing.exact_gradient(BED.logits, BED.cost))


def test_a_network_baseline_explains_the_input_where_a_moving_average_cannot():
    def deviation(name):
        (state, _), _ = trained(name, 2_000, normalize=True, learning_rate=0.01)
        return float(learned.summary(state)["deviation"])

    assert deviation("nvil") < 0.5 * deviation("score_function")


def test_one_optimiser_serves_the_parts_of_several_layers_and_none():
    optimizer = learned.optimizer(decay=0.75, learning_rate=0.1)
    layers = {
        "layer_0": {"moments": {"baseline": jnp.float32(0)}},
        "layer_1": {"control": {"eta": jnp.float32(1)}},
        "layer_2": {},
    }
    gradient = jax.tree.map(lambda _: jnp.float32(-4), layers)
    updates, _ = optimizer.update(gradient, optimizer.init(layers), layers)
    assert updates["layer_0"]["moments"]["baseline"] == 1  # a quarter of the way
    np.testing.assert_allclose(updates["layer_1"]["control"]["eta"], 0.1, rtol=1e-5)  # Adam
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}
    beside_a_model = optax.multi_transform(
        {"model": optax.sgd(1.0), "estimator": optimizer},
        {"model": "model", "estimator": "estimator"},
    )
    for parts in (layers, {}):
        params = {"model": jnp.zeros(2), "estimator": parts}
        state = beside_a_model.init(params)
        updates, _ = beside_a_model.update(params, state, params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)


def mean_direction(update_first, key, number=60_000):
    """Gradients of batches of four, with the moving average used before or after its update."""
    decay = 0.5

    def one(k):
        key_before, key_batch = random.split(k)
        z = jax.vmap(lambda k: distributions.gumbel_max(k, LOGITS))(random.split(key_batch, 4))
        costs = jax.vmap(BED.cost)(z)
        before = BED.cost(distributions.gumbel_max(key_before, LOGITS))  # an earlier batch's
        baseline = decay * before + (1 - decay) * costs.mean() if update_first else before
        scores = z - jax.nn.softmax(LOGITS)[None]
        return jnp.mean((costs - baseline)[:, None, None] * scores, axis=0)

    return jax.jit(jax.vmap(one))(random.split(key, number))


def test_power_a_moving_average_updated_before_its_use_fails(key):
    exact = testing.exact_gradient(BED.logits, BED.cost)
    testing.assert_mean(mean_direction(False, key), exact)
    samples = mean_direction(True, random.clone(key))
    with pytest.raises(AssertionError, match="biased"):
        testing.assert_mean(samples, exact)
    testing.assert_mean(samples, (1 - 0.5 / 4) * exact)  # as much as the sample's own share
