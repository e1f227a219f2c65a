"""Diagnostics on estimates whose bias, variance and cosine are known in closed form."""

import csv
import functools
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot
import numpy as np
import pytest
from jax import random

import gsm
from gsm import diagnostics, testing
from gsm.registry import ESTIMATORS, Hyperparams
from gsm.testing import PROBLEMS

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
    bed = PROBLEMS["two of three classes"]
    logits = jnp.asarray(bed.logits, jnp.float32)
    exact = testing.exact_gradient(bed.logits, bed.cost)
    z, probs = testing.outcomes(2, 3), testing.softmax(bed.logits)
    slopes = np.asarray(jax.vmap(jax.grad(bed.cost))(jnp.asarray(z, jnp.float32)))
    estimates = probs * (slopes - np.sum(probs * slopes, axis=-1, keepdims=True))
    q = testing.probabilities(bed.logits)
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


# --- compare


PROBLEM = PROBLEMS["two of three classes"]
LOGITS = jnp.asarray(PROBLEM.logits, jnp.float32)


@pytest.fixture(scope="module")
def rows():
    """Of a biased and an unbiased one, of one that cannot serve, and of one from outside."""
    estimators = {
        "straight_through": ESTIMATORS["straight_through"],
        "rloo": functools.partial(ESTIMATORS["rloo"], num_samples=2),
        "disarm": ESTIMATORS["disarm"],
        "twice": lambda key, logits, f: ESTIMATORS["rloo"](key, logits, f, num_samples=3),
    }
    return diagnostics.compare(
        random.key(3), LOGITS, PROBLEM.cost, estimators, num_keys=40_000, at_once=100, budget=25
    )


def enumerated_rloo():
    """Variance of one estimate of two samples, from all pairs of outcomes."""
    z, q = testing.outcomes(2, 3), testing.probabilities(PROBLEM.logits)
    costs, scores = testing.costs(PROBLEM.logits, PROBLEM.cost), z - testing.softmax(PROBLEM.logits)
    pairs = (costs[:, None] - costs)[..., None, None] * (scores[:, None] - scores) / 2
    mean = np.einsum("a,b,abnk->nk", q, q, pairs)
    exact = testing.exact_gradient(PROBLEM.logits, PROBLEM.cost)
    np.testing.assert_allclose(mean, exact, rtol=1e-5)
    return np.einsum("a,b,abnk->", q, q, (pairs - mean) ** 2) / np.sum(exact**2)


