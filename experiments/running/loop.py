"""The host's side of training: scans of many steps, and between them logs, metrics, checkpoints.

A run, or several in one program, each in a folder of its own from which it resumes if it was
stopped. Nothing here knows a task, an estimator or a metric by name.
"""

import contextlib
import functools
import math
import operator
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from ml_collections import ConfigDict

from experiments import data, tasks
from experiments.running import config as configuration
from experiments.running import devices, training
from experiments.running.checkpoints import Checkpoints
from experiments.running.evaluation import evaluate
from experiments.running.interrupts import StopRequest
from experiments.running.run_folder import (
    Events,
    RunFolder,
    read_checkpoint,
    read_config,
)
from experiments.running.terminal import Progress, say, waiting
from experiments.running.training import Program, TrainState
from experiments.storage.errors import RecordError
from experiments.tasks.base import Metric, Params, Settings, Task
from experiments.tasks.checks import ConfigError, fields
from gsm import learned

# A run has diverged whose metric is this many times that of a model that knows nothing. Models
# start at half of it or less; a hundred times the usual learning rate brought no VAE to twice it.
_DIVERGED = 10

# A signal is answered between two scans, or within an evaluation: none takes much longer than this.
_SECONDS_OF_A_SCAN = 2

# Keys of what is not training, apart from every seed's own: evaluation draws the same in all runs.
_KEY_VALID, _KEY_TEST, _KEY_PICTURES = 1, 2, 3


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the message says where the run is saved and how to resume it."""


class Diverged(Exception):
    """A loss or metric is not finite, or far worse than a guess; the message names the step."""


class _Stopped(Exception):
    """A signal came before a row was complete: what was done since the last one is left out."""


class Experiment(NamedTuple):
    """A configuration made into functions and arrays."""

    config: ConfigDict
    task: Task
    program: Program
    settings: Settings

    @property
    def select(self) -> Metric:
        """The metric on validation that chooses."""
        return self.task.held_out["valid"].metrics[self.config.select]


def load_dataset(config: ConfigDict) -> Any:
    """The dataset of a checked configuration; None of a task without one."""
    if "data" not in config:
        return None
    with waiting(f"loading {config.data.name}"):
        return data.load(config.data.name, config.data.dir or None)


def build(config: ConfigDict, dataset: Any, shared: Experiment | None = None) -> Experiment:
    """The experiment of a checked configuration.

    Args:
      config: the configuration.
      dataset: from :func:`load_dataset`.
      shared: an experiment whose config differs in the seed and in traced fields only; its arrays
        and compiled functions then serve this one too.
    """
    devices.keep_float32()
    mesh = devices.mesh_of(config)
    settings = devices.place(mesh, training.settings_of(config))
    task = tasks.find(config.task).build(config, dataset)
    if shared is not None:
        program = shared.program._replace(init=task.init)  # learned parts start from the settings
        return Experiment(config, shared.task, program, settings)
    on_device = {
        name: split._replace(examples=devices.place(mesh, split.examples))
        for name, split in task.held_out.items()
    }
    task = task._replace(train=devices.place(mesh, task.train), held_out=on_device)
    return Experiment(config, task, training.program_of(config, task, mesh), settings)


def check_memory(experiment: Experiment) -> None:
    """Raise ConfigError for a model or a minibatch that cannot fit into the memory.

    By the shapes alone, and from below: what fits here may still be too large, but sizes that are
    mistakes are named at once, not after minutes of allocation.
    """
    config = experiment.config
    params = jax.tree.leaves(jax.eval_shape(experiment.program.init, random.key(0)))
    parameters = sum(math.prod(leaf.shape) for leaf in params)
    examples = jax.tree.leaves(experiment.task.train)
    numbers = config.batch_size * sum(math.prod(one.shape[1:]) for one in examples)
    # Parameters and momentum before and after a step, the gradient, the best ones so far; the
    # minibatch and its gradient.
    needed = 4 * (6 * parameters + 2 * numbers)
    available = memory_available()
    if available is not None and needed > available:
        raise ConfigError(
            f"{parameters:,} parameters and minibatches of {config.batch_size:,} examples need at "
            f"least {needed / 1e9:,.1f} GB of memory; {available / 1e9:,.1f} GB are available. "
            "Lower the sizes in config.model, or config.batch_size"
        )


def memory_available() -> int | None:
    """Bytes that the device can still give; None where that is not known."""
    if stats := jax.local_devices()[0].memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Run or resume the experiment of a checked config in a folder; returns its result.

    Raises:
      Interrupted: a signal came; the state is saved.
      Diverged: names the step; the last good checkpoint is kept.
      DataError, RecordError: the data or the folder cannot serve.
    """
    (outcome,) = train_together([config], [workdir])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def train_together(
    configs: Sequence[ConfigDict], workdirs: Sequence[Path], patience: float = 0
) -> list[dict[str, Any] | Diverged | RecordError]:
    """Runs that differ in seeds and traced fields, in one program with ``vmap`` over them.

    Each has its own folder, as if it were alone, and its own end: one that fails does not stop the
    others.

    Args:
      configs: checked configs; equal but for "seed" and ``base.traced_fields``.
      workdirs: folder of each.
      patience: seconds to wait for another process to leave a folder.

    Returns:
      The result of each, or the error it ended with.

    Raises:
      Interrupted: a signal came; all states are saved.
      DataError: the data cannot serve.
      devices.PeerLost: another process of the run has ended.
    """
    # Data first: no folder is left behind for a dataset that does not exist.
    dataset = load_dataset(configs[0])
    outcomes: list[Any] = [None] * len(configs)
    members: list[_Member] = []
    shared: Experiment | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(devices.peer_lost())
        for place, (config, workdir) in enumerate(zip(configs, workdirs, strict=True)):
            try:
                # Before the folder: the task may find that the data cannot serve it.
                with waiting("building the model"):
                    built = build(config, dataset, shared)
                check_memory(built)
                identity = configuration.identity(config)
                run = _by_first(RunFolder, workdir, identity, dict(fields(config)), patience)
                if run is not None:
                    stack.enter_context(run)
                if (result := _complete(run)) is not None:
                    _say(f"{workdir} is finished; remove it, or choose another --workdir, to run "
                         "again")  # fmt: skip
                    outcomes[place] = result
                    continue
                shared = built
                with waiting("preparing the parameters, or restoring a checkpoint"):
                    members.append(stack.enter_context(_Member(place, built, workdir, run)))
            except RecordError as error:
                outcomes[place] = error
        with StopRequest("stopping: the run saves its state ...") as stop:
            _fit(members, stop)
            for member in members:
                try:
                    outcomes[member.place] = member.error or _finish(member, stop)
                except Diverged as error:
                    outcomes[member.place] = error
    return outcomes


