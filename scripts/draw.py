"""Draw the figures of a folder of measurements anew, from its CSV files.

    python -m scripts.draw results/variance/small_vae

Works on what ``experiments.variance``, ``experiments.toy``, ``experiments.temperature`` and
``experiments.timing`` leave, and on the Table 2 of ``experiments.report``.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from absl import app

from experiments import figures


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file, numbers as numbers, empty cells as None."""
    with path.open() as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None


def draw(folder: Path) -> list[Path]:
    """Draw all figures that the folder's files serve; returns their paths.

    Raises:
      FileNotFoundError: there are none of those files.
    """
    if (folder / "temperature.csv").exists():
        rows = read(folder / "temperature.csv")
        return [figures.gumbel_softmax_over_temperature(rows, folder / "temperature.png")]
    if (folder / "table2_curves.csv").exists():
        curves, table = (read(folder / f"{name}.csv") for name in ("table2_curves", "table2"))
        return [figures.draw_classification(curves, table, folder / "table2.png")]
    if (folder / "timing.csv").exists():
        return [figures.draw_timing(read(folder / "timing.csv"), folder / "timing.png")]
    rows = read(folder / "variance.csv")
    if not (folder / "curves.csv").exists():
        return figures.draw_variance(rows, folder)
    target = json.loads((folder / "curves.json").read_text())["target"]
    return figures.draw_toy(rows, read(folder / "curves.csv"), target, folder)


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        sys.exit("usage: python -m scripts.draw FOLDER")
    try:
        for path in draw(Path(argv[1])):
            print(path)
    except OSError as error:
        sys.exit(f"error: {argv[1]} holds no measurements: {error}")


if __name__ == "__main__":
    app.run(main)
