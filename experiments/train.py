"""Train one model: ``python -m experiments.train --config=configs/cat_vae.py:binarized_mnist``.

The same command on the same folder goes on where it stopped; a finished run shows its result.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import random
from ml_collections import ConfigDict

from experiments import config as configuration
from experiments import tasks
from experiments.config import ConfigError
from experiments.console import Progress, StopRequest, say
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
    """Ctrl-C or SIGTERM came; the message says where the run is saved and how to go on."""


class NonFinite(Exception):
    """The loss or the validation bound was NaN or infinite; the message names the step."""


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Run, or go on with, the experiment of a checked config in a folder; returns its result.

    Raises:
      Interrupted: a signal came; the state is saved.
      NonFinite: names the step; the last good checkpoint is kept.
      DataError, RunDirError: the data or the folder cannot serve.
    """
    # Data first: no folder is left behind for a data set that is not there.
    dataset = data.load(config.data.name, config.data.dir or None)
    run = RunDir(workdir, configuration.identity(config), dict(configuration.fields(config)))
    if (result := run.result()) is not None:
        say(f"{workdir} is finished; remove it, or choose another --workdir, to run again")
        return result
    task = tasks.build(config, dataset)
    with StopRequest() as stop:
        try:
            state, best = _fit(config, task, run, stop)
            return _finish(config, task, run, state, best, stop)
        finally:
            run.close()


# --- the loop --------------------------------------------------------------------------------


def _fit(
    config: ConfigDict, task: tasks.Task, run: RunDir, stop: StopRequest
) -> tuple[training.TrainState, dict[str, Any]]:
    """Train to the last step; returns the state there and the best parameters on validation."""
    start = time.perf_counter()
    state, best = _restore(config, task, run)
    rows = run.rows()
    clock = {name: rows[-1][name] if rows else 0.0 for name in ("train_seconds", "seconds")}
    bound = next((row[_valid(config)] for row in reversed(rows) if _valid(config) in row), None)
    compiled: dict[int, Any] = {}
    progress, events = Progress(int(state.step), config.num_steps), Events(run.path)
    try:
        for length in _scans(config, int(state.step)):
            if length not in compiled:
                compiled[length] = training.run_interval.lower(
                    task.program, length, task.train, task.settings, state
                ).compile()
            start_of_scan = time.perf_counter()
            next_state, losses = compiled[length](task.train, task.settings, state)
            losses = np.asarray(losses)
            scan_seconds = time.perf_counter() - start_of_scan
            if not np.isfinite(losses).all():
                first = int(np.argmin(np.isfinite(losses)))
                raise _non_finite(run, "loss", int(state.step) + first + 1, losses[first])

            state, step = next_state, int(next_state.step)
            clock["train_seconds"] += scan_seconds
            row: dict[str, Any] = {
                "step": step,
                "loss": float(losses.mean(dtype=np.float64)),
                "temperature": float(
                    task.program.hyperparams(state.step - 1, task.settings).temperature
                ),
                **task.learned_scalars(state.learned),
                "steps_per_second": length / scan_seconds,
                "train_seconds": clock["train_seconds"],
            }
            evaluates = step % config.eval_every == 0 or step == config.num_steps
            if evaluates:
                row |= _validate(config, task, run, state)
                bound = row[_valid(config)]
                if bound < float(best["bound"]):
                    best = {"params": state.params, "step": state.step, "bound": jnp.float32(bound)}
            row["seconds"] = clock["seconds"] + time.perf_counter() - start
            run.append(row)  # before its checkpoint: a checkpoint always has its row
            stops = stop.made  # asked once: a signal after the save must wait for the next
            if evaluates or stops:
                run.save(step, {"state": state._asdict(), "best": best})
            events.add(row)
            progress.show(step, row["steps_per_second"], _shown(row, bound))
            if stops:
                raise _interrupted(step)
    finally:
        progress.close()
        events.close()
    return state, best


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


