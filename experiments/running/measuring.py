"""Bias, variance, cosine and cost of estimators' gradients at fixed parameters of any task."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from ml_collections import ConfigDict

from experiments.running import config as configuration
from experiments.running import loop, training
from experiments.running.terminal import waiting
from experiments.running.training import TrainState
from experiments.storage.files import write_csv, write_json
from experiments.storage.provenance import provenance
from experiments.tasks.base import Example, Params
from experiments.tasks.checks import ConfigError
from gsm import diagnostics, learned
from gsm.registry import ESTIMATORS, Hyperparams

Row = dict[str, Any]
"""One estimator at one point: text, and numbers with their 95 % bands."""

QUICK = (
    "gumbel_softmax", "st_gumbel_softmax", "straight_through", "reinmax", "rloo", "score_function",
)  # fmt: skip
"""Estimators of a first look: most of the time goes into the compilation of each."""

TIMED_AGAINST = "gumbel_softmax"
_SCAN = 500  # steps in one call


def with_estimator(config: ConfigDict, name: str) -> ConfigDict:
    """The checked config with another estimator.

    Raises:
      ConfigError: it cannot serve the config.
    """
    config = config.copy_and_resolve_references()
    config.estimator = name
    return configuration.check(config)


def served(config: ConfigDict, names: Sequence[str]) -> list[str]:
    """The named estimators, each known to serve the config; all that do, if none is named.

    The one that times are relative to comes first.

    Raises:
      ConfigError: a named one cannot serve.
    """
    found = [TIMED_AGAINST]
    for name in names or ESTIMATORS:
        try:
            with_estimator(config, name)
            found.append(name)
        except ConfigError:
            if names:
                raise
    return list(dict.fromkeys(found))


def advance(experiment: loop.Experiment, state: TrainState, step: int) -> TrainState:
    """Train to a step, in scans."""
    while (left := step - int(state.step)) > 0:
        state, _ = training.run_interval(
            experiment.program,
            min(_SCAN, left),
            experiment.task.train,
            experiment.settings,
            state,
        )
    return state


class Subject:
    """One estimator on a config's model: its learned parts adapt, its gradient is measured."""

    def __init__(self, config: ConfigDict, name: str, dataset: Any):
        self.entry = ESTIMATORS[name]
        self.experiment = loop.build(with_estimator(config, name), dataset)
        self._initial = training.init_state(self.experiment.program, random.key(config.seed))
        self._state = self._initial

    def begin_anew(self) -> None:
        """Forget what was learned; what was compiled stays."""
        self._state = self._initial

    @property
    def learned(self) -> dict[str, Any]:
        """The learned parts as they are now."""
        return self._state.params["estimator"]

    @property
    def chooses_temperature(self) -> bool:
        """Whether the temperature is a choice: read, and not learned."""
        return "temperature" in self.entry.reads and not self._learned_temperatures()

    def _learned_temperatures(self) -> list[float]:
        """The temperature that each layer has learned, if the estimator learns it."""
        summary = learned.summary(self.learned)
        return [float(value) for name, value in summary.items() if name.startswith("temperature")]

    @property
    def evaluations(self) -> int:
        """Evaluations of the cost for one estimate of one example, through all layers."""
        samples = self.experiment.config.num_samples or None
        count = self.experiment.config.num_estimates
        for n, k in self.experiment.task.latents:
            count *= self.entry.count_evaluations(n, k, samples)
        return count

    def adapt(self, model: Params, step: jax.Array, num_steps: int) -> None:
        """Train the learned parts alone: the model's learning rate is 0."""
        if not jax.tree.leaves(self.learned) or not num_steps:
            return
        standing = {**self.experiment.settings, "optimizer.learning_rate": jnp.float32(0)}
        params = {"model": model, "estimator": self.learned}
        state = self._state._replace(step=step, params=params)
        experiment = self.experiment._replace(settings=standing)
        self._state = advance(experiment, state, int(step) + num_steps)

    def loss(self, key, params, batch, hyperparams):
        """The surrogate of a minibatch at ``{"model": ..., "estimator": ...}``."""
        return self.experiment.task.loss(params, key, batch, hyperparams)

    def gradient(self, key, model, learned, batch, hyperparams):
        """Its gradient with respect to the model's parameters."""

        def loss(model):
            return self.loss(key, {"model": model, "estimator": learned}, batch, hyperparams)

        return jax.grad(loss)(model)

    def hyperparams(self, step: jax.Array, temperature: float | None = None) -> Hyperparams:
        """Those of the schedules, or with another temperature."""
        scheduled = self.experiment.program.hyperparams(step, self.experiment.settings)
        if temperature is None:
            return scheduled
        return scheduled._replace(temperature=jnp.float32(temperature))

    def temperature(self, hyperparams: Hyperparams) -> float | None:
        """The temperature at which it estimates, if it reads one; the mean over layers."""
        if "temperature" not in self.entry.reads or hyperparams.temperature is None:
            return None
        return float(np.mean(self._learned_temperatures() or float(hyperparams.temperature)))


