"""Write the tables of README.md and docs/ that come from ``results/``.

    python -m scripts.doc_tables
    python -m scripts.doc_tables --check

A table stands between ``<!-- NAME -->`` and ``<!-- end -->``, where NAME is a key of
:data:`TABLES` or a folder of ``results/`` with a table of ``python -m experiments.report``, which
is copied. ``--check`` writes nothing and fails where a page is not what ``results/`` gives.
"""

import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments.storage.files import read_csv, read_json
from scripts.estimator_table import (
    bias,
    evaluations,
    measured,
    nats,
    number,
    table,
    trained,
    unbiased,
)

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"

# --- README ----------------------------------------------------------------------------------

_PAPER_ACCURACY = 93.6  # per cent, the best of the paper's Table 2


def headline() -> str:
    """Trained models beside the paper."""
    curves = read_csv(RESULTS / "paper" / "curves.csv")

    def row(folder: str, config: str, what: str, task: str) -> list[str]:
        result = _result(folder)
        paper = next(
            point["test_nats"]
            for point in curves
            if (point["task"], point["estimator"]) == (task, result["estimator"])
            and point["step"] == result["steps"]
        )
        text = f"{what}, {result['steps']:,} steps: `test/nll`, nats"
        ours = f"{result['test/nll']:.2f}"
        return [f"`{config}`", text, ours, f"{paper:.1f}", _minutes(result)]

    best = _result("semisup/semisup_best")
    accuracy = f"{100 * best['test/accuracy']:.2f} %"
    of_best = f"100 labels, with FixMatch, {best['steps']:,} steps: `test/accuracy`"
    return table(
        ["config", "experiment", "ours", "paper", "minutes"],
        [
            row("vae/cat_vae", "cat_vae.py", "categorical VAE", "cat_vae"),
            row("vae/bern_vae", "bern_vae.py", "Bernoulli VAE", "bern_vae"),
            row("sbn/cat_sbn", "cat_sbn.py", "structured prediction", "cat_sbn"),
            ["`semisup_best.py`", of_best, accuracy, f"{_PAPER_ACCURACY} %", _minutes(best)],
        ],
    )


def _result(folder: str) -> dict[str, Any]:
    return read_json(RESULTS / folder / "run.json")["result"]


def _minutes(result: dict[str, Any]) -> str:
    return f"{result['seconds'] / 60:.0f}"


def choice() -> str:
    """An estimator for each kind of cost."""
    from gsm.registry import ESTIMATORS

    situations = {
        "has a derivative, and makes sense between the classes": "gumbel_softmax",
        "has a derivative, and must see one-hot samples": "st_gumbel_softmax",
        "can be evaluated several times; or the gradient must be unbiased": "rloo",
        "is a black box that can be evaluated once": "nvil",
        "can be evaluated for each class of each variable": "local_expectation",
    }
    rows, cells = measured("cat_vae"), trained()
    return table(
        ["the cost f", "estimator", "unbiased", "evaluations of f", "bias", "variance",
         "trained with it: nats"],
        [
            [
                what,
                f"`{name}`",
                unbiased(ESTIMATORS[name]),
                evaluations(ESTIMATORS[name]),
                bias(rows[name]),
                number(rows[name]["variance"]),
                nats(cells.get(("cat_vae", name))),
            ]
            for what, name in situations.items()
        ],
    )  # fmt: skip


# --- docs/performance.md ---------------------------------------------------------------------


def speed() -> str:
    """Training and evaluation of each config."""
    return table(
        ["config", "training steps/s", "of matrix-product peak", "images/s at m = 1000", "of peak"],
        [
            [
                f"`{row['config']}`",
                f"{row['steps_per_second']:,.0f}",
                f"{row['train_utilisation']:.0%}",
                f"{row['images_per_second']:,.0f}",
                f"{row['evaluate_utilisation']:.0%}",
            ]
            for row in _bench("cpu")["configs"]
        ],
    )


def estimator_times() -> str:
    """Time of a training step relative to Gumbel-Softmax."""
    rows = _bench("estimators")["estimators"]
    times = {(row["config"], row["estimator"]): row for row in rows}
    names = dict.fromkeys(row["estimator"] for row in rows)

    def cell(name: str, task: str) -> str:
        row = times.get(
            (f"configs/cat_{task}.py", name), times.get((f"configs/bern_{task}.py", name))
        )
        return f"{row['time_relative_to_gumbel_softmax']:.2f}" if row else "-"

    def count(name: str) -> str:
        return str(next(row["evaluations"] for row in rows if row["estimator"] == name))

    return table(
        ["estimator", "evaluations of f", "time, VAE", "time, SBN"],
        [[f"`{name}`", count(name), cell(name, "vae"), cell(name, "sbn")] for name in names],
    )


