"""Draw the figures of a folder of results again, from its CSV files.

    python -m scripts.draw results/variance/small_vae

Works on what ``experiments.variance``, ``experiments.toy``, ``experiments.temperature`` and
``experiments.timing`` leave, on the tables of ``experiments.report``, and on runs that
``scripts.collect`` copied, of which it draws the learning curves.
"""

import sys
from pathlib import Path

from absl import app

from experiments import figures
from experiments.reporting import all_tables, folders
from experiments.storage.errors import RecordError
from experiments.storage.files import read_csv, read_json

_PAPER = Path(__file__).parent.parent / "results" / "paper"


def draw(folder: Path) -> list[Path]:
    """Draw all figures that the files of a folder serve; returns their paths.

    Raises:
      RecordError: there are none of those files, or one is malformed.
    """
    if (folder / "run.json").exists():
        rows = read_csv(folder / "curve.csv")
        kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
        return figures.draw_run(kept, read_json(folder / "run.json")["result"], {}, folder)
    for table in all_tables(_PAPER):
        if (folder / f"{table.name}.csv").exists():
            return folders.redraw(table, folder)
    if (folder / "temperature.csv").exists():
        rows = read_csv(folder / "temperature.csv")
        return [figures.gumbel_softmax_over_temperature(rows, folder / "temperature.png")]
    if (folder / "timing.csv").exists():
        return [figures.draw_timing(read_csv(folder / "timing.csv"), folder / "timing.png")]
    rows = read_csv(folder / "variance.csv")
    if not (folder / "curves.csv").exists():
        return figures.draw_variance(rows, folder)
    about, curves = read_json(folder / "curves.json"), read_csv(folder / "curves.csv")
    return figures.draw_toy(rows, curves, about["target"], about.get("power", 2.0), folder)


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        sys.exit("usage: python -m scripts.draw FOLDER")
    try:
        for path in draw(Path(argv[1])):
            print(path)
    except RecordError as error:
        sys.exit(f"error: {argv[1]} holds no results that can be drawn: {error}")


if __name__ == "__main__":
    app.run(main)
