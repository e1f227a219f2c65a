"""Table 2 of Jang et al. 2017 from finished runs: test bound and accuracy by inference."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import figures, measurement, rundir
from experiments.finished import Mean, Run, kept, mean

# The paper's bound on the test set, in nats, and accuracy, in per cent.
PAPER = {
    "exact": (-106.8, 92.6),
    "gumbel_softmax": (-109.6, 92.4),
    "st_gumbel_softmax": (-110.7, 93.6),
}
_NAMES = {
    "exact": "marginalisation",
    "gumbel_softmax": "Gumbel-Softmax",
    "st_gumbel_softmax": "ST-Gumbel-Softmax",
}


def choose(runs: Sequence[Run]) -> list[list[Run]]:
    """For each inference, config and number of steps, the seeds of the best validation accuracy.

    Rivals are compared by the seeds that all of them have, where there are such: one seed differs
    from another by more than many a choice does.
    """
    of_rows: dict[tuple[Any, ...], list[list[Run]]] = {}
    for seeds in tested(runs):
        first = seeds[0]
        name = (first.estimator, _config_of(first), first.result["steps"])
        of_rows.setdefault(name, []).append(seeds)
    best = [max(of_row, key=_valid_accuracy_among(of_row)) for of_row in of_rows.values()]
    order = [*PAPER, *sorted({run.estimator for run in runs} - set(PAPER))]
    return sorted(best, key=lambda runs: (_config_of(runs[0]), order.index(runs[0].estimator)))


def tested(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that read the test set: for each config its seeds."""
    of_config: dict[str, list[Run]] = {}
    for run in runs:
        if "test_accuracy" in run.result:
            config = {k: v for k, v in run.config.items() if k not in ("seed", "data.dir")}
            of_config.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    return [sorted(seeds, key=lambda run: run.config["seed"]) for seeds in of_config.values()]


def _config_of(run: Run) -> str:
    """The config file that a run is an instance of."""
    best = run.config.get("consistency.weight", 0) > 0
    return f"configs/{'semisup_best' if best else 'semisup'}.py"


def _valid_accuracy_among(rivals: Sequence[list[Run]]) -> Callable[[list[Run]], float]:
    """Of the seeds that all rivals have; of all seeds where they have none in common."""
    common = set.intersection(*({run.config["seed"] for run in runs} for runs in rivals))
    return lambda runs: _valid_accuracy(
        [run for run in runs if not common or run.config["seed"] in common]
    )


def _valid_accuracy(runs: Sequence[Run]) -> float:
    return float(np.mean([run.result["valid_accuracy"] for run in runs]))


