"""The laws of :mod:`gsm.testing` over the whole registry, and what is particular to its entries.

A new registry entry is judged here without a line written: every test runs over ``ESTIMATORS``.
Two tables place it: ``MEAN_GRADIENT`` says what its mean gradient must be, ``SAMPLES`` how many
samples it averages (one, unless named). An entry missing from the first fails.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
from jax import random

from gsm import distributions, estimators, testing
from gsm.registry import BERNOULLI_ONLY, ESTIMATORS, RELAXED, Hyperparams
from gsm.testing import PROBLEMS

HYPERPARAMS = {
    "temperature": 0.7, "backward_temperature": 1.2, "baseline": 0.3, "variance": 1.0,
    "slope": 1.5, "eta": 0.8,
}  # fmt: skip
STATED_AT = {"reinmax": {"backward_temperature": 1.0}}
"""Hyperparameters on which the facts of an entry depend: it states those of its defaults."""
CONTROL = {"control": lambda y: jnp.sum(jnp.sin(3 * y[:, 0]) + y[:, -1] ** 2)}
SAMPLES = {"rloo": 4, "disarm": 2, "arms": 4, "exact": None}
DRAWS = {"exact": 100}


def _subject(name):
    """The entry with hyperparameters as keywords, whichever of them it reads."""
    keywords = CONTROL if name == "relax" else {}

    def estimator(key, logits, f, **hyperparams):
        return ESTIMATORS[name](key, logits, f, Hyperparams(**hyperparams), **keywords)

    return estimator


SUBJECTS = {name: _subject(name) for name in ESTIMATORS}
"""One function each, so that the laws' programs are compiled once."""

slow = pytest.mark.slow
THREE, UNITS = (PROBLEMS[name] for name in testing.CHECKED)
ONE_UNIT = PROBLEMS["one Bernoulli unit"]
# Two classes have arithmetic of their own, which most entries share with one of these.
OF_TWO_CLASSES = {"gumbel_softmax", "score_function", "rebar", "muprop", *BERNOULLI_ONLY}
# Entries that share their arithmetic with another, in what is not about the difference.
ALIKE = {
    "nvil", "slope_annealed_st", "decoupled_gumbel_softmax", "gapped_straight_through",
    "straight_through", "redge",
}  # fmt: skip


def case(*arguments, marks=()):
    ids = "-".join(a.name if isinstance(a, testing.Problem) else str(a) for a in arguments)
    return pytest.param(*arguments, marks=marks, id=ids)


def stated_at(name):
    return HYPERPARAMS | STATED_AT.get(name, {})


def small_problem(name):
    return UNITS if name in BERNOULLI_ONLY else THREE


over_small_cases = pytest.mark.parametrize(
    ("name", "problem"),
    [
        case(name, THREE, marks=[slow] if name in ALIKE else [])
        for name in ESTIMATORS
        if name not in BERNOULLI_ONLY
    ]
    + [case(name, UNITS, marks=[] if name in OF_TWO_CLASSES else [slow]) for name in ESTIMATORS],
)


def over_registry_but_slow(*names):
    return pytest.mark.parametrize(
        "name", [case(name, marks=[slow] if name in names else []) for name in ESTIMATORS]
    )


# --- The value, and properties of every estimate


@over_small_cases
def test_value_law(name, problem, key):
    testing.check_value_law(
        SUBJECTS[name], problem, relaxed=name in RELAXED, num_samples=SAMPLES.get(name, 1),
        hyperparams=HYPERPARAMS, key=key,
    )  # fmt: skip


@pytest.mark.parametrize(
    "check",
    [
        testing.check_shift_invariance, testing.check_masked_classes, testing.check_nan,
        testing.check_extreme_logits,
    ],
    ids=lambda check: check.__name__,
)  # fmt: skip
@over_small_cases
def test_properties(name, problem, check, key):
    check(SUBJECTS[name], problem, hyperparams=HYPERPARAMS, key=key)


@over_registry_but_slow(*ALIKE)
def test_gradient_with_respect_to_what_f_closes_over(name, key):
    testing.check_closure_law(
        SUBJECTS[name], small_problem(name), relaxed=name in RELAXED, hyperparams=HYPERPARAMS,
        key=key,
    )  # fmt: skip


@over_registry_but_slow(
    *ALIKE, "darn", "st_gumbel_softmax", "reinmax", "exact", "gumbel_rao", "local_expectation"
)
def test_transformations(name, key):
    testing.check_transformations(
        SUBJECTS[name], small_problem(name), hyperparams=HYPERPARAMS, key=key
    )


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=[slow])])
@over_registry_but_slow(*ALIKE, "exact", "rloo", "local_expectation", "relax")
def test_low_precision(name, dtype, key):
    testing.check_low_precision(
        SUBJECTS[name], small_problem(name), dtypes=(dtype,), hyperparams=HYPERPARAMS, key=key
    )


