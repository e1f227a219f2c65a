"""What single estimators promise: samplers, identities, special costs, wrong variants, errors.

The laws that hold for all of them are in ``test_laws.py``, the public ones in :mod:`gsm.testing`.
"""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax import random

import gsm
from gsm import distributions, estimators, testing
from gsm.estimators import carry_gradient, gradient_only
from gsm.registry import ESTIMATORS

BED = testing.PROBLEMS["two of three classes"]
UNITS = testing.PROBLEMS["three Bernoulli units"]
LOGITS = jnp.asarray(BED.logits, jnp.float32)
WEIGHTS = jnp.asarray(BED.weights, jnp.float32)

HARD_SAMPLERS = {
    "straight_through": estimators.straight_through,
    "st_gumbel_softmax": estimators.st_gumbel_softmax,
    "slope_annealed_st": functools.partial(estimators.slope_annealed_st, slope=1.5),
    "gumbel_rao": estimators.gumbel_rao,
    "reinmax": estimators.reinmax,
    "gapped_straight_through": estimators.gapped_straight_through,
    "redge": estimators.redge,
}
over_hard_samplers = pytest.mark.parametrize("sampler", HARD_SAMPLERS.values(), ids=HARD_SAMPLERS)


def pullback(sampler, key, logits, cotangent):
    return jax.vjp(lambda x: sampler(key, x), logits)[1](cotangent)[0]


def estimates(operator, key, number, logits=LOGITS):
    """Gradients of ``operator(key, logits)`` at many keys."""
    return jax.jit(jax.vmap(jax.grad(operator, argnums=1), (0, None)))(
        random.split(key, number), logits
    )


def with_sample(monkeypatch, z):
    monkeypatch.setattr(estimators, "gumbel_max", lambda *_: jnp.asarray(z, jnp.float32))


# --- samplers


def test_gumbel_softmax_has_the_classes_of_the_logits_at_every_temperature(key):
    for temperature in (0.1, 1.0, 5.0):
        keys = random.split(random.fold_in(key, int(10 * temperature)), 100_000)
        z = jax.vmap(lambda k, t=temperature: estimators.gumbel_softmax(k, LOGITS, t))(keys)
        counts = np.stack([(z.argmax(-1) == c).sum(axis=0) for c in range(3)], axis=-1)
        for row, probs in zip(counts, testing.softmax(LOGITS), strict=True):
            testing.assert_frequencies(row, probs)


def test_gumbel_softmax_goes_from_one_hot_to_uniform(key):
    cold = estimators.gumbel_softmax(key, LOGITS, 1e-3)
    np.testing.assert_allclose(jnp.max(cold, axis=-1), 1, rtol=1e-6)
    warm = estimators.gumbel_softmax(random.clone(key), LOGITS, 1e6)
    np.testing.assert_allclose(warm, 1 / 3, rtol=1e-4)


def test_binary_concrete_is_the_sigmoid_of_a_tempered_logistic(key):
    log_odds, temperature = jnp.array([1.1]), 0.6
    keys = random.split(key, 50_000)
    y = jax.jit(jax.vmap(lambda k: estimators.binary_concrete(k, log_odds, temperature)))(keys)
    law = scipy.stats.logistic(1.1 / temperature, 1 / temperature)
    odds = scipy.special.logit(np.asarray(y, np.float64)[:, 0])
    assert scipy.stats.kstest(odds[np.abs(odds) < 15], law.cdf).pvalue > 1e-4


@over_hard_samplers
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("classes", [2, 10])
def test_hard_forward_is_exactly_one_hot(sampler, dtype, classes, key):
    logits = (5 * random.normal(key, (4000, classes))).astype(dtype)
    z = jax.jit(sampler)(random.key(3), logits)
    assert z.dtype == logits.dtype
    z = np.asarray(z, np.float32)
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_array_equal(z.sum(axis=-1), 1)


def test_power_the_common_order_of_the_straight_through_sum_is_not_one_hot(key):
    soft = jax.nn.softmax(5 * random.normal(key, (4000, 10)))
    hard = jax.nn.one_hot(soft.argmax(-1), 10)
    assert set(np.unique(soft + hard - soft)) != {0.0, 1.0}


@pytest.mark.parametrize(
    "sampler",
    [
        pytest.param(sampler, id=name, marks=[pytest.mark.slow] if name == "gumbel_rao" else [])
        for name, sampler in HARD_SAMPLERS.items()
    ],
)
def test_hard_samples_follow_the_logits(sampler, key):
    z = jax.jit(jax.vmap(sampler, (0, None)))(random.split(key, 100_000), LOGITS)
    for counts, probs in zip(z.sum(axis=0), testing.softmax(LOGITS), strict=True):
        testing.assert_frequencies(counts, probs)


def test_straight_through_gumbel_softmax_uses_the_same_noise_forward_and_backward(key):
    hard_sampler = functools.partial(estimators.st_gumbel_softmax, temperature=0.7)
    soft_sampler = functools.partial(estimators.gumbel_softmax, temperature=0.7)
    for k in random.split(key, 20):
        hard, soft = hard_sampler(k, LOGITS), soft_sampler(random.clone(k), LOGITS)
        np.testing.assert_array_equal(hard.argmax(-1), soft.argmax(-1))
        np.testing.assert_array_equal(
            pullback(hard_sampler, random.clone(k), LOGITS, WEIGHTS),
            pullback(soft_sampler, random.clone(k), LOGITS, WEIGHTS),
        )


