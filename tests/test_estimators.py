"""The two laws, over the whole registry, and what each estimator promises beside them.

A new registry entry is judged here without a line written: the laws run over ``ESTIMATORS``. It is
placed by one line in ``EXPECTED_GRADIENT``, which says what its mean gradient must be.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax import random

from gsm import distributions, estimators
from gsm.estimators import ESTIMATORS, RELAXED, Hyperparams
from tests import oracle

NAMES = list(ESTIMATORS)
HARD = [name for name in NAMES if name not in RELAXED]
HYPERPARAMS = Hyperparams(temperature=0.7, baseline=0.3)
BED = oracle.BEDS["two of three classes"]
LOGITS = jnp.asarray(BED.logits, jnp.float32)

over_registry = pytest.mark.parametrize("name", NAMES)
over_beds = pytest.mark.parametrize("bed", oracle.BEDS.values(), ids=oracle.BEDS)


def surrogate(name, key, logits, f, **hyperparams):
    return ESTIMATORS[name](key, logits, f, HYPERPARAMS._replace(**hyperparams))


def gradient(name, key, logits, f, **hyperparams):
    return jax.grad(lambda x: surrogate(name, key, x, f, **hyperparams))(logits)


def gradients(name, key, logits, f, number):
    """Estimates at many keys, ``[number, n, k]``."""
    one = functools.partial(gradient, name, logits=logits, f=f)
    return jax.jit(jax.vmap(lambda k: one(key=k)))(random.split(key, number))


def drawn(name, key, logits):
    """The point at which the estimator evaluates f, recovered by linear costs one entry each."""
    probes = jnp.eye(logits.size, dtype=logits.dtype).reshape(-1, *logits.shape)
    values = [
        surrogate(name, random.clone(key), logits, lambda z, p=probe: jnp.sum(p * z))
        for probe in probes
    ]
    return jnp.stack(values).reshape(logits.shape)


# --- law 1: the value is the cost at the sample


@over_registry
@over_beds
def test_value_is_the_cost_at_the_sample(name, bed, key):
    logits = jnp.asarray(bed.logits, jnp.float32)
    value = surrogate(name, key, logits, bed.cost)
    if name == "exact":
        expected = oracle.expectation(bed.logits, bed.cost)
    else:
        expected = bed.cost(drawn(name, key, logits))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@over_registry
def test_the_sample_is_one_hot_or_inside_the_simplex(name, key):
    if name == "exact":
        pytest.skip("exact draws nothing")
    z = np.asarray(drawn(name, key, LOGITS))
    np.testing.assert_allclose(z.sum(axis=-1), 1, rtol=1e-6)
    if name in RELAXED:
        assert ((z > 0) & (z < 1)).all()
    else:
        assert set(np.unique(z)) == {0.0, 1.0}


@pytest.mark.parametrize("name", HARD)
@over_beds
def test_mean_value_of_hard_samples_is_the_expected_cost(name, bed, key):
    logits = jnp.asarray(bed.logits, jnp.float32)
    values = jax.jit(jax.vmap(lambda k: surrogate(name, k, logits, bed.cost)))
    oracle.assert_mean(values(random.split(key, 100_000)), oracle.expectation(bed.logits, bed.cost))


# --- law 2: the gradient is the estimate


def straight_through_mean(logits, f):
    """``E[J(softmax) f'(z)]``: the straight-through estimator's own expectation."""
    probs = oracle.softmax(logits)
    mean = np.zeros_like(probs)
    for q, z in zip(oracle.probabilities(logits), oracle.outcomes(*logits.shape), strict=True):
        slope = np.asarray(jax.grad(f)(jnp.asarray(z, jnp.float32)), np.float64)
        mean += q * probs * (slope - np.sum(probs * slope, axis=-1, keepdims=True))
    return mean


def relaxed_mean(logits, f):
    """Gradient of the relaxed objective: quadrature over the noise of one two-class variable."""
    return _two_class_quadrature(logits, lambda y: y, f)


def st_gumbel_softmax_mean(logits, f):
    return _two_class_quadrature(logits, lambda y: (y > 0.5).astype(float), f)


def _two_class_quadrature(logits, forward, f):
    """``E[f'(forward(y)) dy/dl]``, y = sigmoid(s), s = (l + logistic noise) / temperature."""
    temperature, log_odds = HYPERPARAMS.temperature, logits[0, 0] - logits[0, 1]
    s = np.linspace(-60, 60, 200_001)
    y = 1 / (1 + np.exp(-s))
    noise = temperature * s - log_odds
    density = temperature * 0.25 / np.cosh(noise / 2) ** 2

    def along_edge(p):
        return f(jnp.stack([p, 1 - p])[None])

    points = jnp.asarray(forward(y), jnp.float32)
    slope = np.asarray(jax.vmap(jax.grad(along_edge))(points), np.float64)
    mean = scipy.integrate.trapezoid(slope * y * (1 - y) / temperature * density, s)
    return np.array([[mean, -mean]])


ONE_UNIT = oracle._bed(5, 1, 2)

EXPECTED_GRADIENT = {
    "exact": oracle.exact_gradient,
    "score_function": oracle.exact_gradient,
    "straight_through": straight_through_mean,
    "gumbel_softmax": relaxed_mean,
    "st_gumbel_softmax": st_gumbel_softmax_mean,
}
"""What the mean gradient of each entry is, exactly; biased ones against their own expectation."""
ONE_UNIT_ONLY = {"gumbel_softmax", "st_gumbel_softmax"}


def test_every_entry_says_what_its_mean_gradient_is():
    assert set(EXPECTED_GRADIENT) == set(ESTIMATORS)


@over_registry
@pytest.mark.parametrize("bed", [*oracle.BEDS.values(), ONE_UNIT], ids=[*oracle.BEDS, "one unit"])
def test_mean_gradient(name, bed, key):
    """z-test on 100,000 draws, family-wise false-alarm rate 1e-6 for each case."""
    if name in ONE_UNIT_ONLY and bed is not ONE_UNIT:
        pytest.skip("its expectation is a quadrature over one unit")
    logits = jnp.asarray(bed.logits, jnp.float32)
    samples = gradients(name, key, logits, bed.cost, 100_000 if name != "exact" else 2)
    oracle.assert_mean(samples, EXPECTED_GRADIENT[name](bed.logits, bed.cost))


@pytest.mark.parametrize("name", ["score_function", "straight_through"])
@over_beds
def test_mean_gradient_by_enumeration_of_the_sample(name, bed, monkeypatch, key):
    """Estimators that depend on the hard sample alone: no draws, agreement to 1e-12 in float64."""
    mean = np.zeros_like(bed.logits)
    with jax.enable_x64(True):
        for q, z in zip(
            oracle.probabilities(bed.logits), oracle.outcomes(*bed.logits.shape), strict=True
        ):
            monkeypatch.setattr(estimators, "gumbel_max", lambda *_, z=z: jnp.asarray(z))
            mean += q * np.asarray(gradient(name, key, jnp.asarray(bed.logits), bed.cost))
        if name == "score_function":
            expected = oracle.exact_gradient(bed.logits, bed.cost)
            np.testing.assert_allclose(mean, expected, rtol=1e-12, atol=1e-12)
        else:
            np.testing.assert_allclose(
                mean, straight_through_mean(bed.logits, bed.cost), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("name", ["straight_through", "st_gumbel_softmax", "gumbel_softmax"])
def test_power_biased_estimators_fail_the_test_of_unbiasedness(name, key):
    samples = gradients(name, key, LOGITS, BED.cost, 100_000)
    with pytest.raises(AssertionError, match="biased"):
        oracle.assert_mean(samples, oracle.exact_gradient(BED.logits, BED.cost))


@over_registry
def test_gradient_by_what_the_cost_closes_over(name, key):
    """A decoder inside f trains through the same scalar: ``d/dw f(z; w)`` at the sample."""

    def cost(w, z):
        return jnp.sum(jnp.tanh(w * z))

    w = jnp.asarray(BED.cost_weights, jnp.float32)
    by_w = jax.grad(lambda w: surrogate(name, key, LOGITS, functools.partial(cost, w)))(w)
    if name == "exact":
        expected = sum(
            q * jax.grad(cost)(w, jnp.asarray(z, jnp.float32))
            for q, z in zip(
                oracle.probabilities(BED.logits), oracle.outcomes(*BED.logits.shape), strict=True
            )
        )
    else:
        expected = jax.grad(cost)(w, drawn(name, key, LOGITS))
    np.testing.assert_allclose(by_w, expected, rtol=1e-4, atol=1e-6)


@over_registry
def test_layers_nest_by_closure(name, key):
    """Two layers: the inner surrogate's value is the outer signal; the value law holds for both."""
    key_outer, key_inner = random.split(key)
    weights = random.normal(random.key(7), (LOGITS.size, LOGITS.size))

    def outer(logits):
        def inner(z):
            below = (weights @ z.reshape(-1)).reshape(z.shape)
            return surrogate(name, key_inner, below, BED.cost)

        return surrogate(name, key_outer, logits, inner)

    value, estimate = jax.value_and_grad(outer)(LOGITS)
    assert np.isfinite(value)
    assert np.isfinite(estimate).all()
    if name == "exact":

        def marginal(logits):
            z = jnp.asarray(oracle.outcomes(*LOGITS.shape), jnp.float32)
            below = jax.vmap(lambda one: (weights @ one.reshape(-1)).reshape(one.shape))(z)

            def q(logits):
                return jnp.exp(jax.vmap(lambda one: distributions.log_prob(one, logits))(z))

            costs = jax.vmap(BED.cost)(z)
            return q(logits) @ jax.vmap(lambda b: q(b) @ costs)(below)

        np.testing.assert_allclose(value, marginal(LOGITS), rtol=1e-5)
        np.testing.assert_allclose(estimate, jax.grad(marginal)(LOGITS), rtol=1e-4, atol=1e-6)


# --- properties of every estimate


@over_registry
def test_gradient_rows_sum_to_zero_and_a_shift_of_the_logits_changes_nothing(name, key):
    base = gradient(name, key, LOGITS, BED.cost)
    np.testing.assert_allclose(base.sum(axis=-1), 0, atol=1e-5)
    shifted = gradient(name, random.clone(key), LOGITS + jnp.array([[2.0], [-1.0]]), BED.cost)
    np.testing.assert_allclose(base, shifted, rtol=1e-3, atol=1e-5)


@over_registry
def test_gradient_scales_with_the_cost(name, key):
    base = gradient(name, key, LOGITS, BED.cost, baseline=0.0)
    tripled = gradient(name, random.clone(key), LOGITS, lambda z: 3 * BED.cost(z), baseline=0.0)
    np.testing.assert_allclose(3 * base, tripled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "score_function"])
def test_a_constant_in_the_cost_changes_no_gradient(name, key):
    base = gradient(name, key, LOGITS, BED.cost)
    raised = gradient(name, random.clone(key), LOGITS, lambda z: BED.cost(z) + 10)
    np.testing.assert_allclose(base, raised, rtol=1e-3, atol=1e-4)


@over_registry
def test_jit_and_vmap_change_nothing(name, key):
    keys = random.split(key, 5)

    def both(k):
        return jax.value_and_grad(lambda x: surrogate(name, k, x, BED.cost))(LOGITS)

    together = jax.jit(jax.vmap(both))(keys)
    alone = [both(k) for k in random.clone(keys)]
    for i, (value, estimate) in enumerate(alone):
        np.testing.assert_allclose(together[0][i], value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(together[1][i], estimate, rtol=1e-4, atol=1e-5)


@over_registry
def test_nothing_recompiles_as_hyperparameters_change(name, key):
    @jax.jit
    def run(hyperparams):
        return ESTIMATORS[name](key, LOGITS, BED.cost, hyperparams)

    for temperature, baseline in ((1.0, 0.0), (0.5, 2.0), (0.1, -1.0)):
        run(Hyperparams(jnp.float32(temperature), jnp.float32(baseline)))
    assert run._cache_size() == 1


@over_registry
def test_temperature_is_read_by_those_it_is_for(name, key):
    """A hyperparameter that nobody reads would pass every other test."""
    cold = gradient(name, key, LOGITS, BED.cost, temperature=0.3)
    warm = gradient(name, random.clone(key), LOGITS, BED.cost, temperature=2.0)
    assert np.allclose(cold, warm) != (name in {"gumbel_softmax", "st_gumbel_softmax"})


# --- edge cases


@over_registry
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_low_precision_logits_give_finite_gradients_in_their_dtype(name, dtype, key):
    logits = LOGITS.astype(dtype)
    estimate = gradient(name, key, logits, lambda z: BED.cost(z).astype(jnp.float32))
    assert estimate.dtype == logits.dtype
    assert np.isfinite(np.asarray(estimate, np.float32)).all()


@over_registry
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_give_finite_values_and_gradients(name, scale, classes, key):
    logits = scale * jnp.array([[1.0, -1.0, 0.0], [0.5, 0.0, -0.5]])[:, :classes]
    value, estimate = jax.value_and_grad(
        lambda x: surrogate(name, key, x, lambda z: jnp.sum(jnp.sin(z) * z))
    )(logits)
    assert np.isfinite(value)
    assert np.isfinite(estimate).all()


@over_registry
@pytest.mark.parametrize("bed", oracle.BEDS.values(), ids=oracle.BEDS)
def test_a_masked_class_gets_no_gradient_and_makes_no_nan(name, bed, key):
    masked = jnp.asarray(bed.logits, jnp.float32).at[:, 1].set(-jnp.inf)

    def value(logits, temperature):
        return surrogate(name, key, logits, bed.cost, temperature=temperature)

    by_logits, by_temperature = jax.grad(value, (0, 1))(masked, 0.7)
    assert np.isfinite(by_logits).all()
    assert (by_logits[:, 1] == 0).all()
    finite = jnp.where(masked == -jnp.inf, -1e9, masked)
    by_finite, by_temperature_finite = jax.grad(
        lambda x, t: surrogate(name, random.clone(key), x, bed.cost, temperature=t), (0, 1)
    )(finite, 0.7)
    np.testing.assert_allclose(by_logits, by_finite, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_temperature, by_temperature_finite, rtol=1e-5, atol=1e-6)


@over_registry
@pytest.mark.parametrize("classes", [2, 3])
def test_nan_logits_give_nan(name, classes, key):
    bad = LOGITS.at[0, 0].set(jnp.nan)[:, :classes]

    def cost(z):
        return jnp.sum(jnp.sin(z))

    assert np.isnan(surrogate(name, key, bad, cost))
    assert np.isnan(gradient(name, random.clone(key), bad, cost)).any()


@over_registry
def test_one_class_has_the_gradient_zero(name, key):
    logits = jnp.array([[0.3], [-2.0]])
    estimate = gradient(name, key, logits, lambda z: jnp.sum(z**3))
    np.testing.assert_array_equal(estimate, 0)


@pytest.mark.parametrize("temperature", [1e-3, 100.0])
@pytest.mark.parametrize("name", ["gumbel_softmax", "st_gumbel_softmax"])
def test_extreme_temperatures_stay_finite(name, temperature, key):
    def f(k):
        return gradient(name, k, LOGITS, BED.cost, temperature=temperature)

    assert np.isfinite(jax.vmap(f)(random.split(key, 1000))).all()


# --- samplers alone


def test_gumbel_softmax_has_the_classes_of_the_logits_at_every_temperature(key):
    for temperature in (0.1, 1.0, 5.0):
        keys = random.split(random.fold_in(key, int(10 * temperature)), 100_000)
        z = jax.vmap(lambda k, t=temperature: estimators.gumbel_softmax(k, LOGITS, t))(keys)
        counts = np.stack([(z.argmax(-1) == c).sum(axis=0) for c in range(3)], axis=-1)
        for row, probs in zip(counts, oracle.softmax(LOGITS), strict=True):
            oracle.assert_frequencies(row, probs)


def test_gumbel_softmax_goes_from_one_hot_to_uniform(key):
    cold = estimators.gumbel_softmax(key, LOGITS, 1e-3)
    np.testing.assert_allclose(jnp.max(cold, axis=-1), 1, rtol=1e-6)
    warm = estimators.gumbel_softmax(random.clone(key), LOGITS, 1e6)
    np.testing.assert_allclose(warm, 1 / 3, rtol=1e-4)


def test_straight_through_gumbel_softmax_uses_the_same_noise_forward_and_backward(key):
    def soft_of_hard(k):
        hard, pullback = jax.vjp(
            lambda x: estimators.straight_through_gumbel_softmax(k, x, 0.7), LOGITS
        )
        soft, soft_pullback = jax.vjp(
            lambda x: estimators.gumbel_softmax(random.clone(k), x, 0.7), LOGITS
        )
        cotangent = jnp.asarray(BED.cost_weights, jnp.float32)
        return hard, soft, pullback(cotangent)[0], soft_pullback(cotangent)[0]

    for k in random.split(key, 20):
        hard, soft, ours, theirs = soft_of_hard(k)
        np.testing.assert_array_equal(hard.argmax(-1), soft.argmax(-1))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "sampler", [estimators.straight_through, estimators.straight_through_gumbel_softmax]
)
def test_hard_forward_is_exactly_one_hot(sampler, dtype, key):
    logits = (5 * random.normal(key, (4000, 10))).astype(dtype)
    z = np.asarray(sampler(random.key(3), logits), np.float32)
    assert set(np.unique(z)) == {0.0, 1.0}
    np.testing.assert_array_equal(z.sum(axis=-1), 1)


def test_power_the_common_order_of_the_straight_through_sum_is_not_one_hot(key):
    soft = jax.nn.softmax(5 * random.normal(key, (4000, 10)))
    hard = jax.nn.one_hot(soft.argmax(-1), 10)
    wrong = np.asarray(soft + hard - soft)
    assert set(np.unique(wrong)) != {0.0, 1.0}


def test_straight_through_is_unbiased_for_a_cost_affine_in_each_variable(monkeypatch, key):
    w = random.normal(key, (3, 3))

    def bilinear(z):
        return z[0] @ w.astype(z.dtype) @ z[1] + z[0, 1]

    mean = np.zeros_like(BED.logits)
    for q, z in zip(oracle.probabilities(BED.logits), oracle.outcomes(2, 3), strict=True):
        monkeypatch.setattr(estimators, "gumbel_max", lambda *_, z=z: jnp.asarray(z, jnp.float32))
        mean += q * np.asarray(gradient("straight_through", random.clone(key), LOGITS, bilinear))
    np.testing.assert_allclose(
        mean, oracle.exact_gradient(BED.logits, bilinear), rtol=1e-4, atol=1e-6
    )


def test_a_baseline_moves_the_variance_and_not_the_mean(key):
    def at(baseline):
        one = functools.partial(gradient, "score_function", logits=LOGITS, f=BED.cost)
        keys = random.split(random.clone(key), 100_000)
        return jax.jit(jax.vmap(lambda k: one(key=k, baseline=baseline)))(keys)

    none, far = at(0.0), at(20.0)
    oracle.assert_mean(far, oracle.exact_gradient(BED.logits, BED.cost))
    assert far.var(axis=0).sum() > 20 * none.var(axis=0).sum()


# --- errors


def test_an_unknown_name_is_told_the_names():
    with pytest.raises(KeyError, match=r"unknown estimator 'gumbel'.*exact, score_function"):
        ESTIMATORS["gumbel"]


def test_exact_refuses_more_outcomes_than_it_can_enumerate():
    with pytest.raises(ValueError, match=r"65,536 at most; logits have shape \(20, 10\)"):
        estimators.exact(jnp.zeros((20, 10)), jnp.sum)


@pytest.mark.parametrize("temperature", [0, -0.5])
@pytest.mark.parametrize(
    "sampler", [estimators.gumbel_softmax, estimators.straight_through_gumbel_softmax]
)
def test_samplers_refuse_a_temperature_that_is_not_positive(sampler, temperature, key):
    with pytest.raises(ValueError, match=f"temperature must be positive; got {temperature}"):
        sampler(key, LOGITS, temperature)
