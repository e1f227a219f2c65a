"""The programs of examples/: each runs, and does what it says, in fewer steps."""

import functools
import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def as_a_user(monkeypatch):
    """The examples on the path, and jax with its own settings."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        yield
    for file in FILES:
        sys.modules.pop(file.stem, None)


def example(name):
    return importlib.import_module(name)


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in FILES])
def test_an_example_is_short_says_how_to_run_it_and_is_tested(file):
    text = file.read_text()
    assert len(text.splitlines()) < 80
    assert f"    python examples/{file.name}\n" in text
    assert f'example("{file.stem}")' in Path(__file__).read_text()
    assert f"(../examples/{file.name})" in (ROOT / "docs" / "concepts.md").read_text()


def test_linen_learns_codes_of_patterns():
    losses = example("flax_linen").train(150)
    assert np.mean(losses[-10:]) < 0.5 * losses[0]


def test_nnx_learns_codes_of_patterns():
    losses = example("flax_nnx").train(120)
    assert np.mean(losses[-10:]) < 0.7 * losses[0]


def test_the_simulator_is_called_once_a_step_and_its_assignment_is_the_shortest():
    simulator = example("numpy_simulator")
    logits = simulator.train(300, num_samples=32)
    assert set(simulator.CALLS) == {(32, 8, 2)}
    assert len(simulator.CALLS) == 300
    assert simulator.makespan(jax.nn.one_hot(logits.argmax(axis=-1), 2)) <= 20
    assert simulator.shortest() == 19


def test_nvil_lowers_the_bound_and_learns_its_baseline():
    nvil = example("nvil_loop")
    params, losses = nvil.train(1_500)
    assert losses[-200:].mean() < 6 < losses[0]
    assert jnp.log(8) < losses[-200:].mean()  # a bound on the entropy of the data
    baseline = nvil.gsm.learned.summary(params["estimator"])["baseline"]
    assert 2 < baseline < losses[0]


def test_the_router_gives_each_expert_a_cluster():
    experts = example("mixture_of_experts")
    params, losses = experts.train(1_000)
    counts = np.asarray(experts.clusters_per_expert(params))
    assert losses[-100:].mean() < 0.1 * losses[0]
    assert (counts.max(axis=1) >= 0.98 * counts.sum(axis=1)).all()
    assert sorted(counts.argmax(axis=1)) == [0, 1, 2, 3]


def test_attention_finds_the_marked_position():
    attention = example("hard_attention")
    params, losses = attention.train(300)
    assert attention.share_found(params) > 0.98
    assert losses[-30:].mean() < 0.3 * losses[0]


def test_both_estimators_find_the_prompt_of_a_text():
    model = example("language_model")
    params, prompt = model.train(400), jnp.array([3, 6])
    assert set(model.ESTIMATORS) == {"RLOO", "ST Gumbel-Softmax"}
    for estimator in model.ESTIMATORS.values():
        logits = model.search(params, estimator, model.text(prompt, 1), 150)
        assert (logits.argmax(axis=-1) == prompt).all()


@pytest.mark.slow
def test_the_laws_tell_the_right_estimator_from_the_wrong_one():
    own = example("own_estimator")
    assert own.broken_law(own.mean_baseline, num_draws=20_000) is None
    wrong = functools.partial(own.mean_baseline, corrected=False)
    assert own.broken_law(wrong, num_draws=20_000).startswith("gradient law")


def test_a_numpyro_model_gets_an_approximate_posterior():
    pytest.importorskip("numpyro", exc_type=ImportError)
    latent = example("numpyro_latent")
    logits = latent.train(500)
    bound = -latent.loss(logits, jax.random.key(2), num_samples=10_000)
    evidence = latent.log_evidence()
    assert evidence - 1 < bound < evidence


def test_a_relaxed_distribution_of_distrax_is_fitted_to_another():
    pytest.importorskip("distrax", exc_type=ImportError)
    relaxed = example("distrax_relaxed")
    probabilities = jnp.array([0.1, 0.2, 0.7])
    target = relaxed.RelaxedOneHot(jnp.log(probabilities), 0.7)
    assert (target.batch_shape, target.event_shape) == ((), (3,))
    assert target.sample(seed=jax.random.key(0), sample_shape=(2, 5)).shape == (2, 5, 3)
    fitted = jax.nn.softmax(relaxed.train(target, 300))
    np.testing.assert_allclose(fitted, probabilities, atol=0.03)
