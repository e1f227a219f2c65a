"""The VAE's objective and its bounds on a model so small that log p(x) is enumerable."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax import random

from experiments.running.evaluation import map_examples
from experiments.tasks import bounds
from experiments.tasks import vae as task
from gsm import distributions, testing
from gsm.registry import BERNOULLI_ONLY, ESTIMATORS, RELAXED, Hyperparams
from tests import cases

X = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0])
HYPERPARAMS = Hyperparams(temperature=0.7)


def make(num_latents=2, num_classes=3, seed=0, **fields):
    """A VAE with random parameters, prior included, away from any symmetry."""
    model = task.CategoricalVAE(X.size, num_latents, num_classes, **fields)
    params = jax.jit(model.init)(random.key(seed), X)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = random.split(random.key(seed + 1), len(leaves))
    moved = [x + random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, moved)


class Joint:
    """All that there is to know of a tiny VAE at X, by numpy and enumeration."""

    def __init__(self, model, params):
        net = model.bind({"params": params})
        self.logits, self.prior = np.asarray(net.encode(X)), np.asarray(net.prior_logits())
        z = testing.outcomes(*self.logits.shape)
        pixels = np.stack([np.asarray(net.decode(jnp.asarray(one, jnp.float32))) for one in z])
        log_likelihood = scipy.stats.bernoulli.logpmf(
            np.asarray(X), scipy.special.expit(pixels.astype(np.float64))
        ).sum(axis=1)
        self.q = testing.probabilities(self.logits)
        self.log_w = log_likelihood + np.log(testing.probabilities(self.prior)) - np.log(self.q)
        self.kl = np.sum(self.q * np.log(self.q / testing.probabilities(self.prior)))
        self.log_p = scipy.special.logsumexp(np.log(self.q) + self.log_w)

    def bound(self, m):
        """``E log (1/m) sum_i w_i``, by enumeration of all m-tuples of outcomes."""
        tuples = itertools.product(range(len(self.q)), repeat=m)
        return sum(
            np.prod(self.q[list(t)]) * (scipy.special.logsumexp(self.log_w[list(t)]) - np.log(m))
            for t in tuples
        )


SHAPES = {"categorical": (2, 3), "Bernoulli": (3, 2)}
over_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
over_shapes_seldom = pytest.mark.parametrize(  # Bernoulli units repeat what the others show
    "shape",
    [
        pytest.param(shape, id=name, marks=[pytest.mark.slow] if name == "Bernoulli" else [])
        for name, shape in SHAPES.items()
    ],
)


@over_shapes
@pytest.mark.parametrize("prior", ["learned", pytest.param("uniform", marks=pytest.mark.slow)])
def test_the_bound_lies_between_the_elbo_and_the_likelihood(shape, prior):
    joint = Joint(*make(*shape, prior=prior))
    elbo, two, three = (joint.bound(m) for m in (1, 2, 3))
    np.testing.assert_allclose(elbo, np.sum(joint.q * joint.log_w))
    assert elbo < two < three < joint.log_p


@over_shapes
@pytest.mark.parametrize("m", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_streamed_bound_has_the_enumerated_mean(shape, m, key):
    """Family-wise false-alarm rate 1e-6 for each case."""
    model, params = make(*shape)

    def bound(k):
        return bounds.multi_sample_bound(
            lambda k, m: task.log_weights(model, params, k, X, m), k, m, samples_at_once=1
        )

    values = jax.jit(jax.vmap(bound))(random.split(key, 40_000))
    testing.assert_mean(values, Joint(model, params).bound(m))


def test_power_a_bound_that_forgets_to_divide_by_m_fails(key):
    model, params = make()

    def wrong(k):
        return jax.nn.logsumexp(task.log_weights(model, params, k, X, 2))

    values = jax.jit(jax.vmap(wrong))(random.split(key, 40_000))
    with pytest.raises(AssertionError, match="biased"):
        testing.assert_mean(values, Joint(model, params).bound(2))


@over_shapes_seldom
def test_bound_reaches_the_likelihood(shape, key):
    """Within five standard errors of the mean weight, known by enumeration: false alarm 6e-7."""
    m = 200_000
    model, params = make(*shape, seed=4)  # of weights with a small variance
    joint = Joint(model, params)
    log_mean, log_square = (
        scipy.special.logsumexp(power * joint.log_w, b=joint.q) for power in (1, 2)
    )
    error = np.sqrt((np.exp(log_square - 2 * log_mean) - 1) / m)
    assert error < 0.01 * (joint.log_p - joint.bound(1))
    bound = jax.jit(
        lambda k: bounds.multi_sample_bound(
            lambda k, m: task.log_weights(model, params, k, X, m), k, m, 20_000
        )
    )(key)
    np.testing.assert_allclose(bound, joint.log_p, atol=5 * error)


def test_bound_does_not_depend_on_the_split_of_memory_or_of_images(key):
    model, params = make()
    examples = jnp.stack([X, 1 - X, jnp.zeros_like(X), X, 1 - X])

    def measured(examples, at_once, first):
        def one(k, x):
            return bounds.multi_sample_bound(
                lambda k, m: task.log_weights(model, params, k, x, m), k, 6, samples_at_once=3
            )

        return map_examples(one, random.clone(key), examples, at_once, first)

    whole = measured(examples, 5, 0)
    np.testing.assert_allclose(whole, measured(examples, 2, 0), rtol=1e-5)
    pieces = jnp.concatenate([measured(examples[:2], 2, 0), measured(examples[2:], 2, 2)])
    np.testing.assert_allclose(whole, pieces, rtol=1e-5)


@pytest.mark.parametrize(("m", "at_once"), [(0, 10), (25, 10), (-1, 10)])
def test_a_number_of_samples_that_cannot_be_streamed_is_refused(m, at_once, key):
    with pytest.raises(ValueError, match=f"num_samples must be .* got {m}"):
        bounds.multi_sample_bound(lambda k, m: jnp.zeros(m), key, m, at_once)


def loss_of(name, kl, model, params, key):
    estimator = functools.partial(ESTIMATORS[name].__call__, **cases.REQUIRED.get(name, {}))
    return task.elbo_loss(model, params, key, X, estimator, HYPERPARAMS, kl)


@over_shapes
@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_exact_loss_is_the_enumerated_negative_elbo(shape, kl, key):
    model, params = make(*shape)
    loss = loss_of("exact", kl, model, params, key)
    np.testing.assert_allclose(loss, -Joint(model, params).bound(1), rtol=1e-5)


@over_shapes_seldom
def test_both_forms_of_the_kl_have_one_exact_gradient(shape, key):
    model, params = make(*shape)
    analytic, sampled = (
        jax.grad(lambda p, kl=kl: loss_of("exact", kl, model, p, random.clone(key)))(params)
        for kl in ("analytic", "sampled")
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), analytic, sampled
    )


@over_shapes
@pytest.mark.parametrize("kl", ["analytic", "sampled"])
def test_score_function_trains_every_parameter_without_bias(shape, kl, key):
    """z-test against the enumerated gradient, every parameter, family-wise false alarms 1e-6."""
    model, params = make(*shape)

    def flat_gradient(name, k):
        tree = jax.grad(lambda p: loss_of(name, kl, model, p, k))(params)
        return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)])

    samples = jax.jit(jax.vmap(lambda k: flat_gradient("score_function", k)))(
        random.split(key, 50_000)
    )
    testing.assert_mean(samples, jax.jit(lambda k: flat_gradient("exact", k))(random.key(0)))


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name not in RELAXED])
@pytest.mark.parametrize("kl", [pytest.param("analytic", marks=pytest.mark.slow), "sampled"])
def test_mean_loss_of_hard_samples_is_the_negative_elbo(name, kl, key):
    model, params = make(*SHAPES["Bernoulli" if name in BERNOULLI_ONLY else "categorical"])
    values = jax.jit(jax.vmap(lambda k: loss_of(name, kl, model, params, k)))(
        random.split(key, 40_000)
    )
    testing.assert_mean(values, -Joint(model, params).bound(1))


def test_relaxed_log_mass_is_multilinear_in_the_relaxed_sample(key):
    """The loss less its distortion is ``sum z (log q - log p)`` at the very sample of the noise."""
    model, params = make()
    net = model.bind({"params": params})
    logits, prior = net.encode(X), net.prior_logits()
    from gsm import distributions, estimators

    z = estimators.gumbel_softmax(random.clone(key), logits, HYPERPARAMS.temperature)
    log_ratio = jax.nn.log_softmax(logits) - jax.nn.log_softmax(prior)
    expected = jnp.sum(z * log_ratio) - distributions.bernoulli_log_prob(X, net.decode(z))
    loss = loss_of("gumbel_softmax", "relaxed_log_mass", model, params, key)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_relaxed_density_is_the_divergence_of_the_relaxed_laws(key):
    """Two classes: both laws are logistic in the log-odds, and their KL is a quadrature."""
    model, params = make(1, 2)
    joint, temperature = Joint(model, params), HYPERPARAMS.temperature
    net = model.bind({"params": params})
    s = np.linspace(-80, 80, 400_001)

    def law(logits):
        return scipy.stats.logistic(logits[0, 0] / temperature, 1 / temperature)

    q, p = law(joint.logits), law(joint.prior)
    on = jnp.asarray(1 / (1 + np.exp(-s)), jnp.float32)
    pixels = np.asarray(jax.vmap(lambda y: net.decode(jnp.stack([y, 1 - y])[None]))(on), np.float64)
    x = np.asarray(X, np.float64)
    distortion = np.sum(np.logaddexp(0, pixels) - x * pixels, axis=1)
    cost = distortion + q.logpdf(s) - p.logpdf(s)
    expected = scipy.integrate.trapezoid(q.pdf(s) * cost, s)
    samples = jax.jit(
        jax.vmap(lambda k: loss_of("gumbel_softmax", "relaxed_density", model, params, k))
    )(random.split(key, 50_000))
    testing.assert_mean(samples, expected)


def negative_bound_of_two(model, shape):
    """The negative bound of two samples as a function of the parameters, by enumeration."""
    z = jnp.asarray(testing.outcomes(*shape), jnp.float32)
    pairs = np.array(list(itertools.product(range(len(z)), repeat=2)))

    def negative_bound(params):
        net = model.bind({"params": params})
        logits, prior = net.encode(X), net.prior_logits()
        log_q = jax.vmap(lambda one: distributions.log_prob(one, logits))(z)
        log_p = jax.vmap(lambda one: distributions.log_prob(one, prior))(z)
        likelihood = jax.vmap(lambda one: distributions.bernoulli_log_prob(X, net.decode(one)))(z)
        bounds = jax.nn.logsumexp((likelihood + log_p - log_q)[pairs], axis=1) - jnp.log(2)
        return -jnp.exp(log_q[pairs].sum(axis=1)) @ bounds

    return negative_bound


@over_shapes_seldom
def test_vimco_loss_trains_every_parameter_of_the_bound_without_bias(shape, key):
    """z-test against the gradient of the enumerated bound of two samples; false alarms 1e-6."""
    model, params = make(*shape)

    def both(k):
        loss, slopes = jax.value_and_grad(lambda p: task.vimco_loss(model, p, k, X, 2))(params)
        return loss, jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(slopes)])

    values, samples = jax.jit(jax.vmap(both))(random.split(key, 50_000))
    testing.assert_mean(values, -Joint(model, params).bound(2))
    exact = jax.tree.leaves(jax.grad(negative_bound_of_two(model, shape))(params))
    testing.assert_mean(samples, jnp.concatenate([x.reshape(-1) for x in exact]))


@over_shapes
def test_hard_iwae_loss_by_enumeration_is_the_enumerated_bound(shape, key):
    """The estimator sees the copies of the posterior as it sees any other variables."""
    model, params = make(*shape)

    def loss(params):
        return task.hard_iwae_loss(model, params, key, X, ESTIMATORS["exact"], HYPERPARAMS, 2)

    ours, expected = (
        jax.jit(jax.value_and_grad(f))(params) for f in (loss, negative_bound_of_two(model, shape))
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_hard_iwae_loss_of_one_sample_is_the_sampled_form_of_the_elbo(key):
    model, params = make()

    def slopes(loss):
        return jax.jit(jax.value_and_grad(loss))(params)

    iwae = slopes(
        lambda p: task.hard_iwae_loss(
            model, p, random.clone(key), X, ESTIMATORS["reinmax"], HYPERPARAMS, 1
        )
    )
    elbo = slopes(lambda p: loss_of("reinmax", "sampled", model, p, random.clone(key)))
    for a, b in zip(jax.tree.leaves(iwae), jax.tree.leaves(elbo), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_iwae_loss_of_one_sample_is_the_relaxed_density_loss_and_falls_with_more(key):
    model, params = make()

    def iwae(m):
        keys = random.split(random.clone(key), 20_000)
        loss = functools.partial(task.iwae_loss, model, params, x=X, num_samples=m)
        return np.asarray(jax.jit(jax.vmap(lambda k: loss(key=k, temperature=0.7)))(keys))

    relaxed = jax.jit(
        jax.vmap(lambda k: loss_of("gumbel_softmax", "relaxed_density", model, params, k))
    )(random.split(random.key(8), 20_000))
    testing.assert_mean(iwae(1) - relaxed, 0.0)
    assert iwae(1).mean() > iwae(3).mean() > iwae(10).mean()


def test_an_unknown_kl_is_told_the_forms(key):
    model, params = make()
    with pytest.raises(ValueError, match="kl must be one of analytic, relaxed_log_mass"):
        loss_of("exact", "exact", model, params, key)


def test_rate_is_the_enumerated_divergence():
    model, params = make()
    rate = task.rate(model, params, X)
    np.testing.assert_allclose(rate, Joint(model, params).kl, rtol=1e-5)


# --- the networks


def test_a_bernoulli_latent_is_one_logit_and_one_input():
    model, params = make(4, 2)
    assert params["encoder"]["Dense_0"]["kernel"].shape == (X.size, 4)
    assert params["decoder"]["Dense_0"]["kernel"].shape == (4, X.size)
    assert params["prior_logits"].shape == (4,)
    net = model.bind({"params": params})
    np.testing.assert_array_equal(net.encode(X)[:, 1], 0)


def test_hidden_layers_are_mirrored_in_the_decoder():
    _, params = make(2, 3, hidden_sizes=(7, 4))

    def sizes(network):
        return [params[network][f"Dense_{i}"]["kernel"].shape for i in range(3)]

    assert sizes("encoder") == [(5, 7), (7, 4), (4, 6)]
    assert sizes("decoder") == [(6, 4), (4, 7), (7, 5)]


def test_a_uniform_prior_has_no_parameters():
    model, params = make(prior="uniform")
    assert "prior_logits" not in params
    np.testing.assert_array_equal(model.bind({"params": params}).prior_logits(), 0)


def test_centring_and_output_bias_do_what_they_say():
    bias, center = jnp.arange(5.0), jnp.full(5, 0.25)
    model = task.CategoricalVAE(5, 2, 3, input_center=center, output_bias=bias)
    params = model.init(random.key(0), X)["params"]
    net = model.bind({"params": params})
    np.testing.assert_array_equal(net.decode(jnp.zeros((2, 3))), bias)
    np.testing.assert_array_equal(net.encode(center), 0)
