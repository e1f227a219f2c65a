"""The categorical variational autoencoder of Jang et al. 2017, section 4.2.

One layer of latents between linear maps, or networks with hidden layers, trained by any estimator
on the evidence lower bound or on a multi-sample bound.
"""

import functools
import math
from collections.abc import Sequence

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
from experiments.tasks.base import KEY, Function, Metric, Picture, Task, floats
from experiments.tasks.checks import Checks, ConfigError
from experiments.tasks.images import (
    PRIORS,
    UNITS,
    bound_splits,
    center,
    check_images,
    images_of,
    output_bias,
)
from experiments.tasks.networks import INITIALIZATIONS, MLP, Latents
from gsm import distributions, estimators
from gsm.registry import ESTIMATORS, RELAXED, Estimator, Hyperparams

OBJECTIVES = ("elbo", "vimco", "iwae")
KL_FORMS = ("analytic", "relaxed_log_mass", "relaxed_density", "sampled")
_METRICS = ("nll", "rate")
_DEFAULT_SAMPLES = 10  # of vimco and iwae

# --- configuration ---------------------------------------------------------------------------


def default_config(dataset: str) -> ConfigDict:
    """Fields of the task on a dataset, with their defaults."""
    config = defaults.on_images("vae", dataset)
    # elbo; or a multi-sample bound. vimco: of hard samples, with the score_function. iwae: of
    # relaxed samples with gumbel_softmax, of hard ones with straight_through, reinmax and their
    # like. The last two have no KL term.
    config.objective = "elbo"
    config.kl = "analytic"  # form of the KL term, one of KL_FORMS (see elbo_loss)
    defaults.linear_maps(config.model)
    config.model.hidden_sizes = ()  # of the encoder, mirrored in the decoder; () is linear
    config.model.prior = "learned"  # or "uniform"
    # Of the layers: "lecun_normal", or "pytorch", uniform kernels of a third of that variance and
    # uniform biases.
    config.model.initialization = "lecun_normal"
    return config


def check(config: ConfigDict, checks: Checks) -> None:
    """Raise ConfigError for values that the task cannot serve."""
    checks.one_of("select", _METRICS)
    checks.one_of("objective", OBJECTIVES)
    checks.one_of("kl", KL_FORMS)
    checks.one_of("model.prior", PRIORS)
    checks.one_of("model.initialization", INITIALIZATIONS)
    checks.one_of("model.units", UNITS)
    checks.sizes("model.hidden_sizes")
    check_images(checks)
    _check_choices(config)
    base.check_num_samples(checks, several=config.objective != "elbo")
    if config.num_samples == 1 and config.objective == "vimco":
        raise ConfigError(
            "config.num_samples must be at least 2 for vimco, whose samples are each other's "
            "baselines; got 1"
        )
    base.check_estimator(checks, config.model.num_latents, config.model.num_classes)


def _check_choices(config: ConfigDict) -> None:
    """Raise ConfigError unless objective, estimator and form of the KL term go together."""
    hard = (
        name
        for name, entry in ESTIMATORS.items()
        if entry.is_sampler and not entry.relaxed and entry.num_samples is None
    )
    pairs = {"vimco": ("score_function",), "iwae": ("gumbel_softmax", *hard)}
    if config.estimator not in (needed := pairs.get(config.objective, (config.estimator,))):
        raise ConfigError(
            f"config.objective={config.objective} needs config.estimator={' or '.join(needed)}; "
            f"got {config.estimator}"
        )
    signalled = "variance" in ESTIMATORS[config.estimator].learned and config.objective == "elbo"
    if config.signal.normalize and signalled and config.kl == "analytic":
        raise ConfigError(
            "config.signal.normalize divides the distortion's gradient and leaves that of the "
            "analytic KL: another objective; use config.kl=sampled with it"
        )
    relaxed = config.estimator in RELAXED
    if config.kl == "relaxed_density" and config.estimator != "gumbel_softmax" and relaxed:
        raise ConfigError(
            f"config.kl=relaxed_density needs config.estimator=gumbel_softmax, whose density it "
            f"is; got {config.estimator}"
        )
    if config.kl.startswith("relaxed") and not relaxed:
        raise ConfigError(
            f"config.kl={config.kl} needs relaxed samples, and {config.estimator} has hard ones; "
            f"use analytic or sampled, or the estimator {', '.join(sorted(RELAXED, reverse=True))}"
        )
    if config.kl == "sampled" and relaxed:
        raise ConfigError(
            f"config.kl=sampled needs hard samples, and {config.estimator} has relaxed ones; use "
            f"analytic, relaxed_log_mass or relaxed_density"
        )


