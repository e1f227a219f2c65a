"""Learned parts of estimators for a training loop: baselines, variances, control variates.

The gradient of an estimator's surrogate with respect to a learned part is the gradient of the
part's own loss (:mod:`gsm.estimators`), so one backward pass serves the model and its estimator.
Here are the parameters of the parts, how they join an estimator at one example, and their
optimiser. Each part is used first and updated afterwards: an estimate made with statistics of its
own batch is biased. The loss of a minibatch must be the mean over its examples: with their sum a
moving average would take steps as many times too long, and diverge.

>>> import optax
>>> def f(z):
...     return jnp.sum((z[:, 0] - 0.45) ** 2)
>>> x, key = jnp.ones(5), jax.random.key(0)  # the input of one example
>>> parts = gsm.learned.learned_parts(gsm.ESTIMATORS["nvil"], x.size, (4, 3))
>>> def loss(params, key):
...     estimator, hyperparams = parts.attach(params["estimator"], x, gsm.Hyperparams())
...     return estimator(key, params["logits"], f, hyperparams)
>>> params = {"logits": jnp.zeros((4, 3)), "estimator": parts.init(jax.random.fold_in(key, 0))}
>>> gradient = jax.grad(loss)(params, jax.random.fold_in(key, 1))
>>> optimizer = gsm.learned.optimizer(decay=0.9)
>>> state = optimizer.init(params["estimator"])
>>> updates, state = optimizer.update(gradient["estimator"], state, params["estimator"])
>>> params["estimator"] = optax.apply_updates(params["estimator"], updates)
>>> sorted(params["estimator"]), list(gsm.learned.summary(params["estimator"]))
(['baseline_network', 'moments'], ['baseline'])

The examples assume ``import gsm, jax, jax.numpy as jnp``.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import random
from jax.tree_util import DictKey
from jaxtyping import Array, Float, Key

from gsm.registry import Entry, Estimator, Hyperparams

BASELINES = ("constant", "moving_average", "network")
"""What :func:`learned_parts` may subtract from a learning signal."""

# Where a moving variance starts, in squared nats: a first signal of hundreds of nats, not centred
# yet, must come out small. Undivided it would saturate the encoder for good.
_INITIAL_VARIANCE = 1e4

Learned = dict[str, Any]
"""The learned parts of an estimator, a pytree of arrays; empty if it learns nothing."""

# --- the network of baselines and control variates -------------------------------------------

Network = dict[str, dict[str, Array]]


def _init_network(key: Key[Array, ""], sizes: Sequence[int]) -> Network:
    """Parameters of dense layers ``sizes[0] -> ... -> sizes[-1] -> 1``, the last one zero.

    Names, keys and values are those that ``flax.linen.Dense`` gives, with which published runs were
    made: kernels of variance ``1 / fan_in`` (LeCun 1998), and biases of zero.
    """
    draw = jax.nn.initializers.lecun_normal()
    network: Network = {}
    for i, (fan_in, size) in enumerate(zip(sizes, [*sizes[1:], 1], strict=True)):
        last = i == len(sizes) - 1
        shape = (fan_in, size)
        kernel = jnp.zeros(shape) if last else draw(_key_of_layer(key, f"Dense_{i}"), shape)
        network[f"Dense_{i}"] = {"kernel": kernel, "bias": jnp.zeros(size)}
    return network


def _key_of_layer(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The key of a layer's kernel: as Flax derives it, from a hash of its path and a count of 1."""
    digest = hashlib.sha1(name.encode() + bytes([1])).digest()
    return random.fold_in(key, jnp.uint32(int.from_bytes(digest[:4], byteorder="big")))


def _apply_network(network: Network, x: Float[Array, " i"]) -> Float[Array, ""]:
    """The scalar output: tanh between the layers."""
    *hidden, last = (network[f"Dense_{i}"] for i in range(len(network)))
    for layer in hidden:
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return (x @ last["kernel"] + last["bias"])[0]


# --- the parts of an estimator ---------------------------------------------------------------


class LearnedParts(NamedTuple):
    """Functions that a training program is made of; without parts they do nothing.

    Args:
      init: function from a key to initial parts: none, or some of "moments" (baseline, variance),
        "baseline_network", "control" (eta, log_temperature), "control_network".
      attach: function of the parts, the input ``[i]`` of one example, which networks read, and the
        hyperparameters; it returns the estimator and the hyperparameters of that example.

    Returns:
      A tuple of these.

    Source: see :func:`learned_parts`.

    Example:
      >>> parts = gsm.learned.learned_parts(gsm.ESTIMATORS["reinmax"], 5, (4, 3))
      >>> parts.init(jax.random.key(0))  # ReinMax learns nothing
      {}
    """

    init: Callable[[Key[Array, ""]], Learned]
    attach: Callable[[Learned, Float[Array, " i"], Hyperparams], tuple[Estimator, Hyperparams]]


