"""Gradient estimators for discrete variables: the samplers and the operators built on them.

The contract. An estimator is an operator ::

    surrogate = estimator(key, logits, f, **hyperparameters)

``logits [n, k]`` are ``n`` categorical variables with ``k`` classes, ``f`` maps one sample
``z [n, k]`` (one-hot or relaxed) to a scalar cost. Two laws hold for each of them, and the tests
hold each registry entry to them:

1. value law: the surrogate's value is the cost at the sample (the mean over several samples; the
   expectation itself for :func:`exact`);
2. gradient law: ``jax.grad`` of the surrogate, with respect to anything that ``logits`` or ``f``
   closes over, is the gradient estimate.

So layers nest by closure, decoders train through the same scalar, and ``jit``, ``vmap``, ``scan``
and ``grad`` need no rule of their own. An operator takes ONE example; for a minibatch
``logits [b, n, k]`` there is :func:`gsm.batched` ::

    surrogates = gsm.batched(rloo)(key, logits, f)

Pathwise estimators are samplers first, of logits with any leading axes ``[..., k]``: take
:func:`gumbel_softmax` or :func:`straight_through` alone into your own code. In the registry they
stand for ``f(sampler(key, logits))``.

Every sampler and operator raises TypeError or ValueError, in one line, for logits that are not
floats or of another rank, for a key that is not one random key, and for a cost that is not a
scalar. Samplers take masks of possible classes as ``where``; operators take logits of ``-inf``.

Learned parts (baselines, control variates) train through the same scalar: its gradient with respect
to them is that of their own loss, and reaches nothing else. ``gsm.learned`` keeps them for a
training loop.

To add one: write its function below, then one entry in :mod:`gsm.registry`. The tests are
parametrised over the registry, so it and the facts stated with it are judged from then on.

The examples assume ``import gsm, jax, jax.numpy as jnp``.
"""

import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import random
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Key

from gsm import distributions
from gsm.distributions import Logits, LogitsND, Mask, Scalar, gumbel_max, sampler

Cost = Callable[[LogitsND], Float[Array, ""]]
"""The function f: the scalar cost of one sample ``z [n, k]``."""
Surrogate = Float[Array, ""]
"""A scalar whose value is the cost and whose gradient is the estimate."""

# --- Two helpers of value zero ---------------------------------------------------------------
# Written as rules of differentiation, not as `x - stop_gradient(x)`: what they carry is then
# computed only where somebody asks for the gradient.


@jax.custom_jvp
def gradient_only(x: Array) -> Array:
    """Return zeros whose gradient is that of ``x``.

    Args:
      x: array of any shape.

    Returns:
      Zeros of that shape, differentiated as ``x``.

    Example:
      >>> value, slope = jax.value_and_grad(gsm.estimators.gradient_only)(2.0)
      >>> float(value), float(slope)
      (0.0, 1.0)
    """
    return jnp.zeros_like(x)


@gradient_only.defjvp
def _(primals, tangents):
    return jnp.zeros_like(primals[0]), tangents[0]


def carry_gradient(x: Array | float, gradient: Array) -> Float[Array, ""]:
    """Return a zero whose gradient with respect to ``x`` is the given one.

    Args:
      x: array of any shape.
      gradient: array of the same shape; no gradient flows into it.

    Returns:
      Scalar zero.

    Example:
      >>> slope = jax.grad(gsm.estimators.carry_gradient)(jnp.zeros(2), jnp.array([3.0, 4.0]))
      >>> slope.tolist()
      [3.0, 4.0]
    """
    return _carry_gradient(x, stop_gradient(gradient))


@jax.custom_jvp
def _carry_gradient(x, gradient):
    return jnp.zeros((), jnp.result_type(x, gradient))


def _carry_gradient_jvp(primals, tangents):
    x_dot, zero = tangents[0], _carry_gradient(*primals)
    if isinstance(x_dot, jax.custom_derivatives.SymbolicZero):  # nobody asks
        return zero, jnp.zeros_like(zero)
    return zero, jnp.sum(x_dot * primals[1]).astype(zero.dtype)


_carry_gradient.defjvp(_carry_gradient_jvp, symbolic_zeros=True)


# --- Samplers: z [..., k] with a gradient of its own -----------------------------------------


@sampler
def straight_through(key: Key[Array, ""], logits: Logits, *, where: Mask | None = None) -> Logits:
    """Draw a one-hot sample whose gradient is that of ``softmax(logits)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have the wrong rank, or the keys are several.

    Source: Bengio et al. 2013, section 4, with the softmax's Jacobian (Gu et al. 2016, footnote 3).
    Biased; unbiased if f is affine in each variable.

    Cost: that of :func:`gumbel_max`, and a softmax.

    Example:
      >>> z = gsm.straight_through(jax.random.key(0), jnp.zeros((2, 3)))
      >>> z.max(axis=-1).tolist()
      [1.0, 1.0]
    """
    soft = distributions.softmax(_in_float32(logits))
    return _hard_with_gradient_of(gumbel_max(key, logits), soft).astype(logits.dtype)


@sampler
def gumbel_softmax(
    key: Key[Array, ""], logits: Logits, temperature: Scalar = 1.0, *, where: Mask | None = None
) -> Logits:
    """Draw a relaxed one-hot sample, ``softmax((logits + Gumbel noise) / temperature)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar; towards 0 samples become one-hot, towards infinity uniform.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      ``z [..., k]`` on the simplex, differentiable in logits and temperature.

    Raises:
      ValueError: the temperature is a number and not positive. The gradient at a traced 0 is NaN.

    Source: Jang et al. 2017, equation 2; Maddison et al. 2017. Unbiased for the relaxed objective,
    biased by O(temperature) for the discrete one, with variance O(1 / temperature).

    Cost: one Gumbel variate for each logit (one logistic for two classes), and a softmax.

    Example:
      >>> logits, mask = jnp.zeros((2, 3)), jnp.array([True, True, False])
      >>> z = gsm.gumbel_softmax(jax.random.key(0), logits, 0.5, where=mask)
      >>> z.sum(axis=-1).round(3).tolist(), z[:, 2].tolist()
      ([1.0, 1.0], [0.0, 0.0])
      >>> slope = jax.grad(lambda t: gsm.gumbel_softmax(jax.random.key(0), logits, t)[0, 0])(0.5)
      >>> bool(jnp.isfinite(slope))
      True
    """
    scores = distributions.perturb(key, logits)
    return distributions.softmax(scores, temperature).astype(logits.dtype)


