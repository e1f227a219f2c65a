"""Every config builds, and trains a smoke interval of its own model on real digits."""

import inspect
import re

import jax
import numpy as np
import pytest
from jax import random

from experiments import data
from experiments.figures import style
from experiments.running import config as configuration
from experiments.running import loop, training
from experiments.running.evaluation import evaluate
from experiments.tasks.checks import ConfigError
from experiments.tasks.vae import KL_FORMS
from gsm.registry import BERNOULLI_ONLY, ESTIMATORS, RELAXED
from tests.experiments.runs import ROOT

CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("*.py") if "get_config" in path.read_text()
)
_QUICK = ("cat_vae", "polynomial")  # the others are slow


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def start(config, dataset):
    """The experiment of a config, and its state at step 0."""
    experiment = loop.build(config, dataset if "data" in config else None)
    return experiment, training.init_state(experiment.program, random.key(config.seed))


def train(experiment, state, num_steps):
    return training.run_interval(
        experiment.program, num_steps, experiment.task.train, experiment.settings, state
    )


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[] if path.stem in _QUICK else pytest.mark.slow, id=path.stem)
        for path in CONFIGS
    ],
)
def test_a_config_trains(path, digits, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = configuration.load(f"{path}:digits")
    if "evaluation" in config:
        config.evaluation.valid_samples = config.evaluation.test_samples = 5
    experiment, state = start(configuration.check(config), digits)
    state, losses = train(experiment, state, 100)
    assert np.isfinite(losses).all()
    assert losses[-10:].mean() < losses[:10].mean()
    assert {"valid", "test"} == set(experiment.task.held_out)
    for split in experiment.task.held_out.values():
        some = jax.tree.map(lambda x: x[:4], split.examples)
        means = evaluate(split.metrics, state.params, random.key(1), some)
        assert set(means) == set(split.metrics)
        assert np.isfinite(list(means.values())).all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_s_docstring_is_the_command_and_its_default_is_mnist(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = f"python -m experiments.train --config=configs/{path.name}"
    assert command in path.read_text()
    config = configuration.check(configuration.load(str(path)))
    if "data" not in config:
        return
    assert config.data.name == "mnist"
    binarization = dict.fromkeys(("cat_vae_best", "semisup", "semisup_best"), "dynamic")
    binarization["reinmax_vae"] = "none"
    assert config.data.binarization == binarization.get(path.stem, "fixed")


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("cat_vae", {"nll": False, "rate": False}),
        ("cat_sbn", {"nll": False}),
        ("semisup", {"accuracy": True, "nll": False}),
        ("polynomial", {"cost": False}),
    ],
)
def test_metrics_that_may_choose_are_measured_on_validation_and_all_are_in_the_glossary(
    name, metrics, digits
):
    for metric, maximize in metrics.items():
        config = configuration.load(f"{ROOT}/configs/{name}.py:digits")
        config.select = metric
        dataset = digits if "data" in config else None
        built = loop.build(configuration.check(config), dataset)
        assert built.select.maximize == maximize
    glossary = (ROOT / "docs" / "concepts.md").read_text().partition("## Glossary")[2]
    for split in built.task.held_out.values():
        for metric, of_metric in split.metrics.items():
            (better,) = re.findall(rf"^\| `{metric}` \|.*\| (\w*) ?\|$", glossary, re.M)
            assert better in ("higher" if of_metric.maximize else "lower", "")
            assert style.BETTER.get(metric, "").partition(" ")[0] == better
    config.select = "none"
    with pytest.raises(ConfigError, match=f"config.select must be one of {', '.join(metrics)}"):
        configuration.check(config)


def with_fields(**fields):
    config = configuration.load(f"{ROOT}/configs/cat_vae.py:digits")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    config.model.num_latents = 3
    return configuration.check(config)


def test_an_alias_of_an_estimator_is_the_estimator():
    assert with_fields(estimator="concrete").estimator == "gumbel_softmax"
    assert configuration.config_hash(with_fields(estimator="reinforce")) == (
        configuration.config_hash(with_fields(estimator="score_function"))
    )


_LEARNED_AT_ONCE = ("moments", "control")
KL_NEEDS_RELAXED = {"relaxed_log_mass": True, "relaxed_density": True, "sampled": False}


# Of the form analytic one estimator and of sampled two; of relaxed samples those that are refused.
_QUICK_PAIRS = {("analytic", "nvil"), ("sampled", "muprop"), ("sampled", "gumbel_softmax")}


def is_quick(kl, estimator):
    refused = kl.startswith("relaxed") and estimator not in RELAXED
    return refused or (kl, estimator) in _QUICK_PAIRS


