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
and ``grad`` need no rule of their own. An operator takes ONE example; a minibatch is ::

    jax.vmap(lambda key, logits: rloo(key, logits, f))(jax.random.split(key, 32), logits)

Pathwise estimators are samplers first, of logits with any leading axes ``[..., k]``: take
:func:`gumbel_softmax` or :func:`straight_through` alone into your own code. In the registry they
stand for ``f(sampler(key, logits))``.

Every sampler and operator raises TypeError or ValueError, in one line, for logits that are not
floats or of another rank, for a key that is not one random key, and for a cost that is not a
scalar.

Learned parts (baselines, control variates) train through the same scalar: its gradient with respect
to them is that of their own loss, and reaches nothing else. ``gsm.learned`` keeps them for a
training loop.

To add one: write its function below, then one entry in :data:`ESTIMATORS` at the bottom. The tests
are parametrised over the registry, so it and the facts stated with it are judged from then on.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
from jax import random
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Key

from gsm import distributions
from gsm.distributions import Logits, LogitsND, Scalar, gumbel_max, sampler

Cost = Callable[[LogitsND], Float[Array, ""]]
Surrogate = Float[Array, ""]

# --- Two helpers of value zero ---------------------------------------------------------------
# Written as rules of differentiation, not as `x - stop_gradient(x)`: what they carry is then
# computed only where somebody asks for the gradient.


@jax.custom_jvp
def gradient_only(x: Array) -> Array:
    """Zero in value, ``x`` in gradient."""
    return jnp.zeros_like(x)


@gradient_only.defjvp
def _(primals, tangents):
    return jnp.zeros_like(primals[0]), tangents[0]


def carry_gradient(x: Array | float, gradient: Array) -> Float[Array, ""]:
    """Zero in value; its gradient with respect to the array ``x`` is ``gradient``."""
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
def straight_through(key: Key[Array, ""], logits: Logits) -> Logits:
    """Draw a one-hot sample whose gradient is that of ``softmax(logits)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Source: Bengio et al. 2013, section 4, with the softmax's Jacobian (Gu et al. 2016, footnote 3).
    Biased; unbiased if f is affine in each variable.
    """
    soft = distributions.softmax(_in_float32(logits))
    return _hard_with_gradient_of(gumbel_max(key, logits), soft).astype(logits.dtype)


@sampler
def gumbel_softmax(key: Key[Array, ""], logits: Logits, temperature: Scalar = 1.0) -> Logits:
    """Draw a relaxed one-hot sample, ``softmax((logits + Gumbel noise) / temperature)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar; towards 0 samples become one-hot, towards infinity uniform.

    Returns:
      ``z [..., k]`` on the simplex, differentiable in logits and temperature.

    Raises:
      ValueError: the temperature is a Python number and not positive. A traced 0 gives NaN.

    Source: Jang et al. 2017, equation 2; Maddison et al. 2017. Unbiased for the relaxed objective,
    biased by O(temperature) for the discrete one, with variance O(1 / temperature).
    """
    scores = distributions.perturb(key, logits)
    return distributions.softmax(distributions.temper(scores, temperature)).astype(logits.dtype)


@sampler
def decoupled_gumbel_softmax(
    key: Key[Array, ""],
    logits: Logits,
    temperature: Scalar = 0.5,
    backward_temperature: Scalar = 1.0,
) -> Logits:
    """Draw a relaxed sample at one temperature with the gradient of that at another, same noise.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar, of the sample that f sees.
      backward_temperature: positive scalar, of the gradient.

    Returns:
      ``z [..., k]`` on the simplex, the value of :func:`gumbel_softmax` at ``temperature``.

    Raises:
      ValueError: a temperature is a Python number and not positive.

    Source: Shah et al. 2024 (decoupled straight-through Gumbel-Softmax). Equal temperatures give
    :func:`gumbel_softmax`; ``temperature`` towards 0 gives
    :func:`st_gumbel_softmax`, whose forward pass has none.
    """
    scores = distributions.perturb(key, logits)
    forward, backward = (
        distributions.softmax(distributions.temper(scores, t))
        for t in (temperature, backward_temperature)
    )
    return (stop_gradient(forward) + gradient_only(backward)).astype(logits.dtype)


