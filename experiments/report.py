"""The paper's tables from sweeps: ``python -m experiments.report --runs=FOLDER``.

Reads the finished runs of one or more sweeps, and what an earlier report kept of its own. For each
task and estimator the configuration is chosen on validation. Of structured prediction and VAEs the
test bound at the last step stands beside the paper's curve **at the same step**, whatever the
budget was: ``table1.csv``, ``table1.md``, the learning curves, the pilots and the overlaid figures
3 and 4. Of semi-supervised classifiers bound and accuracy stand beside the paper's Table 2:
``table2.csv``, ``table2.md``, the learning curves and a figure of them. All go to ``--out``.
"""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from experiments import config as configuration
from experiments import figures, rundir, table2
from experiments.finished import (
    ReportError,
    Run,
    kept,
    load,
    load_classifier_pilots,
    load_pilots,
)

_RUNS = flags.DEFINE_multi_string(
    "runs", None, "Folder of a sweep or of an earlier report; may be repeated.", required=True
)
_PAPER = flags.DEFINE_string("paper", "results/paper", "Folder of the paper's curves.csv.")
_OUT = flags.DEFINE_string("out", None, "Where to write; default: report in the first folder.")

TASKS = {
    "bern_sbn": "SBN (Bernoulli)",
    "cat_sbn": "SBN (categorical)",
    "bern_vae": "VAE (Bernoulli)",
    "cat_vae": "VAE (categorical)",
}

_CURVE_EVERY = 5_000  # steps between two points of the paper's curves, where they are on the plot

# What tells two runs of one choice apart, and where they ran.
_NOT_CHOSEN = ("seed", "data.dir")


class Cell(NamedTuple):
    """What validation chose for one task, estimator and number of steps: one run for each seed."""

    runs: list[Run]

    @property
    def name(self) -> tuple[str, str]:
        """Task and estimator."""
        return self.runs[0].name

    @property
    def steps(self) -> int:
        return self.runs[0].result["steps"]

    @property
    def test_nats(self) -> float:
        """Mean over seeds."""
        return float(np.mean([run.test_nats for run in self.runs]))


def choose(runs: Iterable[Run]) -> list[Cell]:
    """For each task, estimator and number of steps the choice of best mean validation bound."""
    choices: dict[tuple[Any, ...], dict[str, list[Run]]] = {}
    for run in runs:
        if run.test_nats is None:
            continue
        config = {name: v for name, v in run.config.items() if name not in _NOT_CHOSEN}
        of_cell = choices.setdefault((run.task, run.estimator, run.result["steps"]), {})
        of_cell.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    cells = []
    for of_cell in choices.values():
        best = min(of_cell.values(), key=lambda runs: np.mean([run.valid_nats for run in runs]))
        cells.append(Cell(sorted(best, key=lambda run: run.config["seed"])))
    order = figures.in_order(cell.name[1] for cell in cells)
    return sorted(cells, key=lambda c: (list(TASKS).index(c.name[0]), order.index(c.name[1])))


# --- the paper's curves ----------------------------------------------------------------------

Curves = Mapping[tuple[str, str], tuple[Sequence[int], Sequence[float]]]
"""Steps and test nats by task and estimator."""


def read_curves(path: Path) -> Curves:
    """Curves of a CSV file with the columns task, estimator, step, test_nats."""
    curves: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
    with path.open() as file:
        for row in csv.DictReader(file):
            steps, nats = curves.setdefault((row["task"], row["estimator"]), ([], []))
            steps.append(int(row["step"]))
            nats.append(float(row["test_nats"]))
    return curves


def at_step(curves: Curves, name: tuple[str, str], step: int) -> float | None:
    """A curve's value, between two neighbouring points interpolated; None off the plot."""
    steps, nats = curves.get(name, ([], []))
    near = [one for one in steps if abs(one - step) < _CURVE_EVERY]
    if step not in near and not min(near, default=step) < step < max(near, default=step):
        return None
    return float(np.interp(step, steps, nats))


def best_at_step(curves: Curves, task: str, step: int) -> tuple[str, float] | None:
    """The paper's best estimator of a task at a step, and its nats."""
    values = [(e, at_step(curves, (t, e), step)) for t, e in curves if t == task]
    known = [(estimator, value) for estimator, value in values if value is not None]
    return min(known, key=lambda one: one[1], default=None)


# --- what is written -------------------------------------------------------------------------


def table_row(cell: Cell, paper: Curves) -> dict[str, Any]:
    """A row of table1.csv."""
    config, values = cell.runs[0].config, np.array([run.test_nats for run in cell.runs])
    spread = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return {
        "task": cell.name[0],
        "estimator": cell.name[1],
        "steps": cell.steps,
        "learning_rate": config["optimizer.learning_rate"],
        "temperature_rate": config["temperature.rate"],
        "num_samples": config["num_samples"] or None,
        "seeds": len(cell.runs),
        "valid_nats": float(np.mean([run.valid_nats for run in cell.runs])),
        "test_nats": cell.test_nats,
        "stderr": spread,
        "paper_nats": at_step(paper, cell.name, cell.steps),
        "config_hash": cell.runs[0].result["config_hash"],
    }


