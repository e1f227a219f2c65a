"""Noise, samplers, densities and divergences against closed forms, quadrature and counting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from jax import random

from gsm import distributions, testing

LOGITS = jnp.array([[1.2, -0.3, 2.9, 0.8, -2.0], [0.0, 0.0, 0.0, 0.0, -3.0]])
MASKED = LOGITS.at[:, 1].set(-jnp.inf)
SAMPLERS = {"gumbel_max": distributions.gumbel_max, "inverse_cdf": distributions.inverse_cdf}


def draw(sampler, key, logits, number):
    return jax.jit(jax.vmap(sampler, (0, None)))(random.split(key, number), logits)


# --- random words and noise


@pytest.mark.parametrize("shape", [(), (1,), (7,), (20, 10), (3, 5, 2)])
def test_random_bits_are_those_of_jax(key, shape):
    keys = random.split(key, 3)
    ours = jax.vmap(lambda k: distributions.random_bits(k, shape))(keys)
    theirs = jax.vmap(lambda k: random.bits(k, shape))(random.clone(keys))
    np.testing.assert_array_equal(ours, theirs)


def test_other_kinds_of_keys_work():
    other = random.key(0, impl="rbg")
    bits = distributions.random_bits(other, (64,))
    np.testing.assert_array_equal(bits, random.bits(random.clone(other), (64,)))


@pytest.mark.parametrize("word", [0, 1, 2**31, 2**32 - 1])
def test_uniform_is_inside_and_gumbel_finite_at_the_extreme_words(monkeypatch, key, word):
    monkeypatch.setattr(
        distributions, "random_bits", lambda _, shape: jnp.full(shape, word, jnp.uint32)
    )
    uniform = distributions.uniform(key, (1,))[0]
    assert 0 < uniform < 1
    assert np.isfinite(distributions.gumbel(random.clone(key), (1,))[0])


def test_gumbel_noise_has_the_gumbel_law(key):
    noise = np.asarray(distributions.gumbel(key, (200_000,)), np.float64)
    assert scipy.stats.kstest(noise, scipy.stats.gumbel_r.cdf).pvalue > 1e-4
    testing.assert_mean(noise, np.array(np.euler_gamma))
    testing.assert_mean((noise - np.euler_gamma) ** 2, np.array(np.pi**2 / 6))


def test_logistic_noise_has_the_logistic_law(key):
    noise = np.asarray(distributions.logistic(key, (200_000,)), np.float64)
    assert scipy.stats.kstest(noise, scipy.stats.logistic.cdf).pvalue > 1e-4
    testing.assert_mean(noise**2, np.array(np.pi**2 / 3))


@pytest.mark.parametrize("word", [0, 1, 2**31, 2**32 - 1])
def test_logistic_noise_is_finite_at_the_extreme_words(monkeypatch, key, word):
    monkeypatch.setattr(
        distributions, "random_bits", lambda _, shape: jnp.full(shape, word, jnp.uint32)
    )
    assert np.isfinite(distributions.logistic(key, (1,))[0])


# --- hard samplers


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_hard_samples_are_one_hot_of_the_right_law(sampler, dtype, key):
    logits = LOGITS.astype(dtype)
    z = draw(sampler, key, logits, 200_000)
    assert z.dtype == logits.dtype
    z = np.asarray(z, np.float64)
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_array_equal(z.sum(axis=-1), 1)
    for counts, probs in zip(z.sum(axis=0), testing.softmax(logits.astype("float32")), strict=True):
        testing.assert_frequencies(counts, probs)


def test_power_noise_in_bfloat16_fails_the_same_test(key):
    """jax.random.categorical draws its noise in the logits' dtype: the wrong law, seen at once."""
    logits = jnp.zeros((1, 8), jnp.bfloat16)

    def wrong(key, logits):
        return jax.nn.one_hot(random.categorical(key, logits), 8)

    counts = np.asarray(draw(wrong, key, logits, 200_000), np.float64).sum(axis=(0, 1))
    with pytest.raises(AssertionError, match="wrong distribution"):
        testing.assert_frequencies(counts, np.full(8, 1 / 8))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_variables_are_drawn_independently(sampler, key):
    z = np.asarray(draw(sampler, key, LOGITS, 200_000), np.float64)
    joint = np.einsum("ma,mb->ab", z[:, 0], z[:, 1]).reshape(-1)
    probs = testing.softmax(LOGITS)
    testing.assert_frequencies(joint, np.outer(*probs).reshape(-1))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("classes", [2, 5])
