"""Estimators compared: bias, variance and cosine, the toy problem, figure 1 of the paper."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from experiments.figures.style import (
    ESTIMATOR_COLOURS,
    INK,
    QUIET,
    Ends,
    in_order,
    label_ends,
    line_of,
    save,
)

_LEAST = 1e-3  # smaller biases and variances are drawn as this
# Whose gradient goes through the samples; the decoder's goes around them.
_GROUPS = ("classifier", "encoder", "maps_0", "all")


def _band(axes, rows: Sequence[Mapping[str, Any]], name: str, over: str, **style) -> None:
    """A line over a column with its 95 % band."""
    rows = sorted(rows, key=lambda row: row[over])
    x = [row[over] for row in rows]
    values, low, high = ([row[f"{name}{end}"] for row in rows] for end in ("", "_low", "_high"))
    axes.plot(x, values, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _dots(axes, rows: Sequence[Mapping[str, Any]], name: str, floor: float | None) -> None:
    """One dot and 95 % bar a row, from top to bottom; a triangle where it may be 0."""
    for y, row in enumerate(rows):
        colour = ESTIMATOR_COLOURS[row["estimator"]]
        low, value, high = (row[f"{name}{end}"] for end in ("_low", "", "_high"))
        if floor is not None and low <= floor:
            axes.plot([max(high, floor)], [y], marker="<", color=colour, markersize=6)
            axes.plot([_LEAST, max(high, floor)], [y, y], color=colour, linewidth=1, alpha=0.5)
        else:
            axes.plot([low, high], [y, y], color=colour, linewidth=2)
            axes.plot([value], [y], marker="o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="#e8e8e8")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def estimators_side_by_side(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> Path:
    """Bias, variance and cosine of each estimator, its variance at equal cost, in one table."""
    rows = sorted(rows, key=lambda row: row["variance"])
    floor = _smallest_bias(rows[0])
    panels = (
        ("bias", "bias / |gradient|\n(lower is better)", floor),
        ("variance", "variance / |gradient|²\n(lower is better)", None),
        ("variance_per_evaluation", "variance at equal evaluations\nof f (lower is better)", None),
        (
            "variance_per_time",
            "variance at equal time (of one\ngumbel_softmax; lower is better)",
            None,
        ),
        ("cosine", "cosine of one estimate to the\ngradient (higher is better)", None),
    )
    figure, axes = plt.subplots(
        1, len(panels), figsize=(15, 0.33 * len(rows) + 1.6), sharey=True, layout="constrained"
    )
    for ax, (name, label, least) in zip(axes, panels, strict=True):
        _dots(ax, rows, name, least)
        ax.set_xlabel(label, fontsize=9)
        if name != "cosine":
            ax.set_xscale("log")
    axes[0].set_xlim(left=_LEAST)
    if floor > _LEAST:
        axes[0].axvspan(_LEAST, floor, color=QUIET, alpha=0.3, linewidth=0, zorder=0)
    for ax in axes[1:4]:
        ax.set_xlim(left=max(ax.get_xlim()[0], _LEAST / 10))
    axes[0].set_yticklabels([_label(row) for row in rows], fontsize=9)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return save(figure, path)


def _smallest_bias(row: Mapping[str, Any]) -> float:
    """Biases up to this may be the reference's own error, two of its standard errors."""
    return max(2 * (row.get("reference_error") or 0), _LEAST)


def _label(row: Mapping[str, Any]) -> str:
    temperature = row["temperature"]
    return row["estimator"] + (f" (τ = {temperature:.2g})" if temperature else "")


