"""Figures of one run: a curve for each metric, and the task's pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.style import ACCENT, INK, save, with_direction

_TEST = "#d55e00"


def draw_run(
    rows: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    pictures: Mapping[str, Any],
    folder: Path,
) -> list[Path]:
    """Draw the figures of a finished run.

    Args:
      rows: of metrics.jsonl.
      result: of result.json.
      pictures: by name, each with ``array``, ``title`` and ``row_labels`` (see
        ``experiments.tasks.base.Picture``).
      folder: where the figures go.

    Returns:
      Their paths.
    """
    paths = []
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("valid/"))
    for name in names:
        metric = name.removeprefix("valid/")
        paths.append(learning_curve(rows, result, metric, folder / f"{metric}.png"))
    for name, picture in pictures.items():
        array = np.asarray(picture.array)
        draw = tiles if array.ndim == 4 else shares
        paths.append(draw(array, picture.title, picture.row_labels, folder / f"{name}.png"))
    return paths


def learning_curve(
    rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any], metric: str, path: Path
) -> Path:
    """A metric on validation against the step, its test value as a point; the loss below.

    The loss has a panel of its own: its terms may be weighted, its latents relaxed, its images
    augmented, so that it is not the metric on other images.
    """
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(6.5, 5.2), height_ratios=(2, 1), sharex=True, layout="constrained"
    )
    name = f"valid/{metric}"
    evaluated = [row for row in rows if row.get(name) is not None]
    steps, values = [row["step"] for row in evaluated], [row[name] for row in evaluated]
    upper.plot(steps, values, color=ACCENT, marker="o", markersize=3, label="validation")
    shown = list(values)
    if (test := result.get(f"test/{metric}")) is not None:
        shown.append(test)
        upper.plot(
            [result["selected_step"]], [test], color=_TEST, marker="*", markersize=11,
            linestyle="none", label=f"test: {test:.5g}",
        )  # fmt: skip
    _limit(upper, shown, shown[-1:])
    unit = {"nll": "nll, nats per example", "rate": "rate, nats per example"}
    label = with_direction(unit.get(metric, metric), metric)
    upper.set_ylabel(label.replace(" (", "\n("))
    upper.legend(frameon=False, fontsize=9)
    losses = [row["loss"] for row in rows]
    lower.plot([row["step"] for row in rows], losses, color=INK, linewidth=1)
    _limit(lower, losses[len(rows) // 10 :], losses[-1:])
    lower.set_ylabel("training loss\n(lower is better)")
    lower.set_xlabel("step")
    lower.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    lower.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def _limit(axes, values: Sequence[float], kept: Sequence[float]) -> None:
    """Limits that leave out the highest few of the values, but none of those that are kept."""
    known = [value for value in values if value is not None]
    if not known:
        return
    low, high = np.percentile(known, [0, 97 if len(known) >= 20 else 100])
    margin = 0.05 * (high - low) or 1e-3 * (abs(high) or 1)
    axes.set_ylim(low - margin, max(high, *kept) + margin)


def tiles(images: np.ndarray, title: str, row_labels: Sequence[str], path: Path) -> Path:
    """Images ``[rows, columns, h, w]`` in [0, 1], on a light ground."""
    rows, columns, height, width = images.shape
    gap = 2
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), 0.25)
    for i, row in enumerate(images):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            sheet[top : top + height, left : left + width] = image
    figure, axes = plt.subplots(figsize=(7, 7 * sheet.shape[0] / sheet.shape[1]))
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xticks([])
    ticks = (np.arange(len(row_labels)) + 0.5) * sheet.shape[0] / max(len(row_labels), 1)
    axes.set_yticks(ticks, row_labels, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return save(figure, path)


_MOST_LATENTS = 50
"""More would be stripes: their distribution is drawn in place of each of them."""


def shares(probabilities: np.ndarray, title: str, row_labels: Sequence[str], path: Path) -> Path:
    """Shares ``[n, k]`` of the classes of each latent.

    The perplexity beside each latent is its number of classes in use; it is 1 for a dead latent.
    """
    n, k = probabilities.shape
    log = np.log(np.where(probabilities > 0, probabilities, 1))
    perplexity = np.exp(-np.sum(probabilities * log, axis=1))
    about = f"{title}: {perplexity.mean():.1f} of {k} used on average"
    if n > _MOST_LATENTS:
        return _distribution_of_shares(probabilities, perplexity, about, path)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(6.5, 4.5), width_ratios=(2, 1), sharey=True, layout="constrained"
    )
    shown = left.imshow(
        probabilities, cmap="viridis", vmin=0, aspect="auto", interpolation="nearest"
    )
    left.set_xticks(range(k) if k <= 20 else [0, k - 1])
    left.set_xlabel("class")
    if row_labels:
        left.set_yticks(range(n), row_labels)
    else:
        left.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    left.set_ylabel("latent")
    figure.colorbar(shown, ax=left, label="share", location="left")
    right.barh(range(n), perplexity, color=ACCENT, height=0.7)
    right.set_xlim(0, k)
    right.set_xlabel(f"classes in use (of {k})")
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(about, fontsize=10)
    return save(figure, path)


def _distribution_of_shares(
    probabilities: np.ndarray, perplexity: np.ndarray, title: str, path: Path
) -> Path:
    """Of many latents: how large the share of their likeliest class is, and their classes in use.

    Of units of two classes, how often each is on, which is the first class.
    """
    n, k = probabilities.shape
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    first = probabilities[:, 0] if k == 2 else probabilities.max(axis=1)
    left.hist(first, bins=np.linspace(0, 1, 21), color=ACCENT, edgecolor="white")
    left.set_xlabel("share of images for which a unit is on" if k == 2 else
                    "share of the likeliest class")  # fmt: skip
    left.set_ylabel(f"latents, of {n}")
    right.hist(perplexity, bins=np.linspace(1, k, 21), color=ACCENT, edgecolor="white")
    right.set_xlabel(f"classes in use (1: dead; of {k})")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return save(figure, path)
