"""What a task gives the training loop, and what tasks share: the estimator of a configuration."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from experiments.tasks.checks import Checks, ConfigError
from gsm import learned
from gsm.registry import BERNOULLI_ONLY, ESTIMATORS, Entry, Hyperparams
from gsm.schedules import SCHEDULES

Params = Any
"""``{"model": ..., "estimator": ...}``: the model's parameters, the estimator's learned parts."""

Example = Any
Settings = Mapping[str, float | Float[Array, ""]]
"""Float fields of a config by their dotted names, which a sweep may trace."""


class Metric(NamedTuple):
    """A number measured on each held-out example; its mean over a split is reported."""

    measure: Callable[[Params, Key[Array, ""], Example], Float[Array, ""]]
    """``measure(params, key, example)`` of one stored example."""
    num_samples: int = 1
    """Samples drawn for one example: memory and time grow with it."""
    maximize: bool = False
    """Whether higher is better."""
    guess: float | None = None
    """Value for a model that knows nothing; a run that is ten times worse has diverged."""


class HeldOut(NamedTuple):
    """A split of held-out examples and what is measured on it."""

    examples: Example
    """Stored examples, arrays with leading axis N."""
    metrics: Mapping[str, Metric]


class Picture(NamedTuple):
    """Arrays for a figure at the end of a run.

    ``array [rows, columns, height, width]`` holds images in [0, 1]; ``array [n, k]`` holds shares
    of k classes of n variables.
    """

    array: Array
    title: str
    row_labels: tuple[str, ...] = ()


class Function(NamedTuple):
    """A function of a trained model, for one example."""

    call: Callable[..., Any]
    """``call(params, *inputs)``, without side effects."""
    inputs: tuple[Any, ...]
    """Shape and type of each input: pytrees of ``jax.ShapeDtypeStruct``, or :data:`KEY`."""


KEY = jax.eval_shape(jax.random.key, 0)
"""A random key as an input of a :class:`Function`."""


def floats(*shape: int) -> jax.ShapeDtypeStruct:
    """An array of float32 as an input of a :class:`Function`."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Task(NamedTuple):
    """What a task gives the training loop, and nothing else."""

    init: Callable[[Key[Array, ""]], Params]
    loss: Callable[[Params, Key[Array, ""], Example, Any], Float[Array, ""]]
    """``loss(params, key, batch, hyperparams)``: surrogate of a minibatch of prepared examples."""
    prepare: Callable[[Key[Array, ""], Example], Example]
    """One stored training example to one for the loss; draws a dynamic binarisation."""
    train: Example
    """Stored training examples, arrays with leading axis N."""
    held_out: Mapping[str, HeldOut]
    """Splits by name: "valid" is measured at each evaluation and chooses; "test" at the end; all
    others, such as "curve", at each evaluation, and choose nothing."""
    latents: tuple[tuple[int, int], ...] = ()
    """``(n, k)`` of the variables estimated; each layer's cost evaluates the next one's."""
    pictures: Callable[[Params, Key[Array, ""]], dict[str, Picture]] = lambda params, key: {}
    constants: Mapping[str, np.ndarray] = {}
    """What the networks know of the dataset, by name, for the functions of a trained model."""


def mean_over_examples(
    loss: Callable[..., Float[Array, ""]], num_estimates: int = 1
) -> Callable[..., Float[Array, ""]]:
    """Turn ``loss(params, key, example, hyperparams)`` into the mean loss of a minibatch.

    Args:
      loss: of one example.
      num_estimates: independent losses of each example, with keys of their own, that are averaged.
        What does not depend on the key, such as an encoder, is computed once for all of them.
    """

    def of_example(params, key, example, hyperparams):
        if num_estimates == 1:
            return loss(params, key, example, hyperparams)
        keys = jax.random.split(key, num_estimates)
        return jnp.mean(jax.vmap(loss, (None, 0, None, None))(params, keys, example, hyperparams))

    def of_minibatch(params, key, batch, hyperparams):
        size = jax.tree.leaves(batch)[0].shape[0]
        keys = jax.random.split(key, size)
        return jnp.mean(jax.vmap(of_example, (None, 0, 0, None))(params, keys, batch, hyperparams))

    return of_minibatch


def evenly_spaced(examples: Example, number: int) -> Example:
    """``number`` examples, or all that there are, of a set that may be sorted by class."""
    size = len(jax.tree.leaves(examples)[0])
    number = min(number, size)
    rows = jnp.arange(number) * size // number
    return jax.tree.map(lambda x: x[rows], examples)


# --- the estimator of a configuration --------------------------------------------------------

_TRACED = ("optimizer.learning_rate", "optimizer.final_share", "signal.constant", "control.eta")


def traced_fields(config: ConfigDict) -> list[str]:
    """Fields in which runs of one program may differ, beside the seed."""
    scheduled = [
        f"{group}.{name}"
        for group in ("temperature", "slope")
        for name, value in config[group].items()
        if isinstance(value, float)
    ]
    return [*_TRACED, *scheduled]


