"""Semi-supervised classification of Jang et al. 2017, section 4.3.

A class and a Gaussian style generate an image; the class of most training images is latent, and
any estimator carries the gradient through it. The classifier may also learn from augmented images
and from consistency between an image and its augmentation (Sohn et al. 2020, FixMatch).
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from configs import defaults
from experiments import data
from experiments.data import Dataset
from experiments.tasks import base, convolutions
from experiments.tasks.augmentation import random_affine
from experiments.tasks.base import KEY, Function, Metric, Picture, Task, floats
from experiments.tasks.checks import Checks
from experiments.tasks.images import bound_splits, check_images, images_of, output_bias
from experiments.tasks.networks import MLP
from gsm import distributions
from gsm.estimators import exact
from gsm.registry import Estimator, Hyperparams

# --- configuration ---------------------------------------------------------------------------


def default_config(dataset: str) -> ConfigDict:
    """Fields of the task on a dataset, with their defaults."""
    config = defaults.on_images("semisupervised", dataset)
    config.select = "accuracy"
    config.alpha = 1.0  # weight of the classification loss of labelled images
    # Weight of the class's entropy in the bound of an unlabelled image. NOTE(paper): 1 in equation
    # 10; with another weight the loss is no bound. At -1, as some published code has it, the
    # classifier is drawn to certainty.
    config.entropy_weight = 1.0
    config.labels = labels = ConfigDict()  # the labelled images
    labels.number = 100  # how many, as many of each class
    labels.seed = 0  # of their choice among the training images
    labels.batch_size = 0  # labelled images in a step, drawn without replacement; 0: all
    # Weight of their bound on log p(x, y); they are among the unlabelled as well. NOTE(paper):
    # equation 11 has a mean of it, 1; sums over the data set (Kingma et al. 2014) would weigh it
    # 100/50,000.
    labels.weight = 1.0
    # Random changes of the images that the classifier learns from, not of those that the
    # generative model sees; each draw is uniform, 0: none.
    config.augmentation = augmentation = ConfigDict()
    augmentation.shift = 0.0  # at most, pixels, in each direction
    augmentation.rotation = 0.0  # at most, degrees
    augmentation.scale = 0.0  # at most, share of the size
    augmentation.shear = 0.0  # at most, pixels of a row for each row
    # Cross-entropy between an unlabelled image's class and that of its augmentation.
    config.consistency = consistency = ConfigDict()
    consistency.weight = 0.0  # of this loss; 0: none
    consistency.threshold = 0.95  # probability of the class from which on an image counts
    config.data.binarization = "dynamic"
    config.model.num_latents = 1  # the class
    config.model.style_size = 32  # width of the Gaussian z
    config.temperature.rate = 3e-5
    config.temperature.update_every = 2_000
    config.evaluation.valid_samples = 1
    config.evaluation.test_samples = 1
    return config


def check(config: ConfigDict, checks: Checks) -> None:
    """Raise ConfigError for values that the task cannot serve."""
    checks.one_of("select", ("accuracy", "nll"))
    check_images(checks)
    checks.require("model.num_latents", config.model.num_latents == 1, "1: the class")
    checks.whole(1, "labels.number", "model.style_size")
    checks.whole(0, "labels.seed", high=2**32 - 1)
    some = 0 <= config.labels.batch_size <= config.labels.number
    checks.require(
        "labels.batch_size", some, f"between 0 (all) and the {config.labels.number} labels"
    )
    checks.not_negative(
        "alpha", "labels.weight", "augmentation.shift", "augmentation.rotation",
        "consistency.weight",
    )  # fmt: skip
    checks.below_one("augmentation.scale", "augmentation.shear")
    checks.share("consistency.threshold")
    base.check_num_samples(checks)
    base.check_estimator(checks, config.model.num_latents, config.model.num_classes)


# --- task ------------------------------------------------------------------------------------


def network(config: ConfigDict, mean_image: np.ndarray) -> "SemiSupervisedVAE":
    """The networks of a configuration, given the mean training image ``[h, w]``."""
    return SemiSupervisedVAE(
        image_shape=mean_image.shape,
        num_classes=config.model.num_classes,
        style_size=config.model.style_size,
        output_bias=output_bias(config, mean_image),
    )


def functions(config: ConfigDict, mean_image: np.ndarray) -> dict[str, Function]:
    """Functions of a trained model.

    ``classify``: class probabilities ``[k]`` of an image ``[d]``. ``encode``: its latents, the
    logits "class" ``[1, k]`` and the mean "style" ``[s]`` given the likeliest class. ``decode``:
    pixel probabilities ``[d]`` of a class, one-hot, and a style, under the same names. ``sample``:
    those of a class and a style drawn from their priors.
    """
    model = network(config, mean_image)

    def of_image(params, x):
        return classify(model, params["model"], x)

    def encode(params, x):
        net = model.bind({"params": params["model"]})
        logits = net.classify(x)
        likeliest = jax.nn.one_hot(jnp.argmax(logits, axis=-1), model.num_classes)
        return {"class": logits, "style": net.encode(x, likeliest)[0]}

    def decode(params, z):
        return generate(model, params["model"], z["class"], z["style"])

    def sample(params, key):
        key_class, key_style = random.split(key)
        y = distributions.inverse_cdf(key_class, jnp.zeros((1, model.num_classes)))
        return generate(model, params["model"], y, random.normal(key_style, (model.style_size,)))

    image = floats(mean_image.size)
    latents = {"class": floats(1, model.num_classes), "style": floats(model.style_size)}
    return {
        "classify": Function(of_image, (image,)),
        "encode": Function(encode, (image,)),
        "decode": Function(decode, (latents,)),
        "sample": Function(sample, (KEY,)),
    }


def build(config: ConfigDict, dataset: Dataset) -> Task:
    """The task of a checked configuration on a dataset.

    Raises:
      DataError: the dataset has no labels, or too few of a class.
    """
    images = images_of(config, dataset)
    num_classes = config.model.num_classes
    labels = config.labels
    train = images.train.train
    chosen, classes = data.labelled_subset(train.labels, labels.number, num_classes, labels.seed)
    labelled_images = jnp.asarray(train.images[chosen])
    labelled_classes = jax.nn.one_hot(classes, num_classes)[:, None]
    model = network(config, images.mean)
    mean = jnp.asarray(images.mean.ravel(), jnp.float32)
    entry = base.estimator(config)
    parts = base.learned_parts(config, entry, images.mean.size, (1, num_classes))
    augments = any(value for _, value in config.augmentation.items())
    agrees = config.consistency.weight > 0

    def augment(key, stored):
        if not augments:
            return images.prepare(key, stored)
        key_affine, key_image = random.split(key)
        image = stored.reshape(images.mean.shape).astype(jnp.float32)
        changed = random_affine(key_affine, image, **config.augmentation)
        return images.prepare(key_image, changed.reshape(-1))

    def prepare(key, stored):
        keys = random.split(key)
        example = {"image": images.prepare(keys[0], stored)}
        return example | ({"augmented": augment(keys[1], stored)} if agrees else {})

    def init(key):
        learned = parts.init(random.fold_in(key, 1))
        return {"model": model.init(key, mean)["params"], "estimator": learned}

    def of_unlabelled(params, key, example, hyperparams):
        x = example["image"]
        estimator, hyperparams = parts.attach(params["estimator"], x - mean, hyperparams)
        bound = unlabelled_loss(
            model, params["model"], key, x, estimator, hyperparams, config.entropy_weight
        )
        if not agrees:
            return bound
        return bound + config.consistency.weight * consistency_loss(
            model, params["model"], x, example["augmented"], config.consistency.threshold
        )

    mean_unlabelled = base.mean_over_examples(of_unlabelled, config.num_estimates)

    def of_labelled(params, key, stored, y):
        key_image, key_augmented, key_style = random.split(key, 3)
        x = seen = images.prepare(key_image, stored)
        if augments:
            seen = augment(key_augmented, stored)
        loss = config.alpha * classification_loss(model, params["model"], seen, y)
        if labels.weight == 0:  # then it need not be computed
            return loss
        return loss + labels.weight * labelled_loss(model, params["model"], key_style, x, y)

    def loss(params, key, batch, hyperparams):
        key, key_labelled = random.split(key)
        key_rows, key_losses = random.split(key_labelled)
        size = labels.batch_size or len(chosen)
        rows = random.choice(key_rows, len(chosen), (size,), replace=False)
        labelled = jax.vmap(of_labelled, (None, 0, 0, 0))(
            params, random.split(key_losses, size), labelled_images[rows], labelled_classes[rows]
        )
        return mean_unlabelled(params, key, batch, hyperparams) + jnp.mean(labelled)

    def measure_accuracy(params, key, example):
        probabilities = classify(model, params["model"], images.to_float(example["image"]))
        return (jnp.argmax(probabilities) == example["label"]).astype(jnp.float32)

    def measure_marginal_nll(params, key, example):
        return -marginal_bound(model, params["model"], key, images.to_float(example["image"]))

    accuracy = Metric(measure_accuracy, maximize=True)
    return Task(
        init=init,
        loss=loss,
        prepare=prepare,
        train=train.images,
        held_out=bound_splits(
            config, images,
            lambda params, *arguments: log_weights(model, params["model"], *arguments),
            guess=images.mean.size * math.log(2),
            valid={"accuracy": accuracy},
            test={"accuracy": accuracy, "marginal_nll": Metric(measure_marginal_nll, num_classes)},
            labelled=True,
        ),
        latents=((1, num_classes),),
        pictures=lambda params, key: _pictures(model, params["model"], key, images.mean.shape),
        constants={"mean_image": images.mean},
    )  # fmt: skip


def _pictures(model, params, key, shape) -> dict[str, Picture]:
    """Images of all classes (columns) in a few styles (rows), drawn from the prior of z."""
    styles = random.normal(key, (6, model.style_size))
    classes = jnp.eye(model.num_classes)[:, None]
    draw = functools.partial(generate, model, params)
    drawn = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))(classes, styles)
    return {
        "analogies": Picture(
            drawn.reshape(*drawn.shape[:2], *shape),
            "One style in each row, one class in each column",
        )
    }


# --- networks --------------------------------------------------------------------------------


class Convolution(nn.Module):
    """``[h, w, i] -> [p, q, o]``, zeros around the image ("SAME"), with a bias.

    Attributes:
      channels: o.
      size: side of the kernel.
      stride: in both directions; the output's sides are the input's divided, or multiplied, by it.
      transposed: whether it is the transposed convolution.
    """

    channels: int
    size: int
    stride: int = 1
    transposed: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "h w i"], constants: Float[Array, " c"] | None = None
    ) -> Float[Array, "p q o"]:
        """Convolve an image.

        Args:
          x: the image.
          constants: values of further channels, after those of x, that are constant over the image.
            They cost one product ``[c] [c, p q o]``, whatever c: nothing is convolved for each
            example.
        """
        own = x.shape[-1]
        width = own + (0 if constants is None else constants.size)
        shape = (self.size, self.size, width, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        operation = convolutions.convolve_transposed if self.transposed else convolutions.convolve
        y = operation(x, kernel[:, :, :own], self.stride) + bias[None, None]
        if constants is None:
            return y
        of_ones = kernel[:, :, own:].reshape(self.size, self.size, 1, -1)
        each = operation(jnp.ones_like(x[:, :, :1]), of_ones, self.stride)
        return y + jnp.einsum("c,pqco->pqo", constants, each.reshape(*y.shape[:2], -1, y.shape[2]))


class ConvolutionalEncoder(nn.Module):
    """Convolutions of halving size with ReLU, then a linear map (Jang et al. 2017, figure 7 a, b).

    Attributes:
      channels: of each convolution.
      output_size: width of the output.
    """

    channels: Sequence[int]
    output_size: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "h w i"], constants: Float[Array, " c"] | None = None
    ) -> Float[Array, " o"]:
        for channels in self.channels:
            x = nn.relu(Convolution(channels, size=5, stride=2)(x, constants))
            constants = None
        return nn.Dense(self.output_size)(x.reshape(-1))


class ConvolutionalDecoder(nn.Module):
    """A linear map to one pixel, transposed convolutions of doubling size, a linear map (7 c).

    Attributes:
      width: channels of the first pixel.
      channels: of each transposed convolution.
      output_size: width of the output.
      output_bias: initial bias of the output.
    """

    width: int
    channels: Sequence[int]
    output_size: int
    output_bias: Float[Array, " d"] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " d"]:
        x = nn.relu(nn.Dense(self.width)(x)).reshape(1, 1, self.width)
        for channels in self.channels:
            x = nn.relu(Convolution(channels, size=3, stride=2, transposed=True)(x))
        return MLP((), self.output_size, self.output_bias)(x.reshape(-1))


class SemiSupervisedVAE(nn.Module):
    """A classifier ``q(y | x)``, an encoder ``q(z | x, y)`` and a decoder ``p(x | y, z)``.

    The networks of Jang et al. 2017, appendix A, figure 7; z is a Gaussian with
    a standard normal prior, y one categorical with a uniform one.

    Attributes:
      image_shape: height h and width w of the images.
      num_classes: k.
      style_size: width s of z.
      channels: of the convolutions of classifier and encoder.
      decoder_width: channels of the decoder's first pixel.
      decoder_channels: of its transposed convolutions.
      output_bias: initial bias of the pixel logits.
    """

    image_shape: tuple[int, int]
    num_classes: int
    style_size: int
    channels: Sequence[int] = (32, 64, 128)
    decoder_width: int = 64
    decoder_channels: Sequence[int] = (128, 64, 32, 32)
    output_bias: Float[Array, " d"] | None = None

    def setup(self):
        self.classifier = ConvolutionalEncoder(self.channels, self.num_classes)
        # NOTE(paper): "FC 32" is read as the width of each of mean and log-variance.
        self.encoder = ConvolutionalEncoder(self.channels, 2 * self.style_size)
        self.decoder = ConvolutionalDecoder(
            self.decoder_width, self.decoder_channels, math.prod(self.image_shape), self.output_bias
        )

    def classify(self, x: Float[Array, " d"]) -> Float[Array, "1 k"]:
        """Logits of the class of an image."""
        return self.classifier(x.reshape(*self.image_shape, 1))[None]

    def encode(
        self, x: Float[Array, " d"], y: Float[Array, "1 k"]
    ) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
        """Mean and logarithm of the variance of z, given an image and its class.

        NOTE(paper): how the class joins the image is not said; here as k constant channels.
        """
        mean, log_variance = jnp.split(self.encoder(x.reshape(*self.image_shape, 1), y[0]), 2)
        return mean, log_variance

    def decode(self, y: Float[Array, "1 k"], z: Float[Array, " s"]) -> Float[Array, " d"]:
        """Pixel logits given a class and z."""
        return self.decoder(jnp.concatenate([y[0], z]))

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Touch every parameter, for ``init``."""
        y = jax.nn.softmax(self.classify(x), axis=-1)
        mean, _ = self.encode(x, y)
        return self.decode(y, mean)