@over_small_cases
def test_algebra_of_an_estimate(name, problem, key):
    """At one key: the estimate scales with the cost; a constant in the cost changes nothing (of
    the score function: with the baseline that takes it up)."""
    logits = jnp.asarray(problem.logits, jnp.float32)
    hyperparams = HYPERPARAMS | {"eta": 1.0}

    @jax.jit
    @jax.grad
    def estimate(logits, scale, constant, baseline, k):
        def cost(z):
            return scale * problem.cost(z) + constant

        return SUBJECTS[name](k, logits, cost, **hyperparams | {"baseline": baseline})

    def at(scale=1.0, constant=0.0, baseline=0.0):
        return estimate(logits, scale, constant, baseline, random.clone(key))

    base = at()
    if name != "relax":  # there the cost is not all that there is to scale
        np.testing.assert_allclose(3 * base, at(scale=3.0), rtol=1e-4, atol=1e-5)
    baseline = 10.0 * (name in ("score_function", "nvil"))
    raised = at(constant=10.0, baseline=baseline)
    np.testing.assert_allclose(base, raised, rtol=1e-3, atol=1e-4)


@over_registry_but_slow(*ALIKE)
def test_a_hyperparameter_is_read_by_those_it_is_for_and_by_no_other(name, key):
    problem, base = small_problem(name), dict.fromkeys(Hyperparams._fields, jnp.float32(0.3))

    def at(**changed):
        return testing.value_and_gradients(
            SUBJECTS[name], problem.cost, random.clone(key),
            jnp.asarray(problem.logits, jnp.float32), base | changed,
        )[1][0]  # fmt: skip

    before = at()
    for field in Hyperparams._fields:
        after = at(**{field: jnp.float32(2.0)})
        assert np.array_equal(before, after) != (field in ESTIMATORS[name].reads), field


@pytest.mark.parametrize(
    "name",
    [
        case(name, marks=[slow] if name in ALIKE else [])
        for name in ESTIMATORS
        if name not in BERNOULLI_ONLY
    ],
)
def test_one_class_has_the_gradient_zero(name, key):
    _, (estimate, _) = testing.value_and_gradients(
        SUBJECTS[name], lambda z: jnp.sum(z**3), key, jnp.array([[0.3], [-2.0]]),
        {name: jnp.float32(value) for name, value in HYPERPARAMS.items()},
    )  # fmt: skip
    np.testing.assert_array_equal(estimate, 0)


@pytest.mark.parametrize("temperature", [1e-3, pytest.param(100.0, marks=[slow])])
@pytest.mark.parametrize(
    "name", [name for name, entry in ESTIMATORS.items() if "temperature" in entry.reads]
)
def test_extreme_temperatures_stay_finite(name, temperature, key):
    # As many draws, of as many costs, as the law on the gradient has: the same program.
    number = 1 if ESTIMATORS[name].unbiased == "any" else len(testing.KINDS)
    hyperparams = HYPERPARAMS | {"temperature": temperature}
    values, samples = testing.draw(
        SUBJECTS[name], THREE, random.split(key, 100_000), jnp.asarray(THREE.logits, jnp.float32),
        jnp.eye(3)[-number:], {name: jnp.float32(value) for name, value in hyperparams.items()},
    )  # fmt: skip
    assert np.isfinite(values).all()
    assert np.isfinite(samples).all()


# --- The gradient is the estimate


def mean_over_samples(estimate):
    """Mean of an estimate that depends on one hard sample z: ``estimate(probs, z, f'(z))``."""

    def mean(logits, f):
        z, probs = testing.outcomes(*logits.shape), testing.softmax(logits)
        slopes = np.asarray(jax.jit(jax.vmap(jax.grad(f)))(jnp.asarray(z, jnp.float32)), np.float64)
        estimates = [estimate(logits, probs, *pair) for pair in zip(z, slopes, strict=True)]
        return np.einsum("o,onk->nk", testing.probabilities(logits), estimates)

    return mean


def through_softmax(probs, slope):
    """The softmax's Jacobian applied to a slope."""
    return probs * (slope - np.sum(probs * slope, axis=-1, keepdims=True))


@mean_over_samples
def straight_through(logits, probs, z, slope):
    return through_softmax(probs, slope)


