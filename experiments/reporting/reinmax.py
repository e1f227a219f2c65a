"""The tables of Liu et al. 2023 (ReinMax): grey images, and polynomials of Bernoulli units.

The first shows the loss of training, not a bound of held-out images. The published values are
recalled, not read in the paper; the means of the rows agree with its printed averages to 0.02.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments import figures
from experiments.reporting.layouts import Grid
from experiments.reporting.table import Along, Measure, Row, Table, published
from experiments.storage.records import Run

SHAPES = ("8x4", "4x24", "8x16", "16x12", "64x8", "10x30")
"""Classes x latents, in the order of the published table."""

_PUBLISHED = {
    "st_gumbel_softmax": (126.85, 101.32, 99.32, 100.09, 104.0, 99.63),
    "gumbel_rao": (125.94, 99.96, 99.58, 102.54, 112.34, 102.02),
    "gapped_straight_through": (126.35, 101.49, 98.29, 98.12, 102.53, 98.64),
    "slope_annealed_st": (135.53, 112.03, 112.94, 113.31, 113.90, 112.63),
    "reinmax": (124.66, 99.77, 97.70, 98.06, 100.71, 98.37),
}
_REFERENCE = {
    (shape, estimator): value
    for estimator, values in _PUBLISHED.items()
    for shape, value in zip(SHAPES, values, strict=True)
}


def is_grey(run: Run) -> bool:
    """Whether a run is of the protocol of the grey images."""
    return (
        run.task == "vae"
        and run.config.get("model.prior") == "uniform"
        and run.config.get("data.binarization") == "none"
    )


def shape(run: Run) -> str:
    """Classes x latents."""
    return f"{run.field('model.num_classes')}x{run.field('model.num_latents')}"


def row(run: Run) -> str:
    """The estimator, and the initialisation where it is not that of the published runs."""
    initialization = run.field("model.initialization")
    return run.estimator if initialization == "pytorch" else f"{run.estimator} ({initialization})"


def draw(rows: Sequence[Row], curves: Sequence[Row], folder: Path) -> list[Path]:
    """Draw ``reinmax.png``, of the published initialisation."""
    rows = [one for one in rows if one["initialization"] == "pytorch"]
    if not curves or not rows:
        return []
    path = figures.draw_panels(
        curves, rows, folder / "reinmax.png", panel="shape", title="{}", value="train_nats",
        label="training nats per image (lower is better)", published="published_nats",
    )  # fmt: skip
    return [path]


_TRAIN = Measure("train/loss", reference=published(_REFERENCE))
_VALID = Measure("valid/nll")

GREY = Table(
    name="reinmax",
    title="Training nats of VAEs on grey images",
    belongs=is_grey,
    column=shape,
    row=row,
    titles={shape: shape for shape in SHAPES},
    order=figures.in_order,
    choice=_VALID,
    measures=(_TRAIN,),
    csv={
        "shape": lambda cell: cell.column,
        "estimator": lambda cell: cell.field("estimator"),
        "initialization": lambda cell: cell.field("model.initialization"),
        "steps": lambda cell: cell.steps,
        "seeds": lambda cell: len(cell.runs),
        "train_nats": _TRAIN.value,
        "stderr": _TRAIN.error,
        "published_nats": _TRAIN.published,
        "valid_nats": _VALID.value,
        "config_hash": lambda cell: cell.config_hash,
    },
    layout=Grid(
        title=lambda steps: [
            f"Mean training loss of the last epoch in nats after {steps:,} steps, lower is better,",
            "of classes x latents; in brackets the published value, as recalled. A line that names",
            "an initialisation is not of the published protocol, which has PyTorch's.",
        ],
    ),
    curves={
        "shape": lambda point: shape(point.run),
        "estimator": lambda point: point.run.estimator,
        "seed": lambda point: point.run.seed,
        "step": lambda point: point.at["step"],
        "train_nats": Along("loss"),
        "valid_nats": Along("valid/nll"),
        "row": lambda point: point.cell,
        "run": lambda point: point.run.config_hash,
    },
    curves_metric="loss",
    curves_file="reinmax_curves.csv",
    decimals=5,
    draw=draw,
)

_COST = Measure("test/cost", digits=6, nats=False)

POLYNOMIAL = Table(
    name="polynomial",
    title="Polynomials of Bernoulli units",
    belongs=lambda run: run.task == "polynomial",
    column=lambda run: f"{run.field('model.power'):g}",
    row=lambda run: run.estimator,
    titles={power: f"p = {power}" for power in ("1.5", "2", "3")},
    order=figures.in_order,
    choice=Measure("valid/cost"),
    measures=(_COST,),
    csv={
        "power": lambda cell: cell.column,
        "estimator": lambda cell: cell.row,
        "steps": lambda cell: cell.steps,
        "seeds": lambda cell: len(cell.runs),
        "cost": _COST.value,
        "stderr": _COST.error,
        "config_hash": lambda cell: cell.config_hash,
    },
    layout=Grid(
        title=lambda steps: [
            f"Expected cost after {steps:,} steps, exact at the trained probabilities; lower is",
            "better.",
        ],
        last_line=lambda steps: (
            "the optimum",
            {power: f"{0.45 ** float(power):.4f}" for power in ("1.5", "2", "3")},
        ),
    ),
    digits=6,
)
