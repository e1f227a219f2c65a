"""Structured prediction of Jang et al. 2017, section 4.1: an image's lower half from its upper.

Layers of latents with linear maps between them, a sigmoid belief network where the latents are
Bernoulli units.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from configs import defaults
from experiments.data import Dataset
from experiments.tasks import base
from experiments.tasks.base import KEY, Function, Picture, Task, floats
from experiments.tasks.checks import Checks
from experiments.tasks.images import (
    UNITS,
    bound_splits,
    center,
    check_images,
    images_of,
    output_bias,
)
from experiments.tasks.networks import MLP, Latents
from gsm import distributions
from gsm.estimators import Cost
from gsm.registry import Estimator, Hyperparams

# --- configuration ---------------------------------------------------------------------------


def default_config(dataset: str) -> ConfigDict:
    """Fields of the task on a dataset, with their defaults."""
    config = defaults.on_images("sbn", dataset)
    defaults.linear_maps(config.model)
    config.model.num_layers = 2  # of latents, with linear maps between them
    config.temperature.rate = 0.0  # the paper's temperature is 1 throughout
    return config


def check(config: ConfigDict, checks: Checks) -> None:
    """Raise ConfigError for values that the task cannot serve."""
    checks.one_of("select", ("nll",))
    checks.one_of("model.units", UNITS)
    checks.whole(1, "model.num_layers", high=100)
    check_images(checks)
    base.check_num_samples(checks)
    variables = config.model.num_latents * config.model.num_layers
    base.check_estimator(checks, variables, config.model.num_classes)


# --- task ------------------------------------------------------------------------------------


def network(config: ConfigDict, mean_image: np.ndarray) -> "StructuredNetwork":
    """The networks of a configuration, given the mean training image ``[h, w]``."""
    upper, lower = halves(mean_image)
    return StructuredNetwork(
        output_size=lower.size,
        num_layers=config.model.num_layers,
        num_latents=config.model.num_latents,
        num_classes=config.model.num_classes,
        units=config.model.units,
        input_center=center(config, upper),
        output_bias=output_bias(config, lower),
    )


def halves(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upper half of an image ``[h, w]``, which is given, and the lower one, predicted."""
    middle = len(image) // 2
    return image[:middle], image[middle:]


def functions(config: ConfigDict, mean_image: np.ndarray) -> dict[str, Function]:
    """Functions of a trained model.

    ``encode``: logits ``[n, k]`` of the first layer given the upper half ``[i]`` of an image.
    ``decode``: pixel probabilities ``[o]`` of the lower half given a sample ``[n, k]`` of the last
    layer. ``sample``: those at one sample of all layers given the upper half.
    """
    model = network(config, mean_image)

    def encode(params, x):
        return model.bind({"params": params["model"]}).first_logits(x)

    def decode(params, z):
        return jax.nn.sigmoid(model.bind({"params": params["model"]}).decode(z))

    def sample(params, key, x):
        return jax.nn.sigmoid(predict_logits(model, params["model"], key, x, 1)[0])

    upper = floats(halves(mean_image)[0].size)
    latents = floats(config.model.num_latents, config.model.num_classes)
    return {
        "encode": Function(encode, (upper,)),
        "decode": Function(decode, (latents,)),
        "sample": Function(sample, (KEY, upper)),
    }


