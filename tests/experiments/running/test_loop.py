"""The host loop: runs together in one program are the runs alone, and each has its own end."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data, figures
from experiments.running import config as configuration
from experiments.running import loop
from experiments.tasks import base
from gsm.schedules import SCHEDULES
from tests.experiments.runs import ROOT, result_of, rows_of, small, without_times


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
        assert row["learned/baseline"] == pytest.approx(row_alone["learned/baseline"], rel=1e-4)
    losses = [[row["loss"] for row in rows_of(folder)] for folder in folders]
    assert not np.allclose(*losses, rtol=1e-3)


def test_a_run_that_fails_does_not_stop_the_others_and_the_rest_resumes(tmp_path):
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


def test_a_run_that_diverges_keeps_the_state_before_and_the_others_finish(tmp_path):
    # A step multiplies the kernels by 1 - 1,000 times the learning rate: by -1.3 or, here, by 0.
    growing = small(optimizer__weight_decay=1_000.0, optimizer__learning_rate=2.3e-3)
    fine = small(optimizer__weight_decay=1_000.0, optimizer__learning_rate=1e-3)
    folders = [tmp_path / "growing", tmp_path / "fine"]
    failed, finished = loop.train_together([growing, fine], folders)
    assert isinstance(failed, loop.Diverged)
    assert "valid/nll at step 20 is " in str(failed)
    assert ", more than 10 times the 543.4 of a uniform guess" in str(failed)
    assert "The checkpoint of step 10 is kept" in str(failed)
    assert finished["steps"] == 20
    assert [path.name for path in (folders[0] / "checkpoints").iterdir()] == ["10"]
    assert [row["step"] for row in rows_of(folders[0])] == [10]


def test_the_guess_of_a_bound_is_of_the_pixels_that_are_predicted():
    dataset = data.load("digits")
    guesses = []
    for name in ("cat_vae", "cat_sbn", "semisup"):
        config = configuration.check(configuration.load(f"{ROOT}/configs/{name}.py:digits"))
        split = loop.build(config, dataset).task.held_out["valid"]
        guesses.append(split.metrics["nll"].guess)
    np.testing.assert_allclose(guesses, np.log(2) * np.array([784, 392, 784]))


@pytest.mark.usefixtures("drawn")
def test_the_learning_curve_is_the_reported_bound_and_without_samples_no_test_bound(tmp_path):
    """On all test images the last point of the curve is the result itself."""
    everything = small(evaluation__curve_images=10_000, num_steps=10, evaluation__test_samples=4)
    result = loop.train(everything, tmp_path / "curve")
    rows = rows_of(tmp_path / "curve")
    assert [row["curve/nll"] for row in rows] == [result["test/nll"]]
    untested = loop.train(small(evaluation__test_samples=0, num_steps=10), tmp_path / "untested")
    assert not [name for name in untested if name.startswith("test/")]
    assert untested["valid/nll"] == result["valid/nll"]
    assert (tmp_path / "untested" / "figures" / "nll.png").exists()


def test_examples_of_the_curve_are_spread_over_a_set_sorted_by_class():
    examples = {"image": jnp.arange(10_000), "label": jnp.arange(10_000)}
    chosen = np.asarray(base.evenly_spaced(examples, 500)["label"])
    assert len(np.unique(chosen)) == 500
    assert np.ptp(np.diff(chosen)) == 0
    assert len(base.evenly_spaced(examples, 20_000)["image"]) == 10_000


@pytest.mark.parametrize("name", ["cat_vae", "polynomial"])
def test_experiments_of_one_program_differ_in_their_traced_fields_alone(name):
    """An experiment built on another's functions reads its own value of every traced field."""
    first = small() if name == "cat_vae" else polynomial()
    dataset = loop.load_dataset(first)
    shared = loop.build(first, dataset)
    known = dict(configuration.fields(first))
    for field in base.traced_fields(first):
        other = first.copy_and_resolve_references()
        other.update_from_flattened_dict({field: known[field] / 2 + 0.1})
        built = loop.build(configuration.check(other), dataset, shared)
        differing = [key for key in shared.settings if shared.settings[key] != built.settings[key]]
        assert differing == [field]
        assert built.program.loss is shared.program.loss
        assert built.task.train is shared.task.train


