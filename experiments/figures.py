"""Figures of one run, from arrays and metric rows. Never imports jax."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

_INK, _ACCENT, _QUIET = "#1b1b1b", "#0072b2", "#b8b8b8"

ESTIMATOR_COLOURS = {
    "exact": "#1b1b1b",
    # Score-function kind: reds and browns.
    "score_function": "#b2182b",
    "nvil": "#e34a33",
    "rloo": "#fc8d59",
    "disarm": "#8c510a",
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
    # Objectives, which have a gradient of their own.
    "vimco": "#e6a0c4",
    "iwae": "#5e4fa2",
}
"""One colour per estimator, and multi-sample objective, in every figure of the project."""


def _colour_key(name: str) -> str:
    """Of an estimator, or of an objective by one: "iwae_reinmax" is of the kind iwae."""
    return name if name in ESTIMATOR_COLOURS else name.partition("_")[0]


def in_order(estimators: Iterable[str]) -> list[str]:
    """Each name once, by kinds."""
    order = list(ESTIMATOR_COLOURS)
    return sorted(set(estimators), key=lambda name: (order.index(_colour_key(name)), name))


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path


def _axes(width: float, height: float):
    figure, axes = plt.subplots(figsize=(width, height))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _tiles(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Arrange square images ``[b, d]`` in rows on a light ground."""
    side = round(images.shape[1] ** 0.5)
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap), 0.25)
    for i, image in enumerate(images):
        top, left = (i // columns) * (side + gap), (i % columns) * (side + gap)
        sheet[top : top + side, left : left + side] = image.reshape(side, side)
    return sheet


def _show_tiles(sheet: np.ndarray, title: str, row_labels: Sequence[str] = ()) -> plt.Figure:
    height, width = sheet.shape
    figure, axes = plt.subplots(figsize=(7, 7 * height / width))
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xticks([])
    ticks = (np.arange(len(row_labels)) + 0.5) * height / max(len(row_labels), 1)
    axes.set_yticks(ticks, row_labels, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def learning_curve(
    rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any], path: Path
) -> Path:
    """Training loss and validation bound against the step, the test bound as a point."""
    figure, axes = _axes(6.5, 4)
    axes.plot(
        [row["step"] for row in rows],
        [row["loss"] for row in rows],
        color=_QUIET,
        label="training loss (one sample)",
    )
    bound = next(name for name in result if name.startswith("valid_nll_"))
    evaluated = [row for row in rows if row.get(bound) is not None]
    values = [row[bound] for row in evaluated]
    samples = bound.removeprefix("valid_nll_m")
    axes.plot(
        [row["step"] for row in evaluated],
        values,
        color=_ACCENT,
        marker="o",
        markersize=3,
        label=f"validation bound, m = {samples}",
    )
    shown = np.array([row["loss"] for row in rows[len(rows) // 10 :]] + values)
    low, high = np.percentile(shown, [0, 97])
    for test in (name for name in result if name.startswith("test_nll_")):
        low = min(low, result[test])
        axes.plot(
            [result["selected_step"]],
            [result[test]],
            color="#d55e00",
            marker="*",
            markersize=11,
            linestyle="none",
            label=f"test bound, m = {test.removeprefix('test_nll_m')}: {result[test]:.2f}",
        )
    axes.set_ylim(low - 2, high + 4)
    axes.set_xlabel("step")
    axes.set_ylabel("nats per image")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.legend(frameon=False, fontsize=9)
    return _save(figure, path)


def accuracy_curve(
    rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any], path: Path
) -> Path:
    """Accuracy on validation against the step, on the test set as a point."""
    figure, axes = _axes(6.5, 4)
    evaluated = [row for row in rows if row.get("valid_accuracy") is not None]
    axes.plot(
        [row["step"] for row in evaluated],
        [100 * row["valid_accuracy"] for row in evaluated],
        color=_ACCENT,
        marker="o",
        markersize=3,
        label="validation",
    )
    if (test := result.get("test_accuracy")) is not None:
        label = f"test: {100 * test:.2f} %"
        style = {"color": "#d55e00", "marker": "*", "markersize": 11, "linestyle": "none"}
        axes.plot([result["selected_step"]], [100 * test], label=label, **style)
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy, %")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return _save(figure, path)


def reconstructions(originals: np.ndarray, reconstructed: np.ndarray, path: Path) -> Path:
    """Test images above the decoder's pixel probabilities at one hard posterior sample of each."""
    sheet = _tiles(np.concatenate([originals, reconstructed]), len(originals))
    return _save(_show_tiles(sheet, "Reconstructions of test images", ("image", "decoded")), path)


def samples(images: np.ndarray, path: Path) -> Path:
    """Pixel probabilities at samples of the prior."""
    return _save(_show_tiles(_tiles(images, 10), "Samples from the prior"), path)


def class_use(probabilities: np.ndarray, path: Path) -> Path:
    """How often each class ``[n, k]`` of each latent is used over the test set.

    The perplexity beside each latent is its number of classes in use; it is 1 for a dead latent.
    """
    n, k = probabilities.shape
    log = np.log(np.where(probabilities > 0, probabilities, 1))
    perplexity = np.exp(-np.sum(probabilities * log, axis=1))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(6.5, 4.5), width_ratios=(2, 1), sharey=True, layout="constrained"
    )
    shown = left.imshow(
        probabilities, cmap="viridis", vmin=0, aspect="auto", interpolation="nearest"
    )
    left.set_xticks(range(k) if k <= 20 else [0, k - 1])
    left.set_xlabel("class")
    left.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    left.set_ylabel("latent")
    figure.colorbar(shown, ax=left, label="share of the test set", location="left")
    right.barh(range(n), perplexity, color=_ACCENT, height=0.7)
    right.set_xlim(0, k)
    right.set_xlabel(f"classes in use (of {k})")
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Used classes per latent: {perplexity.mean():.1f} of {k} on average", fontsize=10
    )
    return _save(figure, path)


def completions(originals: np.ndarray, predicted: np.ndarray, path: Path) -> Path:
    """Test images ``[b, d]``; under each, predictions ``[s, b, d]`` of its lower half."""
    given = originals.copy()
    given[:, originals.shape[1] // 2 :] = 0
    mean = predicted.mean(axis=0)
    rows = np.concatenate([originals, given, *predicted, mean])
    labels = ("image", "given", *(f"sample {i + 1}" for i in range(len(predicted))), "their mean")
    title = "Lower halves predicted from upper ones (test images)"
    return _save(_show_tiles(_tiles(rows, len(originals)), title, labels), path)


def analogies(images: np.ndarray, path: Path) -> Path:
    """Generated images ``[styles, classes, d]``: a style in each row, a class in each column."""
    sheet = _tiles(images.reshape(-1, images.shape[-1]), images.shape[1])
    return _save(_show_tiles(sheet, "One style a row, one class a column"), path)


def draw_run(
    rows: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
    folder: Path,
) -> list[Path]:
    """Draw all figures of a finished run into ``folder``; returns their paths."""
    paths = [learning_curve(rows, result, folder / "learning_curve.png")]
    if rows[-1].get("valid_accuracy") is not None:
        paths.append(accuracy_curve(rows, result, folder / "accuracy.png"))
    if "completions" in pictures:
        path = folder / "completions.png"
        paths.append(completions(pictures["originals"], pictures["completions"], path))
    if "analogies" in pictures:
        paths.append(analogies(pictures["analogies"], folder / "analogies.png"))
    if "reconstructions" in pictures:
        path = folder / "reconstructions.png"
        paths.append(reconstructions(pictures["originals"], pictures["reconstructions"], path))
        paths.append(samples(pictures["samples"], folder / "samples.png"))
        paths.append(class_use(pictures["class_use"], folder / "class_use.png"))
    return paths


# --- estimators compared ---------------------------------------------------------------------

_LEAST = 1e-3  # biases and variances below are not told apart
# Whose gradient goes through the samples; the decoder's goes around them.
_GROUPS = ("encoder", "maps_0")


def _band(axes, rows: Sequence[Mapping[str, Any]], name: str, over: str, **style) -> None:
    """A line over a column with its 95 % band."""
    rows = sorted(rows, key=lambda row: row[over])
    x = [row[over] for row in rows]
    values, low, high = ([row[f"{name}{end}"] for row in rows] for end in ("", "_low", "_high"))
    axes.plot(x, values, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def _dots(axes, rows: Sequence[Mapping[str, Any]], name: str, floor: float | None) -> None:
    """One dot and 95 % bar a row, from top to bottom; a triangle where it is not told from 0."""
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
    floor = _indistinct(rows[0])
    panels = (
        ("bias", "bias / |gradient|", floor),
        ("variance", "variance / |gradient|²", None),
        ("variance_per_evaluation", "variance at equal\nevaluations of f", None),
        ("variance_per_time", "variance at equal time\n(of one gumbel_softmax)", None),
        ("cosine", "cosine of one estimate\nto the gradient", None),
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
        axes[0].axvspan(_LEAST, floor, color=_QUIET, alpha=0.3, linewidth=0, zorder=0)
    for ax in axes[1:4]:
        ax.set_xlim(left=max(ax.get_xlim()[0], _LEAST / 10))
    axes[0].set_yticklabels([_label(row) for row in rows], fontsize=9)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return _save(figure, path)


def _indistinct(row: Mapping[str, Any]) -> float:
    """Biases up to this may be the reference's own error, two of its standard errors."""
    return max(2 * (row.get("reference_error") or 0), _LEAST)


def _label(row: Mapping[str, Any]) -> str:
    temperature = row["temperature"]
    return row["estimator"] + (f" (τ = {temperature:.2g})" if temperature else "")


def over_temperature(
    rows: Sequence[Mapping[str, Any]], column: str, heading: Callable[[Any], str], path: Path
) -> Path:
    """Bias, variance and cosine over the temperature; one column for each value of ``column``."""
    values = sorted({row[column] for row in rows})
    panels = (
        ("bias", "bias / |gradient|"),
        ("variance", "variance / |gradient|²"),
        ("cosine", "cosine of one estimate"),
    )
    figure, grid = plt.subplots(
        len(panels), len(values), figsize=(1.5 + 3.6 * len(values), 8.5), sharex=True,
        sharey="row", squeeze=False, layout="constrained",
    )  # fmt: skip
    swept = {row["estimator"] for row in rows if row["at"] == "chosen"}
    for value, axes in zip(values, grid.T, strict=True):
        here = [row for row in rows if row[column] == value]
        for (name, _), ax in zip(panels, axes, strict=True):
            for estimator in dict.fromkeys(row["estimator"] for row in here):
                of_it = [row for row in here if row["estimator"] == estimator]
                style = {"color": ESTIMATOR_COLOURS[estimator], "label": estimator}
                if estimator in swept:
                    _band(ax, of_it, name, "temperature", marker="o", markersize=3, **style)
                elif not (name == "bias" and of_it[0]["bias_low"] <= _indistinct(of_it[0])):
                    ax.axhline(of_it[0][name], linestyle=(0, (4, 2)), linewidth=1, **style)
            ax.set_xscale("log")
            if name != "cosine":
                ax.set_yscale("log")
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_title(heading(value), fontsize=10, loc="left")
        axes[-1].set_xlabel("temperature", fontsize=9)
    for (name, label), ax in zip(panels, grid[:, 0], strict=True):
        ax.set_ylabel(label, fontsize=9)
        if name != "cosine":
            told = [row[name] for row in rows if row[f"{name}_low"] > 0]
            ax.set_ylim(max(min(told) / 2, _LEAST), 1.5 * max(told))
    _legend(figure, grid, "lines: over the temperature\ndashes: without one, or learned")
    return _save(figure, path)


def _legend(figure: plt.Figure, grid: np.ndarray, title: str) -> None:
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


def draw_variance(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """The figures of ``experiments.variance`` from its rows; returns their paths."""
    group = next(name for name in _GROUPS if any(row["group"] == name for row in rows))
    rows = [row for row in rows if row["group"] == group]
    paths = []
    for step in sorted({row["step"] for row in rows}):
        at_schedule = [row for row in rows if row["step"] == step and row["at"] == "schedule"]
        reference = at_schedule[0]["reference"]
        about = f"reference: {reference}. Triangle: bias not told from 0, its upper end"
        if reference != "exact":
            about = (
                f"reference: mean of {reference}, which is grey's width from the truth. Triangle: "
                "bias not told from 0"
            )
        title = (
            f"Gradient by {group} at step {step:,}, {at_schedule[0]['keys']:,} estimates each; "
            f"95 % bands; {about}"
        )
        path = folder / f"estimators_step{step}.png"
        paths.append(estimators_side_by_side(at_schedule, title, path))
    path = folder / "temperature.png"
    return [*paths, over_temperature(rows, "step", lambda step: f"step {step:,}", path)]


def optimisation(curves: Sequence[Mapping[str, Any]], target: float, path: Path) -> Path:
    """Exact loss along the descent on each estimator's gradients, unbiased ones on the left."""
    best = min(target**2, (1 - target) ** 2)
    kinds = {row["estimator"]: row["unbiased_for"] for row in curves}
    unbiased = [name for name, kind in kinds.items() if kind == "any" or "quadratic" in kind]
    figure, axes = plt.subplots(
        1, 2, figsize=(12, 4.2), sharex=True, sharey=True, layout="constrained"
    )
    for ax, title, names in (
        (axes[0], "unbiased for this f", unbiased),
        (axes[1], "biased", [name for name in kinds if name not in unbiased]),
    ):
        for name in names:
            of_it = [row for row in curves if row["estimator"] == name]
            _band(ax, of_it, "loss", "step", color=ESTIMATOR_COLOURS[name], label=name)
        ax.axhline(best, color=_QUIET, linewidth=1, zorder=0)
        ax.set_title(title, fontsize=10, loc="left")
        ax.set_xlabel("step")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"E (b - {target:g})², the exact loss")
    _legend(figure, axes, f"{curves[0]['seeds']} runs each, 95 % bands\ngrey: the optimum")
    return _save(figure, path)


def draw_toy(
    rows: Sequence[Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]],
    target: float,
    folder: Path,
) -> list[Path]:
    """The figures of ``experiments.toy`` from its rows; returns their paths."""

    def heading(logit: float) -> str:
        return f"P(b = 1) = {1 / (1 + np.exp(-logit)):.2f}"

    paths = [
        over_temperature(rows, "logit", heading, folder / "temperature.png"),
        optimisation(curves, target, folder / "optimisation.png"),
    ]
    middle = [
        row for row in rows
        if row["logit"] == 0 and (row["at"] == "schedule" or row["temperature"] == 0.5)
    ]  # fmt: skip
    title = (
        f"E (b - {target:g})² at P(b = 1) = 0.5, {rows[0]['keys']:,} estimates each; 95 % bands. "
        "Triangle: bias not told from 0, its upper end"
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
            colour = ESTIMATOR_COLOURS["gumbel_softmax"] if temperature else _INK
            ax.bar(classes, [row[name] for row in of_it], color=colour, width=0.8)
            if name == "expectation":  # steps: the class probabilities
                ax.step(
                    [*classes, classes[-1] + 1],
                    [*(row["probability"] for row in of_it), of_it[-1]["probability"]],
                    where="mid", color="#d55e00", linewidth=1,
                )  # fmt: skip
            ax.set_xlim(-0.6, len(classes) - 0.4)
            ax.set_ylim(0, 1.15 * highest if name == "expectation" else 1.02)
            ax.set_xticks([])
            ax.spines[["top", "right"]].set_visible(False)
        column[0].set_title(f"τ = {temperature:g}" if temperature else "categorical", fontsize=10)
    for name, ax in zip(shown, grid[:, 0], strict=True):
        ax.set_ylabel(name.replace("_", " "), fontsize=9)
    figure.supxlabel("class (orange: its probability)", fontsize=9)
    return _save(figure, path)


# --- sweeps ----------------------------------------------------------------------------------


def draw_sweep(rows: Sequence[Mapping[str, Any]], swept: Sequence[str], path: Path) -> Path:
    """Validation and test bounds over the swept fields: the mean over seeds, and their range.

    The first numeric field is the x axis, the others make the lines; seeds are averaged.
    """
    names = [name for name in swept if name != "seed"]
    x = next((name for name in names if _is_number(rows, name)), None)
    others = [name for name in names if name != x]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        label = ", ".join(f"{_short(name)} = {row[name]}" for name in others) or "all"
        lines.setdefault(label, []).append(row)
    splits = [s for s in ("valid", "test") if all(row[f"{s}_nats"] is not None for row in rows)]
    figure, axes = plt.subplots(
        1, len(splits), figsize=(1 + 5 * len(splits), 4.5), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    axes = axes[0]
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(lines)))
    for ax, split in zip(axes, splits, strict=True):
        for colour, (label, of_line) in zip(colours, lines.items(), strict=True):
            values: dict[Any, list[float]] = {}
            for row in of_line:
                values.setdefault(row[x] if x else "", []).append(row[f"{split}_nats"])
            at = sorted(values)
            low, mean, high = ([f(values[v]) for v in at] for f in (min, np.mean, max))
            ax.plot(at, mean, marker="o", markersize=4, color=colour, label=label)
            ax.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
        if x:
            ax.set_xlabel(_short(x))
            at = sorted({row[x] for row in rows})
            if at[0] > 0 and at[-1] / at[0] >= 8:
                ax.set_xscale("log")
            else:
                ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        ax.set_title(f"{split} bound", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("nats per image")
    seeds = len({row.get("seed") for row in rows})
    _legend(figure, axes, f"mean and range of {seeds} seeds" if seeds > 1 else "")
    return _save(figure, path)


def _is_number(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(
        isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows
    )


def _short(name: str) -> str:
    return name.replace("_", " ")


# --- against the paper's curves --------------------------------------------------------------


def draw_overlay(
    rows: Sequence[Mapping[str, Any]],
    paper: Mapping[tuple[str, str], tuple[Sequence[int], Sequence[float]]],
    titles: Mapping[str, str],
    path: Path,
) -> Path:
    """Test bounds over the steps, ours solid (mean of seeds, their range), the paper's dashed.

    A column for each task of ``titles``. Above the paper's estimators; below, where there are any,
    those beyond it, beside the paper's best at each step.
    """
    titles = {task: title for task, title in titles.items() if any(r["task"] == task for r in rows)}
    in_paper = {estimator for _, estimator in paper}
    beyond = [row for row in rows if row["task"] in titles and row["estimator"] not in in_paper]
    rows_of_panels, height = (2, 9) if beyond else (1, 4.8)
    figure, grid = plt.subplots(
        rows_of_panels, len(titles), figsize=(2 + 5 * len(titles), height), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for (task, title), column in zip(titles.items(), grid.T, strict=True):
        here = [row for row in rows if row["task"] == task and row["test_nats"] is not None]
        last = max((row["step"] for row in here), default=1)
        shown = []
        for ax, ours in zip(column, (True, False), strict=False):
            for estimator in in_order([*in_paper, *(row["estimator"] for row in here)]):
                colour = ESTIMATOR_COLOURS[_colour_key(estimator)]
                of_it = [row for row in here if row["estimator"] == estimator]
                if (estimator in in_paper) == ours and of_it:
                    shown += _seeds(ax, of_it, colour, label=estimator)
                if ours and (task, estimator) in paper:
                    steps, nats = (np.array(one) for one in paper[task, estimator])
                    ax.plot(*_on_plot(steps, nats, last), "--", color=colour, lw=1)
                    shown += nats[(steps <= last) & (steps >= last / 2)].tolist()
            if not ours:
                best_steps, best = _lower_envelope(paper, task, last)
                ax.plot(best_steps, best, "--", color=_INK, lw=1, label="the paper's best")
                shown += best
            ax.set_title(title, fontsize=10, loc="left")
            ax.set_xlabel("step")
            ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
            ax.set_xlim(0, last * 1.01)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in column:  # the first steps and what diverges leave the plot, as in the paper
            low = min(shown, default=0)
            ax.set_ylim(low - 0.5, min(max(shown, default=1) + 0.5, low + 22))
    for ax in grid[:, 0]:
        ax.set_ylabel("test nats per image")
    _legend(figure, grid, "solid: ours\ndashed: the paper's")
    return _save(figure, path)


def _on_plot(steps: np.ndarray, nats: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
    """A curve up to a step, broken where it left its plot for a while."""
    steps, nats = steps[steps <= last].astype(float), nats[steps <= last]
    gaps = np.flatnonzero(np.diff(steps) > 1.5 * np.min(np.diff(steps), initial=np.inf)) + 1
    return np.insert(steps, gaps, np.nan), np.insert(nats, gaps, np.nan)


def _seeds(
    axes, rows: Sequence[Mapping[str, Any]], color: str, value: str = "test_nats", **style
) -> list[float]:
    """Mean over seeds of a column and their range; returns the means of the second half."""
    steps = sorted({row["step"] for row in rows})
    values = [[row[value] for row in rows if row["step"] == step] for step in steps]
    low, mean, high = ([float(f(v)) for v in values] for f in (min, np.mean, max))
    axes.plot(steps, mean, color=color, **style)
    axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
    return [v for step, v in zip(steps, mean, strict=True) if step >= steps[-1] / 2]


def _lower_envelope(paper, task: str, last: int) -> tuple[list[int], list[float]]:
    """The least of the paper's curves of a task at each of their steps."""
    least: dict[int, float] = {}
    for (of_task, _), (steps, nats) in paper.items():
        for step, value in zip(steps, nats, strict=True):
            if of_task == task and step <= last:
                least[step] = min(value, least.get(step, value))
    steps = sorted(least)
    return steps, [least[step] for step in steps]


# --- classification from few labels ----------------------------------------------------------


def draw_classification(
    rows: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], path: Path
) -> Path:
    """Bound and accuracy on validation over the steps, and on the test set at the end.

    Args:
      rows: of table2_curves.csv; those of a row of the table are drawn, the mean of its seeds and
        their range.
      table: rows of table2.csv.
      path: where the figure goes.
    """
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    last = max(row["steps"] for row in table)
    for ax, name, of_table in zip(panels, ("bound", "accuracy"), ("elbo", "accuracy"), strict=True):
        for row in table:
            colour = ESTIMATOR_COLOURS[row["inference"]]
            own = Path(row["config"]).stem
            label = row["inference"] + ("" if own == "semisup" else f" ({own})")
            of_row = [one for one in rows if one["row"] == row["config_hash"]]
            if of_row:  # an older report has none
                style = "-" if own == "semisup" else ":"
                _seeds(ax, of_row, colour, value=name, label=label, linestyle=style)
            ax.errorbar(row["steps"], row[of_table], row[f"{of_table}_stderr"], fmt="o", ms=4,
                        color=colour, capsize=3)  # fmt: skip
            if (paper := row[f"paper_{of_table}"]) is not None:
                ax.plot(last * 1.06, paper, "<", ms=6, color=colour, mfc="none")
        ax.set_xlabel("step")
        ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_title("bound, nats per image", fontsize=10, loc="left")
    panels[1].set_title("accuracy, %", fontsize=10, loc="left")
    _legend(figure, panels, "lines: validation\ndots: test, standard error\ntriangles: the paper's")
    return _save(figure, path)


# --- speed against the number of classes -----------------------------------------------------


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
                bar = ax.bar(at + offset, row[column], 0.38, color=colour, label=label)
                ax.bar_label(bar, [f"{row[column]:.3g}"], fontsize=8)
        shown = [row[column] for row in rows if row[column] is not None]
        ax.set_yscale("log")
        ax.set_ylim(min(shown, default=1) / 2, max(shown, default=1) * 1.6)
        ax.set_xlim(-0.5, len(classes) - 0.5)
        ax.set_xticks(range(len(classes)), [f"{number:,}" for number in classes])
        ax.set_xlabel("classes")
        ax.set_title(title, fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training steps per second")
    _legend(figure, panels, "inference over the class")
    return _save(figure, path)
