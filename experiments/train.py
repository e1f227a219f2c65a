"""Train one model: ``python -m experiments.train --config=configs/cat_vae.py:binarized_mnist``.

The same command on the same folder goes on where it stopped; a finished run shows its result.
"""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import random
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import config as configuration
from experiments import tasks
from experiments.config import ConfigError
from experiments.rundir import Events, RunDir, RunDirError
from gsm import data, training

_CONFIG = configuration.define_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; default: runs/CONFIG-DATASET-ESTIMATOR-HASH."
)

# Images evaluated in one call: between calls the progress moves and Ctrl-C is heard.
_IMAGES_PER_CALL = 500

# Keys of what is not training, apart from every seed's own: evaluation draws the same in all runs.
_KEY_VALID, _KEY_TEST, _KEY_PICTURES = 1, 2, 3


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the run was saved at ``step``."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


class NonFiniteLoss(Exception):
    """The loss or the validation bound was NaN or infinite."""


class _StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag; the second one acts as always."""

    def __init__(self):
        self.made = False
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.made = True
        tqdm.write("stopping after this scan ... (once more to stop at once)", file=sys.stderr)
        self.__exit__()

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Progress:
    """A bar on a terminal, plain lines elsewhere: step, loss, bound, temperature, steps/s, left."""

    def __init__(self, first: int, total: int):
        self._first, self._total, self._start = first, total, time.monotonic()
        self._tty = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=first, unit="step", dynamic_ncols=True, disable=not self._tty
        )
        self._last_line = -np.inf

    def show(self, row: dict[str, Any], bound: float | None) -> None:
        now = time.monotonic()
        step = row["step"]
        numbers = {"loss": f"{row['loss']:.2f}", "temperature": f"{row['temperature']:.3f}"}
        if bound is not None:
            numbers["bound"] = f"{-bound:.2f}"
        if self._tty:
            self._bar.set_postfix(numbers, refresh=False)
            self._bar.update(step - self._bar.n)
        elif now - self._last_line > 10 or step == self._total:
            self._last_line = now
            left = (now - self._start) * (self._total - step) / max(step - self._first, 1)
            parts = "  ".join(f"{name} {value}" for name, value in numbers.items())
            rate = f"{row['steps_per_second']:,.0f} steps/s  {tqdm.format_interval(left)} left"
            say(f"step {step:,}/{self._total:,}  {parts}  {rate}")

    def close(self) -> None:
        self._bar.close()


def say(text: str) -> None:
    """A line for the person at the terminal; standard output is left to the result."""
    print(text, file=sys.stderr, flush=True)


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Run, or go on with, the experiment of a checked config in a folder; returns its result.

    Raises:
      Interrupted: a signal came; the state is saved.
      NonFiniteLoss: names the step; the last good checkpoint is kept.
      DataError, RunDirError: the data or the folder cannot serve.
    """
    # Data first: no folder is left behind for a data set that is not there.
    dataset = data.load(config.data.name, config.data.dir or None)
    run = RunDir(workdir, configuration.identity(config), dict(configuration.fields(config)))
    if (result := run.result()) is not None:
        say(f"{workdir} is finished; remove it, or choose another --workdir, to run again")
        return result
    task = tasks.build(config, dataset)
    with _StopRequest() as stop:
        try:
            selected, steps = _fit(config, task, run, stop)
            result = _finish(config, task, run, selected, steps, stop)
        finally:
            run.close()
    return result