def convolutions() -> str:
    """Training of the semi-supervised classifier, in a scan and outside, and in PyTorch."""
    lines = []
    for row in _bench("convolutions")["convolutions"]:
        speeds = row["steps_per_second"]
        shown = [speeds[key] for key in ("scan", "alone", "scan_of_jax_convolutions", "pytorch")]
        shown.append(speeds["scan"] / speeds["pytorch"])
        images = f"{row['batch_size']}, {row['labels.batch_size']}"
        lines.append([images, *(f"{value:.2f}" for value in shown)])
    return table(
        ["images, labelled images", "scanned", "alone", "scanned, jax's own convolutions",
         "PyTorch", "scanned / PyTorch"],
        lines,
    )  # fmt: skip


def twins() -> str:
    """Speed relative to the same models in PyTorch: medians of the measurements that are kept."""
    measured = [
        read_json(path)["twins"] for path in sorted((RESULTS / "bench").glob("twins*.json"))
    ]

    def ratio(rows: Sequence[dict[str, Any]], what: str, ways: Callable[[str], bool]) -> str:
        return f"{statistics.median(_ratio(row[what], ways) for row in rows):.2f}"

    def line(*rows: dict[str, Any]) -> list[str]:
        return [
            f"`{rows[0]['config']}`",
            ratio(rows, "steps_per_second", lambda way: way in ("eager", "compiled")),
            ratio(rows, "steps_per_second", lambda way: True),
            f"{statistics.median(_limit(row['steps_per_second']) for row in rows):.2f}",
            ratio(rows, "images_per_second", lambda way: True),
        ]

    return table(
        ["config", "steps/s: PyTorch, eager or loss compiled", "steps/s: PyTorch, best of four",
         "steps/s: products alone", "images/s at m = 1000: PyTorch, best"],
        [line(*rows) for rows in zip(*measured, strict=True)],
    )  # fmt: skip


def _ratio(speeds: dict[str, float], ways: Callable[[str], bool]) -> float:
    prefix = "PyTorch, "
    theirs = [v for way, v in speeds.items() if way.startswith(prefix) and ways(way[len(prefix) :])]
    return speeds["gsm"] / max(theirs)


def _limit(speeds: dict[str, float]) -> float:
    return speeds["gsm"] / speeds["products alone"]


def bounds() -> str:
    """Images a second of the test bound, before and after hard samples were read as classes."""
    return _before_and_after("bounds", "images_per_second", "images/s", 1)


def units() -> str:
    """Training steps a second of Bernoulli units, before and after they lost an axis of two."""
    return _before_and_after("units", "steps_per_second", "steps/s", 2)


