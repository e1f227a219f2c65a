"""Bias, variance and cosine of every estimator's gradient, on a model as it trains.

    python -m experiments.variance --config=configs/small_vae.py:digits

trains the config's model with its own estimator, as ``experiments.train`` would, and stops at
``--steps``. There each estimator of ``--estimators`` estimates the gradient of one fixed minibatch
at many keys: at the temperature of the schedule, and at ``--temperatures`` if it has one to choose.
Learned parts (baselines, control variates) first learn for ``--adapt_steps`` steps of a standing
model. The reference is the exact gradient where the outcomes can be counted out, else the mean of
many ``local_expectation`` estimates (``rloo`` through several layers). The rows and their 95 %
bands go to ``variance.csv``, figures beside it.
"""

import contextlib
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import random
from ml_collections import ConfigDict

from experiments import config as configuration
from experiments import figures, measurement, tasks
from experiments.config import ConfigError
from experiments.console import say
from experiments.measurement import Row
from gsm import data, diagnostics, training
from gsm.estimators import ESTIMATORS

_CONFIG = configuration.define_flag()
_STEPS = flags.DEFINE_list("steps", ["0", "1000", "5000"], "Training steps to measure at.")
_ESTIMATORS = flags.DEFINE_list(
    "estimators", [], "Estimators to measure; default: all that serve the model."
)
_TEMPERATURES = flags.DEFINE_list(
    "temperatures", ["0.1", "0.2", "0.5", "1", "2"], "Beside that of the schedule."
)
_KEYS = flags.DEFINE_integer("keys", 1_000, "Estimates of each, a multiple of 40.", lower_bound=40)
_REFERENCE_KEYS = flags.DEFINE_integer(
    "reference_keys", 400, "Estimates in the reference, where there is no exact one.",
    lower_bound=20,
)  # fmt: skip
_ADAPT_STEPS = flags.DEFINE_integer(
    "adapt_steps", 1_000, "Steps in which learned parts adapt.", lower_bound=0
)
_IMAGES = flags.DEFINE_integer("images", 100, "In the minibatch measured.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Folder; default: runs/variance-CONFIG-DATASET.")

_SCAN = 500  # steps in one call
_TIMED_KEYS = 10


def served(config: ConfigDict, names: list[str]) -> list[str]:
    """The named estimators, each known to serve the config; all that do, if none is named.

    Raises:
      ConfigError: of a named one that does not.
    """
    found = []
    for name in names or ESTIMATORS:
        try:
            _with_estimator(config, name)
            found.append(name)
        except ConfigError:
            if names:
                raise
    return [name for name in found if name != "exact"]


def _with_estimator(config: ConfigDict, name: str) -> ConfigDict:
    config = config.copy_and_resolve_references()
    config.estimator = name
    return configuration.check(config)


def _advance(
    task: tasks.Task, state: training.TrainState, settings: dict[str, jax.Array], step: int
) -> training.TrainState:
    """Train to a step, in scans."""
    while (left := step - int(state.step)) > 0:
        state, _ = training.run_interval(
            task.program, min(_SCAN, left), task.train, settings, state
        )
    return state


class Measured:
    """One estimator on the config's model: its learned parts adapt, its gradient is measured."""

    def __init__(self, config: ConfigDict, name: str, dataset: data.Dataset):
        self.name, self.entry = name, ESTIMATORS[name]
        self.config = _with_estimator(config, name)
        self.task = tasks.build(self.config, dataset)
        start = training.init_state(self.task.program, random.key(config.seed))
        self.learned, self.opt_state = start.learned, start.learned_opt_state

    def adapt(self, state: training.TrainState, steps: int) -> None:
        """Train the learned parts alone: the model's learning rate is 0."""
        if not jax.tree.leaves(self.learned) or not steps:
            return
        state = training.init_state(self.task.program, random.key(self.config.seed))._replace(
            step=state.step, params=state.params, learned=self.learned,
            learned_opt_state=self.opt_state,
        )  # fmt: skip
        standing = self.task.settings | {"learning_rate": jnp.float32(0)}
        state = _advance(self.task, state, standing, int(state.step) + steps)
        self.learned, self.opt_state = state.learned, state.learned_opt_state

    def loss(self, key, params, learned, batch, hyperparams):
        """The mean over a batch."""
        return training.mean_loss(self.task.program, params, learned, key, batch, hyperparams)

    def gradient(self, key, params, learned, batch, hyperparams):
        """Of the loss, by the parameters."""
        return jax.grad(self.loss, 1)(key, params, learned, batch, hyperparams)

    def hyperparams(self, step: jax.Array, temperature: float | None = None):
        """The schedule's, or with another temperature."""
        scheduled = self.task.program.hyperparams(step, self.task.settings)
        if temperature is None:
            return scheduled
        return scheduled._replace(temperature=jnp.float32(temperature))

    def temperature(self, hyperparams) -> float | None:
        """The temperature at which it estimates, if it reads one."""
        if "temperature" not in self.entry.reads:
            return None
        learned = self.task.learned_scalars(self.learned).get("learned_temperature")
        return float(hyperparams.temperature) if learned is None else learned

    @property
    def chooses_temperature(self) -> bool:
        return "temperature" in self.entry.reads and "control" not in self.learned


