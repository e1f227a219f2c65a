"""The paper's tables from sweeps: ``python -m experiments.report --runs=FOLDER``.

Reads the finished runs of one or more sweeps, and what an earlier report kept of its own. For each
task and estimator the configuration is chosen on validation; what was not offered the same settings
as the others of its column is told apart from them. Of structured prediction and VAEs the
test bound at the last step stands beside the paper's curve **at the same step**, whatever the
budget was: ``table1.csv``, ``table1.md``, the learning curves, the pilots and the overlaid figures
3 and 4. Of semi-supervised classifiers bound and accuracy stand beside the paper's Table 2:
``table2.csv``, ``table2.md``, the learning curves and a figure of them. All go to ``--out``.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from experiments import config as configuration
from experiments import figures, rundir, table2
from experiments.finished import (
    Mean,
    ReportError,
    Run,
    kept,
    load,
    load_classifier_pilots,
    load_pilots,
    mean,
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

# How the names of those fields begin that belong to an estimator, or to the grid of its kind. Of
# all other fields the estimators of a column should have been offered the same values.
_OF_ESTIMATOR = (
    "estimator", "objective", "num_samples", "kl", "signal.", "slope.", "control.", "learned.",
    "temperature.rate", "temperature.backward",
)  # fmt: skip

# Those others that pilots.csv keeps, by their columns there.
_IN_PILOTS = {
    "learning_rate": "optimizer.learning_rate",
    "final_share": "optimizer.final_share",
    "weight_decay": "optimizer.weight_decay",
    "temperature_floor": "temperature.floor",
}


class Cell(NamedTuple):
    """What validation chose for one task, estimator and number of steps: one run for each seed."""

    runs: list[Run]
    other_settings: str
    """How its settings differ from what most of its column were offered; "": in nothing."""

    @property
    def name(self) -> tuple[str, str]:
        """Task and estimator."""
        return self.runs[0].name

    @property
    def steps(self) -> int:
        return self.runs[0].result["steps"]

    @property
    def valid_nats(self) -> float:
        """Mean over seeds."""
        return mean([run.valid_nats for run in self.runs]).value


def choose(runs: Iterable[Run], pilots: Sequence[Mapping[str, Any]] = ()) -> list[Cell]:
    """For each task, estimator and number of steps the choice of best mean validation bound.

    Where that has settings that most of its column were not offered, the best without such is a
    cell of the same estimator beside it, if there is one.

    Args:
      runs: pilots among them are left out.
      pilots: rows of pilots.csv, which say what else was tried.
    """
    columns: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run.test_nats is not None:
            columns.setdefault((run.task, run.result["steps"]), []).append(run)
    cells = []
    for (task, _), column in columns.items():
        tried = _values_tried(column, [row for row in pilots if row["task"] == task])
        offered = _offered_to_most(tried)
        choices: dict[str, dict[str, list[Run]]] = {}
        for run in sorted(column, key=lambda run: run.config["seed"]):
            config = {name: v for name, v in run.config.items() if name not in _NOT_CHOSEN}
            of_config = choices.setdefault(run.estimator, {})
            of_config.setdefault(json.dumps(config, sort_keys=True), []).append(run)
        for of_config in choices.values():
            ranked = [
                Cell(seeds, _other_settings(seeds[0], tried, offered))
                for seeds in of_config.values()
            ]
            ranked.sort(key=lambda cell: cell.valid_nats)
            equal = [cell for cell in ranked if not cell.other_settings]
            cells += [ranked[0], *equal[:1]] if ranked[0].other_settings else equal[:1]
    order = figures.in_order(cell.name[1] for cell in cells)
    place = lambda cell: (list(TASKS).index(cell.name[0]), order.index(cell.name[1]))  # noqa: E731
    return sorted(cells, key=lambda cell: (*place(cell), bool(cell.other_settings)))


# --- what the cells of a column were offered -------------------------------------------------

Tried = Mapping[str, Mapping[str, set[str]]]
"""Values by estimator and field, as JSON."""


def _values_tried(column: Sequence[Run], pilots: Sequence[Mapping[str, Any]]) -> Tried:
    """What each estimator of a column was run with, in full or in a pilot, of the common fields."""
    tried: dict[str, dict[str, set[str]]] = {run.estimator: {} for run in column}
    for run in column:
        for name, value in _common_fields(run.config).items():
            tried[run.estimator].setdefault(name, set()).add(value)
    for row in (row for row in pilots if row["estimator"] in tried):
        for column_name, name in _IN_PILOTS.items():
            if row.get(column_name) not in (None, ""):  # an older report did not keep all of them
                tried[row["estimator"]][name].add(json.dumps(float(row[column_name])))
    return tried


def _common_fields(config: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: json.dumps(value)
        for name, value in config.items()
        if name not in _NOT_CHOSEN and not name.startswith(_OF_ESTIMATOR)
    }


def _offered_to_most(tried: Tried) -> dict[str, set[str]]:
    """Of each field the values that more than half of the estimators were run with."""
    counts: dict[str, Counter[str]] = {}
    for values in tried.values():
        for name, of_field in values.items():
            counts.setdefault(name, Counter()).update(of_field)
    return {
        name: {value for value, number in of_field.items() if number > len(tried) / 2}
        for name, of_field in counts.items()
    }


def _other_settings(run: Run, tried: Tried, offered: Mapping[str, set[str]]) -> str:
    """How a run differs from what most estimators of its column were offered; "": in nothing.

    It has another value of a field, or its estimator was not tried with a value that most were.
    """
    differences = []
    for name, value in _common_fields(run.config).items():
        if value not in offered[name]:
            differences.append(f"`{name}` {value}")
        elif missing := offered[name] - tried[run.estimator][name]:
            differences.append(f"`{name}` {', '.join(sorted(missing))} not tried")
    return "; ".join(differences)


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
    config = cell.runs[0].config
    test = mean([run.test_nats for run in cell.runs if run.test_nats is not None])
    return {
        "task": cell.name[0],
        "estimator": cell.name[1],
        "steps": cell.steps,
        "learning_rate": config["optimizer.learning_rate"],
        "temperature_rate": config["temperature.rate"],
        "num_samples": config["num_samples"] or None,
        "seeds": test.seeds,
        "valid_nats": cell.valid_nats,
        "test_nats": test.value,
        "stderr": test.error,
        "paper_nats": at_step(paper, cell.name, cell.steps),
        "config_hash": cell.runs[0].result["config_hash"],
        "other_settings": cell.other_settings,
    }


def curve_rows(cell: Cell) -> list[dict[str, Any]]:
    """The learning curves of a cell: ``row`` is its row of table1.csv, ``run`` one of its seeds.

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
                    "row": cell.runs[0].result["config_hash"],
                    "run": run.result["config_hash"],
                }
            )
        if last is None:
            rows[-1]["test_nats"] = run.test_nats
    return rows


