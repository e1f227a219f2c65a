"""Training speed against the number of classes: figure 5a of the paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.figures.style import ESTIMATOR_COLOURS, legend, save


def draw_timing(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Steps per second of two ways of inference over the number of classes, beside the paper's."""
    classes = sorted({row["classes"] for row in rows})
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    style = (
        ("gumbel_softmax", "Gumbel-Softmax, one sample", ESTIMATOR_COLOURS["gumbel_softmax"]),
        ("exact", "marginalisation", ESTIMATOR_COLOURS["exact"]),
    )
    for ax, column, title in zip(
        panels,
        ("steps_per_second", "paper_steps_per_second"),
        ("here", "the paper's, on a GTX Titan X"),
        strict=True,
    ):
        for offset, (inference, label, colour) in zip((-0.2, 0.2), style, strict=True):
            for at, number in enumerate(classes):
                (row,) = [r for r in rows if r["classes"] == number and r["inference"] == inference]
                if row[column] is None:
                    if column == "steps_per_second":
                        ax.text(at + offset, 0.02, "out of\nmemory", ha="center", fontsize=7,
                                transform=ax.get_xaxis_transform())  # fmt: skip
                    continue
                hatch = "//" if inference == "exact" else ""
                look = {"color": colour, "hatch": hatch, "edgecolor": "white"}
                bar = ax.bar(at + offset, row[column], 0.38, label=label, **look)
                ax.bar_label(bar, [f"{row[column]:.3g}"], fontsize=8)
        shown = [row[column] for row in rows if row[column] is not None]
        ax.set_yscale("log")
        ax.set_ylim(min(shown, default=1) / 2, max(shown, default=1) * 1.6)
        ax.set_xlim(-0.5, len(classes) - 0.5)
        ax.set_xticks(range(len(classes)), [f"{number:,}" for number in classes])
        ax.set_xlabel("classes")
        ax.set_title(title, fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training steps per second (higher is better)")
    legend(figure, panels, "inference over the class")
    return save(figure, path)
