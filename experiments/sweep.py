"""Run many experiments: ``python -m experiments.sweep --sweep=configs/sweeps/annealing.py:digits``.

    python -m experiments.sweep --config=configs/cat_vae.py:digits \\
        --grid temperature.rate=1e-5,1e-4 --grid seed=0,1,2

A sweep file lists points, each a config with some fields overridden (``configs/sweeps``). A point's
folder is named by the hash of its resolved config, so the same command resumes the sweep: finished
points are skipped, others resume from their checkpoint. A killed run is started
again; a point that fails is reported with its error and does not end the sweep. ``--grid`` varies
the fields of one config, or of every point of a sweep file.

The outcome is by configuration, all that is swept but the seed: mean and standard error on
validation, the best one with its test metrics, and those that cannot be distinguished from it.
``sweep.csv`` has a row for each run and, below, for each configuration, and is written anew after
each run; a figure over the swept fields comes at the end. Points whose temperature or slope is the
same at every step of the run are one run: it is trained once, and ``same_run_as`` in the table
names it.

Points that differ in seeds and float settings only can share a program, with ``vmap`` over them
(``--together``): the way of accelerators. On CPUs one process per core, each pinned to its core, is
faster (measured by ``scripts.bench``). ``--backend`` says where they run: in this process, in
worker processes, or on a cluster through Ray.

A sweep file that names fields in ``PILOT`` can be run as ``--pilot_steps=20000``: every point of
the first seed runs that long, without a look at the test set, and of the points that differ in
these fields only, the best on validation alone (all that are equally good) is run in full, with all
its seeds.

``--search temperature.rate=1e-6:1e-3:log --trials=30`` proposes the points of one config instead,
each batch by what validation said of the earlier ones (Optuna). The folders are a sweep's.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags

from experiments import data
from experiments.running import command_line
from experiments.running.run_folder import lock
from experiments.running.terminal import say, waiting
from experiments.sweeping import jobs, outcomes, points, search, workers
from experiments.sweeping.jobs import Outcome
from experiments.tasks.checks import ConfigError

_SWEEP = flags.DEFINE_string("sweep", None, "Sweep file, with its argument.")
_CONFIG = flags.DEFINE_string("config", None, "In its place, a config file, with its argument.")
_GRID = flags.DEFINE_multi_string(
    "grid", [], "FIELD=VALUE,VALUE: an axis of the sweep; may be repeated. One value sets a field."
)
_SEARCH = flags.DEFINE_multi_string(
    "search", [],
    "FIELD=LOW:HIGH, FIELD=LOW:HIGH:log or FIELD=VALUE,VALUE: a field of a Bayesian search on "
    "validation; may be repeated. --grid with one value sets a field beside it.",
)  # fmt: skip
_TRIALS = flags.DEFINE_integer("trials", 20, "Points of a --search.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder; default: runs/sweep-FILE-ARGUMENT-FIELDS.")
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
_OPEN_RAY = flags.DEFINE_bool(
    "start_open_ray", False,
    "With --backend=ray, no $RAY_ADDRESS: start a Ray of this machine alone, some of whose ports "
    "listen on all network interfaces.",
)  # fmt: skip
_SHARE = flags.DEFINE_string(
    "share", None,
    "I/N: train share I, from 0, of N shares of the sweep only, as task I of a cluster's array of "
    "N tasks; the same command without it then writes the outcome of all.",
)  # fmt: skip
_RETRIES = flags.DEFINE_integer(
    "retries", 2, "Times that a killed job is started again.", lower_bound=0
)


def main() -> None:
    named = _SWEEP.value or _CONFIG.value
    if not named or (_SWEEP.value and _CONFIG.value):
        raise ConfigError("name one sweep file, --sweep=FILE, or one config, --config=FILE --grid")
    if _SEARCH.value and not (_CONFIG.value and _SHARE.value is None):
        raise ConfigError("--search needs --config=FILE, and chooses its own points: no --share")
    if _CONFIG.value and not _GRID.value and not _SEARCH.value:
        raise ConfigError("--config needs the fields to vary: --grid temperature.rate=1e-5,1e-4")
    with waiting("reading the points"):
        sweep = points.load_sweep(named, _NUM_STEPS.value, _GRID.value)
    if _PILOT_STEPS.value and not sweep.pilot:
        raise ConfigError(f"--pilot_steps: {named} names no fields in PILOT")
    full, name = sweep.points, "sweep"
    if _SHARE.value is not None:
        if _PILOT_STEPS.value:
            raise ConfigError("--share: pilots choose among all points; run them without --share")
        full, name = _share(_SHARE.value, full)
    place = _place()
    path, _, argument = named.partition(":")
    varied = [axis.partition("=")[0] for axis in (*_SEARCH.value, *_GRID.value)]
    space = search.space(_SEARCH.value, sweep.points[0].config) if _SEARCH.value else {}
    if both := sorted(space.keys() & {axis.partition("=")[0] for axis in _GRID.value}):
        raise ConfigError(f"{both[0]} is in both --search and --grid; give it once")
    if space and len(sweep.points) > 1:
        raise ConfigError("--search: give --grid one value for each field")
    default = "-".join(filter(None, ("sweep", Path(path).stem, argument, *varied)))
    workdir = Path(_WORKDIR.value or f"runs/{default}")
    if not isinstance(place, workers.RayWorkers):  # machines of a cluster have their own
        _find_data(
            [one for one in full if not (jobs.folder(workdir, one) / "result.json").exists()]
        )
    workdir.mkdir(parents=True, exist_ok=True)
    # Held to the end: two sweeps would take each other's runs for failed ones.
    lock_file = workdir / f".lock{'' if name == 'sweep' else '-' + name}"
    held = lock(lock_file, f"runs a sweep in {workdir}; wait, or choose another --workdir")
    together = _TOGETHER.value or (64 if _accelerated(place) else 1)
    run = functools.partial(
        outcomes.run, workdir=workdir, place=place, together=together, retries=_RETRIES.value
    )
    failed = 0
    try:
        if _PILOT_STEPS.value:
            short = points.pilots(sweep, _PILOT_STEPS.value)
            ended = run(short, name="pilots")
            failed += sum(one.result is None for one in ended)
            costs = {
                points.pilot_key(sweep, one.point): cost
                for one in ended
                if (cost := outcomes.cost(one)) is not None
            }
            full = points.chosen(sweep, costs)
            if not full:
                sys.exit(f"all {len(short)} pilots failed; logs in {workdir / 'logs'}")
        if space:
            train = functools.partial(
                outcomes.each, workdir=workdir, place=place, together=together,
                retries=_RETRIES.value,
            )  # fmt: skip
            at_once = place.number if place else together
            full = _search(space, sweep.points[0], at_once, train)
        ended = run(full, name=name)
    except KeyboardInterrupt:
        say("the same command resumes the sweep")
        sys.exit(130)
    if held is not None:
        held.close()
    if failed := failed + sum(one.result is None for one in ended):
        sys.exit(f"{failed} points failed; logs in {workdir / 'logs'}")


def _find_data(listed: Sequence[points.Point]) -> None:
    """Report a dataset that is not there once, before any run, and download what can be."""
    configs = [point.config for point in listed if "data" in point.config]
    for name, folder in sorted({(one.data.name, one.data.dir) for one in configs}):
        with waiting(f"loading {name}"):
            data.load(name, folder or None)


def _search(
    space: search.Space,
    base: points.Point,
    at_once: int,
    train: Callable[[list[points.Point]], Iterator[Outcome]],
) -> list[points.Point]:
    """Train the points of a search, and list them."""

    proposed: list[points.Point] = []
    of_run: dict[str, float | None] = {}

    def costs(batch: list[points.Point]) -> list[float | None]:
        proposed.extend(batch)
        first = {point.hash: same[0] for same in points.runs(proposed) for point in same}
        runs = {first[point.hash].hash: first[point.hash] for point in batch}
        new = [run for name, run in runs.items() if name not in of_run]
        of_run.update((one.point.hash, outcomes.cost(one)) for one in train(new))
        ends = [of_run[first[point.hash].hash] for point in batch]
        for point, end in zip(batch, ends, strict=True):
            what = ", ".join(f"{name}={point.field(name)}" for name in space)
            say(f"{what}: {'failed' if end is None else f'{end:.6g}'}")
        return ends

    return list(search.propose(space, base.overrides, _TRIALS.value, at_once, costs))


def _share(share: str, listed: list[points.Point]) -> tuple[list[points.Point], str]:
    """The points of share I of N, and the name of its outcome. Raises ConfigError."""
    index, _, number = share.partition("/")
    # Points that are the same run stay together.
    runs = points.runs(listed)
    if not (index.isdecimal() and number.isdecimal() and int(index) < int(number)):
        raise ConfigError(f"--share must be I/N with I from 0 to N - 1, such as 0/8; got {share!r}")
    if int(index) >= len(runs):
        raise ConfigError(
            f"--share={share}: the sweep has {len(runs)} runs; nothing is left for it"
        )
    mine = [point for same in runs[int(index) :: int(number)] for point in same]
    return mine, f"sweep-{index}-of-{number}"


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
    if not os.environ.get("RAY_ADDRESS") and not _OPEN_RAY.value:
        raise ConfigError(
            "--backend=ray: set $RAY_ADDRESS to a cluster. Without it a Ray of this machine alone "
            "would be started, which opens ports of its control store, raylet, object manager and "
            "workers on all network interfaces: --start_open_ray permits that"
        )
    try:
        return workers.RayWorkers(_WORKERS.value)
    except ImportError:
        raise ConfigError("--backend=ray needs Ray: install the extra gsm-jax[sweep]") from None
    except ConnectionError as error:
        raise ConfigError(f"--backend=ray: {error}") from None


def _accelerated(place: workers.Workers | None) -> bool:
    return place.accelerated if place else _devices()[0] != "cpu"


def _devices() -> tuple[str, int]:
    """Platform and number of jax's devices, asked in a process of its own: this one must not hold
    the memory of an accelerator that the workers need."""
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if told.returncode:
        reason = (told.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"jax finds no device: {reason}")
    platform, number = told.stdout.split()
    return platform, int(number)


if __name__ == "__main__":
    command_line.run(main)
