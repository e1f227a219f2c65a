"""The toy problem of Tucker et al. 2017: minimise ``E (b - 0.45) ** 2`` over one Bernoulli unit.

    python -m experiments.toy
    python -m experiments.toy --units=128 --power=1.5 --out=runs/polynomial

Everything is known exactly here: each estimator's bias and variance over the temperature, at three
probabilities, and where descent on its gradients ends. The optimum is ``b = 0`` for sure; a biased
estimator can stop elsewhere. ``--units`` and ``--power`` make the polynomial problems of Liu et al.
2023 (ReinMax) of it. Rows go to ``variance.csv`` and ``curves.csv``, figures beside them. The
problem is the task ``polynomial``.
"""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import random
from ml_collections import ConfigDict

from experiments import figures
from experiments.running import command_line, loop, measuring, training
from experiments.running import config as configuration
from experiments.running.measuring import Row, Subject
from experiments.running.terminal import Progress, say, waiting
from experiments.tasks import polynomial
from experiments.tasks.checks import ConfigError
from gsm.registry import ESTIMATORS

_TARGET = flags.DEFINE_float("target", 0.45, "t of |b - t| ** power.", 0.0, 1.0)
_POWER = flags.DEFINE_float("power", 2.0, "p of |b - t| ** p.", 1.0)
_UNITS = flags.DEFINE_integer("units", 1, "Units, over which the cost is the mean.", 1)
_KEYS = flags.DEFINE_integer("keys", 1_000_000, "Estimates of each, a multiple of 20,000.", 20_000)
_STEPS = flags.DEFINE_integer("steps", 2_000, "Steps of descent, a multiple of 20.", lower_bound=20)
_SEEDS = flags.DEFINE_integer("seeds", 100, "Runs of each estimator.", lower_bound=2)
_ESTIMATORS = flags.DEFINE_multi_enum(
    "estimator", [], list(ESTIMATORS), "To take part beside gumbel_softmax; default: all."
)
_OUT = flags.DEFINE_string("out", "runs/toy", "Folder.")
command_line.define_quick(estimator=measuring.QUICK, keys=20_000, steps=400, seeds=20)

_LOGITS = (-1.0, 0.0, 1.0)
_TEMPERATURES = (0.05, 0.1, 0.2, 1.0, 2.0)
_TEMPERATURE = 0.5  # of the optimisation, and where learned ones start
_LEARNING_RATE = 0.02
_SCAN = 20  # steps between two points of a curve
_AT_ONCE = 500


def config_of(target: float, power: float, units: int) -> ConfigDict:
    """The config of the task: rates that serve costs of one tenth, and constant schedules."""
    config = polynomial.default_config()
    config.model.target, config.model.power, config.model.num_units = target, power, units
    config.model.init_scale = 0.0
    config.seed = 1  # of the learned parts as they adapt; descents have seeds of their own
    config.batch_size = 1
    config.optimizer.learning_rate = _LEARNING_RATE
    config.temperature.initial = config.temperature.floor = _TEMPERATURE
    config.slope.rate = 0.0
    config.learned.hidden_sizes = (10,)
    config.learned.learning_rate = 0.01
    return configuration.check(config)


def variance_rows(config: ConfigDict, names: list[str], num_keys: int) -> list[Row]:
    """Bias and variance of estimators at every probability and temperature."""
    rows: list[Row] = []
    count = itertools.count(1)
    step = jnp.int32(0)
    slope = jax.grad(
        functools.partial(polynomial.expected_power, config.model.power, config.model.target)
    )
    with waiting(f"building {len(names)} estimators"):
        subjects = {name: Subject(config, name, None) for name in names}
    of_logit = [len(measuring.points(one, _TEMPERATURES)) for one in subjects.values()]
    progress = Progress(0, len(_LOGITS) * sum(of_logit), "measurement")
    for logit in _LOGITS:
        model = {"logits": jnp.full(config.model.num_units, logit)}
        for name, subject in subjects.items():
            subject.begin_anew()
            with waiting(f"adapting what {name} learns"):
                subject.adapt(model, step, 2_000)
        own = subjects[measuring.TIMED_AGAINST].experiment.task
        exact = {"logits": slope(model["logits"])}
        say(f"logit {logit}: measuring {len(subjects)} estimators")
        measured = measuring.measure(
            subjects, model, step, own.train, _TEMPERATURES, (exact, "exact", {}),
            key=random.key(2), num_keys=num_keys, at_once=_AT_ONCE, timed_keys=20_000,
            done=lambda name: progress.show(next(count), {"last": name}),
        )  # fmt: skip
        for row in measured:
            del row["reference_error"]  # there is none
            rows.append({"logit": logit} | row)
    progress.close()
    return rows


def curve_rows(config: ConfigDict, names: list[str], steps: int, seeds: int) -> list[Row]:
    """The exact cost along Adam's descent on each estimator's gradients, over seeds."""
    rows: list[Row] = []
    cost = functools.partial(polynomial.expected_power, config.model.power, config.model.target)
    progress = Progress(0, len(names), "estimator")
    for number, name in enumerate(names, 1):
        experiment = loop.build(measuring.with_estimator(config, name), None)
        keys = jax.vmap(random.key)(jnp.arange(seeds))
        states = jax.vmap(functools.partial(training.init_state, experiment.program))(keys)
        run = jax.jit(
            jax.vmap(
                functools.partial(
                    training.run_interval, experiment.program, _SCAN, experiment.task.train,
                    experiment.settings,
                )
            )
        )  # fmt: skip
        for step in range(0, steps + 1, _SCAN):
            logits = states.params["model"]["logits"]
            losses = np.asarray(jax.vmap(cost)(logits), np.float64)
            error = 1.96 * losses.std(ddof=1) / np.sqrt(seeds)
            rows.append(
                {
                    "estimator": name, "step": step, "seeds": seeds,
                    "unbiased_for": ESTIMATORS[name].unbiased, "loss": float(losses.mean()),
                    "loss_low": float(losses.mean() - error),
                    "loss_high": float(losses.mean() + error),
                    "probability": float(np.asarray(jax.nn.sigmoid(logits), np.float64).mean()),
                }
            )  # fmt: skip
            if step < steps:
                states, _ = run(states)
        say(f"{name}: loss {rows[-1]['loss']:.4f} after {steps:,} steps")
        progress.show(number, {})
    progress.close()
    return rows


def main() -> None:
    if _KEYS.value % 20_000:
        raise ConfigError(f"--keys must be a multiple of 20,000; got {_KEYS.value}")
    if _STEPS.value % _SCAN:
        raise ConfigError(f"--steps must be a multiple of {_SCAN}; got {_STEPS.value}")
    config = config_of(_TARGET.value, _POWER.value, _UNITS.value)
    out = Path(_OUT.value)
    target, power = _TARGET.value, _POWER.value
    about = {"target": target, "power": power, "config": configuration.identity(config)}
    names = measuring.served(config, _ESTIMATORS.value)
    measured = [name for name in names if name != "exact"]  # the reference
    rows = variance_rows(config, measured, _KEYS.value)
    measuring.write(out, "variance", rows, about)
    curves = curve_rows(config, names, _STEPS.value, _SEEDS.value)
    measuring.write(out, "curves", curves, about)
    with waiting("drawing"):
        figures.draw_toy(rows, curves, target, power, out)
    print(out)


if __name__ == "__main__":
    command_line.run(main)