# --- the loop --------------------------------------------------------------------------------


class _Member:
    """One run in progress: its folder, its state, its clock, its best parameters.

    Args:
      place: among the runs of the program.
      experiment: what is run.
      path: of the folder.
      run: the folder; None in a process that is not the first.
    """

    def __init__(self, place: int, experiment: Experiment, path: Path, run: RunFolder | None):
        self.place, self.experiment, self.path, self.run = place, experiment, path, run
        self.config, self.task = experiment.config, experiment.task
        self.state, self.best = _restore(experiment, run)
        self.error: Diverged | None = None
        rows = run.rows() if run else []
        self._train_seconds, self._seconds = (
            rows[-1][name] if rows else 0.0 for name in ("train_seconds", "seconds")
        )
        self.selected = f"valid/{self.config.select}"
        evaluated = (row[self.selected] for row in reversed(rows) if self.selected in row)
        self._value: float | None = next(evaluated, None)
        self._evaluated: set[str] = set()
        self._start = time.perf_counter()
        self._events = Events(path) if run else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events:
            self._events.close()

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state.step)

    def record(
        self, state: TrainState, losses: np.ndarray, seconds: float, stop: StopRequest
    ) -> dict[str, Any]:
        """Take over the results of an interval: check them, evaluate where it is due, log and save.

        Raises:
          Diverged: a loss or a metric is not finite, or far worse than a guess.
          _Stopped: a signal came during the evaluation; all is as it was before the interval.
        """
        if not np.isfinite(losses).all():
            first = int(np.argmin(np.isfinite(losses)))
            reason = f"the loss of step {self.step + first + 1:,} is not finite ({losses[first]})"
            raise self.diverged(reason)
        step, config = int(state.step), self.config
        hyperparams = self.experiment.program.hyperparams(state.step - 1, self.experiment.settings)
        row: dict[str, Any] = {
            "step": step,
            "loss": float(losses.mean(dtype=np.float64)),
            "temperature": float(hyperparams.temperature),
            **{
                f"learned/{name}": float(value)
                for name, value in learned.summary(state.params["estimator"]).items()
            },
            "steps_per_second": len(losses) / seconds,
            "train_seconds": self._train_seconds + seconds,
        }
        evaluates = step % config.eval_every == 0 or step == config.num_steps
        if evaluates:
            row |= self._evaluate(state.params, step, stop)
        self.state = state
        self._train_seconds += seconds
        if evaluates:
            self._value = value = row[self.selected]
            # As it is kept: of two that are equal the first stays.
            kept = float(np.float32(value)), float(self.best["value"])
            if _better(self.experiment.select, *kept):
                self.best = {
                    "params": state.params, "step": state.step, "value": jnp.float32(value)
                }  # fmt: skip
        row["seconds"] = self._seconds + time.perf_counter() - self._start
        # Before its checkpoint: a checkpoint always has its row.
        _by_first(RunFolder.append, self.run, row)
        if evaluates:
            self.save()
        if self._events:
            self._events.add(row)
        return row

    def save(self) -> None:
        """Save the state, unless that of this step is saved."""
        if self.step:
            tree = devices.local({"state": self.state._asdict(), "best": self.best})
            _by_first(RunFolder.save, self.run, self.step, tree)

    def check(self, metrics: Any, means: dict[str, float], split: str, step: int) -> None:
        """Raise Diverged if a metric shows that the parameters are of no use."""
        for name, mean in means.items():
            guess = metrics[name].guess
            what = f"{split}/{name} at step {step:,}"
            if not np.isfinite(mean):  # steps of finite loss can break the parameters
                raise self.diverged(f"{what} is not finite ({mean})")
            if guess is not None and mean > _DIVERGED * guess:
                limit = f"{_DIVERGED} times the {guess:.1f} of a uniform guess"
                raise self.diverged(
                    f"{what} is {mean:.4g}, more than {limit}: training has diverged"
                )

    def diverged(self, reason: str) -> Diverged:
        """The error of a run whose parameters are of no use."""
        kept = next(iter(self.run.checkpoints.steps()), None) if self.run else None
        return Diverged(
            f"{reason}. "
            + (f"The checkpoint of step {kept:,} is kept" if kept else "No checkpoint yet")
            + f" in {self.path}. Try a smaller --config.optimizer.learning_rate"
        )

    def _evaluate(self, params: Params, step: int, stop: StopRequest) -> dict[str, float]:
        """All metrics that are measured along training."""

        def between(name, left, seconds):
            if devices.any_of(stop.made):
                raise _Stopped

        row: dict[str, float] = {}
        for name, split in self.task.held_out.items():
            if name == "test":
                continue
            key = random.key(_KEY_VALID if name == "valid" else _KEY_TEST)
            first = name not in self._evaluated  # later ones take as long, less the compilation
            self._evaluated.add(name)
            what = waiting(f"compiling the evaluation on {name}, and measuring")
            mesh = self.experiment.program.mesh
            with what if first else contextlib.nullcontext():
                means = evaluate(split.metrics, params, key, split.examples, between, mesh)
            self.check(split.metrics, means, name, step)
            row |= {f"{name}/{metric}": mean for metric, mean in means.items()}
        return row

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """The numbers of the progress line."""
        numbers = {"loss": f"{row['loss']:.2f}", "temperature": f"{row['temperature']:.3f}"}
        return numbers if self._value is None else numbers | {self.selected: f"{self._value:.4g}"}


