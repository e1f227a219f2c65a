"""What all figures share: colours, their order, a legend, how a figure is saved."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

INK, ACCENT, QUIET = "#1b1b1b", "#0072b2", "#b8b8b8"

ESTIMATOR_COLOURS = {
    "exact": "#1b1b1b",
    # Score-function kind: reds and browns.
    "score_function": "#b2182b",
    "nvil": "#e34a33",
    "rloo": "#fc8d59",
    "disarm": "#8c510a",
    "arms": "#bf812d",
    "local_expectation": "#c9a227",
    # With a control variate: purples.
    "muprop": "#762a83",
    "rebar": "#ae4ec9",
    "relax": "#e377c2",
    "darn": "#6b6b6b",
    # Relaxed: blues.
    "gumbel_softmax": "#0072b2",
    "decoupled_gumbel_softmax": "#74add1",
    # One-hot with a gradient of another: greens and teals.
    "straight_through": "#66a61e",
    "slope_annealed_st": "#b2df8a",
    "st_gumbel_softmax": "#00a087",
    "gumbel_rao": "#17becf",
    "reinmax": "#1b7837",
    "gapped_straight_through": "#9a9a2e",
    "redge": "#01665e",
    # Objectives, which have a gradient of their own.
    "vimco": "#e6a0c4",
    "iwae": "#5e4fa2",
}
"""One colour per estimator, and multi-sample objective, in every figure of the project."""


ESTIMATOR_MARKERS = {
    "exact": "o", "score_function": "s", "nvil": "1", "rloo": "D", "disarm": "v", "arms": "+",
    "local_expectation": "P", "muprop": "X", "rebar": "<", "relax": ">", "darn": "*",
    "gumbel_softmax": "p", "decoupled_gumbel_softmax": "2", "straight_through": "d",
    "slope_annealed_st": "^", "st_gumbel_softmax": "|", "gumbel_rao": "_", "reinmax": "h",
    "gapped_straight_through": "x", "redge": "3", "vimco": "8", "iwae": "4",
}  # fmt: skip
"""One marker for each too: so many colours cannot all be told apart, least by the colour-blind."""

BETTER = {
    "nll": "lower is better", "cost": "lower is better", "marginal_nll": "lower is better",
    "accuracy": "higher is better",
}  # fmt: skip
"""Which way metrics are better, where they have one; a rate has none."""


def with_direction(label: str, metric: str) -> str:
    """The label of an axis that says which way the metric is better."""
    return f"{label} ({BETTER[metric]})" if metric in BETTER else label


def line_of(name: str, points: int) -> dict[str, Any]:
    """Colour and marker of the line of an estimator, or of an objective with one.

    Args:
      name: its name.
      points: how many the line has; a tenth of them, or all of few, are marked.
    """
    listed = _listed(name)
    marker = ESTIMATOR_MARKERS.get(listed, "o")
    every = max(1, points // 10)
    start = list(ESTIMATOR_MARKERS).index(listed) % every if listed in ESTIMATOR_MARKERS else 0
    return {
        "color": colour_of(name), "marker": marker, "markersize": 7 if marker in "1234|_" else 4,
        "markevery": (start, every),
    }  # fmt: skip


Ends = dict[str, tuple[float, Mapping[str, Any]]]
"""Last value, and "color" and "marker", of lines by their names."""


def label_ends(axes, ends: Ends, least: float = 0.045) -> None:
    """Markers and names of lines at their right ends, moved so that none covers another.

    Args:
      axes: the panel, with its limits set.
      ends: of the lines.
      least: distance of two names, a share of the panel's height.
    """
    to_share = axes.transData + axes.transAxes.inverted()
    inside = {
        name: float(np.clip(to_share.transform((axes.get_xlim()[1], value))[1], 0, 1))
        for name, (value, _) in ends.items()
    }
    names = sorted(inside, key=lambda name: inside[name])
    heights = [inside[name] for name in names]
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + least)
    over = max(0.0, heights[-1] - 1) if heights else 0.0
    for name, height in zip(names, heights, strict=True):
        style = ends[name][1]
        axes.plot(
            [1.02], [height - over], color=style["color"], marker=style["marker"], markersize=5,
            transform=axes.transAxes, clip_on=False,
        )  # fmt: skip
        axes.text(
            1.04, height - over, name, color=INK, fontsize=8, va="center", transform=axes.transAxes
        )


def colour_of(name: str) -> str:
    """The colour of an estimator, or of an objective with one: "iwae_reinmax" has that of iwae.

    An estimator that is not listed has the colour of text.
    """
    return ESTIMATOR_COLOURS.get(_listed(name), INK)


def _listed(name: str) -> str:
    return name if name in ESTIMATOR_COLOURS else name.partition("_")[0]


def in_order(estimators: Iterable[str]) -> list[str]:
    """Each name once, in the order of :data:`ESTIMATOR_COLOURS`; others come last."""
    order = {name: place for place, name in enumerate(ESTIMATOR_COLOURS)}
    return sorted(set(estimators), key=lambda name: (order.get(_listed(name), len(order)), name))


def save(figure: plt.Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path


def legend(figure: plt.Figure, grid: np.ndarray, title: str) -> None:
    """One legend right of all panels."""
    handles = {
        text: handle
        for ax in grid.flat
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles, loc="outside right center", frameon=False, fontsize=8,
        title=title, title_fontsize=8, alignment="left",
    )  # fmt: skip