@sampler
def decoupled_gumbel_softmax(
    key: Key[Array, ""],
    logits: Logits,
    temperature: Scalar = 0.5,
    backward_temperature: Scalar = 1.0,
    *,
    where: Mask | None = None,
) -> Logits:
    """Draw a relaxed sample at one temperature with the gradient of another, from the same noise.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar; the temperature of the sample that f sees.
      backward_temperature: positive scalar; the temperature of the gradient.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      ``z [..., k]`` on the simplex, the value of :func:`gumbel_softmax` at ``temperature``.

    Raises:
      ValueError: a temperature is a number and not positive, or no scalar.

    Source: Shah et al. 2024 (decoupled straight-through Gumbel-Softmax). Equal temperatures give
    :func:`gumbel_softmax`; ``temperature`` towards 0 gives
    :func:`st_gumbel_softmax`, whose forward pass has none.

    Cost: that of :func:`gumbel_softmax`, and a second softmax for the gradient.

    Example:
      >>> z = gsm.decoupled_gumbel_softmax(jax.random.key(0), jnp.zeros((2, 3)), 0.5, 1.0)
      >>> bool((z == gsm.gumbel_softmax(jax.random.key(0), jnp.zeros((2, 3)), 0.5)).all())
      True
    """
    distributions.check_positive(backward_temperature, "backward_temperature")
    scores = distributions.perturb(key, logits)
    forward, backward = (
        distributions.softmax(scores, t) for t in (temperature, backward_temperature)
    )
    return (stop_gradient(forward) + gradient_only(backward)).astype(logits.dtype)


@sampler
def st_gumbel_softmax(
    key: Key[Array, ""], logits: Logits, temperature: Scalar = 1.0, *, where: Mask | None = None
) -> Logits:
    """Draw a one-hot sample whose gradient is that of the Gumbel-Softmax sample of the same noise.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar; the temperature of the gradient. The distribution of the sample
        does not depend on it.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Raises:
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Jang et al. 2017, section 2.2. Biased; the bias does not vanish as temperature falls.

    Cost: that of :func:`gumbel_softmax`.

    Example:
      >>> z = gsm.st_gumbel_softmax(jax.random.key(0), jnp.zeros((2, 3)), 0.5)
      >>> z.max(axis=-1).tolist()
      [1.0, 1.0]
    """
    scores = distributions.perturb(key, logits)
    soft = distributions.softmax(scores, temperature)
    # The argmax of the scores, not of `soft`: rounding makes ties in a softmax.
    return _hard_with_gradient_of(distributions.one_hot_argmax(scores), soft).astype(logits.dtype)


@sampler
def slope_annealed_st(
    key: Key[Array, ""], logits: Logits, slope: Scalar, *, where: Mask | None = None
) -> Logits:
    """Draw a one-hot sample whose gradient is that of ``softmax(slope * logits)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      slope: positive scalar, raised during training. At 1 this is :func:`straight_through`, so it
        is required.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Exactly one-hot ``z [..., k]``, drawn from ``softmax(logits)`` whatever the slope.

    Raises:
      ValueError: the slope is a number and not positive and finite.

    Source: Chung et al. 2017 (hierarchical multiscale RNN), section 3.2, whose hard sigmoid becomes
    the softmax. Biased, and more so the steeper it is.

    NOTE(paper): neither the schedule nor the form for categoricals is given.

    Cost: that of :func:`straight_through`.

    Example:
      >>> z = gsm.slope_annealed_st(jax.random.key(0), jnp.zeros((2, 3)), slope=1.5)
      >>> z.max(axis=-1).tolist()
      [1.0, 1.0]
    """
    distributions.check_positive(slope, "slope")
    if isinstance(slope, float) and math.isinf(slope):
        raise ValueError("slope must be finite; got inf")
    soft = distributions.softmax(_in_float32(logits), 1 / slope)
    return _hard_with_gradient_of(gumbel_max(key, logits), soft).astype(logits.dtype)


@sampler
def gumbel_rao(
    key: Key[Array, ""],
    logits: Logits,
    temperature: Scalar = 1.0,
    num_samples: int = 10,
    *,
    where: Mask | None = None,
) -> Logits:
    """Draw a one-hot sample with the mean gradient of ST Gumbel-Softmax given that sample.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar; the temperature of the gradient.
      num_samples: number of conditional noises that are averaged; with 1 the estimate has the
        distribution of that of :func:`st_gumbel_softmax`.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the temperature is a number and not positive, or no scalar; or there are no
        samples to average.

    Source: Paulus et al. 2021, equation 10. The same mean as ST Gumbel-Softmax and less variance,
    at one evaluation of what follows.

    NOTE(paper): the text differentiates through the conditional noise too; that estimates another
    quantity, of relative bias 0.8.

    Cost: ``num_samples + 1`` random words for each logit; ten samples are in memory at a time.

    Example:
      >>> z = gsm.gumbel_rao(jax.random.key(0), jnp.zeros((2, 3)), 0.5, num_samples=4)
      >>> z.max(axis=-1).tolist()
      [1.0, 1.0]
    """
    check_count(num_samples, 1, "gumbel_rao")
    key_sample, key_noise = random.split(key)
    logits_32 = _in_float32(logits)
    hard = gumbel_max(key_sample, logits_32)
    if not hard.size:
        return hard.astype(logits.dtype)

    # exp(-score) of a class is an arrival time, exponential of rate exp(logit). Given which class
    # is first, it comes at the rate of all classes, and the others wait from there on at their own
    # rates. `far` is a scale that keeps the waits of improbable classes in the range of exp().
    chosen, fixed = hard > 0, stop_gradient(logits_32)
    depth = -distributions.log_softmax(fixed)
    possible = depth < jnp.inf
    far = jnp.where(possible, jnp.maximum(depth - 60, 0), 1e30)
    mean_wait = jnp.where(chosen, 0, jnp.exp(jnp.where(possible, depth - far, 0)))
    far = jnp.where(chosen, 0, far)
    follow = gradient_only(jnp.where(possible, logits_32, 0))
    distributions.check_positive(temperature, "temperature")

    def classes_first(x):  # XLA's loops on CPU vectorise along the last axis, and classes are few
        return jnp.broadcast_to(x, hard.shape).reshape(-1, hard.shape[-1]).T

    times = [classes_first(x) for x in (hard, mean_wait, jnp.exp(-far), far)]
    carrier = classes_first(follow)

    @jax.checkpoint
    def soft(wait):
        return _softmax_of_arrivals(carrier, jnp.asarray(temperature, hard.dtype), wait, *times)

    # Ten samples at a time, drawn again for the gradient: memory does not grow with their number.
    # Their noise is drawn before the loop that uses it, since XLA on CPU would draw it in there
    # once for each use. Keys are passed as data: a key that is used twice, even to draw the same,
    # is an error of JAX's checker.
    @functools.partial(jax.checkpoint, static_argnums=1)
    def total(key_data, number):
        key = random.wrap_key_data(key_data, impl=random.key_impl(key_noise))
        waits = distributions.exponential(key, (number, *carrier.shape), hard.dtype)
        return jnp.sum(jax.lax.map(soft, waits), axis=0)

    tens, rest = divmod(num_samples, 10)
    keys = random.key_data(random.split(key_noise, tens + 1))
    mean = jnp.sum(jax.lax.map(lambda key: total(key, 10), keys[:tens]), axis=0)
    if rest:
        mean += total(keys[tens], rest)
    mean = (mean / num_samples).T.reshape(hard.shape)
    return _hard_with_gradient_of(hard, mean).astype(logits.dtype)


