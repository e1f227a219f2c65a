"""Copy what is worth keeping of a finished run into a folder that may be committed.

    python -m scripts.collect RUN DESTINATION

Writes ``run.json`` (result, configuration, provenance) and ``curve.csv`` (the rows of
metrics.jsonl), and copies the figures. Checkpoints and event files are left out.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from experiments.storage.errors import RecordError
from experiments.storage.files import read_json, write_csv, write_json
from experiments.storage.provenance import portable
from experiments.storage.records import read_run


def parts_of(folder: Path) -> dict[str, Any]:
    """The content of ``run.json``: result, configuration and provenance of a finished run.

    Raises:
      RecordError: the run is not finished, or a file is malformed.
    """
    run = read_run(folder)
    return {
        "result": run.result,
        # The data folder of the machine that ran it concerns nobody else.
        "config": {name: value for name, value in run.config.items() if name != "data.dir"},
        "provenance": [portable(start) for start in read_json(folder / "provenance.json")],
    }


def collect(folder: Path, destination: Path) -> None:
    """Copy one run.

    Raises:
      RecordError: the run is not finished, or a file is malformed.
    """
    parts, rows = parts_of(folder), read_run(folder).rows
    destination.mkdir(parents=True, exist_ok=True)
    write_json(destination / "run.json", parts)
    write_csv(destination / "curve.csv", rows, decimals=5)
    for figure in sorted((folder / "figures").glob("*.png")):
        shutil.copy(figure, destination / figure.name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m scripts.collect RUN DESTINATION")
    try:
        collect(Path(sys.argv[1]), Path(sys.argv[2]))
    except RecordError as error:
        sys.exit(f"error: {error}")
