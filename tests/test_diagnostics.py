"""Diagnostics on estimates whose bias, variance and cosine are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from gsm import diagnostics
from gsm.estimators import ESTIMATORS
from tests import oracle

REFERENCE = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[0.0, 4.0]])}


def noisy(key, offset, scale):
    """Gaussian estimates around the reference plus an offset on group "b"."""
    keys = random.split(key)
    return {
        "a": REFERENCE["a"] + scale * random.normal(keys[0], (2,)),
        "b": REFERENCE["b"] + offset[None] + scale * random.normal(keys[1], (1, 2)),
    }


def measured(key, offset=(0.0, 0.0), scale=2.0, num_keys=20_000, at_once=100):
    arguments = (jnp.array(offset), jnp.float32(scale))
    found = diagnostics.moments(noisy, arguments, REFERENCE, key, num_keys, at_once)
    return {group: diagnostics.statistics(m) for group, m in found.items()}


def test_bias_variance_and_cosine_of_gaussian_estimates(key):
    found = measured(key, offset=(3.0, 0.0))
    assert set(found) == {"a", "b", "all"}
    expected = {
        "a": {"bias": 0.0, "variance": 2 * 4 / 9, "cosine_of_mean": 1.0},
        "b": {"bias": 3 / 4, "variance": 2 * 4 / 16, "cosine_of_mean": 4 / 5},
        "all": {"bias": 3 / 5, "variance": 4 * 4 / 25, "cosine_of_mean": 25 / (5 * 34**0.5)},
    }
    for group, values in expected.items():
        for name, value in values.items():
            statistic = found[group][name]
            margin = (statistic.high - statistic.low) + 1e-6  # twice the 95 % band
            assert abs(statistic.value - value) < margin, (group, name)
            assert statistic.low <= statistic.value <= statistic.high
            assert statistic.high - statistic.low < 0.2, "a band that says nothing"


def test_cosine_of_single_estimates_falls_with_their_noise(key):
    def cosine(k):
        g = noisy(k, jnp.zeros(2), 2.0)
        flat = jnp.concatenate([g["a"], g["b"][0]])
        return jnp.dot(flat, jnp.array([3.0, 0, 0, 4])) / (5 * jnp.linalg.norm(flat))

    direct = jax.vmap(cosine)(random.split(random.key(1), 50_000)).mean()
    ours = measured(key)["all"]["cosine"]
    assert abs(ours.value - direct) < 2 * (ours.high - ours.low)
    assert measured(random.key(2), scale=0.1)["all"]["cosine"].low > 0.99


def test_of_a_registry_estimator_they_are_those_of_its_enumeration(key):
    """Straight-through on the bed: bias from the oracle, variance from all outcomes."""
    bed = oracle.BEDS["two of three classes"]
    logits = jnp.asarray(bed.logits, jnp.float32)
    exact = oracle.exact_gradient(bed.logits, bed.cost)
    z, probs = oracle.outcomes(2, 3), oracle.softmax(bed.logits)
    slopes = np.asarray(jax.vmap(jax.grad(bed.cost))(jnp.asarray(z, jnp.float32)))
    estimates = probs * (slopes - np.sum(probs * slopes, axis=-1, keepdims=True))
    q = oracle.probabilities(bed.logits)
    mean = np.einsum("o,onk->nk", q, estimates)
    length = np.sum(exact**2)
    variance = q @ np.sum((estimates - mean) ** 2, axis=(1, 2)) / length

    def gradient(k, x):
        return jax.grad(lambda x: ESTIMATORS["straight_through"](k, x, bed.cost))(x)

    found = diagnostics.moments(
        gradient, (logits,), jnp.asarray(exact, jnp.float32), key, 40_000, 100
    )
    assert set(found) == {"all"}
    statistics = diagnostics.statistics(found["all"])
    np.testing.assert_allclose(
        statistics["bias"].value, np.sqrt(np.sum((mean - exact) ** 2) / length), rtol=0.02
    )
    np.testing.assert_allclose(statistics["variance"].value, variance, rtol=0.02)


def student(degrees):
    return lambda rng, shape: rng.standard_t(degrees, shape) * np.sqrt((degrees - 2) / degrees)


LAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "exponential": lambda rng, shape: rng.standard_exponential(shape) - 1,
    "student_5": student(5),
    "student_3": student(3),
}


def coverage(law, components, bias, repetitions=400, keys=200):
    """Repetitions in which each statistic's band covers the truth, and the variance's width.

    The width is that of the median band over the range of 95 % of the values.
    Components have equal variances of total 1; the reference has length 1. The bias, in standard
    errors of one component of the mean, is across the reference where there is another direction.
    """
    rng = np.random.default_rng(5)
    noise = 1 / np.sqrt(components)
    reference = np.full(components, noise)
    across = np.zeros(components)
    across[:2] = (1, -1) if components > 1 else 1
    across /= np.linalg.norm(across)
    distance = bias * noise / np.sqrt(keys)
    mean = reference + distance * across
    truth = {
        "bias": distance,
        "variance": 1.0,
        "cosine_of_mean": mean @ reference / np.linalg.norm(mean),
    }
    covered, variances = dict.fromkeys(truth, 0), []
    for _ in range(repetitions):
        estimates = mean + noise * LAWS[law](rng, (keys, components))
        batches = estimates.reshape(diagnostics.NUM_BATCHES, -1, components)
        means, squares = batches.mean(axis=1), np.sum(batches**2, axis=-1)
        found = diagnostics.statistics(
            diagnostics.Moments(
                products=means @ means.T,
                with_reference=means @ reference,
                reference=1.0,
                squares=squares.mean(axis=1),
                cosines=(batches @ reference / np.sqrt(squares)).mean(axis=1),
            )
        )
        variances.append(found["variance"])
        for name, value in truth.items():
            covered[name] += found[name].low - 1e-9 <= value <= found[name].high + 1e-9
    scatter = np.ptp(np.quantile([v.value for v in variances], [0.025, 0.975]))
    return covered, np.median([v.high - v.low for v in variances]) / scatter


@pytest.mark.parametrize(
    ("law", "components", "bias", "wide"),
    [
        ("normal", 1, 1.0, 1.5),
        ("normal", 10, 3.0, 1.5),
        ("exponential", 1, 3.0, 2.5),
        ("student_5", 10, 0.0, 1.5),
    ],
)
def test_the_bands_cover_and_are_not_wide(law, components, bias, wide):
    """At 95 %, more than 40 of 400 outside have probability 2e-5. A bias of 0 is covered by bands
    from 0: the plain distance of the mean would be several standard errors."""
    covered, width = coverage(law, components, bias)
    for name, number in covered.items():
        assert number >= 360, name
    assert width < wide


@pytest.mark.parametrize("components", [1, 10])
def test_the_bands_of_heavy_tailed_estimates_cover(components):
    """Their fourth moment is infinite. At 90 %, more than 65 of 400 outside have probability 5e-5;
    a jackknife's band of the variance has 80 to 110 outside."""
    covered, _ = coverage("student_3", components, 1.0)
    for name, number in covered.items():
        assert number >= 335, name


def test_estimates_without_noise_have_bands_of_one_point(key):
    found = measured(key, offset=(3.0, 0.0), scale=0.0, num_keys=40, at_once=1)["all"]
    expected = {
        "bias": 3 / 5,
        "variance": 0.0,
        "cosine": 5 / 34**0.5,
        "cosine_of_mean": 5 / 34**0.5,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(tuple(found[name]), value, atol=1e-6)


@pytest.mark.parametrize(("number", "at_once"), [(0, 1), (60, 1), (80, 3)])
def test_a_number_of_keys_that_makes_no_even_batches_is_refused(number, at_once, key):
    with pytest.raises(ValueError, match=f"num_keys must be a positive multiple .* got {number}"):
        measured(key, num_keys=number, at_once=at_once)


def test_other_arguments_do_not_compile_again(key):
    traces = []

    def counting(key, offset, scale):
        traces.append(key)
        return noisy(key, offset, scale)

    for scale in (1.0, 2.0):
        arguments = (jnp.zeros(2), jnp.float32(scale))
        diagnostics.moments(counting, arguments, REFERENCE, random.clone(key), 40)
        first = len(traces) if scale == 1.0 else first
    assert len(traces) == first