# --- task ------------------------------------------------------------------------------------


def network(config: ConfigDict, mean_image: np.ndarray) -> "CategoricalVAE":
    """The networks of a configuration, given the mean training image ``[h, w]``."""
    return CategoricalVAE(
        data_size=mean_image.size,
        num_latents=config.model.num_latents,
        num_classes=config.model.num_classes,
        units=config.model.units,
        hidden_sizes=tuple(config.model.hidden_sizes),
        prior=config.model.prior,
        input_center=center(config, mean_image),
        output_bias=output_bias(config, mean_image),
        initialization=config.model.initialization,
    )


def functions(config: ConfigDict, mean_image: np.ndarray) -> dict[str, Function]:
    """Functions of a trained model.

    ``encode``: posterior logits ``[n, k]`` of an image ``[d]``. ``decode``: pixel probabilities
    ``[d]`` of a sample ``[n, k]``. ``sample``: those at one sample of the prior.
    """
    model = network(config, mean_image)

    def encode(params, x):
        return model.bind({"params": params["model"]}).encode(x)

    def decode(params, z):
        return jax.nn.sigmoid(model.bind({"params": params["model"]}).decode(z))

    def sample(params, key):
        return generate(model, params["model"], key)

    latents = floats(config.model.num_latents, config.model.num_classes)
    return {
        "encode": Function(encode, (floats(mean_image.size),)),
        "decode": Function(decode, (latents,)),
        "sample": Function(sample, (KEY,)),
    }


def build(config: ConfigDict, dataset: Dataset) -> Task:
    """The task of a checked configuration on a dataset."""
    images = images_of(config, dataset)
    model = network(config, images.mean)
    mean = jnp.asarray(images.mean.ravel(), jnp.float32)
    entry = base.estimator(config)
    if config.objective != "elbo":
        entry = entry._replace(learned=())  # VIMCO has its own baselines
    shape = (config.model.num_latents, config.model.num_classes)
    parts = base.learned_parts(config, entry, images.mean.size, shape)
    num_samples = config.num_samples or _DEFAULT_SAMPLES

    def init(key):
        # Learned parts from a key of their own: all estimators start from the same model.
        model_params = model.init(key, mean)["params"]
        return {"model": model_params, "estimator": parts.init(random.fold_in(key, 1))}

    def loss(params, key, x, hyperparams):
        params, learned = params["model"], params["estimator"]
        if config.objective == "vimco":
            return vimco_loss(model, params, key, x, num_samples)
        if config.objective == "iwae" and config.estimator in RELAXED:
            return iwae_loss(model, params, key, x, num_samples, hyperparams.temperature)
        estimator, hyperparams = parts.attach(learned, x - mean, hyperparams)
        if config.objective == "iwae":
            return hard_iwae_loss(model, params, key, x, estimator, hyperparams, num_samples)
        return elbo_loss(model, params, key, x, estimator, hyperparams, config.kl)

    def measure_rate(params, key, stored):
        return rate(model, params["model"], images.to_float(stored))

    def pictures(params, key):
        return _pictures(model, params["model"], key, images)

    return Task(
        init=init,
        loss=base.mean_over_examples(loss, config.num_estimates),
        prepare=images.prepare,
        train=images.train.train.images,
        held_out=bound_splits(
            config,
            images,
            lambda params, *arguments: log_weights(model, params["model"], *arguments),
            guess=images.mean.size * math.log(2),
            valid={"rate": Metric(measure_rate)},
            test={"rate": Metric(measure_rate)},
        ),
        latents=(shape,),
        pictures=pictures,
        constants={"mean_image": images.mean},
    )


