"""What a sweep reports, with results that are already there and points that fail."""

import json
from unittest import mock

import pytest

from experiments import figures
from experiments.sweeping import jobs, outcomes, points, workers
from tests.experiments.sweeping.stand_ins import acts, annealing, finish, load, rows_of, write_sweep


def rates(number):
    return [{"optimizer.learning_rate": float(i)} for i in range(1, number + 1)]


def test_only_the_winner_s_test_number_is_reported(tmp_path, here, monkeypatch, capsys):
    """Of two points that tie the first in the sweep is the best, and a failed one never is."""
    listed = load(tmp_path, rates(4))
    # The last is best by the test set, and by the bound of validation the two before it.
    bounds = ((20.0, 22.25), (20.0, 23.25), (30.0, 1.25))
    for point, (valid, test) in zip(listed[1:], bounds, strict=True):
        finish(tmp_path, point, **{"valid/nll": valid, "test/nll": test, "maximize": False})
    acts(monkeypatch, "print('stopped: it diverged'); sys.exit(1)")
    ended = outcomes.run(listed, tmp_path, workers.LocalWorkers(1))
    assert [one.result is None for one in ended] == [True, False, False, False]
    shown = capsys.readouterr()
    assert "1/4  optimizer.learning_rate=2.0: valid/nll 20\n" in shown.err
    assert "4/4  optimizer.learning_rate=1.0: stopped: it diverged\n" in shown.err
    assert shown.out.startswith(
        "best on validation: optimizer.learning_rate=2.0\n  valid/nll 20, test/nll 22.25\n"
        "  ties with 2 of 2 others (with one seed, no difference is known to be more "
        "than chance): optimizer.learning_rate=3.0: 20; optimizer.learning_rate=4.0: 30\n"
    )
    assert ".25" not in shown.out.replace("22.25", "") + shown.err
    table = rows_of(tmp_path / "sweep.csv")
    assert [row["level"] for row in table] == ["run"] * 4 + ["configuration"] * 4
    for of_level in (table[:4], table[4:]):
        assert [row["optimizer.learning_rate"] for row in of_level] == ["1", "2", "3", "4"]
        assert [row["test/nll"] for row in of_level] == ["", "22.25", "", ""]
    assert table[0]["error"] == "stopped: it diverged"
    assert [(row["seeds"], row["failed"]) for row in table[4:]] == [("0", "1"), *[("1", "0")] * 3]
    about = json.loads((tmp_path / "sweep.json").read_text())
    assert about["best"]["config_hash"] == listed[1].hash
    assert [one["config_hash"] for one in about["tied"]] == [one.hash for one in listed[2:]]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (21.0, "  clearly better than all others (docs/sweeps.md)"),
        (20.2, "  ties with 1 of 2 others (within 3 standard errors of the difference): "
               "optimizer.learning_rate=2.0: 20.2 ± 0.058"),
    ],
)  # fmt: skip
def test_configurations_are_compared_by_the_means_of_their_seeds(
    others, expected, tmp_path, here, capsys
):
    seeds = [{"seed": seed} for seed in range(3)]
    listed = load(tmp_path, [rate | seed for rate in rates(3) for seed in seeds])
    values = (20.0, 20.1, 19.9, others, others + 0.1, others - 0.1, 30.0, 30.1, 29.9)
    for point, value in zip(listed, values, strict=True):
        numbers = {"valid/nll": value, "test/nll": value + 1.5, "maximize": False}
        finish(tmp_path, point, **numbers)
    outcomes.run(listed, tmp_path, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "best on validation: optimizer.learning_rate=1.0 (3 seeds)"
    assert lines[1] == "  valid/nll 20 ± 0.058, test/nll 21.5 ± 0.058"
    assert lines[2] == expected
    assert lines[3:6] == [f"  {jobs.folder(tmp_path, point)}" for point in listed[:3]]
    best, *_ = (r for r in rows_of(tmp_path / "sweep.csv") if r["level"] == "configuration")
    assert (best["valid/nll"], best["test/nll"], best["seeds"]) == ("20", "21.5", "3")
    assert best["valid/nll_stderr"] == best["test/nll_stderr"] == "0.057735"


def test_a_configuration_that_failed_with_a_seed_is_not_the_best(tmp_path, here, capsys):
    listed = load(tmp_path, [rate | {"seed": seed} for rate in rates(2) for seed in (0, 1)])
    for point, value in zip(listed, (10.0, None, 20.0, 21.0), strict=True):
        finish(tmp_path, point, **{"valid/nll": value, "maximize": False})
    outcomes.run(listed, tmp_path, None)
    assert "best on validation: optimizer.learning_rate=2.0 (2 seeds)" in capsys.readouterr().out


def test_the_time_that_is_left_goes_by_the_steps_of_running_and_ended_runs(
    tmp_path, here, monkeypatch, capsys
):
    listed = load(tmp_path, rates(3))  # of 100 steps
    finish(tmp_path, listed[0], **{"valid/nll": 1.0, "maximize": False})
    clock = iter(range(0, 1_000_000, 25))  # seconds
    monkeypatch.setattr(outcomes.time, "monotonic", lambda: next(clock))
    left = outcomes._Left(tmp_path, listed)
    left.ended(outcomes.Outcome(listed[0], {}))
    folder = jobs.folder(tmp_path, listed[1])
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 20}\n{"step": 50}\n')
    left.show()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("step 150/300  runs ended 1/3  ")
    assert lines[-1].endswith(" left")


