"""The two laws and the common properties, over the whole registry.

A new registry entry is judged here without a line written: every test runs over ``ESTIMATORS``.
Two tables place it: ``MEAN_GRADIENT`` says what its mean gradient must be, ``SAMPLES`` how many
samples it averages (one, unless named). An entry missing from the first fails.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from jax import random

from gsm import distributions, estimators
from gsm.estimators import BERNOULLI_ONLY, ESTIMATORS, RELAXED, Hyperparams
from tests import oracle

HYPERPARAMS = Hyperparams(
    temperature=0.7, backward_temperature=1.2, baseline=0.3, slope=1.5, eta=0.8
)
KEYWORDS = {"relax": oracle.REQUIRED["relax"]}
ONE_UNIT = "one Bernoulli unit"
BEDS = {**oracle.BEDS, ONE_UNIT: oracle.one_bernoulli_unit()}
SAMPLES = {"rloo": 4, "disarm": 2}


def serves(name, bed):
    return name not in BERNOULLI_ONLY or bed.logits.shape[1] == 2


CASES = [
    pytest.param(name, bed, marks=[pytest.mark.slow] if bed == "three of four classes" else [])
    for name in ESTIMATORS
    for bed in BEDS
    if serves(name, BEDS[bed])
]
SMALL = ("two of three classes", "three Bernoulli units")
# Two classes have arithmetic of their own, which most entries share with one of these.
OF_TWO_CLASSES = {"gumbel_softmax", "score_function", "rebar", "muprop", *BERNOULLI_ONLY}


def of_two_classes(name):
    """Marks of a case on two classes beside the one on three: slow where another stands for it."""
    return [] if name in OF_TWO_CLASSES else [pytest.mark.slow]


over_small_cases = pytest.mark.parametrize(
    ("name", "bed"),
    [
        pytest.param(name, bed, marks=[] if bed == SMALL[0] else of_two_classes(name))
        for bed in SMALL
        for name in ESTIMATORS
        if serves(name, BEDS[bed])
    ],
)
over_registry_and_classes = pytest.mark.parametrize(
    ("name", "classes"),
    [(name, 3) for name in ESTIMATORS if name not in BERNOULLI_ONLY]
    + [pytest.param(name, 2, marks=of_two_classes(name)) for name in ESTIMATORS],
)
over_registry = pytest.mark.parametrize("name", ESTIMATORS)


def small_bed(name):
    return BEDS["three Bernoulli units" if name in BERNOULLI_ONLY else "two of three classes"]


def logits_of(bed):
    return jnp.asarray(bed.logits, jnp.float32)


def surrogate(name, key, logits, f, **hyperparams):
    keywords = KEYWORDS.get(name, {})
    return ESTIMATORS[name](key, logits, f, HYPERPARAMS._replace(**hyperparams), **keywords)


def value_and_gradient(name, key, logits, f, **hyperparams):
    def value(x, k):
        return surrogate(name, k, x, f, **hyperparams)

    return jax.jit(jax.value_and_grad(value))(logits, key)


def gradient(name, key, logits, f, **hyperparams):
    return value_and_gradient(name, key, logits, f, **hyperparams)[1]


def gradients(name, key, logits, f, number, **hyperparams):
    """Estimates at many keys, ``[number, n, k]``."""
    one = functools.partial(gradient, name, logits=logits, f=f, **hyperparams)
    return jax.jit(jax.vmap(lambda k: one(key=k)))(random.split(key, number))


def outcomes_of(logits):
    return jnp.asarray(oracle.outcomes(*logits.shape), jnp.float32)


def weights(name, key, logits):
    """How much each one-hot outcome counts in the surrogate's value, recovered by its indicator."""

    def weight(outcome, k):
        def indicator(z):
            return jnp.prod(jnp.sum(z * outcome, axis=-1))

        return surrogate(name, k, logits, indicator)

    return jax.jit(jax.vmap(weight, (0, None)))(outcomes_of(logits), key)


def relaxed_sample(name, key, logits):
    """The point inside the simplex at which f is evaluated, recovered by linear costs."""
    probes = jnp.eye(logits.size).reshape(-1, *logits.shape)
    values = jax.jit(
        jax.vmap(lambda p, k: surrogate(name, k, logits, lambda z: jnp.sum(p * z)), (0, None))
    )(probes, key)
    return values.reshape(logits.shape)


