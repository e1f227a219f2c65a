"""The learned parts of estimators, for a training loop: baselines, variances, control variates.

The gradient of an estimator's surrogate with respect to what is learned is that of the part's own
loss (:mod:`gsm.estimators`), so one backward pass serves the model and them. Here are their
parameters, how they join an estimator at one example, and the small optimiser that they have.
Each is used first and updated after: an estimate made with statistics of its own batch is biased.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random
from jax.tree_util import DictKey
from jaxtyping import Array, Float, Key

from gsm.estimators import Entry, Estimator, Hyperparams
from gsm.models import ScalarNetwork

BASELINES = ("constant", "moving_average", "network")

# Where a moving variance starts, in squared nats: a first signal of hundreds of nats, not centred
# yet, must come out small. Undivided it would saturate the encoder for good.
_INITIAL_VARIANCE = 1e4

Learned = dict[str, Any]


class LearnedParts(NamedTuple):
    """Functions that a training program is made of; without parts they do nothing."""

    init: Callable[[Key[Array, ""]], Learned]
    """Initial parts: none, or some of "moments" (baseline, variance), "baseline_network",
    "control" (eta, log_temperature), "control_network"."""
    attach: Callable[[Learned, Float[Array, " i"], Hyperparams], tuple[Estimator, Hyperparams]]
    """The estimator and hyperparameters of one example, whose input ``[i]`` networks read."""
    optimizer: optax.GradientTransformation
    """Of the parts, also of several layers' in one tree."""


def learned_parts(
    estimator: Entry,
    input_size: int,
    logits_shape: tuple[int, int],
    initial: Hyperparams,
    baseline: str = "moving_average",
    normalize: bool = False,
    decay: float = 0.9,
    learn_control: bool = True,
    hidden_sizes: Sequence[int] = (100,),
    learning_rate: float = 1e-3,
) -> LearnedParts:
    """What an estimator can learn, by the facts that its entry states.

    Args:
      estimator: registry entry.
      input_size: size i of the example that networks read.
      logits_shape: ``(n, k)`` of the variables.
      initial: hyperparameters at step 0, from which learned ones start; None: the estimator's own
        default, a baseline of 0.
      baseline: of the learning signal: "constant" (``hyperparams.baseline``), "moving_average", or
        "network" (a network of the input and a moving average). NVIL has the network whatever is
        asked.
      normalize: divide the signal by its moving standard deviation, if that exceeds 1. Only where
        all of the loss that the logits feel is in f: what stands beside it is not divided.
      decay: of the moving averages, per step.
      learn_control: let REBAR and RELAX learn eta and temperature by the variance.
      hidden_sizes: of the networks.
      learning_rate: of all but the averages, with Adam.

    Raises:
      ValueError: no such baseline.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}; got {baseline!r}")
    if "network" in estimator.learned:
        baseline = "network"
    network = ScalarNetwork(tuple(hidden_sizes))

    def start(name):
        value = getattr(initial, name)
        return jnp.float32(estimator.default(name) or 0.0 if value is None else value)

    sample = jnp.zeros(logits_shape)

    def init(key):
        key_baseline, key_control = random.split(key)
        parts: Learned = {}
        moments = {}
        if "baseline" in estimator.learned and baseline != "constant":
            moments["baseline"] = start("baseline")
        if "variance" in estimator.learned and normalize:
            moments["variance"] = jnp.float32(_INITIAL_VARIANCE)
        if moments:
            parts["moments"] = moments
        if "baseline" in estimator.learned and baseline == "network":
            parts["baseline_network"] = network.init(key_baseline, jnp.zeros(input_size))["params"]
        if "eta" in estimator.learned and learn_control:
            parts["control"] = {
                "eta": start("eta"),
                "log_temperature": jnp.log(start("temperature")),
            }
        if "control" in estimator.learned:
            inputs = _control_inputs(sample, jnp.zeros(input_size))
            parts["control_network"] = network.init(key_control, inputs)["params"]
        return parts

    def attach(parts, x, hyperparams):
        attached: Estimator = estimator.__call__
        hyperparams = hyperparams._replace(**parts.get("moments", {}))
        if "baseline_network" in parts:
            of_input = network.apply({"params": parts["baseline_network"]}, x)
            hyperparams = hyperparams._replace(baseline=hyperparams.baseline + of_input)
        if "control" in parts:
            hyperparams = hyperparams._replace(
                eta=parts["control"]["eta"],
                temperature=jnp.exp(parts["control"]["log_temperature"]),
            )
        if "control_network" in parts:

            def control(y):
                return network.apply({"params": parts["control_network"]}, _control_inputs(y, x))

            attached = functools.partial(estimator.__call__, control=control)
        return attached, hyperparams

    def label(parts):
        # By name, wherever it stands: several layers of latents keep theirs in one tree.
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "average" if DictKey("moments") in path else "adam", parts
        )

    optimizer = optax.identity()
    if estimator.learned:
        optimizer = optax.multi_transform(
            {"average": optax.sgd(1 - decay), "adam": optax.adam(learning_rate)}, label
        )
    return LearnedParts(init, attach, optimizer)


def summary(parts: Learned) -> dict[str, Float[Array, ""]]:
    """The scalars among the parts, for a log: "baseline", "deviation", "eta", "temperature".

    Those of several layers' parts, ``{"layer_0": ...}``, end in the layer's name.
    """
    scalars = {
        f"{name}_{layer}": value
        for layer, inner in parts.items()
        if layer.startswith("layer_")
        for name, value in summary(inner).items()
    }
    scalars |= parts.get("moments", {})
    if "variance" in scalars:
        scalars["deviation"] = jnp.sqrt(scalars.pop("variance"))
    if "control" in parts:
        scalars["eta"] = parts["control"]["eta"]
        scalars["temperature"] = jnp.exp(parts["control"]["log_temperature"])
    return scalars


def _control_inputs(y: Float[Array, "n k"], x: Float[Array, " i"]) -> Float[Array, " j"]:
    free = y[:, 0] if y.shape[1] == 2 else y.reshape(-1)
    return jnp.concatenate([free, x])