def test_a_masked_class_is_never_drawn(sampler, classes, key):
    z = np.asarray(draw(sampler, key, MASKED[:, :classes], 20_000))
    assert z[:, :, 1].sum() == 0
    np.testing.assert_array_equal(z.sum(axis=-1), 1)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("classes", [2, 5])
def test_rows_without_a_distribution_give_nan_not_class_zero(sampler, bad, classes, key):
    z = jax.jit(sampler)(key, LOGITS.at[0].set(bad)[:, :classes])
    assert np.isnan(z[0]).all()
    assert np.isfinite(z[1]).all()


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_give_the_certain_class(sampler, scale, key):
    z = draw(sampler, key, jnp.array([[0.0, scale, 0.0]]), 1000)
    assert (z[:, 0, 1] == (scale > 0)).all()


def test_an_impossible_first_class_is_not_drawn_by_the_smallest_uniform(monkeypatch, key):
    """A uniform of exactly 0 would draw it, with an importance weight of 1e5 too much."""
    logits = jnp.array([[-30.0, 0.0, 0.0]])
    for word, expected in ((0, 1), (2**32 - 1, 2)):
        monkeypatch.setattr(
            distributions, "random_bits", lambda _, s, w=word: jnp.full(s, w, jnp.uint32)
        )
        assert jnp.argmax(distributions.inverse_cdf(random.clone(key), logits)) == expected


# --- densities of Gumbel-Softmax


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_simplex_density_integrates_to_one_with_two_classes(temperature):
    logits = jnp.array([[0.7, -0.4]])

    def density(z):
        point = jnp.array([[z, 1 - z]])
        return jnp.exp(distributions.gumbel_softmax_log_density(point, logits, temperature))

    z = np.linspace(-30, 30, 20_001)
    y = 1 / (1 + np.exp(-z))
    with jax.enable_x64(True):
        values = jax.jit(jax.vmap(density))(jnp.asarray(np.clip(y, 1e-14, 1 - 1e-14)))
    mass = scipy.integrate.trapezoid(np.asarray(values) * y * (1 - y), z)
    assert abs(mass - 1) < 1e-3


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0])
def test_log_space_density_integrates_to_one_with_three_classes(temperature):
    logits = np.array([[0.7, -0.4, 0.2]])
    # The base measure is that of the log-ratios u = x_1 - x_3 and v = x_2 - x_3.
    grid = np.linspace(-40 / min(temperature, 1) / 2, 40 / min(temperature, 1) / 2, 801)
    u, v = np.meshgrid(grid, grid, indexing="ij")
    log_z = np.stack([u, v, np.zeros_like(u)], axis=-1)
    log_z -= scipy.special.logsumexp(log_z, axis=-1, keepdims=True)
    with jax.enable_x64(True):
        log_density = jax.vmap(
            lambda x: distributions.log_gumbel_softmax_log_density(
                x[None], jnp.asarray(logits), temperature
            )
        )(jnp.asarray(log_z.reshape(-1, 3)))
    values = np.exp(np.asarray(log_density)).reshape(u.shape)
    mass = scipy.integrate.trapezoid(scipy.integrate.trapezoid(values, grid), grid)
    assert abs(mass - 1) < 1e-3


def test_the_two_densities_differ_by_the_jacobian_and_ignore_a_shift():
    z = jnp.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    logits = jnp.array([[0.3, -1.0, 0.5], [1.0, 0.0, 2.0]])
    on_simplex = distributions.gumbel_softmax_log_density(z, logits, 0.7)
    in_logs = distributions.log_gumbel_softmax_log_density(jnp.log(z), logits, 0.7)
    np.testing.assert_allclose(in_logs - on_simplex, jnp.sum(jnp.log(z)), rtol=1e-5)
    shifted = distributions.gumbel_softmax_log_density(z, logits + 3, 0.7)
    np.testing.assert_allclose(on_simplex, shifted, rtol=1e-5)


def test_density_is_that_of_the_samples(key):
    """With two classes the sample's log-odds follow a logistic law of known distribution."""
    logits, temperature = jnp.array([[0.7, -0.4]]), 0.6
    keys = random.split(key, 50_000)
    log_z = jax.vmap(lambda k: distributions.log_gumbel_softmax(k, logits, temperature))(keys)
    log_odds = np.asarray(log_z[:, 0, 0] - log_z[:, 0, 1], np.float64)
    law = scipy.stats.logistic(loc=1.1 / temperature, scale=1 / temperature)
    assert scipy.stats.kstest(log_odds, law.cdf).pvalue > 1e-4


