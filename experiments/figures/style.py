"""What all figures share: colours, their order, a legend, how a figure is saved."""

from collections.abc import Iterable
from pathlib import Path

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
