"""Figures from arrays and rows of numbers. Never imports jax."""

from experiments.figures.run import draw_run
from experiments.figures.style import ESTIMATOR_COLOURS, in_order
from experiments.figures.sweep import draw_sweep
from experiments.figures.tables import draw_classification, draw_overlay, draw_panels
from experiments.figures.timing import draw_timing
from experiments.figures.variance import (
    draw_toy,
    draw_variance,
    gumbel_softmax_over_temperature,
)

__all__ = [
    "ESTIMATOR_COLOURS",
    "draw_classification",
    "draw_overlay",
    "draw_panels",
    "draw_run",
    "draw_sweep",
    "draw_timing",
    "draw_toy",
    "draw_variance",
    "gumbel_softmax_over_temperature",
    "in_order",
]
