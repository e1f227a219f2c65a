"""Disks that are full, read-only or gone at a moment of a run, which is then started again.

On a small file system in memory, which takes the rights of root to mount. The run must end in one
line, and the same command, once the disk serves again, at what an undisturbed run leaves.
"""

import contextlib
import functools
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from experiments import figures, train
from experiments.running.run_folder import Events
from tests.experiments import runs
from tests.experiments.runs import result_of, rows_of, without_times
from tests.faults import outcomes
from tests.faults.folders import CONFIG
from tests.faults.outcomes import Case, Outcome

_BYTES = 4_000_000
LEFT = (0, 4_096, 20_480, 102_400, 409_600)
"""Bytes left on a disk that is nearly full: writes fail at other places."""
MOMENTS = ("start", "first row", "middle", "last row", "figures", "start again")
_BETWEEN_WRITES = ("start", "start again")
"""A disk with files that are open for writing is not made read-only by its system."""


class CannotMount(Exception):
    """This process has no right to mount a file system."""


def campaign(
    folder: Path, moments: Sequence[str] = MOMENTS, left: Sequence[int] = LEFT
) -> Iterator[Case]:
    """Each fault at each moment, a disk that is full with so many bytes left.

    Raises:
      CannotMount: where nothing can be mounted.
    """
    # Threads that an earlier run of this process left; a command is silent once it has failed.
    with mock.patch.object(sys, "unraisablehook", return_value=None):
        yield from _campaign(folder, moments, left)


def _campaign(folder: Path, moments: Sequence[str], left: Sequence[int]) -> Iterator[Case]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(None):
        assert runs.here(train.main, CONFIG, f"--workdir={folder / 'unbroken'}") == 0
    faults: dict[str, list[Callable[[Path], object]]] = {
        "full": [functools.partial(_fill, left=bytes_left) for bytes_left in left],
        "read-only": [functools.partial(_mount, options="remount,ro")],
        "folder gone": [lambda disk: shutil.rmtree(disk / "run", ignore_errors=True)],
    }
    for name, ways in faults.items():
        for moment in moments:
            if name == "read-only" and moment not in _BETWEEN_WRITES:
                continue
            for cause in ways:
                disk = folder / "disk"
                disk.mkdir(exist_ok=True)
                _mount(disk, f"size={_BYTES}")
                try:
                    outcome, detail = _disturbed(disk, folder / "unbroken", moment, cause)
                finally:
                    subprocess.run(["umount", "-l", str(disk)], check=True, capture_output=True)
                yield Case(f"disk {name}", moment, outcome, detail)


def _disturbed(
    disk: Path, unbroken: Path, moment: str, cause: Callable[[Path], object]
) -> tuple[Outcome, str]:
    """How a run ends that is disturbed, if it comes to the same end afterwards."""
    if moment == "start again":
        with _at("middle", _interrupt), contextlib.redirect_stderr(io.StringIO()):
            assert runs.here(train.main, CONFIG, f"--workdir={disk / 'run'}") == 130
    with _at(moment, lambda: cause(disk)):
        ended = outcomes.judge_quietly(lambda: _train(disk))
    if ended[0] not in outcomes.WANTED:
        return ended
    _mount(disk, "remount,rw")
    (disk / "filler").unlink(missing_ok=True)
    outcome, detail = outcomes.judge_quietly(lambda: _train(disk))
    if outcome is not Outcome.HELD:
        wrong = outcome if outcome is not Outcome.REFUSED else Outcome.WRONG
        return wrong, f"started again: {detail}, after: {ended[1]}"
    found, expected = (
        (
            without_times(result_of(run)),
            [without_times(row) for row in rows_of(run)],
            sorted(path.name for path in (run / "figures").iterdir()),
        )
        for run in (disk / "run", unbroken)
    )
    return ended if found == expected else (Outcome.WRONG, f"another end, after: {ended[1]}")


def _train(disk: Path) -> None:
    if status := runs.here(train.main, CONFIG, f"--workdir={disk / 'run'}"):
        raise SystemExit(status)


@contextlib.contextmanager
def _at(moment: str, cause: Callable[[], object]) -> Iterator[None]:
    """Let something happen at a moment of the run."""
    if moment in _BETWEEN_WRITES:
        cause()
    steps = {"first row": 5, "middle": 10, "last row": 15}
    add, draw = Events.add, figures.draw_run

    def of_row(events: Events, row: dict[str, Any]) -> None:
        add(events, row)
        if row["step"] == steps.get(moment):
            cause()

    def of_figures(*arguments: Any) -> list[Path]:
        if moment == "figures":
            cause()
        return draw(*arguments)

    with (
        mock.patch.object(Events, "add", of_row),
        mock.patch.object(figures, "draw_run", of_figures),
    ):
        yield


def _interrupt() -> None:
    raise KeyboardInterrupt


def _mount(disk: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if "remount" in options:
        command = ["mount", "-o", options, str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotMount(f"{' '.join(command)}: {error}") from None


def _fill(disk: Path, left: int) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4_096)):
            pass
    with (disk / "filler").open("r+b") as file:
        file.truncate(max(0, (disk / "filler").stat().st_size - left))
