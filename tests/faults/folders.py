"""Damage to every file of a run's folder, after which the run is resumed, reported and used.

What comes out must be equal to that of the undamaged folder, bit for bit, or nothing must come out
but one line.
"""

import contextlib
import functools
import io
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import experiments
from experiments import data, train
from experiments.reporting import all_tables, folders
from experiments.running.run_folder import Events
from experiments.storage.records import Run
from tests.experiments import runs
from tests.experiments.runs import result_of, rows_of, without_times
from tests.faults import outcomes
from tests.faults.damages import DAMAGES
from tests.faults.outcomes import Case

CONFIG = "--config=tests/faults/classifier.py"
STOPPED = "stopped in the middle"
FINISHED = "finished"


class Originals(NamedTuple):
    """A run in two states, and what comes out of each."""

    folders: dict[str, Path]
    reported: Run
    probabilities: dict[str, np.ndarray]
    images: Path


def campaign(number: int, folder: Path) -> Iterator[Case]:
    """Damage files of both states in turn, each with each kind of damage, and use what is left."""
    originals = _originals(folder)
    chance = random.Random(0)
    for i in range(number):
        state = (STOPPED, FINISHED)[i % 2]
        files = sorted(p for p in originals.folders[state].rglob("*") if p.is_file())
        file = files[i // 2 % len(files)].relative_to(originals.folders[state])
        damage = list(DAMAGES)[chance.randrange(len(DAMAGES))]
        seed = chance.randrange(2**32)
        for name, attempt in _USES.items():
            copy = folder / "sweep" / "points" / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(originals.folders[state], copy)
            content = DAMAGES[damage]((copy / file).read_bytes(), random.Random(seed))
            (copy / file).unlink()
            if content is not None:
                (copy / file).write_bytes(content)
            outcome, detail = outcomes.judge_quietly(
                functools.partial(attempt, originals, state, copy)
            )
            where = f" after {file} of a run {state}: {damage} ({seed})"
            yield Case(f"damage to a run {state}", name, outcome, detail + where)


def _originals(folder: Path) -> Originals:
    states = {name: folder / name for name in (STOPPED, FINISHED)}

    def stop(events: Events, row: dict[str, Any]) -> None:
        if row["step"] == 10:
            raise KeyboardInterrupt

    with mock.patch.object(Events, "add", stop), contextlib.redirect_stderr(io.StringIO()):
        assert runs.here(train.main, CONFIG, f"--workdir={states[STOPPED]}") == 130
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(None):
        assert runs.here(train.main, CONFIG, f"--workdir={states[FINISHED]}") == 0
    copy = folder / "sweep" / "points" / "copy"
    shutil.copytree(states[FINISHED], copy)
    images = folder / "images.npy"
    np.save(images, np.random.default_rng(0).random((9, 2, 2), np.float32))
    return Originals(
        states,
        _report(copy),
        {state: _classify(path, images) for state, path in states.items()},
        images,
    )


# --- the three uses --------------------------------------------------------------------------


def _resumes(originals: Originals, state: str, copy: Path) -> str | None:
    """``experiments.train`` on the folder: the result and the rows of the unbroken run."""
    if status := runs.here(train.main, CONFIG, f"--workdir={copy}"):
        raise SystemExit(status)
    expected, found = (
        (without_times(result_of(run)), [without_times(row) for row in rows_of(run)])
        for run in (originals.folders[FINISHED], copy)
    )
    return None if found == expected else "another result than that of the unbroken run"


def _reports(originals: Originals, state: str, copy: Path) -> str | None:
    """``experiments.report`` on a sweep of this run."""
    found, expected = _report(copy), originals.reported
    parts = ("config", "result", "rows")
    if state != FINISHED:
        return "a run that is not finished is reported"
    wrong = [part for part in parts if getattr(found, part) != getattr(expected, part)]
    return f"other {', '.join(wrong)}" if wrong else None


def _report(copy: Path) -> Run:
    (run,) = folders.find([copy.parents[1]], all_tables(runs.ROOT / "results/paper")).runs
    return run


def _classifies(originals: Originals, state: str, copy: Path) -> str | None:
    """``experiments.classify`` by the parameters in the folder."""
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    found = _classify(copy, originals.images)
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    if after != before:
        return "the folder has changed"
    right = np.array_equal(found, originals.probabilities[state])
    return None if right else "other probabilities than before the damage"


def _classify(copy: Path, images: Path) -> np.ndarray:
    model = experiments.load(copy)
    return np.asarray(model.classify(data.read_images(images, model.image_shape)))


_USES = {"resumed": _resumes, "reported": _reports, "classified by": _classifies}
