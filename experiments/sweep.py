"""Run many experiments: ``python -m experiments.sweep --sweep=configs/sweeps/annealing.py:digits``.

A sweep file lists points, each a config with some fields overridden (``configs/sweeps``). A point's
folder is named by the hash of its resolved config, so the same command again goes on where it
stopped: finished points are skipped, others continue from their checkpoint. A killed run is started
again; a point that fails is reported with its error and does not end the sweep. The table
``sweep.csv`` is written anew after each point; at the end come the best point by validation, and a
figure over the swept fields.

Points that differ in seeds and float settings only can share a program, with ``vmap`` over them
(``--together``): the way of accelerators. On CPUs one process per core, each pinned to its core, is
faster (measured by ``scripts.bench``). ``--backend`` says where they run: in this process, in
worker processes, or on a cluster through Ray.

A sweep file that names fields in ``PILOT`` can be run as ``--pilot_steps=20000``: every point of
the first seed runs that long, without a look at the test set, and of the points that differ in
these fields only, the best on validation alone is run in full, with all its seeds.
"""

import csv
import io
import itertools
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from experiments import config as configuration
from experiments import figures, points, rundir, workers
from experiments.config import ConfigError
from experiments.console import say
from experiments.points import Point

_SWEEP = flags.DEFINE_string("sweep", None, "Sweep file, with its argument.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder; default: runs/sweep-SWEEP-ARGUMENT.")
_BACKEND = flags.DEFINE_enum(
    "backend", "workers", ["here", "workers", "ray"],
    "Where jobs run: in this process, in worker processes, on the Ray cluster of $RAY_ADDRESS.",
)  # fmt: skip
_WORKERS = flags.DEFINE_integer(
    "workers", 0, "Jobs at a time; 0: one per core, or one per accelerator.", lower_bound=0
)
_TOGETHER = flags.DEFINE_integer(
    "together", 0, "Points of one program at most; 0: 1 on a CPU, 64 elsewhere.", lower_bound=0
)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps", 0, "Steps of every run; 0: what its config says.", lower_bound=0
)
_PILOT_STEPS = flags.DEFINE_integer(
    "pilot_steps", 0, "Steps of the pilot runs that choose the fields in PILOT; 0: no pilots.",
    lower_bound=0,
)  # fmt: skip
_RETRIES = flags.DEFINE_integer(
    "retries", 2, "Times that a killed job is started again.", lower_bound=0
)

_SECONDS_BETWEEN_LOOKS = 0.2


class Outcome(NamedTuple):
    """How a point ended."""

    point: Point
    result: dict[str, Any] | None
    error: str = ""


# --- running ---------------------------------------------------------------------------------


def _folder(workdir: Path, point: Point) -> Path:
    return workdir / "points" / point.hash


def _log(workdir: Path, job: Sequence[Point]) -> Path:
    return workdir / "logs" / f"{job[0].hash}.txt"


def _result(workdir: Path, point: Point) -> dict[str, Any] | None:
    path = _folder(workdir, point) / "result.json"
    return json.loads(path.read_text()) if path.exists() else None


def command(workdir: Path, job: Sequence[Point]) -> list[str]:
    """The command of a job, as a user would type it."""
    if len(job) > 1:
        listed = workdir / "jobs" / f"{job[0].hash}.json"
        listed.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([point.overrides for point in job], indent=1)
        rundir.write_atomically(listed, text + "\n")
        return [
            sys.executable, "-m", "experiments.together", f"--points={listed}",
            f"--folder={workdir / 'points'}",
        ]  # fmt: skip
    (point,) = job
    options = [
        f"--config.{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in point.overrides.items()
        if name != "config"
    ]
    return [
        sys.executable, "-m", "experiments.train", f"--config={point.overrides['config']}",
        *options, f"--workdir={_folder(workdir, point)}",
    ]  # fmt: skip


def _error(workdir: Path, job: Sequence[Point], point: Point, code: int) -> str:
    """The last line that the job said of the point, which names what was wrong."""
    log = _log(workdir, job)
    text = log.read_text() if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    own = [line.partition(": ")[2] for line in lines if line.startswith(f"{point.hash}: ")]
    return (own or lines or [f"ended with status {code}"])[-1]


