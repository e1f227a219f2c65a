"""Learning curves behind the tables of the paper, ours beside its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from experiments.figures.style import INK, colour_of, in_order, legend, line_of, save


def draw_overlay(
    rows: Sequence[Mapping[str, Any]],
    table: Sequence[Mapping[str, Any]],
    paper: Mapping[tuple[str, str], tuple[Sequence[int], Sequence[float]]],
    titles: Mapping[str, str],
    path: Path,
) -> Path:
    """Test bounds over the steps, ours solid (mean of seeds, their range), the paper's dashed.

    A column for each task of ``titles``. Above the paper's estimators; below, where there are any,
    those beyond it, beside the paper's best at each step. Dotted: cells with other settings.

    Args:
      rows: of curves.csv.
      table: rows of table1.csv, each of which is a line.
      paper: the paper's curves.
      titles: of the tasks shown.
      path: where the figure goes.
    """
    titles = {task: title for task, title in titles.items() if any(r["task"] == task for r in rows)}
    in_paper = {estimator for _, estimator in paper}
    beyond = [row for row in rows if row["task"] in titles and row["estimator"] not in in_paper]
    rows_of_panels, height = (2, 9) if beyond else (1, 4.8)
    figure, grid = plt.subplots(
        rows_of_panels, len(titles), figsize=(2 + 5 * len(titles), height), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    dotted = False
    for (task, title), column in zip(titles.items(), grid.T, strict=True):
        here = [row for row in rows if row["task"] == task and row["test_nats"] is not None]
        last = max((row["step"] for row in here), default=1)
        shown = []
        for ax, ours in zip(column, (True, False), strict=False):
            for estimator in in_order([*in_paper, *(row["estimator"] for row in here)]):
                cells = [cell for cell in table if cell["estimator"] == estimator]
                for cell in cells if (estimator in in_paper) == ours else ():
                    of_cell = [row for row in here if row["row"] == cell["config_hash"]]
                    style = line_of(estimator, len({row["step"] for row in of_cell}))
                    style |= {"label": estimator, "linestyle": "-"}
                    if cell["other_settings"]:
                        style |= {"label": f"{estimator}, other settings", "linestyle": ":"}
                    if of_cell:
                        dotted = dotted or style["linestyle"] == ":"
                        shown += _seeds(ax, of_cell, **style)
                if ours and (task, estimator) in paper:
                    steps, nats = (np.array(one) for one in paper[task, estimator])
                    x, y = _on_plot(steps, nats, last)
                    style = line_of(estimator, len(x)) | {"markerfacecolor": "none", "linewidth": 1}
                    if estimator not in {row["estimator"] for row in rows if row["task"] in titles}:
                        style |= {"label": f"{estimator}, the paper's"}
                    ax.plot(x, y, linestyle="--", **style)
                    shown += nats[(steps <= last) & (steps >= last / 2)].tolist()
            if not ours:
                best_steps, best = _lower_envelope(paper, task, last)
                ax.plot(best_steps, best, "--", color=INK, lw=1, label="the paper's best")
                shown += best
            which = "estimators of the paper" if ours else "later estimators"
            ax.set_title(f"{title}: {which}" if beyond else title, fontsize=10, loc="left")
            ax.set_xlabel("step")
            ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
            ax.set_xlim(0, last * 1.01)
            ax.spines[["top", "right"]].set_visible(False)
        for ax in column:  # the first steps and what diverges leave the plot, as in the paper
            low = min(shown, default=0)
            ax.set_ylim(low - 0.5, min(max(shown, default=1) + 0.5, low + 22))
    for ax in grid[:, 0]:
        ax.set_ylabel("test nats per image (lower is better)")
    about = ["solid: ours"]
    if some := {row["test_images"] for row in rows if row.get("test_images")}:
        about[0] += f" (of {min(some):,} test images,\nof all at the tested step)"
    if dotted:
        about.append("dotted: ours, other settings")
    legend(figure, grid, "\n".join([*about, "dashed: the paper's"]))
    return save(figure, path)


def _on_plot(steps: np.ndarray, nats: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
    """A curve up to a step, broken where it left its plot for a while."""
    steps, nats = steps[steps <= last].astype(float), nats[steps <= last]
    gaps = np.flatnonzero(np.diff(steps) > 1.5 * np.min(np.diff(steps), initial=np.inf)) + 1
    return np.insert(steps, gaps, np.nan), np.insert(nats, gaps, np.nan)


def _seeds(
    axes, rows: Sequence[Mapping[str, Any]], value: str = "test_nats", **style: Any
) -> list[float]:
    """Mean over seeds of a column and their range.

    Returns what a plot should show: the means of the second half, and the least of all.
    """
    steps = sorted({row["step"] for row in rows})
    values = [[row[value] for row in rows if row["step"] == step] for step in steps]
    low, mean, high = ([float(f(v)) for v in values] for f in (min, np.mean, max))
    axes.plot(steps, mean, **style)
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
    return [min(mean), *(v for at, v in zip(steps, mean, strict=True) if at >= steps[-1] / 2)]


def _lower_envelope(paper, task: str, last: int) -> tuple[list[int], list[float]]:
    """The least of the paper's curves of a task at each of their steps."""
    least: dict[int, float] = {}
    for (of_task, _), (steps, nats) in paper.items():
        for step, value in zip(steps, nats, strict=True):
            if of_task == task and step <= last:
                least[step] = min(value, least.get(step, value))
    steps = sorted(least)
    return steps, [least[step] for step in steps]