def _reference(
    config: ConfigDict, dataset: data.Dataset, arguments: tuple
) -> tuple[Any, str, dict[str, float]]:
    """The gradient that the others are held to, whose it is, and its relative error by group."""
    params, batch, step = arguments
    with contextlib.suppress(ConfigError):  # where the outcomes are too many
        exact = Measured(config, "exact", dataset)
        gradient = jax.jit(exact.gradient)(
            random.key(0), params, exact.learned, batch, exact.hyperparams(step)
        )
        return gradient, "exact", {}
    # Through several layers its evaluations multiply: there the mean of samples is cheaper.
    name = "local_expectation" if _num_layers(config) == 1 else "rloo"
    long_run = Measured(config, name, dataset)
    keys = random.split(random.key(7), (_REFERENCE_KEYS.value, 1))
    of_long_run = (params, long_run.learned, batch, long_run.hyperparams(step))
    zeros = jax.tree.map(jnp.zeros_like, params)
    gradient, squares, _ = diagnostics.measure_batch(long_run.gradient, of_long_run, zeros, keys)
    of_groups = gradient | {diagnostics.ALL: gradient}
    errors = {}
    for group, squared in squares.items():
        length = sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(of_groups[group]))
        errors[group] = (max(float(squared) - length, 0.0) / _REFERENCE_KEYS.value / length) ** 0.5
    return gradient, name, errors


def _num_layers(config: ConfigDict) -> int:
    return config.model.get("num_layers", 1)


def measure_step(
    config: ConfigDict,
    dataset: data.Dataset,
    estimators: dict[str, Measured],
    state: training.TrainState,
    temperatures: list[float],
) -> list[Row]:
    """All rows at one state of the model."""
    base = estimators["gumbel_softmax"]
    train, number = base.task.train, min(_IMAGES.value, len(base.task.train))
    images = train[random.choice(random.key(3), len(train), (number,), replace=False)]
    batch = jax.vmap(base.task.program.prepare)(random.split(random.key(4), number), images)
    reference, of, errors = _reference(config, dataset, (state.params, batch, state.step))
    rows: list[Row] = []
    calls = {}
    for name, estimator in estimators.items():
        estimator.adapt(state, _ADAPT_STEPS.value)
        points: list[float | None] = [None]
        if estimator.chooses_temperature:
            points += temperatures
        for temperature in points:
            hyperparams = estimator.hyperparams(state.step, temperature)
            arguments = (state.params, estimator.learned, batch, hyperparams)
            key = random.fold_in(random.key(5), int(state.step))
            measured = measurement.measure(
                estimator.gradient, arguments, reference, key, _KEYS.value, at_once=1
            )
            head = {
                "step": int(state.step),
                "estimator": name,
                "at": "schedule" if temperature is None else "chosen",
                "temperature": estimator.temperature(hyperparams),
            }
            for row in measured:
                row |= {"reference": of, "reference_error": errors.get(row["group"])}
                rows.append(head | row)
            if temperature is None:
                calls[name] = measurement.timed(estimator.loss, arguments, _TIMED_KEYS)
        say(f"step {int(state.step):,}: {name} measured")
    times = measurement.relative_times(calls, to="gumbel_softmax")
    n, k = config.model.num_latents, config.model.num_classes
    return [
        measurement.with_costs(
            row,
            ESTIMATORS[row["estimator"]].count_evaluations(n, k, config.num_samples or None)
            ** _num_layers(config),
            times[row["estimator"]],
        )
        for row in rows
    ]


def run(config: ConfigDict, steps: list[int], temperatures: list[float], out: Path) -> None:
    """Train, measure at each step, and write rows and figures as they come."""
    names = served(config, _ESTIMATORS.value)
    dataset = data.load(config.data.name, config.data.dir or None)
    # Gumbel-Softmax is what times are relative to.
    estimators = {
        name: Measured(config, name, dataset) for name in dict.fromkeys(["gumbel_softmax", *names])
    }
    task = tasks.build(config, dataset)
    state = training.init_state(task.program, random.key(config.seed))
    rows: list[Row] = []
    about = {"config": configuration.identity(config)}
    for step in steps:
        state = _advance(task, state, task.settings, step)
        rows += measure_step(config, dataset, estimators, state, temperatures)
        measurement.write(out, "variance", rows, about)
    figures.draw_variance(rows, out)


def _numbers(flag: flags.FlagHolder, kind: type, low: float) -> list:
    """The flag's list as increasing numbers above, or from, a bound."""
    try:
        numbers = [kind(text) for text in flag.value]
    except ValueError:
        numbers = []
    if numbers != sorted(set(numbers)) or not all(low <= x < float("inf") for x in numbers):
        what = "whole numbers, 0 or more" if kind is int else "positive numbers"
        raise ConfigError(f"--{flag.name} must be increasing {what}; got {','.join(flag.value)}")
    return numbers


def main(argv: list[str]) -> None:
    del argv
    configuration.quieten_libraries()
    try:
        config = configuration.check(_CONFIG.value)
        if config.get("objective", "elbo") != "elbo":
            raise ConfigError("variances are of the ELBO's gradient: leave config.objective=elbo")
        if _KEYS.value % diagnostics.NUM_BATCHES:
            raise ConfigError(
                f"--keys must be a multiple of {diagnostics.NUM_BATCHES}; got {_KEYS.value}"
            )
        steps = _numbers(_STEPS, int, 0)
        temperatures = _numbers(_TEMPERATURES, float, 1e-6)
        stem = Path(configuration.config_file()).stem
        out = Path(_OUT.value or f"runs/variance-{stem}-{config.data.name}")
        run(config, steps, temperatures, out)
    except (ConfigError, data.DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(out)


if __name__ == "__main__":
    app.run(main, flags_parser=configuration.parse_flags)