def test_log_samples_stay_finite_where_samples_underflow(key):
    log_z = distributions.log_gumbel_softmax(key, LOGITS, 1e-3)
    assert np.isfinite(log_z).all()
    assert (jnp.exp(log_z) == 0).any()
    assert np.isfinite(distributions.log_gumbel_softmax_log_density(log_z, LOGITS, 1e-3))


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature, key):
    with pytest.raises(ValueError, match=f"temperature must be positive; got {temperature}"):
        distributions.log_gumbel_softmax(key, LOGITS, temperature)


# --- log-probabilities and divergences


@pytest.mark.parametrize("problem", testing.PROBLEMS.values(), ids=testing.PROBLEMS)
def test_log_prob_entropy_and_kl_equal_enumeration(problem):
    logits, other = problem.logits, problem.logits[:, ::-1] * 0.5
    z, q, p = (
        testing.outcomes(*logits.shape),
        testing.probabilities(logits),
        testing.probabilities(other),
    )
    log_q = [
        distributions.log_prob(jnp.asarray(one, jnp.float32), jnp.asarray(logits)) for one in z
    ]
    np.testing.assert_allclose(np.exp(log_q), q, rtol=1e-5)
    np.testing.assert_allclose(
        distributions.entropy(jnp.asarray(logits)), -np.sum(q * np.log(q)), rtol=1e-5
    )
    np.testing.assert_allclose(
        distributions.kl_divergence(jnp.asarray(logits), jnp.asarray(other)),
        np.sum(q * np.log(q / p)),
        rtol=1e-5,
    )


def test_log_prob_s_derivative_by_the_sample_is_the_table_at_a_corner_too(key):
    """What straight-through estimators carry on; a class of probability 0 has none."""
    logits = random.normal(key, (2, 3)).at[1, 2].set(-jnp.inf)
    z = jax.nn.one_hot(jnp.array([1, 0]), 3)
    slope = jax.jit(jax.grad(distributions.log_prob))(z, logits)
    table = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(slope, np.where(np.isfinite(table), table, 0), rtol=1e-5)


def test_log_prob_ratio_is_the_difference_of_two_log_probs_even_where_p_or_q_is_zero(key):
    q, p = MASKED, (0.5 * LOGITS).at[0, 3].set(-jnp.inf)
    for index in ((0, 2), (2, 0), (4, 4)):
        z = jax.nn.one_hot(jnp.array(index), 5)
        expected = distributions.log_prob(z, p) - distributions.log_prob(z, q)
        np.testing.assert_allclose(distributions.log_prob_ratio(z, p, q), expected, rtol=1e-5)
    impossible = jax.nn.one_hot(jnp.array([3, 0]), 5)
    assert jnp.exp(distributions.log_prob_ratio(impossible, p, q)) == 0
    assert np.isnan(distributions.log_prob_ratio(z, p, q.at[0, 0].set(jnp.nan)))


def test_masked_classes_count_zero_and_get_no_gradient():
    unmasked = jnp.delete(MASKED, 1, axis=1)
    z = jax.nn.one_hot(jnp.array([0, 2]), 5)
    for function, reference in (
        (
            lambda x: distributions.log_prob(z, x),
            distributions.log_prob(jnp.delete(z, 1, 1), unmasked),
        ),
        (distributions.entropy, distributions.entropy(unmasked)),
        (
            lambda x: distributions.kl_divergence(x, 0.3 * LOGITS),
            distributions.kl_divergence(
                unmasked, jnp.delete(jax.nn.log_softmax(0.3 * LOGITS), 1, axis=1)
            )
            # The other distribution's lost class: its renormalisation, in each row.
            - jnp.sum(jnp.log1p(-jax.nn.softmax(0.3 * LOGITS)[:, 1])),
        ),
    ):
        value, gradient = jax.jit(jax.value_and_grad(function))(MASKED)
        np.testing.assert_allclose(value, reference, rtol=1e-5)
        assert np.isfinite(gradient).all()
        assert (gradient[:, 1] == 0).all()