def _value(row: Mapping[str, Any], prefix: str) -> Any:
    return next((value for name, value in row.items() if name.startswith(prefix)), None)


def pilot_row(run: Run) -> dict[str, Any]:
    """A row of pilots.csv: of a pilot, or of a run in full that was not chosen."""
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
        **{column: run.config[name] for column, name in _IN_PILOTS.items()},
    }


def markdown(rows: Sequence[Mapping[str, Any]], paper: Curves, steps: int) -> str:
    """The table as the paper prints it, the paper's number at the same step in brackets.

    A cell with other settings than most of its column has the number of a note that names them. It
    has a line to itself where its estimator also has a cell without.
    """
    rows = [row for row in rows if row["steps"] == steps]
    estimators = figures.in_order(row["estimator"] for row in rows)
    in_paper = {name for _, name in paper}
    estimators.sort(key=lambda name: name not in in_paper)
    rows.sort(key=lambda row: estimators.index(row["estimator"]))
    marks = dict.fromkeys(row["other_settings"] for row in rows if row["other_settings"])
    notes = {text: number for number, text in enumerate(marks, 1)}
    lines = [
        f"Test nats after {steps:,} steps, lower is better; in brackets the paper's curve there.",
        *_about_seeds(rows),
    ]
    if notes:
        lines += [
            "A number such as [1] marks a cell with settings that most estimators of its column",
            "were not offered, or one that was not offered settings that most were (notes below):",
            "it is compared with no other cell.",
        ]
    lines += [
        "",
        "| estimator | " + " | ".join(TASKS.values()) + " |",
        "|---|" + "---|" * len(TASKS),
    ]
    for estimator in estimators:
        first, second = [], []  # the second for other settings, where there are both
        for task in TASKS:
            of_both = [row for row in rows if (row["task"], row["estimator"]) == (task, estimator)]
            texts = [_cell(row, rows, notes) for row in sorted(of_both, key=_is_marked)]
            first.append(texts[0] if texts else "")
            second.append(texts[1] if len(texts) > 1 else "")
        lines.append(f"| `{estimator}` | " + " | ".join(first) + " |")
        if any(second):
            lines.append(f"| `{estimator}`, other settings | " + " | ".join(second) + " |")
    best = [best_at_step(paper, task, steps) for task in TASKS]
    shown = [f"{one[1]:.1f} (`{one[0]}`)" if one else "" for one in best]
    lines.append("| the paper's best | " + " | ".join(shown) + " |")
    if notes:
        lines += ["", *(f"* [{number}] {text}" for text, number in notes.items())]
    return "\n".join(lines) + "\n"