@mean_over_samples
def slope_annealed(logits, probs, z, slope):
    steep = HYPERPARAMS["slope"]
    return steep * through_softmax(testing.softmax(steep * logits), slope)


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
    temperature = HYPERPARAMS["temperature"]
    return through_softmax(testing.softmax(moved / temperature), slope) / temperature


def two_class_quadrature(forward, temperature=HYPERPARAMS["temperature"]):
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
    lambda s, t: scipy.special.expit(s * t / HYPERPARAMS["temperature"]),
    HYPERPARAMS["backward_temperature"],
)


def redge_quadrature(num_steps, first_noise):
    """Of one unit, where only the difference of its two noises matters, of variance 2."""
    a = [1.0, *np.linspace(1 - first_noise, 1e-4, num_steps - 1)]

    def mean(logits, f):
        x = np.linspace(-14, 14, 20_001)
        weights, x_dot = np.exp(-(x**2) / 4), np.zeros_like(x)
        for t in range(num_steps - 1, 0, -1):
            p = scipy.special.expit(logits[0, 0] - logits[0, 1] + a[t] * x / (1 - a[t]) ** 2)
            p_dot = p * (1 - p) * (1 + a[t] * x_dot / (1 - a[t]) ** 2)
            share = (1 - a[t - 1]) / (1 - a[t])
            x, x_dot = (
                2 * a[t - 1] * ahead + share * (here - 2 * a[t] * ahead)
                for ahead, here in ((p - 0.5, x), (p_dot, x_dot))
            )
        slope = jax.grad(lambda p: f(jnp.stack([p, 1 - p])[None]))
        on, off = (float(slope(jnp.float32(p))) for p in (1, 0))
        total = np.average((p * on + (1 - p) * off) * p_dot, weights=weights)
        return np.array([[total, -total]])

    return mean


redge = redge_quadrature(4, 0.9)

MEAN_GRADIENT = {
    "exact": testing.exact_gradient,
    "score_function": testing.exact_gradient,
    "nvil": testing.exact_gradient,
    "darn": darn,
    "muprop": testing.exact_gradient,
    "straight_through": straight_through,
    "slope_annealed_st": slope_annealed,
    "gumbel_softmax": relaxed,
    "decoupled_gumbel_softmax": decoupled,
    "st_gumbel_softmax": st_gumbel_softmax,
    "rloo": testing.exact_gradient,
    "rebar": testing.exact_gradient,
    "relax": testing.exact_gradient,
    "gumbel_rao": st_gumbel_softmax,
    "reinmax": reinmax,
    "gapped_straight_through": gapped,
    "redge": redge,
    "disarm": testing.exact_gradient,
    "arms": testing.exact_gradient,
    "local_expectation": testing.exact_gradient,
}
"""What the mean gradient of each entry is: the exact one, or a biased one's own expectation."""
BY_QUADRATURE = {
    name
    for name, mean in MEAN_GRADIENT.items()
    if mean in (relaxed, decoupled, st_gumbel_softmax, redge)
}
UNBIASED = {name for name, mean in MEAN_GRADIENT.items() if mean is testing.exact_gradient}
ONE_HARD_SAMPLE = {
    "score_function", "nvil", "darn", "muprop", "straight_through", "slope_annealed_st", "reinmax",
    "gapped_straight_through", "local_expectation",
}  # fmt: skip
"""Entries that depend on their key through one ``gumbel_max`` alone."""


def test_every_entry_says_what_its_mean_gradient_is():
    assert set(MEAN_GRADIENT) == set(ESTIMATORS)
    assert {name for name, entry in ESTIMATORS.items() if entry.unbiased == "any"} == UNBIASED


def _gradient_cases():
    once = ALIKE - {"decoupled_gumbel_softmax"} | {"darn", "reinmax"}  # on two classes: slow
    for name in ESTIMATORS:
        for problem in PROBLEMS.values():
            two = problem.logits.shape[1] == 2
            if name in BERNOULLI_ONLY and not two:
                continue
            if name in BY_QUADRATURE and problem is not ONE_UNIT:
                continue
            seldom = (two and name in once) or problem.logits.shape == (3, 4)
            yield case(name, problem, marks=[slow] if seldom else [])


@pytest.mark.parametrize(("name", "problem"), _gradient_cases())
def test_gradient_law(name, problem, key):
    mean = MEAN_GRADIENT[name]
    testing.check_gradient_law(
        SUBJECTS[name], problem, unbiased=ESTIMATORS[name].unbiased,
        mean_gradient=None if name in UNBIASED else mean, relaxed=name in RELAXED,
        hyperparams=stated_at(name), num_draws=DRAWS.get(name, 100_000), key=key,
    )  # fmt: skip


