"""The tasks' objectives, each for one example: every stochastic node of the project is here.

A task gives a training loss, ``loss(params, key, example, estimator, hyperparams)``, and a
log-importance-weight for evaluation, ``log_weight(params, key, example)``, which draws hard samples
and knows no estimator.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Key

from gsm import distributions, estimators
from gsm.estimators import Estimator, Hyperparams
from gsm.models import CategoricalVAE, SemiSupervisedVAE, StructuredNetwork

KL_FORMS = ("analytic", "relaxed_log_mass", "relaxed_density", "sampled")


def vae_loss(
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
      The loss; its gradient by ``params`` is the estimate.

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


def vae_vimco_loss(
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
      The loss; its gradient by ``params`` is VIMCO's estimate, which is unbiased.

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


def vae_iwae_loss(
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


def vae_hard_iwae_loss(
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
      The loss; its gradient by ``params`` is the estimate.

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


def vae_log_weight(
    model: CategoricalVAE, params, key: Key[Array, ""], x: Float[Array, " d"]
) -> Float[Array, ""]:
    """``log p(x, z) - log q(z | x)`` in nats at one hard sample z of the posterior.

    Under ``vmap`` over keys alone the encoder and the cumulative probabilities are computed once.
    """
    net = model.bind({"params": params})
    logits = net.encode(x)
    z = distributions.inverse_cdf(key, logits)
    log_likelihood = distributions.bernoulli_log_prob(x, net.decode(z))
    return log_likelihood + distributions.log_prob_ratio(z, net.prior_logits(), logits)


def vae_rate(model: CategoricalVAE, params, x: Float[Array, " d"]) -> Float[Array, ""]:
    """``KL[q(z | x) || p(z)]`` of one image, in closed form, in nats."""
    net = model.bind({"params": params})
    return distributions.kl_divergence(net.encode(x), net.prior_logits())


def vae_reconstruct(
    model: CategoricalVAE, params, key: Key[Array, ""], x: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Pixel probabilities of the decoder at one hard sample of the image's posterior."""
    net = model.bind({"params": params})
    return jax.nn.sigmoid(net.decode(distributions.inverse_cdf(key, net.encode(x))))


def vae_generate(model: CategoricalVAE, params, key: Key[Array, ""]) -> Float[Array, " d"]:
    """Pixel probabilities of the decoder at one sample of the prior."""
    net = model.bind({"params": params})
    return jax.nn.sigmoid(net.decode(distributions.inverse_cdf(key, net.prior_logits())))


def vae_posterior(model: CategoricalVAE, params, x: Float[Array, " d"]) -> Float[Array, "n k"]:
    """Posterior class probabilities of one image."""
    return jax.nn.softmax(model.bind({"params": params}).encode(x), axis=-1)


# --- structured prediction -------------------------------------------------------------------

AtLayer = Callable[[int, Float[Array, " i"]], tuple[Estimator, Hyperparams]]
"""The estimator and hyperparameters of a stochastic layer, given the layer's input."""


def structured_loss(
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
      The loss at one sample of the layers; its gradient by ``params`` is the estimate.

    Source: Jang et al. 2017, section 4.1, with m = 1; Raiko et al. 2015.
    """
    net = model.bind({"params": params})

    def cost(layer, logits, inputs, key):
        """Surrogate of all from a layer on, given its logits."""
        key_here, key_after = random.split(key)
        estimator, hyperparams = at_layer(layer, inputs)

        def after(z):
            if layer + 1 == model.num_layers:
                return -distributions.bernoulli_log_prob(y, net.decode(z))
            # An estimator may evaluate this several times: with the same noise, which is sound.
            key = random.clone(key_after)
            return cost(layer + 1, net.next_logits(layer + 1, z), z.reshape(-1), key)

        return estimator(key_here, logits, after, hyperparams)

    return cost(0, net.first_logits(x), x, key)


def structured_sample(
    model: StructuredNetwork, params, key: Key[Array, ""], x: Float[Array, " i"]
) -> Float[Array, " o"]:
    """Pixel logits of one prediction: hard samples, layer after layer.

    Under ``vmap`` over keys alone the first layer's cumulative probabilities are computed once.
    """
    net = model.bind({"params": params})
    keys = random.split(key, model.num_layers)
    z = distributions.inverse_cdf(keys[0], net.first_logits(x))
    for layer in range(1, model.num_layers):
        z = distributions.inverse_cdf(keys[layer], net.next_logits(layer, z))
    return net.decode(z)


def structured_log_weight(
    model: StructuredNetwork,
    params,
    key: Key[Array, ""],
    x: Float[Array, " i"],
    y: Float[Array, " o"],
) -> Float[Array, ""]:
    """``log p(y | h)`` in nats at one hard sample of the layers given x.

    Samples come from the model itself, so no other term weighs them; the multi-sample bound of
    these is the log-mean-exp of section 4.1 (NOTE(paper): which prints a mean of logarithms, the
    same at m = 1 only).
    """
    return distributions.bernoulli_log_prob(y, structured_sample(model, params, key, x))


# --- semi-supervised classification ----------------------------------------------------------


def _semisupervised_cost(model, params, key, x, y) -> Float[Array, ""]:
    """``-log p(x | y, z)`` at one reparameterised z, and ``KL[q(z | x, y) || p(z)]``, in nats."""
    net = model.bind({"params": params})
    mean, log_variance = net.encode(x, y)
    z = mean + jnp.exp(log_variance / 2) * random.normal(key, mean.shape)
    rate = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance)
    return rate - distributions.bernoulli_log_prob(x, net.decode(y, z))


def semisupervised_labelled_loss(
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
    return _semisupervised_cost(model, params, key, x, y) + jnp.log(model.num_classes)


def semisupervised_unlabelled_loss(
    model: SemiSupervisedVAE,
    params,
    key: Key[Array, ""],
    x: Float[Array, " d"],
    estimator: Estimator,
    hyperparams: Hyperparams,
) -> Float[Array, ""]:
    """Surrogate of the negative evidence lower bound on ``log p(x)`` of one image, in nats.

    Args:
      model: the networks.
      params: their parameters.
      key: random key.
      x: binary image ``[d]``.
      estimator: carries the gradient through the class; ``exact`` is marginalisation.
      hyperparams: the estimator's.

    Source: Jang et al. 2017, equations 9 and 10; Kingma et al. 2014, equation 7. Cost: one
    evaluation of encoder and decoder for each evaluation of f.
    """
    key_class, key_style = random.split(key)
    logits = model.bind({"params": params}).classify(x)

    def cost(y):
        # An estimator may evaluate this several times: with the same noise, which is sound.
        return _semisupervised_cost(model, params, random.clone(key_style), x, y)

    # KL[q(y | x) || p(y)] in closed form, whatever the estimator.
    rate = distributions.kl_divergence(logits, jnp.zeros_like(logits))
    return estimator(key_class, logits, cost, hyperparams) + rate


def semisupervised_classification_loss(
    model: SemiSupervisedVAE, params, x: Float[Array, " d"], y: Float[Array, "1 k"]
) -> Float[Array, ""]:
    """``-log q(y | x)`` of an image's class, in nats."""
    return -distributions.log_prob(y, model.bind({"params": params}).classify(x))


def semisupervised_consistency_loss(
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
    return counts * semisupervised_classification_loss(model, params, augmented, y)


def semisupervised_log_weight(
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


def semisupervised_marginal_bound(
    model: SemiSupervisedVAE, params, key: Key[Array, ""], x: Float[Array, " d"]
) -> Float[Array, ""]:
    """``-U(x)``: the bound on ``log p(x)`` of an image, y summed out, at one z for each class."""

    def marginalise(key, logits, f, hyperparams):
        return estimators.exact(logits, f)

    return -semisupervised_unlabelled_loss(model, params, key, x, marginalise, Hyperparams())


def semisupervised_classify(
    model: SemiSupervisedVAE, params, x: Float[Array, " d"]
) -> Float[Array, " k"]:
    """Class probabilities ``q(y | x)`` of one image."""
    return jax.nn.softmax(model.bind({"params": params}).classify(x), axis=-1)[0]


def semisupervised_generate(
    model: SemiSupervisedVAE, params, y: Float[Array, "1 k"], z: Float[Array, " s"]
) -> Float[Array, " d"]:
    """Pixel probabilities of the decoder given a class and a style."""
    return jax.nn.sigmoid(model.bind({"params": params}).decode(y, z))