# --- law 1: the value is the cost at the sample


@over_small_cases
def test_value_is_the_cost_at_the_sample_or_its_mean_over_the_samples(name, bed, key):
    bed = BEDS[bed]
    logits = logits_of(bed)
    value, _ = value_and_gradient(name, key, logits, bed.cost)
    if name in RELAXED:
        z = relaxed_sample(name, random.clone(key), logits)
        np.testing.assert_allclose(z.sum(axis=-1), 1, rtol=1e-6)
        assert ((z > 0) & (z < 1)).all()
        expected = bed.cost(z)
    else:
        share = weights(name, random.clone(key), logits)
        expected = share @ jax.vmap(bed.cost)(outcomes_of(logits))
        np.testing.assert_allclose(share.sum(), 1, rtol=1e-5)
        if name == "exact":
            np.testing.assert_allclose(share, oracle.probabilities(bed.logits), rtol=1e-4)
        else:
            counts = np.asarray(share) * SAMPLES.get(name, 1)
            np.testing.assert_allclose(counts, np.round(counts), atol=1e-5)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


# --- law 2: the gradient is the estimate


def mean_over_samples(estimate):
    """Mean of an estimate that depends on one hard sample z: ``estimate(probs, z, f'(z))``."""

    def mean(logits, f):
        z, probs = oracle.outcomes(*logits.shape), oracle.softmax(logits)
        slopes = np.asarray(jax.jit(jax.vmap(jax.grad(f)))(jnp.asarray(z, jnp.float32)), np.float64)
        estimates = [estimate(logits, probs, *pair) for pair in zip(z, slopes, strict=True)]
        return np.einsum("o,onk->nk", oracle.probabilities(logits), estimates)

    return mean


def through_softmax(probs, slope):
    """The softmax's Jacobian applied to a slope."""
    return probs * (slope - np.sum(probs * slope, axis=-1, keepdims=True))


@mean_over_samples
def straight_through(logits, probs, z, slope):
    return through_softmax(probs, slope)


@mean_over_samples
def slope_annealed(logits, probs, z, slope):
    steep = HYPERPARAMS.slope
    return steep * through_softmax(oracle.softmax(steep * logits), slope)


@mean_over_samples
def darn(logits, probs, z, slope):
    return np.sum(slope * (z - 1 / z.shape[-1]), axis=-1, keepdims=True) * (z - probs)


@mean_over_samples
def reinmax(logits, probs, z, slope):
    """The published form: ``2 J((p + z) / 2) - J(p) / 2``."""
    return 2 * through_softmax((probs + z) / 2, slope) - through_softmax(probs, slope) / 2


@mean_over_samples
def gapped(logits, probs, z, slope):
    largest = logits.max(axis=-1, keepdims=True)
    moved = np.where(z > 0, largest, logits - np.maximum(logits - largest + 1, 0))
    temperature = HYPERPARAMS.temperature
    return through_softmax(oracle.softmax(moved / temperature), slope) / temperature


def two_class_quadrature(forward, temperature=HYPERPARAMS.temperature):
    """``E[f'(forward(s, t)) d sigmoid(s)/dl]``, ``s = (l + logistic noise) / t``, one unit."""

    def mean(logits, f):
        log_odds = logits[0, 0] - logits[0, 1]
        s = np.linspace(-60, 60, 200_001)
        y = 1 / (1 + np.exp(-s))
        density = temperature * 0.25 / np.cosh((temperature * s - log_odds) / 2) ** 2
        slope_at = jax.vmap(jax.grad(lambda p: f(jnp.stack([p, 1 - p])[None])))
        seen = jnp.asarray(forward(s, temperature), jnp.float32)
        slope = np.asarray(slope_at(seen), np.float64)
        total = scipy.integrate.trapezoid(slope * y * (1 - y) / temperature * density, s)
        return np.array([[total, -total]])

    return mean


relaxed = two_class_quadrature(lambda s, t: scipy.special.expit(s))
st_gumbel_softmax = two_class_quadrature(lambda s, t: (s > 0).astype(float))
decoupled = two_class_quadrature(
    lambda s, t: scipy.special.expit(s * t / HYPERPARAMS.temperature),
    HYPERPARAMS.backward_temperature,
)

MEAN_GRADIENT = {
    "exact": oracle.exact_gradient,
    "score_function": oracle.exact_gradient,
    "nvil": oracle.exact_gradient,
    "darn": darn,
    "muprop": oracle.exact_gradient,
    "straight_through": straight_through,
    "slope_annealed_st": slope_annealed,
    "gumbel_softmax": relaxed,
    "decoupled_gumbel_softmax": decoupled,
    "st_gumbel_softmax": st_gumbel_softmax,
    "rloo": oracle.exact_gradient,
    "rebar": oracle.exact_gradient,
    "relax": oracle.exact_gradient,
    "gumbel_rao": st_gumbel_softmax,
    "reinmax": reinmax,
    "gapped_straight_through": gapped,
    "disarm": oracle.exact_gradient,
    "local_expectation": oracle.exact_gradient,
}
"""What the mean gradient of each entry is: the exact one, or a biased one's own expectation."""
BY_QUADRATURE = {
    name for name, mean in MEAN_GRADIENT.items() if mean in (relaxed, decoupled, st_gumbel_softmax)
}
UNBIASED = {name for name, mean in MEAN_GRADIENT.items() if mean is oracle.exact_gradient}
ONE_HARD_SAMPLE = {
    "score_function", "nvil", "darn", "muprop", "straight_through", "slope_annealed_st", "reinmax",
    "gapped_straight_through", "local_expectation",
}  # fmt: skip
"""Entries that depend on their key through one ``gumbel_max`` alone."""


def test_every_entry_says_what_its_mean_gradient_is():
    assert set(MEAN_GRADIENT) == set(ESTIMATORS)


@pytest.mark.parametrize(
    ("name", "bed"),
    [c for c in CASES if c.values[0] not in BY_QUADRATURE or c.values[1] == ONE_UNIT],
)
def test_mean_gradient_and_mean_value(name, bed, key):
    """z-tests on 100,000 draws, family-wise false-alarm rate 1e-6 for each case."""
    bed = BEDS[bed]
    keys = random.split(key, 2 if name == "exact" else 100_000)
    values, samples = jax.jit(
        jax.vmap(lambda k: value_and_gradient(name, k, logits_of(bed), bed.cost))
    )(keys)
    oracle.assert_mean(samples, MEAN_GRADIENT[name](bed.logits, bed.cost))
    if name not in RELAXED:
        oracle.assert_mean(values, oracle.expectation(bed.logits, bed.cost))


@pytest.mark.parametrize("name", sorted(ONE_HARD_SAMPLE))
@pytest.mark.parametrize("bed", BEDS)
def test_mean_gradient_by_enumeration_of_the_sample(name, bed, monkeypatch, key):
    """No draws: the mean over all outcomes, to 1e-12 in float64 where the law is exact."""
    bed = BEDS[bed]

    def at_sample(z):
        monkeypatch.setattr(estimators, "gumbel_max", lambda *_: z)
        return gradient(name, key, jnp.asarray(bed.logits), bed.cost)

    with jax.enable_x64(True):
        samples = jax.jit(jax.vmap(at_sample))(jnp.asarray(oracle.outcomes(*bed.logits.shape)))
    mean = np.einsum("o,onk->nk", oracle.probabilities(bed.logits), samples)
    tolerance = 1e-12 if name in UNBIASED else 1e-5  # the others' slopes are float32's
    expected = MEAN_GRADIENT[name](bed.logits, bed.cost)
    np.testing.assert_allclose(mean, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - UNBIASED))
def test_power_biased_estimators_fail_the_test_of_unbiasedness(name, key):
    bed = small_bed(name)
    samples = gradients(name, key, logits_of(bed), bed.cost, 100_000)
    with pytest.raises(AssertionError, match="biased"):
        oracle.assert_mean(samples, oracle.exact_gradient(bed.logits, bed.cost))