def _scores_of_arrivals(logits, temperature, wait, first, mean_wait, near, far):
    # Classes are the first axis. Relative to the score of the class that is first, which is the
    # largest. The logits are zeros that carry the gradient: their values are in the other inputs.
    wait_for_first = jnp.sum(wait * first, axis=0, keepdims=True)
    arrival = wait * (mean_wait / wait_for_first) + near
    scores = logits - far - jnp.log(arrival)
    soft = jnp.exp(scores / temperature)
    return scores, soft / jnp.sum(soft, axis=0, keepdims=True)


@jax.custom_jvp
def _softmax_of_arrivals(logits, temperature, *times):
    return _scores_of_arrivals(logits, temperature, *times)[1]


@_softmax_of_arrivals.defjvp
def _(primals, tangents):
    # By rule, since XLA on CPU computes what autodiff keeps anew for each use.
    scores, soft = _scores_of_arrivals(*primals)
    temperature = primals[1]
    moves = (tangents[0] - scores * (tangents[1] / temperature)) / temperature
    return soft, soft * (moves - jnp.sum(soft * moves, axis=0, keepdims=True))


@sampler
def reinmax(
    key: Key[Array, ""],
    logits: Logits,
    backward_temperature: Scalar = 1.0,
    *,
    where: Mask | None = None,
) -> Logits:
    """Draw a one-hot sample with the second-order straight-through gradient.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      backward_temperature: positive scalar t; for a cotangent g the gradient is
        ``2 J(d) g - J(p) g / 2`` with J the Jacobian of the softmax at a point, ``p =
        softmax(logits)`` and ``d = (softmax(logits / t) + z) / 2``. The distribution of the sample
        does not depend on it; larger values give less variance.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Raises:
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Liu et al. 2023 (ReinMax), algorithm 2; their experiments have temperatures from 1 to
    1.5. At 1 it is the ZGR of Shekhovtsov 2023: half of straight-through plus half of DARN around
    the mean, the limit of Gumbel-Rao at temperature 0. Biased; at temperature 1 unbiased if f is
    quadratic in each variable.

    Cost: that of :func:`straight_through`, and a second softmax for the gradient.

    Example:
      >>> z = gsm.reinmax(jax.random.key(0), jnp.zeros((2, 3)))
      >>> z.max(axis=-1).tolist()
      [1.0, 1.0]
    """
    logits_32 = _in_float32(logits)
    distributions.check_positive(backward_temperature, "backward_temperature")
    hard, fixed = gumbel_max(key, logits_32), stop_gradient(logits_32)
    tempered = distributions.softmax(fixed, backward_temperature)
    # A Jacobian J(q) is symmetric, so J(q) x of the logits x has the gradient J(q) g.
    x = jnp.where(logits_32 == -jnp.inf, 0, logits_32)

    def through(point):
        return point * (x - jnp.sum(point * x, axis=-1, keepdims=True))

    soft = 2 * through((tempered + hard) / 2) - through(distributions.softmax(fixed)) / 2
    return _hard_with_gradient_of(hard, soft).astype(logits.dtype)


@sampler
def gapped_straight_through(
    key: Key[Array, ""],
    logits: Logits,
    temperature: Scalar = 1.0,
    gap: Scalar = 1.0,
    *,
    where: Mask | None = None,
) -> Logits:
    """Draw a one-hot sample with the gradient of a softmax moved to where the sample leads.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar; the temperature of the gradient.
      gap: how far, in logits, the drawn class leads the others in the softmax of the gradient.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Fan et al. 2022. Biased, of low variance: given the sample nothing is random.

    Cost: that of :func:`straight_through`.

    Example:
      >>> z = gsm.gapped_straight_through(jax.random.key(0), jnp.zeros((2, 3)), gap=1.0)
      >>> z.max(axis=-1).tolist()
      [1.0, 1.0]
    """
    logits_32 = _in_float32(logits)
    hard, fixed = gumbel_max(key, logits_32), stop_gradient(logits_32)
    largest = jnp.max(fixed, axis=-1, keepdims=True)
    # `where`, not a product: the reference's (largest - logits) * z is NaN beside a mask.
    move = jnp.where(hard > 0, largest - fixed, -jax.nn.relu(fixed - largest + gap))
    soft = distributions.softmax(logits_32 + move, temperature)
    return _hard_with_gradient_of(hard, soft).astype(logits.dtype)