@pytest.mark.parametrize(
    ("kl", "estimator"),
    [
        pytest.param(kl, estimator, marks=[] if is_quick(kl, estimator) else pytest.mark.slow)
        for kl in KL_FORMS
        for estimator in ESTIMATORS
    ],
)
def test_every_estimator_trains_the_vae_or_is_refused_in_one_line(estimator, kl, digits):
    num_classes = 2 if estimator in BERNOULLI_ONLY else 4
    fields = {"estimator": estimator, "kl": kl, "model__num_classes": num_classes}
    if (kl, estimator) == ("relaxed_density", "decoupled_gumbel_softmax"):
        with pytest.raises(ConfigError, match=r"needs config.estimator=gumbel_softm"):
            with_fields(**fields)
        return
    if kl in KL_NEEDS_RELAXED and KL_NEEDS_RELAXED[kl] != (estimator in RELAXED):
        with pytest.raises(ConfigError, match=rf"^config.kl={kl} needs .*$"):
            with_fields(**fields)
        return
    experiment, state = start(with_fields(**fields), digits)
    after, losses = train(experiment, state, 5)
    assert np.isfinite(losses).all()
    # The networks' first layers stand still at first: their last starts at zero.
    trained = [
        (params["model"], {k: v for k, v in params["estimator"].items() if k in _LEARNED_AT_ONCE})
        for params in (state.params, after.params)
    ]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), *trained)
    assert all(jax.tree.leaves(moved)), f"parameters that never train: {moved}"


def test_weight_decay_shrinks_kernels_by_the_learning_rate_and_nothing_else(digits):
    after = []
    for decay in (0.0, 0.5):
        config = with_fields(
            optimizer__name="sgd", optimizer__learning_rate=0.1, optimizer__weight_decay=decay
        )
        experiment, state = start(config, digits)
        after.append(train(experiment, state, 1)[0].params["model"])
    shrunk = jax.tree.map_with_path(
        lambda path, before, without: without - 0.05 * before * (path[-1].key == "kernel"),
        state.params["model"],
        after[0],
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after[1], shrunk)


@pytest.mark.parametrize(
    ("objective", "estimator"),
    [
        pytest.param("vimco", "score_function", marks=pytest.mark.slow),
        pytest.param("iwae", "gumbel_softmax", marks=pytest.mark.slow),
        pytest.param("iwae", "reinmax", marks=pytest.mark.slow),  # test_vae has the losses
    ],
)
def test_multi_sample_objectives_train_the_vae(objective, estimator, digits):
    config = with_fields(
        objective=objective, estimator=estimator, num_samples=3, optimizer__learning_rate=0.01
    )
    experiment, state = start(config, digits)
    assert state.params["estimator"] == {}  # VIMCO's baselines are its samples
    _, losses = train(experiment, state, 300)
    assert losses[-20:].mean() < losses[:20].mean() - 5


@pytest.mark.parametrize(
    ("fields", "message"),
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
            {"num_samples": 1, "estimator": "arms", "model__num_classes": 2},
            "at least 2 for arms",
        ),
        (
            {"num_samples": 1, "estimator": "score_function", "objective": "vimco"},
            "at least 2 for vimco",
        ),
        ({"num_samples": -1}, r"config.num_samples must be between 0 and 2\^31 - 1; got -1"),
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
def test_choices_that_exclude_each_other_are_reported_in_one_line(fields, message):
    with pytest.raises(ConfigError, match=message) as error:
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
    experiment, state = start(with_fields(estimator=estimator, num_samples=m), digits)
    jax.eval_shape(lambda state: train(experiment, state, 1), state)
    assert set(seen) == {m or 4}


@pytest.mark.parametrize("estimator", sorted(BERNOULLI_ONLY))
def test_an_estimator_of_two_classes_is_refused_more(estimator):
    with pytest.raises(ConfigError, match=f"config.estimator={estimator} needs two"):
        with_fields(estimator=estimator)


def test_dynamic_binarisation_draws_anew_and_evaluates_on_fixed_images(digits):
    dynamic = loop.build(with_fields(data__binarization="dynamic"), digits).task
    fixed = loop.build(with_fields(data__binarization="fixed"), digits).task
    assert dynamic.train.max() == 255
    np.testing.assert_array_equal(
        dynamic.held_out["valid"].examples, fixed.held_out["valid"].examples
    )
    image = dynamic.train[0]
    draws = jax.vmap(dynamic.prepare, (0, None))(random.split(random.key(0), 4000), image)
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(axis=0), np.asarray(image) / 255, atol=0.05)


def test_grey_pixels_are_probabilities(digits):
    task = loop.build(with_fields(data__binarization="none"), digits).task
    x = task.prepare(random.key(0), task.train[0])
    np.testing.assert_allclose(x, np.asarray(task.train[0]) / 255)
    assert x[(x > 0) & (x < 1)].size > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"data": True, "data.name": "digits"}, {"data.name": "digits", "data": True},
        {"data": True}, {"data.dir": ""}, {"data.name": {".a": 1}},
    ],
)  # fmt: skip
def test_a_value_in_place_of_a_group_or_no_data_set_is_one_line(changes):
    with pytest.raises(ConfigError, match=r"config\.(data|batch_size)") as refusal:
        configuration.from_fields({"task": "vae"} | changes)
    assert "\n" not in str(refusal.value)


def test_the_hash_sees_what_changes_numbers_and_not_where_data_lie():
    base = configuration.config_hash(with_fields())
    assert base == configuration.config_hash(with_fields(data__dir="elsewhere"))
    assert base != configuration.config_hash(with_fields(seed=1))