def _pictures(model, params, key, images) -> dict[str, Picture]:
    """Reconstructions, samples from the prior, and how often each class is used."""

    @jax.jit  # one program in place of a hundred small ones
    def arrays(params, key, held_out):
        key_rows, key_reconstruct, key_generate = random.split(key, 3)
        originals = random.choice(key_rows, held_out, (10,), replace=False)
        draw = functools.partial(reconstruct, model, params)
        decoded = jax.vmap(draw)(random.split(key_reconstruct, 10), originals)
        new = functools.partial(generate, model, params)
        samples = jax.vmap(new)(random.split(key_generate, 100))
        classes = functools.partial(posterior, model, params)
        use = jnp.mean(jax.lax.map(classes, held_out, batch_size=1_000), axis=0)
        return originals, decoded, samples, use

    originals, decoded, samples, use = arrays(params, key, images.to_picture())
    return {
        "reconstructions": Picture(
            jnp.stack([originals, decoded]).reshape(2, 10, *images.mean.shape),
            f"Reconstructions of {images.pictured} images",
            ("image", "decoded"),
        ),
        "samples": Picture(samples.reshape(10, 10, *images.mean.shape), "Samples from the prior"),
        "class_use": Picture(
            use, f"Share of {images.pictured} images in each class of each latent"
        ),
    }


# --- networks --------------------------------------------------------------------------------


class CategoricalVAE(nn.Module):
    """Encoder, decoder and prior of a VAE with one layer of categorical latents.

    With ``num_classes=2`` the latents are Bernoulli units (:class:`Latents`).

    Attributes:
      data_size: number of pixels d.
      num_latents: number of latent variables n.
      num_classes: classes of each, k.
      units: how the decoder reads them, "zero_one" or "plus_minus_one".
      hidden_sizes: encoder's hidden layers; the decoder mirrors them. Empty: linear maps.
      prior: "learned" logits that start uniform, or "uniform".
      input_center: ``[d]``, subtracted from the encoder's input.
      output_bias: ``[d]``, initial bias of the pixel logits.
      initialization: of all layers, "lecun_normal" or "pytorch".
    """

    data_size: int
    num_latents: int
    num_classes: int
    units: str = "zero_one"
    hidden_sizes: Sequence[int] = ()
    prior: str = "learned"
    input_center: Float[Array, " d"] | None = None
    output_bias: Float[Array, " d"] | None = None
    initialization: str = "lecun_normal"

    def setup(self):
        self.latents = Latents(self.num_latents, self.num_classes, self.units)
        self.encoder = MLP(self.hidden_sizes, self.latents.size, initialization=self.initialization)
        self.decoder = MLP(
            self.hidden_sizes[::-1], self.data_size, self.output_bias, self.initialization
        )
        if self.prior == "learned":
            self.prior_free_logits = self.param(
                "prior_logits", nn.initializers.zeros, (self.latents.size,)
            )

    def encode(self, x: Float[Array, " d"]) -> Float[Array, "n k"]:
        """Posterior logits of an image."""
        if self.input_center is not None:
            x = x - self.input_center
        return self.latents.logits(self.encoder(x))

    def decode(self, z: Float[Array, "n k"] | Int[Array, "m n"]) -> Float[Array, "*m d"]:
        """Pixel logits of a one-hot or relaxed sample, or of the classes of m samples."""
        return self.decoder(self.latents.inputs(z))

    def prior_logits(self) -> Float[Array, "n k"]:
        """Prior logits."""
        if self.prior == "uniform":
            return jnp.zeros((self.num_latents, self.num_classes))
        return self.latents.logits(self.prior_free_logits)

    def __call__(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, "n k"]]:
        """Touch every parameter, for ``init``."""
        return self.decode(jax.nn.softmax(self.encode(x), axis=-1)), self.prior_logits()


# --- loss and metrics, each for one example ------------------------------------------------------


