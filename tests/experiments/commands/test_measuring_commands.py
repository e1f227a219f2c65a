"""The commands that compare estimators, as a user types them, at a small size; and their page."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from experiments import figures
from gsm.registry import ESTIMATORS

ROOT = Path(__file__).parents[3]


def command(module, *options, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *options],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def assert_figures(folder, *names):
    assert {path.stem for path in folder.glob("*.png")} == set(names)
    for name in names:
        image = matplotlib.image.imread(folder / f"{name}.png")
        assert image[..., :3].std() > 0.01, f"{name} is of one colour"


SMALL = ("--config=configs/small_vae.py:digits", "--config.model.num_classes=3")


@pytest.mark.slow
def test_variance_measures_what_was_asked_and_finds_what_is_known(tmp_path):
    """Less bias of Gumbel-Softmax at a low temperature and the reverse of its variance; none of an
    unbiased estimator; an exact reference; costs that are variance times evaluations."""
    out = tmp_path / "out"
    ended = command(
        "variance", *SMALL, "--steps=20", "--keys=400", "--temperatures=0.1,2", "--images=5",
        "--estimators=rloo", f"--out={out}",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(out)
    rows = rows_of(out / "variance.csv")
    assert {row["group"] for row in rows} == {"all", "encoder", "decoder", "prior_logits"}
    assert len(rows) == 4 * 4  # groups, and three temperatures of the one that has them
    about = json.loads((out / "variance.json").read_text())
    assert about["provenance"]["command"].startswith("python -m experiments.variance --config=")
    assert about["config"]["model.num_classes"] == 3
    points = {
        (row["estimator"], row["at"], row["temperature"]): row
        for row in rows
        if row["group"] == "encoder"
    }
    assert {row["reference"] for row in rows} == {"exact"}
    assert {row["step"] for row in rows} == {"20"}
    cold, hot = (points["gumbel_softmax", "chosen", t] for t in ("0.1", "2"))
    assert float(hot["bias_low"]) > float(cold["bias_high"])
    assert float(hot["variance_high"]) < float(cold["variance_low"])
    unbiased = points["rloo", "schedule", ""]
    assert float(unbiased["bias_low"]) == 0
    np.testing.assert_allclose(
        float(unbiased["variance_per_evaluation"]), 4 * float(unbiased["variance"]), rtol=2e-3
    )
    assert_figures(out, "estimators_step20", "temperature")


@pytest.mark.slow
def test_variance_measures_every_estimator_and_what_they_learned(tmp_path):
    """Bernoulli units, which all of them serve."""
    out = tmp_path / "out"
    units = ("--config.model.num_latents=4", "--config.model.num_classes=2")
    ended = command(
        "variance", SMALL[0], *units, "--steps=0,200", "--keys=200", "--temperatures=0.1,2",
        "--images=5", f"--out={out}",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    rows = [row for row in rows_of(out / "variance.csv") if row["group"] == "encoder"]
    assert {row["estimator"] for row in rows} == set(ESTIMATORS) - {"exact"}
    for row in rows:
        if ESTIMATORS[row["estimator"]].unbiased == "any":
            assert float(row["bias_low"]) < 0.1
        if row["estimator"] == "rebar":
            assert row["at"] == "schedule"
            assert float(row["temperature"]) != 1  # it learned another


NOISY = """
import jax, jax.numpy as jnp
from experiments.tasks import polynomial
from experiments.tasks.polynomial import check, default_config

def get_config():
    config = default_config()
    config.task = "noisy"
    config.model.num_units = 3
    return config

def build(config, dataset=None):
    task = polynomial.build(config)
    def loss(params, key, batch, hyperparams):
        noise = 0.005 * jax.random.normal(jax.random.fold_in(key, 7))
        surrogate = task.loss(params, key, batch, hyperparams)
        return surrogate + noise * jnp.sum(params["model"]["logits"])
    return task._replace(loss=loss)
"""


@pytest.mark.slow
def test_variance_averages_the_exact_gradient_of_a_loss_with_noise_of_its_own(tmp_path):
    """A task of the user's, without a dataset and with one group of parameters. The gradient with
    respect to each logit is about 0.25 * 0.1 / 3, so the noise of one estimate is 0.6 of it."""
    (tmp_path / "noisy.py").write_text(NOISY)
    out = tmp_path / "out"
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    ended = command(
        "variance", f"--config={tmp_path / 'noisy.py'}", "--steps=0", "--keys=400",
        "--temperatures=0.1", "--estimators=rloo", f"--out={out}", PYTHONPATH=path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    rows = {(row["estimator"], row["temperature"]): row for row in rows_of(out / "variance.csv")}
    assert {row["group"] for row in rows.values()} == {"all"}
    assert {row["reference"] for row in rows.values()} == {"exact"}
    for row in rows.values():
        assert 0.02 < float(row["reference_error"]) < 0.045  # 0.6 / sqrt(400)
    assert float(rows["rloo", ""]["bias_low"]) < 0.1
    assert_figures(out, "estimators_step0", "temperature")


REFUSED = [
    (["--estimators=disarm"], "config.estimator=disarm needs two classes"),
    (["--estimators=gumbel_max"], "config.estimator must be one of exact, .*; got 'gumbel_max'"),
    (["--steps=5,1"], "--steps must be increasing whole numbers, 0 or more; got '5,1'"),
    (["--temperatures=0,1"], "--temperatures must be increasing positive numbers; got '0,1'"),
    (["--keys=60"], "--keys must be a multiple of 40; got 60"),
    (["--config.objective=vimco", "--config.estimator=score_function"], "leave config.objective="),
]


def test_variance_reports_in_one_line_what_is_invalid():
    """In one process: that of a command takes seconds to begin."""
    code = f"""