@sampler
def redge(
    key: Key[Array, ""],
    logits: Logits,
    num_steps: int = 4,
    first_noise: Scalar = 0.9,
    *,
    where: Mask | None = None,
) -> Logits:
    """Draw a one-hot sample with the gradient of the reverse diffusion that leads to it.

    The one-hot variable z is noised as ``x_t = a_t z + (1 - a_t) Gaussian noise``, where the mean
    of z given x_t is a softmax. Deterministic steps (DDIM) from pure noise to t = 1 give the
    probabilities that z is drawn from; its gradient is theirs.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      num_steps: number of noise levels, ``a_0 = 1`` among them; at least 3.
      first_noise: ``1 - a_1``, between 0 and 1; from there ``a_t`` falls linearly to 1e-4. Towards
        1 this becomes :func:`straight_through`; smaller values are more random, and need more
        steps.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits. The steps are finite, so its
      probabilities are those of ``softmax(logits)`` up to an error: of two classes 2e-6 at most by
      default, 2e-4 at 9 steps from 0.7, 3e-3 at 9 steps from 0.5.

    Raises:
      ValueError: there are fewer than 3 steps, or the noise is a Python number outside (0, 1).

    Source: Gourevitch et al. 2026 (ReDGE), with a hard sample. Biased; unbiased if f is affine in
    each variable, up to that error.

    Cost: one Gaussian variate for each logit, ``num_steps - 1`` softmaxes and a sample.

    Example:
      >>> z = gsm.redge(jax.random.key(0), jnp.zeros((2, 3)), num_steps=6, first_noise=0.8)
      >>> z.max(axis=-1).tolist()
      [1.0, 1.0]
    """
    check_count(num_steps, 3, "redge", "num_steps")
    if isinstance(first_noise, int | float) and not 0 < first_noise < 1:
        raise ValueError(f"first_noise must be between 0 and 1; got {first_noise}")
    key_noise, key_sample = random.split(key)
    logits_32, first = _in_float32(logits), 1 - first_noise
    x = random.normal(key_noise, logits_32.shape, logits_32.dtype)
    signals = [first + (1e-4 - first) * t / (num_steps - 2) for t in range(num_steps - 1)]
    for i in range(num_steps - 2, -1, -1):
        noise = 1 - signals[i]
        scores = logits_32 + signals[i] / noise**2 * x
        mean = distributions.softmax(scores)
        if i > 0:
            direction = (x - signals[i] * mean) / noise
            x = signals[i - 1] * mean + (1 - signals[i - 1]) * direction
    return _hard_with_gradient_of(gumbel_max(key_sample, scores), mean).astype(logits.dtype)


