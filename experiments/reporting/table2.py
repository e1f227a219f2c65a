"""Table 2 of Jang et al. 2017: test bound and accuracy of semi-supervised classifiers.

The bound is shown as its negative, the metric ``test/marginal_nll``, as all bounds here are.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments import figures
from experiments.reporting.layouts import Lines, shown
from experiments.reporting.table import Along, Cell, Measure, Row, Table
from experiments.storage.records import Run

_NAMES = {
    "exact": "marginalisation",
    "gumbel_softmax": "Gumbel-Softmax",
    "st_gumbel_softmax": "ST-Gumbel-Softmax",
}
_PAPER_NLL = {"exact": 106.8, "gumbel_softmax": 109.6, "st_gumbel_softmax": 110.7}
_PAPER_ACCURACY = {"exact": 92.6, "gumbel_softmax": 92.4, "st_gumbel_softmax": 93.6}

_TITLES = {
    "configs/semisup.py": "semisup",
    "configs/sweeps/table2_probes.py, 0": "table2_probes, entropy 0",
    "configs/sweeps/table2_probes.py, -1": "table2_probes, entropy -1",
    "configs/sweeps/table2_probes.py, all labels": "table2_probes, all labels",
    "configs/semisup_best.py": "semisup_best",
}

_NLL = Measure(
    "test/marginal_nll", digits=1,
    reference=lambda config, inference, steps: _PAPER_NLL.get(inference),
)  # fmt: skip
_ACCURACY = Measure(
    "test/accuracy", scale=100, higher_is_better=True, digits=1,
    reference=lambda config, inference, steps: _PAPER_ACCURACY.get(inference),
)  # fmt: skip
_VALID_ACCURACY = Measure("valid/accuracy", scale=100, higher_is_better=True)


def config_file(run: Run) -> str:
    """The config or sweep file that a run is an instance of."""
    if run.field("consistency.weight") > 0:
        return "configs/semisup_best.py"
    return "configs/sweeps/table2_probes.py" if _probed(run) else "configs/semisup.py"


def _column(run: Run) -> str:
    """Its file and, of a probe, what it probes: a row for each, not the best of them."""
    return ", ".join(filter(None, (config_file(run), _probed(run))))


def _probed(run: Run) -> str:
    """What a run of ``table2_probes.py`` has that those of ``table2_cpu.py`` have not, or ""."""
    if (entropy := run.field("entropy_weight")) != 1:
        return f"{entropy:g}"
    of_that_size = run.field("batch_size") == 20 and run.field("consistency.weight") == 0
    return "all labels" if of_that_size and _labelled(run) == run.field("labels.number") else ""


def _labelled(one: Run | Cell) -> int:
    """Labelled images in a step."""
    return one.field("labels.batch_size") or one.field("labels.number")


def _file(cell: Cell) -> str:
    return cell.column.partition(",")[0]


def in_order(inferences: Iterable[str]) -> list[str]:
    """The paper's inferences first."""
    return sorted(set(inferences), key=lambda name: (name not in _NAMES, *_place(name)))


def _place(name: str) -> tuple[int, str]:
    return (list(_NAMES).index(name) if name in _NAMES else 0, name)


def notes(cells: Sequence[Cell]) -> list[str]:
    """Which rows can be distinguished, in words."""
    return [
        "Of rows with the same config, steps and images, these differ by more than three standard",
        "errors of the difference (12.7 with two seeds); the others cannot be told apart:",
        "",
        f"* marginal nll: {_told_apart(cells, _NLL)}",
        f"* accuracy: {_told_apart(cells, _ACCURACY)}",
    ]


def _told_apart(cells: Sequence[Cell], measure: Measure) -> str:
    """Which cells are clearly better than which, the best first."""
    found = []
    for cell in sorted(cells, key=measure.value, reverse=measure.higher_is_better):
        worse = [
            f"`{other.row}`"
            for other in cells
            if _protocol(other) == _protocol(cell) and measure.is_clearly_better(cell, other)
        ]
        if worse:
            found.append(f"`{cell.row}` better than {', '.join(worse)}")
    return "; ".join(found) or "none"


