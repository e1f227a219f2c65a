"""The toy problem of Tucker et al. 2017: minimise ``E (b - 0.45) ** 2`` over one Bernoulli unit.

    python -m experiments.toy

Everything is known exactly here: each estimator's bias and variance over the temperature, at three
probabilities, and where descent on its gradients ends. The optimum is ``b = 0`` for sure; a biased
estimator can stop elsewhere. Rows go to ``variance.csv`` and ``curves.csv``, figures beside them.
"""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from jax import random

from experiments import figures, measurement
from experiments.config import quieten_libraries
from experiments.console import say
from experiments.measurement import Row
from gsm import training
from gsm.distributions import Scalar, two_class_logits
from gsm.estimators import ESTIMATORS, Entry, Hyperparams, exact
from gsm.learned import LearnedParts, learned_parts

_TARGET = flags.DEFINE_float("target", 0.45, "t of (b - t) ** 2.", 0.0, 1.0)
_KEYS = flags.DEFINE_integer("keys", 1_000_000, "Estimates of each, a multiple of 20,000.", 20_000)
_STEPS = flags.DEFINE_integer("steps", 2_000, "Optimisation steps.", lower_bound=1)
_SEEDS = flags.DEFINE_integer("seeds", 100, "Runs of each estimator.", lower_bound=2)
_ESTIMATORS = flags.DEFINE_multi_enum(
    "estimator", [], list(ESTIMATORS), "To take part beside gumbel_softmax; default: all."
)
_OUT = flags.DEFINE_string("out", "runs/toy", "Folder.")

_LOGITS = (-1.0, 0.0, 1.0)
_TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_TEMPERATURE = 0.5  # of the optimisation, and where learned ones start
_LEARNING_RATE = 0.02
_SCAN = 20  # steps between two points of a curve
_AT_ONCE = 500
_NO_INPUT = jnp.zeros(1)


def _cost(target: float, z: jax.Array) -> jax.Array:
    return (z[0, 0] - target) ** 2


def _hyperparams(temperature: Scalar) -> Hyperparams:
    return Hyperparams(temperature=temperature, slope=1.0)  # no schedule of the slope


def _parts(entry: Entry) -> LearnedParts:
    """What it learns, at rates that serve costs of one tenth."""
    return learned_parts(
        entry, 1, (1, 2), _hyperparams(_TEMPERATURE), hidden_sizes=(10,), learning_rate=0.01
    )  # fmt: skip


def _program(target: float, parts: LearnedParts, start: float) -> training.Program:
    def loss(logit, learned, key, x, hyperparams):
        estimator, hyperparams = parts.attach(learned, x, hyperparams)
        logits = two_class_logits(logit[None])
        return estimator(key, logits, functools.partial(_cost, target), hyperparams)

    return training.Program(
        init=lambda key: (jnp.float32(start), parts.init(key)),
        loss=loss,
        prepare=lambda key, x: x,
        hyperparams=lambda step, settings: _hyperparams(settings["temperature"]),
        optimizer=optax.scale_by_adam(),
        learned_optimizer=parts.optimizer,
        batch_size=1,
    )


def _settings(learning_rate: float, temperature: float) -> dict[str, jax.Array]:
    return {
        "learning_rate": jnp.float32(learning_rate),
        "temperature": jnp.float32(temperature),
    }


