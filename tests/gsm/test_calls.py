"""Calls as a new user makes them: what is accepted means what it says, the rest gets one line."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import gsm
from gsm import distributions, estimators, registry, testing
from gsm.registry import BERNOULLI_ONLY, ESTIMATORS, Hyperparams

KEY = random.key(0)
REQUIRED = {
    "nvil": {"baseline": 0.3},
    "slope_annealed_st": {"slope": 1.5},
    "relax": {"control": lambda y: jnp.sum(jnp.sin(3 * y[:, 0]) + y[:, -1] ** 2)},
}
"""Keywords of the estimators that have no default for all that they need."""
SAMPLERS = {
    **{
        name: functools.partial(entry.function, **REQUIRED.get(name, {}))
        for name, entry in ESTIMATORS.items()
        if entry.is_sampler
    },
    "gumbel_max": distributions.gumbel_max,
    "inverse_cdf": distributions.inverse_cdf,
    "log_gumbel_softmax": functools.partial(distributions.log_gumbel_softmax, temperature=0.5),
    "gumbel_top_k": functools.partial(distributions.gumbel_top_k, count=2),
}
over_samplers = pytest.mark.parametrize("name", SAMPLERS)
over_registry = pytest.mark.parametrize("name", ESTIMATORS)


UNITS = testing.PROBLEMS["three Bernoulli units"]
pytestmark = pytest.mark.usefixtures("as_a_user")
LOGITS, cost = jnp.asarray(UNITS.logits, jnp.float32), UNITS.cost


def call(name, key, logits, f):
    return ESTIMATORS[name](key, logits, f, **REQUIRED.get(name, {}))


# --- one estimator, called in two ways


def program(surrogate):
    """The program of a surrogate and its gradient at the logits, as text."""
    text = str(jax.make_jaxpr(jax.value_and_grad(surrogate))(LOGITS))
    return re.sub("0x[0-9a-f]+", "", text)  # addresses of functions


def test_programs_of_other_constants_differ():
    assert program(lambda logits: jnp.sum(logits) * 2) != program(lambda x: jnp.sum(x) * 3)
    one, other = (
        program(lambda logits, t=t: ESTIMATORS["gumbel_softmax"](
            KEY, logits, cost, Hyperparams(temperature=t)
        )) for t in (1.0, 0.9)
    )  # fmt: skip
    assert one != other


@over_registry
def test_the_function_and_its_registry_entry_are_one_estimator(name):
    """The same name, defaults and keywords: one program at one key."""
    function, required = getattr(estimators, name), REQUIRED.get(name, {})
    assert ESTIMATORS[name].function is function

    def direct(logits):
        if name == "exact":
            return function(logits, cost)
        if ESTIMATORS[name].is_sampler:
            return cost(function(KEY, logits, **required))
        return function(KEY, logits, cost, **required)

    assert program(direct) == program(lambda logits: call(name, KEY, logits, cost))


@over_registry
def test_a_hyperparameter_left_out_is_the_default_of_the_function(name):
    entry = ESTIMATORS[name]
    stated = {name: entry.default(name) for name in entry.reads}
    given = {name: value for name, value in stated.items() if value is not None}
    required = REQUIRED.get(name, {})

    left_out = program(lambda logits: entry(KEY, logits, cost, **required))
    assert left_out == program(
        lambda logits: entry(KEY, logits, cost, Hyperparams(**given), **required)
    )


def test_no_entry_is_another_one_in_disguise():
    """By default, with what it requires, each gives a gradient that no other gives at that key."""
    gradients = {
        name: np.asarray(jax.jit(jax.grad(lambda x, n=name: call(n, KEY, x, cost)))(LOGITS))
        for name in ESTIMATORS
    }
    names = sorted(gradients)
    same = {
        (a, b)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if np.allclose(gradients[a], gradients[b], rtol=1e-5)
    }
    assert same == {("darn", "reinmax")}  # as they are on two classes


def test_what_makes_an_estimator_itself_is_required():
    with pytest.raises(ValueError, match=r"nvil needs baseline; see gsm\.estimators\.nvil"):
        ESTIMATORS["nvil"](KEY, LOGITS, cost)
    with pytest.raises(ValueError, match="slope_annealed_st needs slope"):
        ESTIMATORS["slope_annealed_st"](KEY, LOGITS, cost)
    with pytest.raises(ValueError, match="relax needs control"):
        ESTIMATORS["relax"](KEY, LOGITS, cost)
    with pytest.raises(TypeError, match=r"control, a function of a relaxed .* it is rebar"):
        estimators.relax(KEY, LOGITS, cost, None)


# --- operators take one example, ``batched`` a minibatch


@over_registry
def test_a_minibatch_is_refused_and_batched_named(name):
    batch = jnp.zeros((32, *LOGITS.shape))
    message = (
        rf"{name}: .* one example, \[n, k\]; got shape \(32, 3, 2\): .*"
        rf"gsm.batched\(gsm.{name}\)\(key, logits, f\)"
    )
    with pytest.raises(ValueError, match=message):
        call(name, KEY, batch, cost)
    with pytest.raises(ValueError, match=rf"{name}: .*; got shape \(2,\): use logits\[None\]"):
        call(name, KEY, LOGITS[0], cost)
    estimator = getattr(gsm, name)  # as the message says
    estimate = functools.partial(gsm.batched(estimator), f=cost, **REQUIRED.get(name, {}))
    assert jax.eval_shape(estimate, KEY, batch).shape == (32,)


@over_registry
def test_batched_is_the_estimator_at_each_example_with_a_key_of_its_own(name):
    """The mean is a loss whose gradient is that of the examples."""
    batch = LOGITS[None] + jnp.arange(3.0)[:, None, None] * jnp.array([1.0, 0.0])[None, None]
    targets = {"of": jnp.arange(6.0).reshape(3, 2)}
    required = REQUIRED.get(name, {})

    def f(z, target):
        return cost(z) * (1 + jnp.sum(target["of"]))

    def loss(batch):
        return jnp.mean(gsm.batched(getattr(gsm, name))(KEY, batch, f, targets, **required))

    def one_by_one(batch):
        def one(example):
            key, logits, target = example
            return call(name, key, logits, lambda z: f(z, target))

        return jnp.mean(jax.lax.map(one, (random.split(KEY, 3), batch, targets)))

    both = jax.jit(lambda x: [jax.value_and_grad(of)(x) for of in (loss, one_by_one)])
    for a, b in zip(*both(batch), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_batched_takes_an_entry_of_the_registry_too():
    batch, required = LOGITS[None], REQUIRED.get("reinmax", {})
    by_entry, by_function = (
        gsm.batched(estimator)(KEY, batch, cost, **required)
        for estimator in (ESTIMATORS["reinmax"], gsm.reinmax)
    )
    np.testing.assert_array_equal(by_entry, by_function)


def test_batched_takes_an_estimator_of_your_own():
    def mine(key, logits, f, scale):
        return scale * f(gsm.gumbel_max(key, logits))

    ones = gsm.batched(mine)(KEY, jnp.zeros((4, 2, 3)), jnp.sum, scale=2.0)
    np.testing.assert_array_equal(ones, [4.0] * 4)


def test_batched_refuses_what_is_not_a_minibatch():
    estimate = gsm.batched(gsm.rloo)
    with pytest.raises(ValueError, match=r"batched: logits .* \[b, n, k\]; got shape \(3, 2\)"):
        estimate(KEY, LOGITS, cost)
    with pytest.raises(ValueError, match=r"batched: examples .* with b = 4 .*; got shape \(3, 7\)"):
        estimate(KEY, jnp.zeros((4, 3, 2)), lambda z, x: cost(z), jnp.zeros((3, 7)))
    with pytest.raises(TypeError, match="batched: key must be a random key"):
        estimate(0, jnp.zeros((4, 3, 2)), cost)


@over_registry
def test_a_cost_that_is_not_a_scalar_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"{name}: f must return a scalar .*; it returned shape \(3"
    ):
        jax.eval_shape(lambda: call(name, KEY, LOGITS, lambda z: jnp.sum(z, axis=-1)))


@over_registry
def test_a_cost_in_whole_numbers_serves_where_it_is_not_differentiated(name):
    def ones(z):
        return jnp.argmax(z[0]) + jnp.argmax(z[1])

    if ESTIMATORS[name].derivatives:
        with pytest.raises(TypeError, match=f"{name} differentiates f, which must return a float"):
            call(name, KEY, LOGITS, ones)
    else:
        value = jax.eval_shape(lambda: call(name, KEY, LOGITS, ones))
        assert jnp.issubdtype(value.dtype, jnp.floating)


@over_registry
def test_operators_refuse_what_is_not_logits(name):
    for wrong in (LOGITS.astype(jnp.int32), [[0.0, 1.0]], None, "logits"):
        with pytest.raises(TypeError, match=f"{name}: logits must be an array of floats"):
            call(name, KEY, wrong, jnp.sum)
    if name != "exact":  # which has no use for a key
        with pytest.raises(TypeError, match=rf"{name}: key must be a random key.*\(key, logits\)"):
            call(name, LOGITS, KEY, jnp.sum)


# --- samplers take any leading axes


@over_samplers
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (0, 3), (2,), (5, 1, 2)])
def test_samplers_keep_every_leading_axis(name, shape):
    sample = jax.eval_shape(SAMPLERS[name], KEY, jnp.zeros(shape, jnp.bfloat16))
    classes = 2 if name == "gumbel_top_k" else shape[-1]
    assert sample.shape == (*shape[:-1], classes)


@over_samplers
def test_leading_axes_are_independent_variables_of_the_right_law(name):
    """Chi-square on the first class drawn, false-alarm rate 1e-6 each."""
    logits = jnp.array([[0.0, 1.0, -1.0], [2.0, 0.0, -jnp.inf]])
    sample = np.asarray(jax.jit(SAMPLERS[name])(KEY, jnp.broadcast_to(logits, (50, 200, 2, 3))))
    drawn = sample[..., 0] if name == "gumbel_top_k" else sample.argmax(axis=-1)
    for row, drawn_of_row in enumerate(np.moveaxis(drawn, -1, 0)):
        counts = np.bincount(drawn_of_row.ravel(), minlength=3)
        testing.assert_frequencies(counts, testing.softmax(logits[row]))
    assert len(np.unique(drawn.reshape(50, -1), axis=0)) == 50


@over_samplers
def test_samplers_refuse_what_is_not_logits_in_one_line(name):
    sampler = SAMPLERS[name]
    for wrong in (jnp.zeros((2, 3), jnp.int32), np.zeros((2, 3), bool), [0.0, 1.0], 3.0, None):
        with pytest.raises(TypeError, match=f"{name}: logits must be an array of floats") as caught:
            sampler(KEY, wrong)
        assert "\n" not in str(caught.value)
    for wrong in (jnp.zeros(()), jnp.zeros((2, 0))):
        with pytest.raises(ValueError, match=rf"{name}: logits must have shape \[\.\.\., k\]"):
            sampler(KEY, wrong)
    with pytest.raises(
        TypeError, match=rf"{name}: key must be a random key, .*; got an array of fl"
    ):
        sampler(jnp.zeros((2, 3)), KEY)
    with pytest.raises(TypeError, match="got a int"):
        sampler(0, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"single key; got .* shape \(4,\). Use jax.vmap"):
        sampler(random.split(KEY, 4), jnp.zeros((4, 3)))


@over_samplers
def test_samplers_take_numpy_arrays_and_old_style_keys(name):
    ours = SAMPLERS[name](KEY, LOGITS)
    np.testing.assert_array_equal(ours, SAMPLERS[name](KEY, np.asarray(LOGITS)))
    np.testing.assert_array_equal(ours, SAMPLERS[name](random.PRNGKey(0), LOGITS))


@over_registry
def test_every_kind_of_key_of_jax_serves(name):
    """As one of a minibatch too, compiled; rbg keys hold four words in place of two."""
    keys = random.split(random.key(0, impl="rbg"), 3)

    def loss(logits):
        of_keys = jax.vmap(lambda key: call(name, key, logits, cost))
        return jnp.mean(of_keys(keys))

    assert np.isfinite(jax.jit(jax.grad(loss))(LOGITS)).all()


def test_inverse_cdf_refuses_more_classes_than_it_resolves():
    with pytest.raises(ValueError, match=r"at most 100,000 classes; logits have shape \(100001,\)"):
        distributions.inverse_cdf(KEY, jnp.zeros(100_001))


# --- masks, temperatures and dtypes of samplers

PATHWISE = [name for name, entry in ESTIMATORS.items() if entry.is_sampler]
"""The samplers with a gradient of their own."""
DTYPES = ["bfloat16", pytest.param("float16", marks=pytest.mark.slow), "float64"]


@over_samplers
@pytest.mark.parametrize("shape", [(4, 3), (3,), (4, 1)], ids=str)
def test_a_masked_class_is_one_with_a_logit_of_minus_infinity(name, shape):
    logits = random.normal(random.key(1), (4, 3))
    where = jnp.ones(shape, bool)
    if shape[-1] == 3:
        where = where.at[..., 1].set(False)
    masked = jnp.where(jnp.broadcast_to(where, (4, 3)), logits, -jnp.inf)
    sampler = jax.jit(SAMPLERS[name])
    sample = sampler(KEY, logits, where=where)
    np.testing.assert_array_equal(sample, sampler(KEY, masked))
    if shape[-1] == 3 and name not in ("gumbel_top_k", "log_gumbel_softmax"):
        np.testing.assert_array_equal(sample[:, 1], 0)


@pytest.mark.parametrize("name", PATHWISE)
def test_nothing_of_the_logits_at_a_masked_class_reaches_sample_or_gradient(name):
    logits, where = jnp.array([[0.5, 0.0, -1.0]]), jnp.array([True, False, True])

    @jax.jit
    @jax.value_and_grad
    def loss(logits):
        return jnp.sum(jnp.arange(3.0)[None] * SAMPLERS[name](KEY, logits, where=where))

    value, gradient = loss(logits)
    assert gradient[0, 1] == 0
    assert np.isfinite(gradient).all()
    assert (gradient != 0).any()
    for other in (jnp.nan, jnp.inf, 1e9):
        theirs = loss(logits.at[0, 1].set(other))
        np.testing.assert_array_equal(theirs[0], value)
        np.testing.assert_array_equal(theirs[1], gradient)


@over_samplers
def test_a_mask_that_is_none_is_refused_in_one_line(name):
    logits = jnp.zeros((2, 3))
    for wrong in (jnp.ones((2, 3)), [True, False, True], 1):
        with pytest.raises(TypeError, match=f"{name}: where must be an array of bool; got "):
            SAMPLERS[name](KEY, logits, where=wrong)
    for wrong in (jnp.ones((2, 2), bool), jnp.ones((5, 2, 3), bool)):
        with pytest.raises(ValueError, match=rf"{name}: where must broadcast to .* \(2, 3\); got "):
            SAMPLERS[name](KEY, logits, where=wrong)


@pytest.mark.parametrize("name", [n for n in PATHWISE if "temperature" in ESTIMATORS[n].reads])
def test_a_traced_temperature_is_the_number_and_compiles_once(name):
    traces = []

    @jax.jit
    def sample(temperature):
        traces.append(temperature)
        return SAMPLERS[name](KEY, LOGITS, temperature=temperature)

    for temperature in (0.3, 2.0):
        expected = SAMPLERS[name](KEY, LOGITS, temperature=temperature)
        np.testing.assert_allclose(sample(temperature), expected, rtol=1e-5, atol=1e-6)
    assert len(traces) == 1

    def gradient(temperature):
        def loss(logits):
            return cost(SAMPLERS[name](KEY, logits, temperature=temperature))

        return jax.grad(loss)(LOGITS)

    gradient, several = jax.jit(gradient), jax.jit(jax.vmap(gradient))(jnp.array([0.3, 2.0]))
    np.testing.assert_allclose(several[0], gradient(0.3), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(several[1], gradient(2.0), rtol=1e-4, atol=1e-6)


@over_samplers
@pytest.mark.parametrize("dtype", DTYPES)
def test_samplers_compute_in_float32_at_least_and_return_the_dtype_of_the_logits(name, dtype):
    """The sample of low-precision logits is that of the same numbers in float32, rounded."""
    with jax.enable_x64(dtype == "float64"):
        logits = (3 * random.normal(random.key(1), (50, 5))).astype(dtype)
        sampler = jax.jit(SAMPLERS[name])
        sample = sampler(KEY, logits)
        if dtype == "float64":
            assert sample.dtype in (jnp.float64, jnp.int32, jnp.int64)
            assert np.isfinite(np.asarray(sample)).all()
            return
        precise = sampler(KEY, logits.astype(jnp.float32))
        if name == "log_gumbel_softmax":  # which has no use for a rounded logarithm
            assert sample.dtype == jnp.float32
        elif name != "gumbel_top_k":
            assert sample.dtype == logits.dtype
            precise = precise.astype(dtype)
        np.testing.assert_array_equal(sample, precise)


@over_registry
def test_operators_take_float64_and_give_gradients_of_it(name):
    """Low precision is a law of its own, :func:`gsm.testing.check_low_precision`."""
    with jax.enable_x64(True):
        logits = jnp.asarray(UNITS.logits)
        estimate = jax.jit(jax.value_and_grad(lambda x: call(name, KEY, x, cost)))
        value, gradient = estimate(logits)
        assert value.dtype == gradient.dtype == jnp.float64
        assert np.isfinite(float(value))
        assert np.isfinite(gradient).all()


def test_estimators_of_bernoulli_units_say_so():
    for name in BERNOULLI_ONLY:
        with pytest.raises(ValueError, match=f"{name} needs two classes"):
            call(name, KEY, jnp.zeros((2, 3)), jnp.sum)


# --- functions of one's own ------------------------------------------------------------------


def rloo_of_other_names(rng, scores, cost):
    return gsm.rloo(rng, scores, cost)


def rloo_with_options(key, logits, f, **options):
    return gsm.rloo(key, logits, f, **options)


def softmax_at(key, logits, temperature):
    """A sampler that requires a hyperparameter."""
    return gsm.gumbel_softmax(key, logits, temperature)


@dataclasses.dataclass
class Rloo:
    num_samples: int

    def __call__(self, key, logits, f):
        return gsm.rloo(key, logits, f, self.num_samples)


def as_entry(function):
    return gsm.Entry(function, source="", unbiased="any", choose="")


@pytest.mark.parametrize(
    "function",
    [rloo_of_other_names, rloo_with_options, lambda *arguments: gsm.rloo(*arguments), Rloo(4)],
)
def test_an_operator_of_one_s_own_is_known_by_its_arguments_whatever_their_names(function):
    entry, expected = as_entry(function), gsm.rloo(KEY, LOGITS, cost)
    assert not entry.is_sampler
    assert entry(KEY, LOGITS, cost) == expected
    assert registry.operator_of(function)(KEY, LOGITS, cost) == expected
    several = jnp.stack([LOGITS, LOGITS])
    np.testing.assert_array_equal(
        gsm.batched(function)(KEY, several, cost), gsm.batched(gsm.rloo)(KEY, several, cost)
    )


def test_a_sampler_of_one_s_own_may_require_a_hyperparameter():
    entry = as_entry(softmax_at)
    assert entry.is_sampler
    with pytest.raises(ValueError, match=r"^softmax_at needs temperature$"):
        entry(KEY, LOGITS, cost)
    at_half = Hyperparams(temperature=0.5)
    expected = ESTIMATORS["gumbel_softmax"](KEY, LOGITS, cost, at_half)
    assert entry(KEY, LOGITS, cost, at_half) == expected

    def of_steps(key, logits, steps):
        return gsm.gumbel_softmax(key, logits, 1 / steps)

    several = jnp.stack([LOGITS, LOGITS])
    np.testing.assert_array_equal(
        gsm.batched(of_steps)(KEY, several, cost, steps=2),
        gsm.batched(gsm.gumbel_softmax)(KEY, several, cost, temperature=0.5),
    )


def test_no_traced_value_outlives_a_minibatch():
    def loss(weight):
        relax = functools.partial(gsm.relax, control=lambda y: jnp.sum(jnp.sin(y * weight)))
        return jnp.mean(gsm.batched(relax)(KEY, jnp.stack([LOGITS, LOGITS]), cost))

    with jax.checking_leaks():
        jax.jit(jax.grad(loss))(1.0)