def table_row(chosen: Sequence[Run], runs: Sequence[Run]) -> dict[str, Any]:
    """A row of table2.csv; ``runs`` are all, for the paper's way to choose."""
    first = chosen[0]
    elbo = mean([-run.result["test_marginal_nll"] for run in chosen])
    accuracy = mean([100 * run.result["test_accuracy"] for run in chosen])
    rivals = [
        run.result["test_accuracy"] for run in runs
        if "test_accuracy" in run.result and run.estimator == first.estimator
        and _config_of(run) == _config_of(first) and run.result["steps"] == first.result["steps"]
    ]  # fmt: skip
    paper_elbo, paper_accuracy = PAPER.get(first.estimator, (None, None))
    return {
        "inference": first.estimator,
        "config": _config_of(first),
        "seeds": len(chosen),
        "steps": first.result["steps"],
        "elbo": elbo.value,
        "elbo_stderr": elbo.error,
        "accuracy": accuracy.value,
        "accuracy_stderr": accuracy.error,
        "paper_elbo": paper_elbo,
        "paper_accuracy": paper_accuracy,
        "batch_size": first.config["batch_size"],
        "labels_weight": first.config["labels.weight"],
        "alpha": first.config["alpha"],
        "valid_accuracy": 100 * _valid_accuracy(chosen),
        "best_test_accuracy": 100 * max(rivals),  # of all weights and seeds, as in the paper
        "config_hash": first.result["config_hash"],
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table as the paper prints it, the paper's numbers in brackets."""
    lines = [
        "Test bound in nats, higher is better, and accuracy; in brackets the paper's. Weights: of",
        "the labelled images' bound (`labels.weight`), of their classification loss (`alpha`).",
        "±: standard error of the mean over the seeds; a row of one seed has none.",
        "",
        "| inference over the class | config | weights | steps x images | seeds | bound"
        " | accuracy, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["inference"]
        known = f"{_NAMES[name]} (`{name}`)" if name in _NAMES else f"`{name}`"
        cells = [
            known,
            f"`{Path(row['config']).stem}`",
            f"{row['labels_weight']:g}, {row['alpha']:g}",
            f"{row['steps']:,} x {row['batch_size']}",
            str(row["seeds"]),
            _cell(row, "elbo"),
            _cell(row, "accuracy"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Of rows with the same config, steps and images, and three seeds or more, these differ by",
        "more than three standard errors of the difference; the others cannot be told apart:",
        "",
        f"* bound: {_told_apart(rows, 'elbo')}",
        f"* accuracy: {_told_apart(rows, 'accuracy')}",
    ]
    return "\n".join(lines) + "\n"


def _told_apart(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Which rows are clearly above which, the highest first, in words."""
    found = []
    for row in sorted(rows, key=lambda row: -row[name]):
        below = [
            f"`{other['inference']}`"
            for other in rows
            if all(row[key] == other[key] for key in ("config", "steps", "batch_size"))
            and _mean_of(row, name).clearly_above(_mean_of(other, name))
        ]
        if below:
            found.append(f"`{row['inference']}` above {', '.join(below)}")
    return "; ".join(found) or "none"


def _mean_of(row: dict[str, Any], name: str) -> Mean:
    return Mean(row[name], row[f"{name}_stderr"], row["seeds"])


def _cell(row: dict[str, Any], name: str) -> str:
    text = f"{row[name]:.1f}"
    if row[f"{name}_stderr"] is not None:
        text += f" ± {row[f'{name}_stderr']:.1f}"
    paper = row[f"paper_{name}"]
    return text if paper is None else f"{text} ({paper:.1f})"


def curve_rows(run: Run, row: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The learning curve of a run on validation, for table2_curves.csv.

    ``row`` is the row of the table that the run is a seed of; None of one that was not chosen.
    """
    return [
        {
            "inference": run.estimator,
            "config": _config_of(run),
            "seed": run.config["seed"],
            "row": row and row["config_hash"],
            "run": run.result["config_hash"],
            "step": evaluated["step"],
            "bound": -next(v for name, v in evaluated.items() if name.startswith("valid_nll_")),
            "accuracy": 100 * evaluated["valid_accuracy"],
        }
        for evaluated in run.rows
        if "valid_accuracy" in evaluated
    ]


def pilot_row(run: Run) -> dict[str, Any]:
    """What is kept of a run that did not read the test set."""
    return {
        "inference": run.estimator,
        "labels_weight": run.config["labels.weight"],
        "alpha": run.config["alpha"],
        "learning_rate": run.config["optimizer.learning_rate"],
        "steps": run.result["steps"],
        "seed": run.config["seed"],
        "valid_accuracy": 100 * run.result["valid_accuracy"],
        "config_hash": run.result["config_hash"],
    }


def write(runs: Sequence[Run], out: Path, pilots: Sequence[dict[str, Any]] = ()) -> str:
    """Write Table 2 and its learning curves to a folder; returns the table as text.

    ``table2.csv``, ``.md``, ``.json`` and, where the runs have curves, ``table2_curves.csv`` and
    the figure ``table2.png``.

    Args:
      runs: semi-supervised ones.
      out: the folder.
      pilots: those of earlier reports.

    Raises:
      ValueError: no run has a test accuracy.
    """
    chosen = choose(runs)
    if not chosen:
        raise ValueError("no run has a test accuracy: all are pilots")
    rows = [table_row(of_row, runs) for of_row in chosen]
    tried = [*pilots, *(pilot_row(run) for run in runs if "test_accuracy" not in run.result)]
    about = {"runs": kept(tested(runs)), "pilots": tried}
    measurement.write(out, "table2", rows, about)
    row_of = {
        run.result["config_hash"]: row
        for of_row, row in zip(chosen, rows, strict=True)
        for run in of_row
    }
    curves = [
        point
        for seeds in tested(runs)
        for run in seeds
        for point in curve_rows(run, row_of.get(run.result["config_hash"]))
    ]
    if curves:
        measurement.write_csv(out / "table2_curves.csv", curves)
        figures.draw_classification(curves, rows, out / "table2.png")
    text = markdown(rows)
    rundir.write_atomically(out / "table2.md", text)
    return text
