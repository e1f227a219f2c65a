"""200 Bernoulli units on dynamically binarised images, by evaluations of the cost.

The protocol of Dong et al. 2020 (DisARM) and its successors (``configs/sweeps/bernoulli.py``). What
they print is in figures, of which no numbers stand beside ours.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments import figures
from experiments.reporting.layouts import Lines, with_error
from experiments.reporting.table import Along, Cell, Measure, Row, Table
from experiments.storage.records import Run

# Evaluations of the cost for one estimate, as the registry has them; of all others it is one.
_EVALUATIONS = {"muprop": 2, "disarm": 2, "rebar": 3, "relax": 3, "local_expectation": 401}
_SAMPLES = {"rloo": 4, "arms": 4}  # where config.num_samples leaves it to the estimator


def belongs(run: Run) -> bool:
    """Whether a run is of the protocol."""
    return (
        run.task == "vae"
        and run.config.get("objective") == "elbo"
        and run.config.get("data.binarization") == "dynamic"
        and run.config.get("batch_size") == 50
        and run.config.get("model.num_classes") == 2
        and run.config.get("model.num_latents") == 200
        and not run.config.get("model.hidden_sizes")
    )


def evaluations(run: Run) -> int:
    """Evaluations of the decoder for one image and step."""
    of_one = _EVALUATIONS.get(run.estimator, 1)
    if run.estimator in _SAMPLES:
        of_one = run.field("num_samples") or _SAMPLES[run.estimator]
    return of_one * run.field("num_estimates")


def _title(cells: Sequence[Cell]) -> list[str]:
    def values_of(field):  # most often one
        return " or ".join(f"{value:,}" for value in sorted({cell.field(field) for cell in cells}))

    return [
        f"Nats, lower is better. Test: the bound of {values_of('evaluation.test_samples')} samples "
        "after the last step, of all",
        "test images. Training: the bound of one sample, mean over the last "
        f"{values_of('log_every')} steps;",
        "that of `gumbel_softmax` is of relaxed samples, to be compared with no other.",
    ]


_TRAIN = Measure("train/loss")
_TEST = Measure("test/nll")
_VALID = Measure("valid/nll")


def draw(rows: Sequence[Row], curves: Sequence[Row], folder: Path) -> list[Path]:
    """Draw ``bernoulli.png``."""
    if not curves:
        return []
    path = figures.draw_panels(
        curves, rows, folder / "bernoulli.png", panel="evaluations", title="{} evaluations",
        value="valid_nats", label="validation nats per image (lower is better)",
    )  # fmt: skip
    return [path]


TABLE = Table(
    name="bernoulli",
    title="Bernoulli units on dynamically binarised images",
    belongs=belongs,
    column=lambda run: str(evaluations(run)),
    row=lambda run: run.estimator,
    titles={str(number): str(number) for number in (2, 3, 4)},
    order=figures.in_order,
    choice=_VALID,
    measures=(_TEST, _TRAIN),
    csv={
        "evaluations": lambda cell: int(cell.column),
        "estimator": lambda cell: cell.row,
        "num_estimates": lambda cell: cell.field("num_estimates"),
        "steps": lambda cell: cell.steps,
        "seeds": lambda cell: len(cell.runs),
        "test_nats": _TEST.value,
        "stderr": _TEST.error,
        "train_nats": _TRAIN.value,
        "valid_nats": _VALID.value,
        "minutes": lambda cell: cell.minutes,
        "config_hash": lambda cell: cell.config_hash,
    },
    layout=Lines(
        title=_title,
        columns={
            "evaluations": lambda cell: cell.column,
            "estimator": lambda cell: f"`{cell.row}`",
            "estimates averaged": lambda cell: str(cell.field("num_estimates")),
            "steps": lambda cell: f"{cell.steps:,}",
            "seeds": lambda cell: str(len(cell.runs)),
            "test": lambda cell: with_error(_TEST, cell),
            "training": lambda cell: with_error(_TRAIN, cell),
            "minutes": lambda cell: f"{cell.minutes:.0f}",
        },
    ),
    curves={
        "evaluations": lambda point: evaluations(point.run),
        "estimator": lambda point: point.run.estimator,
        "seed": lambda point: point.run.seed,
        "step": lambda point: point.at["step"],
        "loss": Along("loss"),
        "valid_nats": Along("valid/nll"),
        "row": lambda point: point.cell,
        "run": lambda point: point.run.config_hash,
    },
    curves_file="bernoulli_curves.csv",
    decimals=5,
    draw=draw,
)