def test_variables_without_a_possible_class_give_nan_and_minus_one(key):
    nothing, half = jnp.full((1, 3), -jnp.inf), jnp.array([[0.0, jnp.nan, 1.0]])
    for logits in (nothing, half):
        assert jnp.isnan(distributions.entropy(logits))
        assert jnp.isnan(distributions.kl_divergence(logits, jnp.zeros((1, 3))))
        assert jnp.isnan(distributions.log_ratios(jnp.zeros((1, 3)), logits)).all()
        assert distributions.gumbel_top_k(key, logits, 2).tolist() == [[-1, -1]]


def test_draws_without_replacement_that_cannot_be_have_no_probability():
    logits = jnp.array([[0.0, 0.0, -jnp.inf]])
    of = functools.partial(distributions.gumbel_top_k_log_prob, logits=logits)
    for order in ([0, 1, 2], [2, 0], [0, 0], [-1, 0], [3, 0]):
        assert float(of(jnp.array([order]))) == -jnp.inf, order
    assert float(of(jnp.array([[0, 1]]))) == pytest.approx(np.log(0.5))
    slope = jax.grad(lambda x: distributions.gumbel_top_k_log_prob(jnp.array([[0, 1]]), x))(logits)
    np.testing.assert_allclose(slope, [[0.5, -0.5, 0]], atol=1e-6)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 1, 1)])
def test_indices_of_other_variables_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"indices must be \[n, count\] with n = 1 .* got an array"
    ):
        distributions.gumbel_top_k_log_prob(jnp.zeros(shape, int), jnp.zeros((1, 3)))


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "function",
    [
        distributions.entropy,
        lambda x: distributions.log_prob(x, x),
        lambda x: distributions.log_prob(x[0], x),
        lambda x: distributions.kl_divergence(x, x),
        lambda x: distributions.gumbel_softmax_log_density(x, x, 1.0),
        lambda x: distributions.gumbel_top_k_log_prob(jnp.zeros((3, 1), int), x),
    ],
)
def test_functions_of_one_example_refuse_a_minibatch(function):
    with pytest.raises(
        ValueError, match=r"those of one example, \[n, k\]; got shape .* use jax.vmap"
    ):
        function(jnp.zeros((5, 3, 2)))


def test_kl_from_a_class_that_the_prior_never_draws_is_infinite():
    assert distributions.kl_divergence(LOGITS, MASKED) == np.inf


@functools.partial(jax.jit, static_argnums=0)
def pullback(function, x, cotangent):
    return jax.vjp(function, x)[1](cotangent)[0]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [1, 0.3])
def test_softmax_and_its_logarithm_are_those_of_jax(classes, temperature, key):
    logits = 20 * temperature * random.normal(key, (50, classes))
    for name in ("softmax", "log_softmax"):
        ours = functools.partial(getattr(distributions, name), temperature=temperature)

        def theirs(x, name=name):
            return getattr(jax.nn, name)(x / temperature)

        np.testing.assert_allclose(ours(logits), theirs(logits), rtol=1e-5, atol=1e-6)
        cotangent = jnp.sin(jnp.arange(logits.size, dtype=jnp.float32)).reshape(logits.shape)
        np.testing.assert_allclose(
            pullback(ours, logits, cotangent),
            pullback(theirs, logits, cotangent),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_derivatives_at_equal_logits_are_those_of_jax(function, classes):
    """Where every prior starts: a kink in the arithmetic, such as |x|, shows only there."""
    at = jnp.zeros((2, classes))
    for order in (jax.jacobian, jax.hessian):
        ours = jax.jit(order(getattr(distributions, function)))(at)
        theirs = jax.jit(order(functools.partial(getattr(jax.nn, function), axis=-1)))(at)
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_of_probability_zero_leaves_derivatives_at_a_temperature_finite(classes):
    logits = jnp.zeros((1, classes)).at[0, 0].set(-jnp.inf)
    by_logits, by_temperature = jax.grad(
        lambda x, t: distributions.softmax(x, t)[0, 1], argnums=(0, 1)
    )(logits, 0.3)
    rest = classes - 1  # equal classes, of probability 1 / rest
    expected = -np.ones(classes) / rest**2
    expected[0], expected[1] = 0, 1 / rest - 1 / rest**2
    np.testing.assert_allclose(by_logits[0], expected / 0.3, atol=1e-6)
    assert by_temperature == 0


def test_nan_logits_give_nan():
    bad = LOGITS.at[0, 0].set(jnp.nan)
    assert np.isnan(distributions.entropy(bad))
    assert np.isnan(distributions.kl_divergence(bad, LOGITS))
    assert np.isnan(distributions.kl_divergence(LOGITS, bad))


def test_two_class_logits_are_the_sigmoid():
    log_odds = jnp.array([-2.0, 0.0, 50.0])
    probs = jax.nn.softmax(distributions.two_class_logits(log_odds))
    np.testing.assert_allclose(probs[:, 0], jax.nn.sigmoid(log_odds), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 13, 14, 15, 392, 784])