def _before_and_after(files: str, speed: str, unit: str, digits: int) -> str:
    """Medians of what was measured in turn at two commits, and of its ratios."""

    def speeds(which: str) -> list[list[dict[str, Any]]]:
        paths = sorted((RESULTS / "bench").glob(f"{files}_{which}_*.json"))
        return [read_json(path)["configs"] for path in paths]

    def line(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> list[str]:
        one, two = ([row[speed] for row in rows] for rows in (before, after))
        ratio = statistics.median(b / a for a, b in zip(one, two, strict=True))
        medians = [f"{statistics.median(values):,.0f}" for values in (one, two)]
        return [f"`{before[0]['config']}`", *medians, f"{ratio:.{digits}f}"]

    by_config = zip(
        zip(*speeds("before"), strict=True), zip(*speeds("after"), strict=True), strict=True
    )
    return table(
        ["config", f"before, {unit}", f"after, {unit}", "ratio"],
        [line(before, after) for before, after in by_config],
    )


def startup() -> str:
    """From the command to its first steps."""
    return table(
        ["start", "first 250 steps after", "end after", "memory, MB"],
        [
            [
                row["start"],
                f"{row['first_steps_seconds']:.1f} s",
                f"{row['seconds']:.1f} s",
                f"{row['memory_mb']:,.0f}",
            ]
            for row in _bench("startup")["startup"]
        ],
    )


def scaling() -> str:
    """How time grows with the sizes of the categorical VAE."""
    rows = _bench("scaling")["scaling"]
    return table(
        ["field", "time relative to the first value", "time ~ size to the power"],
        [
            [
                f"`{row['field']}`",
                ", ".join(
                    f"{value}: {seconds / next(iter(row['seconds'].values())):.2f}"
                    for value, seconds in row["seconds"].items()
                ),
                f"{row['exponent']:.2f}",
            ]
            for row in rows
        ],
    )


def many() -> str:
    """Model-steps a second of several ways to run several seeds."""
    speeds = _bench("scaling")["sweep"]["model_steps_per_second"]
    return table(
        ["way", "model-steps/s relative to one run on all cores"],
        [
            [way.replace("_", " "), f"{speed / speeds['one_run']:.2f}"]
            for way, speed in speeds.items()
            if way != "one_run"
        ],
    )


def _bench(name: str) -> dict[str, Any]:
    return read_json(RESULTS / "bench" / f"{name}.json")


# --- docs/reproduction.md --------------------------------------------------------------------


def timing() -> str:
    """Training speed by number of classes, beside the paper's Figure 5a."""
    rows = read_csv(RESULTS / "timing" / "timing.csv")
    by = {(row["classes"], row["inference"]): row for row in rows}

    def line(classes: int) -> list[str]:
        relaxed, exact = by[classes, "gumbel_softmax"], by[classes, "exact"]
        speeds = [
            f"{row['steps_per_second']:.3g}" if row["steps_per_second"] else "out of memory"
            for row in (relaxed, exact)
        ]
        ratio = f"{exact['ratio']:.3g}" if exact["ratio"] else "-"
        paper = [row["paper_steps_per_second"] for row in (relaxed, exact)]
        return [str(classes), *speeds, ratio, f"{paper[0] / paper[1]:.3g}" if all(paper) else "-"]

    return table(
        [
            "classes",
            "Gumbel-Softmax, steps/s",
            "marginalisation, steps/s",
            "ratio",
            "paper's ratio",
        ],
        [line(classes) for classes in dict.fromkeys(row["classes"] for row in rows)],
    )


# --- docs/models.md --------------------------------------------------------------------------


def models() -> str:
    """The published models."""
    rows = []
    for path in sorted((RESULTS / "models").glob("*/run.json")):
        about, folder = read_json(path), path.parent
        result, config = about["result"], about["config"]
        metric = f"test/{config['select']}"
        value = f"{result[metric]:.2%}" if result["maximize"] else f"{result[metric]:.2f} nats"
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        rows.append(
            [
                f"[{folder.name}](../results/models/{folder.name}/README.md)",
                f"`{config['task']}`",
                f"`{config['data.name']}`",
                f"{result['steps']:,}",
                f"{value} ({metric})",
                f"{size:.1f} MB",
            ]
        )
    return table(["model", "task", "data", "steps", "measured", "size"], rows)


# --- pages -----------------------------------------------------------------------------------

TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "choice": choice,
    "speed": speed,
    "estimator times": estimator_times,
    "convolutions": convolutions,
    "twins": twins,
    "bounds": bounds,
    "units": units,
    "startup": startup,
    "scaling": scaling,
    "many": many,
    "timing": timing,
    "models": models,
}


_TABLE = re.compile(r"<!-- (?!test command)([\w ]+) -->\n.*?<!-- end -->", re.DOTALL)


def reported(results: Path = RESULTS) -> dict[str, Path]:
    """The tables of reports by the name of their folder: ``table1_seeds`` has a ``table1.md``."""
    tables = sorted(results.glob("*/*.md"))
    return {path.parent.name: path for path in tables if path.parent.name.startswith(path.stem)}


def fresh(text: str, results: Path = RESULTS) -> str:
    """A page with its tables written anew.

    Raises:
      KeyError: a marker names no table.
    """
    copies = reported(results)

    def anew(match: re.Match) -> str:
        name = match[1]
        content = copies[name].read_text().strip() if name in copies else TABLES[name]()
        return f"<!-- {name} -->\n{content}\n<!-- end -->"

    return _TABLE.sub(anew, text)


def main(argv: list[str]) -> None:
    del argv
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text, where = page.read_text(), page.relative_to(ROOT)
        try:
            new = fresh(text)
        except KeyError as error:
            sys.exit(f"error: {where}: the marker {error} names no table")
        if new != text:
            stale.append(str(where))
            if not _CHECK.value:
                page.write_text(new)
    if stale and _CHECK.value:
        sys.exit(f"error: not fresh: {', '.join(stale)}; run python -m scripts.doc_tables")
    print(f"written: {', '.join(stale)}" if stale else "the tables are fresh")


if __name__ == "__main__":
    _CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail where a table is not fresh.")
    app.run(main)