def reference(
    config: ConfigDict, dataset: Any, model: Params, batch: Example, step: jax.Array, num_keys: int
) -> tuple[Any, str, dict[str, float]]:
    """The gradient that the others are compared with, whose it is, its relative error by group.

    The exact one where the outcomes can be enumerated; else the mean of ``num_keys`` estimates of
    ``local_expectation``, or of ``rloo`` through several layers, where evaluations multiply. Where
    the loss draws more than the latents, such as a style, it is the mean of those of ``exact``.
    """
    try:
        subject = Subject(config, "exact", dataset)
    except ConfigError:  # the outcomes are too many
        subject = Subject(config, "local_expectation", dataset)
        if len(subject.experiment.task.latents) > 1:
            subject = Subject(config, "rloo", dataset)
    arguments = (model, subject.learned, batch, subject.hyperparams(step))
    if subject.entry.name == "exact":
        gradient_at = jax.jit(subject.gradient)
        one, other = (jax.device_get(gradient_at(random.key(i), *arguments)) for i in range(2))
        if all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other))):
            return one, "exact", {}
    keys = random.split(random.key(7), (num_keys, 1))
    zeros = jax.tree.map(jnp.zeros_like, model)
    gradient, squares, _ = diagnostics.measure_batch(subject.gradient, arguments, zeros, keys)
    groups = gradient | {diagnostics.ALL: gradient}
    errors = {}
    for group, squared in squares.items():
        length = sum(float(jnp.vdot(x, x)) for x in jax.tree.leaves(groups[group]))
        errors[group] = (max(float(squared) - length, 0.0) / num_keys / length) ** 0.5
    return gradient, subject.entry.name, errors


def points(subject: Subject, temperatures: Sequence[float]) -> list[float | None]:
    """The temperatures at which a subject is measured; None: that of the schedule."""
    return [None, *(temperatures if subject.chooses_temperature else ())]


def measure(
    subjects: Mapping[str, Subject],
    model: Params,
    step: jax.Array,
    batch: Example,
    temperatures: Sequence[float],
    truth: tuple[Any, str, dict[str, float]],
    *,
    key: jax.Array,
    num_keys: int,
    at_once: int = 1,
    timed_keys: int = 10,
    done: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Rows of all estimators at one point of the model, one for each group of parameters.

    Args:
      subjects: by name; :data:`TIMED_AGAINST` is among them.
      model: the model's parameters.
      step: of the schedules.
      batch: prepared examples.
      temperatures: beside that of the schedule, where it is a choice.
      truth: from :func:`reference`.
      key: of the estimates, the same for all.
      num_keys: estimates of each.
      at_once: estimates that are vectorised together.
      timed_keys: estimates in one timed call.
      done: called with an estimator's name after each of its :func:`points`.

    Returns:
      The rows, with variances at equal evaluations of f and at equal time. Averaging m estimates
      divides the variance by m: so times the evaluations of one estimate it is the variance that a
      budget of one evaluation buys. Times are of value and gradient, as training computes them.
    """
    target, of, errors = truth
    rows: list[Row] = []
    calls = {}
    for name, subject in subjects.items():
        for temperature in points(subject, temperatures):
            hyperparams = subject.hyperparams(step, temperature)
            arguments = (model, subject.learned, batch, hyperparams)
            moments = diagnostics.moments(
                subject.gradient, arguments, target, random.clone(key), num_keys, at_once
            )
            for group, of_group in moments.items():
                row: Row = {
                    "estimator": name,
                    "at": "schedule" if temperature is None else "chosen",
                    "temperature": subject.temperature(hyperparams),
                    "group": group,
                    "keys": num_keys,
                }
                for statistic, (value, low, high) in diagnostics.statistics(of_group).items():
                    row |= {statistic: value, f"{statistic}_low": low, f"{statistic}_high": high}
                rows.append(row | {"reference": of, "reference_error": errors.get(group)})
            done(name)
        params = {"model": model, "estimator": subject.learned}
        calls[name] = diagnostics.value_and_gradient_loop(
            subject.loss, (params, batch, subject.hyperparams(step)), timed_keys
        )
    with waiting("timing value and gradient, one estimator after the other"):
        seconds = diagnostics.interleaved(calls)
    for row in rows:
        name = row["estimator"]
        evaluations = subjects[name].evaluations
        relative_time = seconds[name] / seconds[TIMED_AGAINST]
        row |= {"evaluations": evaluations, "relative_time": relative_time}
        for kind, cost in (("evaluation", evaluations), ("time", relative_time)):
            for end in ("", "_low", "_high"):
                row[f"variance_per_{kind}{end}"] = row[f"variance{end}"] * cost
    return rows


def write(folder: Path, name: str, rows: Sequence[Row], about: Mapping[str, Any]) -> Path:
    """Write ``NAME.csv``, and ``NAME.json`` with the provenance and ``about``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", {"provenance": provenance(), **about})
    return write_csv(folder / f"{name}.csv", rows)