def build(config: ConfigDict, dataset: Dataset) -> Task:
    """The task of a checked configuration on a dataset."""
    images = images_of(config, dataset)
    model = network(config, images.mean)
    mean = jnp.asarray(halves(images.mean)[0].ravel(), jnp.float32)
    half = mean.size
    entry = base.estimator(config)
    shape = (config.model.num_latents, config.model.num_classes)
    size = config.model.num_latents * config.model.num_classes
    # Each layer has a learning signal of its own: what a baseline can know differs.
    parts = [
        base.learned_parts(config, entry, half if layer == 0 else size, shape)
        for layer in range(config.model.num_layers)
    ]

    def init(key):
        keys = random.split(random.fold_in(key, 1), len(parts))
        learned = {
            f"layer_{i}": part.init(k) for i, (part, k) in enumerate(zip(parts, keys, strict=True))
        }
        return {"model": model.init(key, mean)["params"], "estimator": learned}

    def loss(params, key, image, hyperparams):
        def at_layer(layer, inputs, mean_field):
            inputs = inputs - mean if layer == 0 else inputs
            learned = params["estimator"][f"layer_{layer}"]
            estimator, at = parts[layer].attach(learned, inputs, hyperparams)
            if entry.takes("mean_field"):
                estimator = functools.partial(estimator, mean_field=mean_field)
            return estimator, at

        return layered_loss(model, params["model"], key, image[:half], image[half:], at_layer)

    def weigh(params, key, image, num_samples):
        x, y = image[:half], image[half:]
        return log_weights(model, params["model"], key, x, y, num_samples)

    return Task(
        init=init,
        loss=base.mean_over_examples(loss, config.num_estimates),
        prepare=images.prepare,
        train=images.train.train.images,
        held_out=bound_splits(
            config, images, weigh, guess=(images.mean.size - half) * math.log(2),
            valid={}, test={},
        ),
        latents=(shape,) * len(parts),
        pictures=lambda params, key: _pictures(model, params["model"], key, images, half),
        constants={"mean_image": images.mean},
    )  # fmt: skip


def _pictures(model, params, key, images, half) -> dict[str, Picture]:
    """Test images, and several predictions of their lower halves from the upper ones."""
    key_rows, key_predict = random.split(key)
    originals = random.choice(key_rows, images.to_picture(), (10,), replace=False)

    def predict(key, image):
        lower = jax.nn.sigmoid(predict_logits(model, params, key, image[:half], 6))
        return jnp.concatenate([jnp.tile(image[:half], (6, 1)), lower], axis=1)

    predictions = jax.vmap(predict, out_axes=1)(random.split(key_predict, 10), originals)
    given = originals.at[:, half:].set(0)
    rows = jnp.stack([originals, given, *predictions, jnp.mean(predictions, axis=0)])
    labels = ("image", "given", *(f"sample {i + 1}" for i in range(6)), "their mean")
    return {
        "completions": Picture(
            rows.reshape(*rows.shape[:2], *images.mean.shape),
            f"Lower halves predicted from upper ones ({images.pictured} images)",
            labels,
        )
    }


# --- networks --------------------------------------------------------------------------------


class StructuredNetwork(nn.Module):
    """Layers of categorical latents between an input and the output that they predict.

    ``p(y | x) = sum_h p(h_1 | x) p(h_2 | h_1) ... p(y | h_L)``, each conditional one linear map: a
    sigmoid belief network where the latents are Bernoulli units.

    Attributes:
      output_size: number of pixels predicted.
      num_layers: stochastic layers L.
      num_latents: variables n of each layer.
      num_classes: classes of each, k; 2 makes Bernoulli units (:class:`Latents`).
      units: how the maps read them, "zero_one" or "plus_minus_one".
      input_center: subtracted from the input.
      output_bias: initial bias of the pixel logits.
    """

    output_size: int
    num_layers: int
    num_latents: int
    num_classes: int
    units: str = "zero_one"
    input_center: Float[Array, " i"] | None = None
    output_bias: Float[Array, " o"] | None = None

    def setup(self):
        self.latents = Latents(self.num_latents, self.num_classes, self.units)
        self.maps = [MLP((), self.latents.size) for _ in range(self.num_layers)]
        self.decoder = MLP((), self.output_size, self.output_bias)

    def first_logits(self, x: Float[Array, " i"]) -> Float[Array, "n k"]:
        """Logits of the first layer given the input."""
        if self.input_center is not None:
            x = x - self.input_center
        return self.latents.logits(self.maps[0](x))

    def next_logits(
        self, layer: int, z: Float[Array, "n k"] | Int[Array, "m n"]
    ) -> Float[Array, "*m n k"]:
        """Logits of layer ``layer`` (from 1) given a sample of the layer before, or m of them."""
        return self.latents.logits(self.maps[layer](self.latents.inputs(z)))

    def decode(self, z: Float[Array, "n k"] | Int[Array, "m n"]) -> Float[Array, "*m o"]:
        """Pixel logits given a sample of the last layer, or the classes of m samples."""
        return self.decoder(self.latents.inputs(z))

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        """Touch every parameter, for ``init``."""
        z = jax.nn.softmax(self.first_logits(x), axis=-1)
        for layer in range(1, self.num_layers):
            z = jax.nn.softmax(self.next_logits(layer, z), axis=-1)
        return self.decode(z)


