"""A further table is one more description; the pipeline is the same."""

import json

import pytest

from experiments.reporting.layouts import Grid
from experiments.reporting.table import Measure, Table, published

from .finished_runs import read, report, write_run

TRAIN = Measure(
    "train/nll",
    reference=published({("30x2", "gumbel_softmax"): 103.1, ("30x2", "reinmax"): 102.9}),
)


def shape(run):
    return f"{run.field('model.num_latents')}x{run.field('model.num_classes')}"


SHAPES = Table(
    name="shapes",
    title="Training nats by shape",
    belongs=lambda run: "train/nll" in run.result,
    column=shape,
    row=lambda run: run.estimator,
    titles={"30x2": "30 x 2", "24x4": "24 x 4"},
    order=lambda names: sorted(set(names)),
    choice=TRAIN,
    measures=(TRAIN,),
    csv={
        "shape": lambda cell: cell.column,
        "estimator": lambda cell: cell.row,
        "seeds": lambda cell: len(cell.runs),
        "train_nats": TRAIN.value,
        "stderr": TRAIN.error,
        "published": TRAIN.published,
    },
    layout=Grid(title=lambda steps: [f"Training nats after {steps:,} steps."]),
)

# The same runs of Bernoulli units, by the number of evaluations that the estimator is given.
EVALUATIONS = Table(
    name="evaluations",
    title="Bounds by number of evaluations",
    belongs=lambda run: run.field("model.num_classes") == 2,
    column=lambda run: str(run.field("num_samples") or 1),
    row=lambda run: run.estimator,
    titles={"1": "K = 1", "4": "K = 4"},
    order=lambda names: sorted(set(names)),
    choice=Measure("valid/nll"),
    measures=(Measure("test/elbo", higher_is_better=True, digits=1),),
    csv={"evaluations": lambda cell: cell.column, "config_hash": lambda cell: cell.config_hash},
    layout=Grid(title=lambda steps: ["Test bound, higher is better."]),
)


@pytest.fixture
def sweep(tmp_path):
    def add(name, estimator, seed, nats, classes, latents, samples=0):
        shape = {"model.num_latents": latents, "model.num_classes": classes}
        shape["num_samples"] = samples
        folder = write_run(tmp_path, name, estimator, 1e-3, seed, 1.0, 1.0, **shape)
        result = json.loads((folder / "result.json").read_text())
        result |= {"train/nll": nats, "test/elbo": -nats}
        (folder / "result.json").write_text(json.dumps(result))

    for seed in range(3):
        add(f"a{seed}", "gumbel_softmax", seed, 104.0 + seed / 10, 2, 30)
        add(f"b{seed}", "reinmax", seed, 100.0 + seed / 10, 2, 30)
    add("c", "reinmax", 0, 99.0, 4, 24)
    add("e", "reinmax", 0, 98.0, 4, 16)
    add("d", "rloo", 0, 101.0, 2, 30, samples=4)
    return tmp_path


def test_shapes_by_estimators_beside_published_values(sweep):
    printed = report(sweep / "out", sweep, tables=[SHAPES])
    # A column without a title comes last, under its key.
    assert "| estimator | 30 x 2 | 24 x 4 | 16x4 |\n|---|---|---|---|\n" in printed
    assert "| `gumbel_softmax` | 104.10 ± 0.06 (103.1) |  |  |" in printed
    assert "| `reinmax` | 100.10 ± 0.06 (102.9) | 99.00 | 98.00 |" in printed
    rows = read(sweep / "out" / "shapes.csv")
    assert [(row["shape"], row["estimator"], row["seeds"]) for row in rows] == [
        ("30x2", "gumbel_softmax", 3), ("30x2", "reinmax", 3), ("30x2", "rloo", 1),
        ("24x4", "reinmax", 1), ("16x4", "reinmax", 1),
    ]  # fmt: skip
    assert report(sweep / "again", sweep / "out", tables=[SHAPES]) == printed


def test_two_tables_of_the_same_runs_and_bold_follows_the_direction(sweep):
    printed = report(sweep / "out", sweep, tables=[SHAPES, EVALUATIONS])
    assert "| estimator | K = 1 | K = 4 |" in printed
    assert "| `reinmax` | **-100.1 ± 0.1** |  |" in printed
    assert "| `rloo` |  | -101.0 |" in printed
    assert {path.name for path in (sweep / "out").iterdir()} == {
        f"{table}.{kind}"
        for table in ("shapes", "evaluations")
        for kind in ("csv", "md", "html", "json")
    }