def test_one_run_serves_all_points_that_are_the_same(tmp_path, here, monkeypatch, capsys):
    listed = annealing(2_000)[::2]  # the first seed
    runs = points.runs(listed)
    assert [len(same) for same in runs] == [2, 4, 2, 2, 2]
    # Trained before equal points were found: a result that is there is used.
    finish(tmp_path, runs[1][3], **{"valid/nll": 10.0, "test/nll": 12.0, "maximize": False})
    acts(monkeypatch, "finish(folders[0], 20.0)")
    ended = outcomes.run(listed, tmp_path, workers.LocalWorkers(2))
    assert [one.point for one in ended] == listed
    assert len(list((tmp_path / "points").iterdir())) == 5
    shown = capsys.readouterr()
    assert "sweep: 12 points, 5 runs, 2 at a time" in shown.err
    assert (
        "2 points with temperature.rate=1e-05, temperature.update_every=500 have the same "
        "temperature at every step and are trained once: temperature.floor=0.25; "
        "temperature.floor=0.5\n"
    ) in shown.err
    assert shown.err.count("valid/nll 10\n") == 1
    table = [row for row in rows_of(tmp_path / "sweep.csv") if row["level"] == "run"]
    assert len(table) == 12
    assert [row["valid/nll"] for row in table].count("10") == 4
    shared = [row["same_run_as"] for row in table if row["valid/nll"] == "10"]
    assert sorted(shared) == ["", *[runs[1][3].hash] * 3]
    best, *lines = shown.out.splitlines()
    assert best.startswith("best on validation: temperature.rate=1e-05, temperature.update_every=5")
    assert lines[0].startswith("  the same run as 3 more: ")
    assert lines[1:3] == [
        "  valid/nll 10, test/nll 12",
        "  ties with 8 of 8 others (with one seed, no difference is known to be more "
        "than chance): temperature.rate=1e-05, temperature.update_every=500, "
        "temperature.floor=0.25: 20; temperature.rate=1e-05, temperature.update_every=500, "
        "temperature.floor=0.5: 20; temperature.rate=1e-05, temperature.update_every=1000, "
        "temperature.floor=0.25: 20; temperature.rate=1e-05, temperature.update_every=1000, "
        "temperature.floor=0.5: 20; temperature.rate=0.0001, temperature.update_every=500, "
        "temperature.floor=0.25: 20; and 3 more",
    ]
    assert lines[3] == f"  {jobs.folder(tmp_path, runs[1][3])}"
    tied = json.loads((tmp_path / "sweep.json").read_text())["tied"]
    assert len(tied) == 8  # not the points of the best run itself


def test_a_sweep_that_has_nothing_to_compare_says_so_and_names_no_best(
    tmp_path, here, monkeypatch, capsys
):
    def reports(listed, folder):
        for point in (same[0] for same in points.runs(listed)):
            finish(tmp_path / folder, point, **{"valid/nll": 20.0, "maximize": False})
        outcomes.run(listed, tmp_path / folder, workers.LocalWorkers(1))
        assert "best" not in json.loads((tmp_path / folder / "sweep.json").read_text())
        out, err = capsys.readouterr()
        assert "best" not in out
        assert out.splitlines()[0] in err.splitlines()
        return out.splitlines()[0]

    assert reports(annealing(500), "short") == (
        "500 steps are too few for the sweep to compare anything: all points of a seed have the "
        "same temperature at every step and are trained once. Take more steps, or rates for the "
        "length of the run (PerRun of configs/sweeps)"
    )
    of_rates = [{"estimator": "reinmax", "temperature.rate": rate} for rate in (0.0, 1.0)]
    assert reports(load(tmp_path, of_rates), "reinmax") == (
        "the sweep has nothing to compare: all points of a seed differ in nothing that reinmax "
        "reads and are trained once"
    )


