"""Train several runs in one program: what ``experiments.sweep`` starts for points that allow it.

    python -m experiments.together --points=FILE --folder=FOLDER

FILE is JSON: a list of points as in a sweep file, which differ in seeds and float settings only.
Each run has its own folder in FOLDER, named by its config's hash. What fails is told in a line that
starts with that hash.
"""

import json
import sys
from pathlib import Path

from absl import app, flags

from experiments import config as configuration
from experiments import loop, points
from experiments.config import ConfigError
from experiments.console import say
from gsm.data import DataError

_POINTS = flags.DEFINE_string("points", None, "JSON file of points.", required=True)
_FOLDER = flags.DEFINE_string("folder", None, "Where the runs' folders are.", required=True)


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    try:
        overrides = json.loads(Path(_POINTS.value).read_text())
        members = [points.resolve(one) for one in overrides]
        if len(list(points.jobs(members, len(members)))) != 1:
            raise ConfigError(f"the points of {_POINTS.value} need more than one program")
        outcomes = loop.train_together(
            [member.config for member in members],
            [Path(_FOLDER.value) / member.hash for member in members],
        )
    except (ConfigError, DataError, OSError) as error:
        sys.exit(f"error: {error}")
    except loop.Interrupted as message:
        say(str(message))
        sys.exit(130)
    failed = False
    for member, outcome in zip(members, outcomes, strict=True):
        if isinstance(outcome, Exception):
            failed = True
            say(f"{member.hash}: {outcome}")
    sys.exit(failed)


if __name__ == "__main__":
    app.run(main)