@over_registry
def test_gradient_by_what_the_cost_closes_over(name, key):
    """A decoder inside f trains through the same scalar: ``d/dw f(z; w)`` at the sample."""

    def cost(w, z):
        return jnp.sum(jnp.tanh(w * z)) + jnp.sum(w) * z[0, 0]

    bed = small_bed(name)
    logits, w = logits_of(bed), jnp.asarray(bed.cost_weights, jnp.float32)
    by_w = jax.jit(jax.grad(lambda w, k: surrogate(name, k, logits, functools.partial(cost, w))))(
        w, key
    )
    if name in RELAXED:
        expected = jax.grad(cost)(w, relaxed_sample(name, random.clone(key), logits))
    else:
        share = weights(name, random.clone(key), logits)
        slopes = jax.vmap(jax.grad(cost), (None, 0))(w, outcomes_of(logits))
        expected = jnp.einsum("o,onk->nk", share, slopes)
    np.testing.assert_allclose(by_w, expected, rtol=1e-4, atol=1e-5)


def two_layers(name, weights_below, f):
    """Two stochastic layers, nested by closure: the inner value is the outer learning signal."""

    def run(key, logits):
        key_outer, key_inner = random.split(key)

        def inner(z):
            below = (weights_below @ z.reshape(-1)).reshape(z.shape)
            # Some estimators evaluate f several times: with the same noise, which clone permits.
            return surrogate(name, random.clone(key_inner), below, f)

        return surrogate(name, key_outer, logits, inner)

    return run


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in UNBIASED else [pytest.mark.slow])
        for name in ESTIMATORS
    ],
)
def test_two_layers_nest_by_closure(name, key):
    """The unbiased stay so, whatever the inner layer does at the points that it is asked for."""
    bed = small_bed(name)
    logits = logits_of(bed)
    below = random.normal(random.key(7), (logits.size, logits.size))
    value_and_grad = jax.value_and_grad(two_layers(name, below, bed.cost), argnums=1)
    number = 2 if name == "exact" else 20_000 if name in UNBIASED else 100
    values, samples = jax.jit(jax.vmap(lambda k: value_and_grad(k, logits)))(
        random.split(key, number)
    )
    assert np.isfinite(values).all()
    assert np.isfinite(samples).all()
    if name not in UNBIASED:
        return

    def marginal(logits):
        z = outcomes_of(logits)

        def q(logits):
            return jnp.exp(jax.vmap(lambda one: distributions.log_prob(one, logits))(z))

        costs = jax.vmap(bed.cost)(z)
        inner = jax.vmap(lambda one: q((below @ one.reshape(-1)).reshape(one.shape)) @ costs)(z)
        return q(logits) @ inner

    oracle.assert_mean(values, marginal(logits))
    oracle.assert_mean(samples, jax.grad(marginal)(logits))


# --- properties of every estimate


@over_small_cases
def test_algebra_of_an_estimate(name, bed, key):
    """At one key: rows sum to zero; a shift of a row's logits changes nothing; the estimate scales
    with the cost; a constant in the cost changes nothing (of the score function: with the baseline
    that takes it up)."""
    bed = BEDS[bed]
    logits = logits_of(bed)

    @jax.jit
    @jax.grad
    def estimate(logits, scale, constant, baseline, k):
        def cost(z):
            return scale * bed.cost(z) + constant

        return surrogate(name, k, logits, cost, baseline=baseline, eta=1.0)

    def at(logits=logits, scale=1.0, constant=0.0, baseline=0.0):
        return estimate(logits, scale, constant, baseline, random.clone(key))

    base = at()
    np.testing.assert_allclose(base.sum(axis=-1), 0, atol=1e-4)
    shift = jnp.linspace(-1.0, 2.0, len(logits))[:, None]
    np.testing.assert_allclose(base, at(logits + shift), rtol=1e-3, atol=1e-4)
    if name not in KEYWORDS:  # the cost is all that there is to scale
        np.testing.assert_allclose(3 * base, at(scale=3.0), rtol=1e-4, atol=1e-5)
    baseline = 10.0 * (name in ("score_function", "nvil"))
    raised = at(constant=10.0, baseline=baseline)
    np.testing.assert_allclose(base, raised, rtol=1e-3, atol=1e-4)