# --- loss and metrics, each for one example ------------------------------------------------------


def _cost(model, params, key, x, y) -> Float[Array, ""]:
    """``-log p(x | y, z)`` at one reparameterised z, and ``KL[q(z | x, y) || p(z)]``, in nats."""
    net = model.bind({"params": params})
    mean, log_variance = net.encode(x, y)
    z = mean + jnp.exp(log_variance / 2) * random.normal(key, mean.shape)
    rate = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance)
    return rate - distributions.bernoulli_log_prob(x, net.decode(y, z))


def labelled_loss(
    model: SemiSupervisedVAE,
    params,
    key: Key[Array, ""],
    x: Float[Array, " d"],
    y: Float[Array, "1 k"],
) -> Float[Array, ""]:
    """The negative evidence lower bound on ``log p(x, y)`` of an image and its class, in nats.

    Args:
      model: the networks.
      params: their parameters.
      key: random key.
      x: binary image ``[d]``.
      y: its class, one-hot.

    Source: Jang et al. 2017, equation 8; Kingma et al. 2014, equation 6.
    """
    return _cost(model, params, key, x, y) + jnp.log(model.num_classes)


def unlabelled_loss(
    model: SemiSupervisedVAE,
    params,
    key: Key[Array, ""],
    x: Float[Array, " d"],
    estimator: Estimator,
    hyperparams: Hyperparams,
    entropy_weight: float = 1.0,
) -> Float[Array, ""]:
    """Surrogate of the negative evidence lower bound on ``log p(x)`` of one image, in nats.

    Args:
      model: the networks.
      params: their parameters.
      key: random key.
      x: binary image ``[d]``.
      estimator: carries the gradient through the class; ``exact`` is marginalisation.
      hyperparams: the estimator's.
      entropy_weight: of the entropy of q(y | x); with 1 it is the bound.

    Source: Jang et al. 2017, equations 9 and 10; Kingma et al. 2014, equation 7. Cost: one
    evaluation of encoder and decoder for each evaluation of f.
    """
    key_class, key_style = random.split(key)
    logits = model.bind({"params": params}).classify(x)

    def cost(y):
        # An estimator may evaluate this several times: with the same noise, which is sound.
        return _cost(model, params, random.clone(key_style), x, y)

    # KL[q(y | x) || p(y)] in closed form, whatever the estimator.
    rate = distributions.kl_divergence(logits, jnp.zeros_like(logits))
    if entropy_weight != 1:
        rate += (1 - entropy_weight) * distributions.entropy(logits)
    return estimator(key_class, logits, cost, hyperparams) + rate


