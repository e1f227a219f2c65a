"""The host loop: runs together in one program are the runs alone, and each has its own end."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import config as configuration
from experiments import loop, tasks
from gsm import data

ROOT = Path(__file__).parent.parent
SMALL = {
    "model.num_latents": 3, "num_steps": 20, "eval_every": 10, "log_every": 10,
    "evaluation.valid_samples": 2, "evaluation.test_samples": 4,
}  # fmt: skip


def small(**changes):
    config = configuration.load(str(ROOT / "configs/cat_vae.py") + ":digits")
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(SMALL | changes)
    return configuration.check(config)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_runs_together_are_the_runs_alone(tmp_path):
    """Seeds, rates and where learned parts start (here the baseline) are each run's own."""
    configs = [
        small(estimator="score_function", seed=3),
        small(
            estimator="score_function", seed=4, optimizer__learning_rate=1e-2, signal__constant=99.0
        ),
    ]
    folders = [tmp_path / str(i) for i in range(2)]
    together = loop.train_together(configs, folders)
    alone = loop.train(configs[1], tmp_path / "alone")
    for name, value in alone.items():
        if "seconds" not in name and "per_second" not in name:
            same = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert together[1][name] == same, name
    pairs = zip(rows_of(folders[1]), rows_of(tmp_path / "alone"), strict=True)
    for row, row_alone in pairs:
        np.testing.assert_allclose(row["loss"], row_alone["loss"], rtol=1e-4)
        assert row["learned_baseline"] == pytest.approx(row_alone["learned_baseline"], rel=1e-4)
    losses = [[row["loss"] for row in rows_of(folder)] for folder in folders]
    assert not np.allclose(*losses, rtol=1e-3)


def test_a_run_that_fails_does_not_stop_the_others_and_the_rest_goes_on_from_where_it_was(tmp_path):
    fine = small(temperature__update_every=10)
    failing = small(
        temperature__update_every=10, temperature__rate=100.0, temperature__floor=1.2e-38
    )
    folders = [tmp_path / "failing", tmp_path / "fine"]
    failed, finished = loop.train_together([failing, fine], folders)
    assert isinstance(failed, loop.Diverged)
    assert "the loss of step 11 is not finite" in str(failed)
    assert finished["steps"] == 20
    assert not (folders[0] / "result.json").exists()
    # Its checkpoint of step 10 is kept; one that starts now catches up with it.
    late = small(temperature__update_every=10, seed=1)
    failed, third = loop.train_together([failing, late], [folders[0], tmp_path / "late"])
    assert "step 11" in str(failed)
    assert third["steps"] == 20
    assert [row["step"] for row in rows_of(tmp_path / "late")] == [10, 20]


def test_a_run_that_diverges_keeps_the_state_before_and_the_others_go_on(tmp_path):
    # A step multiplies the kernels by 1 - 1,000 times the learning rate: by -1.3 or, here, by 0.
    growing = small(optimizer__weight_decay=1_000.0, optimizer__learning_rate=2.3e-3)
    fine = small(optimizer__weight_decay=1_000.0, optimizer__learning_rate=1e-3)
    folders = [tmp_path / "growing", tmp_path / "fine"]
    failed, finished = loop.train_together([growing, fine], folders)
    assert isinstance(failed, loop.Diverged)
    assert "validation bound of step 20 is -" in str(failed)
    assert "nats, more than 10 times the -543.4 of a uniform guess" in str(failed)
    assert "The checkpoint of step 10 is kept" in str(failed)
    assert finished["steps"] == 20
    assert [path.name for path in (folders[0] / "checkpoints").iterdir()] == ["10"]
    assert [row["step"] for row in rows_of(folders[0])] == [10]


def test_the_uniform_guess_is_of_the_pixels_that_are_predicted():
    dataset = data.load("digits")
    guesses = []
    for name in ("cat_vae", "cat_sbn", "semisup"):
        config = configuration.load(str(ROOT / f"configs/{name}.py") + ":digits")
        guesses.append(tasks.build(configuration.check(config), dataset).uniform_guess)
    np.testing.assert_allclose(guesses, np.log(2) * np.array([784, 392, 784]))


def test_the_learning_curve_is_the_reported_bound_and_without_samples_no_test_bound(tmp_path):
    """On all test images the last point of the curve is the result itself."""
    everything = small(evaluation__curve_images=10_000, num_steps=10, evaluation__test_samples=4)
    result = loop.train(everything, tmp_path / "curve")
    rows = rows_of(tmp_path / "curve")
    assert [row["curve_nll_m4"] for row in rows] == [result["test_nll_m4"]]
    untested = loop.train(small(evaluation__test_samples=0, num_steps=10), tmp_path / "untested")
    assert not [name for name in untested if name.startswith("test_nll")]
    assert untested["valid_nll_m2"] == result["valid_nll_m2"]
    assert (tmp_path / "untested" / "figures" / "learning_curve.png").exists()


def test_images_of_the_curve_are_spread_over_a_set_sorted_by_class():
    images = jnp.arange(10_000)
    chosen = np.asarray(loop.evenly_spaced(images, 500))
    assert len(np.unique(chosen)) == 500
    assert np.ptp(np.diff(chosen)) == 0
    assert len(loop.evenly_spaced(images, 20_000)) == 10_000


def test_configs_of_one_program_differ_as_the_task_says(tmp_path):
    """Every field of SETTINGS is traced: a task built on another's functions reads its own."""
    dataset = data.load("digits")
    first = small()
    shared = tasks.build(first, dataset)
    known = dict(configuration.fields(first))
    for name in tasks.SETTINGS:
        other = small(**{name.replace(".", "__"): known[name] / 2 + 0.1})
        built = tasks.build(other, dataset, shared)
        differing = [key for key in shared.settings if shared.settings[key] != built.settings[key]]
        assert len(differing) == 1
        assert built.program.loss is shared.program.loss
        assert built.train is shared.train