def curve_rows(cell: Cell) -> list[dict[str, Any]]:
    """The learning curves of a cell.

    ``test_nats`` is the reported bound of all test images where it was measured, at the end; before
    it, that of some of them, moved by the difference of the two at the end.
    """
    rows = []
    for run in cell.runs:
        evaluated = [row for row in run.rows if _value(row, "valid_nll_") is not None]
        last = _value(evaluated[-1], "curve_nll_") if evaluated else None
        for row in evaluated:
            some = _value(row, "curve_nll_")
            known = some is not None and last is not None and run.test_nats is not None
            rows.append(
                {
                    "task": cell.name[0],
                    "estimator": cell.name[1],
                    "seed": run.config["seed"],
                    "step": row["step"],
                    "loss": row["loss"],
                    "valid_nats": _value(row, "valid_nll_"),
                    "test_nats": some - last + run.test_nats if known else None,
                }
            )
        if last is None:
            rows[-1]["test_nats"] = run.test_nats
    return rows


def _value(row: Mapping[str, Any], prefix: str) -> Any:
    return next((value for name, value in row.items() if name.startswith(prefix)), None)


def pilot_row(run: Run) -> dict[str, Any]:
    """A row of pilots.csv."""
    return {
        "task": run.task,
        "estimator": run.estimator,
        "steps": run.result["steps"],
        "learning_rate": run.config["optimizer.learning_rate"],
        "temperature_rate": run.config["temperature.rate"],
        "slope_initial": run.config.get("slope.initial"),
        "kl": run.config.get("kl"),
        "normalize": run.config.get("signal.normalize"),
        "seed": run.config["seed"],
        "valid_nats": run.valid_nats,
        "config_hash": run.result["config_hash"],
    }


def markdown(rows: Sequence[Mapping[str, Any]], paper: Curves, steps: int) -> str:
    """The table as the paper prints it, the paper's number at the same step in brackets."""
    rows = [row for row in rows if row["steps"] == steps]
    estimators = figures.in_order(row["estimator"] for row in rows)
    in_paper = {name for _, name in paper}
    estimators.sort(key=lambda name: name not in in_paper)
    found = {(row["task"], row["estimator"]): row for row in rows}
    lines = [
        f"Test nats after {steps:,} steps, lower is better; in brackets the paper's curve there.",
        "",
        "| estimator | " + " | ".join(TASKS.values()) + " |",
        "|---|" + "---|" * len(TASKS),
    ]
    for estimator in estimators:
        cells = [_cell(found.get((task, estimator)), found, task) for task in TASKS]
        lines.append(f"| `{estimator}` | " + " | ".join(cells) + " |")
    best = [best_at_step(paper, task, steps) for task in TASKS]
    shown = [f"{one[1]:.1f} (`{one[0]}`)" if one else "" for one in best]
    lines.append("| the paper's best | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any] | None, found: Mapping[Any, Any], task: str) -> str:
    if row is None:
        return ""
    text = f"{row['test_nats']:.2f}"
    if row["stderr"] is not None:
        text += f" ± {row['stderr']:.2f}"
    best = min(r["test_nats"] for (t, _), r in found.items() if t == task)
    text = f"**{text}**" if row["test_nats"] == best else text
    return text if row["paper_nats"] is None else f"{text} ({row['paper_nats']:.1f})"


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of one shape; numbers with five digits after the point at most."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def write(
    runs: Sequence[Run], paper: Curves, out: Path, pilots: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Write Table 1 to a folder; returns it as text.

    Args:
      runs: what :func:`load` found.
      paper: the paper's curves.
      out: the folder.
      pilots: rows of pilots.csv of earlier reports.

    Raises:
      ReportError: no run has a test bound.
    """
    cells = choose(runs)
    if not cells:
        raise ReportError("no run has a test bound: all are pilots")
    out.mkdir(parents=True, exist_ok=True)
    table = [table_row(cell, paper) for cell in cells]
    curves = [row for cell in cells for row in curve_rows(cell)]
    write_csv(out / "table1.csv", table)
    write_csv(out / "curves.csv", curves)
    if tried := [*pilots, *(pilot_row(run) for run in runs if run.test_nats is None)]:
        rates = ("temperature_rate", "learning_rate")
        key = lambda row: (row["task"], row["estimator"], *(float(row[rate]) for rate in rates))  # noqa: E731
        write_csv(out / "pilots.csv", sorted(tried, key=key))
    texts = [markdown(table, paper, steps) for steps in sorted({row["steps"] for row in table})]
    text = "\n".join(texts)
    (out / "table1.md").write_text(text)
    for name, tasks in (
        ("figure3", ("bern_sbn", "cat_sbn")),
        ("figure4", ("bern_vae", "cat_vae")),
    ):
        if any(row["task"] in tasks for row in curves):
            titles = {task: TASKS[task] for task in tasks}
            figures.draw_overlay(curves, paper, titles, out / f"{name}.png")
    about = {
        "report": rundir.provenance(),
        "runs": kept([cell.runs for cell in cells]),
    }
    rundir.write_atomically(out / "table1.json", json.dumps(about, indent=1) + "\n")
    return text


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    folders = [Path(folder) for folder in _RUNS.value]
    out = Path(_OUT.value) if _OUT.value else folders[0] / "report"
    try:
        runs = load(folders)
        texts = []
        if semisupervised := [run for run in runs if run.config["task"] == "semisupervised"]:
            pilots = load_classifier_pilots(folders)
            texts.append(table2.write(semisupervised, out, pilots))
        if others := [run for run in runs if run.config["task"] != "semisupervised"]:
            paper = read_curves(Path(_PAPER.value) / "curves.csv")
            texts.append(write(others, paper, out, load_pilots(folders)))
        text = "\n".join(texts)
    except (ReportError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(text)
    print(f"written to {out}")


if __name__ == "__main__":
    app.run(main)