@sampler
def st_gumbel_softmax(key: Key[Array, ""], logits: Logits, temperature: Scalar = 1.0) -> Logits:
    """Draw a one-hot sample whose gradient is that of the Gumbel-Softmax sample of the same noise.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar, of the gradient only: the sample's law does not depend on it.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Raises:
      ValueError: the temperature is a Python number and not positive.

    Source: Jang et al. 2017, section 2.2. Biased; the bias does not vanish as temperature falls.
    """
    scores = distributions.perturb(key, logits)
    soft = distributions.softmax(distributions.temper(scores, temperature))
    # The argmax of the scores, not of `soft`: rounding makes ties in a softmax.
    return _hard_with_gradient_of(distributions.one_hot_argmax(scores), soft).astype(logits.dtype)


@sampler
def slope_annealed_st(key: Key[Array, ""], logits: Logits, slope: Scalar) -> Logits:
    """Draw a one-hot sample whose gradient is that of ``softmax(slope * logits)``.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      slope: positive scalar, raised during training. At 1 this is :func:`straight_through`, so it
        is required.

    Returns:
      Exactly one-hot ``z [..., k]``, drawn from ``softmax(logits)`` whatever the slope.

    Source: Chung et al. 2017 (hierarchical multiscale RNN), section 3.2, whose hard sigmoid becomes
    the softmax. Biased, and more so the steeper it is.

    NOTE(paper): neither the schedule nor the form for categoricals is given.
    """
    soft = distributions.softmax(distributions.temper(_in_float32(logits), 1 / slope))
    return _hard_with_gradient_of(gumbel_max(key, logits), soft).astype(logits.dtype)


@sampler
def gumbel_rao(
    key: Key[Array, ""], logits: Logits, temperature: Scalar = 1.0, num_samples: int = 10
) -> Logits:
    """Draw a one-hot sample with the mean gradient of ST Gumbel-Softmax given that sample.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar, of the gradient only.
      num_samples: conditional noises averaged; 1 has the law of
        :func:`st_gumbel_softmax`.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Source: Paulus et al. 2021, equation 10. The same mean as ST Gumbel-Softmax and less variance,
    at one evaluation of what follows.

    NOTE(paper): the text differentiates through the conditional noise too; that estimates another
    quantity, of relative bias 0.8.
    """
    key_sample, key_noise = random.split(key)
    logits_32 = _in_float32(logits)
    hard = gumbel_max(key_sample, logits_32)

    def soft(key):
        fixed = stop_gradient(logits_32)
        noise = distributions.conditional_gumbels(key, fixed, hard) - fixed
        scores = logits_32 + jnp.where(fixed == -jnp.inf, 0, noise)
        return distributions.softmax(distributions.temper(scores, temperature))

    mean = jnp.mean(jax.vmap(soft)(random.split(key_noise, num_samples)), axis=0)
    return _hard_with_gradient_of(hard, mean).astype(logits.dtype)


@sampler
def reinmax(key: Key[Array, ""], logits: Logits) -> Logits:
    """Draw a one-hot sample with the second-order straight-through gradient.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Source: Liu et al. 2023 (ReinMax), the same as the ZGR of Shekhovtsov 2023: half of
    straight-through plus half of DARN around the mean, the limit of Gumbel-Rao at temperature 0.
    Biased; unbiased if f is quadratic in each variable. It has no temperature.
    """
    logits_32 = _in_float32(logits)
    hard, probs = gumbel_max(key, logits_32), stop_gradient(distributions.softmax(logits_32))
    # For a cotangent d the estimate is (p * (d - <z, d>) + z * <z - p, d>) / 2: symmetric as a
    # matrix, so the same expression in the logits has it as its gradient.
    x = jnp.where(logits_32 == -jnp.inf, 0, logits_32)
    lead = x - jnp.sum(hard * x, axis=-1, keepdims=True)
    soft = (probs * lead + hard * jnp.sum((hard - probs) * x, axis=-1, keepdims=True)) / 2
    return _hard_with_gradient_of(hard, soft).astype(logits.dtype)