class _Running(NamedTuple):
    job: list[Point]
    process: workers.Running
    attempt: int


def run(
    jobs: Sequence[list[Point]], workdir: Path, place: workers.Workers, retries: int
) -> Iterator[Outcome]:
    """Run jobs on workers; yields the outcome of each point as it comes.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM came; the runs have saved their state.
    """
    waiting, running = deque((job, 0) for job in jobs), list[_Running]()
    # Compiled programs are shared by the points: most differ in numbers only.
    environment = {"JAX_COMPILATION_CACHE_DIR": str((workdir / "compiled").absolute())}
    environment = {k: v for k, v in environment.items() if k not in os.environ}
    # Both by a handler of our own: a shell starts what it puts in the background deaf to SIGINT.
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _interrupt) for number in signals}
    try:
        while waiting or running:
            while waiting and place.free:
                job, attempt = waiting.popleft()
                started = place.start(command(workdir, job), _log(workdir, job), environment)
                running.append(_Running(job, started, attempt))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            for ended in list(running):
                if (code := ended.process.poll()) is None:
                    continue
                running.remove(ended)
                again = []
                for point in ended.job:
                    if (result := _result(workdir, point)) is not None:
                        yield Outcome(point, result)
                    elif code < 0 and ended.attempt < retries:  # by a signal: not its own fault
                        say(f"{point.hash} was killed (signal {-code}); it is started again")
                        again.append(point)
                    else:
                        yield Outcome(point, None, _error(workdir, ended.job, point, code))
                if again:
                    waiting.appendleft((again, ended.attempt + 1))
    except KeyboardInterrupt:
        say("stopping: every run saves its state ...")
        for one in running:
            one.process.interrupt()
        for one in running:
            one.process.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def run_here(jobs: Sequence[list[Point]], workdir: Path) -> Iterator[Outcome]:
    """Run jobs in this process, one after the other; yields the outcome of each point.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM came; the runs have saved their state.
    """
    from experiments import loop
    from gsm.data import DataError

    for job in jobs:
        outcomes: Sequence[dict[str, Any] | Exception]
        try:
            outcomes = loop.train_together(
                [point.config for point in job], [_folder(workdir, point) for point in job]
            )
        except loop.Interrupted:
            raise KeyboardInterrupt from None
        except DataError as error:
            outcomes = [error] * len(job)
        for point, outcome in zip(job, outcomes, strict=True):
            if isinstance(outcome, Exception):
                yield Outcome(point, None, str(outcome))
            else:
                yield Outcome(point, outcome)


# --- reporting -------------------------------------------------------------------------------


def row_of(outcome: Outcome, names: Sequence[str]) -> dict[str, Any]:
    """A row of the table: the swept fields, then how it ended."""
    point, result = outcome.point, outcome.result or {}
    return {
        **{name: point.field(name) for name in names},
        "valid_nats": valid_nats(outcome),
        "test_nats": result.get(f"test_nll_m{point.config.evaluation.test_samples}"),
        "steps": result.get("steps"),
        "selected_step": result.get("selected_step"),
        "steps_per_second": result.get("steps_per_second"),
        "seconds": result.get("seconds"),
        "config_hash": point.hash,
        "error": outcome.error,
    }


def valid_nats(outcome: Outcome) -> float | None:
    """The negative bound on validation; None of a point that failed."""
    samples = outcome.point.config.evaluation.valid_samples
    return (outcome.result or {}).get(f"valid_nll_m{samples}")


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
    say(f"{len(rows)}/{total}  {what}: {row['error'] or _bounds(row)}")