def test_the_helpers_are_zero_with_the_gradient_that_they_carry():
    x = jnp.array([1.0, 2.0])
    assert (gradient_only(x) == 0).all()
    assert carry_gradient(x, jnp.array([3.0, 4.0])) == 0
    np.testing.assert_array_equal(jax.grad(carry_gradient)(x, jnp.array([3.0, 4.0])), [3, 4])
    np.testing.assert_array_equal(jax.grad(carry_gradient, argnums=1)(x, x), 0)


def test_what_the_helpers_carry_is_computed_only_where_its_gradient_is_asked_for():
    def surrogate(x, y):
        return x**2 + carry_gradient(y, jnp.tanh(x)) + gradient_only(jnp.sinh(y))

    value = jax.jit(surrogate).lower(1.0, 2.0).compile().as_text()
    assert "tanh" not in value
    by_x = jax.jit(jax.grad(surrogate)).lower(1.0, 2.0).compile().as_text()
    assert "tanh" not in by_x
    both = jax.jit(jax.grad(surrogate, (0, 1))).lower(1.0, 2.0).compile().as_text()
    assert "tanh" in both


def test_decoupled_gumbel_softmax_lies_between_its_neighbours(key):
    """Equal temperatures: Gumbel-Softmax; a cold forward pass: ST Gumbel-Softmax. Same noise."""
    decoupled = estimators.decoupled_gumbel_softmax
    for forward, neighbour in (
        (0.7, functools.partial(estimators.gumbel_softmax, temperature=0.7)),
        (1e-4, functools.partial(estimators.st_gumbel_softmax, temperature=0.7)),
    ):
        ours = functools.partial(decoupled, temperature=forward, backward_temperature=0.7)
        for operand in (lambda s, k, x: s(k, x), lambda s, k, x: pullback(s, k, x, WEIGHTS)):
            np.testing.assert_allclose(
                operand(ours, random.clone(key), LOGITS),
                operand(neighbour, random.clone(key), LOGITS),
                rtol=1e-5,
                atol=1e-6,
            )


# --- conditional Gumbels and draws without replacement


def test_conditional_gumbels_have_the_given_argmax(key):
    z = distributions.gumbel_max(key, LOGITS)
    keys = random.split(random.key(1), 10_000)
    x = jax.vmap(distributions.conditional_gumbels, (0, None, None))(keys, LOGITS, z)
    assert (np.asarray(x).argmax(-1) == np.asarray(z).argmax(-1)).all()


def test_conditional_gumbels_over_random_samples_are_free_gumbels(key):
    def free(k):
        key_z, key_x = random.split(k)
        return distributions.conditional_gumbels(
            key_x, LOGITS, distributions.gumbel_max(key_z, LOGITS)
        )

    noise = np.asarray(jax.vmap(free)(random.split(key, 50_000)), np.float64) - BED.logits
    for column in noise.reshape(len(noise), -1).T:
        assert scipy.stats.kstest(column, scipy.stats.gumbel_r.cdf).pvalue > 1e-4
    correlation = np.corrcoef(noise.reshape(len(noise), -1).T) - np.eye(LOGITS.size)
    assert np.abs(correlation).max() < 0.025


@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_conditional_gumbels_stay_finite_at_large_logits(scale, key):
    def total(logits):
        return jnp.sum(distributions.conditional_gumbels(key, logits, jnp.eye(3)[:2]))

    value, slope = jax.value_and_grad(total)(scale * LOGITS)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_gumbel_top_k_draws_ordered_classes_without_replacement(key):
    """Chi-square over all 12 ordered pairs of four classes, and the probabilities themselves."""
    logits = jnp.array([[0.5, -1.0, 1.5, 0.0]])
    keys = random.split(key, 100_000)
    drawn = jax.vmap(lambda k: distributions.gumbel_top_k(k, logits, 2))(keys)[:, 0]
    pairs = list(itertools.permutations(range(4), 2))
    p = testing.softmax(logits)[0]
    expected = np.array([p[i] * p[j] / (1 - p[i]) for i, j in pairs])
    counts = [int(((drawn[:, 0] == i) & (drawn[:, 1] == j)).sum()) for i, j in pairs]
    testing.assert_frequencies(counts, expected)
    ours = [distributions.gumbel_top_k_log_prob(jnp.array([pair]), logits) for pair in pairs]
    np.testing.assert_allclose(np.exp(ours), expected, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 4])
def test_gumbel_top_k_refuses_a_count_that_cannot_be(count, key):
    with pytest.raises(ValueError, match=f"count must be between 1 and 3 classes; got {count}"):
        distributions.gumbel_top_k(key, LOGITS, count)


# --- identities


def test_reinmax_is_half_of_straight_through_plus_darn_around_the_mean(monkeypatch, key):
    probs = jax.nn.softmax(LOGITS)
    for z in testing.outcomes(2, 3):
        with_sample(monkeypatch, z)
        ours = pullback(estimators.reinmax, key, LOGITS, WEIGHTS)
        through = pullback(estimators.straight_through, key, LOGITS, WEIGHTS)
        around_mean = jnp.sum(WEIGHTS * (z - probs), axis=-1, keepdims=True) * (z - probs)
        np.testing.assert_allclose(ours, (through + around_mean) / 2, rtol=1e-5, atol=1e-6)