def _scans(config: ConfigDict, step: int) -> Iterator[int]:
    """Lengths of the scans from ``step`` on: none crosses a logging or an evaluation step."""
    while step < config.num_steps:
        end = min(
            (step // config.log_every + 1) * config.log_every,
            (step // config.eval_every + 1) * config.eval_every,
            config.num_steps,
        )
        yield end - step
        step = end


def _shown(row: dict[str, Any], bound: float | None) -> dict[str, str]:
    """The numbers of the progress line."""
    numbers = {"loss": f"{row['loss']:.2f}", "temperature": f"{row['temperature']:.3f}"}
    return numbers if bound is None else numbers | {"bound": f"{-bound:.2f}"}


def _interrupted(step: int) -> Interrupted:
    return Interrupted(f"saved at step {step:,}; run the same command to go on")


def _non_finite(run: RunDir, what: str, step: int, value: float) -> NonFinite:
    kept = run.latest_step()
    return NonFinite(
        f"the {what} of step {step:,} is not finite ({value}). "
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
    if not np.isfinite(bound):  # steps of finite loss can break the parameters
        raise _non_finite(run, "validation bound", int(state.step), bound)
    measures = task.measures(state.params, task.valid)
    means = {
        f"valid_{name}": float(np.asarray(values).mean(dtype=np.float64))
        for name, values in measures.items()
    }
    row = {_valid(config): bound, **means}
    if number := config.evaluation.curve_images:
        samples = config.evaluation.test_samples
        images = evenly_spaced(task.test, number)
        row[f"curve_nll_m{samples}"] = _negative_bound(
            task, state.params, images, _KEY_TEST, samples
        )
    return row


def evenly_spaced(images: jax.Array, number: int) -> jax.Array:
    """``number`` images, or all that there are, of a set that may be sorted by class."""
    number = min(number, len(images))
    return images[np.arange(number) * len(images) // number]


def _negative_bound(
    task: tasks.Task,
    params: Any,
    images: jax.Array,
    key: int,
    num_samples: int,
    stop: StopRequest | None = None,
) -> float:
    """Mean of the negative multi-sample bound over a data set, in nats per image."""
    bounds, start = [], time.monotonic()
    calls = -(-len(images) // _IMAGES_PER_CALL)
    for call in range(calls):
        first = call * _IMAGES_PER_CALL
        piece = images[first : first + _IMAGES_PER_CALL]
        bounds.append(np.asarray(task.bounds(params, random.key(key), piece, first, num_samples)))
        if stop is not None and stop.made:
            raise Interrupted
        if stop is not None and call == 1:  # the first call compiles
            left = (time.monotonic() - start) * (calls - 2)
            say(f"bound of {len(images):,} images, m = {num_samples:,}: about {left:.0f} s")
        if call == 0:
            start = time.monotonic()
    return -float(np.concatenate(bounds).mean(dtype=np.float64))


def _finish(
    config: ConfigDict,
    task: tasks.Task,
    run: RunDir,
    state: training.TrainState,
    best: dict[str, Any],
    stop: StopRequest,
) -> dict[str, Any]:
    """Measure the test bound of the chosen parameters, draw the figures, write the result."""
    from experiments import figures  # matplotlib takes a second to import

    start = time.perf_counter()
    rows = run.rows()
    last = {"params": state.params, "step": state.step, "bound": rows[-1][_valid(config)]}
    chosen = best if config.keep == "best" else last
    tested: dict[str, float] = {}
    try:
        if samples := config.evaluation.test_samples:
            tested[f"test_nll_m{samples}"] = _negative_bound(
                task, chosen["params"], task.test, _KEY_TEST, samples, stop
            )
    except Interrupted:
        raise _interrupted(config.num_steps) from None
    test_seconds = time.perf_counter() - start
    result = {
        **tested,
        _valid(config): float(chosen["bound"]),
        "selected_step": int(chosen["step"]),
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


# --- the command -----------------------------------------------------------------------------


def default_workdir(config: ConfigDict, config_file: str) -> Path:
    """``runs/CONFIG-DATASET-ESTIMATOR-HASH``: the same command finds the same folder again."""
    stem = Path(config_file).stem
    name = f"{stem}-{config.data.name}-{config.estimator}-{configuration.config_hash(config)}"
    return Path("runs") / name


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    try:
        config = configuration.check(_CONFIG.value)
        workdir = Path(_WORKDIR.value or default_workdir(config, configuration.config_file()))
        result = train(config, workdir)
    except (ConfigError, data.DataError, RunDirError, OSError) as error:
        # Orbax leaves coroutines open over a damaged checkpoint; they would tell 300 lines at exit.
        sys.unraisablehook = lambda _: None
        sys.exit(f"error: {error}")
    except NonFinite as error:
        sys.exit(f"stopped: {error}")
    except Interrupted as message:
        say(str(message))
        sys.exit(130)
    except KeyboardInterrupt:
        say("stopped at once; run the same command to go on from the last checkpoint")
        sys.exit(130)
    for name, value in result.items():
        print(f"{name:>18}  {value:,.4g}" if isinstance(value, float) else f"{name:>18}  {value}")
    print(f"{'figures':>18}  {workdir / 'figures'}")


if __name__ == "__main__":
    app.run(main, flags_parser=configuration.parse_flags)
