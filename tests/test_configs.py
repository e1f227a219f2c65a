"""Every config builds, and trains a smoke interval of its own model on real digits."""

import inspect
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import random

from experiments import config as configuration
from experiments import points, tasks
from gsm import data, training
from gsm.estimators import BERNOULLI_ONLY, ESTIMATORS, RELAXED
from gsm.objectives import KL_FORMS

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("*.py") if "get_config" in path.read_text()
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_trains(path, digits, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = configuration.check(configuration.load(f"{path}:digits"))
    task = tasks.build(config, digits)
    state = training.init_state(task.program, random.key(config.seed))
    state, losses = training.run_interval(task.program, 100, task.train, task.settings, state)
    assert np.isfinite(losses).all()
    assert losses[-10:].mean() < losses[:10].mean()
    some = jax.tree.map(lambda x: x[:4], task.valid)
    measures = task.measures(state.params, some) | task.test_measures(state.params, some)
    assert all(np.isfinite(values).all() for values in measures.values())
    bounds = task.bounds(state.params, random.key(1), some, 0, num_samples=5)
    assert bounds.shape == (4,)
    assert np.isfinite(bounds).all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_s_docstring_is_the_command_and_its_default_is_mnist(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = f"python -m experiments.train --config=configs/{path.name}"
    assert command in path.read_text()
    config = configuration.check(configuration.load(str(path)))
    assert config.data.name == "mnist"
    dynamic = config.task == "semisupervised"
    assert config.data.binarization == ("dynamic" if dynamic else "fixed")


@pytest.mark.parametrize("name", ["cat_vae", "cat_sbn", "semisup"])
def test_a_sweep_may_choose_by_what_is_measured_on_validation(name, digits):
    config = configuration.check(configuration.load(str(ROOT / f"configs/{name}.py") + ":digits"))
    task = tasks.build(config, digits)
    state = jax.eval_shape(lambda: training.init_state(task.program, random.key(0)))
    measures = jax.eval_shape(task.measures, state.params, task.valid)
    assert tuple(f"valid_{name}" for name in measures) == points.MEASURES[config.task]


def with_fields(**fields):
    config = configuration.load(str(ROOT / "configs" / "cat_vae.py") + ":digits")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    config.model.num_latents = 3
    return configuration.check(config)


KL_NEEDS_RELAXED = {"relaxed_log_mass": True, "relaxed_density": True, "sampled": False}


IN_THE_DEFAULT_RUN = {
    "analytic": ("nvil", "rebar", "relax", "rloo", "disarm", "reinmax", "exact"),
    "sampled": ("score_function", "muprop", "gumbel_softmax"),
}


@pytest.mark.parametrize(
    ("kl", "estimator"),
    [
        pytest.param(
            kl,
            estimator,
            marks=[] if estimator in IN_THE_DEFAULT_RUN.get(kl, ESTIMATORS) else [pytest.mark.slow],
        )
        for kl in KL_FORMS
        for estimator in ESTIMATORS
    ],
)
def test_every_estimator_trains_the_vae_or_is_refused_in_one_line(estimator, kl, digits):
    num_classes = 2 if estimator in BERNOULLI_ONLY else 4
    fields = {"estimator": estimator, "kl": kl, "model__num_classes": num_classes}
    if (kl, estimator) == ("relaxed_density", "decoupled_gumbel_softmax"):
        with pytest.raises(configuration.ConfigError, match=r"needs config.estimator=gumbel_softm"):
            with_fields(**fields)
        return
    if kl in KL_NEEDS_RELAXED and KL_NEEDS_RELAXED[kl] != (estimator in RELAXED):
        with pytest.raises(configuration.ConfigError, match=rf"^config.kl={kl} needs .*$"):
            with_fields(**fields)
        return
    task = tasks.build(with_fields(**fields), digits)
    state = training.init_state(task.program, random.key(0))
    after, losses = training.run_interval(task.program, 5, task.train, task.settings, state)
    assert np.isfinite(losses).all()
    # The networks' first layers stand still at first: their last starts at zero.
    trained = [
        (s.params, {name: s.learned[name] for name in {"moments", "control"} & set(s.learned)})
        for s in (state, after)
    ]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), *trained)
    assert all(jax.tree.leaves(moved)), f"parameters that never train: {moved}"


def test_weight_decay_shrinks_kernels_by_the_learning_rate_and_nothing_else(digits):
    after = []
    for decay in (0.0, 0.5):
        config = with_fields(
            optimizer__name="sgd", optimizer__learning_rate=0.1, optimizer__weight_decay=decay
        )
        task = tasks.build(config, digits)
        state = training.init_state(task.program, random.key(0))
        state_after, _ = training.run_interval(task.program, 1, task.train, task.settings, state)
        after.append(state_after.params)
    shrunk = jax.tree.map_with_path(
        lambda path, before, without: without - 0.05 * before * (path[-1].key == "kernel"),
        state.params,
        after[0],
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after[1], shrunk)


