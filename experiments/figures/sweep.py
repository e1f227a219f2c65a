"""The configurations of a sweep over what was swept."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize

from experiments.figures.style import ACCENT, INK, QUIET, save

Rows = Sequence[Mapping[str, Any]]
_COLOURS = "viridis"
_MOST_PANELS = 12


def draw_sweep(rows: Rows, names: Sequence[str], select: str, maximize: bool, path: Path) -> Path:
    """The selected metric on validation over the swept fields: a mean of seeds, standard errors.

    One field makes a line or dots, two a heat map, more several heat maps, or parallel coordinates
    where these would be many. The test set is left out: configurations are compared on validation
    alone.

    Args:
      rows: of the configurations, as in sweep.csv; each has a value.
      names: the swept fields but the seed.
      select: name of the metric.
      maximize: whether higher is better.
      path: where the figure goes.
    """
    label = f"{select} on validation ({'higher' if maximize else 'lower'} is better)"
    value = f"valid/{select}"
    names = sorted(names, key=lambda name: -len(_values(rows, name)))
    panels = math.prod(len(_values(rows, name)) for name in names[2:])
    if len(names) < 2:
        figure = _one_axis(rows, names, value, label, maximize)
    elif panels <= _MOST_PANELS:
        figure = _heat_maps(rows, names, value, label, maximize)
    else:
        figure = _parallel(rows, names, value, label, maximize)
    seeds = max(row["seeds"] for row in rows)
    about = f"mean ± standard error of {seeds} seeds" if seeds > 1 else "one seed each"
    figure.suptitle(f"{about}; * best", fontsize=9, x=0.01, ha="left")
    return save(figure, path)


def _best(rows: Rows, value: str, maximize: bool) -> Mapping[str, Any]:
    """The best of the rows, in which a configuration that failed with no seed goes first."""
    whole = [row for row in rows if not row.get("failed")] or rows
    return (max if maximize else min)(whole, key=lambda row: row[value])


def _values(rows: Rows, name: str) -> list[Any]:
    """The values of a field, numbers in order."""
    found = list(dict.fromkeys(row[name] for row in rows))
    return sorted(found) if all(map(_is_number, found)) else found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _with_error(row: Mapping[str, Any], value: str) -> str:
    error = row.get(f"{value}_stderr")
    return f"{row[value]:.5g}" + (f"\n± {error:.2g}" if error is not None else "")


def _scale(rows: Rows, value: str, maximize: bool) -> Normalize:
    """Colours from the best value to a bad one: the worst tenth, which may diverge, has no more."""
    values = [row[value] for row in rows]
    low, high = np.percentile(values, (10, 100) if maximize else (0, 90))
    return Normalize(low, high if high > low else low + 1e-9)


def _one_axis(rows: Rows, names: Sequence[str], value: str, label: str, maximize: bool):
    best = _best(rows, value, maximize)
    values = [row[value] for row in rows]
    errors = [row.get(f"{value}_stderr") or 0.0 for row in rows]
    named = [row[names[0]] for row in rows] if names else [""] * len(rows)
    style: dict[str, Any] = {"fmt": "o", "color": ACCENT, "markersize": 5, "capsize": 3}
    if names and all(map(_is_number, named)):
        figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
        order = np.argsort(named)
        at, y, bars = (np.array(one, float)[order] for one in (named, values, errors))
        axes.errorbar(at, y, bars, linestyle="-", linewidth=1, **style)
        axes.plot(best[names[0]], best[value], "*", color=INK, markersize=13)
        if at[0] > 0 and at[-1] / at[0] >= 8:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_xticks(at, map(_text, at.tolist()))
        axes.set_xlabel(names[0])
        axes.set_ylabel(label)
    else:
        size = (6, 1.3 + 0.3 * len(rows))
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        axes.errorbar(values, range(len(rows)), xerr=errors, **style)
        axes.plot(best[value], rows.index(best), "*", color=INK, markersize=13)
        axes.set_yticks(range(len(rows)), map(_text, named))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color="#e8e8e8")
        axes.set_ylabel(names[0] if names else "")
        axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _heat_maps(rows: Rows, names: Sequence[str], value: str, label: str, maximize: bool):
    """A map over the first two fields for each combination of the others that there is."""
    (across, down), others = names[:2], names[2:]
    if max(len(_text(one)) for one in _values(rows, across)) > 8:  # long names are read in lines
        across, down = down, across
    columns, lines = _values(rows, across), _values(rows, down)
    combinations = list(itertools.product(*(_values(rows, name) for name in others)))
    combinations = [
        one for one in combinations
        if any(all(row[n] == v for n, v in zip(others, one, strict=True)) for row in rows)
    ]  # fmt: skip
    wide = min(len(combinations), 3)
    tall = -(-len(combinations) // wide)
    size = (1.6 + wide * max(2.2, 0.85 * len(columns)), 1.4 + tall * max(1.5, 0.55 * len(lines)))
    figure, grid = plt.subplots(
        tall, wide, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    best, norm = _best(rows, value, maximize), _scale(rows, value, maximize)
    colours = plt.get_cmap(_COLOURS if maximize else f"{_COLOURS}_r")
    for axes in grid.flat[len(combinations) :]:
        axes.set_visible(False)
    for axes, combination in zip(grid.flat, combinations, strict=False):
        chosen = dict(zip(others, combination, strict=True))
        values = np.full((len(lines), len(columns)), np.nan)
        for row in rows:
            if any(row[name] != wanted for name, wanted in chosen.items()):
                continue
            i, j = lines.index(row[down]), columns.index(row[across])
            values[i, j] = row[value]
            red, green, blue, _ = colours(norm(row[value]))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            text = _with_error(row, value) + (" *" if row is best else "")
            axes.text(j, i, text, ha="center", va="center", fontsize=7,
                      weight="bold" if row is best else "normal",
                      color="white" if dark else INK)  # fmt: skip
        shown = axes.imshow(values, cmap=colours, norm=norm, aspect="auto")
        axes.set_xticks(range(len(columns)), map(_text, columns), fontsize=8)
        axes.set_yticks(range(len(lines)), map(_text, lines), fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        titles = [f"{name} = {_text(wanted)}" for name, wanted in chosen.items()]
        axes.set_title("\n".join(titles), fontsize=8, loc="left")
    figure.supxlabel(across, fontsize=9)
    figure.supylabel(down, fontsize=9)
    bar = figure.colorbar(shown, ax=grid, extend="min" if maximize else "max")
    bar.set_label(label, fontsize=9)
    return figure


def _parallel(rows: Rows, names: Sequence[str], value: str, label: str, maximize: bool):
    """A line for each configuration through an axis for each field, to its value at the right."""
    names = names[::-1]
    figure, axes = plt.subplots(figsize=(2 + 1.9 * len(names), 5), layout="constrained")
    best, norm = _best(rows, value, maximize), _scale(rows, value, maximize)
    colours = plt.get_cmap(_COLOURS if maximize else f"{_COLOURS}_r")
    places = {name: _values(rows, name) for name in names}

    def height(name: str, row: Mapping[str, Any]) -> float:
        values = places[name]
        return values.index(row[name]) / (len(values) - 1) if len(values) > 1 else 0.5

    for row in sorted(rows, key=lambda row: row[value], reverse=not maximize):
        end = float(np.clip(norm(row[value]), 0, 1))
        points = [*(height(name, row) for name in names), end]
        is_best = row is best
        axes.plot(points, color=INK if is_best else colours(end), zorder=3 if is_best else 2,
                  linewidth=2.5 if is_best else 1, alpha=1 if is_best else 0.7)  # fmt: skip
    for x, name in enumerate(names):
        axes.axvline(x, color=QUIET, linewidth=1, zorder=1)
        for value_of_field in places[name]:
            y = height(name, {name: value_of_field})
            axes.text(x, y, f" {_text(value_of_field)}", fontsize=7, va="center", zorder=4,
                      bbox={"color": "white", "alpha": 0.7, "pad": 0.5})  # fmt: skip
    last = len(names)
    axes.axvline(last, color=QUIET, linewidth=1, zorder=1)
    for share in np.linspace(0, 1, 5):
        axes.text(last, share, f"  {float(norm.inverse(share)):.5g}", fontsize=8, va="center")
    axes.set_xticks(range(last + 1), [*names, label.replace(" (", "\n(")], fontsize=8, rotation=12)
    axes.set_yticks([])
    axes.set_xlim(-0.1, last + 0.35)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure
