"""Run many experiments: ``python -m experiments.sweep --sweep=configs/sweeps/annealing.py:digits``.

A sweep file lists points, each a config with some fields overridden (``configs/sweeps``). Every
point is a run of ``experiments.train`` in a process of its own, one process per core and each
pinned to its core. A point's folder is named by the hash of its resolved config, so the same
command again goes on where it stopped: finished points are skipped, others continue from their
checkpoint. A killed run is started again; a point that fails is reported with its error and does
not end the sweep. The table ``sweep.csv`` is written anew after each point; at the end come the
best point by validation, and a figure over the swept fields.
"""

import csv
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from experiments import config as configuration
from experiments import figures, rundir
from experiments.config import ConfigError
from experiments.console import say

_SWEEP = flags.DEFINE_string("sweep", None, "Sweep file, with its argument.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder; default: runs/sweep-SWEEP-ARGUMENT.")
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "Runs at a time; 0: one per core, or one on an accelerator.", lower_bound=0
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", 0, "Steps of every run; 0: what its config says.", lower_bound=0
)
_RETRIES = flags.DEFINE_integer(
    "retries", 2, "Times that a killed run is started again.", lower_bound=0
)

_SECONDS_BETWEEN_LOOKS = 0.2


class Point(NamedTuple):
    """One run of a sweep."""

    overrides: dict[str, Any]
    """The fields that the sweep file sets, with the "config" file."""
    hash: str
    """Of the resolved config."""
    fields: dict[str, Any]
    """The resolved config, flat."""
    eval_samples: tuple[int, int]
    """m of the bounds on validation and test."""


class Outcome(NamedTuple):
    """How a point ended."""

    point: Point
    result: dict[str, Any] | None
    error: str = ""


def load_points(named: str, num_steps: int = 0) -> list[Point]:
    """The points of ``FILE`` or ``FILE:ARGUMENT``, each resolved and checked.

    Raises:
      ConfigError: the file cannot serve, or a point of it; the message says which.
    """
    path, _, argument = named.partition(":")
    if not (Path(path).is_file() and path.endswith(".py")):
        found = sorted(str(file) for file in Path("configs/sweeps").glob("[!_]*.py"))
        hint = f"sweeps here: {', '.join(found)}" if found else "run from the repository's root"
        raise ConfigError(f"no sweep file {path!r}; {hint}")
    spec = importlib.util.spec_from_file_location("_sweep", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        listed = list(module.get_sweep(*[argument] if argument else []))
    except Exception as error:  # it is the user's code
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} raises {type(error).__name__}: {reason}") from error
    if not listed:
        raise ConfigError(f"get_sweep of {path} returns no points")
    points: dict[str, Point] = {}
    for number, overrides in enumerate(listed, 1):
        try:
            point = _resolve(overrides, num_steps)
        except (ConfigError, TypeError, KeyError) as error:
            raise ConfigError(f"point {number} of {path}: {error}") from None
        points.setdefault(point.hash, point)
    return list(points.values())


def _resolve(overrides: Mapping[str, Any], num_steps: int) -> Point:
    overrides = dict(overrides)
    config = configuration.load(overrides["config"])
    known = dict(configuration.fields(config))
    changes = {name: value for name, value in overrides.items() if name != "config"}
    if num_steps:
        changes["num_steps"] = num_steps
    for name in changes:
        if name not in known:
            raise ConfigError(f"the config has no field {name!r}")
    config.update_from_flattened_dict(changes)
    config = configuration.check(config)
    samples = (config.evaluation.valid_samples, config.evaluation.test_samples)
    fields = dict(configuration.fields(config))
    return Point(overrides | changes, configuration.config_hash(config), fields, samples)


# --- running ---------------------------------------------------------------------------------


class _Worker(NamedTuple):
    point: Point
    process: subprocess.Popen
    core: int | None
    attempt: int


def _folder(workdir: Path, point: Point) -> Path:
    return workdir / "points" / point.hash


def _log(workdir: Path, point: Point) -> Path:
    return workdir / "logs" / f"{point.hash}.txt"


def _command(workdir: Path, point: Point) -> list[str]:
    """The command of a point, as a user would type it."""
    options = [
        f"--config.{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in point.overrides.items()
        if name != "config"
    ]
    return [
        sys.executable, "-m", "experiments.train", f"--config={point.overrides['config']}",
        *options, f"--workdir={_folder(workdir, point)}",
    ]  # fmt: skip


def _start(workdir: Path, point: Point, core: int | None, attempt: int) -> _Worker:
    log = _log(workdir, point)
    log.parent.mkdir(parents=True, exist_ok=True)
    # Compiled programs are shared by the points: most differ in numbers only.
    environment = {"JAX_COMPILATION_CACHE_DIR": str((workdir / "compiled").absolute())}
    with log.open("a") as file:
        process = subprocess.Popen(
            _command(workdir, point), stdout=file, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env=environment | os.environ, start_new_session=True,
        )  # fmt: skip
    if core is not None:  # long before jax, which asks for its cores, is imported
        os.sched_setaffinity(process.pid, {core})
    return _Worker(point, process, core, attempt)