def elbo_loss(
    model: CategoricalVAE,
    params,
    key: Key[Array, ""],
    x: Float[Array, " d"],
    estimator: Estimator,
    hyperparams: Hyperparams,
    kl: str = "analytic",
) -> Float[Array, ""]:
    """Surrogate of the negative evidence lower bound of one image, in nats.

    Args:
      model: the networks.
      params: their parameters.
      key: random key.
      x: binary image ``[d]``.
      estimator: registry entry that carries the gradient through the latents.
      hyperparams: the estimator's.
      kl: form of the KL term. "analytic": ``KL[q || p]`` of the categoricals in closed form
        (Maddison et al. 2017, equation 22; the author's notebooks). "sampled":
        ``log q(z) - log p(z)`` at the estimator's one-hot sample, inside f. "relaxed_log_mass":
        the same expression at a relaxed sample (equation 21); not a bound. "relaxed_density": the
        densities of the relaxed sample under both (equation 20); a bound of the relaxed model.
        Only Gumbel-Softmax has relaxed samples.

    Returns:
      The loss; its gradient with respect to ``params`` is the estimate.

    NOTE(paper): section 4.2 leaves the form open; the analytic one is of lowest variance.
    """
    net = model.bind({"params": params})
    logits, prior_logits = net.encode(x), net.prior_logits()

    def distortion(z):
        return -distributions.bernoulli_log_prob(x, net.decode(z))

    def negative_elbo(z):
        log_ratio = distributions.log_prob(z, logits) - distributions.log_prob(z, prior_logits)
        return distortion(z) + log_ratio

    if kl == "analytic":
        rate = distributions.kl_divergence(logits, prior_logits)
        return estimator(key, logits, distortion, hyperparams) + rate
    if kl in ("sampled", "relaxed_log_mass"):
        return estimator(key, logits, negative_elbo, hyperparams)
    if kl == "relaxed_density":
        # The operator of Gumbel-Softmax, written out on the logarithm of the sample.
        log_z, log_ratio = _relaxed_log_ratio(key, logits, prior_logits, hyperparams.temperature)
        return distortion(jnp.exp(log_z)) + log_ratio
    raise ValueError(f"kl must be one of {', '.join(KL_FORMS)}; got {kl!r}")


def vimco_loss(
    model: CategoricalVAE,
    params,
    key: Key[Array, ""],
    x: Float[Array, " d"],
    num_samples: int,
) -> Float[Array, ""]:
    """Surrogate of the negative multi-sample bound of one image at hard samples, in nats.

    Args:
      model: the networks.
      params: their parameters.
      key: random key.
      x: binary image ``[d]``.
      num_samples: m of the bound, at least 2.

    Returns:
      The loss; its gradient with respect to ``params`` is VIMCO's estimate, which is unbiased.

    Source: Mnih and Rezende 2016. Cost: m evaluations of the decoder.
    """
    net = model.bind({"params": params})
    logits, prior_logits = net.encode(x), net.prior_logits()

    def weigh(key):
        z = distributions.gumbel_max(key, logits)
        log_q = distributions.log_prob(z, logits)
        log_p = distributions.log_prob(z, prior_logits)
        return distributions.bernoulli_log_prob(x, net.decode(z)) + log_p - log_q, log_q

    log_w, log_q = jax.vmap(weigh)(random.split(key, num_samples))
    return -estimators.vimco(log_w, log_q)


def iwae_loss(
    model: CategoricalVAE,
    params,
    key: Key[Array, ""],
    x: Float[Array, " d"],
    num_samples: int,
    temperature: distributions.Scalar,
) -> Float[Array, ""]:
    """The negative multi-sample bound of one image under the relaxed model, in nats.

    Args:
      model: the networks.
      params: their parameters.
      key: random key.
      x: binary image ``[d]``.
      num_samples: m of the bound.
      temperature: positive scalar, of the relaxed samples, which are weighed by their densities.

    Returns:
      The loss, reparameterised; a bound of the relaxed model, not of the discrete one.

    Source: Burda et al. 2016, with the densities of Maddison et al. 2017, equation 20. Cost: m
    evaluations of the decoder.
    """
    net = model.bind({"params": params})
    logits, prior_logits = net.encode(x), net.prior_logits()

    def weigh(key):
        log_z, log_ratio = _relaxed_log_ratio(key, logits, prior_logits, temperature)
        return distributions.bernoulli_log_prob(x, net.decode(jnp.exp(log_z))) - log_ratio

    return -estimators.iwae(jax.vmap(weigh)(random.split(key, num_samples)))


