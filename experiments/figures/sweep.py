"""The points of a sweep over what was swept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.style import legend, save


def draw_sweep(
    rows: Sequence[Mapping[str, Any]], swept: Sequence[str], select: str, path: Path
) -> Path:
    """The selected metric on validation over the swept fields: the mean of seeds, and their range.

    The test set is left out: points are compared on validation alone.

    The first numeric field is the x axis, the others make the lines; seeds are averaged.
    """
    names = [name for name in swept if name != "seed"]
    x = next((name for name in names if _is_number(rows, name)), None)
    others = [name for name in names if name != x]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        label = ", ".join(f"{_short(name)} = {row[name]}" for name in others) or "all"
        lines.setdefault(label, []).append(row)
    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(lines)))
    for colour, (label, of_line) in zip(colours, lines.items(), strict=True):
        values: dict[Any, list[float]] = {}
        for row in of_line:
            values.setdefault(row[x] if x else "", []).append(row[f"valid/{select}"])
        at = sorted(values)
        low, mean, high = (np.array([f(values[v]) for v in at]) for f in (min, np.mean, max))
        axes.plot(at, mean, marker="o", markersize=4, color=colour, label=label)
        axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
    if x:
        axes.set_xlabel(_short(x))
        at = sorted({row[x] for row in rows})
        if at[0] > 0 and at[-1] / at[0] >= 8:
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(f"{select} on validation")
    seeds = len({row.get("seed") for row in rows})
    legend(figure, np.array([axes]), f"mean and range of {seeds} seeds" if seeds > 1 else "")
    return save(figure, path)


def _is_number(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(
        isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows
    )


def _short(name: str) -> str:
    return name.replace("_", " ")
