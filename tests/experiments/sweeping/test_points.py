"""The points of a sweep: read from a file, cut into jobs, chosen by pilots, the same run or not."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.sweeps import grid
from experiments.running import training
from experiments.sweeping import points
from experiments.tasks import base
from experiments.tasks.checks import ConfigError
from tests.experiments.sweeping.stand_ins import annealing, load, write_sweep


def test_a_grid_is_all_combinations_the_last_axis_fastest():
    points = grid("c.py", {"a": (1, 2), "b": ("x", "y")})
    assert points[1] == {"config": "c.py", "a": 1, "b": "y"}
    assert len(points) == 4


def test_a_grid_of_the_command_line_varies_a_config_or_every_point_of_a_file(tmp_path, here):
    axes = ["temperature.rate=1e-5,1e-4", "keep=best", "model.hidden_sizes=(),(32,16)"]
    alone = points.load_sweep("configs/cat_vae.py:digits", grid=axes[:2])
    assert [point.overrides for point in alone.points] == [
        {"config": "configs/cat_vae.py:digits", "temperature.rate": rate, "keep": "best"}
        for rate in (1e-5, 1e-4)
    ]
    path = write_sweep(tmp_path, [{"seed": 0}, {"seed": 1}])
    both = points.load_sweep(str(path), num_steps=50, grid=axes[2:]).points
    seen = [(p.config.seed, p.config.model.hidden_sizes, p.config.num_steps) for p in both]
    assert seen == [(seed, sizes, 50) for seed in (0, 1) for sizes in ((), (32, 16))]


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("temperature.rat=1", "the config has no field 'temperature.rat'; did you mean temperat"),
        ("seed", "--grid takes each field once, as FIELD=VALUE,VALUE; got 'seed'"),
        ("seed=", "--grid takes each field once"),
        ("seed=0,1.5", "config.seed must be a whole number; got '1.5'"),
        ("temperature.rate=low", "config.temperature.rate must be a number; got 'low'"),
        ("model.center_inputs=maybe", "config.model.center_inputs must be true or false; got 'm"),
        ("model.hidden_sizes=(3,x)", "config.model.hidden_sizes must be a tuple, such as "),
        ("estimator=none", "point 1 of .*: config.estimator must be one of exact"),
    ],
)
def test_an_axis_that_cannot_serve_is_reported_in_one_line(axis, message, here):
    with pytest.raises(ConfigError, match=f"^{message}") as refusal:
        points.load_sweep("configs/cat_vae.py:digits", grid=[axis])
    assert "\n" not in str(refusal.value)
    with pytest.raises(ConfigError, match="takes each field once"):
        points.load_sweep("configs/cat_vae.py:digits", grid=["seed=1", "seed=2"])


def test_sweep_files_and_points_that_cannot_serve_are_reported_in_one_line(tmp_path, here):
    def reports(path, pattern):
        with pytest.raises(ConfigError, match=pattern) as refusal:
            points.load_sweep(str(path))
        assert "\n" not in str(refusal.value)

    reports(
        "configs/sweeps/nope.py", "no sweep file 'configs/sweeps/nope.py'; sweeps here: configs/s"
    )
    path = write_sweep(tmp_path, [{"seeds": 1}])
    reports(path, "point 1 of .*: the config has no field 'seeds'")
    path = write_sweep(tmp_path, [{"seed": 0}, {"estimator": "none"}])
    reports(path, "point 2 of .*: config.estimator must be one of exact")
    reports(write_sweep(tmp_path, []), "returns no points")
    for wrong in (
        {"config": None}, {"optimizer.momentum": 10**400}, {"data": {".g": 1}},
        {"seed": {".g": 1}},
    ):  # fmt: skip
        reports(write_sweep(tmp_path, [wrong]), "point 1 of ")
    for wrong in ("['seed']", "[{'seed': 0}]", "[{'config': []}]"):
        path.write_text(f"def get_sweep():\n    return {wrong}\n")
        reports(path, 'point 1 of .* must be a dictionary with a config file as "config"; got ')
        with pytest.raises(ConfigError, match='with a config file as "config"'):
            points.load_sweep(str(path), grid=["seed=1"])
    path.write_text("PILOT = ('lr',)\n" + write_sweep(tmp_path, [{}]).read_text())
    reports(path, "PILOT of .*: no config of its points has the field 'lr'")
    for wrong in ("None", "3", "'seed'", "(3,)"):
        path.write_text(f"PILOT = {wrong}\n" + write_sweep(tmp_path, [{}]).read_text())
        reports(path, "PILOT of .* must be a tuple of names of fields")
    path = write_sweep(tmp_path, [{"select": "rate"}, {"select": "nll"}])
    reports(path, "tiny.py: config.select must be the same in all points; got nll, rate")
    path.write_text("def get_sweep():\n    return 1 / 0\n")
    reports(path, "raises ZeroDivisionError: division by zero")
    path.write_text("def get_sweep():\n    yield 1 / 0\n")
    reports(path, "raises ZeroDivisionError: division by zero")
    path.write_text("def get_sweep():\n    return 3\n")
    reports(path, "raises TypeError: 'int' object is not iterable")
    path.write_text("")
    reports(path, r"has no function get_sweep\(argument\)")


def test_the_sweeps_of_the_repository_resolve(here):
    annealing = points.load_sweep("configs/sweeps/annealing.py:digits", num_steps=700).points
    assert len(annealing) == 24
    assert {point.config.num_steps for point in annealing} == {700}
    axes = ["temperature.rate", "temperature.update_every", "temperature.floor", "seed"]
    assert points.swept(annealing) == axes
    table1 = points.load_sweep("configs/sweeps/table1.py:digits")
    cells = {
        (point.config.task, point.config.model.num_classes, point.config.estimator)
        for point in table1.points
    }
    assert len(cells) == 28
    assert {point.config.num_steps for point in table1.points} == {545_000}
    for name in ("table2", "table2_cpu"):
        table2 = points.load_sweep(f"configs/sweeps/{name}.py:digits")
        assert {point.config.select for point in table2.points} == {"accuracy"}
        assert len({point.config.estimator for point in table2.points}) == 5


def test_points_of_one_program_differ_in_seeds_and_float_settings_only(tmp_path, here):
    listed = [
        {"seed": 0}, {"seed": 1}, {"temperature.rate": 0.0}, {"optimizer.learning_rate": 0.1},
        {"estimator": "rloo"}, {"estimator": "rloo", "seed": 5}, {"batch_size": 7},
        {"signal.decay": 0.5},
    ]  # fmt: skip
    sweep = points.load_sweep(str(write_sweep(tmp_path, listed)))
    number = {point.hash: i for i, point in enumerate(sweep.points)}

    def cut(together):
        return [[number[p.hash] for p in job] for job in points.jobs(sweep.points, together)]

    assert cut(64) == [[0, 1, 2, 3], [4, 5], [6], [7]]
    assert cut(3) == [[0, 1, 2], [3], [4, 5], [6], [7]]
    assert cut(1) == [[i] for i in range(8)]
    backwards = sweep.points[::-1]
    assert list(points.jobs(backwards, 1)) == [[point] for point in backwards]


def test_pilots_choose_for_each_kind_and_never_read_the_test_set(tmp_path, here):
    rates = (0.1, 0.2)
    listed = [
        {"estimator": name, "optimizer.learning_rate": rate, "seed": seed}
        for name in ("darn", "rloo")
        for rate in rates
        for seed in (0, 1)
    ]
    path = write_sweep(tmp_path, listed)
    path.write_text("PILOT = ('optimizer.learning_rate',)\n" + path.read_text())
    sweep = points.load_sweep(str(path))
    short = points.pilots(sweep, 40)
    assert [(p.config.seed, p.config.num_steps, p.config.eval_every) for p in short] == [
        (0, 40, 40)
    ] * 4
    assert {p.config.evaluation.test_samples for p in short} == {0}  # no test set is read
    # darn does best at the first rate; of rloo the first pilot failed.
    keys = [points.pilot_key(sweep, p) for p in short]
    assert len(set(keys)) == 4
    bounds = dict(zip(keys, (1.0, 2.0, None, 9.0), strict=True))
    full = points.chosen(sweep, {key: value for key, value in bounds.items() if value})
    of = [(p.config.estimator, p.config.optimizer.learning_rate, p.config.seed) for p in full]
    assert of == [("darn", 0.1, 0), ("darn", 0.1, 1), ("rloo", 0.2, 0), ("rloo", 0.2, 1)]
    assert {p.config.num_steps for p in full} == {100}
    assert points.chosen(sweep, {}) == []
    # A kind that has other seeds has pilots as well.
    other = [{"estimator": "rloo", "optimizer.learning_rate": 0.1, "seed": seed} for seed in (2, 1)]
    path = write_sweep(tmp_path, [listed[0], *other])
    path.write_text("PILOT = ('optimizer.learning_rate',)\n" + path.read_text())
    found = points.pilots(points.load_sweep(str(path)), 40)
    assert [(p.config.estimator, p.config.seed) for p in found] == [("darn", 0), ("rloo", 2)]
    # What pilots could not tell apart is run in full.
    assert len(points.chosen(sweep, dict.fromkeys(keys, 1.0))) == len(sweep.points)


def test_points_whose_schedules_are_equal_in_training_are_one_run(tmp_path, here):
    """Held to what training computes at every step, in float32."""
    listed = annealing(2_500) + annealing(500)
    slopes = [{"slope.rate": rate, "slope.cap": cap} for rate in (0.0, 1e-9, 1.0) for cap in (1, 2)]
    # The slope is updated with the temperature, which this estimator does not read.
    slopes += [{"slope.rate": 1.0, "temperature.update_every": every} for every in (10, 99, 100)]
    slopes = [{"estimator": "slope_annealed_st", "temperature.rate": i, **slope} for i, slope in
              enumerate(slopes)]  # fmt: skip
    listed += load(tmp_path, slopes)

    def seen(point):
        config = point.config
        at = jax.jit(jax.vmap(base.hyperparams(config), (0, None)))
        values = at(jnp.arange(config.num_steps), training.settings_of(config))
        name = "slope" if config.estimator == "slope_annealed_st" else "temperature"
        return config.seed, name, np.asarray(getattr(values, name)).tobytes()

    expected = {}
    for point in listed:
        expected.setdefault(seen(point), []).append(point)
    assert points.runs(listed) == list(expected.values())
    assert [len(same) for same in points.runs(annealing(500))] == [12, 12]
    # In the whole of the paper's run only a floor of 1 makes them equal.
    assert sorted(len(same) for same in points.runs(annealing(545_000))) == [1] * 16 + [4] * 2


def test_fields_that_an_estimator_does_not_read_make_no_run_of_their_own(tmp_path, here):
    def runs(*changes, **common):
        listed = load(tmp_path, [common | one for one in changes])
        return [len(same) for same in points.runs(listed)]

    temperatures = [{"temperature.initial": value} for value in (1.0, 2.0)]
    backward = [{"temperature.backward": value} for value in (1.0, 2.0)]
    assert runs(*temperatures, *backward, estimator="straight_through") == [3]
    assert runs(*temperatures, estimator="gumbel_softmax") == [1, 1]
    assert runs(*backward, estimator="gumbel_softmax") == [2]
    assert runs(*backward, estimator="decoupled_gumbel_softmax") == [1, 1]
    assert runs(*backward, estimator="reinmax") == [1, 1]
    assert runs(*temperatures, estimator="reinmax") == [2]
    assert runs({"seed": 0}, {"seed": 1}, estimator="straight_through") == [1, 1]
    # A temperature that is learned only starts at the schedule's.
    rates = [{"temperature.rate": value, "temperature.update_every": 10} for value in (0.01, 0.02)]
    assert runs(*rates, *temperatures, estimator="rebar") == [3, 1]
    assert runs(*rates, **{"estimator": "rebar", "control.learn": False}) == [1, 1]


def test_equal_points_are_found_fast_in_the_longest_run(here):
    listed = annealing(545_000)[:1] * 50
    often = [point._replace(config=point.config.copy_and_resolve_references()) for point in listed]
    for point in often:
        point.config.temperature.update_every = 1
    start = time.monotonic()
    assert len(points.runs(often)) == 1
    assert time.monotonic() - start < 10


def test_a_rate_for_the_length_of_the_run_becomes_a_number(tmp_path, here):
    path = write_sweep(tmp_path, [])
    point = "{'config': 'configs/cat_vae.py:digits', 'temperature.rate': PerRun(3)}"
    path.write_text(
        "from configs.sweeps import PerRun\nPILOT = ('temperature.rate',)\n"
        f"def get_sweep():\n    return [{point}, {point} | {{'num_steps': 200}}]\n"
    )

    def rates(listed):
        return [(point.config.num_steps, point.config.temperature.rate) for point in listed]

    sweep = points.load_sweep(str(path))
    assert rates(sweep.points) == [(5_000, 3 / 5_000), (200, 3 / 200)]
    assert sweep.points[1].overrides["temperature.rate"] == 3 / 200
    assert rates(points.pilots(sweep, 40)) == [(40, 3 / 5_000), (40, 3 / 200)]
    assert rates(points.load_sweep(str(path), num_steps=1_000).points) == [(1_000, 3 / 1_000)]


def test_schedules_other_than_the_usual_keep_their_fields_apart(tmp_path, here):
    """What they compute is not known here: points that differ in a field are runs of their own."""
    schedule = {"temperature.schedule": "linear", "temperature.rate": 1e-5}
    listed = load(tmp_path, [schedule | {"temperature.floor": floor} for floor in (0.1, 0.2)])
    assert len(points.runs(listed)) == 2
    assert len(points.runs(load(tmp_path, [schedule, schedule | {"seed": 1}]))) == 2


def test_pilots_of_a_task_without_evaluation_fields_are_shorter_and_no_more(tmp_path, here):
    rates = [{"optimizer.learning_rate": rate} for rate in (0.1, 0.2)]
    path = write_sweep(tmp_path, rates, "configs/polynomial.py", {"num_steps": 40})
    path.write_text("PILOT = ('optimizer.learning_rate',)\n" + path.read_text())
    short = points.pilots(points.load_sweep(str(path)), 10)
    assert [(p.config.num_steps, p.config.eval_every) for p in short] == [(10, 10)] * 2


def test_a_point_is_named_by_the_fields_that_its_training_reads():
    table = points.load_sweep("configs/sweeps/table1.py:digits").points
    names = points.swept(table)
    assert {"temperature.rate", "slope.rate", "kl"} <= set(names)

    def named(estimator, config):
        return {
            name
            for point in table
            if point.config.estimator == estimator and config in point.field("config")
            for name in points.concerning(point, names)
        }

    assert not {"temperature.rate", "slope.rate"} & named("straight_through", "cat_vae")
    assert "temperature.rate" in named("gumbel_softmax", "cat_vae")
    assert "slope.rate" in named("slope_annealed_st", "cat_sbn")
    assert "kl" in named("gumbel_softmax", "cat_vae") - named("gumbel_softmax", "cat_sbn")
    backward = points.resolve(
        {"config": "configs/reinmax_vae.py:digits", "estimator": "reinmax", "num_samples": 0}
    )
    fields = ("temperature.backward", "temperature.rate", "num_samples")
    assert points.concerning(backward, fields) == ["temperature.backward"]
    bound = points.resolve(
        {"config": "configs/cat_vae.py:digits", "objective": "vimco", "num_samples": 5}
        | {"estimator": "score_function"}
    )
    assert points.concerning(bound, fields) == ["num_samples"]
