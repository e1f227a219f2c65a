"""Structured prediction: two layers of latents, so small that they can be counted out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax import random

from experiments.running import loop, training
from experiments.tasks import bounds
from experiments.tasks import sbn as task
from experiments.tasks.checks import ConfigError
from gsm import distributions, learned, testing
from gsm.registry import BERNOULLI_ONLY, ESTIMATORS, Hyperparams
from tests import cases
from tests.experiments.runs import small
from tests.experiments.test_configs import digits  # noqa: F401, a fixture

X, Y = jnp.array([1.0, 0.0, 0.5]), jnp.array([1.0, 0.0, 1.0, 1.0])
SHAPES = {"categorical": (2, 3), "Bernoulli": (3, 2)}
over_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
over_shapes_seldom = pytest.mark.parametrize(  # Bernoulli units repeat what the others show
    "shape",
    [
        pytest.param(shape, id=name, marks=[pytest.mark.slow] if name == "Bernoulli" else [])
        for name, shape in SHAPES.items()
    ],
)
UNBIASED = [name for name, entry in ESTIMATORS.items() if entry.unbiased == "any"]


def make(num_latents, num_classes, num_layers=2):
    model = task.StructuredNetwork(Y.size, num_layers, num_latents, num_classes)
    params = jax.jit(model.init)(random.key(0), X)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = random.split(random.key(1), len(leaves))
    moved = [x + random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, moved)


def enumerated(model, params):
    """Probabilities ``[first, second]`` and ``log p(y | second)``, differentiable, by counting."""
    net = model.bind({"params": params})
    z = jnp.asarray(testing.outcomes(model.num_latents, model.num_classes), jnp.float32)

    def probs(logits):
        return jnp.exp(jnp.sum(z * jax.nn.log_softmax(logits)[None], axis=(1, 2)))

    first = probs(net.first_logits(X))
    second = jnp.stack([probs(net.next_logits(1, one)) for one in z])
    pixels = jnp.stack([net.decode(one) for one in z])
    log_p = jnp.sum(jnp.where(Y[None] > 0, pixels, 0) - jnp.logaddexp(pixels, 0), axis=1)
    return first[:, None] * second, log_p


def loss(name, model, params, key, expands=True):
    def at_layer(layer, inputs, mean_field):
        keywords = cases.REQUIRED.get(name, {})
        if expands and ESTIMATORS[name].takes("mean_field"):
            keywords = {**keywords, "mean_field": mean_field}
        estimator = functools.partial(ESTIMATORS[name].__call__, **keywords)
        return estimator, Hyperparams(temperature=0.7, baseline=0.5)

    return task.layered_loss(model, params, key, X, Y, at_layer)


def flat(tree):
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)])


def exact_loss(model, params):
    probs, log_p = enumerated(model, params)
    return -probs.sum(axis=0) @ log_p


@over_shapes_seldom
def test_exact_loss_and_its_gradient_are_the_enumerated_ones(shape, key):
    model, params = make(*shape)
    value, slope = jax.jit(jax.value_and_grad(lambda p: loss("exact", model, p, key)))(params)
    expected, expected_slope = jax.jit(jax.value_and_grad(lambda p: exact_loss(model, p)))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(flat(slope), flat(expected_slope), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("score_function", "muprop") else [pytest.mark.slow])
        for name in UNBIASED
        if name != "exact"
    ],
)
def test_every_unbiased_estimator_trains_every_parameter_without_bias(name, key):
    """Through two layers; family-wise false-alarm rate 1e-6 for each estimator."""
    model, params = make(*SHAPES["Bernoulli" if name in BERNOULLI_ONLY else "categorical"])
    both = jax.value_and_grad(lambda p, k: loss(name, model, p, k))
    values, slopes = jax.jit(jax.vmap(both, (None, 0)))(params, random.split(key, 20_000))
    samples = jnp.concatenate([x.reshape(20_000, -1) for x in jax.tree.leaves(slopes)], axis=1)
    exact, slope = jax.jit(jax.value_and_grad(lambda p: exact_loss(model, p)))(params)
    testing.assert_mean(values, exact)
    testing.assert_mean(samples, flat(slope))


def test_muprop_expands_the_mean_field_network(key):
    """The first layer's gradient has half the variance of that with f, which samples, expanded."""
    model, params = make(20, 2)

    def variance(expands):
        slopes = jax.grad(lambda p, k: loss("muprop", model, p, k, expands))
        first = jax.jit(jax.vmap(lambda k: flat(slopes(params, k)["maps_0"])))
        return jnp.sum(jnp.var(first(random.split(random.clone(key), 4_000)), axis=0))

    assert variance(expands=True) < 0.7 * variance(expands=False)


@over_shapes
@pytest.mark.parametrize("m", [1, 2])
def test_evaluation_is_the_log_mean_exp_over_samples_of_the_model(shape, m, key):
    """The streamed bound has the enumerated mean: a mean of logarithms would fail at m = 2."""
    model, params = make(*shape)
    probs, log_p = (np.asarray(x, np.float64) for x in enumerated(model, params))
    q = probs.sum(axis=0)
    pair = scipy.special.logsumexp(np.stack(np.broadcast_arrays(log_p[:, None], log_p)), axis=0)
    expected = q @ log_p if m == 1 else q @ (pair - np.log(2)) @ q

    def bound(k):
        return bounds.multi_sample_bound(
            lambda k, m: task.log_weights(model, params, k, X, Y, m), k, m
        )

    values = jax.jit(jax.vmap(bound))(random.split(key, 40_000))
    testing.assert_mean(values, expected)
    if m == 2:
        assert expected > q @ log_p + 1e-3
        assert expected < scipy.special.logsumexp(log_p, b=q)