@over_registry
def test_jit_and_vmap_change_nothing(name, key):
    bed = small_bed(name)
    keys = random.split(key, 2)

    def both(k):  # eager where it is not under jit
        return jax.value_and_grad(lambda x: surrogate(name, k, x, bed.cost))(logits_of(bed))

    together = jax.jit(jax.vmap(both))(keys)
    value, estimate = both(random.clone(keys)[1])
    np.testing.assert_allclose(together[0][1], value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together[1][1], estimate, rtol=1e-4, atol=1e-5)


@over_registry
def test_nothing_recompiles_as_hyperparameters_change(name, key):
    bed, traces = small_bed(name), []

    @jax.jit
    def run(key, hyperparams):
        traces.append(hyperparams)
        keywords = KEYWORDS.get(name, {})
        return ESTIMATORS[name](key, logits_of(bed), bed.cost, hyperparams, **keywords)

    for value in (1.0, 0.5, 0.1):
        run(random.clone(key), Hyperparams(*(jnp.float32(value) for _ in Hyperparams._fields)))
    assert len(traces) == 1


@over_registry
def test_a_hyperparameter_is_read_by_those_it_is_for_and_by_no_other(name, key):
    bed = small_bed(name)

    @jax.jit
    def at(k, hyperparams):
        return gradient(name, k, logits_of(bed), bed.cost, **hyperparams._asdict())

    base = Hyperparams(*(jnp.float32(0.3) for _ in Hyperparams._fields))
    before = at(key, base)
    for field in Hyperparams._fields:
        after = at(random.clone(key), base._replace(**{field: jnp.float32(2.0)}))
        assert np.array_equal(before, after) != (field in ESTIMATORS[name].reads), field


# --- edge cases


@over_registry
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=[pytest.mark.slow])])
def test_low_precision_logits_give_finite_gradients_in_their_dtype(name, dtype, key):
    bed = small_bed(name)
    logits = logits_of(bed).astype(dtype)
    estimate = gradient(name, key, logits, lambda z: bed.cost(z).astype(jnp.float32))
    assert estimate.dtype == logits.dtype
    assert np.isfinite(np.asarray(estimate, np.float32)).all()


@over_registry_and_classes
def test_extreme_logits_give_finite_values_and_gradients(name, classes, key):
    logits = 1e4 * jnp.array([[1.0, -1.0, 0.0], [0.5, 0.0, -0.5]])[:, :classes]
    value, estimate = value_and_gradient(name, key, logits, lambda z: jnp.sum(jnp.sin(z) * z))
    assert np.isfinite(value)
    assert np.isfinite(estimate).all()


@over_small_cases
def test_a_masked_class_gets_no_gradient_and_makes_no_nan(name, bed, key):
    bed = BEDS[bed]
    masked = logits_of(bed).at[:, 1].set(-jnp.inf)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def slopes(logits, temperature, k):
        return surrogate(name, k, logits, bed.cost, temperature=temperature)

    by_logits, by_temperature = slopes(masked, 0.7, key)
    assert np.isfinite(by_logits).all()
    assert (by_logits[:, 1] == 0).all()
    low = jnp.where(masked == -jnp.inf, -1e9, masked)
    by_low, by_temperature_low = slopes(low, 0.7, random.clone(key))
    np.testing.assert_allclose(by_logits, by_low, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_temperature, by_temperature_low, rtol=1e-4, atol=1e-5)


@over_registry_and_classes
def test_nan_logits_give_nan(name, classes, key):
    bad = jnp.zeros((2, classes)).at[0, 0].set(jnp.nan)

    def cost(z):
        return jnp.sum(jnp.sin(z))

    value, estimate = value_and_gradient(name, key, bad, cost)
    assert np.isnan(value)
    assert np.isnan(estimate).any()


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name not in BERNOULLI_ONLY])
def test_one_class_has_the_gradient_zero(name, key):
    estimate = gradient(name, key, jnp.array([[0.3], [-2.0]]), lambda z: jnp.sum(z**3))
    np.testing.assert_array_equal(estimate, 0)


@pytest.mark.parametrize("temperature", [1e-3, 100.0])
@pytest.mark.parametrize(
    "name", [name for name, entry in ESTIMATORS.items() if "temperature" in entry.reads]
)
def test_extreme_temperatures_stay_finite(name, temperature, key):
    bed = small_bed(name)
    samples = gradients(name, key, logits_of(bed), bed.cost, 1000, temperature=temperature)
    assert np.isfinite(samples).all()