def hard_iwae_loss(
    model: CategoricalVAE,
    params,
    key: Key[Array, ""],
    x: Float[Array, " d"],
    estimator: Estimator,
    hyperparams: Hyperparams,
    num_samples: int,
) -> Float[Array, ""]:
    """Surrogate of the negative multi-sample bound of one image, in nats, by any estimator.

    The bound is a cost of ``m n`` independent variables, m copies of the posterior's n, through
    which an estimator carries the gradient as through any others.

    Args:
      model: the networks.
      params: their parameters.
      key: random key.
      x: binary image ``[d]``.
      estimator: of one-hot samples.
      hyperparams: the estimator's.
      num_samples: m of the bound.

    Returns:
      The loss; its gradient with respect to ``params`` is the estimate.

    Source: Burda et al. 2016, equation 8. Cost: m evaluations of the decoder for each of the
    estimator's evaluations of its cost.
    """
    net = model.bind({"params": params})
    logits, prior_logits = net.encode(x), net.prior_logits()

    def weigh(z):
        log_likelihood = distributions.bernoulli_log_prob(x, net.decode(z))
        return log_likelihood + distributions.log_prob_ratio(z, prior_logits, logits)

    def cost(z):
        return -estimators.iwae(jax.vmap(weigh)(z.reshape(num_samples, *logits.shape)))

    return estimator(key, jnp.tile(logits, (num_samples, 1)), cost, hyperparams)


def _relaxed_log_ratio(key, logits, prior_logits, temperature):
    """A relaxed sample's logarithm ``[n, k]`` and ``log q - log p`` of its densities."""
    # The density needs log z, which z has lost where it underflowed.
    log_z = distributions.log_gumbel_softmax(key, logits, temperature)
    log_q, log_p = (
        distributions.log_gumbel_softmax_log_density(log_z, at, temperature)
        for at in (logits, prior_logits)
    )
    return log_z, log_q - log_p


def log_weights(
    model: CategoricalVAE, params, key: Key[Array, ""], x: Float[Array, " d"], num_samples: int
) -> Float[Array, " m"]:
    """``log p(x, z) - log q(z | x)`` in nats at m hard samples z of the posterior."""
    net = model.bind({"params": params})
    logits = net.encode(x)
    z = distributions.inverse_cdf_classes(key, logits, (num_samples,))
    log_ratios = distributions.log_ratios(net.prior_logits(), logits)
    drawn = z[..., None] == jnp.arange(model.num_classes)[None, None]
    log_likelihood = jax.vmap(distributions.bernoulli_log_prob, (None, 0))(x, net.decode(z))
    return log_likelihood + jnp.sum(jnp.where(drawn, log_ratios[None], 0), axis=(1, 2))


def rate(model: CategoricalVAE, params, x: Float[Array, " d"]) -> Float[Array, ""]:
    """``KL[q(z | x) || p(z)]`` of one image, in closed form, in nats."""
    net = model.bind({"params": params})
    return distributions.kl_divergence(net.encode(x), net.prior_logits())


def reconstruct(
    model: CategoricalVAE, params, key: Key[Array, ""], x: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Pixel probabilities of the decoder at one hard sample of the image's posterior."""
    net = model.bind({"params": params})
    return jax.nn.sigmoid(net.decode(distributions.inverse_cdf(key, net.encode(x))))


def generate(model: CategoricalVAE, params, key: Key[Array, ""]) -> Float[Array, " d"]:
    """Pixel probabilities of the decoder at one sample of the prior."""
    net = model.bind({"params": params})
    return jax.nn.sigmoid(net.decode(distributions.inverse_cdf(key, net.prior_logits())))


def posterior(model: CategoricalVAE, params, x: Float[Array, " d"]) -> Float[Array, "n k"]:
    """Posterior class probabilities of one image."""
    return jax.nn.softmax(model.bind({"params": params}).encode(x), axis=-1)