@sampler
def gapped_straight_through(
    key: Key[Array, ""], logits: Logits, temperature: Scalar = 1.0, gap: Scalar = 1.0
) -> Logits:
    """Draw a one-hot sample with the gradient of a softmax moved to where the sample leads.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar, of the gradient only.
      gap: how far, in logits, the drawn class leads the others in the softmax of the gradient.

    Returns:
      Exactly one-hot ``z [..., k]`` in the dtype of the logits.

    Source: Fan et al. 2022. Biased, of low variance: given the sample nothing is random.
    """
    logits_32 = _in_float32(logits)
    hard, fixed = gumbel_max(key, logits_32), stop_gradient(logits_32)
    largest = jnp.max(fixed, axis=-1, keepdims=True)
    # `where`, not a product: the reference's (largest - logits) * z is NaN beside a mask.
    move = jnp.where(hard > 0, largest - fixed, -jax.nn.relu(fixed - largest + gap))
    soft = distributions.softmax(distributions.temper(logits_32 + move, temperature))
    return _hard_with_gradient_of(hard, soft).astype(logits.dtype)


def binary_concrete(
    key: Key[Array, ""], logits: Float[Array, "*batch"], temperature: Scalar = 1.0
) -> Float[Array, "*batch"]:
    """Draw relaxed Bernoulli units, ``sigmoid((logits + logistic noise) / temperature)``.

    Args:
      key: random key.
      logits: log-odds ``[...]``.
      temperature: positive scalar.

    Returns:
      Units ``[...]`` in (0, 1): class 0 of :func:`gumbel_softmax` on the two-class logits.

    Raises:
      ValueError: the temperature is a Python number and not positive.

    Source: Maddison et al. 2017, appendix B.
    """
    return gumbel_softmax(key, distributions.two_class_logits(logits), temperature)[..., 0]


def _in_float32(logits: Logits) -> Logits:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _hard_with_gradient_of(hard: Logits, soft: Logits) -> Logits:
    # This order is exact for every finite value; `soft + hard - stop_gradient(soft)` rounds.
    return stop_gradient(hard).astype(soft.dtype) + gradient_only(soft)


# --- Operators: a surrogate scalar from f ----------------------------------------------------

_Function = TypeVar("_Function", bound=Callable[..., Surrogate])


def _check_example(logits: Any, name: str) -> None:
    """Raise unless ``logits`` is one example, ``[n, k]``."""
    distributions.check_logits(logits, name)
    if logits.ndim == 2:
        return
    remedy = "use logits[None] for one variable"
    if logits.ndim > 2:
        remedy = (
            f"for a minibatch use jax.vmap(lambda key, logits: {name}(key, logits, f))"
            f"(jax.random.split(key, {logits.shape[0]}), logits)"
        )
    raise ValueError(
        f"{name}: logits must be those of one example, [n, k]; got shape {logits.shape}: {remedy}"
    )


def _scalar_cost(f: Cost, name: str, differentiates: bool) -> Cost:
    """``f``, which raises unless it gives a scalar, of floats if it is differentiated."""

    def cost(z):
        try:
            value = f(z)
        except ValueError as error:
            if differentiates and "callbacks do not support JVP" in str(error):
                without = [other for other, entry in ESTIMATORS.items() if not entry.derivatives]
                raise ValueError(
                    f"{name} differentiates f, and f calls back to Python, which has no "
                    f"derivative; estimators that need none: {', '.join(without)}"
                ) from error
            raise
        if jnp.shape(value) != ():
            raise ValueError(
                f"{name}: f must return a scalar for one sample z of shape {z.shape}; it returned "
                f"shape {jnp.shape(value)}"
            )
        if jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return value
        if differentiates:
            raise TypeError(
                f"{name} differentiates f, which must return a float; it returned "
                f"{jnp.result_type(value)}"
            )
        return jnp.asarray(value, jnp.float32)

    return cost


