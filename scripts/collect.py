"""Copy what is worth keeping of a finished run into a folder that may be committed.

    python -m scripts.collect RUN DESTINATION

Writes ``run.json`` (result, config, provenance) and ``curve.csv`` (the rows of metrics.jsonl), and
copies the figures. Checkpoints and event files stay behind.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

from experiments import rundir

_PARTS = ("result", "config", "provenance")
_PLACES = ("data.dir",)  # where a file lay on the machine of the run is nobody's business


def collect(run: Path, destination: Path) -> None:
    """Copy one run; raises FileNotFoundError if it is not finished."""
    parts = {name: json.loads((run / f"{name}.json").read_text()) for name in _PARTS}
    for place in _PLACES:
        parts["config"].pop(place, None)
    parts["provenance"] = [rundir.portable(start) for start in parts["provenance"]]
    destination.mkdir(parents=True, exist_ok=True)
    (destination / "run.json").write_text(json.dumps(parts, indent=1) + "\n")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (destination / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    for figure in sorted((run / "figures").glob("*.png")):
        shutil.copy(figure, destination / figure.name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m scripts.collect RUN DESTINATION")
    try:
        collect(Path(sys.argv[1]), Path(sys.argv[2]))
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename} is missing; is the run finished?")
