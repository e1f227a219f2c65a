"""Mathematics on the logits of ``n`` independent categorical variables with ``k`` classes each.

Everything is written for one example, ``logits [n, k]``; batches and samples come from
``jax.vmap``. A Bernoulli unit is a two-class categorical with logits ``[l, 0]``
(:func:`two_class_logits`), so one family serves both.

Conventions that hold for every function:

* Noise, softmax and argmax are computed in float32 whatever comes in, and only the result is cast:
  Gumbel noise drawn in bfloat16 never exceeds 4.84 and samples the wrong distribution.
* A class with logit ``-inf`` has probability exactly 0 and gets a gradient of exactly 0. A variable
  whose classes are all ``-inf``, or that holds a NaN, gives NaN: never a silent class 0.
"""

import math

import jax
import jax.numpy as jnp
from jax import random
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Int, Key, UInt32

LogitsND = Float[Array, "n k"]
Scalar = int | float | Float[Array, ""]


def _compute_dtype(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def two_class_logits(logits: Float[Array, " n"]) -> Float[Array, "n 2"]:
    """View ``n`` Bernoulli units as two-class categoricals: class 0 is "on", logits ``[l, 0]``.

    Args:
      logits: log-odds of each unit.

    Returns:
      Logits ``[n, 2]`` whose softmax is ``[sigmoid(l), sigmoid(-l)]``.
    """
    return jnp.stack([logits, jnp.zeros_like(logits)], axis=-1)


# XLA reduces and broadcasts a minor axis of two slowly on CPU, and that is where the paper's
# Bernoulli units are. So two classes are treated through the lead of the first over the second,
# which has no such axis: the training step of 200 units is twice as fast for it.


def _lead(scores: LogitsND) -> Float[Array, " n"]:
    return scores[:, 0] - scores[:, 1]


def softmax(logits: LogitsND) -> LogitsND:
    """Class probabilities of each variable."""
    if logits.shape[-1] == 2:
        lead = _lead(logits)
        return jnp.stack([jax.nn.sigmoid(lead), jax.nn.sigmoid(-lead)], axis=-1)
    return jax.nn.softmax(logits, axis=-1)


def log_softmax(logits: LogitsND) -> LogitsND:
    """Logarithms of the class probabilities of each variable."""
    if logits.shape[-1] == 2:
        return _log_sigmoids(_lead(logits))
    return jax.nn.log_softmax(logits, axis=-1)


@jax.custom_jvp
def _log_sigmoids(lead: Float[Array, " n"]) -> Float[Array, "n 2"]:
    """Log-sigmoid of the lead and of its negative."""
    smaller = jnp.log(1 + jnp.exp(-jnp.abs(lead)))  # log1p is not vectorised on CPU
    return jnp.stack([jnp.minimum(lead, 0), jnp.minimum(-lead, 0)], axis=-1) - smaller[:, None]


@_log_sigmoids.defjvp
def _log_sigmoids_jvp(primals, tangents):
    # By rule: at a lead of exactly 0, where priors start, autodiff of |x| would give (1, 0).
    (lead,), (lead_dot,) = primals, tangents
    slopes = jnp.stack([jax.nn.sigmoid(-lead), -jax.nn.sigmoid(lead)], axis=-1)
    return _log_sigmoids(lead), slopes * lead_dot[:, None]


def random_bits(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """The same words as ``jax.random.bits(key, shape)``, faster on CPU.

    jax 0.10 compiles Threefry for CPU as a rolled loop, which XLA can neither fuse nor vectorise:
    the noise took 40 % of a training step. Written out it takes a tenth of that. Other kinds of
    keys than Threefry go to ``jax.random.bits``. The tests hold the two equal, bit for bit.

    Source: Salmon et al. 2011, Threefry-2x32 with 20 rounds, in jax's partitionable layout.
    """
    size = math.prod(shape)
    if random.key_impl(key) != "threefry2x32" or size >= 2**32:
        return random.bits(key, shape)
    k0, k1 = random.key_data(key)
    schedule = (k0, k1, k0 ^ k1 ^ jnp.uint32(0x1BD11BDA))
    x0 = jnp.broadcast_to(schedule[0], (size,))
    x1 = jnp.arange(size, dtype=jnp.uint32) + schedule[1]
    for group in range(5):
        for distance in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << distance) | (x1 >> (32 - distance))) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return (x0 ^ x1).reshape(shape)