def _bounds(row: Mapping[str, Any]) -> str:
    test = "" if row["test_nats"] is None else f", test {row['test_nats']:.2f}"
    return f"validation {row['valid_nats']:.2f}{test} nats"


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    try:
        sweep = points.load_sweep(_SWEEP.value, _NUM_STEPS.value)
        if _PILOT_STEPS.value and not sweep.pilot:
            raise ConfigError(f"--pilot_steps: {_SWEEP.value} names no fields in PILOT")
        place = _place()
    except ConfigError as error:
        sys.exit(f"error: {error}")
    path, _, argument = _SWEEP.value.partition(":")
    default = "-".join(filter(None, ("sweep", Path(path).stem, argument)))
    workdir = Path(_WORKDIR.value or f"runs/{default}")
    workdir.mkdir(parents=True, exist_ok=True)
    full, failed = sweep.points, 0
    try:
        if _PILOT_STEPS.value:
            short = points.pilots(sweep, _PILOT_STEPS.value)
            outcomes = _run_and_tell(short, place, workdir, "pilots")
            failed += sum(outcome.result is None for outcome in outcomes)
            bounds = {points.pilot_key(sweep, one.point): valid_nats(one) for one in outcomes}
            full = points.chosen(sweep, {k: v for k, v in bounds.items() if v is not None})
            if not full:
                sys.exit(f"all {len(short)} pilots failed; logs in {workdir / 'logs'}")
        outcomes = _run_and_tell(full, place, workdir, "sweep")
    except KeyboardInterrupt:
        say("run the same command to go on")
        sys.exit(130)
    if failed := failed + sum(outcome.result is None for outcome in outcomes):
        sys.exit(f"{failed} points failed; logs in {workdir / 'logs'}")


def _place() -> workers.Workers | None:
    """Where jobs run; None: here. Raises ConfigError."""
    if _BACKEND.value == "here":
        return None
    if _BACKEND.value == "workers":
        return workers.LocalWorkers(_WORKERS.value or _default_workers())
    try:
        return workers.RayWorkers(_WORKERS.value)
    except ImportError:
        raise ConfigError("--backend=ray needs Ray: install the extra gsm[sweep]") from None
    except ConnectionError as error:
        raise ConfigError(f"--backend=ray: {error}") from None


def _default_workers() -> int:
    import jax

    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _together() -> int:
    """Points of one program."""
    import jax

    return _TOGETHER.value or (1 if jax.default_backend() == "cpu" else 64)


def _run_and_tell(
    listed: Sequence[Point], place: workers.Workers | None, workdir: Path, name: str
) -> list[Outcome]:
    """Run points; table ``NAME.csv``, figure ``NAME.png``, best point and ``NAME.json``."""
    names = points.swept(listed)
    number = f", {place.number} at a time" if place else ""
    say(f"{name}: {len(listed)} points{number}, in {workdir}")
    found = [(point, _result(workdir, point)) for point in listed]
    jobs = list(points.jobs([point for point, result in found if result is None], _together()))
    going = run(jobs, workdir, place, _RETRIES.value) if place else run_here(jobs, workdir)
    finished = (Outcome(point, result) for point, result in found if result is not None)
    in_order = {point.hash: i for i, point in enumerate(listed)}
    outcomes: list[Outcome] = []
    rows: list[dict[str, Any]] = []
    for outcome in itertools.chain(finished, going):
        outcomes.append(outcome)
        rows.append(row_of(outcome, names))
        _tell(rows, len(listed), names)
        table = sorted(rows, key=lambda row: in_order[row["config_hash"]])
        write_table(table, workdir / f"{name}.csv")
    about = {"provenance": rundir.provenance(), "swept": names, "points": len(listed)}
    if done := [row for row in rows if row["valid_nats"] is not None]:
        about["best"] = best = min(done, key=lambda row: row["valid_nats"])
        figures.draw_sweep(done, names, workdir / f"{name}.png")
        shown = ", ".join(f"{name}={best[name]}" for name in names)
        print(f"best on validation: {shown}\n  {_bounds(best)}")
        print(f"  {workdir / 'points' / best['config_hash']}")
        print(f"figure: {workdir / f'{name}.png'}")
    rundir.write_atomically(workdir / f"{name}.json", json.dumps(about, indent=1) + "\n")
    print(f"table: {workdir / f'{name}.csv'}")
    return outcomes


if __name__ == "__main__":
    app.run(main)
