"""Every config builds, and trains a smoke interval of its own model on real digits."""

from pathlib import Path

import jax
import numpy as np
import pytest
from jax import random

from experiments import config as configuration
from experiments import tasks
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
    bounds = task.bounds(state.params, random.key(1), task.valid[:4], 0, num_samples=5)
    assert bounds.shape == (4,)
    assert np.isfinite(bounds).all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_s_docstring_is_the_command_and_its_default_is_mnist(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = f"python -m experiments.train --config=configs/{path.name}"
    assert command in path.read_text()
    config = configuration.check(configuration.load(str(path)))
    assert config.data.name == "mnist"
    assert config.data.binarization == "fixed"


def with_fields(**fields):
    config = configuration.load(str(ROOT / "configs" / "cat_vae.py") + ":digits")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    config.model.num_latents = 3
    return configuration.check(config)


KL_NEEDS_RELAXED = {"relaxed_log_mass": True, "relaxed_density": True, "sampled": False}


SAMPLED_IN_THE_DEFAULT_RUN = ("score_function", "muprop", "gumbel_softmax")


@pytest.mark.parametrize(
    ("kl", "estimator"),
    [
        pytest.param(
            kl,
            estimator,
            marks=[pytest.mark.slow]
            if kl == "sampled" and estimator not in SAMPLED_IN_THE_DEFAULT_RUN
            else [],
        )
        for kl in KL_FORMS
        for estimator in ESTIMATORS
    ],
)
def test_every_estimator_trains_the_vae_or_is_refused_in_one_line(estimator, kl, digits):
    num_classes = 2 if estimator in BERNOULLI_ONLY else 4
    fields = {"estimator": estimator, "kl": kl, "model__num_classes": num_classes}
    if kl in KL_NEEDS_RELAXED and KL_NEEDS_RELAXED[kl] != (estimator in RELAXED):
        with pytest.raises(configuration.ConfigError, match=rf"^config.kl={kl} needs .*$"):
            with_fields(**fields)
        return
    task = tasks.build(with_fields(**fields), digits)
    state = training.init_state(task.program, random.key(0))
    after, losses = training.run_interval(task.program, 5, task.train, task.settings, state)
    assert np.isfinite(losses).all()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, after.params)
    assert all(jax.tree.leaves(moved)), f"parameters that never train: {moved}"


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