def classification_loss(
    model: SemiSupervisedVAE, params, x: Float[Array, " d"], y: Float[Array, "1 k"]
) -> Float[Array, ""]:
    """``-log q(y | x)`` of an image's class, in nats."""
    return -distributions.log_prob(y, model.bind({"params": params}).classify(x))


def consistency_loss(
    model: SemiSupervisedVAE,
    params,
    x: Float[Array, " d"],
    augmented: Float[Array, " d"],
    threshold: float,
) -> Float[Array, ""]:
    """``-log q(y' | augmented)`` in nats, where y' is the most probable class of x as it is.

    Args:
      model: the networks.
      params: their parameters.
      x: binary image ``[d]``.
      augmented: the same image, changed in a way that leaves its class.
      threshold: the probability that y' must have for the image to count; the loss is 0 below it.

    Source: Sohn et al. 2020 (FixMatch), equation 4. Nothing flows through y'.
    """
    logits = jax.lax.stop_gradient(model.bind({"params": params}).classify(x))
    y = jax.nn.one_hot(jnp.argmax(logits, axis=-1), model.num_classes)
    counts = jnp.max(jax.nn.softmax(logits, axis=-1)) >= threshold
    return counts * classification_loss(model, params, augmented, y)


def log_weights(
    model: SemiSupervisedVAE, params, key: Key[Array, ""], x: Float[Array, " d"], num_samples: int
) -> Float[Array, " m"]:
    """``log p(x, y, z) - log q(y, z | x)`` in nats at m samples, y hard."""
    of_one = functools.partial(log_weight, model, params, x=x)
    return jax.vmap(of_one)(random.split(key, num_samples))