def learned_parts(
    estimator: Entry,
    input_size: int,
    logits_shape: tuple[int, int],
    initial: Hyperparams = Hyperparams(),  # noqa: B008, immutable
    baseline: str = "moving_average",
    normalize: bool = False,
    learn_control: bool = True,
    hidden_sizes: Sequence[int] = (100,),
) -> LearnedParts:
    """What an estimator can learn, by the facts that its entry states.

    Args:
      estimator: registry entry.
      input_size: size i of the example that networks read.
      logits_shape: ``(n, k)`` of the variables.
      initial: hyperparameters at step 0, where learned ones start; None is the estimator's own
        default, and 0 for a baseline.
      baseline: what is subtracted from the learning signal: "constant" (``hyperparams.baseline``),
        "moving_average", or "network" (a network of the input plus a moving average). NVIL has the
        network in any case.
      normalize: divide the signal by its moving standard deviation, if that exceeds 1. Only where
        all of the loss that depends on the logits is in f: what stands beside it is not divided.
      learn_control: learn the eta and the temperature of REBAR and RELAX, by the variance.
      hidden_sizes: sizes of the hidden layers of the networks.

    Returns:
      The functions of a training program.

    Raises:
      ValueError: there is no such baseline.

    Source: Mnih and Gregor 2014 (baseline and variance); Tucker et al. 2017, section 3.2 (eta and
    temperature); Grathwohl et al. 2018 (control variate).

    Cost: a network of the input for one example; learning eta or temperature takes the second
    derivatives that :func:`gsm.rebar` states.

    Example:
      >>> entry, initial = gsm.ESTIMATORS["rebar"], gsm.Hyperparams(temperature=0.5, eta=1.0)
      >>> parts = gsm.learned.learned_parts(entry, 5, (4, 3), initial)
      >>> learned = parts.init(jax.random.key(0))
      >>> estimator, hyperparams = parts.attach(learned, jnp.ones(5), initial)
      >>> float(hyperparams.temperature), float(hyperparams.eta)
      (0.5, 1.0)
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {', '.join(BASELINES)}; got {baseline!r}")
    if "network" in estimator.learned:
        baseline = "network"

    def start(name):
        value = getattr(initial, name)
        return jnp.float32(estimator.default(name) or 0.0 if value is None else value)

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
            parts["baseline_network"] = _init_network(key_baseline, (input_size, *hidden_sizes))
        if "eta" in estimator.learned and learn_control:
            parts["control"] = {"log_temperature": jnp.log(start("temperature"))}
            # An entry of RELAX with eta=None leaves f out, which may be a black box.
            if initial.eta is not None or estimator.default("eta") is not None:
                parts["control"]["eta"] = start("eta")
        if "control" in estimator.learned:
            inputs = _control_inputs(jnp.zeros(logits_shape), jnp.zeros(input_size))
            parts["control_network"] = _init_network(key_control, (inputs.size, *hidden_sizes))
        return parts

    def attach(parts, x, hyperparams):
        attached: Estimator = estimator.__call__
        hyperparams = hyperparams._replace(**parts.get("moments", {}))
        if "baseline_network" in parts:
            of_input = _apply_network(parts["baseline_network"], x)
            hyperparams = hyperparams._replace(baseline=hyperparams.baseline + of_input)
        if "control" in parts:
            hyperparams = hyperparams._replace(
                eta=parts["control"].get("eta"),
                temperature=jnp.exp(parts["control"]["log_temperature"]),
            )
        if "control_network" in parts:

            def control(y):
                return _apply_network(parts["control_network"], _control_inputs(y, x))

            attached = functools.partial(estimator.__call__, control=control)
        return attached, hyperparams

    return LearnedParts(init, attach)


def optimizer(decay: float = 0.9, learning_rate: float = 1e-3) -> optax.GradientTransformation:
    """Optimiser of the learned parts: moving averages for the moments, Adam for all else.

    Args:
      decay: decay of the moving averages, per step.
      learning_rate: learning rate of Adam.

    Returns:
      A transformation of the parts of one layer of latent variables, or of a tree of several
      layers' parts.

    Source: the gradient with respect to a moment is that of ``(signal - moment) ** 2 / 2``: descent
    with rate ``1 - decay`` is the moving average of Mnih and Gregor 2014, algorithm 1, where the
    loss is the mean over a minibatch.

    Example:
      >>> import optax
      >>> parts = {"moments": {"baseline": jnp.float32(0.0)}}
      >>> optimizer = gsm.learned.optimizer(decay=0.9)
      >>> gradient = {"moments": {"baseline": jnp.float32(-5.0)}}  # at a signal of 5
      >>> updates, _ = optimizer.update(gradient, optimizer.init(parts))
      >>> float(optax.apply_updates(parts, updates)["moments"]["baseline"])
      0.5
    """

    def label(parts):
        # By name, wherever it stands: several layers of latents keep theirs in one tree.
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "average" if DictKey("moments") in path else "adam", parts
        )

    return optax.multi_transform(
        {"average": optax.sgd(1 - decay), "adam": optax.adam(learning_rate)}, label
    )


def summary(parts: Learned) -> dict[str, Float[Array, ""]]:
    """The scalars among the learned parts, for a log.

    Args:
      parts: the parts of one layer of latent variables, or of several, ``{"layer_0": ...}``.

    Returns:
      Those there are of "baseline", "deviation", "eta", "temperature"; the names of several layers'
      scalars end in the name of the layer.

    Example:
      >>> parts = {"layer_0": {"moments": {"variance": jnp.float32(4.0)}}}
      >>> float(gsm.learned.summary(parts)["deviation_layer_0"])
      2.0
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
        if "eta" in parts["control"]:
            scalars["eta"] = parts["control"]["eta"]
        scalars["temperature"] = jnp.exp(parts["control"]["log_temperature"])
    return scalars


def _control_inputs(y: Float[Array, "n k"], x: Float[Array, " i"]) -> Float[Array, " j"]:
    free = y[:, 0] if y.shape[1] == 2 else y.reshape(-1)
    return jnp.concatenate([free, x])