def variance_rows(names: list[str], target: float, keys: int) -> list[Row]:
    """Bias and variance of estimators at every probability and temperature."""
    cost = functools.partial(_cost, target)
    rows: list[Row] = []
    for logit in _LOGITS:
        point = jnp.float32(logit)
        reference = jax.grad(lambda x: exact(two_class_logits(x[None]), cost))(point)
        calls = {}
        for name in names:
            if name == "exact":
                continue
            entry = ESTIMATORS[name]
            parts = _parts(entry)
            program = _program(target, parts, logit)
            # Learned parts adapt while the logit stands still.
            state = training.init_state(program, random.key(1))
            data = _NO_INPUT[None]
            state, _ = training.run_interval(
                program, 2_000, data, _settings(0.0, _TEMPERATURE), state
            )

            def loss(key, logit, learned, hyperparams, program=program):
                return program.loss(logit, learned, key, _NO_INPUT, hyperparams)

            gradient = jax.grad(loss, 1)

            swept = "temperature" in entry.reads and "control" not in state.learned
            for temperature in _TEMPERATURES if swept else (_TEMPERATURE,):
                arguments = (point, state.learned, _hyperparams(temperature))
                (row,) = measurement.measure(
                    gradient, arguments, reference, random.key(2), keys, _AT_ONCE
                )
                learned = state.learned.get("control", {}).get("log_temperature")
                shown = temperature if swept else learned and float(jnp.exp(learned))
                at = "chosen" if swept else "schedule"
                head = {"logit": logit, "estimator": name, "at": at, "temperature": shown}
                rows.append(head | row | {"reference": "exact"})
                if temperature == _TEMPERATURE:
                    calls[name] = measurement.timed(loss, arguments, 20_000)
        times = measurement.relative_times(calls, to="gumbel_softmax")
        say(f"logit {logit}: {len(calls)} estimators measured")
        rows = [
            row if "evaluations" in row
            else measurement.with_costs(
                row, ESTIMATORS[row["estimator"]].count_evaluations(1, 2), times[row["estimator"]]
            )
            for row in rows
        ]  # fmt: skip
    return rows


def curve_rows(names: list[str], target: float, steps: int, seeds: int) -> list[Row]:
    """The exact loss along Adam's descent on each estimator's gradients, over seeds."""
    rows: list[Row] = []
    for name in names:
        entry = ESTIMATORS[name]
        parts = _parts(entry)
        program = _program(target, parts, 0.0)
        keys = jax.vmap(random.key)(jnp.arange(seeds))
        states = jax.vmap(functools.partial(training.init_state, program))(keys)
        run = jax.jit(
            jax.vmap(
                functools.partial(
                    training.run_interval, program, _SCAN, _NO_INPUT[None],
                    _settings(_LEARNING_RATE, _TEMPERATURE),
                )
            )
        )  # fmt: skip
        for step in range(0, steps + 1, _SCAN):
            probs = np.asarray(jax.nn.sigmoid(states.params), np.float64)
            losses = probs * (1 - target) ** 2 + (1 - probs) * target**2
            error = 1.96 * losses.std(ddof=1) / np.sqrt(seeds)
            mean = losses.mean()
            rows.append(
                {
                    "estimator": name, "step": step, "seeds": seeds,
                    "unbiased_for": entry.unbiased, "loss": float(mean),
                    "loss_low": float(mean - error), "loss_high": float(mean + error),
                    "probability": float(probs.mean()),
                }
            )  # fmt: skip
            states, _ = run(states)
        say(f"{name}: loss {rows[-1]['loss']:.4f} after {steps:,} steps")
    return rows


def main(argv: list[str]) -> None:
    del argv
    quieten_libraries()
    target, out = _TARGET.value, Path(_OUT.value)
    about = {
        "target": target, "temperature": _TEMPERATURE, "learning_rate": _LEARNING_RATE,
        "optimizer": "adam",
    }  # fmt: skip
    names = list(dict.fromkeys(["gumbel_softmax", *(_ESTIMATORS.value or ESTIMATORS)]))
    if _KEYS.value % 20_000:
        sys.exit(f"error: --keys must be a multiple of 20,000; got {_KEYS.value}")
    rows = variance_rows(names, target, _KEYS.value)
    measurement.write(out, "variance", rows, about)
    curves = curve_rows(names, target, _STEPS.value, _SEEDS.value)
    measurement.write(out, "curves", curves, about)
    figures.draw_toy(rows, curves, target, out)
    print(out)


if __name__ == "__main__":
    app.run(main)