def _operator(function: _Function, differentiates: bool = False) -> _Function:
    """Decorate an operator with the checks of its key, logits and cost."""

    @functools.wraps(function)
    def checked(key, logits, f, *arguments, **keywords):
        name = function.__name__
        distributions.check_key(key, name)
        _check_example(logits, name)
        cost = _scalar_cost(f, name, differentiates)
        return function(key, jnp.asarray(logits), cost, *arguments, **keywords)

    return cast(_Function, checked)


_operator_with_derivatives = functools.partial(_operator, differentiates=True)

MAX_OUTCOMES = 2**16


def exact(logits: LogitsND, f: Cost) -> Surrogate:
    """The expectation of f itself, by enumeration of all ``k ** n`` outcomes.

    Args:
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample ``[n, k]``.

    Returns:
      ``sum_z q(z) f(z)``: both laws hold without any sampling.

    Raises:
      ValueError: there are more than 65,536 outcomes.

    Cost: evaluates f ``k ** n`` times, vectorised.
    """
    _check_example(logits, "exact")
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
    log_q = jax.vmap(lambda z: distributions.log_prob(z, logits))(outcomes)
    return jnp.sum(jnp.exp(log_q) * jax.vmap(_scalar_cost(f, "exact", False))(outcomes))


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

    Source: Williams 1992; Jang et al. 2017, section 3.2. Unbiased (for the gradient divided by
    ``max(1, sqrt(variance))``). Cost: evaluates f once.
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

    Source: Mnih and Gregor 2014, section 2 and algorithm 1. Unbiased for the gradient divided by
    ``max(1, sqrt(variance))``, as long as both are used first and updated after. Cost: evaluates f
    once.
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
    """
    if num_samples < 2:
        raise ValueError(f"rloo needs at least 2 samples; got num_samples = {num_samples}")
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

    Source: Gregor et al. 2014, as Gu et al. 2016 state it (section 4.2 and, for categoricals, 5.2).
    Biased; unbiased if f is quadratic in each of Bernoulli units. Cost: one evaluation of f and of
    its derivative.

    NOTE(paper): section 3.2 of Jang et al. prints the expansion around 1/2 as a baseline without
    its correction; that has the mean gradient 0 where this is exact.
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

    Returns:
      Surrogate with the value ``f(z)``.

    Source: Gu et al. 2016, equations 3 and 11. Unbiased; of variance 0 if f is linear. Nested
    layers stay unbiased: any expansion that does not depend on the sample will do. Cost: two
    evaluations of f and one of its derivative.
    """
    z, mean = gumbel_max(key, logits), distributions.softmax(_in_float32(logits))
    cost_at_mean, slope = _cost_and_slope(f, stop_gradient(mean).astype(logits.dtype))
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
      temperature: positive scalar, of the relaxed f.
      eta: weight of the control variate; 0 leaves the score function.

    Returns:
      Surrogate with the value ``f(z)``. Its gradient by ``temperature`` and ``eta`` is that of the
      estimate's squared length, so descent on them lowers the variance.

    Raises:
      ValueError: the temperature is a Python number and not positive.

    Source: Tucker et al. 2017, sections 3.1 and 3.3. Unbiased for every temperature and eta. Cost:
    three evaluations of f and two of its derivative; learning the temperature takes second
    derivatives.
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
      temperature: positive scalar, of the relaxed sample.
      eta: weight at which f itself joins the control variate, as in :func:`rebar`; None leaves f
        out, which may then be a black box.

    Returns:
      Surrogate with the value ``f(z)``. Its gradient by ``temperature``, ``eta`` and what
      ``control`` closes over is that of the estimate's squared length, whose mean is the variance
      plus a constant.

    Raises:
      TypeError: the control variate is not a function.
      ValueError: the temperature is a Python number and not positive.

    Source: Grathwohl et al. 2018, section 3 and appendix B. Unbiased for every control variate.
    Cost: evaluates f once, and the control variate, f among it unless ``eta`` is None, and its
    derivative twice.
    """
    distributions.check_key(key, "relax")
    _check_example(logits, "relax")
    if not callable(control):
        raise TypeError(
            f"relax needs control, a function of a relaxed sample [n, k]; got {control!r}. Without "
            f"a control variate of its own it is rebar"
        )
    f = _scalar_cost(f, "relax", differentiates=eta is not None)
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
    distributions.check_temperature(temperature)
    temperature = jnp.asarray(temperature, jnp.float32)
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
            relaxed = distributions.softmax(distributions.temper(scores, temperature))
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
            lambda t: part_of(f, t), (stop_gradient(temperature),), (jnp.ones(()),)
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

    Source: Dong et al. 2020; Yin et al. 2020 (U2G). Unbiased. Cost: evaluates f twice, vectorised.
    """
    if logits.shape[-1] != 2:
        raise ValueError(f"disarm needs two classes; logits have shape {logits.shape}")
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
def local_expectation(key: Key[Array, ""], logits: LogitsND, f: Cost) -> Surrogate:
    """Each variable's expectation enumerated, with the others held at one sample.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[n, k]``.
      f: cost of a one-hot sample; need not be differentiable.

    Returns:
      Surrogate with the value ``f(z)``.

    Source: Titsias and Lazaro-Gredilla 2015; Tokui and Sato 2017. Unbiased, of the lowest variance
    of all; exact for one variable. Cost: evaluates f ``n k + 1`` times, vectorised.
    """
    n, k = logits.shape
    z = gumbel_max(key, logits)

    def cost_with(row, of_class):
        return f(z.at[row].set(jax.nn.one_hot(of_class, k, dtype=z.dtype)))

    costs = jax.vmap(jax.vmap(cost_with, (None, 0)), (0, None))(jnp.arange(n), jnp.arange(k))
    return f(z) + carry_gradient(distributions.softmax(_in_float32(logits)), costs)


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

    Source: Burda et al. 2016, equation 8.
    """
    return jax.nn.logsumexp(log_w) - jnp.log(log_w.shape[0])


def vimco(log_w: Float[Array, " m"], log_q: Float[Array, " m"]) -> Surrogate:
    """The importance-weighted bound of hard samples, each with the others as its baseline.

    Args:
      log_w: log-importance-weights of m samples, in nats, differentiable in the parameters of both
        p and q (``log q`` inside them may not be dropped: that is a bias of 0.6 at m = 2).
      log_q: ``log q(z_i | x)`` of the same samples.

    Returns:
      The bound, to be maximised; its gradient is unbiased.

    Raises:
      ValueError: fewer than 2 samples.

    Source: Mnih and Rezende 2016, equation 8 and the geometric mean of section 3.2.
    """
    (m,) = log_w.shape
    if m < 2:
        raise ValueError(f"vimco needs at least 2 samples; got {m}")
    fixed = stop_gradient(log_w)
    # Row j holds the weights with the j-th replaced by the geometric mean of the others. Replaced,
    # not subtracted from the sum: that cancels to nothing where one weight is all.
    others = (jnp.sum(fixed) - fixed) / (m - 1)
    replaced = jnp.where(jnp.eye(m, dtype=bool), others[:, None], fixed[None, :])
    signals = jax.nn.logsumexp(fixed) - jax.nn.logsumexp(replaced, axis=1)
    return iwae(log_w) + carry_gradient(log_q, signals)


# --- The registry ----------------------------------------------------------------------------


class Hyperparams(NamedTuple):
    """What estimators share, as scalars that may be traced; each reads only what it needs.

    None: the default of the estimator's own function.
    """

    temperature: Scalar | None = None
    """Of Gumbel-Softmax; of the gradient for the straight-through kind; of the relaxed sample in
    the control variates of REBAR and RELAX."""
    backward_temperature: Scalar | None = None
    """Of the gradient of decoupled Gumbel-Softmax."""
    baseline: Scalar | None = None
    """Subtracted from the learning signal of the score function, NVIL, DARN and MuProp."""
    variance: Scalar | None = None
    """Of that signal, which is divided by ``max(1, sqrt(variance))``."""
    slope: Scalar | None = None
    """Of slope-annealed straight-through."""
    eta: Scalar | None = None
    """Weight of f in the control variates of REBAR and RELAX."""


Estimator = Callable[[Key[Array, ""], LogitsND, Cost, Hyperparams], Surrogate]
"""An operator that picks its own hyperparameters from the common ones."""


@functools.cache
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


class Entry(NamedTuple):
    """An estimator and what is known of it; the tests hold each fact. Called, it estimates.

    ``entry(key, logits, f, Hyperparams(...))`` is the function with the hyperparameters that it
    reads and its own defaults for the rest. What is not a traced scalar is a keyword of the call:
    ``num_samples`` of those that average several, ``control`` of RELAX.
    """

    function: Callable[..., Any]
    """A sampler, which stands for ``f(sampler(key, logits))``, or an operator."""
    source: str
    unbiased: str
    """For which f: "any", "quadratic" or "affine" in each variable, "quadratic in Bernoulli units",
    or "none"."""
    choose: str
    """When to choose it."""
    evaluations: int | str = 1
    """Of f, for one estimate: a number, or "k ** n", "n * k + 1", "m" samples."""
    derivatives: int = 0
    """Of f among them that are differentiated with respect to z; 0: f may be a black box."""
    learned: tuple[str, ...] = ()
    """Parts that train through the surrogate: baseline, variance, eta, temperature, control."""
    relaxed: bool = False
    """Whether f sees a point inside the simplex; else it is one-hot."""
    bernoulli_only: bool = False

    def __call__(
        self,
        key: Key[Array, ""],
        logits: LogitsND,
        f: Cost,
        hyperparams: Hyperparams = Hyperparams(),  # noqa: B008, immutable
        **keywords: Any,
    ) -> Surrogate:
        given = {name: getattr(hyperparams, name) for name in self.reads}
        keywords |= {name: value for name, value in given.items() if value is not None}
        for name, parameter in _parameters(self.function).items():
            required = parameter.default is parameter.empty
            if required and name not in ("key", "logits", "f", *keywords):
                raise ValueError(f"{self.name} needs {name}; see gsm.estimators.{self.name}")
        if self.is_sampler:
            distributions.check_key(key, self.name)
            _check_example(logits, self.name)
            cost = _scalar_cost(f, self.name, differentiates=True)
            return cost(self.function(key, logits, **keywords))
        if "key" in _parameters(self.function):
            return self.function(key, logits, f, **keywords)
        return self.function(logits, f, **keywords)

    @property
    def name(self) -> str:
        """Of the function."""
        function = self.function
        while isinstance(function, functools.partial):
            function = function.func
        return function.__name__

    @property
    def is_sampler(self) -> bool:
        """Whether the function is a sampler with a gradient of its own."""
        return "f" not in _parameters(self.function)

    @property
    def reads(self) -> tuple[str, ...]:
        """The hyperparameters that it reads."""
        return tuple(name for name in Hyperparams._fields if name in _parameters(self.function))

    def default(self, name: str) -> Any:
        """A parameter's default; None of one that it does not have, or has without a default."""
        parameter = _parameters(self.function).get(name)
        if parameter is None or parameter.default is parameter.empty:
            return None
        return parameter.default

    @property
    def num_samples(self) -> int | None:
        """Default of the keyword, for those that average several."""
        return self.default("num_samples")

    def count_evaluations(self, n: int, k: int, num_samples: int | None = None) -> int:
        """Evaluations of f for one estimate of ``n`` variables with ``k`` classes."""
        formulas = {
            "k ** n": k**n,
            "n * k + 1": n * k + 1,
            "m": num_samples or self.num_samples or 1,
        }
        return self.evaluations if isinstance(self.evaluations, int) else formulas[self.evaluations]