def uniform(key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Draw uniform numbers inside (0, 1), never an end, on a grid of spacing 2^-32.

    Args:
      key: random key.
      shape: shape of the result.
      dtype: float32, where the smallest is 2^-33 and the largest 1 - 2^-24, or float64.
    """
    middle = (random_bits(key, shape).astype(dtype) + 0.5) * 2.0**-32
    return jnp.minimum(middle, 1 - 2.0**-24) if dtype == jnp.float32 else middle


def gumbel(key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Draw standard Gumbel noise, finite for every random word: in [-2.82, 22.88].

    The default mode of ``jax.random.gumbel`` stops at 15.94 (classes of probability below 1e-7 come
    at the wrong rate) and its other mode takes two words for each number. Here the uniform number's
    fine end serves the upper tail, which decides an argmax; the lower ends at probability 6e-8.

    Args:
      key: random key.
      shape: shape of the noise.
      dtype: float32 or float64; noise is not offered in lower precision (see the module's text).

    Cost: one random word and two logarithms a number.
    """
    tail = uniform(key, shape, dtype)
    # -log1p(-tail) by Kahan's correction of the rounded 1 - tail: XLA does not vectorise log1p on
    # CPU, where it took three times as long as all the rest.
    rounded = 1 - tail
    lost = jnp.where(rounded == 1, 1, 1 - rounded)
    exponential = jnp.where(rounded == 1, tail, -jnp.log(rounded) * (tail / lost))
    return -jnp.log(exponential)


def logistic(key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Draw standard logistic noise, the difference of two Gumbels: in [-22.88, 16.64].

    Cost: one random word and two logarithms a number.
    """
    u = uniform(key, shape, dtype)
    return jnp.log(u) - jnp.log(1 - u)


def perturb(key: Key[Array, ""], logits: LogitsND) -> LogitsND:
    """Logits with Gumbel noise, up to a constant in each row, in float32 at least.

    Both Gumbel samplers start from these scores. Of two classes only the difference matters, so
    one logistic number serves for two Gumbels.
    """
    logits = logits.astype(_compute_dtype(logits))
    if logits.shape[-1] == 2:
        noise = logistic(key, logits.shape[:1], logits.dtype)
        return two_class_logits(_lead(logits) + noise)
    return logits + gumbel(key, logits.shape, logits.dtype)


def one_hot_argmax(scores: LogitsND) -> LogitsND:
    """One-hot of the largest score of each row, the first of equals; NaN where there is none."""
    if scores.shape[-1] == 2:
        lead = _lead(scores)
        hard = jnp.stack([lead >= 0, lead < 0], axis=-1).astype(scores.dtype)
        return jnp.where(jnp.isnan(lead)[:, None], jnp.nan, hard)
    # Two plain reductions: XLA does not vectorise argmax on CPU, nor the noise that it fuses with.
    classes = jnp.arange(scores.shape[-1])[None]
    largest = jnp.max(scores, axis=-1, keepdims=True)
    candidates = jnp.where(scores == largest, classes, scores.shape[-1])
    hard = (classes == jnp.min(candidates, axis=-1, keepdims=True)).astype(scores.dtype)
    return jnp.where(largest > -jnp.inf, hard, jnp.nan)


def gumbel_max(key: Key[Array, ""], logits: LogitsND) -> LogitsND:
    """Draw an exact one-hot sample: the argmax of logits plus Gumbel noise.

    Args:
      key: random key.
      logits: unnormalised log-probabilities of ``n`` variables with ``k`` classes.

    Returns:
      One-hot ``z [n, k]`` in the dtype of the logits. It carries no gradient.

    Source: Jang et al. 2017, equation 1. Cost: ``n k`` Gumbel variates.
    """
    return one_hot_argmax(perturb(key, jax.lax.stop_gradient(logits))).astype(logits.dtype)


def inverse_cdf(key: Key[Array, ""], logits: LogitsND) -> LogitsND:
    """Draw an exact one-hot sample from one uniform per variable.

    The same law as :func:`gumbel_max` at a ``k``-th of its random numbers, and the cumulative
    probabilities are shared by all samples of an example under ``vmap`` over keys: this is the
    sampler of evaluation. Probabilities are resolved to about 1e-7.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.

    Returns:
      One-hot ``z [n, k]`` in the dtype of the logits. It carries no gradient.

    Cost: ``n`` uniform variates.
    """
    dtype = _compute_dtype(logits)
    probs = softmax(jax.lax.stop_gradient(logits).astype(dtype))
    upper = jnp.cumsum(probs, axis=-1)
    lower = jnp.pad(upper[:, :-1], ((0, 0), (1, 0)))
    # Never 0, where a class of probability 1e-12 that stands first would be drawn with that of the
    # grid; never 1, where no class would be.
    threshold = (uniform(key, logits.shape[:1], dtype) * upper[:, -1])[:, None]
    hard = ((lower <= threshold) & (threshold < upper)).astype(dtype)
    return jnp.where(jnp.isnan(upper[:, -1:]), jnp.nan, hard).astype(logits.dtype)


def gumbel_top_k(key: Key[Array, ""], logits: LogitsND, count: int) -> Int[Array, "n count"]:
    """Draw ``count`` different classes of each variable, one after the other without replacement.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      count: number of classes, 1 to ``k``.

    Returns:
      Class indices ``[n, count]`` in the order drawn; the first alone is a Gumbel-Max sample.

    Raises:
      ValueError: more classes are asked than exist, or none.

    Source: Vieira 2014; Kool et al. 2019, "Stochastic Beams". The law is Plackett-Luce's.
    """
    if not 1 <= count <= logits.shape[-1]:
        raise ValueError(f"count must be between 1 and {logits.shape[-1]} classes; got {count}")
    logits = logits.astype(_compute_dtype(logits))
    return jax.lax.top_k(logits + gumbel(key, logits.shape, logits.dtype), count)[1]


def gumbel_top_k_log_prob(indices: Int[Array, "n count"], logits: LogitsND) -> Float[Array, ""]:
    """Log-probability of ordered draws without replacement, summed over the variables, in nats.

    Args:
      indices: different classes ``[n, count]`` of each variable, in the order drawn.
      logits: unnormalised log-probabilities ``[n, k]``.
    """
    remaining, total = logits.astype(_compute_dtype(logits)), jnp.zeros(())
    for drawn in indices.T:
        one_hot = jax.nn.one_hot(drawn, logits.shape[-1], dtype=bool)
        # The mass that is left is summed anew each time: 1 - sum(p) would cancel.
        total += jnp.sum(jnp.where(one_hot, jax.nn.log_softmax(remaining, axis=-1), 0))
        remaining = jnp.where(one_hot, -jnp.inf, remaining)
    return total


def conditional_gumbels(key: Key[Array, ""], logits: LogitsND, z: LogitsND) -> LogitsND:
    """Draw ``logits + Gumbel noise`` given that its argmax is the class of ``z``.

    Args:
      key: random key, independent of the one that drew ``z``.
      logits: unnormalised log-probabilities ``[n, k]``.
      z: one-hot sample ``[n, k]``.

    Returns:
      Perturbed logits ``[n, k]`` with ``argmax = z``, differentiable in the logits at fixed ``z``.

    Source: Maddison et al. 2014 ("A* sampling"), truncated Gumbels; computed in log space, where
    the form with exponentials of the literature is NaN at logits of 100. Cost: ``n k`` Gumbels.
    """
    logits = logits.astype(_compute_dtype(logits))
    noise = gumbel(key, logits.shape, logits.dtype)
    largest = jnp.sum(jnp.where(z > 0, noise, 0), axis=-1, keepdims=True) + jax.nn.logsumexp(
        logits, axis=-1, keepdims=True
    )
    # -logaddexp(-x, -largest), with x = -inf kept out of the arithmetic: its derivative is NaN.
    masked = logits == -jnp.inf
    below = jnp.where(masked, 0, logits) + noise
    smaller = jnp.minimum(below, largest)
    gap = jnp.log(1 + jnp.exp(-jnp.abs(below - largest)))
    truncated = jnp.where(masked, -jnp.inf, smaller - gap)
    return jnp.where(z > 0, largest, truncated) + 0 * z  # NaN in, NaN out


def log_prob(z: LogitsND, logits: LogitsND) -> Float[Array, ""]:
    """Log-probability of a one-hot sample, summed over the variables, in nats.

    For a relaxed ``z`` it is the multilinear extension ``sum z log softmax(logits)`` that the
    literature calls the relaxed log-mass (Maddison et al. 2017, equation 21): not a density.

    Args:
      z: one-hot or relaxed sample ``[n, k]``.
      logits: unnormalised log-probabilities ``[n, k]``.
    """
    return jnp.sum(log_probs(z, logits))


def log_probs(z: LogitsND, logits: LogitsND) -> Float[Array, " n"]:
    """:func:`log_prob` of each variable."""
    table = log_softmax(logits.astype(_compute_dtype(logits)))
    # Twice `where`: 0 * -inf is NaN in the value, and its derivative by z would be -inf. That of a
    # possible class that was not drawn is its log-probability, as in the interior of the simplex.
    counts = (z > 0) | (table > -jnp.inf)
    return jnp.sum(jnp.where(counts, z * jnp.where(counts, table, 0), 0 * z), axis=-1)


def log_prob_ratio(z: LogitsND, logits_p: LogitsND, logits_q: LogitsND) -> Float[Array, ""]:
    """``log p(z) - log q(z)`` of a one-hot sample of q, in nats, for evaluation.

    One inner product with the table of ratios, which all samples of an example share under
    ``vmap``; with :func:`log_prob` twice, evaluating 200 units takes double. Where p is 0
    it gives the lowest finite number in place of ``-inf``, which has the same importance weight.
    """
    ratio = log_softmax(logits_p) - log_softmax(logits_q)
    table = jnp.where(logits_q > -jnp.inf, jnp.maximum(ratio, jnp.finfo(ratio.dtype).min), 0)
    return jnp.vdot(z, jnp.where(jnp.isnan(logits_q), jnp.nan, table))


def _plogp(logits: LogitsND, log_ratio: LogitsND) -> Float[Array, ""]:
    """Sum of ``softmax(logits) * log_ratio`` with 0 for classes of probability 0."""
    probs = softmax(logits)
    # Not `logits > -inf`, which is false for NaN too and would hide it.
    impossible = logits == -jnp.inf
    return jnp.sum(jnp.where(impossible, 0, probs * jnp.where(impossible, 0, log_ratio)))


def entropy(logits: LogitsND) -> Float[Array, ""]:
    """Entropy of the ``n`` categoricals together, in nats."""
    logits = logits.astype(_compute_dtype(logits))
    return -_plogp(logits, log_softmax(logits))


def kl_divergence(logits_q: LogitsND, logits_p: LogitsND) -> Float[Array, ""]:
    """``KL[q || p]`` of two families of ``n`` independent categoricals, summed, in nats.

    A class that q never draws counts 0; one that q draws and p never does makes it ``inf``.
    """
    logits_q, logits_p = (x.astype(_compute_dtype(x)) for x in (logits_q, logits_p))
    return _plogp(logits_q, log_softmax(logits_q) - log_softmax(logits_p))


def check_temperature(temperature: Scalar) -> None:
    """Refuse a temperature known not to be positive; a traced one is not checked, 0 gives NaN."""
    if isinstance(temperature, int | float) and not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}")


def temper(scores: LogitsND, temperature: Scalar) -> LogitsND:
    """``scores / temperature``, its derivative by the temperature finite at infinite scores."""
    check_temperature(temperature)
    certain = jnp.isinf(scores)
    return jnp.where(certain, scores, jnp.where(certain, 0, scores) / temperature)


def log_gumbel_softmax(key: Key[Array, ""], logits: LogitsND, temperature: Scalar) -> LogitsND:
    """Draw the logarithm of a Gumbel-Softmax sample; exact where the sample itself underflows.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      temperature: positive scalar.

    Returns:
      ``log z [n, k]``, differentiable in logits and temperature, float32 at least.

    Raises:
      ValueError: the temperature is a Python number and not positive.

    Source: Maddison et al. 2017, section 3.3 ("ExpConcrete").
    """
    return log_softmax(temper(perturb(key, logits), temperature))


def log_gumbel_softmax_log_density(
    log_z: LogitsND, logits: LogitsND, temperature: Scalar
) -> Float[Array, ""]:
    """Log-density of ``x = log z``, ``z`` Gumbel-Softmax, summed over the variables.

    For one variable, with respect to the log-ratios ``d(x_1 - x_k) .. d(x_{k-1} - x_k)``:
    ``log Gamma(k) + (k-1) log t + sum_j (l_j - t x_j) - k logsumexp_j (l_j - t x_j)``.

    Args:
      log_z: logarithm of a sample, from :func:`log_gumbel_softmax`.
      logits: unnormalised log-probabilities ``[n, k]``, all finite.
      temperature: positive scalar.

    Source: Maddison et al. 2017, appendix C.2 (checked by quadrature in the tests).
    """
    check_temperature(temperature)
    n, k = logits.shape
    scores = logits - temperature * log_z
    constant = gammaln(jnp.float32(k)) + (k - 1) * jnp.log(temperature)
    tilt = jnp.sum(scores, axis=-1) - k * jax.nn.logsumexp(scores, axis=-1)
    return n * constant + jnp.sum(tilt)


def gumbel_softmax_log_density(
    z: LogitsND, logits: LogitsND, temperature: Scalar
) -> Float[Array, ""]:
    """Log-density of a Gumbel-Softmax sample on the simplex, summed over the variables.

    With respect to ``dz_1 .. dz_{k-1}``: the density of ``log z`` less the Jacobian ``sum log z``.
    Infinite where a coordinate has underflowed; :func:`log_gumbel_softmax_log_density` does not.

    Args:
      z: relaxed sample ``[n, k]`` inside the simplex.
      logits: unnormalised log-probabilities ``[n, k]``, all finite.
      temperature: positive scalar.

    Source: Jang et al. 2017, appendix B, equation 18; Maddison et al. 2017, equation 10.
    """
    log_z = jnp.log(z)
    return log_gumbel_softmax_log_density(log_z, logits, temperature) - jnp.sum(log_z)


# 14 divides the 784 pixels of an image and the 392 of half of one, and 2^14 is far from overflow.
_FACTORS_PER_LOGARITHM = 14


@jax.custom_jvp
def sum_softplus(x: Float[Array, " d"]) -> Float[Array, ""]:
    """``sum(log(1 + exp(x)))`` with one logarithm per 14 entries.

    ``softplus(x) = max(x, 0) + log(1 + exp(-|x|))``; the second terms are multiplied, each factor
    in (1, 2], before the logarithm is taken, which leaves an exponential and a multiplication per
    entry in the innermost loop of evaluation. Its derivative is the sigmoid.
    """
    rest = -x.shape[0] % _FACTORS_PER_LOGARITHM
    factors = jnp.pad(1 + jnp.exp(-jnp.abs(x)), (0, rest), constant_values=1)
    products = jnp.prod(factors.reshape(_FACTORS_PER_LOGARITHM, -1), axis=0)
    return jnp.sum(jnp.maximum(x, 0)) + jnp.sum(jnp.log(products))


@sum_softplus.defjvp
def _sum_softplus_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return sum_softplus(x), jnp.sum(jax.nn.sigmoid(x) * x_dot)


def bernoulli_log_prob(x: Float[Array, " d"], logits: Float[Array, " d"]) -> Float[Array, ""]:
    """Log-probability of ``d`` independent binary pixels, summed, in nats.

    Args:
      x: pixels, 0 or 1; values between give the (unnormalised) cross-entropy.
      logits: log-odds of each pixel.
    """
    return jnp.sum(x * logits) - sum_softplus(logits)