# --- loss and metrics, each for one example ------------------------------------------------------

AtLayer = Callable[[int, Float[Array, " i"], Cost], tuple[Estimator, Hyperparams]]
"""The estimator and hyperparameters of a stochastic layer, given the layer's input and the cost of
its latents with all later layers at their means."""


def layered_loss(
    model: StructuredNetwork,
    params,
    key: Key[Array, ""],
    x: Float[Array, " i"],
    y: Float[Array, " o"],
    at_layer: AtLayer,
) -> Float[Array, ""]:
    """Surrogate of ``E[-log p(y | h)]`` over the layers of latents given x, in nats.

    The layers nest by closure: what follows a layer is its cost, whose surrogate's value is the
    layer's learning signal. So any estimator serves, and each layer may have another.

    Args:
      model: the networks.
      params: their parameters.
      key: random key.
      x: given pixels ``[i]``.
      y: predicted pixels ``[o]``, binary.
      at_layer: the estimator of each layer.

    Returns:
      The loss at one sample of the layers; its gradient with respect to ``params`` is the estimate.

    Source: Jang et al. 2017, section 4.1, with m = 1; Raiko et al. 2015.
    """
    net = model.bind({"params": params})

    def cost(layer, logits, inputs, key):
        """Surrogate of all from a layer on, given its logits."""
        key_here, key_after = random.split(key)

        def after(z):
            if layer + 1 == model.num_layers:
                return -distributions.bernoulli_log_prob(y, net.decode(z))
            # An estimator may evaluate this several times: with the same noise, which is sound.
            key = random.clone(key_after)
            return cost(layer + 1, net.next_logits(layer + 1, z), z.reshape(-1), key)

        def mean_field(z):
            for later in range(layer + 1, model.num_layers):
                z = distributions.softmax(net.next_logits(later, z))
            return -distributions.bernoulli_log_prob(y, net.decode(z))

        estimator, hyperparams = at_layer(layer, inputs, mean_field)
        return estimator(key_here, logits, after, hyperparams)

    return cost(0, net.first_logits(x), x, key)


def predict_logits(
    model: StructuredNetwork, params, key: Key[Array, ""], x: Float[Array, " i"], num_samples: int
) -> Float[Array, "m o"]:
    """Pixel logits of m predictions: hard samples, layer after layer."""
    net = model.bind({"params": params})
    keys = random.split(key, model.num_layers)
    z = distributions.inverse_cdf_classes(keys[0], net.first_logits(x), (num_samples,))
    for layer in range(1, model.num_layers):
        z = distributions.inverse_cdf_classes(keys[layer], net.next_logits(layer, z))
    return net.decode(z)


def log_weights(
    model: StructuredNetwork,
    params,
    key: Key[Array, ""],
    x: Float[Array, " i"],
    y: Float[Array, " o"],
    num_samples: int,
) -> Float[Array, " m"]:
    """``log p(y | h)`` in nats at m hard samples of the layers given x.

    Samples come from the model itself, so no other term weighs them; the multi-sample bound of
    these is the log-mean-exp of section 4.1 (NOTE(paper): which prints a mean of logarithms, the
    same at m = 1 only).
    """
    logits = predict_logits(model, params, key, x, num_samples)
    return jax.vmap(distributions.bernoulli_log_prob, (None, 0))(y, logits)
