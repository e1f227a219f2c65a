"""The host's side of training: scans of many steps, and between them logs, bounds, checkpoints.

A run, or several in one program, each in a folder of its own from which it goes on if it was
stopped. The commands are ``experiments.train``, ``experiments.together`` and ``experiments.sweep``.
"""

import contextlib
import functools
import operator
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from ml_collections import ConfigDict

from experiments import config as configuration
from experiments import rundir, tasks
from experiments.console import Progress, StopRequest, say
from experiments.rundir import Events, RunDir, RunDirError
from gsm import data, training

# Images evaluated in one call: between calls the progress moves and Ctrl-C is heard.
_IMAGES_PER_CALL = 500

# A run has diverged whose negative bound is this many times that of a uniform guess. Models start
# at half of a guess or less; a hundred times the usual learning rate brought no VAE to twice one.
_DIVERGED = 10

# Keys of what is not training, apart from every seed's own: evaluation draws the same in all runs.
_KEY_VALID, _KEY_TEST, _KEY_PICTURES = 1, 2, 3


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the message says where the run is saved and how to go on."""


class Diverged(Exception):
    """A loss or bound is not finite, or a bound far below a guess's; the message names the step."""


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Run, or go on with, the experiment of a checked config in a folder; returns its result.

    Raises:
      Interrupted: a signal came; the state is saved.
      Diverged: names the step; the last good checkpoint is kept.
      DataError, RunDirError: the data or the folder cannot serve.
    """
    (outcome,) = train_together([config], [workdir])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def train_together(
    configs: Sequence[ConfigDict], workdirs: Sequence[Path]
) -> list[dict[str, Any] | Diverged | RunDirError]:
    """Runs that differ in seeds and float settings, in one program with ``vmap`` over them.

    Each has its own folder, as if it were alone, and its own end: one that fails does not stop the
    others.

    Args:
      configs: checked configs; equal but for "seed" and ``tasks.SETTINGS``.
      workdirs: folder of each.

    Returns:
      The result of each, or what it failed of.

    Raises:
      Interrupted: a signal came; all states are saved.
      DataError: the data cannot serve.
    """
    # Data first: no folder is left behind for a data set that is not there.
    dataset = data.load(configs[0].data.name, configs[0].data.dir or None)
    outcomes: list[Any] = [None] * len(configs)
    members: list[_Member] = []
    shared: tasks.Task | None = None
    with contextlib.ExitStack() as stack:
        for place, (config, workdir) in enumerate(zip(configs, workdirs, strict=True)):
            tasks.check(config, dataset)
            try:
                identity, fields = configuration.identity(config), configuration.fields(config)
                run = stack.enter_context(RunDir(workdir, identity, dict(fields)))
                if (result := run.result()) is not None:
                    say(f"{workdir} is finished; remove it, or choose another --workdir, to run "
                        "again")  # fmt: skip
                    outcomes[place] = result
                    continue
                shared = task = tasks.build(config, dataset, shared)
                members.append(stack.enter_context(_Member(place, config, task, run)))
            except RunDirError as error:
                outcomes[place] = error
        with StopRequest() as stop:
            _fit(members, stop)
            for member in members:
                try:
                    outcomes[member.place] = member.error or _finish(member, stop)
                except Diverged as error:
                    outcomes[member.place] = error
    return outcomes


# --- the loop --------------------------------------------------------------------------------


class _Member:
    """One run on its way: its folder, its state, its clock, its best parameters."""

    def __init__(self, place: int, config: ConfigDict, task: tasks.Task, run: RunDir):
        self.place, self.config, self.task, self.run = place, config, task, run
        self.state, self.best = _restore(config, task, run)
        self.error: Diverged | None = None
        rows = run.rows()
        self._train_seconds, self._seconds = (
            rows[-1][name] if rows else 0.0 for name in ("train_seconds", "seconds")
        )
        valid = _valid(config)
        self._bound = next((row[valid] for row in reversed(rows) if valid in row), None)
        self._start = time.perf_counter()
        self._events = Events(run.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state.step)

    def record(
        self, state: training.TrainState, losses: np.ndarray, seconds: float, stops: bool
    ) -> dict[str, Any]:
        """Take over what a scan gave: check it, evaluate where it is due, log and save.

        Raises:
          Diverged: a loss or the validation bound is not finite, or the bound far below a guess's.
        """
        if not np.isfinite(losses).all():
            first = int(np.argmin(np.isfinite(losses)))
            told = f"the loss of step {self.step + first + 1:,} is not finite ({losses[first]})"
            raise _diverged(self.run, told)
        self.state, step = state, int(state.step)
        self._train_seconds += seconds
        task, config = self.task, self.config
        row: dict[str, Any] = {
            "step": step,
            "loss": float(losses.mean(dtype=np.float64)),
            "temperature": float(
                task.program.hyperparams(state.step - 1, task.settings).temperature
            ),
            **task.learned_scalars(state.learned),
            "steps_per_second": len(losses) / seconds,
            "train_seconds": self._train_seconds,
        }
        evaluates = step % config.eval_every == 0 or step == config.num_steps
        if evaluates:
            row |= _validate(config, task, self.run, state)
            self._bound = bound = row[_valid(config)]
            if bound < float(self.best["bound"]):
                self.best = {
                    "params": state.params, "step": state.step, "bound": jnp.float32(bound)
                }  # fmt: skip
        row["seconds"] = self._seconds + time.perf_counter() - self._start
        self.run.append(row)  # before its checkpoint: a checkpoint always has its row
        if evaluates or stops:
            self.run.save(step, {"state": state._asdict(), "best": self.best})
        self._events.add(row)
        return row

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """The numbers of the progress line."""
        numbers = {"loss": f"{row['loss']:.2f}", "temperature": f"{row['temperature']:.3f}"}
        return numbers if self._bound is None else numbers | {"bound": f"{-self._bound:.2f}"}


def _fit(members: Sequence[_Member], stop: StopRequest) -> None:
    """Train to the last step; a member that fails is left where it was, with its error."""
    if not members:
        return
    num_steps = members[0].config.num_steps
    compiled: dict[tuple[int, int], Any] = {}
    progress = Progress(min(member.step for member in members), num_steps)
    try:
        while going := [m for m in members if m.error is None and m.step < num_steps]:
            # Members that were interrupted elsewhere than the others catch up first.
            step = min(member.step for member in going)
            front = [member for member in going if member.step == step]
            length = _scan_length(front[0].config, step)
            settings, states = [m.task.settings for m in front], [m.state for m in front]
            arguments = front[0].task.train, settings, states
            if (form := (length, len(front))) not in compiled:
                interval = functools.partial(_interval, front[0].task.program, length)
                compiled[form] = jax.jit(interval).lower(*arguments).compile()
            start = time.perf_counter()
            scanned = compiled[form](*arguments)
            scanned = [(state, np.asarray(losses)) for state, losses in scanned]
            seconds = time.perf_counter() - start
            stops = stop.made  # asked once: a signal after the save must wait for the next
            for member, (state, losses) in zip(front, scanned, strict=True):
                try:
                    row = member.record(state, losses, seconds, stops)
                except Diverged as error:
                    member.error = error
                else:
                    progress.show(
                        member.step, row["steps_per_second"] * len(front), member.shown(row)
                    )
            if stops and (steps := [m.step for m in members if m.error is None]):
                raise _interrupted(min(steps))
    finally:
        progress.close()


def _interval(
    program: training.Program, num_steps: int, data: Any, settings: list[Any], states: list[Any]
) -> list[tuple[training.TrainState, jax.Array]]:
    """One scan of members at the same step: their states and losses after it."""
    scan = functools.partial(training.run_interval, program, num_steps, data)
    if len(states) == 1:
        return [scan(*settings, *states)]
    stacked = (jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (settings, states))
    state, losses = jax.vmap(scan)(*stacked)
    state = state._replace(key=random.clone(state.key))  # it goes on, with the next step folded in
    return [jax.tree.map(operator.itemgetter(i), (state, losses)) for i in range(len(states))]


def trained(workdir: Path) -> tuple[tasks.Task, Any]:
    """The task of a run and the parameters that it kept, its folder untouched.

    Raises:
      DataError, RunDirError, ConfigError: the data or the folder cannot serve.
    """
    config = configuration.from_fields(rundir.read_config(workdir))
    task = tasks.build(config, data.load(config.data.name, config.data.dir or None))
    state = training.init_state(task.program, random.key(config.seed))
    best = {"params": state.params, "step": jnp.int32(0), "bound": jnp.float32(jnp.inf)}
    kept = rundir.read_checkpoint(workdir, {"state": state._asdict(), "best": best})
    return task, kept["best" if config.keep == "best" else "state"]["params"]


def _scan_length(config: ConfigDict, step: int) -> int:
    """Steps from ``step`` to the next row: no scan crosses a logging or an evaluation step."""
    ends = [(step // every + 1) * every for every in (config.log_every, config.eval_every)]
    return min(*ends, config.num_steps) - step


def _restore(
    config: ConfigDict, task: tasks.Task, run: RunDir
) -> tuple[training.TrainState, dict[str, Any]]:
    """State and best parameters of the last checkpoint, or of step 0; later rows are dropped."""
    state = training.init_state(task.program, random.key(config.seed))
    best = {"params": state.params, "step": jnp.int32(0), "bound": jnp.float32(jnp.inf)}
    if run.latest_step() is not None:
        restored = run.restore({"state": state._asdict(), "best": best})
        state, best = training.TrainState(**restored["state"]), restored["best"]
        say(f"going on at step {int(state.step):,} of {config.num_steps:,}")
    rows = run.truncate(int(state.step))
    if int(state.step) != (rows[-1]["step"] if rows else 0):
        raise RunDirError(
            f"{run.path / 'metrics.jsonl'} has lost the row of step {int(state.step):,}; remove "
            f"{run.path / 'checkpoints' / str(state.step)} to go on from the checkpoint before"
        )
    return state, best


def _interrupted(step: int) -> Interrupted:
    return Interrupted(f"saved at step {step:,}; run the same command to go on")


def _check_bound(run: RunDir, task: tasks.Task, what: str, step: int, negative: float) -> None:
    """Raise Diverged if a negative bound shows that the parameters are of no use."""
    if not np.isfinite(negative):  # steps of finite loss can break the parameters
        raise _diverged(run, f"the {what} of step {step:,} is not finite ({negative})")
    if negative > _DIVERGED * task.uniform_guess:
        guess = f"{_DIVERGED} times the {-task.uniform_guess:.1f} of a uniform guess of the pixels"
        told = f"the {what} of step {step:,} is {-negative:.4g} nats, more than {guess}"
        raise _diverged(run, f"{told}: training has diverged")


def _diverged(run: RunDir, told: str) -> Diverged:
    kept = run.latest_step()
    return Diverged(
        f"{told}. "
        + (f"The checkpoint of step {kept:,} is kept" if kept else "No checkpoint yet")
        + f" in {run.path}. Try a smaller --config.optimizer.learning_rate"
    )


# --- evaluation ------------------------------------------------------------------------------


def _valid(config: ConfigDict) -> str:
    return f"valid_nll_m{config.evaluation.valid_samples}"


def _validate(
    config: ConfigDict, task: tasks.Task, run: RunDir, state: training.TrainState
) -> dict[str, float]:
    """The validation bound, and the means of what else the task measures."""
    samples = config.evaluation.valid_samples
    bound = _negative_bound(task, state.params, task.valid, _KEY_VALID, samples)
    _check_bound(run, task, "validation bound", int(state.step), bound)
    means = _means(task.measures, state.params, task.valid, "valid")
    row = {_valid(config): bound, **means}
    if number := config.evaluation.curve_images:
        samples = config.evaluation.test_samples
        examples = evenly_spaced(task.test, number)
        row[f"curve_nll_m{samples}"] = _negative_bound(
            task, state.params, examples, _KEY_TEST, samples
        )
    return row


def _other_valid(config: ConfigDict, rows: list[dict[str, Any]], step: int) -> dict[str, float]:
    """What else was measured on validation at a step."""
    row = next((row for row in rows if row["step"] == step), {})
    return {k: v for k, v in row.items() if k.startswith("valid_") and k != _valid(config)}


def _means(
    measures: Callable[..., dict[str, jax.Array]], params: Any, examples: Any, split: str
) -> dict[str, float]:
    """Means of what else a task measures."""
    return {
        f"{split}_{name}": float(np.asarray(values).mean(dtype=np.float64))
        for name, values in measures(params, examples).items()
    }


def evenly_spaced(examples: Any, number: int) -> Any:
    """``number`` examples, or all that there are, of a set that may be sorted by class."""
    size = _size(examples)
    number = min(number, size)
    rows = np.arange(number) * size // number
    return jax.tree.map(lambda x: x[rows], examples)


def _size(examples: Any) -> int:
    return len(jax.tree.leaves(examples)[0])


def _negative_bound(
    task: tasks.Task,
    params: Any,
    examples: Any,
    key: int,
    num_samples: int,
    stop: StopRequest | None = None,
) -> float:
    """Mean of the negative multi-sample bound over a data set, in nats per image."""
    bounds, start = [], time.monotonic()
    calls = -(-_size(examples) // _IMAGES_PER_CALL)
    for call in range(calls):
        first = call * _IMAGES_PER_CALL
        piece = jax.tree.map(lambda x: x[first : first + _IMAGES_PER_CALL], examples)  # noqa: B023
        bounds.append(np.asarray(task.bounds(params, random.key(key), piece, first, num_samples)))
        if stop is not None and stop.made:
            raise Interrupted
        if stop is not None and call == 1:  # the first call compiles
            left = (time.monotonic() - start) * (calls - 2)
            say(f"bound of {_size(examples):,} images, m = {num_samples:,}: about {left:.0f} s")
        if call == 0:
            start = time.monotonic()
    return -float(np.concatenate(bounds).mean(dtype=np.float64))


def _finish(member: _Member, stop: StopRequest) -> dict[str, Any]:
    """Measure the test bound of the chosen parameters, draw the figures, write the result."""
    from experiments import figures  # matplotlib takes a second to import

    config, task, run, state = member.config, member.task, member.run, member.state
    start = time.perf_counter()
    rows = run.rows()
    last = {"params": state.params, "step": state.step, "bound": rows[-1][_valid(config)]}
    chosen = member.best if config.keep == "best" else last
    step = int(chosen["step"])
    tested: dict[str, float] = {}
    try:
        if samples := config.evaluation.test_samples:
            tested[f"test_nll_m{samples}"] = bound = _negative_bound(
                task, chosen["params"], task.test, _KEY_TEST, samples, stop
            )
            _check_bound(run, task, "test bound", step, bound)
            tested |= _means(task.test_measures, chosen["params"], task.test, "test")
    except Interrupted:
        raise _interrupted(config.num_steps) from None
    test_seconds = time.perf_counter() - start
    result = {
        **tested,
        _valid(config): float(chosen["bound"]),
        **_other_valid(config, rows, step),
        "selected_step": step,
        "steps": int(state.step),
        "steps_per_second": int(state.step) / rows[-1]["train_seconds"],
        "test_seconds": test_seconds,
        "seconds": rows[-1]["seconds"] + test_seconds,
        "estimator": config.estimator,
        "dataset": config.data.name,
        "seed": config.seed,
        "config_hash": configuration.config_hash(config),
    }
    pictures = task.pictures(chosen["params"], random.key(_KEY_PICTURES))
    figures.draw_run(rows, result, pictures, run.path / "figures")
    run.write_result(result)
    return result