def test_reinmax_at_a_temperature_is_the_published_form_and_biased_for_a_quadratic_cost(
    monkeypatch,
):
    """``2 J((p_t + z) / 2) - J(p) / 2``, in float64; at 1 it is what the laws hold it to."""
    probs, exact = testing.softmax(LOGITS), testing.exact_gradient(LOGITS, BED.quadratic)
    for temperature in (0.6, 1.3):
        tempered, estimates = testing.softmax(np.asarray(LOGITS, np.float64) / temperature), []
        for z in testing.outcomes(2, 3):
            with_sample(monkeypatch, z)
            slope = np.asarray(jax.grad(BED.quadratic)(jnp.asarray(z, jnp.float32)), np.float64)
            expected = (
                2 * through_softmax((tempered + z) / 2, slope) - through_softmax(probs, slope) / 2
            )
            sampler = functools.partial(estimators.reinmax, backward_temperature=temperature)
            estimates.append(pullback(sampler, random.key(0), LOGITS, jnp.float32(slope)))
            np.testing.assert_allclose(estimates[-1], expected, rtol=1e-4, atol=1e-5)
        mean = np.einsum("o,onk->nk", testing.probabilities(LOGITS), estimates)
        assert np.abs(mean - exact).max() > 0.01


def through_softmax(point, slope):
    return point * (slope - np.sum(point * slope, axis=-1, keepdims=True))


