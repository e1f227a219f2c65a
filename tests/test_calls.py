"""Calls as a new user makes them: what is accepted means what it says, the rest gets one line."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax import random

from gsm import distributions, estimators
from gsm.estimators import ESTIMATORS, Hyperparams
from tests import oracle

KEY = random.key(0)
SAMPLERS = {
    **{
        name: functools.partial(entry.function, **oracle.REQUIRED.get(name, {}))
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


BED = oracle.BEDS["three Bernoulli units"]
LOGITS, cost = jnp.asarray(BED.logits, jnp.float32), BED.cost


def call(name, key, logits, f):
    return ESTIMATORS[name](key, logits, f, **oracle.REQUIRED.get(name, {}))


@pytest.fixture(autouse=True)
def as_a_user():
    """Without the checks of types that the tests add, and with a key that may serve again."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with jax.debug_key_reuse(False):
            yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# --- one estimator, called in two ways


@over_registry
def test_the_function_and_its_registry_entry_are_one_estimator(name):
    """The same name, defaults and keywords: values and gradients are equal at one key."""
    function, required = getattr(estimators, name), oracle.REQUIRED.get(name, {})
    assert ESTIMATORS[name].function is function

    def direct(logits):
        if name == "exact":
            return function(logits, cost)
        if ESTIMATORS[name].is_sampler:
            return cost(function(KEY, logits, **required))
        return function(KEY, logits, cost, **required)

    ours = jax.value_and_grad(lambda logits: call(name, KEY, logits, cost))(LOGITS)
    for a, b in zip(ours, jax.value_and_grad(direct)(LOGITS), strict=True):
        np.testing.assert_array_equal(a, b)


@over_registry
def test_a_hyperparameter_left_out_is_the_default_of_the_function(name):
    entry = ESTIMATORS[name]
    stated = {name: entry.default(name) for name in entry.reads}
    given = {name: value for name, value in stated.items() if value is not None}
    required = oracle.REQUIRED.get(name, {})
    left_out = entry(KEY, LOGITS, cost, **required)
    said = entry(KEY, LOGITS, cost, Hyperparams(**given), **required)
    np.testing.assert_array_equal(left_out, said)


def test_no_entry_is_another_one_in_disguise():
    """By default, with what it requires, each gives a gradient that no other gives at that key."""
    gradients = {
        name: np.asarray(jax.grad(lambda x, n=name: call(n, KEY, x, cost))(LOGITS))
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


# --- operators take one example


@over_registry
def test_a_minibatch_is_refused_and_vmap_named(name):
    batch = jnp.zeros((32, *LOGITS.shape))
    message = (
        rf"{name}: .* one example, \[n, k\]; got shape \(32, 3, 2\): .*jax.vmap.*split\(key, 32"
    )
    with pytest.raises(ValueError, match=message):
        call(name, KEY, batch, cost)
    with pytest.raises(ValueError, match=rf"{name}: .*; got shape \(2,\): use logits\[None\]"):
        call(name, KEY, LOGITS[0], cost)
    mapped = jax.vmap(lambda key, logits: call(name, key, logits, cost))  # as the message says
    assert mapped(random.split(KEY, 32), batch).shape == (32,)


@over_registry
def test_a_cost_that_is_not_a_scalar_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"{name}: f must return a scalar .*; it returned shape \(3"
    ):
        call(name, KEY, LOGITS, lambda z: jnp.sum(z, axis=-1))


@over_registry
def test_a_cost_in_whole_numbers_serves_where_it_is_not_differentiated(name):
    def ones(z):
        return jnp.argmax(z[0]) + jnp.argmax(z[1])

    if ESTIMATORS[name].derivatives:
        with pytest.raises(TypeError, match=f"{name} differentiates f, which must return a float"):
            call(name, KEY, LOGITS, ones)
    else:
        assert jnp.issubdtype(call(name, KEY, LOGITS, ones).dtype, jnp.floating)


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
    sample = SAMPLERS[name](KEY, jnp.zeros(shape, jnp.bfloat16))
    classes = 2 if name == "gumbel_top_k" else shape[-1]
    assert sample.shape == (*shape[:-1], classes)


@over_samplers
def test_leading_axes_are_independent_variables_of_the_right_law(name):
    """Chi-square on the first class drawn, false-alarm rate 1e-6 each."""
    logits = jnp.array([[0.0, 1.0, -1.0], [2.0, 0.0, -jnp.inf]])
    sample = np.asarray(SAMPLERS[name](KEY, jnp.broadcast_to(logits, (50, 200, 2, 3))))
    drawn = sample[..., 0] if name == "gumbel_top_k" else sample.argmax(axis=-1)
    for row, drawn_of_row in enumerate(np.moveaxis(drawn, -1, 0)):
        counts = np.bincount(drawn_of_row.ravel(), minlength=3)
        oracle.assert_frequencies(counts, oracle.softmax(logits[row]))
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


def test_inverse_cdf_refuses_more_classes_than_it_resolves():
    with pytest.raises(ValueError, match=r"at most 100,000 classes; logits have shape \(100001,\)"):
        distributions.inverse_cdf(KEY, jnp.zeros(100_001))
