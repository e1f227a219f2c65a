"""The public laws: a correct estimator passes, and each kind of wrong one fails with its number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax import random
from jax.lax import stop_gradient

from gsm import testing
from gsm.distributions import gumbel_max, log_prob
from gsm.estimators import gumbel_softmax, straight_through
from gsm.registry import ESTIMATORS
from gsm.testing import PROBLEMS, LawError

UNIT = PROBLEMS["one Bernoulli unit"]
THREE = PROBLEMS["two of three classes"]


def score_function(key, logits, f, scale=1.0):
    """The score function by hand, with a wrong scale if asked."""
    z = gumbel_max(key, logits)
    cost, log_q = f(z), log_prob(z, logits)
    return cost + scale * stop_gradient(cost) * (log_q - stop_gradient(log_q))


def test_an_estimator_from_outside_passes_all_laws():
    report = testing.check_laws(score_function, hyperparams={"scale": 1.0}, num_draws=20_000)
    assert list(report) == [
        "transformations", "value law", "gradient law", "bias claim",
        "gradient with respect to what f closes over", "shift invariance", "masked classes",
        "NaN in, NaN out", "extreme logits", "low precision",
    ]  # fmt: skip
    assert all(0 <= used < 1 for used in report.values())


def exact_of_unit():
    return testing.exact_gradient(UNIT.logits, UNIT.cost)[0, 0]


@pytest.mark.parametrize("scale", [-1.0, 2.0, 1.1])
def test_a_wrong_scale_of_the_gradient_fails_with_its_number(scale):
    with pytest.raises(LawError, match=r"^gradient law \(one Bernoulli unit, f: any\)") as error:
        testing.check_gradient_law(score_function, UNIT, hyperparams={"scale": scale})
    mean, expected = (
        float(str(error.value).split(f"{word} ")[1].split(":")[0].split(" ")[0])
        for word in ("is", "expected")
    )
    np.testing.assert_allclose(abs(expected), abs(exact_of_unit()), rtol=1e-3)  # of either class
    np.testing.assert_allclose(mean / expected, scale, rtol=0.1)


def test_a_biased_estimator_cannot_claim_any_cost():
    st = testing.from_sampler(straight_through)
    with pytest.raises(LawError, match=r"gradient law .*f: any.*biased: the mean"):
        testing.check_laws(st, unbiased="any", num_classes=3, num_draws=20_000)


def test_a_claim_of_too_little_fails():
    message = r"bias claim .*unbiased='affine' is stated, but for f: quadratic the bias is at most"
    with pytest.raises(LawError, match=message):
        testing.check_bias_claim(score_function, UNIT, unbiased="affine")


def test_a_wrong_mean_gradient_fails():
    st = testing.from_sampler(straight_through)
    with pytest.raises(LawError, match=r"stated mean gradient .*biased"):
        testing.check_gradient_law(
            st, UNIT, unbiased="none", mean_gradient=testing.exact_gradient, num_draws=20_000
        )


def shifted_value(key, logits, f):
    return score_function(key, logits, f) + 0.1


def two_samples_as_one(key, logits, f):
    return jnp.mean(jax.vmap(lambda k: score_function(k, logits, f))(random.split(key)))


@pytest.mark.parametrize(
    ("estimator", "arguments", "message"),
    [
        (shifted_value, {}, "the outcomes' total share.* expected 1"),
        (two_samples_as_one, {"num_samples": 1}, "an outcome's share of 1 samples.* is 0.5"),
        (score_function, {"relaxed": True}, r"a relaxed sample holds .* expected in \(0, 1\)"),
        (testing.from_sampler(gumbel_softmax), {}, "the value.*, expected"),
    ],
    ids=["shifted", "two samples", "not relaxed", "relaxed"],
)
def test_wrong_values_fail(estimator, arguments, message):
    problem = UNIT if "relaxed" in arguments or "num_samples" in arguments else THREE
    with pytest.raises(LawError, match=f"^value law .*{message}"):
        testing.check_value_law(estimator, problem, **arguments)


def test_samples_of_another_distribution_fail_by_the_mean_of_the_value():
    def hotter(key, logits, f):
        z = gumbel_max(key, 2 * logits)
        return f(z) + 0 * jnp.sum(logits)

    with pytest.raises(LawError, match=r"mean of the value .*biased"):
        testing.check_gradient_law(hotter, UNIT, unbiased="none", num_draws=20_000)


def test_a_cost_that_does_not_train_fails():
    def closed(key, logits, f):
        return score_function(key, logits, lambda z: stop_gradient(f(z)))

    with pytest.raises(LawError, match=r"^gradient with respect to what f closes over.* is 0, exp"):
        testing.check_closure_law(closed, UNIT)


def unnormalised(key, logits, f):
    return score_function(key, logits, f) + jnp.sum(logits) - stop_gradient(jnp.sum(logits))


def sees_the_constant(key, logits, f):
    return score_function(key, logits, f, scale=stop_gradient(jnp.exp(logits[0, 0])))


@jax.custom_jvp
def clipped(logits):
    return jnp.maximum(logits, -50.0)


clipped.defjvp(lambda primals, tangents: (clipped(*primals), *tangents))


def leaking(key, logits, f):
    """Impossible classes get a gradient too."""
    total = jnp.sum(clipped(logits))
    return score_function(key, logits, f) + total - stop_gradient(total)


def one_for_each_variable(key, logits, f):
    return score_function(key, logits, f) * jnp.ones(len(logits))


def masked_by_product(key, logits, f):
    z = gumbel_max(key, logits)
    cost, log_q = f(z), jnp.sum(z * jax.nn.log_softmax(logits))
    return cost + stop_gradient(cost) * (log_q - stop_gradient(log_q))


def silent(key, logits, f):
    return score_function(key, jnp.nan_to_num(logits), f)


def overflowing(key, logits, f):
    odds = jnp.exp(logits)
    return score_function(key, jnp.log(odds / odds.sum(axis=-1, keepdims=True)), f)


def half_overflowing(key, logits, f):
    thousand = jnp.asarray(1e3, logits.dtype)
    return score_function(key, logits, f) * (thousand**2 * 1e-6)


def undecided(key, logits, f, temperature=1.0):
    if temperature > 0.5:
        return f(gumbel_softmax(key, logits, temperature))
    return f(straight_through(key, logits))


def untraced(key, logits, f):
    """Noise of Python's, drawn anew in each trace."""
    return score_function(key, logits, f) + 0.1 * np.random.default_rng().normal()


