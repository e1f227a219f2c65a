"""Figures of one run, from arrays and metric rows. Never imports jax."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

_INK, _ACCENT, _QUIET = "#1b1b1b", "#0072b2", "#b8b8b8"


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
    test = next(name for name in result if name.startswith("test_nll_"))
    axes.plot(
        [result["selected_step"]],
        [result[test]],
        color="#d55e00",
        marker="*",
        markersize=11,
        linestyle="none",
        label=f"test bound, m = {test.removeprefix('test_nll_m')}: {result[test]:.2f}",
    )
    shown = np.array([row["loss"] for row in rows[len(rows) // 10 :]] + values)
    low, high = np.percentile(shown, [0, 97])
    axes.set_ylim(min(low, result[test]) - 2, high + 4)
    axes.set_xlabel("step")
    axes.set_ylabel("nats per image")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.legend(frameon=False, fontsize=9)
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


def draw_run(
    rows: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    pictures: Mapping[str, np.ndarray],
    folder: Path,
) -> list[Path]:
    """Draw all figures of a finished run into ``folder``; returns their paths."""
    return [
        learning_curve(rows, result, folder / "learning_curve.png"),
        reconstructions(
            pictures["originals"], pictures["reconstructions"], folder / "reconstructions.png"
        ),
        samples(pictures["samples"], folder / "samples.png"),
        class_use(pictures["class_use"], folder / "class_use.png"),
    ]
