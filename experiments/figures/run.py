"""Figures of one run: learning curves, and what the model makes of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.style import ACCENT, INK, QUIET, save


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
    axes.set_title(title, loc="left", fontsize=10, color=INK)
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
        color=QUIET,
        label="training loss (one sample)",
    )
    bound = next(name for name in result if name.startswith("valid_nll_"))
    evaluated = [row for row in rows if row.get(bound) is not None]
    values = [row[bound] for row in evaluated]
    samples = bound.removeprefix("valid_nll_m")
    axes.plot(
        [row["step"] for row in evaluated],
        values,
        color=ACCENT,
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
    return save(figure, path)


def accuracy_curve(
    rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any], path: Path
) -> Path:
    """Accuracy on validation against the step, on the test set as a point."""
    figure, axes = _axes(6.5, 4)
    evaluated = [row for row in rows if row.get("valid_accuracy") is not None]
    axes.plot(
        [row["step"] for row in evaluated],
        [100 * row["valid_accuracy"] for row in evaluated],
        color=ACCENT,
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
    return save(figure, path)


def reconstructions(originals: np.ndarray, reconstructed: np.ndarray, path: Path) -> Path:
    """Test images above the decoder's pixel probabilities at one hard posterior sample of each."""
    sheet = _tiles(np.concatenate([originals, reconstructed]), len(originals))
    return save(_show_tiles(sheet, "Reconstructions of test images", ("image", "decoded")), path)


def samples(images: np.ndarray, path: Path) -> Path:
    """Pixel probabilities at samples of the prior."""
    return save(_show_tiles(_tiles(images, 10), "Samples from the prior"), path)


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
    right.barh(range(n), perplexity, color=ACCENT, height=0.7)
    right.set_xlim(0, k)
    right.set_xlabel(f"classes in use (of {k})")
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Used classes per latent: {perplexity.mean():.1f} of {k} on average", fontsize=10
    )
    return save(figure, path)


def completions(originals: np.ndarray, predicted: np.ndarray, path: Path) -> Path:
    """Test images ``[b, d]``; under each, predictions ``[s, b, d]`` of its lower half."""
    given = originals.copy()
    given[:, originals.shape[1] // 2 :] = 0
    mean = predicted.mean(axis=0)
    rows = np.concatenate([originals, given, *predicted, mean])
    labels = ("image", "given", *(f"sample {i + 1}" for i in range(len(predicted))), "their mean")
    title = "Lower halves predicted from upper ones (test images)"
    return save(_show_tiles(_tiles(rows, len(originals)), title, labels), path)


def analogies(images: np.ndarray, path: Path) -> Path:
    """Generated images ``[styles, classes, d]``: a style in each row, a class in each column."""
    sheet = _tiles(images.reshape(-1, images.shape[-1]), images.shape[1])
    return save(_show_tiles(sheet, "One style a row, one class a column"), path)


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