def settings(config: ConfigDict) -> dict[str, float]:
    """Values of :func:`traced_fields` by their dotted names."""
    values = {}
    for name in traced_fields(config):
        group, _, field = name.partition(".")
        values[name] = config[group][field]
    return values


def scheduled(config: ConfigDict, group: str) -> Callable[[Any, Settings], Any]:
    """``value(step, settings)`` of a group's schedule, made from the fields that it has names of.

    Raises:
      ConfigError: no such schedule, or the group lacks a field that the schedule requires.
    """
    name = config[group].schedule
    if name not in SCHEDULES:
        raise ConfigError(
            f"config.{group}.schedule must be one of {', '.join(SCHEDULES)}; got {name!r}"
        )
    make = SCHEDULES[name]
    traced, static = [], {}
    for parameter in inspect.signature(make).parameters.values():
        if parameter.name == "num_steps":
            static["num_steps"] = config.num_steps
        elif parameter.name == "update_every":
            static["update_every"] = config.temperature.update_every
        elif isinstance(config[group].get(parameter.name), float):
            traced.append(parameter.name)
        elif parameter.name in config[group]:
            static[parameter.name] = config[group][parameter.name]
        elif parameter.default is parameter.empty:
            field = f"config.{group}.{parameter.name}"
            raise ConfigError(f"config.{group}.schedule={name} needs the field {field}")

    def value(step, settings):
        return make(**{p: settings[f"{group}.{p}"] for p in traced}, **static)(step)

    return value


def hyperparams(config: ConfigDict) -> Callable[[int | Int[Array, ""], Settings], Hyperparams]:
    """``hyperparams(step, settings)`` of the estimators."""
    temperature, slope = scheduled(config, "temperature"), scheduled(config, "slope")

    def at(step, settings):
        return Hyperparams(
            temperature=temperature(step, settings),
            backward_temperature=settings["temperature.backward"],
            baseline=settings["signal.constant"],
            slope=slope(step, settings),
            eta=settings["control.eta"],
        )

    return at


def learned_parts(
    config: ConfigDict, entry: Entry, input_size: int, logits_shape: tuple[int, int]
) -> learned.LearnedParts:
    """What an estimator learns at one layer of latents.

    Args:
      config: the configuration.
      entry: the estimator, from :func:`estimator`.
      input_size: size of the input that baselines and control variates read.
      logits_shape: ``(n, k)``.
    """
    return learned.learned_parts(
        entry,
        input_size,
        logits_shape,
        hyperparams(config)(0, settings(config)),
        baseline=config.signal.baseline,
        normalize=config.signal.normalize,
        learn_control=config.control.learn,
        hidden_sizes=tuple(config.learned.hidden_sizes),
    )


def estimator(config: ConfigDict) -> Entry:
    """The registry entry of a configuration, with its number of samples."""
    entry = ESTIMATORS[config.estimator]
    if entry.num_samples is None:
        return entry
    samples = config.num_samples or entry.num_samples
    return entry._replace(function=functools.partial(entry.function, num_samples=samples))


def check_estimator(checks: Checks, num_variables: int, num_classes: int) -> None:
    """Raise ConfigError for an estimator that cannot serve so many variables and classes."""
    from gsm.estimators import MAX_OUTCOMES

    name = checks.config.estimator
    if name in BERNOULLI_ONLY and num_classes != 2:
        raise ConfigError(
            f"config.estimator={name} needs two classes; config.model.num_classes is "
            f"{num_classes}. Try configs/bern_vae.py"
        )
    exponent = min(num_variables, MAX_OUTCOMES.bit_length())  # more are too many in any case
    if name == "exact" and num_classes**exponent > MAX_OUTCOMES:
        raise ConfigError(
            f"config.estimator=exact enumerates num_classes ** num_latents outcomes (of all "
            f"layers), {MAX_OUTCOMES:,} at most; the model has {num_classes} ** {num_variables}. "
            f"Lower config.model.num_latents"
        )


def check_num_samples(checks: Checks, several: bool = False) -> None:
    """Raise ConfigError for a number of samples that the estimator does not take.

    Args:
      checks: of the configuration.
      several: whether a multi-sample objective takes them instead.
    """
    checks.whole(0, "num_samples")
    name, samples = checks.config.estimator, checks.config.num_samples
    averaging = [other for other, entry in ESTIMATORS.items() if entry.num_samples is not None]
    if samples and not several and name not in averaging:
        raise ConfigError(
            f"config.num_samples is for {', '.join(averaging)}, and for the objectives vimco and "
            f"iwae; {name} takes one sample"
        )
    if samples == 1 and name in ("rloo", "arms"):
        raise ConfigError(
            f"config.num_samples must be at least 2 for {name}, whose samples are each other's "
            f"baselines; got 1"
        )