def test_a_point_that_diverges_counts_as_failed_and_is_never_the_best(tmp_path, here, capsys):
    short = {"num_steps": 10, "eval_every": 5, "log_every": 5}
    of_rates = [short | {"optimizer.learning_rate": rate} for rate in (1e30, 1e-3)]
    listed = load(tmp_path, of_rates)
    diverged, fine = outcomes.run(listed, tmp_path, None, together=2)
    assert diverged.result is None
    assert "training has diverged. No checkpoint yet in" in diverged.error
    assert fine.result["steps"] == 10
    shown = capsys.readouterr()
    assert f"optimizer.learning_rate=1e+30: {diverged.error}\n" in shown.err
    assert "best on validation: optimizer.learning_rate=0.001\n" in shown.out
    assert rows_of(tmp_path / "sweep.csv")[0]["error"] == diverged.error


def test_a_point_that_cannot_fit_into_memory_does_not_end_a_sweep_in_this_process(tmp_path, here):
    short = {"num_steps": 10, "eval_every": 10, "log_every": 10}
    sizes = [short | {"model.num_latents": latents} for latents in (900_000_000, 2)]
    too_large, fine = outcomes.run(load(tmp_path, sizes), tmp_path, None)
    assert too_large.result is None
    assert "GB of memory" in too_large.error
    assert fine.result["steps"] == 10


def test_a_metric_with_maximize_chooses_the_highest(tmp_path, here, capsys):
    """As each result says of the metric that ``config.select`` names; the table has all metrics."""
    path = write_sweep(tmp_path, rates(3), "configs/semisup.py:digits", {})
    listed = points.load_sweep(str(path)).points
    for point, accuracy, nll in zip(listed, (0.8, 0.9, 0.7), (30.0, 20.0, 10.0), strict=True):
        of_test = {"test/accuracy": accuracy - 0.25, "test/nll": nll}
        finish(
            tmp_path, point, **{"valid/accuracy": accuracy, "valid/nll": nll, "maximize": True},
            **of_test,
        )  # fmt: skip
    outcomes.run(listed, tmp_path, None)
    shown = capsys.readouterr().out
    assert (
        "best on validation: optimizer.learning_rate=2.0\n  valid/accuracy 0.9, "
        "test/accuracy 0.65, test/nll 2" in shown
    )
    table = rows_of(tmp_path / "sweep.csv")[:3]
    assert [row["valid/accuracy"] for row in table] == ["0.8", "0.9", "0.7"]
    assert [row["valid/nll"] for row in table] == ["30", "20", "10"]


def test_a_metric_that_is_not_finite_is_reported_and_never_the_best(tmp_path, here, capsys):
    listed = load(tmp_path, rates(2))
    for point, value in zip(listed, (None, 20.0), strict=True):
        finish(tmp_path, point, **{"valid/nll": value, "maximize": False})
    outcomes.run(listed, tmp_path, None)
    assert "best on validation: optimizer.learning_rate=2.0\n" in capsys.readouterr().out


def test_a_figure_of_a_sweep_that_cannot_be_drawn_leaves_its_table_and_its_best(
    tmp_path, here, monkeypatch
):
    listed = load(tmp_path, rates(2))
    for point in listed:
        value = 20.0 + point.config.optimizer.learning_rate
        finish(tmp_path, point, **{"valid/nll": value, "maximize": False})
    monkeypatch.setattr(figures, "draw_sweep", mock.Mock(side_effect=RuntimeError("no font")))
    with pytest.raises(RuntimeError, match="no font"):
        outcomes.run(listed, tmp_path, None)
    assert len(rows_of(tmp_path / "sweep.csv")) == 4
    about = json.loads((tmp_path / "sweep.json").read_text())
    assert about["best"]["config_hash"] == listed[0].hash


def test_a_sweep_of_a_task_without_a_dataset_runs_together(tmp_path, here, capsys):
    short = {"num_steps": 20, "eval_every": 10, "log_every": 10, "model.num_units": 4}
    of_rates = [{"optimizer.learning_rate": rate, "estimator": "rloo"} for rate in (1e-3, 1.0)]
    listed = load(tmp_path, of_rates, "configs/polynomial.py", short)
    slow, fast = outcomes.run(listed, tmp_path, None, together=2)
    assert fast.result["valid/cost"] < slow.result["valid/cost"]
    shown = capsys.readouterr().out
    assert "best on validation: optimizer.learning_rate=1.0\n  valid/cost 0.2" in shown
