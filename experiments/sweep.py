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
_PILOT_STEPS = flags.DEFINE_integer(
    "pilot_steps", 0, "Steps of the pilot runs that choose the fields in PILOT; 0: no pilots.",
    lower_bound=0,
)  # fmt: skip
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


class Sweep(NamedTuple):
    """What a sweep file says."""

    points: list[Point]
    pilot: tuple[str, ...]
    """The fields that pilot runs may choose."""


def load_sweep(named: str, num_steps: int = 0) -> Sweep:
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
            point = resolve(overrides | ({"num_steps": num_steps} if num_steps else {}))
        except (ConfigError, TypeError, KeyError) as error:
            raise ConfigError(f"point {number} of {path}: {error}") from None
        points.setdefault(point.hash, point)
    return Sweep(list(points.values()), tuple(getattr(module, "PILOT", ())))


def resolve(overrides: Mapping[str, Any]) -> Point:
    """The point of a config file and what is changed in it; raises ConfigError."""
    config = configuration.load(overrides["config"])
    known = dict(configuration.fields(config))
    changes = {name: value for name, value in overrides.items() if name != "config"}
    for name in changes:
        if name not in known:
            raise ConfigError(f"the config has no field {name!r}")
    config.update_from_flattened_dict(changes)
    config = configuration.check(config)
    samples = (config.evaluation.valid_samples, config.evaluation.test_samples)
    fields = dict(configuration.fields(config))
    return Point(dict(overrides), configuration.config_hash(config), fields, samples)


# --- pilots ----------------------------------------------------------------------------------


def pilots(sweep: Sweep, num_steps: int) -> list[Point]:
    """Short runs of all points of the first seed, which do not read the test set."""
    seed = sweep.points[0].fields["seed"]
    short = {"num_steps": num_steps, "eval_every": num_steps, "evaluation.test_samples": 0}
    short["evaluation.curve_images"] = 0
    return [
        resolve(point.overrides | short) for point in sweep.points if point.fields["seed"] == seed
    ]


def chosen(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[Point]:
    """The points whose values of the PILOT fields did best in the pilots of their kind.

    Args:
      sweep: all points.
      outcomes: of its pilots. A kind all of whose pilots failed is left out.
    """
    best: dict[str, Outcome] = {}
    for outcome in outcomes:
        kind, bound = _kind(sweep, outcome.point), _valid_nats(outcome)
        if bound is not None and (kind not in best or bound < _valid_nats(best[kind])):
            best[kind] = outcome

    def is_best(point: Point) -> bool:
        pilot = best.get(_kind(sweep, point))
        return pilot is not None and all(
            pilot.point.fields[name] == point.fields[name] for name in sweep.pilot
        )

    return [point for point in sweep.points if is_best(point)]


def _kind(sweep: Sweep, point: Point) -> str:
    """What points share whose PILOT fields compete."""
    names = {name for point in sweep.points for name in point.overrides}
    names -= {*sweep.pilot, "seed", "num_steps", "eval_every"}
    names = {name for name in names if not name.startswith("evaluation.")}
    return json.dumps({name: _field(point, name) for name in sorted(names)})


def _valid_nats(outcome: Outcome) -> float | None:
    return (outcome.result or {}).get(f"valid_nll_m{outcome.point.eval_samples[0]}")


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
    say(f"{len(rows)}/{total}  {what}: {row['error'] or _bounds(row)}")


def _bounds(row: Mapping[str, Any]) -> str:
    test = "" if row["test_nats"] is None else f", test {row['test_nats']:.2f}"
    return f"validation {row['valid_nats']:.2f}{test} nats"


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    try:
        sweep = load_sweep(_SWEEP.value, _NUM_STEPS.value)
        if _PILOT_STEPS.value and not sweep.pilot:
            raise ConfigError(f"--pilot_steps: {_SWEEP.value} names no fields in PILOT")
    except ConfigError as error:
        sys.exit(f"error: {error}")
    path, _, argument = _SWEEP.value.partition(":")
    default = "-".join(filter(None, ("sweep", Path(path).stem, argument)))
    workdir = Path(_WORKDIR.value or f"runs/{default}")
    workdir.mkdir(parents=True, exist_ok=True)
    points, failed = sweep.points, 0
    try:
        if _PILOT_STEPS.value:
            short = pilots(sweep, _PILOT_STEPS.value)
            outcomes = _run_and_tell(short, workdir, "pilots")
            failed += sum(outcome.result is None for outcome in outcomes)
            points = chosen(sweep, outcomes)
            if not points:
                sys.exit(f"all {len(short)} pilots failed; logs in {workdir / 'logs'}")
        outcomes = _run_and_tell(points, workdir, "sweep")
    except KeyboardInterrupt:
        say("run the same command to go on")
        sys.exit(130)
    if failed := failed + sum(outcome.result is None for outcome in outcomes):
        sys.exit(f"{failed} points failed; logs in {workdir / 'logs'}")


def _run_and_tell(points: Sequence[Point], workdir: Path, name: str) -> list[Outcome]:
    """Run points; table ``NAME.csv``, figure ``NAME.png``, best point and ``NAME.json``."""
    workers = _WORKERS.value or _default_workers()
    names = swept(points)
    say(f"{name}: {len(points)} points, {workers} at a time, in {workdir}")
    outcomes: list[Outcome] = []
    rows: list[dict[str, Any]] = []
    for outcome in run(points, workdir, workers, _RETRIES.value):
        outcomes.append(outcome)
        rows.append(row_of(outcome, names))
        _tell(rows, len(points), names)
        in_order = {point.hash: i for i, point in enumerate(points)}
        table = sorted(rows, key=lambda row: in_order[row["config_hash"]])
        write_table(table, workdir / f"{name}.csv")
    about = {"provenance": rundir.provenance(), "swept": names, "points": len(points)}
    if finished := [row for row in rows if row["valid_nats"] is not None]:
        about["best"] = best = min(finished, key=lambda row: row["valid_nats"])
        figures.draw_sweep(finished, names, workdir / f"{name}.png")
        shown = ", ".join(f"{name}={best[name]}" for name in names)
        print(f"best on validation: {shown}\n  {_bounds(best)}")
        print(f"  {_folder(workdir, Point({}, best['config_hash'], {}, (0, 0)))}")
    rundir.write_atomically(workdir / f"{name}.json", json.dumps(about, indent=1) + "\n")
    print(f"table and figure: {workdir / f'{name}.csv'}, {workdir / f'{name}.png'}")
    return outcomes


def _default_workers() -> int:
    import jax

    if jax.default_backend() != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    app.run(main)