def test_redge_with_more_noise_has_the_mean_gradient_of_its_steps(key):
    """From 0.5 it is no longer straight-through, and its probabilities have an error of 0.2 %."""

    def estimator(key, logits, f):
        return f(estimators.redge(key, logits, num_steps=9, first_noise=0.5))

    def check(mean):
        testing.check_gradient_law(
            estimator, ONE_UNIT, unbiased="none", mean_gradient=mean, relaxed=True, key=key
        )

    check(redge_quadrature(9, 0.5))
    with pytest.raises(testing.LawError, match="stated mean gradient"):
        check(straight_through)


@pytest.mark.parametrize(
    ("name", "problem"),
    [case(name, THREE) for name in ESTIMATORS if name not in UNBIASED]
    + [case("darn", UNITS)]
    + [case(name, UNITS, marks=[slow]) for name in ESTIMATORS if name not in UNBIASED | {"darn"}],
)
def test_biased_estimators_are_unbiased_for_the_costs_that_they_state_and_no_others(
    name, problem, key
):
    arguments = {
        "unbiased": ESTIMATORS[name].unbiased, "hyperparams": stated_at(name), "key": key,
    }  # fmt: skip
    testing.check_gradient_law(SUBJECTS[name], problem, relaxed=name in RELAXED, **arguments)
    testing.check_bias_claim(SUBJECTS[name], problem, **arguments)


@pytest.mark.parametrize("name", sorted(ONE_HARD_SAMPLE))
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_mean_gradient_by_enumeration_of_the_sample(name, problem, monkeypatch, key):
    """No draws: the mean over all outcomes, to 1e-12 in float64 where the law is exact."""

    def at_sample(z):
        monkeypatch.setattr(estimators, "gumbel_max", lambda *_: z)
        return jax.grad(lambda x: SUBJECTS[name](key, x, problem.cost, **stated_at(name)))(
            jnp.asarray(problem.logits)
        )

    with jax.enable_x64(True):
        samples = jax.jit(jax.vmap(at_sample))(jnp.asarray(testing.outcomes(*problem.logits.shape)))
    mean = np.einsum("o,onk->nk", testing.probabilities(problem.logits), samples)
    tolerance = 1e-12 if name in UNBIASED else 1e-5  # the others' slopes are float32's
    expected = MEAN_GRADIENT[name](problem.logits, problem.cost)
    np.testing.assert_allclose(mean, expected, rtol=tolerance, atol=tolerance)


NESTED_ALIKE = {"exact", "nvil", "relax", "local_expectation", "arms"}


def two_layers(name, weights_below, f):
    """Two stochastic layers, nested by closure: the inner value is the outer learning signal."""

    def run(key, logits):
        key_outer, key_inner = random.split(key)

        def inner(z):
            below = (weights_below @ z.reshape(-1)).reshape(z.shape)
            # Some estimators evaluate f several times: with the same noise, which clone permits.
            return SUBJECTS[name](random.clone(key_inner), below, f, **HYPERPARAMS)

        return SUBJECTS[name](key_outer, logits, inner, **HYPERPARAMS)

    return run


@pytest.mark.parametrize(
    "name",
    [
        case(name, marks=[slow] if name not in UNBIASED or name in NESTED_ALIKE else [])
        for name in ESTIMATORS
    ],
)
def test_two_layers_nest_by_closure(name, key):
    """The unbiased stay so, whatever the inner layer does at the points that it is asked for."""
    problem = small_problem(name)
    logits = jnp.asarray(problem.logits, jnp.float32)
    below = random.normal(random.key(7), (logits.size, logits.size))
    value_and_grad = jax.value_and_grad(two_layers(name, below, problem.cost), argnums=1)
    number = 2 if name == "exact" else 20_000 if name in UNBIASED else 100
    values, samples = jax.jit(jax.vmap(lambda k: value_and_grad(k, logits)))(
        random.split(key, number)
    )
    assert np.isfinite(values).all()
    assert np.isfinite(samples).all()
    if name not in UNBIASED:
        return

    def marginal(logits):
        z = jnp.asarray(testing.outcomes(*logits.shape), jnp.float32)

        def q(logits):
            return jnp.exp(jax.vmap(lambda one: distributions.log_prob(one, logits))(z))

        costs = jax.vmap(problem.cost)(z)
        inner = jax.vmap(lambda one: q((below @ one.reshape(-1)).reshape(one.shape)) @ costs)(z)
        return q(logits) @ inner

    value, gradient = jax.jit(jax.value_and_grad(marginal))(logits)
    testing.assert_mean(values, value)
    testing.assert_mean(samples, gradient)