def polynomial(**changes):
    config = configuration.load(f"{ROOT}/configs/polynomial.py")
    short = {"num_steps": 20, "eval_every": 10, "log_every": 10, "model.num_units": 4}
    changes = {field.replace("__", "."): value for field, value in changes.items()}
    config.update_from_flattened_dict(short | changes)
    return configuration.check(config)


def test_runs_without_a_dataset_train_together(tmp_path):
    configs = [polynomial(estimator="rloo", seed=seed) for seed in (0, 1)]
    together = loop.train_together(configs, [tmp_path / "0", tmp_path / "1"])
    alone = loop.train(configs[1], tmp_path / "alone")
    assert together[1]["valid/cost"] == pytest.approx(alone["valid/cost"], rel=1e-4)
    assert together[0]["valid/cost"] != together[1]["valid/cost"]


# --- schedules by name ---


def temperatures(folder):
    return [row["temperature"] for row in rows_of(folder)]


def test_a_schedule_is_chosen_by_its_name(tmp_path):
    """A row has the temperature of its last step; here of steps 9 and 19."""
    rising = polynomial(
        temperature__schedule="linear", temperature__rate=0.25, temperature__update_every=2
    )
    loop.train(rising, tmp_path / "linear")
    assert temperatures(tmp_path / "linear") == [3.0, 5.5]
    falling = polynomial(temperature__rate=0.05, temperature__update_every=2)
    loop.train(falling, tmp_path / "exponential")
    expected = [np.exp(-0.4), 0.5]
    np.testing.assert_allclose(temperatures(tmp_path / "exponential"), expected, rtol=1e-6)


def test_the_schedule_of_the_slope_reaches_the_estimator(tmp_path):
    """The slope falls exponentially in place of rising: other estimates after its first update."""
    losses = {}
    for name, floor in (("exponential", 1e-2), ("exponential", 1.0), ("linear", 1.0)):
        config = polynomial(
            estimator="slope_annealed_st", temperature__update_every=10, slope__schedule=name,
            slope__rate=0.0 if name == "linear" else 1.0, optimizer__learning_rate=0.1,
        )  # fmt: skip
        with config.unlocked():
            config.slope.floor = floor
        folder = tmp_path / f"{name}-{floor}"
        loop.train(config, folder)
        losses[name, floor] = [row["loss"] for row in rows_of(folder)]
    constant, falling = losses["linear", 1.0], losses["exponential", 1e-2]
    assert losses["exponential", 1.0] == constant
    assert falling[0] == constant[0]
    assert falling[1] != constant[1]


def test_a_schedule_of_one_s_own_is_chosen_by_its_name(tmp_path, monkeypatch):
    """Its parameters are fields of the group and the length of the run; floats are traced."""

    def triangle(initial, peak, num_steps):
        return lambda step: initial + peak * (1 - jnp.abs(2 * step / num_steps - 1))

    monkeypatch.setitem(SCHEDULES, "triangle", triangle)
    configs = []
    for peak in (1.0, 2.0):
        config = polynomial(temperature__initial=0.5)
        config.temperature.schedule = "triangle"
        with config.unlocked():
            config.temperature.peak = peak
        configs.append(configuration.check(config))
    assert "temperature.peak" in base.traced_fields(configs[0])
    loop.train_together(configs, [tmp_path / "1", tmp_path / "2"])
    np.testing.assert_allclose(temperatures(tmp_path / "1"), [0.5 + 0.9, 0.5 + 0.1], rtol=1e-5)
    np.testing.assert_allclose(temperatures(tmp_path / "2"), [0.5 + 1.8, 0.5 + 0.2], rtol=1e-5)


def test_a_whole_number_of_a_schedule_of_one_s_own_is_read_too(tmp_path, monkeypatch):
    def hold(initial, later, hold_steps=5):
        return lambda step: jnp.where(step < hold_steps, initial, later)

    monkeypatch.setitem(SCHEDULES, "hold", hold)
    config = polynomial(temperature__initial=0.5, temperature__update_every=1)
    config.temperature.schedule = "hold"
    with config.unlocked():
        config.temperature.later, config.temperature.hold_steps = 0.25, 15
    loop.train(configuration.check(config), tmp_path)
    assert temperatures(tmp_path) == [0.5, 0.25]


# --- a task of one's own: which metric chooses ---