class _Registry(dict[str, Entry]):
    def __missing__(self, name: str) -> Entry:
        raise KeyError(f"unknown estimator {name!r}; the estimators are: {', '.join(self)}")


_ENTRIES = (
    Entry(
        exact,
        source="enumeration",
        unbiased="any",
        choose="the outcomes can be counted out",
        evaluations="k ** n",
    ),
    Entry(
        score_function,
        source="Williams 1992",
        unbiased="any",
        choose="f is a black box and one evaluation is all there is",
        learned=("baseline", "variance"),
    ),
    Entry(
        nvil,
        source="Mnih & Gregor 2014",
        unbiased="any",
        choose="as score_function, where the cost differs much from input to input",
        learned=("baseline", "network", "variance"),
    ),
    Entry(
        darn,
        source="Gregor et al. 2014",
        unbiased="quadratic in Bernoulli units",
        choose="to compare with the paper; reinmax is better founded",
        derivatives=1,
        learned=("baseline", "variance"),
    ),
    Entry(
        muprop,
        source="Gu et al. 2016",
        unbiased="any",
        choose="unbiased at two evaluations, for f close to linear",
        evaluations=2,
        derivatives=1,
        learned=("baseline", "variance"),
    ),
    Entry(
        straight_through,
        source="Bengio et al. 2013",
        unbiased="affine",
        choose="the simplest; nothing to tune",
        derivatives=1,
    ),
    Entry(
        slope_annealed_st,
        source="Chung et al. 2017",
        unbiased="none",
        choose="to compare with the paper; a steeper slope is more biased",
        derivatives=1,
    ),
    Entry(
        gumbel_softmax,
        source="Jang et al. 2017",
        unbiased="none",
        choose="f makes sense inside the simplex; low variance, bias falls with the temperature",
        derivatives=1,
        relaxed=True,
    ),
    Entry(
        decoupled_gumbel_softmax,
        source="Shah et al. 2024",
        unbiased="none",
        choose="f wants nearly one-hot samples and the gradient a higher temperature",
        derivatives=1,
        relaxed=True,
    ),
    Entry(
        st_gumbel_softmax,
        source="Jang et al. 2017",
        unbiased="none",
        choose="f must see one-hot samples; gumbel_rao has the same mean and less variance",
        derivatives=1,
    ),
    Entry(
        rloo,
        source="Kool et al. 2019",
        unbiased="any",
        choose="the default for a black box that can be evaluated several times",
        evaluations="m",
    ),
    Entry(
        rebar,
        source="Tucker et al. 2017",
        unbiased="any",
        choose="unbiased, and f makes sense inside the simplex; measure it beside rloo",
        evaluations=3,
        derivatives=2,
        learned=("eta", "temperature"),
    ),
    Entry(
        relax,
        source="Grathwohl et al. 2018",
        unbiased="any",
        choose="as rebar, with a network beside f; the function alone serves black boxes",
        evaluations=3,
        derivatives=2,
        learned=("eta", "temperature", "control"),
    ),
    Entry(
        gumbel_rao,
        source="Paulus et al. 2021",
        unbiased="none",
        choose="f is dear and its samples must be one-hot",
        derivatives=1,
    ),
    Entry(
        reinmax,
        source="Liu et al. 2023",
        unbiased="quadratic",
        choose="the default: one evaluation, one-hot samples, small bias, nothing to tune",
        derivatives=1,
    ),
    Entry(
        gapped_straight_through,
        source="Fan et al. 2022",
        unbiased="none",
        choose="as straight_through, with a gradient that knows which class was drawn",
        derivatives=1,
    ),
    Entry(
        disarm,
        source="Dong et al. 2020",
        unbiased="any",
        choose="Bernoulli units and a black box",
        evaluations=2,
        bernoulli_only=True,
    ),
    Entry(
        local_expectation,
        source="Titsias & Lázaro-Gredilla 2015",
        unbiased="any",
        choose="the least variance of the unbiased, where n k + 1 evaluations can be paid",
        evaluations="n * k + 1",
    ),
)
ESTIMATORS = _Registry({entry.name: entry for entry in _ENTRIES})
"""Every estimator by name: ``ESTIMATORS[name](key, logits, f, Hyperparams(...)) -> surrogate``."""

RELAXED = frozenset(name for name, entry in ESTIMATORS.items() if entry.relaxed)
"""The estimators whose sample is a point inside the simplex; that of all others is one-hot."""

BERNOULLI_ONLY = frozenset(name for name, entry in ESTIMATORS.items() if entry.bernoulli_only)
"""The estimators that are for two classes."""