def _chunks(config: ConfigDict, step: int) -> Iterator[int]:
    """Lengths of the scans from ``step`` on: none crosses a logging or an evaluation step."""
    while step < config.num_steps:
        end = min(
            (step // config.log_every + 1) * config.log_every,
            (step // config.eval_every + 1) * config.eval_every,
            config.num_steps,
        )
        yield end - step
        step = end


def _fit(
    config: ConfigDict, task: tasks.Task, run: RunDir, stop: _StopRequest
) -> tuple[dict[str, Any], dict[str, float]]:
    """Train to the last step; returns the selected parameters, and what the steps took."""
    start_of_run = time.perf_counter()
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

    name = f"valid_nll_m{config.evaluation.valid_samples}"
    train_seconds, earlier = (rows[-1]["train_seconds"], rows[-1]["seconds"]) if rows else (0, 0)
    bound = next((row[name] for row in reversed(rows) if name in row), None)
    compiled, events = {}, Events(run.path)
    progress = _Progress(int(state.step), config.num_steps)

    def save() -> None:
        run.save(int(state.step), {"state": state._asdict(), "best": best})

    try:
        for length in _chunks(config, int(state.step)):
            if length not in compiled:
                compiled[length] = training.run_interval.lower(
                    task.program, length, task.train, task.settings, state
                ).compile()
            start = time.perf_counter()
            new_state, losses = compiled[length](task.train, task.settings, state)
            losses = np.asarray(losses)
            seconds = time.perf_counter() - start
            if not np.isfinite(losses).all():
                first = int(np.argmin(np.isfinite(losses)))
                raise _non_finite(run, "loss", int(state.step) + first + 1, losses[first])
            state, train_seconds = new_state, train_seconds + seconds
            step = int(state.step)
            hyperparams = task.program.hyperparams(state.step - 1, task.settings)
            row: dict[str, Any] = {
                "step": step,
                "loss": float(losses.mean(dtype=np.float64)),
                "temperature": float(hyperparams.temperature),
                "steps_per_second": length / seconds,
                "train_seconds": train_seconds,
            }
            if step % config.eval_every == 0 or step == config.num_steps:
                bound = _bound(
                    task, state.params, task.valid, _KEY_VALID, config.evaluation.valid_samples
                )
                if not np.isfinite(bound):  # steps with a finite loss can break the parameters
                    raise _non_finite(run, "validation bound", step, bound)
                rates = np.asarray(task.rates(state.params, task.valid))
                rate = float(rates.mean(dtype=np.float64))
                row |= {name: bound, "valid_rate": rate}
                if bound < float(best["bound"]):
                    best = {
                        "params": state.params,
                        "step": state.step,
                        "bound": jnp.float32(bound),
                    }
            row["seconds"] = earlier + time.perf_counter() - start_of_run
            run.append(row)
            if name in row:
                save()
            events.add(row)
            progress.show(row, bound)
            if stop.made:
                save()
                raise Interrupted(step)
    finally:
        progress.close()
        events.close()

    last = {"params": state.params, "step": state.step, "bound": bound}
    timing = {
        "steps": int(state.step),
        "steps_per_second": int(state.step) / train_seconds,
        "seconds": earlier + time.perf_counter() - start_of_run,
    }
    return (best if config.keep == "best" else last), timing


def _non_finite(run: RunDir, what: str, step: int, value: float) -> NonFiniteLoss:
    kept = run.latest_step()
    return NonFiniteLoss(
        f"the {what} of step {step:,} is not finite ({value}). "
        + (f"The checkpoint of step {kept:,} is kept" if kept else "No checkpoint yet")
        + f" in {run.path}. Try a smaller --config.optimizer.learning_rate"
    )


def _bound(
    task: tasks.Task,
    params: Any,
    images: jax.Array,
    key: int,
    num_samples: int,
    stop: _StopRequest | None = None,
) -> float:
    """Mean multi-sample bound of a data set as a negative log-likelihood, in nats per image."""
    bounds, start = [], time.monotonic()
    pieces = range(0, len(images), _IMAGES_PER_CALL)
    for number, first in enumerate(pieces):
        piece = images[first : first + _IMAGES_PER_CALL]
        key_piece = random.key(key)
        bounds.append(np.asarray(task.bounds(params, key_piece, piece, first, num_samples)))
        if stop is not None:
            if stop.made:
                raise Interrupted(-1)
            if number == 0 and len(pieces) > 1:
                left = (time.monotonic() - start) * (len(pieces) - 1)
                say(f"bound of {len(images):,} images, m = {num_samples:,}: about {left:.0f} s")
    return -float(np.mean(np.concatenate(bounds), dtype=np.float64))


def _finish(
    config: ConfigDict,
    task: tasks.Task,
    run: RunDir,
    selected: dict[str, Any],
    timing: dict[str, float],
    stop: _StopRequest,
) -> dict[str, Any]:
    """Measure the test bound of the selected parameters, draw the figures, write the result."""
    valid_samples, test_samples = config.evaluation.valid_samples, config.evaluation.test_samples
    start = time.perf_counter()
    try:
        test = _bound(task, selected["params"], task.test, _KEY_TEST, test_samples, stop)
    except Interrupted:
        raise Interrupted(config.num_steps) from None
    result = {
        f"test_nll_m{test_samples}": test,
        f"valid_nll_m{valid_samples}": float(selected["bound"]),
        "selected_step": int(selected["step"]),
        "steps": timing["steps"],
        "steps_per_second": timing["steps_per_second"],
        "test_seconds": time.perf_counter() - start,
        "seconds": timing["seconds"] + time.perf_counter() - start,
        "estimator": config.estimator,
        "dataset": config.data.name,
        "seed": config.seed,
        "config_hash": configuration.config_hash(config),
    }
    from experiments import figures  # matplotlib takes a second to import

    pictures = task.pictures(selected["params"], random.key(_KEY_PICTURES))
    figures.draw_run(run.rows(), result, pictures, run.path / "figures")
    run.write_result(result)
    return result


def default_workdir(config: ConfigDict, config_file: str) -> Path:
    """``runs/CONFIG-DATASET-ESTIMATOR-HASH``: the same command finds the same folder again."""
    stem = Path(config_file.partition(":")[0]).stem
    name = f"{stem}-{config.data.name}-{config.estimator}-{configuration.config_hash(config)}"
    return Path("runs") / name


def main(argv: list[str]) -> None:
    del argv
    if not flags.FLAGS["verbosity"].present:
        # Orbax tells 50 lines a checkpoint otherwise, and warns of what a kill left half done.
        logging.set_verbosity(logging.ERROR)
    try:
        config = configuration.check(_CONFIG.value)
        file = configuration.config_file()
        workdir = Path(_WORKDIR.value or default_workdir(config, file))
        result = train(config, workdir)
    except (ConfigError, data.DataError, RunDirError) as error:
        sys.exit(f"error: {error}")
    except NonFiniteLoss as error:
        sys.exit(f"stopped: {error}")
    except KeyboardInterrupt:
        say("stopped at once; run the same command to go on from the last checkpoint")
        sys.exit(130)
    except Interrupted as interrupted:
        say(f"saved at step {interrupted.step:,}; run the same command to go on")
        sys.exit(130)
    for name, value in result.items():
        print(f"{name:>18}  {value:,.4g}" if isinstance(value, float) else f"{name:>18}  {value}")
    print(f"{'figures':>18}  {workdir / 'figures'}")


if __name__ == "__main__":
    app.run(main, flags_parser=configuration.parse_flags)
