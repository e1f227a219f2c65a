"""Count what becomes of faults: malformed input, damaged folders, signals, full disks.

    python -m scripts.reliability

Runs the campaigns of ``tests/faults`` in full, about an hour on 2 CPU cores, and writes their
counts with command, commit and versions to ``results/reliability.json`` and, as one table, to
``results/reliability.md``. ``--campaign=NAME`` runs one, and leaves the counts of the others;
``--share=0.01`` runs a hundredth and writes nothing. Exits with 1 if something happened that must
not, and says what.
"""

import argparse
import importlib.util
import multiprocessing
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from absl import logging

from experiments.running.terminal import say
from experiments.storage.files import read_json, write_atomically, write_json
from experiments.storage.provenance import provenance

if importlib.util.find_spec("hypothesis") is None:
    sys.exit('scripts.reliability needs the extra test: pip install -e ".[test]"')

from tests.faults import disks, folders, kills, malformed, outcomes
from tests.faults.outcomes import Case

_OUT = Path("results/reliability.json")
_MALFORMED = {
    "command line": 2_500, "configuration": 1_500, "sweep file": 800, "IDX image": 600,
    ".npy image": 1_000, "PNG image": 800, ".amat data set": 300, ".mat data set": 800,
    "IDX data set": 500, "record of a run": 1_200,
}  # fmt: skip
_PROCESSES = 4
_SIGNALS = {signal.SIGKILL: 60, signal.SIGTERM: 40, signal.SIGINT: 40}
_DAMAGES = 200


def _malformed(share: float, folder: Path) -> Iterator[Case]:
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool:
        numbers = [max(1, round(share * number)) for number in _MALFORMED.values()]
        for cases in pool.map(_of_kind, _MALFORMED, numbers, [folder] * len(numbers)):
            yield from cases


def _of_kind(kind: str, number: int, folder: Path) -> list[Case]:
    logging.set_verbosity(logging.FATAL)  # as the commands do
    place = folder / kind
    place.mkdir()
    return list(malformed.campaign(kind, number, place))


def _folders(share: float, folder: Path) -> Iterator[Case]:
    yield from folders.campaign(max(2, round(share * _DAMAGES)), folder)


def _kills(share: float, folder: Path) -> Iterator[Case]:
    yield from kills.campaign({s: max(1, round(share * n)) for s, n in _SIGNALS.items()}, folder)


def _disks(share: float, folder: Path) -> Iterator[Case]:
    try:
        yield from disks.campaign(folder, disks.MOMENTS if share == 1 else disks.MOMENTS[:1])
    except disks.CannotMount as error:
        sys.exit(f"error: disks: {error}")


CAMPAIGNS = {"malformed": _malformed, "folders": _folders, "kills": _kills, "disks": _disks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--campaign", choices=CAMPAIGNS, action="append", help="default: all")
    parser.add_argument("--share", type=float, default=1.0, help="of each campaign")
    given = parser.parse_args()
    logging.set_verbosity(logging.FATAL)  # as the commands do
    wrong = False
    for name in given.campaign or CAMPAIGNS:
        start, cases = time.monotonic(), []
        with tempfile.TemporaryDirectory() as folder:
            for case in CAMPAIGNS[name](given.share, Path(folder)):
                cases.append(case)
                if case.outcome not in outcomes.WANTED:
                    wrong = True
                    say(f"{case.campaign}, {case.fault}: {case.outcome}: {case.detail}")
        rows = outcomes.counts(cases)
        print(outcomes.table(rows))
        if given.share == 1:
            minutes = round((time.monotonic() - start) / 60)
            _write(name, {"rows": rows, "minutes": minutes, "provenance": provenance()})
    sys.exit(wrong)


def _write(name: str, found: dict[str, Any]) -> None:
    """Write the counts of a campaign beside those of the others, and the page of all."""
    kept = (read_json(_OUT) if _OUT.exists() else {}) | {name: found}
    kept = {campaign: kept[campaign] for campaign in CAMPAIGNS if campaign in kept}
    write_json(_OUT, kept)
    rows = [row for campaign in kept.values() for row in campaign["rows"]]
    measured = [
        f"* `{(about := campaign['provenance'])['command']}`: commit {about['git_commit']}, "
        f"{about['time']}, {campaign['minutes']} minutes, Python {about['python']}, "
        f"jax {about['jax']}, jaxlib {about['jaxlib']}, orbax {about['orbax-checkpoint']}, "
        f"numpy {about['numpy']}, {about['device']}"
        for campaign in kept.values()
    ]
    lines = ["# What becomes of faults", "", outcomes.table(rows), "", *measured]
    write_atomically(_OUT.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
