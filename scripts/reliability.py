"""Count what becomes of faults, kills, damage and malformed input: ``results/reliability.md``.

    python -m scripts.reliability

Runs the campaigns of ``tests/faults`` in full, about an hour on 2 CPU cores, and writes one table
of their outcomes. ``--share=0.01`` runs a hundredth of each, ``--campaign=NAME`` one of them; then
the table is printed only. Exits with 1 if something happened that must not.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from experiments.running.terminal import say
from experiments.storage.files import write_atomically
from experiments.storage.provenance import provenance
from tests.faults import folders, malformed, outcomes
from tests.faults.outcomes import Case

_MALFORMED = {
    "command line": 2_500, "configuration": 1_500, "sweep file": 800, "IDX image": 600,
    ".npy image": 1_000, "PNG image": 800, ".amat data set": 300, ".mat data set": 800,
    "IDX data set": 500, "record of a run": 1_200,
}  # fmt: skip


def _malformed(share: float, folder: Path) -> Iterator[Case]:
    for kind, number in _MALFORMED.items():
        yield from malformed.campaign(kind, max(1, round(share * number)), folder)


def _folders(share: float, folder: Path) -> Iterator[Case]:
    yield from folders.campaign(max(2, round(share * 200)), folder)


CAMPAIGNS = {"malformed": _malformed, "folders": _folders}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--campaign", choices=CAMPAIGNS, action="append", help="default: all")
    parser.add_argument("--share", type=float, default=1.0, help="of each campaign")
    parser.add_argument("--out", default="results/reliability.md", help="the file")
    given = parser.parse_args()
    logging.set_verbosity(logging.FATAL)  # as the commands do
    start, cases = time.monotonic(), []
    for name in given.campaign or CAMPAIGNS:
        with tempfile.TemporaryDirectory() as folder:
            for case in CAMPAIGNS[name](given.share, Path(folder)):
                cases.append(case)
                if case.outcome not in outcomes.WANTED:
                    say(f"{case.campaign}, {case.fault}: {case.outcome}: {case.detail}")
    table = outcomes.table(cases)
    print(table)
    if given.share == 1 and not given.campaign:
        write_atomically(Path(given.out), _page(table, time.monotonic() - start))
    sys.exit(any(case.outcome not in outcomes.WANTED for case in cases))


def _page(table: str, seconds: float) -> str:
    about = provenance() | {"minutes": round(seconds / 60)}
    lines = [f"{name}: {value}" for name, value in about.items()]
    return "\n".join(["# What becomes of faults", "", table, "", "```", *lines, "```", ""])


if __name__ == "__main__":
    main()
