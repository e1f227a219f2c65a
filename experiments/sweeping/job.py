"""One job of a sweep: train several runs in one program.

    python -m experiments.sweeping.job --points=FILE --folder=FOLDER

FILE is JSON: a list of points as in a sweep file, which differ in seeds and traced fields only.
Each run has its own folder in FOLDER, named by its config's hash. An error is reported in a line
that starts with that hash.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments.running import command_line, loop
from experiments.running.terminal import say
from experiments.storage.files import read_json
from experiments.sweeping import points
from experiments.sweeping.points import Point
from experiments.tasks.checks import ConfigError


def run(job: Sequence[Point], folder: Path) -> Sequence[dict[str, Any] | Exception]:
    """Run the points of a job; returns the result of each, or the error it ended with.

    Args:
      job: points of one program.
      folder: the runs' folders are in it.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM came; the runs have saved their state.
    """
    configs, folders = zip(*((point.config, folder / point.hash) for point in job), strict=True)
    try:
        # A job of a driver that was killed a moment ago may still be saving.
        return loop.train_together(configs, folders, patience=60)
    except loop.Interrupted as message:
        say(str(message))
        raise KeyboardInterrupt from None
    except command_line.ERRORS as error:  # the other jobs go on
        if not command_line.can_be_put_right(error):
            raise
        return [error] * len(job)


def _stop_with_driver() -> None:
    """Wait for the end of standard input, which the driver holds open; then save and stop."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    if _ENDS_WITH_DRIVER.value:
        threading.Thread(target=_stop_with_driver, daemon=True).start()
    job = [points.resolve(one) for one in read_json(Path(_POINTS.value))]
    if len(list(points.jobs(job, len(job)))) != 1:
        raise ConfigError(f"the points of {_POINTS.value} need more than one program")
    outcomes = run(job, Path(_FOLDER.value))
    errors = [(p, one) for p, one in zip(job, outcomes, strict=True) if isinstance(one, Exception)]
    for point, error in errors:
        say(f"{point.hash}: {command_line.told(error)}")
    sys.exit(bool(errors))


if __name__ == "__main__":
    _POINTS = flags.DEFINE_string("points", None, "JSON file of points.", required=True)
    _FOLDER = flags.DEFINE_string("folder", None, "Folder of the runs' folders.", required=True)
    _ENDS_WITH_DRIVER = flags.DEFINE_bool(
        "ends_with_driver", False, "Stop when standard input is closed."
    )
    command_line.run(main)
