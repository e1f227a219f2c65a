"""The table of 200 Bernoulli units: equal evaluations, apart from Table 1."""

import json

from experiments.reporting import bernoulli
from experiments.storage.records import checked
from experiments.sweeping import points
from experiments.tasks.checks import fields
from gsm.registry import ESTIMATORS
from tests.experiments.runs import ROOT

from .finished_runs import CONFIG, read, report, write_run

PROTOCOL = {
    "data.binarization": "dynamic", "model.num_classes": 2, "model.num_latents": 200,
    "batch_size": 50, "num_estimates": 1, "evaluation.test_samples": 20, "log_every": 2_500,
}  # fmt: skip


def add(folder, name, estimator, seed, loss, test, **changes):
    path = write_run(
        folder, name, estimator, 1e-4, seed, 110.0, test, 200_000, **PROTOCOL | changes
    )
    result = json.loads((path / "result.json").read_text())
    result |= {"train/loss": loss, "seconds": 600.0}
    (path / "result.json").write_text(json.dumps(result))


def test_estimators_are_listed_by_their_evaluations_and_not_in_table_1(tmp_path):
    add(tmp_path, "a", "reinmax", 0, 113.0, 107.0, num_estimates=2)
    add(tmp_path, "b", "reinmax", 1, 115.0, 109.0, num_estimates=2)
    add(tmp_path, "c", "disarm", 0, 116.0, 108.5, num_estimates=2)
    add(tmp_path, "d", "rloo", 0, 116.5, 108.6, num_samples=2)
    out = tmp_path / "out"
    shown = report(out, tmp_path, draw=True)
    rows = read(out / "bernoulli.csv")
    assert [(row["evaluations"], row["estimator"]) for row in rows] == [
        (2, "rloo"), (2, "reinmax"), (4, "disarm"),
    ]  # fmt: skip
    assert (rows[1]["test_nats"], rows[1]["stderr"], rows[1]["train_nats"]) == (108.0, 1.0, 114.0)
    assert "| 2 | `reinmax` | 2 | 200,000 | 2 | 108.00 ± 1.00 | 114.00 ± 1.00 | 10 |" in shown
    assert "the bound of 20 samples" in shown
    assert "over the last 2,500 steps" in shown
    assert not (out / "table1.csv").exists()
    assert (out / "bernoulli.png").is_file()
    assert {row["run"] for row in read(out / "bernoulli_curves.csv")} == {"a", "b", "c", "d"}


def test_the_evaluations_of_the_table_are_those_of_the_registry():
    for name, entry in ESTIMATORS.items():
        if name == "exact":  # 2 ** 200
            continue
        for samples, estimates in ((0, 1), (6, 1), (0, 3)):
            config = CONFIG | {
                "estimator": name, "seed": 0, "num_samples": samples, "num_estimates": estimates,
            }  # fmt: skip
            run = checked(config, {"steps": 1, "config_hash": "a"}, [], {}, "here")
            expected = estimates * entry.count_evaluations(200, 2, samples or None)
            assert bernoulli.evaluations(run) == expected, name


def test_all_points_of_its_sweep_belong_to_it_at_two_three_and_four_evaluations():
    found = {}
    for point in points.load_sweep(str(ROOT / "configs/sweeps/bernoulli.py") + ":mnist").points:
        config = dict(fields(point.config))
        run = checked(config, {"steps": 1, "config_hash": "a"}, [], {}, "here")
        assert bernoulli.belongs(run)
        found.setdefault(bernoulli.evaluations(run), set()).add(run.estimator)
    common = {"score_function", "gumbel_softmax", "reinmax", "muprop", "disarm", "rloo"}
    assert found == {2: common, 3: {"rebar", "relax"}, 4: common | {"arms"}}