def binary_concrete(
    key: Key[Array, ""], logits: Float[Array, "*batch"], temperature: Scalar = 1.0
) -> Float[Array, "*batch"]:
    """Draw relaxed Bernoulli units, ``sigmoid((logits + logistic noise) / temperature)``.

    Args:
      key: random key.
      logits: log-odds ``[...]``.
      temperature: positive scalar.

    Returns:
      Units ``[...]`` in [0, 1], of which rounding makes some exactly 0 or 1: class 0 of
      :func:`gumbel_softmax` on the two-class logits.

    Raises:
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Maddison et al. 2017, appendix B.

    Cost: one logistic variate and a sigmoid for each unit.

    Example:
      >>> units = gsm.binary_concrete(jax.random.key(0), jnp.zeros((4, 5)), 0.5)
      >>> units.shape
      (4, 5)
    """
    distributions.check_key(key, "binary_concrete")
    dtype = getattr(logits, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError("binary_concrete: logits must be an array of floats, log-odds [...]")
    return gumbel_softmax(key, distributions.two_class_logits(logits), temperature)[..., 0]


def _in_float32(logits: Logits) -> Logits:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _hard_with_gradient_of(hard: Logits, soft: Logits) -> Logits:
    # This order is exact for every finite value; `soft + hard - stop_gradient(soft)` rounds.
    return stop_gradient(hard).astype(soft.dtype) + gradient_only(soft)


# --- Operators: a surrogate scalar from f ----------------------------------------------------

_Function = TypeVar("_Function", bound=Callable[..., Surrogate])

_TAKE_BLACK_BOXES = ["exact"]
# Names of the operators that do not differentiate f, which :func:`_operator` adds to.


def check_example(logits: Any, name: str) -> None:
    """Raise TypeError or ValueError, naming the caller, unless ``logits`` is ``[n, k]``.

    Args:
      logits: the argument to check.
      name: name of the function that was called, for the message.

    Raises:
      TypeError: it is not an array of floats.
      ValueError: it is not one example.

    Example:
      >>> gsm.estimators.check_example(jnp.zeros((2, 3)), "my_estimator")
    """
    distributions.check_logits(logits, name)
    if logits.ndim == 2:
        return
    remedy = "use logits[None] for one variable"
    if logits.ndim > 2:
        remedy = f"for a minibatch [b, n, k] use gsm.batched(gsm.{name})(key, logits, f)"
    raise ValueError(
        f"{name}: logits must be those of one example, [n, k]; got shape {logits.shape}: {remedy}"
    )


def check_count(number: int, least: int, name: str, what: str = "num_samples") -> None:
    """Raise TypeError or ValueError, naming the caller, unless a number is a whole one of a size.

    Args:
      number: the argument to check.
      least: smallest value that it may have.
      name: name of the function that was called, for the message.
      what: name of the argument.

    Raises:
      TypeError: it is not a whole number of Python or NumPy.
      ValueError: it is smaller.

    Example:
      >>> gsm.estimators.check_count(1, 2, "my_estimator")
      Traceback (most recent call last):
      ValueError: my_estimator needs num_samples of at least 2; got 1
    """
    try:
        whole = operator.index(number)
    except TypeError:
        raise TypeError(f"{name}: {what} must be a whole number; got {number!r}") from None
    if whole < least:
        raise ValueError(f"{name} needs {what} of at least {least}; got {number}")


def scalar_cost(f: Cost, name: str, differentiates: bool, what: str = "f") -> Cost:
    """Wrap f so that it raises unless it returns a scalar, a float if it is differentiated.

    Args:
      f: cost of one sample ``z [n, k]``.
      name: name of the function that was called, for the messages.
      differentiates: whether the caller differentiates f.
      what: name of the cost, for the messages.

    Returns:
      The same cost; whole numbers become floats. Called, it raises ValueError where f returns no
      scalar or, differentiated, has no derivative, and TypeError where that scalar is no float.

    Example:
      >>> cost = gsm.estimators.scalar_cost(jnp.argmax, "my_estimator", differentiates=False)
      >>> float(cost(jnp.array([[0.0, 1.0]])))
      1.0
    """

    def cost(z):
        try:
            value = f(z)
        except ValueError as error:
            if differentiates and "callbacks do not support JVP" in str(error):
                raise ValueError(
                    f"{name} differentiates {what}, and {what} calls back to Python, which has no "
                    f"derivative; estimators that need none: {', '.join(_TAKE_BLACK_BOXES)}, and "
                    "relax with eta=None"
                ) from error
            raise
        if value is None:
            raise ValueError(f"{name}: {what} returned None; did you forget return?")
        if jnp.shape(value) != ():
            raise ValueError(
                f"{name}: {what} must return a scalar for one sample z of shape {z.shape}; it "
                f"returned shape {jnp.shape(value)}"
            )
        if jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return value
        if differentiates:
            raise TypeError(
                f"{name} differentiates {what}, which must return a float; it returned "
                f"{jnp.result_type(value)}"
            )
        return jnp.asarray(value, jnp.float32)

    return cost


def _operator(function: _Function, differentiates: bool = False) -> _Function:
    """Decorate an operator with the checks of its key, logits and cost."""
    if not differentiates:
        _TAKE_BLACK_BOXES.append(function.__name__)
    name, names = function.__name__, tuple(inspect.signature(function).parameters)[3:]

    @functools.wraps(function)
    def checked(key, logits, f, *arguments, **keywords):
        distributions.check_key(key, name)
        check_example(logits, name)
        distributions.check_scalars(names, arguments, name)
        distributions.check_scalars(tuple(keywords), tuple(keywords.values()), name)
        cost = scalar_cost(f, name, differentiates)
        return function(key, jnp.asarray(logits), cost, *arguments, **keywords)

    return cast(_Function, checked)


_operator_with_derivatives = functools.partial(_operator, differentiates=True)

MAX_OUTCOMES = 2**16
"""The largest number of outcomes that :func:`exact` enumerates."""


def exact(logits: LogitsND, f: Cost) -> Surrogate:
    """Compute the expectation of f itself, by enumeration of all ``k ** n`` outcomes.

    Args:
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample ``[n, k]``.

    Returns:
      ``sum_z q(z) f(z)``: both laws hold without any sampling.

    Raises:
      ValueError: there are more than 65,536 outcomes.

    Source: the definition of the expectation (Jang et al. 2017, equation 4).

    Cost: evaluates f ``k ** n`` times, vectorised.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((1, 2))  # E (b - 0.45)^2 of one fair coin b
      >>> round(float(gsm.exact(logits, cost)), 4)
      0.2525
      >>> [round(float(slope), 4) for slope in jax.grad(gsm.exact)(logits, cost)[0]]
      [0.025, -0.025]
    """
    check_example(logits, "exact")
    n, k = logits.shape
    if k**n > MAX_OUTCOMES:
        raise ValueError(
            f"exact enumerates k ** n outcomes, {MAX_OUTCOMES:,} at most; logits have shape "
            f"{(n, k)}: about 1e{round(n * math.log10(k))} outcomes"
        )
    # Behind a barrier: XLA would otherwise evaluate f at constants, for minutes, as it compiles.
    index = jax.lax.optimization_barrier(jnp.arange(k**n))
    digits = index[:, None] // k ** jnp.arange(n - 1, -1, -1)[None] % k
    outcomes = jax.nn.one_hot(digits, k, dtype=logits.dtype)
    probs = jnp.exp(jax.vmap(lambda z: distributions.log_prob(z, logits))(outcomes))
    costs = jax.vmap(scalar_cost(f, "exact", False))(outcomes)
    # f need not be finite at impossible outcomes. They are not replaced before f sees them: under
    # vmap all examples share what f computes of the outcomes alone.
    return jnp.sum(probs * jnp.where(probs == 0, 0, costs))


@_operator
def score_function(
    key: Key[Array, ""],
    logits: LogitsND,
    f: Cost,
    baseline: Scalar = 0.0,
    variance: Scalar = 1.0,
) -> Surrogate:
    """The score-function estimator (REINFORCE): ``(f(z) - baseline) grad log q(z)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample; need not be differentiable.
      baseline: scalar that does not depend on the sample; it changes the variance only. It may be
        learned: see :func:`nvil`.
      variance: of the centred signal, which is divided by ``max(1, sqrt(variance))``: an adaptive
        step size for the whole gradient. 1 leaves the signal as it is.

    Returns:
      Surrogate with the value ``f(z)``.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have the wrong rank, or the keys are several.

    Source: Williams 1992; Jang et al. 2017, section 3.2. Unbiased (for the gradient divided by
    ``max(1, sqrt(variance))``).

    Cost: evaluates f once.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 3))
      >>> jax.grad(gsm.score_function, argnums=1)(jax.random.key(0), logits, cost, 0.3).shape
      (2, 3)
    """
    z = gumbel_max(key, logits)
    cost = f(z)
    return cost + _score_term(distributions.log_prob(z, logits), cost, baseline, variance)


@_operator
def nvil(
    key: Key[Array, ""], logits: LogitsND, f: Cost, baseline: Scalar, variance: Scalar = 1.0
) -> Surrogate:
    """The score function with a learned, input-dependent baseline and a normalised signal.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample; need not be differentiable.
      baseline: ``C(x) + c``, a small network of the input plus a constant; without it this would be
        :func:`score_function`, so it is required. It trains through the surrogate, whose gradient
        with respect to it is that of ``(f(z) - baseline) ** 2 / 2``: descent with rate
        ``1 - decay`` makes c the moving average that the paper has.
      variance: trains alike, towards the mean of ``(f(z) - baseline) ** 2``.

    Returns:
      Surrogate with the value ``f(z)``.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have the wrong rank, or the keys are several.

    Source: Mnih and Gregor 2014, section 2 and algorithm 1. Unbiased for the gradient divided by
    ``max(1, sqrt(variance))``, as long as both are used first and updated after.

    Cost: evaluates f once.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 3))
      >>> jax.grad(gsm.nvil, argnums=1)(jax.random.key(0), logits, cost, baseline=0.3).shape
      (2, 3)
    """
    return score_function(key, logits, f, baseline, variance)


@_operator
def rloo(key: Key[Array, ""], logits: LogitsND, f: Cost, num_samples: int = 4) -> Surrogate:
    """The score function with the mean of the other samples' costs as each sample's baseline.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample; need not be differentiable.
      num_samples: M, at least 2.

    Returns:
      Surrogate with the mean cost of the M samples as its value.

    Raises:
      ValueError: fewer than 2 samples.

    Source: Kool et al. 2019 ("Buy 4 REINFORCE samples"); Salimans and Knowles 2014. Unbiased.

    Cost: evaluates f M times, vectorised.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 3))
      >>> jax.grad(gsm.rloo, argnums=1)(jax.random.key(0), logits, cost, num_samples=8).shape
      (2, 3)
    """
    check_count(num_samples, 2, "rloo")
    z = jax.vmap(gumbel_max, (0, None))(random.split(key, num_samples), logits)
    costs = jax.vmap(f)(z)
    log_q = jax.vmap(distributions.log_prob, (0, None))(z, logits)
    # f_m less the mean of the others is M / (M - 1) times f_m less the mean of all.
    signals = stop_gradient(costs - jnp.mean(costs)) * num_samples / (num_samples - 1)
    return jnp.mean(costs + signals * gradient_only(log_q))


@_operator_with_derivatives
def darn(
    key: Key[Array, ""],
    logits: LogitsND,
    f: Cost,
    baseline: Scalar = 0.0,
    variance: Scalar = 1.0,
) -> Surrogate:
    """The score function with the slope of f at the sample as each variable's signal.

    Expands f around the sample and evaluates the expansion at the uniform point ``x = 1 / k``: the
    signal of variable n is ``<f'(z)_n, z_n - x>``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: differentiable cost of a one-hot sample.
      baseline: scalar subtracted from the signals; it may be learned, as in :func:`nvil`.
      variance: of the signals, which are divided by ``max(1, sqrt(variance))``.

    Returns:
      Surrogate with the value ``f(z)``.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have the wrong rank, or the keys are several.

    Source: Gregor et al. 2014, as Gu et al. 2016 state it (section 4.2 and, for categoricals, 5.2).
    Biased; unbiased if f is quadratic in each of Bernoulli units.

    Cost: one evaluation of f and of its derivative.

    NOTE(paper): section 3.2 of Jang et al. prints the expansion around 1/2 as a baseline without
    its correction; that has the mean gradient 0 where this is exact.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 3))
      >>> jax.grad(gsm.darn, argnums=1)(jax.random.key(0), logits, cost).shape
      (2, 3)
    """
    z = gumbel_max(key, logits)
    cost, slope = _cost_and_slope(f, z)
    signals = jnp.sum(slope * (z - 1 / logits.shape[-1]), axis=-1)
    return cost + _score_term(distributions.log_probs(z, logits), signals, baseline, variance)


@_operator_with_derivatives
def muprop(
    key: Key[Array, ""],
    logits: LogitsND,
    f: Cost,
    baseline: Scalar = 0.0,
    variance: Scalar = 1.0,
    mean_field: Cost | None = None,
) -> Surrogate:
    """The score function with f's expansion around the mean as its control variate.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: differentiable cost that accepts points inside the simplex.
      baseline: scalar subtracted from what the expansion leaves; it may be learned, as in
        :func:`nvil`.
      variance: of that signal, which is divided by ``max(1, sqrt(variance))``, and the gradient
        through the mean with it: both are parts of one estimate.
      mean_field: the cost that is expanded, of the same shape as f and without randomness; None: f.
        Where f samples later layers of latents, it is f with each of them at its mean given the
        one before: the expansion of f itself would be as noisy as their samples.

    Returns:
      Surrogate with the value ``f(z)``.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have the wrong rank, or the keys are several.

    Source: Gu et al. 2016, equations 3 and 11, algorithm 1. Unbiased whatever is expanded, as long
    as it does not depend on the sample; of variance 0 if f is linear. Layers nest: a later one is
    expanded around its mean given the sample before, where the paper has one mean-field pass.

    Cost: two evaluations of f and one of its derivative; with ``mean_field`` one of f, and one of
    ``mean_field`` and its derivative.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 3))
      >>> jax.grad(gsm.muprop, argnums=1)(jax.random.key(0), logits, cost).shape
      (2, 3)
    """
    z, mean = gumbel_max(key, logits), distributions.softmax(_in_float32(logits))
    expanded = f
    if mean_field is not None:
        expanded = scalar_cost(mean_field, "muprop", differentiates=True, what="mean_field")
    cost_at_mean, slope = _cost_and_slope(expanded, stop_gradient(mean).astype(logits.dtype))
    cost = f(z)
    signal = cost - cost_at_mean - jnp.sum(slope * (z - mean))
    score = _score_term(distributions.log_prob(z, logits), signal, baseline, variance)
    return cost + score + carry_gradient(mean, slope / _deviation(variance))


@_operator_with_derivatives
def rebar(
    key: Key[Array, ""], logits: LogitsND, f: Cost, temperature: Scalar = 0.5, eta: Scalar = 1.0
) -> Surrogate:
    """The score function with a relaxed f as control variate, corrected by reparameterisation.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: differentiable cost that accepts points inside the simplex.
      temperature: positive scalar; the temperature of the relaxed sample.
      eta: weight of the control variate; 0 leaves the score function.

    Returns:
      Surrogate with the value ``f(z)``. Its gradient with respect to ``temperature`` and ``eta`` is
      that of the estimate's squared length, so descent on them lowers the variance.

    Raises:
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Tucker et al. 2017, sections 3.1 and 3.3. Unbiased for every temperature and eta.

    Cost: three evaluations of f and two of its derivative; learning the temperature takes second
    derivatives.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 3))
      >>> jax.grad(gsm.rebar, argnums=1)(jax.random.key(0), logits, cost, temperature=0.5).shape
      (2, 3)
    """
    return _controlled(key, logits, f, None, temperature, eta)


def relax(
    key: Key[Array, ""],
    logits: LogitsND,
    f: Cost,
    control: Cost,
    temperature: Scalar = 0.5,
    eta: Scalar | None = 1.0,
) -> Surrogate:
    """The score function with a learned function of the relaxed sample as control variate.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample, differentiable and accepting points inside the simplex; any
        cost of a one-hot sample if ``eta`` is None.
      control: ``c(y)`` of a relaxed sample ``y [n, k]``, such as a small network; without it this
        would be :func:`rebar`, so it is required.
      temperature: positive scalar; the temperature of the relaxed sample.
      eta: weight at which f itself joins the control variate, as in :func:`rebar`; None leaves f
        out, which may then be a black box. An entry for that in a training loop is
        ``ESTIMATORS["relax"]._replace(function=functools.partial(gsm.relax, eta=None))``.

    Returns:
      Surrogate with the value ``f(z)``. Its gradient with respect to ``temperature``, ``eta`` and
      what ``control`` closes over is that of the estimate's squared length, whose mean is the
      variance plus a constant.

    Raises:
      TypeError: the control variate is not a function.
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Grathwohl et al. 2018, section 3 and appendix B. Unbiased for every control variate.

    Cost: evaluates f once and the control twice, each of the two with its derivative; unless
    ``eta`` is None, f twice more with its derivative.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> def control(y):
      ...     return jnp.sum(jnp.sin(y))
      >>> logits = jnp.zeros((2, 3))
      >>> jax.grad(gsm.relax, argnums=1)(jax.random.key(0), logits, cost, control).shape
      (2, 3)
    """
    distributions.check_key(key, "relax")
    check_example(logits, "relax")
    if not callable(control):
        raise TypeError(
            f"relax needs control, a function of a relaxed sample [n, k]; got {control!r}. Without "
            f"a control variate of its own it is rebar"
        )
    distributions.check_scalars(("temperature", "eta"), (temperature, eta), "relax")
    f = scalar_cost(f, "relax", differentiates=eta is not None)
    control = scalar_cost(control, "relax", differentiates=True, what="control")
    return _controlled(key, jnp.asarray(logits), f, control, temperature, eta)


def _controlled(
    key: Key[Array, ""],
    logits: LogitsND,
    f: Cost,
    control: Cost | None,
    temperature: Scalar,
    eta: Scalar | None,
) -> Surrogate:
    """The score function with the control variate ``control + eta f`` of the relaxed sample."""
    distributions.check_positive(temperature, "temperature")
    temperature = jnp.asarray(temperature, jnp.promote_types(logits.dtype, jnp.float32))
    key_sample, key_condition = random.split(key)

    def draw(logits):
        free = distributions.perturb(key_sample, logits)
        z = stop_gradient(distributions.one_hot_argmax(free))
        return (free, distributions.conditional_gumbels(key_condition, logits, z)), z

    # All of the estimate is computed from here, where nothing of the model is differentiated: so
    # the gradient of its length reaches the control variate and nothing else.
    fixed = stop_gradient(_in_float32(logits))
    (free, conditioned), to_logits, z = jax.vjp(draw, fixed, has_aux=True)
    score = z - distributions.softmax(fixed)
    cost = f(z.astype(logits.dtype))

    def part_of(control, temperature):
        """What the control variate adds to the estimate ``[n, k]``; its mean is zero."""

        def of_scores(scores):
            relaxed = distributions.softmax(scores, temperature)
            return control(relaxed.astype(logits.dtype))

        along_free = jax.grad(of_scores)(free)
        value, along_conditioned = jax.value_and_grad(of_scores)(conditioned)
        return to_logits((along_free, -along_conditioned))[0] - value * score

    estimate, learns = stop_gradient(cost) * score, jnp.zeros(())
    if control is not None:
        estimate += part_of(control, temperature)
    if eta is not None:
        # f may close over the model, which must not learn to shorten the estimate: so the slopes by
        # eta and temperature are taken here, in forward mode, and carried as numbers.
        part, by_temperature = jax.jvp(
            lambda t: part_of(f, t), (stop_gradient(temperature),), (jnp.ones_like(temperature),)
        )
        part, by_temperature = stop_gradient((part, by_temperature))
        estimate += stop_gradient(eta) * part
        learns = carry_gradient(eta, 2 * jnp.sum(estimate * part)) + carry_gradient(
            temperature, 2 * eta * jnp.sum(estimate * by_temperature)
        )
    learns += gradient_only(jnp.sum(estimate**2))
    return cost + carry_gradient(logits, estimate) + learns


@_operator
def disarm(key: Key[Array, ""], logits: LogitsND, f: Cost) -> Surrogate:
    """Two antithetic samples of Bernoulli units, their noise integrated out.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, 2]``.
      f: cost of a one-hot sample; need not be differentiable.

    Returns:
      Surrogate with the mean cost of the two samples as its value.

    Raises:
      ValueError: there are not two classes.

    Source: Dong et al. 2020; Yin et al. 2020 (U2G). Unbiased.

    Cost: evaluates f twice, vectorised.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 2))
      >>> jax.grad(gsm.disarm, argnums=1)(jax.random.key(0), logits, cost).shape
      (2, 2)
    """
    _check_two_classes(logits, "disarm")
    logits_32 = _in_float32(logits)
    lead = logits_32[:, 0] - logits_32[:, 1]
    # The samples are 1[u > 1 - p] and 1[u < p]. Each is compared where u or 1 - u is small, at the
    # class of probability 1/2 at most: near 1 float32 is too coarse for rare classes.
    rare = jax.nn.sigmoid(-jnp.abs(lead))
    u, complement = distributions.uniform_and_complement(key, lead.shape, lead.dtype)
    pair = jnp.where(
        lead < 0,
        jnp.stack([complement < rare, u < rare]),
        jnp.stack([u >= rare, complement >= rare]),
    )
    on = jnp.where(jnp.isnan(lead), jnp.nan, pair).astype(logits.dtype)
    costs = jax.vmap(f)(jnp.stack([on, 1 - on], axis=-1))
    differ = pair[0] != pair[1]
    sign = jnp.where(pair[1], -1.0, 1.0)
    estimate = (costs[0] - costs[1]) / 2 * sign * jax.nn.sigmoid(jnp.abs(lead))
    return jnp.mean(costs) + carry_gradient(lead, jnp.where(differ, estimate, 0))


@_operator
def arms(key: Key[Array, ""], logits: LogitsND, f: Cost, num_samples: int = 4) -> Surrogate:
    """Several antithetic samples of Bernoulli units, with their mean cost as baseline.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, 2]``.
      f: cost of a one-hot sample; need not be differentiable.
      num_samples: m, at least 2.

    Returns:
      Surrogate with the mean cost of the m samples as its value.

    Raises:
      ValueError: there are not two classes, or fewer than 2 samples.

    Source: Dimitriev and Zhou 2021, with their Dirichlet copula. Unbiased; with two
    samples it is :func:`disarm`.

    Cost: evaluates f m times, vectorised; m exponential variates and ``m ** 2`` additions for each
    unit.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 2))
      >>> jax.grad(gsm.arms, argnums=1)(jax.random.key(0), logits, cost, num_samples=8).shape
      (2, 2)
    """
    _check_two_classes(logits, "arms")
    check_count(num_samples, 2, "arms")
    logits_32 = _in_float32(logits)
    lead = logits_32[:, 0] - logits_32[:, 1]
    # The copula is not symmetric. It is put on the rarer class, of probability q: there the samples
    # repel each other most, and none of what follows cancels or overflows.
    distance = jnp.abs(stop_gradient(lead))
    root = jnp.exp(jax.nn.log_sigmoid(-distance) / (num_samples - 1))  # q^(1 / (m - 1))
    # A Dirichlet vector is exponentials over their sum, and u = (1 - d)^(m - 1) < q. The sum of the
    # others is not the sum less one, which would lose the rare classes.
    waits = distributions.exponential(key, (num_samples, *lead.shape), lead.dtype)
    each = jnp.eye(num_samples, dtype=bool)[:, :, None]
    others = jnp.sum(jnp.where(each, 0, waits[None]), axis=1)
    rare = others < root[None] * (others + waits)
    on = jnp.where(jnp.isnan(lead)[None], jnp.nan, rare == (lead < 0)[None]).astype(logits.dtype)
    costs = jax.vmap(f)(jnp.stack([on, 1 - on], axis=-1))
    # 1 / (1 - rho), rho the correlation of two samples: (1 - q) / (1 - P / q) with P the
    # probability that both are rare, max(0, 2 q^(1 / (m - 1)) - 1)^(m - 1), half of q at most.
    both = jax.nn.relu(2 - 1 / root) ** (num_samples - 1)
    weight = jax.nn.sigmoid(distance) / (1 - both) / (num_samples - 1)
    share = jnp.mean(rare, axis=0, dtype=lead.dtype)
    deviations = rare - share[None]  # 0 where all samples agree
    signals = (costs - jnp.mean(costs))[:, None]
    estimate = jnp.sum(signals * deviations, axis=0) * weight
    return jnp.mean(costs) + carry_gradient(lead, jnp.where(lead < 0, estimate, -estimate))


def _check_two_classes(logits: LogitsND, name: str) -> None:
    if logits.shape[-1] != 2:
        raise ValueError(f"{name} needs two classes; logits have shape {logits.shape}")


@_operator
def local_expectation(key: Key[Array, ""], logits: LogitsND, f: Cost) -> Surrogate:
    """Each variable's expectation enumerated, with the others held at one sample.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample; need not be differentiable.

    Returns:
      Surrogate with the value ``f(z)``.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have the wrong rank, or the keys are several.

    Source: Titsias and Lazaro-Gredilla 2015; Tokui and Sato 2017. Unbiased; never of more variance
    than :func:`score_function` without a baseline, mostly of much less; exact for one variable.

    Cost: evaluates f ``n k + 1`` times, vectorised.

    Example:
      >>> def cost(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> logits = jnp.zeros((2, 3))
      >>> jax.grad(gsm.local_expectation, argnums=1)(jax.random.key(0), logits, cost).shape
      (2, 3)
    """
    n, k = logits.shape
    z = gumbel_max(key, logits)

    def cost_with(row, of_class):
        return f(z.at[row].set(jax.nn.one_hot(of_class, k, dtype=z.dtype)))

    if not n:
        return f(z)
    costs = jax.vmap(jax.vmap(cost_with, (None, 0)), (0, None))(jnp.arange(n), jnp.arange(k))
    probs = distributions.softmax(_in_float32(logits))
    # f need not be finite where a variable has an impossible class.
    return f(z) + carry_gradient(probs, jnp.where(probs == 0, 0, costs))


def _cost_and_slope(f: Cost, z: LogitsND) -> tuple[Float[Array, ""], LogitsND]:
    """``f(z)``, which trains what f closes over, and ``f'(z)``, which is a number."""
    cost, pullback = jax.vjp(f, z)
    return cost, stop_gradient(pullback(jnp.ones_like(cost))[0])


def _score_term(log_q: Array, signals: Array, baseline: Scalar, variance: Scalar) -> Surrogate:
    """Zero in value; its gradient is ``signals grad log_q``, centred and normalised.

    With respect to baseline and variance it is that of two least-squares fits: of the baseline to
    the signals, of the variance to the squares of what the baseline leaves.
    """
    remainder = stop_gradient(signals) - baseline
    centred = stop_gradient(remainder)
    fits = jnp.mean(remainder**2) + jnp.mean((centred**2 - variance) ** 2)
    return carry_gradient(log_q, centred / _deviation(variance)) + gradient_only(fits / 2)


def _deviation(variance: Scalar) -> Float[Array, ""]:
    return jnp.maximum(1.0, jnp.sqrt(stop_gradient(variance)))


# --- Multi-sample objectives: arrays of log-weights ------------------------------------------


def iwae(log_w: Float[Array, " m"]) -> Surrogate:
    """The importance-weighted bound ``log (1/m) sum_i w_i``, for reparameterised samples.

    Args:
      log_w: log-importance-weights ``log p(x, z_i) - log q(z_i | x)`` of m samples, in nats.

    Returns:
      The bound, to be maximised: the negative of a loss.

    Raises:
      ValueError: ``log_w`` is not ``[m]``, or empty.

    Source: Burda et al. 2016, equation 8.

    Cost: a log-sum-exp of m numbers.

    Example:
      >>> float(gsm.iwae(jnp.array([-3.0])))  # with one sample it is the evidence lower bound
      -3.0
      >>> round(float(jnp.exp(gsm.iwae(jnp.log(jnp.array([1.0, 3.0]))))), 3)
      2.0
    """
    _check_weights(log_w, "iwae", 1)
    return jax.nn.logsumexp(log_w) - jnp.log(log_w.shape[0])


def _check_weights(log_w: Any, name: str, least: int) -> None:
    shape = jnp.shape(log_w)
    if len(shape) != 1:
        raise ValueError(
            f"{name}: log_w must be those of one example, [m]; got shape {shape}; for a minibatch "
            "use jax.vmap"
        )
    check_count(shape[0], least, name, "a number of samples")


def vimco(log_w: Float[Array, " m"], log_q: Float[Array, " m"]) -> Surrogate:
    """The importance-weighted bound of hard samples, each with the others as its baseline.

    Args:
      log_w: log-importance-weights of m samples, in nats, differentiable in the parameters of both
        p and q (``log q`` inside them may not be dropped: that is a bias of 0.6 at m = 2).
      log_q: ``log q(z_i | x)`` of the same samples.

    Returns:
      The bound, to be maximised; its gradient is unbiased.

    Raises:
      ValueError: fewer than 2 samples, or arrays that are not ``[m]``.

    Source: Mnih and Rezende 2016, equation 8 and the geometric mean of section 3.2.

    Cost: m log-sum-exps of m numbers.

    Example:
      >>> log_w = jnp.array([-1.0, -1.0, -1.0])
      >>> bound, slope = jax.value_and_grad(gsm.vimco, argnums=1)(log_w, jnp.zeros(3))
      >>> round(float(bound), 3), bool(jnp.allclose(slope, 0, atol=1e-6))  # equal weights
      (-1.0, True)
    """
    _check_weights(log_w, "vimco", 2)
    if jnp.shape(log_q) != jnp.shape(log_w):
        raise ValueError(
            f"vimco: log_q must have the shape of log_w, {jnp.shape(log_w)}; got {jnp.shape(log_q)}"
        )
    fixed, m = stop_gradient(log_w), log_w.shape[0]
    # Row j holds the weights with the j-th replaced by the geometric mean of the others. Neither
    # they nor their mean are the sum less one weight: that cancels where one weight is all.
    own = jnp.eye(m, dtype=bool)
    others = jnp.sum(jnp.where(own, 0, fixed[None, :]), axis=1) / (m - 1)
    replaced = jnp.where(own, others[:, None], fixed[None, :])
    signals = jax.nn.logsumexp(fixed) - jax.nn.logsumexp(replaced, axis=1)
    return iwae(log_w) + carry_gradient(log_q, signals)
