"""The tables of Liu et al. 2023, of runs on grey images and of polynomials."""

import json

import pytest

from experiments.running import config as configuration
from experiments.running import loop
from tests.experiments.runs import ROOT

from .finished_runs import read, report, write_run

GREY = {
    "model.prior": "uniform",
    "data.binarization": "none",
    "model.num_classes": 8,
    "model.initialization": "pytorch",
}


def add(folder, name, seed, loss, **changes):
    changes = GREY | {"model.num_latents": 4} | changes
    path = write_run(folder, name, "reinmax", 5e-4, seed, 120.0, 121.0, 96_000, **changes)
    result = json.loads((path / "result.json").read_text()) | {"train/loss": loss}
    (path / "result.json").write_text(json.dumps(result))


def test_grey_images_have_a_table_of_training_losses_and_are_not_in_table_1(tmp_path):
    add(tmp_path, "a", 0, 124.0)
    add(tmp_path, "b", 1, 126.0)
    add(tmp_path, "c", 0, 99.0, **{"model.num_classes": 10, "model.num_latents": 30})
    add(tmp_path, "d", 0, 130.0, **{"model.initialization": "lecun_normal"})
    out = tmp_path / "out"
    shown = report(out, tmp_path, draw=True)
    small, other, large = read(out / "reinmax.csv")
    assert (small["shape"], small["seeds"], small["steps"]) == ("8x4", 2, 96_000)
    assert (small["train_nats"], small["stderr"]) == (125.0, 1.0)
    assert (small["published_nats"], large["published_nats"]) == (124.66, 98.37)
    assert large["stderr"] is None
    assert (other["estimator"], other["initialization"]) == ("reinmax", "lecun_normal")
    assert (other["train_nats"], other["published_nats"]) == (130.0, None)
    assert "| `reinmax (lecun_normal)` | 130.00 |" in shown
    assert "125.00 ± 1.00 (124.7)" in shown
    assert not (out / "table1.csv").exists()
    assert (out / "reinmax.png").is_file()

    # Every row with a loss is a point of the curves, not only those with a bound of validation.
    curves = read(out / "reinmax_curves.csv")
    of_a = [row for row in curves if row["run"] == "a"]
    assert [row["step"] for row in of_a] == [1, 48_000, 96_000]
    assert [row["train_nats"] for row in of_a] == [200.0, 120.0, 120.0]
    assert [row["valid_nats"] for row in of_a] == [None, 120.0, 120.0]
    again = tmp_path / "again"
    assert report(again, out) == shown
    assert read(again / "reinmax_curves.csv") == curves


def test_polynomials_are_compared_by_their_exact_cost(tmp_path):
    for seed in (0, 1):
        config = configuration.load(f"{ROOT}/configs/polynomial.py")
        config.update_from_flattened_dict(
            {"num_steps": 20, "model.num_units": 4, "estimator": "rloo", "seed": seed}
        )
        loop.train(configuration.check(config), tmp_path / "points" / str(seed))
    shown = report(tmp_path / "out", tmp_path)
    (row,) = read(tmp_path / "out" / "polynomial.csv")
    assert (row["power"], row["estimator"], row["seeds"]) == (2, "rloo", 2)
    assert row["cost"] == pytest.approx(0.2525, abs=1e-3)  # of units that are nearly fair coins
    assert "| the optimum | 0.3019 | 0.2025 | 0.0911 |" in shown