def log_weight(
    model: SemiSupervisedVAE, params, key: Key[Array, ""], x: Float[Array, " d"]
) -> Float[Array, ""]:
    """``log p(x, y, z) - log q(y, z | x)`` in nats at one hard y and one z."""
    net = model.bind({"params": params})
    key_class, key_style = random.split(key)
    logits = net.classify(x)
    y = distributions.inverse_cdf(key_class, logits)
    mean, log_variance = net.encode(x, y)
    noise = random.normal(key_style, mean.shape)
    z = mean + jnp.exp(log_variance / 2) * noise
    log_ratio = 0.5 * jnp.sum(noise**2 + log_variance - z**2)  # log p(z) - log q(z | x, y)
    log_ratio += distributions.log_prob_ratio(y, jnp.zeros_like(logits), logits)
    return distributions.bernoulli_log_prob(x, net.decode(y, z)) + log_ratio


def marginal_bound(
    model: SemiSupervisedVAE, params, key: Key[Array, ""], x: Float[Array, " d"]
) -> Float[Array, ""]:
    """``-U(x)``: the bound on ``log p(x)`` of an image, y summed out, at one z for each class."""

    def marginalise(key, logits, f, hyperparams):
        return exact(logits, f)

    return -unlabelled_loss(model, params, key, x, marginalise, Hyperparams())


def classify(model: SemiSupervisedVAE, params, x: Float[Array, " d"]) -> Float[Array, " k"]:
    """Class probabilities ``q(y | x)`` of one image."""
    return jax.nn.softmax(model.bind({"params": params}).classify(x), axis=-1)[0]


def generate(
    model: SemiSupervisedVAE, params, y: Float[Array, "1 k"], z: Float[Array, " s"]
) -> Float[Array, " d"]:
    """Pixel probabilities of the decoder given a class and a style."""
    return jax.nn.sigmoid(model.bind({"params": params}).decode(y, z))