def _protocol(cell: Cell) -> tuple[str, int, int, int]:
    return _file(cell), cell.steps, cell.field("batch_size"), _labelled(cell)


def _weights(cell: Cell) -> str:
    weights = [cell.field("labels.weight"), cell.field("alpha")]
    if (entropy := cell.field("entropy_weight")) != 1:
        weights.append(entropy)
    return ", ".join(f"{weight:g}" for weight in weights)


def draw(rows: Sequence[Row], curves: Sequence[Row], folder: Path) -> list[Path]:
    """Draw ``table2.png``, where there are learning curves."""
    path = folder / "table2.png"
    return [figures.draw_classification(curves, rows, path)] if curves else []


TABLE = Table(
    name="table2",
    title="Table 2: semi-supervised classification",
    belongs=lambda run: run.task == "semisupervised",
    column=_column,
    row=lambda run: run.estimator,
    titles=_TITLES,
    order=in_order,
    choice=_VALID_ACCURACY,
    measures=(_NLL, _ACCURACY),
    csv={
        "inference": lambda cell: cell.row,
        "config": _file,
        "seeds": lambda cell: len(cell.runs),
        "steps": lambda cell: cell.steps,
        "marginal_nll": _NLL.value,
        "marginal_nll_stderr": _NLL.error,
        "accuracy": _ACCURACY.value,
        "accuracy_stderr": _ACCURACY.error,
        "paper_marginal_nll": _NLL.published,
        "paper_accuracy": _ACCURACY.published,
        "batch_size": lambda cell: cell.field("batch_size"),
        "labels_weight": lambda cell: cell.field("labels.weight"),
        "alpha": lambda cell: cell.field("alpha"),
        "valid_accuracy": _VALID_ACCURACY.value,
        "best_test_accuracy": _ACCURACY.best,  # of all weights and seeds, as in the paper
        "config_hash": lambda cell: cell.config_hash,
        "entropy_weight": lambda cell: cell.field("entropy_weight"),
        "labels_batch_size": _labelled,
    },
    layout=Lines(
        title=lambda cells: [
            "Test set: marginal nll (the negative of the paper's bound) in nats, lower is better,",
            "and accuracy, higher is better; in brackets the paper's. Weights: of the labelled",
            "images' bound (`labels.weight`), of their classification loss (`alpha`), and where",
            "it is not 1 of the class's entropy (`entropy_weight`). Images of a step: without and",
            "with labels.",
            "±: standard error of the mean over the seeds; a row of one seed has none.",
        ],
        columns={
            "inference over the class": lambda cell: (
                f"{_NAMES[cell.row]} (`{cell.row}`)" if cell.row in _NAMES else f"`{cell.row}`"
            ),
            "config": lambda cell: f"`{Path(_file(cell)).stem}`",
            "weights": _weights,
            "steps x images": lambda cell: (
                f"{cell.steps:,} x ({cell.field('batch_size')} + {_labelled(cell)})"
            ),
            "seeds": lambda cell: str(len(cell.runs)),
            "marginal nll": shown(_NLL),
            "accuracy, %": shown(_ACCURACY),
        },
        notes=notes,
    ),
    pilots={
        "inference": lambda run: run.estimator,
        "labels_weight": lambda run: run.field("labels.weight"),
        "alpha": lambda run: run.field("alpha"),
        "learning_rate": lambda run: run.field("optimizer.learning_rate"),
        "steps": lambda run: run.steps,
        "seed": lambda run: run.seed,
        "valid_accuracy": lambda run: 100 * run.value("valid/accuracy"),
        "config_hash": lambda run: run.config_hash,
    },
    pilots_file="table2_pilots.csv",
    curves={
        "inference": lambda point: point.run.estimator,
        "config": lambda point: config_file(point.run),
        "seed": lambda point: point.run.seed,
        "row": lambda point: point.cell,
        "run": lambda point: point.run.config_hash,
        "step": lambda point: point.at["step"],
        "nll": Along("valid/nll"),
        "accuracy": Along("valid/accuracy", scale=100),
    },
    curves_file="table2_curves.csv",
    draw=draw,
)