def test_reinmax_of_two_classes_is_darn(monkeypatch, key):
    logits = jnp.asarray(UNITS.logits, jnp.float32)
    for z in testing.outcomes(3, 2):
        with_sample(monkeypatch, z)
        ours, theirs = (
            jax.grad(lambda x, n=name: ESTIMATORS[n](key, x, UNITS.cost))(logits)
            for name in ("reinmax", "darn")
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_slope_one_is_straight_through(key):
    np.testing.assert_allclose(
        pullback(functools.partial(estimators.slope_annealed_st, slope=1.0), key, LOGITS, WEIGHTS),
        pullback(estimators.straight_through, random.clone(key), LOGITS, WEIGHTS),
        rtol=1e-6,
    )


@pytest.mark.slow
def test_gumbel_rao_has_the_mean_of_st_gumbel_softmax_and_less_variance(key):
    """By the difference of two independent samples of the gradient, so both errors count."""

    def sampled(sampler, k):
        return estimates(lambda k, x: BED.cost(sampler(k, x)), k, 100_000)

    key_one, key_other, key_single = random.split(key, 3)
    plain = sampled(functools.partial(estimators.st_gumbel_softmax), key_one)
    averaged = sampled(estimators.gumbel_rao, key_other)
    single = sampled(functools.partial(estimators.gumbel_rao, num_samples=1), key_single)
    testing.assert_mean(plain - averaged, np.zeros(LOGITS.shape))
    testing.assert_mean(plain - single, np.zeros(LOGITS.shape))
    assert averaged.var(axis=0).sum() < 0.9 * plain.var(axis=0).sum()
    np.testing.assert_allclose(single.var(axis=0).sum(), plain.var(axis=0).sum(), rtol=0.05)


@pytest.mark.parametrize("number", [1, 13])
@pytest.mark.parametrize(
    "logits",
    [
        [[0.3, -1.0], [2.0, 0.0]],
        [[0.3, -1.0, 0.5], [-2.0, -90.0, 0.0]],
        [[0.0, -100.0, -1000.0], [0.0, -0.5, -jnp.inf]],
    ],
    ids=["two classes", "improbable", "impossible"],
)
def test_gumbel_rao_averages_the_softmax_of_conditional_gumbels(logits, number, monkeypatch, key):
    """Of the same noise, where the classes are as unlikely as e^-1000 too."""
    logits = jnp.asarray(logits)
    cotangent = jnp.arange(1.0, 1.0 + logits.size).reshape(logits.shape)

    @jax.jit
    def both(key, hard, temperature):
        with_sample(monkeypatch, hard)
        sampler = functools.partial(
            estimators.gumbel_rao, temperature=temperature, num_samples=number
        )
        groups = [10] * (number // 10) + [number % 10]
        keys = random.split(random.split(key)[1], len(groups))
        waits = jnp.concatenate([
            distributions.exponential(k, (m, *hard.T.shape))
            for k, m in zip(keys, groups, strict=True)
        ])  # fmt: skip

        def conditional(noise):
            with monkeypatch.context() as patched:
                patched.setattr(distributions, "gumbel", lambda *_: noise)
                return distributions.conditional_gumbels(key, logits, hard)

        scores = jax.vmap(conditional)(-jnp.log(waits).swapaxes(1, 2))
        by_scores = jax.vjp(lambda x: jax.nn.softmax(x / temperature).mean(axis=0), scores)[1]
        ours = pullback(sampler, random.clone(key), logits, cotangent)
        return ours, by_scores(cotangent)[0].sum(axis=0)

    for winner, temperature in itertools.product([0, 1], [0.1, 1.0, 50.0]):
        hard = jax.nn.one_hot(jnp.array([winner, winner]), logits.shape[-1])
        rounding = 1e-6 * max(1, 1 / temperature)
        np.testing.assert_allclose(
            *both(random.clone(key), hard, temperature), rtol=1e-4, atol=rounding
        )


def test_relax_with_a_constant_control_variate_alone_is_the_score_function(key):
    """At every key: ``f(z) (z - softmax)``, with z recovered from a linear cost."""

    def dot(w, z):
        return jnp.sum(w * z)

    def relax(k, x, f):
        return estimators.relax(k, x, f, lambda y: 0.0 * jnp.sum(y), eta=None)

    for k in random.split(key, 10):
        value, estimate = jax.value_and_grad(lambda x, k=k: relax(k, x, BED.cost))(LOGITS)
        z = jax.grad(lambda w, k=k: relax(random.clone(k), LOGITS, functools.partial(dot, w)))(
            WEIGHTS
        )
        np.testing.assert_allclose(value, BED.cost(z), rtol=1e-5)
        np.testing.assert_allclose(estimate, value * (z - jax.nn.softmax(LOGITS)), rtol=1e-4)


def test_rebar_is_relax_without_a_network(key):
    for operator in (jax.grad, lambda f: f):
        ours = operator(lambda x: estimators.rebar(random.clone(key), x, BED.cost, 0.6, 0.8))
        theirs = operator(
            lambda x: estimators.relax(
                random.clone(key), x, BED.cost, lambda y: 0.0 * jnp.sum(y), 0.6, 0.8
            )
        )
        np.testing.assert_allclose(ours(LOGITS), theirs(LOGITS), rtol=1e-5)


def test_relax_serves_a_black_box(key):
    """f is only called, at one-hot samples; the control variate alone is differentiated."""

    def black_box(z):
        return jax.pure_callback(
            lambda z: np.asarray(np.sum((z @ np.arange(3) + 1) ** 2, axis=-1), np.float32),
            jax.ShapeDtypeStruct((), jnp.float32),
            z,
            vmap_method="broadcast_all",
        )

    def control(y):
        return jnp.sum((y @ jnp.arange(3.0) + 1) ** 2)

    exact = testing.exact_gradient(BED.logits, control)
    alone = estimates(lambda k, x: estimators.score_function(k, x, black_box), key, 50_000)
    helped = estimates(
        lambda k, x: estimators.relax(k, x, black_box, control, eta=None), random.key(6), 50_000
    )
    testing.assert_mean(alone, exact)
    testing.assert_mean(helped, exact)
    assert helped.var(axis=0).sum() < 0.8 * alone.var(axis=0).sum()


def test_rebar_without_its_control_variate_is_the_score_function(key):
    def rebar(k, x):
        return estimators.rebar(k, x, BED.cost, eta=0.0)

    samples = estimates(rebar, key, 50_000)
    score = estimates(lambda k, x: estimators.score_function(k, x, BED.cost), random.key(5), 50_000)
    np.testing.assert_allclose(samples.var(axis=0), score.var(axis=0), rtol=0.1)


def test_local_expectation_of_one_variable_is_exact(key):
    logits = LOGITS[:1]

    def cost(z):
        return jnp.sum(jnp.exp(z * WEIGHTS[:1]))

    ours = jax.grad(lambda x: estimators.local_expectation(key, x, cost))(logits)
    np.testing.assert_allclose(ours, testing.exact_gradient(logits, cost), rtol=1e-4, atol=1e-6)


def test_rloo_of_two_samples_is_half_the_product_of_the_differences(monkeypatch, key):
    """For every pair of outcomes: the "keys" are 0 and 1, and "draw" the pair's members."""
    monkeypatch.setattr(
        estimators, "random", types.SimpleNamespace(split=lambda _, n: jnp.arange(n))
    )
    z = jnp.asarray(testing.outcomes(2, 3), jnp.float32)

    def at_pair(pair):
        monkeypatch.setattr(estimators, "gumbel_max", lambda number, _: pair[number])
        return jax.grad(lambda x: estimators.rloo(key, x, BED.cost, num_samples=2))(LOGITS)

    first, second = (jnp.array(i) for i in zip(*itertools.product(range(9), repeat=2), strict=True))
    ours = jax.vmap(at_pair)(jnp.stack([z[first], z[second]], axis=1))
    costs = jax.vmap(BED.cost)(z)
    differences = (costs[first] - costs[second])[:, None, None] * (z[first] - z[second])
    np.testing.assert_allclose(ours, differences / 2, rtol=1e-4, atol=1e-5)


def test_arms_of_two_samples_is_disarm(monkeypatch):
    """At the same pair of uniform numbers, which add up to 1 of each unit."""
    logits = jnp.array([[0.7, 0.0], [-1.3, 0.2], [0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    waits = random.exponential(random.key(0), (2, 500, len(logits)))

    def at(waits):
        u = waits / jnp.sum(waits, axis=0, keepdims=True)
        # Each counts from the class that it compares: the rare one here, the first in DisARM.
        u = jnp.where((logits[:, 0] >= logits[:, 1])[None], u[::-1], u)
        monkeypatch.setattr(distributions, "exponential", lambda *_: waits)
        monkeypatch.setattr(distributions, "uniform_and_complement", lambda *_: (u[0], u[1]))

        def loss(operator, x):
            return operator(random.key(0), x, lambda z: jnp.sum(jnp.exp(z[:, 0])) ** 2)

        pair = functools.partial(estimators.arms, num_samples=2)
        return [jax.value_and_grad(loss, 1)(f, logits) for f in (pair, estimators.disarm)]

    ours, disarm = jax.jit(jax.vmap(at, 1))(waits)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(disarm), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "num_samples", [3, *(pytest.param(m, marks=pytest.mark.slow) for m in (2, 8))]
)
def test_arms_is_unbiased_with_less_variance_than_rloo(num_samples, key):
    """At rare and frequent units alike; t-test of false-alarm rate 1e-6."""
    logits = jnp.array([[0.4, 0.0], [-2.0, 0.5], [3.0, 0.0], [0.0, 0.0]])

    def cost(z):
        return jnp.sin(2 * z[:, 0] @ jnp.array([1.0, -0.7, 0.4, 0.9])) + z[0, 0] * z[2, 1]

    def samples(operator):
        operator = functools.partial(operator, num_samples=num_samples)
        return estimates(lambda k, x: operator(k, x, cost), random.clone(key), 100_000, logits)

    ours = samples(estimators.arms)
    testing.assert_mean(ours, testing.exact_gradient(logits, cost))
    assert ours.var(axis=0).sum() < 0.9 * samples(estimators.rloo).var(axis=0).sum()


def test_arms_draws_either_class_at_its_rate_where_it_is_rare(key):
    """Counts of 3 million samples each, within five standard deviations."""
    number, rate = 1_000_000, 1e-5
    lead = float(np.log(rate) - np.log1p(-rate))
    logits = jnp.broadcast_to(jnp.array([[lead, 0.0], [0.0, lead]]), (number, 2, 2)).reshape(-1, 2)

    def mean_of_samples(weights):
        return estimators.arms(key, logits, lambda z: jnp.sum(weights * z), num_samples=3)

    drawn = np.asarray(jax.jit(jax.grad(mean_of_samples))(jnp.zeros(logits.shape)))
    for rare in (drawn[::2, 0], drawn[1::2, 1]):
        expected = 3 * number * rate
        assert abs(3 * rare.sum() - expected) < 5 * np.sqrt(expected)


# --- special costs


def linear(z):
    return jnp.sum(WEIGHTS.astype(z.dtype)[: len(z), : z.shape[1]] * z)


def bilinear(z):
    mixing = jnp.array([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7], [-1.1, 0.4, 0.9]])
    return z[0] @ mixing @ z[1] + z[0, 1]


def quadratic_in_units(z):
    mixing = jnp.array([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7], [-1.1, 0.4, 0.9]])
    return z[:, 0] @ mixing @ z[:, 0] + linear(z[:2])


def mean_over_outcomes(monkeypatch, name, logits, f):
    def at_sample(z):
        with_sample(monkeypatch, z)
        return jax.grad(lambda x: ESTIMATORS[name](random.key(0), x, f))(logits)

    samples = jax.vmap(at_sample)(jnp.asarray(testing.outcomes(*logits.shape)))
    return np.einsum("o,onk->nk", testing.probabilities(logits), samples)


def test_straight_through_is_unbiased_for_a_cost_affine_in_each_variable(monkeypatch):
    mean = mean_over_outcomes(monkeypatch, "straight_through", LOGITS, bilinear)
    np.testing.assert_allclose(mean, testing.exact_gradient(LOGITS, bilinear), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["darn", "reinmax"])
def test_second_order_estimators_are_unbiased_for_a_quadratic_cost_of_units(name, monkeypatch):
    logits = jnp.asarray(UNITS.logits, jnp.float32)
    mean = mean_over_outcomes(monkeypatch, name, logits, quadratic_in_units)
    expected = testing.exact_gradient(logits, quadratic_in_units)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


def test_reinmax_is_unbiased_for_a_quadratic_cost_of_any_classes(monkeypatch):
    def quadratic(z):
        return jnp.sum(jnp.sin(jnp.arange(36.0)).reshape(6, 6) * jnp.outer(z, z)) + linear(z)

    mean = mean_over_outcomes(monkeypatch, "reinmax", LOGITS, quadratic)
    expected = testing.exact_gradient(LOGITS, quadratic)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operator", [estimators.muprop, estimators.local_expectation])
def test_variance_is_zero_for_a_linear_cost(operator, key):
    samples = estimates(lambda k, x: operator(k, x, linear), key, 50)
    np.testing.assert_allclose(samples, jnp.broadcast_to(samples[0], samples.shape), atol=1e-5)
    np.testing.assert_allclose(
        samples[0], testing.exact_gradient(LOGITS, linear), rtol=1e-4, atol=1e-5
    )


def test_variances_are_in_the_order_of_the_literature(key):
    """Against the score function: REBAR less than half, RLOO-4 and local expectation a tenth."""

    def variance(operator):
        return float(estimates(operator, random.clone(key), 50_000).var(axis=0).sum())

    score = variance(lambda k, x: estimators.score_function(k, x, BED.cost))
    rebar = variance(lambda k, x: estimators.rebar(k, x, BED.cost))
    rloo = variance(lambda k, x: estimators.rloo(k, x, BED.cost))
    local = variance(lambda k, x: estimators.local_expectation(k, x, BED.cost))
    assert rebar < score / 2
    assert rloo < score / 10
    assert local < score / 10


def test_a_baseline_moves_the_variance_and_not_the_mean(key):
    def at(baseline):
        return estimates(
            lambda k, x: estimators.score_function(k, x, BED.cost, baseline),
            random.clone(key),
            100_000,
        )

    none, far = at(0.0), at(20.0)
    testing.assert_mean(far, testing.exact_gradient(BED.logits, BED.cost))
    assert far.var(axis=0).sum() > 20 * none.var(axis=0).sum()


# --- wrong variants must fail


def assert_biased(samples, logits=BED.logits, f=BED.cost):
    with pytest.raises(AssertionError, match="biased"):
        testing.assert_mean(samples, testing.exact_gradient(logits, f))


def test_power_darn_as_the_paper_prints_it_has_no_mean_gradient(key):
    """Around 1/2 without its correction: exactly zero where the right form is exact."""
    logits = jnp.asarray(UNITS.logits, jnp.float32)

    def literal(k, x):
        z = distributions.gumbel_max(k, x)
        half = jnp.full_like(z, 0.5)
        expansion = quadratic_in_units(half) + jnp.sum(
            jax.grad(quadratic_in_units)(half) * (z - half)
        )
        signal = jax.lax.stop_gradient(quadratic_in_units(z) - expansion)
        return signal * gradient_only(distributions.log_prob(z, x))

    def without_interaction(z):
        return jnp.sum((z[:, 0] - 0.3) ** 2)

    def literal_separable(k, x):
        z = distributions.gumbel_max(k, x)
        half = jnp.full_like(z, 0.5)
        slope = jax.grad(without_interaction)(half)
        expansion = without_interaction(half) + jnp.sum(slope * (z - half))
        signal = jax.lax.stop_gradient(without_interaction(z) - expansion)
        return signal * gradient_only(distributions.log_prob(z, x))

    assert_biased(estimates(literal, key, 100_000, logits), logits, quadratic_in_units)
    samples = estimates(literal_separable, random.clone(key), 100_000, logits)
    assert_biased(samples, logits, without_interaction)
    testing.assert_mean(samples, np.zeros(samples.shape[1:]))


def test_power_rebar_with_its_conditional_noise_detached_fails(monkeypatch, key):
    real = distributions.conditional_gumbels
    monkeypatch.setattr(
        distributions,
        "conditional_gumbels",
        lambda k, logits, z: jax.lax.stop_gradient(real(k, logits, z)),
    )
    assert_biased(estimates(lambda k, x: estimators.rebar(k, x, BED.cost), key, 100_000))


@pytest.mark.slow
def test_power_gumbel_rao_differentiated_through_its_noise_fails(monkeypatch, key):
    monkeypatch.setattr(estimators, "stop_gradient", lambda x: x)
    wrong = estimates(lambda k, x: _rao_through_noise(k, x), key, 100_000)
    monkeypatch.undo()
    right = estimates(lambda k, x: BED.cost(estimators.gumbel_rao(k, x)), random.key(9), 100_000)
    with pytest.raises(AssertionError, match="biased"):
        testing.assert_mean(wrong - right, np.zeros(LOGITS.shape))


def _rao_through_noise(k, x):
    key_sample, key_noise = random.split(k)
    z = jax.lax.stop_gradient(distributions.gumbel_max(key_sample, x))
    keys = random.split(key_noise, 10)
    noisy = jax.vmap(distributions.conditional_gumbels, (0, None, None))(keys, x, z)
    soft = jnp.mean(jax.nn.softmax(noisy), axis=0)
    return BED.cost(z + soft - jax.lax.stop_gradient(soft))


def test_power_a_batch_mean_that_holds_the_sample_shrinks_the_gradient(key):
    """By exactly 1 - 1/M, which RLOO's factor restores."""

    def shrunk(k, x):
        z = jax.vmap(distributions.gumbel_max, (0, None))(random.split(k, 4), x)
        costs = jax.vmap(BED.cost)(z)
        log_q = jax.vmap(distributions.log_prob, (0, None))(z, x)
        signals = jax.lax.stop_gradient(costs - costs.mean())
        return jnp.mean(signals * gradient_only(log_q))

    samples = estimates(shrunk, key, 100_000)
    assert_biased(samples)
    testing.assert_mean(samples, 0.75 * testing.exact_gradient(BED.logits, BED.cost))


def test_power_muprop_without_its_correction_fails(key):
    def uncorrected(k, x):
        whole = estimators.muprop(k, x, BED.cost)
        mean = jax.nn.softmax(x)
        slope = jax.grad(BED.cost)(jax.lax.stop_gradient(mean))
        return whole - carry_gradient(mean, slope)

    assert_biased(estimates(uncorrected, key, 100_000))


def test_muprop_stays_unbiased_whatever_it_expands(key):
    def other(z):
        return jnp.sum(jnp.sin(3 * WEIGHTS * z)) ** 2

    def expanding_another(k, x):
        return estimators.muprop(k, x, BED.cost, mean_field=other)

    samples = estimates(expanding_another, key, 100_000)
    testing.assert_mean(samples, testing.exact_gradient(BED.logits, BED.cost))
    with pytest.raises(ValueError, match=r"mean_field .*scalar"):
        estimators.muprop(random.clone(key), LOGITS, BED.cost, mean_field=lambda z: z[0])


def two_layer_muprop(means_at):
    """The second layer of Gu et al. 2016, algorithm 1, with its means taken at ``means_at``.

    One mean-field pass gives the slope; it is carried onto the layer's mean given its parents. Both
    estimate and exact gradient are by the matrix between the layers.
    """
    mixing = jnp.asarray(np.random.default_rng(8).normal(size=(6, 6)), jnp.float32)

    def below(mixing, z):
        return (mixing @ z.reshape(-1)).reshape(z.shape)

    def f(first, second):
        return BED.cost(first) + BED.cost(second) * jnp.sum(WEIGHTS * first)

    field_first = jax.nn.softmax(LOGITS)
    field_second = jax.nn.softmax(below(mixing, field_first))
    slope = jax.grad(f, argnums=1)(field_first, field_second)

    def surrogate(mixing, key):
        key_first, key_second = random.split(key)
        first = distributions.gumbel_max(key_first, LOGITS)
        logits = below(mixing, first)
        second = distributions.gumbel_max(key_second, logits)
        residual = f(first, second) - f(field_first, field_second)
        signal = residual - jnp.sum(slope * (second - field_second))
        parents = first if means_at == "the sampled parents" else field_first
        score = carry_gradient(distributions.log_prob(second, logits), signal)
        return score + carry_gradient(jax.nn.softmax(below(mixing, parents)), slope)

    def exact(mixing):
        z = jnp.asarray(testing.outcomes(2, 3), jnp.float32)

        def inner(first):
            log_q = jax.vmap(lambda s: distributions.log_prob(s, below(mixing, first)))(z)
            return jnp.exp(log_q) @ jax.vmap(lambda s: f(first, s))(z)

        return jnp.asarray(testing.probabilities(LOGITS), jnp.float32) @ jax.vmap(inner)(z)

    sample = jax.jit(jax.vmap(lambda k: jax.grad(surrogate)(mixing, k)))
    return sample, jax.grad(exact)(mixing)


def test_muprop_s_second_layer_takes_its_means_at_the_sampled_parents(key):
    sample, exact = two_layer_muprop("the sampled parents")
    testing.assert_mean(sample(random.split(key, 100_000)), exact)


def test_power_muprop_s_second_layer_with_the_means_of_the_mean_field_pass_fails(key):
    sample, exact = two_layer_muprop("the mean-field pass")
    with pytest.raises(AssertionError, match="biased"):
        testing.assert_mean(sample(random.split(key, 100_000)), exact)


# --- multi-sample bounds


def tiny_weights(logits, z):
    """``log w`` of a posterior with these logits against a fixed joint, one sample ``z``."""
    joint = jnp.asarray(np.random.default_rng(4).normal(size=LOGITS.shape), jnp.float32)
    log_joint = jnp.sum(joint * z) + jnp.sin(3 * jnp.sum(WEIGHTS * z))
    return log_joint - distributions.log_prob(z, logits)


def enumerated_bound(logits, m):
    z = jnp.asarray(testing.outcomes(*logits.shape), jnp.float32)
    log_q = jax.vmap(lambda one: distributions.log_prob(one, logits))(z)
    log_w = jax.vmap(tiny_weights, (None, 0))(logits, z)
    tuples = jnp.array(list(itertools.product(range(len(z)), repeat=m)))
    return jnp.sum(
        jnp.exp(log_q[tuples].sum(axis=1)) * (jax.nn.logsumexp(log_w[tuples], axis=1) - jnp.log(m))
    )


@pytest.mark.parametrize("m", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_vimco_is_the_bound_with_its_unbiased_gradient_by_enumeration(m):
    """All m-tuples of outcomes: the mean value and the mean gradient, no draws."""
    z = jnp.asarray(testing.outcomes(*LOGITS.shape), jnp.float32)
    tuples = jnp.array(list(itertools.product(range(len(z)), repeat=m)))

    def surrogate(logits, samples):
        log_w = jax.vmap(tiny_weights, (None, 0))(logits, samples)
        log_q = jax.vmap(distributions.log_prob, (0, None))(samples, logits)
        return estimators.vimco(log_w, log_q)

    values, slopes = jax.vmap(jax.value_and_grad(surrogate), (None, 0))(LOGITS, z[tuples])
    q = jnp.asarray(testing.probabilities(LOGITS))[tuples].prod(axis=1)
    bound, gradient = jax.value_and_grad(enumerated_bound)(LOGITS, m)
    np.testing.assert_allclose(q @ values, bound, rtol=1e-5)
    np.testing.assert_allclose(jnp.einsum("t,tnk->nk", q, slopes), gradient, rtol=1e-3, atol=1e-5)


def test_power_vimco_without_the_gradient_of_log_q_in_its_weights_fails():
    z = jnp.asarray(testing.outcomes(*LOGITS.shape), jnp.float32)
    tuples = jnp.array(list(itertools.product(range(len(z)), repeat=2)))

    def wrong(logits, samples):
        log_w = jax.vmap(tiny_weights, (None, 0))(jax.lax.stop_gradient(logits), samples)
        log_q = jax.vmap(distributions.log_prob, (0, None))(samples, logits)
        return estimators.vimco(log_w, log_q)

    slopes = jax.vmap(jax.grad(wrong), (None, 0))(LOGITS, z[tuples])
    q = jnp.asarray(testing.probabilities(LOGITS))[tuples].prod(axis=1)
    mean = jnp.einsum("t,tnk->nk", q, slopes)
    exact = jax.grad(enumerated_bound)(LOGITS, 2)
    assert jnp.linalg.norm(mean - exact) > 0.1 * jnp.linalg.norm(exact)


def test_vimco_signals_vanish_where_all_weights_are_equal_and_stay_finite_at_their_extremes():
    def slope(log_w):
        return jax.grad(estimators.vimco, argnums=1)(log_w, jnp.zeros(3))

    np.testing.assert_allclose(slope(jnp.full(3, -5.0)), 0, atol=1e-6)
    extreme = slope(jnp.array([-200.0, -41.0, -1000.0]))
    assert np.isfinite(extreme).all()


def test_iwae_is_the_elbo_at_one_sample_and_its_value_is_vimco_s():
    log_w = jnp.array([-3.0, -1.0, -2.0])
    assert estimators.iwae(log_w[:1]) == -3
    np.testing.assert_allclose(estimators.iwae(log_w), estimators.vimco(log_w, jnp.zeros(3)))


# --- errors


def test_exact_refuses_more_outcomes_than_it_can_enumerate():
    with pytest.raises(ValueError, match=r"65,536 at most; logits have shape \(20, 10\)"):
        estimators.exact(jnp.zeros((20, 10)), jnp.sum)


@pytest.mark.usefixtures("as_a_user")
def test_numbers_of_samples_and_steps_that_cannot_serve_are_refused(key):
    with pytest.raises(ValueError, match="rloo needs num_samples of at least 2; got 1"):
        estimators.rloo(key, LOGITS, BED.cost, num_samples=1)
    with pytest.raises(ValueError, match="arms needs num_samples of at least 2; got 1"):
        estimators.arms(key, UNITS.logits, UNITS.cost, num_samples=1)
    with pytest.raises(ValueError, match="gumbel_rao needs num_samples of at least 1; got 0"):
        estimators.gumbel_rao(key, LOGITS, num_samples=0)
    with pytest.raises(TypeError, match=r"rloo: num_samples must be a whole number; got 4\.0"):
        estimators.rloo(key, LOGITS, BED.cost, num_samples=4.0)
    with pytest.raises(ValueError, match="redge needs num_steps of at least 3; got 2"):
        estimators.redge(key, LOGITS, num_steps=2)
    with pytest.raises(ValueError, match=r"first_noise must be between 0 and 1; got 1\.5"):
        estimators.redge(key, LOGITS, first_noise=1.5)
    with pytest.raises(ValueError, match="vimco needs a number of samples of at least 2; got 1"):
        estimators.vimco(jnp.zeros(1), jnp.zeros(1))
    for bound in (estimators.iwae, lambda log_w: estimators.vimco(log_w, log_w)):
        with pytest.raises(
            ValueError, match=r"log_w must be those of one example, \[m\]; got shape"
        ):
            bound(jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"log_q must have the shape of log_w, \(3,\); got \(\)"):
        estimators.vimco(jnp.zeros(3), jnp.float32(0))


@pytest.mark.parametrize("least", [-1e9, float(jnp.finfo(jnp.float32).min), -jnp.inf])
def test_vimco_s_signal_of_a_tiny_weight_does_not_cancel(least):
    """The mean of the others' logarithms is -1.5: log (e^-1 + e^-2) less the same with e^-1.5."""
    log_w = jnp.array([least, -1.0, -2.0])
    slope = jax.grad(estimators.vimco, argnums=1)(log_w, jnp.zeros(3))
    others = np.exp([-1.0, -2.0]).sum()
    expected = np.log(others) - np.log(others + np.exp(-1.5))
    assert float(slope[0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["exact", "local_expectation"])
def test_a_cost_that_is_not_finite_at_impossible_outcomes_is_no_matter(name, key):
    logits = jnp.array([[-jnp.inf, 0.0, 1.0]])

    def cost(z):
        return -jnp.log(1 - z[0, 0]) + z[0, 1]

    value, slope = jax.value_and_grad(lambda x: ESTIMATORS[name](key, x, cost))(logits)
    p = float(jax.nn.sigmoid(-1.0))
    assert np.isfinite(float(value))
    np.testing.assert_allclose(slope, [[0, p * (1 - p), -p * (1 - p)]], rtol=1e-5)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: estimators.nvil(k, LOGITS, BED.cost, jnp.zeros(4)), "nvil: baseline must be"),
        (
            lambda k: estimators.score_function(k, LOGITS, BED.cost, variance=jnp.ones(4)),
            "score_function: variance must be a scalar",
        ),
        (
            lambda k: gsm.batched(gsm.nvil)(
                k, jnp.zeros((4, 2, 3)), jnp.sum, baseline=jnp.zeros(4)
            ),
            r"nvil: baseline must be a scalar; got shape \(4,\): use jax.vmap over examples",
        ),
        (
            lambda k: estimators.gumbel_softmax(k, LOGITS, jnp.ones((3, 1))),
            "gumbel_softmax: temperature must be a scalar",
        ),
        (
            lambda k: estimators.rebar(k, LOGITS, BED.cost, eta=jnp.ones(2)),
            "rebar: eta must be a scalar",
        ),
        (
            lambda k: estimators.gumbel_softmax(k, LOGITS, np.float32(-1)),
            r"temperature must be positive; got -1\.0",
        ),
        (
            lambda k: estimators.slope_annealed_st(k, LOGITS, float("inf")),
            "slope must be finite; got inf",
        ),
        (lambda k: estimators.rloo(k, LOGITS, lambda z: None), "rloo: f returned None; did you"),
        (
            lambda k: estimators.relax(k, LOGITS, BED.cost, lambda y: y),
            "relax: control must return a scalar for one sample",
        ),
    ],
)
def test_hyperparameters_and_costs_that_would_be_wrong_in_silence_are_refused(call, message, key):
    with pytest.raises(ValueError, match=message):
        call(key)


@pytest.mark.usefixtures("as_a_user")
def test_an_entry_takes_hyperparams_and_a_keyword_counts_before_them(key):
    with pytest.raises(
        TypeError, match=r"rloo: the fourth argument of an entry must be gsm\.Hyper"
    ):
        ESTIMATORS["rloo"](key, LOGITS, BED.cost, 8)
    entry, given = ESTIMATORS["gumbel_softmax"], gsm.Hyperparams(temperature=0.1)
    both = entry(key, LOGITS, BED.cost, given, temperature=0.5)
    assert float(both) == float(entry(key, LOGITS, BED.cost, temperature=0.5))
    assert float(both) != float(entry(key, LOGITS, BED.cost, given))


@pytest.mark.parametrize("temperature", [0, -0.5])
@pytest.mark.parametrize(
    "sampler",
    [
        estimators.gumbel_softmax,
        estimators.st_gumbel_softmax,
        estimators.gumbel_rao,
        estimators.gapped_straight_through,
        estimators.decoupled_gumbel_softmax,
        estimators.reinmax,
        lambda key, logits, temperature: estimators.relax(
            key, logits, jnp.sum, jnp.sum, temperature
        ),
    ],
)
def test_samplers_refuse_a_temperature_that_is_not_positive(sampler, temperature, key):
    with pytest.raises(ValueError, match=f"temperature must be positive; got {temperature}"):
        sampler(key, LOGITS, temperature)
