"""Table 1 of Jang et al. 2017: test nats of structured prediction and VAEs, by estimator.

Beside our bound at the last step stands the paper's curve at the same step, whatever the budget.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments import figures
from experiments.reporting import bernoulli, paper, reinmax
from experiments.reporting.layouts import Grid
from experiments.reporting.offers import Offers
from experiments.reporting.statistics import mean
from experiments.reporting.table import Along, Cell, Measure, Row, Table
from experiments.storage.records import Run

TASKS = {
    "bern_sbn": "SBN (Bernoulli)",
    "cat_sbn": "SBN (categorical)",
    "bern_vae": "VAE (Bernoulli)",
    "cat_vae": "VAE (categorical)",
}
_FIGURES = {"figure3": ("bern_sbn", "cat_sbn"), "figure4": ("bern_vae", "cat_vae")}

# Of the fields that all estimators should have been offered alike, those that pilots.csv keeps.
_IN_PILOTS = {
    "learning_rate": "optimizer.learning_rate",
    "final_share": "optimizer.final_share",
    "weight_decay": "optimizer.weight_decay",
    "temperature_floor": "temperature.floor",
}
_OFFERS = Offers(
    own=(
        "estimator", "objective", "num_samples", "kl", "signal.", "slope.", "control.", "learned.",
        "temperature.rate", "temperature.backward",
    ),
    pilots=_IN_PILOTS,
    pilot_column="task",
    pilot_row="estimator",
)  # fmt: skip


def task(run: Run) -> str:
    """The column of a run: its latents and its task."""
    latents = "bern" if run.field("model.num_classes") == 2 else "cat"
    return f"{latents}_{run.task}"


def _last_nats(cell: Cell) -> float | None:
    """Test nats at the last step, of a cell whose runs were tested at an earlier one as well.

    None as well where a run was tested at an earlier step alone.
    """
    if not any("last/nll" in run.result for run in cell.runs):
        return None
    values = []
    for run in cell.runs:
        at_last = run.result.get("selected_step", run.steps) == run.steps
        if not at_last and "last/nll" not in run.result:
            return None
        values.append(run.value("test/nll" if at_last else "last/nll"))
    return mean(values).value


def belongs(run: Run) -> bool:
    """Whether a run is of the protocol: a VAE or SBN of no other table."""
    others = (reinmax.is_grey, bernoulli.belongs)
    return run.task in ("vae", "sbn") and not any(other(run) for other in others)


def table(curves: paper.Curves) -> Table:
    """Table 1 beside the paper's curves."""
    valid = Measure("valid/nll")
    test = Measure("test/nll", reference=lambda *key: paper.at_step(curves, *key))
    in_paper = {estimator for _, estimator in curves}

    def of_paper_first(estimators: Iterable[str]) -> list[str]:
        return sorted(figures.in_order(estimators), key=lambda name: name not in in_paper)

    def best_of_paper(steps: int) -> tuple[str, dict[str, str]]:
        best = {one: paper.best_at_step(curves, one, steps) for one in TASKS}
        texts = {one: f"{b[1]:.1f} (`{b[0]}`)" for one, b in best.items() if b is not None}
        return "the paper's best", texts

    def draw(rows: Sequence[Row], curve_rows: Sequence[Row], folder: Path) -> list[Path]:
        paths = []
        steps: dict[tuple[object, ...], set[object]] = {}
        for row in curve_rows:
            if row["test_nats"] is not None:
                steps.setdefault((row["task"], row["run"], row["seed"]), set()).add(row["step"])
        # Runs without evaluation.curve_images have one point each, which is no curve.
        with_curves = {one for (one, *_), of_run in steps.items() if len(of_run) > 1}
        # Not beside other data, whose rows have no published value.
        paper_curves = curves if any(row["paper_nats"] is not None for row in rows) else {}
        for name, tasks in _FIGURES.items():
            titles = {one: TASKS[one] for one in tasks if one in with_curves}
            if titles:
                path = folder / f"{name}.png"
                paths.append(figures.draw_overlay(curve_rows, rows, paper_curves, titles, path))
        return paths

    return Table(
        name="table1",
        title="Table 1: test nats by estimator",
        belongs=belongs,
        column=task,
        row=lambda run: run.estimator,
        titles=TASKS,
        order=figures.in_order,
        choice=valid,
        measures=(test,),
        csv={
            "task": lambda cell: cell.column,
            "estimator": lambda cell: cell.row,
            "steps": lambda cell: cell.steps,
            "learning_rate": lambda cell: cell.field("optimizer.learning_rate"),
            "temperature_rate": lambda cell: cell.field("temperature.rate"),
            "num_samples": lambda cell: cell.field("num_samples") or None,
            "seeds": lambda cell: len(cell.runs),
            "valid_nats": valid.value,
            "test_nats": test.value,
            "stderr": test.error,
            "paper_nats": test.published,
            "config_hash": lambda cell: cell.config_hash,
            "other_settings": lambda cell: cell.other_settings,
            "last_nats": _last_nats,
        },
        layout=Grid(
            title=lambda steps: [
                f"Test nats after {steps:,} steps, lower is better; in brackets the paper's curve "
                "there."
            ],
            beside=lambda cell: "" if (last := _last_nats(cell)) is None else f" / {last:.2f}",
            about_beside="Behind a slash: at the last step, where validation chose an earlier one.",
            order=of_paper_first,
            last_line=best_of_paper,
        ),
        pilots={
            "task": task,
            "estimator": lambda run: run.estimator,
            "steps": lambda run: run.steps,
            "learning_rate": lambda run: run.field("optimizer.learning_rate"),
            "temperature_rate": lambda run: run.field("temperature.rate"),
            "slope_initial": lambda run: run.field("slope.initial"),
            "kl": lambda run: run.config.get("kl"),  # of VAEs alone
            "normalize": lambda run: run.field("signal.normalize"),
            "seed": lambda run: run.seed,
            "valid_nats": lambda run: run.value("valid/nll"),
            "config_hash": lambda run: run.config_hash,
            "final_share": lambda run: run.field("optimizer.final_share"),
            "weight_decay": lambda run: run.field("optimizer.weight_decay"),
            "temperature_floor": lambda run: run.field("temperature.floor"),
        },
        pilots_order=("task", "estimator", "temperature_rate", "learning_rate"),
        pilots_file="pilots.csv",
        curves={
            "task": lambda point: task(point.run),
            "estimator": lambda point: point.run.estimator,
            "seed": lambda point: point.run.seed,
            "step": lambda point: point.at["step"],
            "loss": Along("loss"),
            "valid_nats": Along("valid/nll"),
            "test_nats": Along("curve/nll", tested="test/nll"),
            "test_images": lambda point: point.run.config.get("evaluation.curve_images") or None,
            "row": lambda point: point.cell,
            "run": lambda point: point.run.config_hash,
        },
        curves_file="curves.csv",
        offers=_OFFERS._replace(rows=frozenset(in_paper)),
        decimals=5,
        draw=draw,
    )
