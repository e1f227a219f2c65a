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
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments import config as configuration
from experiments import figures, jobs, points, rundir, workers
from experiments.config import ConfigError
from experiments.console import say
from experiments.jobs import Outcome
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


# --- reporting -------------------------------------------------------------------------------


def row_of(outcome: Outcome, names: Sequence[str], maximize: str = "") -> dict[str, Any]:
    """A row of the table: the swept fields, then how it ended."""
    point, result = outcome.point, outcome.result or {}
    return {
        **{name: point.field(name) for name in names},
        **({maximize: result.get(maximize)} if maximize else {}),
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


def cost(outcome: Outcome, maximize: str) -> float | None:
    """What choices minimise: the negative validation bound, or minus the measure named.

    None of a point that failed.

    Raises:
      ConfigError: its result has no such measure.
    """
    if not maximize or outcome.result is None:
        return valid_nats(outcome)
    if maximize not in outcome.result:
        raise ConfigError(f"MAXIMIZE: the result of a point has no {maximize!r}")
    return -outcome.result[maximize]


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
            outcomes = _run_and_tell(short, place, workdir, "pilots", sweep.maximize)
            failed += sum(outcome.result is None for outcome in outcomes)
            costs = {
                points.pilot_key(sweep, one.point): cost(one, sweep.maximize) for one in outcomes
            }
            full = points.chosen(sweep, {k: v for k, v in costs.items() if v is not None})
            if not full:
                sys.exit(f"all {len(short)} pilots failed; logs in {workdir / 'logs'}")
        outcomes = _run_and_tell(full, place, workdir, "sweep", sweep.maximize)
    except ConfigError as error:
        sys.exit(f"error: {error}")
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
        platform, number = _devices()
        if platform == "cpu" and hasattr(os, "sched_getaffinity"):
            number = len(os.sched_getaffinity(0))
        elif platform == "cpu":
            number = os.cpu_count() or 1
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(number))))
        gpus = visible.split(",") if platform == "gpu" else ()
        # Of other accelerators one process has all.
        number = number if platform in ("cpu", "gpu") else 1
        return workers.LocalWorkers(_WORKERS.value or number, gpus, platform != "cpu")
    try:
        return workers.RayWorkers(_WORKERS.value)
    except ImportError:
        raise ConfigError("--backend=ray needs Ray: install the extra gsm[sweep]") from None
    except ConnectionError as error:
        raise ConfigError(f"--backend=ray: {error}") from None


def _devices() -> tuple[str, int]:
    """Platform and number of jax's devices, asked in a process of its own: this one must not hold
    the memory of an accelerator that the workers need."""
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    platform, number = told.stdout.split()
    return platform, int(number)


def _run_and_tell(
    listed: Sequence[Point],
    place: workers.Workers | None,
    workdir: Path,
    name: str,
    maximize: str,
) -> list[Outcome]:
    """Run points; table ``NAME.csv``, figure ``NAME.png``, best point and ``NAME.json``."""
    names = points.swept(listed)
    number = f", {place.number} at a time" if place else ""
    say(f"{name}: {len(listed)} points{number}, in {workdir}")
    found = [(point, jobs.result_of(workdir, point)) for point in listed]
    accelerated = place.accelerated if place else _devices()[0] != "cpu"
    together = _TOGETHER.value or (64 if accelerated else 1)
    waiting = list(points.jobs([point for point, result in found if result is None], together))
    going = (
        jobs.run(waiting, workdir, place, _RETRIES.value)
        if place
        else jobs.run_here(waiting, workdir)
    )
    finished = (Outcome(point, result) for point, result in found if result is not None)
    in_order = {point.hash: i for i, point in enumerate(listed)}
    outcomes: list[Outcome] = []
    rows: list[dict[str, Any]] = []
    for outcome in itertools.chain(finished, going):
        outcomes.append(outcome)
        rows.append(row_of(outcome, names, maximize))
        _tell(rows, len(listed), names)
        table = sorted(rows, key=lambda row: in_order[row["config_hash"]])
        write_table(table, workdir / f"{name}.csv")
    about = {"provenance": rundir.provenance(), "swept": names, "points": len(listed)}
    if done := [row for row in rows if row["valid_nats"] is not None]:
        costs = {one.point.hash: cost(one, maximize) or 0.0 for one in outcomes}
        about["best"] = best = min(done, key=lambda row: costs[row["config_hash"]])
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