def test_any_number_of_layers(key):
    for layers in (1, 3):
        model, params = make(2, 3, num_layers=layers)
        slopes = jax.jit(jax.grad(lambda p, m=model: loss("reinmax", m, p, random.clone(key))))(
            params
        )
        assert all((leaf != 0).any() for leaf in jax.tree.leaves(slopes))
        assert len([name for name in params if name.startswith("maps")]) == layers


def test_each_layer_may_have_an_estimator_of_its_own(key):
    model, params = make(2, 3)
    seen = []

    def at_layer(layer, inputs, mean_field):
        seen.append((layer, inputs.shape))
        return ESTIMATORS[("reinmax", "score_function")[layer]], Hyperparams()

    task.layered_loss(model, params, key, X, Y, at_layer)
    assert seen == [(0, (3,)), (1, (6,))]


def sbn(**fields):
    return small("cat_sbn", **fields)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[] if name in ("gumbel_softmax", "nvil") else [pytest.mark.slow],
        )
        for name in ESTIMATORS
    ],
)
def test_every_estimator_trains_the_network(name, digits):  # noqa: F811
    config = sbn(estimator=name, model__num_classes=2 if name in BERNOULLI_ONLY else 4)
    built = loop.build(config, digits)
    state = training.init_state(built.program, random.key(0))
    after, losses = training.run_interval(built.program, 5, built.task.train, built.settings, state)
    assert np.isfinite(losses).all()
    models = (x.params["model"] for x in (state, after))
    for leaf, moved in zip(*map(jax.tree.leaves, models), strict=True):
        assert (leaf != moved).any()
    if ESTIMATORS[name].learned:
        assert set(after.params["estimator"]) == {"layer_0", "layer_1"}
        before, now = (flat(s.params["estimator"]) for s in (state, after))
        assert (before != now).any()
        scalars = learned.summary(after.params["estimator"])
        assert any(name.endswith("_layer_1") for name in scalars)


def test_the_task_gives_muprop_the_mean_field_network(digits, monkeypatch):  # noqa: F811
    """At the first layer's mean it has the loss of the network with all layers at their means."""

    @functools.wraps(ESTIMATORS["muprop"].function)
    def at_the_mean(key, logits, f, *, mean_field, **_):
        return mean_field(jax.nn.softmax(logits))

    entry = ESTIMATORS["muprop"]._replace(function=at_the_mean)
    monkeypatch.setitem(ESTIMATORS.data, "muprop", entry)
    config = sbn(estimator="muprop")
    built = task.build(config, digits)
    params = built.init(random.key(0))
    image = built.prepare(random.key(1), jax.tree.map(lambda x: x[0], built.train))
    loss = built.loss(params, random.key(2), image[None], Hyperparams(baseline=0.0))
    model, half = task.network(config, built.constants["mean_image"]), image.size // 2
    logits = model.apply({"params": params["model"]}, image[:half])
    np.testing.assert_allclose(
        loss, -distributions.bernoulli_log_prob(image[half:], logits), rtol=1e-5
    )


@pytest.mark.slow
def test_predictions_keep_what_was_given(digits):  # noqa: F811
    built = task.build(sbn(), digits)
    picture = built.pictures(built.init(random.key(0)), random.key(1))["completions"]
    images, given, *samples, mean = picture.array
    assert picture.array.shape == (9, 10, 28, 28)
    assert len(picture.row_labels) == 9
    np.testing.assert_array_equal(given[:, :14], images[:, :14])
    assert (given[:, 14:] == 0).all()
    samples = np.stack(samples)
    np.testing.assert_array_equal(
        samples[:, :, :14], np.broadcast_to(images[:, :14], (6, 10, 14, 28))
    )
    below = samples[:, :, 14:]
    assert ((below > 0) & (below < 1)).all()
    assert np.ptp(below[:, 0], axis=0).max() > 1e-3, "samples are all the same"
    np.testing.assert_allclose(mean[:, 14:], below.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("layers", [0, 1000])
def test_a_number_of_layers_that_cannot_be_is_refused(layers):
    with pytest.raises(ConfigError, match=f"between 1 and 100; got {layers}"):
        sbn(model__num_layers=layers)


def test_the_temperature_is_the_paper_s_throughout():
    temperature = sbn().temperature
    assert (temperature.initial, temperature.rate) == (1.0, 0.0)


@over_shapes
def test_units_of_minus_and_plus_one_span_the_same_functions(shape):
    """Halve each kernel that reads latents, add its column sums to the bias: the same loss."""
    model, params = make(*shape)
    other = model.clone(units="plus_minus_one")

    def moved(dense):
        kernel = dense["kernel"] / 2
        return {"kernel": kernel, "bias": dense["bias"] + kernel.sum(axis=0)}

    readers = {name: {"Dense_0": moved(params[name]["Dense_0"])} for name in ("maps_1", "decoder")}
    np.testing.assert_allclose(
        exact_loss(other, params | readers), exact_loss(model, params), rtol=1e-5
    )
    assert abs(exact_loss(other, params) - exact_loss(model, params)) > 0.01