def _result(workdir: Path, point: Point) -> dict[str, Any] | None:
    path = _folder(workdir, point) / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def _error(workdir: Path, point: Point, code: int) -> str:
    """The last line that the run said, which names what was wrong."""
    lines = [line for line in _log(workdir, point).read_text().splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with status {code}"


def run(points: Sequence[Point], workdir: Path, workers: int, retries: int) -> Iterator[Outcome]:
    """Run what is not finished yet, ``workers`` at a time; yields outcomes as they come.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM came; the runs have saved their state.
    """
    waiting = deque((point, 0) for point in points if _result(workdir, point) is None)
    for point in points:
        if (result := _result(workdir, point)) is not None:
            yield Outcome(point, result)
    cores: list[int | None] = [None] * workers
    if workers > 1 and hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        cores = [available[i % len(available)] for i in range(workers)]
    free, running = deque(cores), list[_Worker]()
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        while waiting or running:
            while waiting and free:
                point, attempt = waiting.popleft()
                running.append(_start(workdir, point, free.popleft(), attempt))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for worker in [worker for worker in running if worker.process.poll() is not None]:
                running.remove(worker)
                free.append(worker.core)
                point, code = worker.point, worker.process.returncode
                if (result := _result(workdir, point)) is not None:
                    yield Outcome(point, result)
                elif code < 0 and worker.attempt < retries:  # by a signal: not its own fault
                    say(f"{point.hash} was killed (signal {-code}); it is started again")
                    waiting.appendleft((point, worker.attempt + 1))
                else:
                    yield Outcome(point, None, _error(workdir, point, code))
    except KeyboardInterrupt:
        say("stopping: every run saves its state ...")
        for worker in running:
            worker.process.send_signal(signal.SIGINT)
        for worker in running:
            worker.process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


# --- reporting -------------------------------------------------------------------------------


def swept(points: Sequence[Point]) -> list[str]:
    """The fields that are not the same in all points, in the order of the sweep file."""
    names = dict.fromkeys(name for point in points for name in point.overrides)
    return [
        name for name in names if len({json.dumps(_field(point, name)) for point in points}) > 1
    ]


def _field(point: Point, name: str) -> Any:
    return point.overrides["config"] if name == "config" else point.fields.get(name)


def row_of(outcome: Outcome, names: Sequence[str]) -> dict[str, Any]:
    """A row of the table: the swept fields, then how it ended."""
    point, result = outcome.point, outcome.result or {}
    valid, test = point.eval_samples
    return {
        **{name: _field(point, name) for name in names},
        "valid_nats": result.get(f"valid_nll_m{valid}"),
        "test_nats": result.get(f"test_nll_m{test}"),
        "steps": result.get("steps"),
        "selected_step": result.get("selected_step"),
        "steps_per_second": result.get("steps_per_second"),
        "seconds": result.get("seconds"),
        "config_hash": point.hash,
        "error": outcome.error,
    }


def write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """``sweep.csv``, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: f"{value:.6g}" if isinstance(value, float) else value
                for name, value in row.items()
            }
        )
    rundir.write_atomically(path, text.getvalue())


def _tell(rows: Sequence[Mapping[str, Any]], total: int, names: Sequence[str]) -> None:
    row = rows[-1]
    what = ", ".join(f"{name}={row[name]}" for name in names) or "the point"
    ended = row["error"] or f"validation {row['valid_nats']:.2f}, test {row['test_nats']:.2f} nats"
    say(f"{len(rows)}/{total}  {what}: {ended}")


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    try:
        points = load_points(_SWEEP.value, _NUM_STEPS.value)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    path, _, argument = _SWEEP.value.partition(":")
    default = "-".join(filter(None, ("sweep", Path(path).stem, argument)))
    workdir = Path(_WORKDIR.value or f"runs/{default}")
    workdir.mkdir(parents=True, exist_ok=True)
    workers = _WORKERS.value or _default_workers()
    names = swept(points)
    say(f"{len(points)} points, {workers} at a time, in {workdir}")
    rows: list[dict[str, Any]] = []
    try:
        for outcome in run(points, workdir, workers, _RETRIES.value):
            rows.append(row_of(outcome, names))
            _tell(rows, len(points), names)
            write_table(rows, workdir / "sweep.csv")
    except KeyboardInterrupt:
        say("run the same command to go on")
        sys.exit(130)
    finished = [row for row in rows if row["valid_nats"] is not None]
    about = {"provenance": rundir.provenance(), "swept": names, "points": len(points)}
    if finished:
        about["best"] = best = min(finished, key=lambda row: row["valid_nats"])
        figures.draw_sweep(finished, names, workdir / "sweep.png")
        shown = ", ".join(f"{name}={best[name]}" for name in names)
        print(f"best on validation: {shown}")
        print(f"  validation {best['valid_nats']:.2f}, test {best['test_nats']:.2f} nats")
        print(f"  {workdir / 'points' / best['config_hash']}")
    rundir.write_atomically(workdir / "sweep.json", json.dumps(about, indent=1) + "\n")
    print(f"table and figure: {workdir / 'sweep.csv'}, {workdir / 'sweep.png'}")
    if failed := [row for row in rows if row["error"]]:
        sys.exit(f"{len(failed)} of {len(points)} points failed; logs in {workdir / 'logs'}")


def _default_workers() -> int:
    import jax

    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    app.run(main)