def _fit(members: Sequence[_Member], stop: StopRequest) -> None:
    """Train to the last step; a member that fails is left where it was, with its error."""
    if not members:
        return
    num_steps = members[0].config.num_steps
    scans = _Scans(members[0].experiment.program, members[0].task.train)
    progress = (
        Progress(min(member.step for member in members), num_steps) if devices.is_first() else None
    )
    try:
        while going := [m for m in members if m.error is None and m.step < num_steps]:
            # Members that were interrupted at other steps than the others catch up first.
            step = min(member.step for member in going)
            front = [member for member in going if member.step == step]
            settings, states = [m.experiment.settings for m in front], [m.state for m in front]
            try:
                done = scans.run(_scan_length(front[0].config, step), settings, states, stop)
                stop.unsaved = True  # until now a signal ended the process: nothing was lost
                for member, state, losses in zip(front, done.states, done.losses, strict=True):
                    try:
                        row = member.record(state, losses, done.seconds, stop)
                    except Diverged as error:
                        member.error = error
                    else:
                        speed = row["steps_per_second"] * len(front)
                        if progress:
                            progress.show(member.step, member.shown(row), speed)
            except _Stopped:
                stop.made = True
            if devices.any_of(stop.made) and (
                left := [member for member in members if member.error is None]
            ):
                for member in left:
                    member.save()
                raise _interrupted(min(member.step for member in left))
    finally:
        if progress:
            progress.close()


class _Done(NamedTuple):
    """An interval of members at the same step."""

    states: list[TrainState]
    losses: list[np.ndarray]
    seconds: float