import sys
from absl.testing import flagsaver
from experiments import variance
from experiments.running import command_line
for options in {[options for options, _ in REFUSED]}:
    sys.argv = ["experiments/variance.py", *{SMALL}, *options]
    with flagsaver.flagsaver():
        try:
            command_line._parse(sys.argv)
            with command_line.one_line_errors():
                variance.main()
        except SystemExit as end:
            print(end.code)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = ended.stdout.splitlines()
    assert len(lines) == len(REFUSED), ended.stdout
    for line, (_, told) in zip(lines, REFUSED, strict=True):
        assert re.fullmatch(f"error: .*{told}.*", line), line


@pytest.mark.slow
def test_the_toy_reaches_its_optimum_by_unbiased_gradients_alone(tmp_path):
    out = tmp_path / "toy"
    ended = command(
        "toy", "--estimator=disarm", "--estimator=exact", "--keys=20000", "--steps=600",
        "--seeds=20", f"--out={out}",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    last = {row["estimator"]: row for row in rows_of(out / "curves.csv") if row["step"] == "600"}
    assert set(last) == {"gumbel_softmax", "disarm", "exact"}
    assert float(last["disarm"]["loss"]) < 0.205  # of 0.2025
    assert float(last["exact"]["loss"]) < 0.205
    assert float(last["gumbel_softmax"]["loss_low"]) > 0.23
    rows = {
        (row["logit"], row["estimator"], row["temperature"]): row
        for row in rows_of(out / "variance.csv")
    }
    assert {name for _, name, _ in rows} == {"gumbel_softmax", "disarm"}
    assert float(rows["-1", "gumbel_softmax", "0.05"]["bias_low"]) < 0.2
    assert float(rows["-1", "gumbel_softmax", "1"]["bias_low"]) > 1.5  # 1.74 by quadrature
    assert float(rows["-1", "gumbel_softmax", "1"]["bias_high"]) < 2.0
    assert float(rows["-1", "disarm", ""]["bias_low"]) == 0
    assert_figures(out, "temperature", "optimisation", "estimators")


def test_the_toy_has_all_that_every_estimator_needs():
    """Shapes alone: the command trains every estimator, which takes minutes."""
    code = """
import functools, jax
from experiments import toy
from experiments.running import loop, measuring, training
from gsm.registry import ESTIMATORS

config = toy.config_of(0.45, 1.5, 3)
for name in ESTIMATORS:
    built = loop.build(measuring.with_estimator(config, name), None)
    state = jax.eval_shape(functools.partial(training.init_state, built.program), jax.random.key(0))
    step = functools.partial(training.train_step, built.program)
    after, loss = jax.eval_shape(step, built.task.train, built.settings, state)
    assert after.params["model"]["logits"].shape == (3,)
    assert loss.shape == ()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_toy_refuses_a_number_of_keys_that_makes_no_even_batches():
    ended = command("toy", "--keys=30000")
    assert ended.returncode == 1
    assert ended.stderr == "error: --keys must be a multiple of 20,000; got 30000\n"


def test_temperature_goes_from_the_classes_to_uniform(tmp_path):
    options = ("--probabilities=7,2,1", "--temperatures=0.05,100", "--quick", "--samples=2")
    ended = command("temperature", *options, f"--out={tmp_path}")
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "temperature.json").read_text())["draws"] == 10_000
    assert re.search(r"^temperature 3/3 .* left$", ended.stderr, re.M)
    assert_figures(tmp_path, "temperature")
    rows = rows_of(tmp_path / "temperature.csv")
    table = {
        (float(row["temperature"]), row["class"]): {k: float(v) for k, v in row.items()}
        for row in rows
    }
    for k, probability in zip("012", (0.7, 0.2, 0.1), strict=True):
        for at, expected in ((0.0, probability), (0.05, probability), (100.0, 1 / 3)):
            assert abs(table[at, k]["expectation"] - expected) < 0.02
    for i in (1, 2):  # one draw: its largest class does not change
        drawn = [max("012", key=lambda k, t=t: table[t, k][f"sample_{i}"]) for t in (0.05, 100.0)]
        assert len(set(drawn)) == 1
        assert {table[0.0, k][f"sample_{i}"] for k in "012"} == {0.0, 1.0}


def test_temperature_refuses_temperatures_that_are_none():
    ended = command("temperature", "--temperatures=0,1")
    assert ended.returncode == 1
    assert (
        "error: --temperatures must be 1 or more increasing positive numbers; got '0,1'"
        in ended.stderr
    )


def test_every_estimator_has_a_colour_of_its_own():
    colours = figures.ESTIMATOR_COLOURS
    assert set(colours) == {*ESTIMATORS, "vimco", "iwae"}
    assert len(set(colours.values())) == len(colours)