OWN_TASK = '''
"""Counts steps up: every metric is known in advance, of data of no image's shape."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import defaults
from experiments.tasks import base
from experiments.tasks.base import HeldOut, Metric, Task


def default_config(dataset=""):
    config = defaults.common("own_task")
    config.num_steps, config.eval_every, config.log_every = 6, 2, 2
    config.select, config.keep = "height", "best"
    config.optimizer.name, config.optimizer.momentum = "sgd", 0.0
    config.optimizer.learning_rate = 1.0
    config.evaluation = ConfigDict({"maximize": True})
    return config


def check(config, checks):
    checks.one_of("select", ("height", "distance"))


def build(config, dataset):
    """w is the number of steps; the height is greatest, and the distance from 4 least, at 4."""
    def height(params, key, x):
        return -((params["model"]["w"] - 4.0) ** 2)

    metrics = {
        "height": Metric(height, maximize=config.evaluation.maximize),
        "distance": Metric(lambda *of: -height(*of)),
    }
    examples = {"a": jnp.zeros((3, 2, 2, 5)), "b": jnp.arange(3)}
    return Task(
        init=lambda key: {"model": {"w": jnp.float32(0)}, "estimator": {}},
        loss=base.mean_over_examples(lambda params, key, x, hyperparams: -params["model"]["w"]),
        prepare=lambda key, x: x,
        train=examples,
        held_out={"valid": HeldOut(examples, metrics), "test": HeldOut(examples, metrics)},
    )
'''


@pytest.fixture
def own_config(tmp_path, monkeypatch):
    """Makes configs of a task in a module outside of the package."""
    (tmp_path / "own_task.py").write_text(OWN_TASK)
    monkeypatch.syspath_prepend(tmp_path)
    import own_task

    def make(**changes):
        config = own_task.default_config()
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
        return configuration.check(config)

    yield make
    del sys.modules["own_task"]


@pytest.mark.parametrize(
    ("select", "maximize", "step"),
    [("height", True, 4), ("height", False, 2), ("distance", False, 4)],
)
def test_the_metric_that_chooses_does_so_in_its_direction(
    select, maximize, step, own_config, tmp_path
):
    """Of -4, 0, -4 at steps 2, 4, 6 the highest is at 4; the first of two that tie is kept."""
    config = own_config(select=select, evaluation__maximize=maximize)
    result = loop.train(config, tmp_path / "run")
    assert result["selected_step"] == step
    assert result["maximize"] == (select == "height" and maximize)
    assert result["test/height"] == result["valid/height"] == (0 if step == 4 else -4)
    # What the last step would have given is measured beside it.
    assert (result["last/height"], result["last/distance"]) == (-4, 4)
    _, params = loop.trained(tmp_path / "run")
    assert params["model"]["w"] == step


def test_the_last_step_is_kept_whatever_the_metric_says(own_config, tmp_path):
    result = loop.train(own_config(keep="last"), tmp_path / "run")
    assert (result["selected_step"], result["test/height"]) == (6, -4)
    assert "last/height" not in result
    assert loop.trained(tmp_path / "run")[1]["model"]["w"] == 6


def test_a_result_is_written_before_figures_are_drawn(own_config, tmp_path, monkeypatch):
    seen = []

    def draw(rows, result, pictures, folder):
        seen.append((tmp_path / "run" / "result.json").exists())

    monkeypatch.setattr(figures, "draw_run", draw)
    loop.train(own_config(), tmp_path / "run")
    assert seen == [True]


@pytest.mark.usefixtures("drawn")
def test_a_run_that_ended_while_it_drew_draws_again(own_config, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "run"
    draw = figures.draw_run

    def killed(rows, result, pictures, folder):
        (folder / "half.png").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(figures, "draw_run", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(own_config(), workdir)
    first = result_of(workdir)
    assert not (workdir / "figures").exists()
    monkeypatch.setattr(figures, "draw_run", draw)
    loop.train(own_config(), workdir)
    assert without_times(result_of(workdir)) == without_times(first)
    assert {path.name for path in (workdir / "figures").iterdir()} == {"height.png", "distance.png"}
    assert "is finished" not in capsys.readouterr().err
    loop.train(own_config(), workdir)
    assert "is finished" in capsys.readouterr().err