class _Scans:
    """The compiled scans of a program; an interval between two rows is one of them, or several."""

    def __init__(self, program: Program, train: Any):
        self._program, self._train = program, train
        self._compiled: dict[tuple[int, int], Any] = {}
        self._longest: int | None = None  # steps, known from the first interval

    def run(
        self,
        num_steps: int,
        settings: list[Settings],
        states: list[TrainState],
        stop: StopRequest,
    ) -> _Done:
        """Advance members by ``num_steps``.

        Raises:
          _Stopped: a signal came between two scans.
        """
        number = -(-num_steps // min(num_steps, self._longest or num_steps))
        lengths = [(i + 1) * num_steps // number - i * num_steps // number for i in range(number)]
        scans = [self._scan(length, settings, states) for length in lengths]
        losses: list[list[np.ndarray]] = [[] for _ in states]
        start = time.perf_counter()
        for scan in scans:
            if losses[0] and devices.any_of(stop.made):
                raise _Stopped
            scanned = scan(self._train, settings, states)
            states = [state for state, _ in scanned]
            for of_member, (_, piece) in zip(losses, scanned, strict=True):
                of_member.append(np.asarray(piece))
        seconds = time.perf_counter() - start
        if self._longest is None:
            # The same in all processes.
            self._longest = devices.of_first(max(1, int(num_steps * _SECONDS_OF_A_SCAN / seconds)))
        return _Done(states, [np.concatenate(pieces) for pieces in losses], seconds)

    def _scan(self, length: int, settings: list[Settings], states: list[TrainState]) -> Any:
        if (form := (length, len(states))) not in self._compiled:
            mesh = self._program.mesh
            interval = jax.jit(
                functools.partial(_interval, self._program, length),
                out_shardings=None if mesh is None else devices.replicated(mesh),
            )
            with waiting(f"compiling a scan of {length:,} training steps"):
                lowered = interval.lower(self._train, settings, states)
                self._compiled[form] = lowered.compile()
        return self._compiled[form]


def _interval(
    program: Program, num_steps: int, train: Any, settings: list[Any], states: list[Any]
) -> list[tuple[TrainState, jax.Array]]:
    """One scan of members at the same step: their states and losses after it."""
    mesh = program.mesh
    if len(states) == 1:
        return [training.run_interval(program, num_steps, train, *settings, *states)]
    stacked = [jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (settings, states)]
    if mesh is not None and len(states) % mesh.size == 0:  # whole runs on each device
        stacked = jax.lax.with_sharding_constraint(stacked, devices.divided(mesh))
        program = program._replace(mesh=None)
    scan = functools.partial(training.run_interval, program, num_steps, train)
    state, losses = jax.vmap(scan)(*stacked)
    state = state._replace(key=random.clone(state.key))  # used again, with the next step folded in
    return [jax.tree.map(operator.itemgetter(i), (state, losses)) for i in range(len(states))]


def trained(workdir: Path) -> tuple[Experiment, Params]:
    """The experiment of a run and the parameters that it kept, its folder untouched.

    Raises:
      DataError, RecordError, ConfigError: the data or the folder cannot serve.
    """
    values = read_config(workdir) | {"mesh.data": 1}  # wherever it was trained
    config = configuration.from_fields(values)
    experiment = build(config, load_dataset(config))
    state, best = _initial(experiment)
    kept = read_checkpoint(workdir, {"state": state._asdict(), "best": best})
    return experiment, kept["best" if config.keep == "best" else "state"]["params"]


def _scan_length(config: ConfigDict, step: int) -> int:
    """Steps from ``step`` to the next row: no scan crosses a logging or an evaluation step."""
    ends = [(step // every + 1) * every for every in (config.log_every, config.eval_every)]
    return min(*ends, config.num_steps) - step


def _initial(experiment: Experiment) -> tuple[TrainState, dict[str, Any]]:
    """State and best parameters at step 0."""
    state = training.init_state(experiment.program, random.key(experiment.config.seed))
    worst = -jnp.inf if experiment.select.maximize else jnp.inf
    return state, {
        "params": state.params, "step": jnp.int32(0), "value": jnp.float32(worst)
    }  # fmt: skip


def _restore(experiment: Experiment, run: RunFolder | None) -> tuple[TrainState, dict[str, Any]]:
    """State and best parameters of the last checkpoint, or of step 0; later rows are dropped."""
    state, best = _initial(experiment)
    tree = {"state": state._asdict(), "best": best}
    restored = _by_first(RunFolder.resume, run, tree)
    if devices.of_first(restored is not None):
        tree = devices.tree_of_first(tree if restored is None else restored)
    tree = devices.place(experiment.program.mesh, tree)
    state, best = TrainState(**tree["state"]), tree["best"]
    if step := int(state.step):
        _say(f"resuming at step {step:,} of {experiment.config.num_steps:,}")
    if step < experiment.config.num_steps:
        # The two that are kept, and one that is being written.
        _by_first(Checkpoints.check_space, run and run.checkpoints, devices.local(tree), 3)
    return state, best


def _by_first(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in the first process, which alone calls it; None in the others.

    Raises:
      RecordError: in all processes, what the function raises in the first one.
    """
    value, message = None, None
    if devices.is_first():
        try:
            value = function(*arguments)
        except (RecordError, OSError) as error:
            if not devices.several_processes():
                raise
            message = str(error)
    if (message := devices.of_first(message)) is not None:
        raise RecordError(message)
    return value


def _say(text: str) -> None:
    if devices.is_first():
        say(text)


def _interrupted(step: int) -> Interrupted:
    if not step:
        return Interrupted("stopped before the first row; the same command starts the run anew")
    return Interrupted(f"saved at step {step:,}; the same command resumes the run")


def _better(metric: Metric, value: float, than: float) -> bool:
    return value > than if metric.maximize else value < than


# --- the end of a run ------------------------------------------------------------------------


def _finish(member: _Member, stop: StopRequest) -> dict[str, Any]:
    """Measure the chosen parameters on the test set, write the result, then draw the figures.

    Where they are not those of the last step, these are measured too: what overfitting costs.
    """
    config, task, state = member.config, member.task, member.state
    start = time.perf_counter()
    params, step = state.params, member.step
    if config.keep == "best":
        params, step = member.best["params"], int(member.best["step"])
    measured = {"test": (params, step)}
    if step != member.step:
        measured["last"] = (state.params, member.step)

    def between(name, left, seconds):
        if devices.any_of(stop.made):
            raise _interrupted(config.num_steps)
        if seconds and left * seconds > 2 and not announced:
            announced.append(name)
            _say(f"test/{name}: about {len(measured) * left * seconds:.0f} s")

    announced: list[str] = []
    tested: dict[str, float] = {}
    for which, (of_step, at) in measured.items() if "test" in task.held_out else ():
        split = task.held_out["test"]
        key, mesh = random.key(_KEY_TEST), member.experiment.program.mesh
        with waiting("measuring on the test set"):
            means = evaluate(split.metrics, of_step, key, split.examples, between, mesh)
        if which == "test":
            member.check(split.metrics, means, "test", at)
        tested |= {f"{which}/{name}": mean for name, mean in means.items()}
    test_seconds = time.perf_counter() - start
    result = devices.of_first(_by_first(_write_result, member, tested, test_seconds, step))
    stop.unsaved = False  # from here on a signal ends the process: figures are drawn by the next
    if devices.any_of(stop.made):
        raise _interrupted(config.num_steps)
    with waiting("drawing the figures"):
        _by_first(_draw, member, result, devices.local(params))
    return result


def _complete(run: RunFolder | None) -> dict[str, Any] | None:
    """The result of a run with nothing left to do, else None."""
    return devices.of_first(run.result() if run and run.is_complete() else None)


def _write_result(
    member: _Member, tested: dict[str, float], test_seconds: float, step: int
) -> dict[str, Any]:
    """Write the result of the parameters of a step; returns it."""
    config, run = member.config, member.run
    assert run is not None
    rows = run.rows()
    of_step = next((row for row in rows if row["step"] == step), {})
    result = {
        **tested,
        **{name: value for name, value in of_step.items() if name.startswith("valid/")},
        "train/loss": rows[-1]["loss"],  # of the last config.log_every steps
        "maximize": member.experiment.select.maximize,  # the metric that config.select names
        "selected_step": step,
        "steps": member.step,
        "steps_per_second": member.step / rows[-1]["train_seconds"],
        "test_seconds": test_seconds,
        "seconds": rows[-1]["seconds"] + test_seconds,
        "estimator": config.estimator,
        "dataset": config.data.name if "data" in config else None,
        "seed": config.seed,
        "config_hash": configuration.config_hash(config),
    }
    run.write_result(result)
    return result


def _draw(member: _Member, result: dict[str, Any], params: Params) -> None:
    from experiments import figures  # matplotlib takes a second to import

    assert member.run is not None
    pictures = member.task.pictures(params, random.key(_KEY_PICTURES))
    with member.run.drawing() as folder:
        figures.draw_run(member.run.rows(), result, pictures, folder)