def draw_classification(
    rows: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], path: Path
) -> Path:
    """The nll and accuracy on validation over the steps, and on the test set at the end.

    On the test set it is that of the marginal bound, as in the table.

    Dashed: what an inference reached in more steps than in another row of the table.

    Args:
      rows: of table2_curves.csv; those of a row of the table are drawn, the mean of its seeds and
        their range.
      table: rows of table2.csv.
      path: where the figure goes.
    """
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    last = max(row["steps"] for row in table)
    for ax, name, of_table in zip(
        panels, ("nll", "accuracy"), ("marginal_nll", "accuracy"), strict=True
    ):
        for row in table:
            colour = colour_of(row["inference"])
            own = Path(row["config"]).stem
            same = [one for one in table if all(one[k] == row[k] for k in ("inference", "config"))]
            longer = row["steps"] > min(one["steps"] for one in same)
            entropy = row["entropy_weight"]
            details = [own] * (own == "semisup_best")
            if own == "table2_probes":
                changed = f"{row['labels_batch_size']:g} labels a step"
                details.append(changed if entropy == 1 else f"entropy times {entropy:g}")
            details += [f"{row['steps']:,} steps"] * longer
            label = row["inference"] + (f" ({', '.join(details)})" if details else "")
            of_row = [one for one in rows if one["row"] == row["config_hash"]]
            if of_row:  # a report may have kept no curve of a row
                style = line_of(row["inference"], len({one["step"] for one in of_row}))
                style["linestyle"] = ":" if own != "semisup" else "--" if longer else "-"
                if entropy != 1:
                    style["linestyle"] = "-." if entropy == 0 else (0, (1, 3))
                _seeds(ax, of_row, value=name, label=label, **style)
            ax.errorbar(row["steps"], row[of_table], row[f"{of_table}_stderr"], fmt="o", ms=4,
                        color=colour, capsize=3)  # fmt: skip
            if (paper := row[f"paper_{of_table}"]) is not None:
                ax.plot(last * 1.06, paper, "<", ms=6, color=colour, mfc="none")
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
        ax.spines[["top", "right"]].set_visible(False)
    panels[0].set_title("nll, nats per image (lower is better)", fontsize=10, loc="left")
    panels[1].set_title("accuracy, % (higher is better)", fontsize=10, loc="left")
    legend(
        figure,
        panels,
        "lines: validation\ndots: test (nll: marginal),\nstandard error\ntriangles: the paper's",
    )
    return save(figure, path)


def draw_panels(
    rows: Sequence[Mapping[str, Any]],
    table: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    panel: str,
    title: str,
    value: str,
    label: str,
    published: str = "",
) -> Path:
    """Learning curves, a panel for each value of a column of the table.

    Args:
      rows: of the curves' CSV file.
      table: rows of the table, each of which is a line: the mean of its seeds, and their range.
      path: where the figure goes.
      panel: the column of the table that has a panel for each of its values.
      title: of a panel, with the value for "{}".
      value: the column of the curves that is drawn, and of the table where a row has no curve.
      label: of the vertical axis.
      published: the column of the table with published values, marked by triangles; the panels
        then have vertical axes of their own.
    """
    keys = list(dict.fromkeys(row[panel] for row in table))
    across = min(3, len(keys))
    down = -(-len(keys) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(2 + 3.6 * across, 0.6 + 3.6 * down), squeeze=False,
        sharey=not published, layout="constrained",
    )  # fmt: skip
    last = max((row["steps"] for row in table), default=1)
    for ax in grid.flat[len(keys) :]:
        ax.set_visible(False)
    limits = {}
    for key, ax in zip(keys, grid.flat, strict=False):
        shown = []
        for row in (one for one in table if one[panel] == key):
            of_row = [one for one in rows if one["row"] == row["config_hash"]]
            style = line_of(row["estimator"], len({one["step"] for one in of_row}))
            style["label"] = row["estimator"]
            if of_row:
                shown += _seeds(ax, of_row, value=value, **style)
            else:  # the report has no curve of this row: its end alone
                ax.plot(
                    row["steps"], row[value], **style | {"markevery": None, "linestyle": "none"}
                )
                shown.append(row[value])
            if published and row[published] is not None:
                ax.plot(last * 1.06, row[published], "<", ms=6, color=style["color"], mfc="none")
                shown.append(row[published])
        if shown:  # the first steps leave the plot
            limits[ax] = min(shown) - 1, max(shown) + 6
        ax.set_title(title.format(key), fontsize=10, loc="left")
        ax.set_xlim(0, last * (1.1 if published else 1.02))
        ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
        ax.spines[["top", "right"]].set_visible(False)
    for ax, (low, high) in limits.items():
        if not published:
            low, high = min(low for low, _ in limits.values()), max(h for _, h in limits.values())
        ax.set_ylim(low, high)
    for ax in grid[-1]:
        ax.set_xlabel("step")
    for ax in grid[:, 0]:
        ax.set_ylabel(label)
    legend(figure, grid, "triangles: published" if published else "estimator")
    return save(figure, path)