def over_temperature(
    rows: Sequence[Mapping[str, Any]], column: str, heading: Callable[[Any], str], path: Path
) -> Path:
    """Bias, variance and cosine over the temperature: a column of panels for each estimator.

    Estimators without a temperature to choose are left out: ``estimators_side_by_side`` has them.

    Args:
      rows: of ``experiments.variance`` or ``experiments.toy``.
      column: each of its values is a line.
      heading: the name of a line.
      path: where the figure goes.
    """
    values = sorted({row[column] for row in rows})
    swept = in_order(row["estimator"] for row in rows if row["at"] == "chosen")
    rows = [row for row in rows if row["estimator"] in swept]
    panels = (
        ("bias", "bias / |gradient|\n(lower is better)"),
        ("variance", "variance / |gradient|²\n(lower is better)"),
        ("cosine", "cosine of one estimate\n(higher is better)"),
    )
    figure, grid = plt.subplots(
        len(panels), max(1, len(swept)), figsize=(2.3 + 2.3 * max(1, len(swept)), 7.2),
        sharex=True, sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.8, len(values)))
    markers = ("o", "s", "^", "D", "v")
    for (name, label), line in zip(panels, grid, strict=True):
        for estimator, ax in zip(swept, line, strict=False):
            ends: Ends = {}
            for place, value in enumerate(values):
                of_it = [r for r in rows if (r["estimator"], r[column]) == (estimator, value)]
                style = {"color": colours[place], "marker": markers[place % len(markers)]}
                _band(ax, of_it, name, "temperature", markersize=4, **style)
                if of_it:
                    last = max(of_it, key=lambda row: row["temperature"])
                    ends[heading(value)] = last[name], style
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
            ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            if name != "cosine":
                ax.set_yscale("log")
                positive = [row[name] for row in rows if row[f"{name}_low"] > 0] or [1.0]
                ax.set_ylim(max(min(positive) / 2, _LEAST), 1.5 * max(positive))
            ax.grid(color="#e8e8e8")
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
        if swept:
            label_ends(line[-1], ends, least=0.075)
        line[0].set_ylabel(label, fontsize=9)
    for estimator, top, bottom in zip(swept, grid[0], grid[-1], strict=False):
        top.set_title(estimator, fontsize=9, loc="left")
        bottom.set_xlabel("temperature", fontsize=9)
    return save(figure, path)


def draw_variance(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """The figures of ``experiments.variance`` from its rows; returns their paths."""
    measured = {row["group"] for row in rows}
    group = next((name for name in _GROUPS if name in measured), "all")
    rows = [row for row in rows if row["group"] == group]
    paths = []
    for step in sorted({row["step"] for row in rows}):
        at_schedule = [row for row in rows if row["step"] == step and row["at"] == "schedule"]
        reference = at_schedule[0]["reference"]
        triangle = "Triangle: upper limit of a bias that may be 0"
        about = f"reference: {reference}. {triangle}"
        if at_schedule[0]["reference_error"] is not None:
            about = f"reference: mean of {reference}; grey: its error. {triangle}"
        whose = "all parameters" if group == "all" else f"the {group}"
        title = (
            f"Gradient with respect to {whose} at step {step:,}, {at_schedule[0]['keys']:,} "
            f"estimates each; 95 % bands; {about}"
        )
        path = folder / f"estimators_step{step}.png"
        paths.append(estimators_side_by_side(at_schedule, title, path))
    path = folder / "temperature.png"
    return [*paths, over_temperature(rows, "step", lambda step: f"step {step:,}", path)]


def optimisation(
    curves: Sequence[Mapping[str, Any]], target: float, power: float, path: Path
) -> Path:
    """Exact loss along the descent on each estimator's gradients, unbiased ones on the left."""
    best = min(target, 1 - target) ** power
    kinds = {row["estimator"]: row["unbiased_for"] for row in curves}
    unbiased = [
        name
        for name, kind in kinds.items()
        if kind == "any" or (power == 2 and "quadratic" in kind)
    ]
    figure, axes = plt.subplots(
        1, 2, figsize=(12, 5.5), sharex=True, sharey=True, layout="constrained"
    )
    labelled: list[tuple[Any, Ends]] = []
    for ax, title, names in (
        (axes[0], "unbiased for this f", unbiased),
        (axes[1], "biased", [name for name in kinds if name not in unbiased]),
    ):
        ends: Ends = {}
        for name in names:
            of_it = [row for row in curves if row["estimator"] == name]
            style = line_of(name, len(of_it))
            _band(ax, of_it, "loss", "step", **style)
            ends[name] = max(of_it, key=lambda row: row["step"])["loss"], style
        labelled.append((ax, ends))
        ax.axhline(best, color=QUIET, linewidth=1, zorder=0)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("step")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"{_problem(target, power)}, the exact loss (lower is better)")
    for ax, ends in labelled:
        label_ends(ax, ends)
    about = f"{curves[0]['seeds']} runs each, 95 % bands; grey: the optimum"
    figure.suptitle(about, fontsize=9, x=0.01, ha="left")
    return save(figure, path)