def _about_seeds(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table says of seeds and of bold numbers, in lines."""
    lines = []
    if any(row["seeds"] > 1 for row in rows):
        lines += [
            "±: standard error of the mean over the seeds. Bold: below all others of its column by",
            "more than three standard errors of the difference, with three seeds or more each.",
        ]
    if any(row["seeds"] == 1 for row in rows):
        which = "One seed each" if all(row["seeds"] == 1 for row in rows) else "Without ±: one seed"
        lines += [
            f"{which}: how far another seed would move a cell is not known, so that none is bold,",
            "and differences of less than 1 nat are not ordered.",
        ]
    return lines


def _is_marked(row: Mapping[str, Any]) -> bool:
    return bool(row["other_settings"])


def _cell(
    row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], notes: Mapping[str, int]
) -> str:
    text = f"{row['test_nats']:.2f}"
    if row["stderr"] is not None:
        text += f" ± {row['stderr']:.2f}"
    text = f"**{text}**" if _leads(row, rows) else text
    if row["other_settings"]:
        text += f" [{notes[row['other_settings']]}]"
    return text if row["paper_nats"] is None else f"{text} ({row['paper_nats']:.1f})"


def _leads(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a cell is clearly below all others that were offered the same settings."""
    equal = [one for one in rows if one["task"] == row["task"] and not one["other_settings"]]
    others = [one for one in equal if one is not row]
    if row["other_settings"] or not others:
        return False
    return all(_mean_of(other).clearly_above(_mean_of(row)) for other in others)


def _mean_of(row: Mapping[str, Any]) -> Mean:
    return Mean(row["test_nats"], row["stderr"], row["seeds"])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All columns that a row has; numbers with five digits after the point at most."""
    columns = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
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
    new = [pilot_row(run) for run in runs if run.test_nats is None]
    cells = choose(runs, [*pilots, *new])
    if not cells:
        raise ReportError("no run has a test bound: all are pilots")
    out.mkdir(parents=True, exist_ok=True)
    table = [table_row(cell, paper) for cell in cells]
    curves = [row for cell in cells for row in curve_rows(cell)]
    write_csv(out / "table1.csv", table)
    write_csv(out / "curves.csv", curves)
    # The next report knows by them what was tried: runs in full that were not chosen, too.
    chosen = {run.result["config_hash"] for cell in cells for run in cell.runs}
    rows = [*pilots, *map(pilot_row, runs)]
    if tried := {row["config_hash"]: row for row in rows if row["config_hash"] not in chosen}:
        rates = ("temperature_rate", "learning_rate")
        key = lambda row: (row["task"], row["estimator"], *(float(row[rate]) for rate in rates))  # noqa: E731
        write_csv(out / "pilots.csv", sorted(tried.values(), key=key))
    texts = [markdown(table, paper, steps) for steps in sorted({row["steps"] for row in table})]
    text = "\n".join(texts)
    (out / "table1.md").write_text(text)
    for name, tasks in (
        ("figure3", ("bern_sbn", "cat_sbn")),
        ("figure4", ("bern_vae", "cat_vae")),
    ):
        if any(row["task"] in tasks for row in curves):
            titles = {task: TASKS[task] for task in tasks}
            figures.draw_overlay(curves, table, paper, titles, out / f"{name}.png")
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