@pytest.mark.parametrize(
    ("objective", "estimator"),
    [("vimco", "score_function"), ("iwae", "gumbel_softmax"), ("iwae", "reinmax")],
)
def test_multi_sample_objectives_train_the_vae(objective, estimator, digits):
    config = with_fields(
        objective=objective, estimator=estimator, num_samples=3, optimizer__learning_rate=0.01
    )
    task = tasks.build(config, digits)
    state = training.init_state(task.program, random.key(0))
    assert state.learned == {}  # VIMCO's baselines are its samples
    _, losses = training.run_interval(task.program, 300, task.train, task.settings, state)
    assert losses[-20:].mean() < losses[:20].mean() - 5


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"objective": "vimco"}, "vimco needs config.estimator=score_function; got gumbel_softmax"),
        (
            {"objective": "iwae", "estimator": "rloo"},
            "iwae needs config.estimator=gumbel_softmax or straight_through or .*; got rloo",
        ),
        (
            {"num_samples": 3},
            "config.num_samples is for rloo, gumbel_rao, .*; gumbel_softmax t",
        ),
        ({"num_samples": 1, "estimator": "rloo"}, "at least 2 for rloo"),
        (
            {"num_samples": 1, "estimator": "score_function", "objective": "vimco"},
            "at least 2 for vimco",
        ),
        ({"num_samples": -1}, "config.num_samples must be 0 .the default. or more; got -1"),
        (
            {"signal__normalize": True, "estimator": "muprop"},
            "config.signal.normalize divides .*; use config.kl=sampled with it",
        ),
        ({"signal__baseline": "mean"}, "config.signal.baseline must be one of constant, moving_av"),
        (
            {"signal__decay": 1.0},
            "config.signal.decay must be at least 0 and below 1 in float32; got 1.0",
        ),
        ({"temperature__backward": 0.0}, "config.temperature.backward must be positive"),
        ({"learned__hidden_sizes": (0,)}, "config.learned.hidden_sizes must be positive whole"),
        ({"learned__learning_rate": 0.0}, "config.learned.learning_rate must be positive"),
        ({"control__eta": float("nan")}, "config.control.eta must be finite"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(map(str, value.values())),
)
def test_choices_that_cannot_be_had_together_are_told_in_one_line(fields, told):
    with pytest.raises(configuration.ConfigError, match=told) as error:
        with_fields(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("estimator", "m"), [("rloo", 2), ("rloo", 0), ("gumbel_rao", 3)])
def test_num_samples_reaches_the_estimator(estimator, m, digits, monkeypatch):
    seen = []
    entry = ESTIMATORS[estimator]

    def spy(*arguments, **keywords):
        seen.append(keywords["num_samples"])
        return entry.function(*arguments, **keywords)

    spy.__signature__ = inspect.signature(entry.function)
    monkeypatch.setitem(ESTIMATORS, estimator, entry._replace(function=spy))
    task = tasks.build(with_fields(estimator=estimator, num_samples=m), digits)
    state = training.init_state(task.program, random.key(0))
    jax.eval_shape(lambda s: training.train_step(task.program, task.train, task.settings, s), state)
    assert set(seen) == {m or 4}


@pytest.mark.parametrize("estimator", sorted(BERNOULLI_ONLY))
def test_an_estimator_of_two_classes_is_refused_more(estimator):
    with pytest.raises(configuration.ConfigError, match=f"config.estimator={estimator} needs two"):
        with_fields(estimator=estimator)


def test_dynamic_binarisation_draws_anew_and_evaluates_on_fixed_images(digits):
    dynamic = tasks.build(with_fields(data__binarization="dynamic"), digits)
    fixed = tasks.build(with_fields(data__binarization="fixed"), digits)
    assert dynamic.train.max() == 255
    np.testing.assert_array_equal(dynamic.valid, fixed.valid)
    image = dynamic.train[0]
    draws = jax.vmap(dynamic.program.prepare, (0, None))(random.split(random.key(0), 4000), image)
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(axis=0), np.asarray(image) / 255, atol=0.05)


def test_grey_pixels_are_probabilities(digits):
    task = tasks.build(with_fields(data__binarization="none"), digits)
    x = task.program.prepare(random.key(0), task.train[0])
    np.testing.assert_allclose(x, np.asarray(task.train[0]) / 255)
    assert x[(x > 0) & (x < 1)].size > 0


def test_the_hash_sees_what_changes_numbers_and_not_where_data_lie():
    base = configuration.config_hash(with_fields())
    assert base == configuration.config_hash(with_fields(data__dir="elsewhere"))
    assert base != configuration.config_hash(with_fields(seed=1))