def _problem(target: float, power: float) -> str:
    return f"E (b - {target:g})²" if power == 2 else f"E |b - {target:g}|^{power:g}"


def draw_toy(
    rows: Sequence[Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]],
    target: float,
    power: float,
    folder: Path,
) -> list[Path]:
    """The figures of ``experiments.toy`` from its rows; returns their paths."""

    def heading(logit: float) -> str:
        return f"P(b = 1) = {1 / (1 + np.exp(-logit)):.2f}"

    paths = [
        over_temperature(rows, "logit", heading, folder / "temperature.png"),
        optimisation(curves, target, power, folder / "optimisation.png"),
    ]
    middle = [
        row for row in rows
        if row["logit"] == 0 and (row["at"] == "schedule" or row["temperature"] == 0.5)
    ]  # fmt: skip
    title = (
        f"{_problem(target, power)} at P(b = 1) = 0.5, {rows[0]['keys']:,} estimates each; 95 % "
        "bands. Triangle: bias that may be 0, its upper end"
    )
    return [*paths, estimators_side_by_side(middle, title, folder / "estimators.png")]


def gumbel_softmax_over_temperature(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Expectation and samples of Gumbel-Softmax, a column for each temperature (0: categorical)."""
    temperatures = list(dict.fromkeys(row["temperature"] for row in rows))
    shown = ["expectation", *(name for name in rows[0] if name.startswith("sample_"))]
    figure, grid = plt.subplots(
        len(shown), len(temperatures), figsize=(2.1 * len(temperatures), 1.3 * len(shown) + 0.6),
        sharex=True, sharey="row", layout="constrained",
    )  # fmt: skip
    highest = max(max(row["probability"], row["expectation"]) for row in rows)
    for temperature, column in zip(temperatures, grid.T, strict=True):
        of_it = [row for row in rows if row["temperature"] == temperature]
        classes = [row["class"] for row in of_it]
        for name, ax in zip(shown, column, strict=True):
            colour = ESTIMATOR_COLOURS["gumbel_softmax"] if temperature else INK
            ax.bar(classes, [row[name] for row in of_it], color=colour, width=0.8)
            if name == "expectation":  # steps: the class probabilities
                ax.stairs(
                    [row["probability"] for row in of_it],
                    [*(k - 0.5 for k in classes), classes[-1] + 0.5],
                    color="#d55e00", linewidth=1.2,
                )  # fmt: skip
            ax.set_xlim(-0.6, len(classes) - 0.4)
            ax.set_ylim(0, 1.15 * highest if name == "expectation" else 1.02)
            ax.set_xticks([])
            ax.spines[["top", "right"]].set_visible(False)
        column[0].set_title(f"τ = {temperature:g}" if temperature else "categorical", fontsize=10)
    for name, ax in zip(shown, grid[:, 0], strict=True):
        ax.set_ylabel(name.replace("_", " "), fontsize=9)
    figure.supxlabel("class (orange: its probability)", fontsize=9)
    return save(figure, path)