@pytest.mark.parametrize(
    ("check", "estimator", "message"),
    [
        (
            testing.check_shift_invariance,
            unnormalised,
            r"shift invariance .*: the sum of the gradient's row\[0\] is 2, expected 0",
        ),
        (
            testing.check_shift_invariance,
            sees_the_constant,
            r"shift invariance .*: the gradient at shifted logits\[0, \d\] is .*, expected ",
        ),
        (
            testing.check_masked_classes,
            masked_by_product,
            "masked classes .*: the value is nan, expected finite",
        ),
        (
            testing.check_masked_classes,
            leaking,
            r"masked classes .*: the gradient of a masked class\[0\] is 1, expected 0",
        ),
        (testing.check_nan, silent, "NaN in, NaN out .*: the value is .*, expected nan"),
        (
            testing.check_extreme_logits,
            overflowing,
            "extreme logits .*: the .* nan.*, expected finite numbers",
        ),
        (
            testing.check_low_precision,
            half_overflowing,
            r"low precision .*float16\): the value is inf, expected finite",
        ),
        (
            testing.check_transformations,
            undecided,
            "transformations .*: a traced value is asked for its number",
        ),
        (
            testing.check_transformations,
            untraced,
            "transformations .*: the value under jit and vmap is .*, expected ",
        ),
        (
            testing.check_transformations,
            one_for_each_variable,
            r"transformations .*: the surrogate has dtype float32 and shape \(1,\), expected one",
        ),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_wrong_properties_fail_by_the_law_and_its_number(check, estimator, message):
    hyperparams = {"temperature": 0.7} if estimator is undecided else None
    with pytest.raises(LawError, match=f"^{message}"):
        check(estimator, UNIT, hyperparams=hyperparams)


def test_facts_of_an_entry_are_its_own_and_arguments_are_checked():
    # For two classes alone, and biased for none: with other facts the laws would raise.
    assert (
        testing.check_laws(ESTIMATORS["disarm"], num_samples=2, num_draws=20_000)["bias claim"] == 0
    )
    with pytest.raises(ValueError, match=r"unbiased must be one of any, .* got 'linear'"):
        testing.check_gradient_law(score_function, UNIT, unbiased="linear")
    with pytest.raises(ValueError, match=r"num_classes must be 2, 3 or 4.* got 5"):
        testing.check_laws(score_function, num_classes=5)
    with pytest.raises(ValueError, match=r"num_draws must be at least 100; got 10"):
        testing.check_gradient_law(score_function, UNIT, num_draws=10)


# --- Judgements


@pytest.mark.parametrize("degrees", [20, 200, 99_999])
@pytest.mark.parametrize("t", [0.0, 0.3, 2.0, 5.0, 7.0])
def test_normal_deviates_have_the_tail_of_students_t(degrees, t):
    deviate = testing.normal_deviate(t, degrees)
    np.testing.assert_allclose(
        scipy.stats.norm.sf(deviate), scipy.stats.t.sf(t, degrees), rtol=2e-6
    )


@pytest.mark.parametrize("degrees", [1, 2, 3, 8, 255])
def test_the_chi_square_tail_is_that_of_scipy(degrees):
    for statistic in (0.0, 0.5, 3.0, 30.0, 300.0):
        np.testing.assert_allclose(
            testing.chi_square_tail(statistic, degrees),
            scipy.stats.chi2.sf(statistic, degrees),
            rtol=1e-10,
        )


def test_false_alarms_of_means_come_at_their_rate():
    """At 5 %, 2,000 repetitions have 60 to 145 alarms with probability 1 - 1e-4."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(2_000):
        try:
            testing.assert_mean(rng.normal(size=(30, 3)), [0, 0, 0], alpha=0.05)
        except LawError:
            alarms += 1
    assert 60 <= alarms <= 145


def test_means_that_are_off_or_not_numbers_fail():
    samples = np.random.default_rng(0).normal(size=(1_000, 2))
    testing.assert_mean(samples, [0, 0])
    with pytest.raises(
        LawError, match=r"biased: the mean\[1\] of 1,000 samples is .* expected 0.3"
    ):
        testing.assert_mean(samples, [0, 0.3])
    with pytest.raises(LawError, match=r"a mean that is fixed.* is 1, expected 2"):
        testing.assert_mean(np.ones((10, 2)), [1, 2])
    samples[0, 0] = np.nan
    with pytest.raises(LawError, match="nan"):
        testing.assert_mean(samples, [0, 0])


def test_frequencies_that_are_off_fail():
    assert testing.assert_frequencies([30, 50, 20], [0.3, 0.5, 0.2]) > 0.99
    with pytest.raises(LawError, match="wrong distribution: p "):
        testing.assert_frequencies([400, 400, 200], [0.3, 0.5, 0.2])
    with pytest.raises(LawError, match="class of probability 0 came"):
        testing.assert_frequencies([50, 50], [1.0, 0.0])


def test_the_exact_gradient_is_that_of_the_expectation():
    step = 1e-5
    for problem in PROBLEMS.values():
        gradient = testing.exact_gradient(problem.logits, problem.cost)
        moved = problem.logits.copy()
        moved[0, 1] += step
        above = testing.expectation(moved, problem.cost)
        moved[0, 1] -= 2 * step
        slope = (above - testing.expectation(moved, problem.cost)) / (2 * step)
        np.testing.assert_allclose(gradient[0, 1], slope, rtol=1e-6, atol=1e-8)


def test_components_that_do_not_vary_agree_within_the_stated_rounding():
    testing.assert_mean(np.full((3, 1), 0.1), [0.1 + 1e-7])
    with pytest.raises(LawError, match="a mean that is fixed"):
        testing.assert_mean(np.full((3, 1), 0.1), [0.1 + 1e-4])