@pytest.mark.parametrize("scale", [0.1, 10.0, 1e4])
def test_bernoulli_log_prob_and_its_derivatives_equal_those_pixel_by_pixel(size, scale, key):
    key_x, key_logits = random.split(key)
    x, logits = random.uniform(key_x, (size,)), scale * random.normal(key_logits, (size,))
    x64, l64 = (np.asarray(one, np.float64) for one in (x, logits))
    by_pixel = x64 * l64 - np.logaddexp(0, l64)
    found, (of_x, of_logits) = jax.value_and_grad(distributions.bernoulli_log_prob, (0, 1))(
        x, logits
    )
    np.testing.assert_allclose(found, by_pixel.sum(), rtol=2e-6)
    np.testing.assert_allclose(of_x, logits)
    np.testing.assert_allclose(of_logits, x - jax.nn.sigmoid(logits), rtol=1e-6)
    alone = jax.grad(distributions.bernoulli_log_prob, 1)(x, logits)
    np.testing.assert_array_equal(alone, of_logits)


def test_bernoulli_log_prob_does_not_overflow():
    for logit, of_pixel in ((80.0, -80.0), (-200.0, 0.0), (0.0, -np.log(2))):
        found = distributions.bernoulli_log_prob(jnp.zeros(784), jnp.full(784, logit))
        np.testing.assert_allclose(found, 784 * of_pixel, rtol=1e-6)


def test_bernoulli_log_prob_equals_scipy(key):
    key_x, key_logits = random.split(key)
    logits = 3 * random.normal(key_logits, (30,))
    x = random.bernoulli(key_x, 0.5, (30,)).astype(jnp.float32)
    expected = scipy.stats.bernoulli.logpmf(x, scipy.special.expit(np.float64(logits))).sum()
    np.testing.assert_allclose(distributions.bernoulli_log_prob(x, logits), expected, rtol=1e-5)


@pytest.mark.parametrize("logit", [-50.0, -200.0, -1e30])
def test_a_divergence_from_a_class_that_p_never_draws_is_infinite_however_rare_it_is(logit):
    for others in ([0.0], [0.0, 0.5]):
        q, p = jnp.array([[*others, logit]]), jnp.array([[*others, -jnp.inf]])
        assert distributions.kl_divergence(q, p) == jnp.inf
        assert distributions.kl_divergence(p, q) < 1e-6
        assert jnp.isnan(distributions.kl_divergence(q.at[0, -1].set(jnp.nan), p))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_densities_of_low_precision_are_computed_in_float32(dtype, key):
    logits = random.normal(key, (30, 10)).astype(dtype)
    z = distributions.softmax(random.normal(random.fold_in(key, 1), (30, 10))).astype(dtype)
    for density in (
        functools.partial(distributions.gumbel_softmax_log_density, temperature=1.0),
        functools.partial(distributions.log_gumbel_softmax_log_density, temperature=1.0),
        lambda z, logits: distributions.bernoulli_log_prob(z.ravel(), logits.ravel()),
    ):
        exact = density(z.astype(jnp.float32), logits.astype(jnp.float32))
        assert density(z, logits).dtype == jnp.float32
        np.testing.assert_allclose(density(z, logits), exact, rtol=1e-5)
    log_odds = jnp.full(784, 100, dtype)
    assert distributions.bernoulli_log_prob(jnp.zeros(784, dtype), log_odds) == -78400
    slope = jax.grad(distributions.bernoulli_log_prob, 1)(jnp.zeros(784, dtype), log_odds)
    assert slope.dtype == dtype


def test_conditional_gumbels_are_nan_where_no_class_is_possible(key):
    logits = jnp.array([[-jnp.inf, -jnp.inf, -jnp.inf], [0.0, -jnp.inf, 1.0]])
    scores = distributions.conditional_gumbels(key, logits, jnp.array([[1.0, 0, 0], [1.0, 0, 0]]))
    assert jnp.isnan(scores[0]).all()
    assert scores[1, 0] > scores[1, 2] > scores[1, 1] == -jnp.inf