def test_squared_errors_at_a_budget_are_those_of_the_enumeration(rows):
    assert [row.estimator for row in rows] == ["straight_through", "rloo", "twice"]
    assert rows.reference == "exact"
    assert rows.reference_error == {}
    st, rloo, twice = rows
    variance = enumerated_rloo()
    np.testing.assert_allclose(rloo.variance.value, variance, rtol=0.05)
    assert rloo.bias.low == 0
    assert (st.evaluations, rloo.evaluations, twice.evaluations) == (1, 2, 3)
    # 25 evaluations pay for 12 estimates of two.
    np.testing.assert_allclose(rloo.error_at_evaluations, variance / 12, rtol=0.1)
    assert st.bias.low > 0.05
    for row in rows:
        error = row.bias.value**2 + row.variance.value / (25 // row.evaluations)
        np.testing.assert_allclose(row.error_at_evaluations, error)
        affordable = int(25 / row.relative_time)
        np.testing.assert_allclose(
            row.error_at_time, row.bias.value**2 + row.variance.value / affordable
        )
    # Without Gumbel-Softmax times are relative to the fastest.
    assert min(row.relative_time for row in rows) == 1
    assert all(row.seconds > 0 for row in rows)


def test_those_that_cannot_serve_are_left_out_with_the_reason(rows):
    assert list(rows.skipped) == ["disarm"]
    assert "two classes" in rows.skipped["disarm"]


def test_the_table_is_aligned_and_names_the_reference(rows):
    table = str(rows).splitlines()
    assert [line.split()[0] for line in table[:4]] == ["estimator", *(r.estimator for r in rows)]
    ends = {len(line) for line in table[:4]}
    assert len(ends) == 1, "the last column is aligned on the right"
    assert "Reference: exact" in table[4]
    base = next(row for row in rows if row.relative_time == 1)
    assert f"in the time of 25 estimates of {base.estimator}" in table[4]
    assert table[5].startswith("without disarm: ")


def test_rows_go_to_a_csv_and_a_figure(rows, tmp_path):
    rows.to_csv(tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv") as file:
        read = list(csv.DictReader(file))
    assert [row["estimator"] for row in read] == [row.estimator for row in rows]
    np.testing.assert_allclose(float(read[1]["variance_high"]), rows[1].variance.high, rtol=1e-3)
    rows.plot(tmp_path / "errors.png")
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert rows.plot(axes) is axes
    assert [line.get_label() for line in axes.lines] == [row.estimator for row in rows]
    np.testing.assert_allclose(
        axes.lines[0].get_ydata()[0], rows[0].bias.value ** 2 + rows[0].variance.value
    )
    shown = rows.plot()
    assert len(shown.lines) == len(rows)
    matplotlib.pyplot.close(shown.figure)
    with pytest.raises(ValueError, match="group must be one of all; got 'w'"):
        rows.plot(axes, group="w")


def test_a_figure_without_matplotlib_says_what_is_missing(rows, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="plot needs matplotlib"):
        rows.plot(tmp_path / "errors.png")


def test_a_black_box_is_served_by_those_that_need_no_derivative(key):
    def black_box(z):
        return jax.pure_callback(
            lambda z: np.float32(np.sin(np.sum(z * np.arange(6).reshape(2, 3)))),
            jax.ShapeDtypeStruct((), jnp.float32),
            z,
            vmap_method="sequential",
        )

    names = ["score_function", "reinmax"]
    rows = diagnostics.compare(key, LOGITS, black_box, names, num_keys=40, at_once=1, timed_keys=2)
    assert [row.estimator for row in rows] == ["score_function"]
    assert rows.skipped["reinmax"].startswith("reinmax differentiates f, and f calls back")
    with pytest.raises(ValueError, match="no estimator can serve: reinmax: reinmax differen"):
        diagnostics.compare(random.key(1), LOGITS, black_box, ["reinmax"])


def two_layers(params, key, estimator):
    """A minibatch of two examples, each with two layers, and a decoder within f."""

    def example(key, x):
        key_outer, key_inner = random.split(key)

        def inner(z):
            logits = z @ params["w"] + x
            return estimator(
                random.clone(key_inner),
                logits,
                lambda y: jnp.sum(jnp.sin(y * params["w"])) + z[0, 0],
            )

        return estimator(key_outer, params["logits"], inner)

    return jnp.mean(jax.vmap(example)(random.split(key), jnp.array([0.0, 1.0])))


def test_a_loss_of_parameters_nests_batches_and_counts_its_layers(key):
    params = {"logits": jnp.array([[0.2, -0.3]]), "w": jnp.array([[1.0, -1.0], [0.5, 2.0]])}
    rows = diagnostics.compare(
        key, params, two_layers, ["gumbel_softmax", "rloo", "slope_annealed_st"],
        num_keys=400, timed_keys=5,
    )  # fmt: skip
    names = [(row.estimator, row.group, row.evaluations) for row in rows]
    groups = ("logits", "w", "all")
    assert names == [(e, g, n) for e, n in (("gumbel_softmax", 1), ("rloo", 16)) for g in groups]
    assert rows.reference == "exact"
    assert "needs slope" in rows.skipped["slope_annealed_st"]
    assert [row.relative_time for row in rows[:3]] == [1, 1, 1]
    assert all(row.bias.low == 0 for row in rows[3:])
    assert str(rows).splitlines()[1].split()[:2] == ["gumbel_softmax", "logits"]


def test_where_the_outcomes_are_too_many_a_long_run_mean_is_the_reference(key):
    logits = jnp.linspace(-1.0, 1.0, 40).reshape(20, 2)  # 2 ** 20 outcomes

    def f(z):
        return jnp.sum(z[:, 0]) ** 2

    rows = diagnostics.compare(
        key, logits, f, ["muprop"], num_keys=400, reference_keys=1_000, timed_keys=5
    )
    assert rows.reference == "mean of 1,000 local_expectation estimates"
    assert 0 < rows.reference_error["all"] < 0.1
    assert "local_expectation estimates (standard error" in str(rows)
    given = diagnostics.compare(
        random.clone(key), logits, f, ["muprop"], num_keys=400, timed_keys=5,
        reference=jnp.ones_like(logits),
    )  # fmt: skip
    assert given.reference == "given"
    assert given[0].bias.value > rows[0].bias.value


def test_a_group_without_a_gradient_is_left_out_and_low_precision_is_compared(key):
    def loss(params, key, estimator):
        return estimator(key, params["logits"], lambda z: jnp.sum(z[:, 0]))

    logits = jnp.array([[0.5, 0.0]], jnp.bfloat16)
    params = {"logits": logits, "unused": jnp.ones(2)}
    rows = gsm.compare(key, params, loss, ["rloo"], num_keys=400)
    assert [row.group for row in rows] == ["logits", "all"]
    assert rows.skipped == {"params 'unused'": "the reference gradient (exact) is 0"}
    assert rows[0].bias.low == 0


def test_samplers_are_compared_and_what_a_keyword_changes_is_counted(key):
    def f(z):
        return jnp.sum((z[:, 0] - 0.45) ** 2)

    chosen = {
        "sampler": gsm.straight_through,
        "entry": ESTIMATORS["straight_through"],
        "relax": functools.partial(ESTIMATORS["relax"], control=jnp.sum),
        "relax, black box": functools.partial(ESTIMATORS["relax"], control=jnp.sum, eta=None),
    }
    rows = {
        row.estimator: row for row in gsm.compare(key, jnp.zeros((2, 3)), f, chosen, num_keys=400)
    }
    assert rows["sampler"].bias == rows["entry"].bias
    assert [rows[name].evaluations for name in chosen] == [1, 1, 3, 1]


def test_hyperparameters_reach_the_estimators(key):
    def bias(temperature):
        (row,) = diagnostics.compare(
            random.clone(key), LOGITS, PROBLEM.cost, ["gumbel_softmax"],
            hyperparams=Hyperparams(temperature=temperature), num_keys=4_000, at_once=100,
            timed_keys=2,
        )  # fmt: skip
        return row.bias

    assert bias(0.2).high < bias(5.0).low


def vector_loss(params, key, estimator):
    return estimator(key, params["logits"], PROBLEM.cost) * jnp.ones(2)


def minibatch(params, key, estimator):
    return estimator(key, jnp.stack([params["logits"]] * 4), jnp.sum)


@pytest.mark.parametrize(
    ("params", "f", "arguments", "error", "message"),
    [
        (LOGITS, lambda z, key: 0.0, {}, ValueError, "f must be a cost .* it takes 2 arguments"),
        (LOGITS[0], jnp.sum, {}, ValueError, r"must be .*\[n, k\]; got shape \(3,\): use logits"),
        (LOGITS[None], jnp.sum, {}, ValueError, r"got shape \(1, 2, 3\): .* for a minibatch a"),
        (LOGITS.tolist(), jnp.sum, {}, TypeError, "logits must be an array of floats.* a list"),
        (jnp.zeros((2, 3), int), jnp.sum, {}, TypeError, "array of floats, .* got an array of int"),
        ({"logits": LOGITS}, minibatch, {}, ValueError, r"got shape \(4, 2, 3\).* with jax.vmap"),
        (
            {"logits": LOGITS, "b": jnp.arange(2)}, vector_loss, {},
            TypeError, r"must be arrays of floats; params\['b'\] is an array of int32",
        ),
        ({"logits": LOGITS}, vector_loss, {}, ValueError, "must return one float; .* shape .2,"),
        (LOGITS, lambda z: z[0], {}, ValueError, r"f must return a scalar .* returned shape .3,"),
        (LOGITS, PROBLEM.cost, {"estimators": "reinforcer"}, KeyError, "unknown .* 'reinforcer'"),
        (LOGITS, PROBLEM.cost, {"num_keys": 50}, ValueError, "multiple of 40 .* 10 at once; got 5"),
        (LOGITS, PROBLEM.cost, {"num_keys": 0}, ValueError, "positive multiple .* got 0"),
        (LOGITS, PROBLEM.cost, {"budget": 0}, ValueError, "budget must be at least 1; got 0"),
        (LOGITS, PROBLEM.cost, {"reference_keys": 1}, ValueError, "reference_keys must be at le"),
        (LOGITS, lambda z: 0.0 * z[0, 0], {}, ValueError, r"reference gradient \(exact\) is 0"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_in_one_line(params, f, arguments, error, message, key):
    with pytest.raises(error, match=message) as caught:
        diagnostics.compare(key, params, f, **{"estimators": ["rloo"]} | arguments)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_users_own_is_raised_as_it_is(key):
    """It is not taken for an estimator's reason to be left out."""

    def wrong(z):
        return jnp.sum(z @ jnp.zeros((7, 1)))

    with pytest.raises(TypeError, match="dot_general"):
        diagnostics.compare(key, LOGITS, wrong)


# --- time


def test_the_loop_estimates_at_every_key_and_leaves_the_parameters(key):
    def loss(key, params, scale):
        return scale * params["x"] * random.uniform(key)

    params = {"x": jnp.float32(2)}
    values, after = diagnostics.value_and_gradient_loop(loss, (params, jnp.float32(3)), 7)()
    assert values.shape == (7,)
    assert len(np.unique(values)) == 7
    assert float(after["x"]) == 2


def test_calls_are_timed_in_turn_and_the_first_round_is_not_counted():
    order = []
    calls = {name: functools.partial(order.append, name) for name in "ab"}
    seconds = diagnostics.interleaved(calls, rounds=2)
    assert order == ["a", "b"] * 3
    assert set(seconds) == {"a", "b"}


def test_the_cosine_does_not_depend_on_the_scale_of_the_cost(key):
    def cosine(scale):
        def cost(z):
            return scale * jnp.sum((z[:, 0] - 0.45) ** 2)

        logits = jnp.array([[0.1, 0.5, 0.0]])
        (row,) = gsm.compare(random.clone(key), logits, cost, ["rloo"], num_keys=400, timed_keys=2)
        return row.cosine.value

    np.testing.assert_allclose([cosine(1e-10), cosine(1e10)], cosine(1.0), rtol=0.02)
