"""Folders of finished runs for the tests, and reports of them without figures."""

import json
from pathlib import Path

from experiments.reporting import all_tables, folders
from experiments.storage.files import read_csv

ROOT = Path(__file__).parents[3]
PAPER = ROOT / "results" / "paper"
CONFIG = {
    "task": "vae", "model.num_classes": 10, "objective": "elbo", "temperature.rate": 1e-4,
    "num_samples": 0, "data.name": "mnist", "data.dir": "/somewhere/secret", "kl": "analytic",
    "optimizer.final_share": 1.0, "optimizer.weight_decay": 0.0, "temperature.floor": 0.5,
    "slope.initial": 1.0, "signal.normalize": False,
}  # fmt: skip
CLASSIFIER = {
    "consistency.weight": 0.0, "labels.weight": 1.0, "batch_size": 100,
    "labels.batch_size": 50, "labels.number": 100,
}  # fmt: skip


def write_run(sweep, name, estimator, rate, seed, valid, test, steps=50_000, **changes):
    """The folder of a finished run; test None: a pilot."""
    folder = sweep / "points" / name
    folder.mkdir(parents=True)
    config = CONFIG | {"estimator": estimator, "optimizer.learning_rate": rate, "seed": seed}
    config["num_steps"] = steps
    result = {"valid/nll": valid, "steps": steps, "config_hash": name}
    result |= {} if test is None else {"test/nll": test}
    rows = [
        {"step": at, "loss": 120.0, "valid/nll": valid, "curve/nll": curve}
        for at, curve in ((steps // 2, 113.0), (steps, 111.0))
    ]
    starts = [{"command": "python -m a --b=1 --workdir=secret"}]
    for file, content in (
        ("config", config | changes), ("result", result), ("provenance", starts),
    ):  # fmt: skip
        (folder / f"{file}.json").write_text(json.dumps(content))
    text = "".join(json.dumps(row) + "\n" for row in [{"step": 1, "loss": 200.0}, *rows])
    (folder / "metrics.jsonl").write_text(text)
    return folder


def write_classifier(sweep, name, estimator, alpha, seed, valid, test, steps=50_000, **changes):
    """A finished semi-supervised run; test None: a pilot."""
    changes = CLASSIFIER | {"task": "semisupervised", "alpha": alpha} | changes
    nats = None if test is None else 109.0
    folder = write_run(sweep, name, estimator, 1e-3, seed, 110.0, nats, steps, **changes)
    result = json.loads((folder / "result.json").read_text()) | {"valid/accuracy": valid}
    result |= {} if test is None else {"test/accuracy": test, "test/marginal_nll": 107.0 + seed}
    (folder / "result.json").write_text(json.dumps(result))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[1]["valid/accuracy"], rows[2]["valid/accuracy"] = valid - 0.1, valid
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def report(out, *runs, draw=False, tables=None, offered=()):
    """Write the tables that the runs of some folders belong to; returns them as one text."""
    tables = tables or all_tables(PAPER)
    found = folders.find(runs, tables, offered)
    return "\n".join(
        folders.write(table, found, out, draw=draw)
        for table in tables
        if any(map(table.belongs, found.runs))
    )


def read(path):
    """The rows of a CSV file of a table."""
    return read_csv(path, folders.HASHES)
