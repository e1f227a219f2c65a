"""Mathematics on the logits of ``n`` independent categorical variables with ``k`` classes each.

Samplers and what is computed for each variable take logits with any leading axes, ``[..., k]``.
What is summed over the variables is written for one example, ``logits [n, k]``; batches and samples
come from ``jax.vmap``. A Bernoulli unit is a two-class categorical with logits ``[l, 0]``
(:func:`two_class_logits`), so one family serves both.

Conventions that hold for every function:

* Samplers and log-probabilities compute in float32 whatever comes in, and only the result is cast:
  Gumbel noise drawn in bfloat16 never exceeds 4.84 and samples the wrong distribution. The tables
  of :func:`softmax`, :func:`log_softmax` and :func:`log_ratios` have the dtype of their logits.
* A class with logit ``-inf`` has probability exactly 0 and gets a gradient of exactly 0. A variable
  whose classes are all ``-inf``, or that holds a NaN, gives NaN: never a silent class 0.
* Samplers take ``where``, a boolean mask that broadcasts to the logits: where it is False the class
  is impossible, as with a logit of ``-inf``. What the logits are there, NaN included, does not
  matter.

The examples assume ``import gsm, jax, jax.numpy as jnp``.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

Logits = Float[Array, "*batch k"]
"""Unnormalised log-probabilities of k classes, with any leading axes."""
LogitsND = Float[Array, "n k"]
"""Those of one example: n variables."""
Scalar = int | float | Float[Array, ""]
Mask = Bool[Array, "..."]
"""True for the classes that are possible; any shape that broadcasts to that of the logits."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def check_key(key: Any, caller: str) -> None:
    """Raise TypeError or ValueError, naming the caller, unless ``key`` is one random key.

    Args:
      key: the argument to check.
      caller: name of the function that was called, for the message.

    Raises:
      TypeError: it is not a random key.
      ValueError: it is an array of several keys.

    Example:
      >>> gsm.distributions.check_key(jax.random.key(0), "my_estimator")
    """
    dtype = getattr(key, "dtype", None)
    if dtype == jnp.uint32 and jnp.shape(key) in ((2,), (4,)):  # jax.random.PRNGKey; of "rbg"
        return
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{caller}: key must be a random key, such as jax.random.key(0); got {_describe(key)}. "
            f"The order of the arguments is (key, logits)"
        )
    if key.ndim:
        raise ValueError(
            f"{caller}: key must be a single key; got {_describe(key)}. Use jax.vmap over keys"
        )


def check_logits(logits: Any, caller: str) -> None:
    """Raise TypeError or ValueError, naming the caller, unless ``logits`` is ``[..., k]``.

    Args:
      logits: the argument to check.
      caller: name of the function that was called, for the message.

    Raises:
      TypeError: it is not an array of floats.
      ValueError: it has no axis, or no classes.

    Example:
      >>> gsm.distributions.check_logits(jnp.zeros((2, 3)), "my_estimator")
    """
    dtype = getattr(logits, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{caller}: logits must be an array of floats, unnormalised log-probabilities "
            f"[..., k]; got {_describe(logits)}"
        )
    if not logits.ndim or not logits.shape[-1]:
        raise ValueError(
            f"{caller}: logits must have shape [..., k] with k classes; got {_describe(logits)}"
        )


def check_scalars(names: Sequence[str], values: Sequence[Any], caller: str) -> None:
    """Raise ValueError, naming the caller, for a hyperparameter that is not a scalar.

    An array would broadcast against variables and classes without a word.

    Args:
      names: of the arguments.
      values: of the arguments; those whose name is not in :data:`SCALARS` are not checked.
      caller: name of the function that was called, for the message.

    Raises:
      ValueError: one of them is an array with axes.

    Example:
      >>> gsm.distributions.check_scalars(["slope"], [jnp.ones(3)], "my_estimator")
      Traceback (most recent call last):
      ValueError: my_estimator: slope must be a scalar; got shape (3,): use jax.vmap over examples
    """
    for name, value in zip(names, values, strict=False):
        if name in SCALARS and value is not None and jnp.ndim(value):
            raise ValueError(
                f"{caller}: {name} must be a scalar; got shape {jnp.shape(value)}: use jax.vmap "
                "over examples"
            )


SCALARS = (
    "temperature", "backward_temperature", "baseline", "variance", "slope", "eta", "gap",
    "first_noise",
)  # fmt: skip
"""Arguments of samplers and operators that are scalars, and may be traced."""


def _check_examples(caller: str, **tables: Array) -> None:
    """Raise ValueError unless all are of one example, ``[n, k]``."""
    shapes = {name: jnp.shape(table) for name, table in tables.items()}
    first, *others = shapes.items()
    if len(first[1]) != 2 or any(shape != first[1] for _, shape in others):
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{caller}: {' and '.join(shapes)} must be those of one example, [n, k]; got shape "
            f"{got}; for a minibatch use jax.vmap"
        )


def _describe(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array of {value.dtype} with shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def sampler(function: _Function) -> _Function:
    """Decorate a function of ``(key, logits, ...)`` with what all samplers have in common.

    The key and the logits are checked, and the keyword ``where`` is applied: the decorated function
    receives logits of ``-inf`` at the classes that the mask excludes, and never the mask.

    Args:
      function: a sampler with the signature ``(key, logits, ..., *, where=None)``.

    Returns:
      The same function with the checks and the mask.

    Example:
      >>> @gsm.distributions.sampler
      ... def most_likely(key, logits, *, where=None):
      ...     return gsm.distributions.one_hot_argmax(logits)
      >>> mask = jnp.array([True, True, False])
      >>> most_likely(jax.random.key(0), jnp.array([0.0, 1.0, 2.0]), where=mask).tolist()
      [0.0, 1.0, 0.0]
    """

    names = tuple(inspect.signature(function).parameters)[2:]

    @functools.wraps(function)
    def checked(key, logits, *arguments, where=None, **keywords):
        check_key(key, function.__name__)
        check_logits(logits, function.__name__)
        check_scalars(names, arguments, function.__name__)
        check_scalars(tuple(keywords), tuple(keywords.values()), function.__name__)
        logits = jnp.asarray(logits)
        if where is not None:
            logits = _masked(logits, where, function.__name__)
        return function(key, logits, *arguments, **keywords)

    return cast(_Function, checked)


def _masked(logits: Logits, where: Any, caller: str) -> Logits:
    """Logits with ``-inf`` where the mask is False, and no gradient there."""
    if getattr(where, "dtype", None) != jnp.bool_:
        raise TypeError(f"{caller}: where must be an array of bool; got {_describe(where)}")
    try:
        where = jnp.broadcast_to(where, logits.shape)
    except ValueError:
        raise ValueError(
            f"{caller}: where must broadcast to the shape of the logits, {logits.shape}; got "
            f"{_describe(where)}"
        ) from None
    return jnp.where(where, logits, -jnp.inf)


def _compute_dtype(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def two_class_logits(logits: Float[Array, "*batch"]) -> Float[Array, "*batch 2"]:
    """View Bernoulli units as two-class categoricals: class 0 is "on", logits ``[l, 0]``.

    Args:
      logits: log-odds of each unit ``[...]``.

    Returns:
      Logits ``[..., 2]`` whose softmax is ``[sigmoid(l), sigmoid(-l)]``.

    Source: Jang et al. 2017, section 2: a Bernoulli variable is the categorical of two classes.

    Example:
      >>> gsm.two_class_logits(jnp.array([3.0, -1.0])).tolist()
      [[3.0, 0.0], [-1.0, 0.0]]
    """
    return jnp.stack([logits, jnp.zeros_like(logits)], axis=-1)


# XLA reduces and broadcasts a minor axis of two slowly on CPU, and that is where the paper's
# Bernoulli units are. So two classes are treated through the lead of the first over the second, or
# one after the other, without such an axis: the training step of 200 units takes half of the time.


def _classes(x: Float[Array, "*batch k"]) -> Sequence[Array]:
    """Two classes as two arrays ``[..., 1]``; more as the one array that they are.

    ``split``, since its gradient is a stack, whose halves the layers around take apart again at no
    cost; that of an index is a padded array, which XLA writes out.
    """
    return jax.lax.split(x, (1, 1), axis=x.ndim - 1) if x.shape[-1] == 2 else [x]


def _sum_over_classes(term: Callable[..., Array], *tables: Float[Array, "*batch k"]) -> Array:
    """Sum ``term``, a function of one class's entry in each table, over the classes."""
    of_each = zip(*(_classes(table) for table in tables), strict=True)
    return jnp.sum(functools.reduce(jnp.add, (term(*entries) for entries in of_each)), axis=-1)


def _lead(scores: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    first, second = _classes(scores)
    return (first - second)[..., 0]


def softmax(logits: Logits, temperature: Scalar = 1.0) -> Logits:
    """Class probabilities of each variable.

    Args:
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar by which they are divided.

    Returns:
      Probabilities ``[..., k]``.

    Raises:
      ValueError: the temperature is a number and not positive. The gradient at a traced 0 is NaN.

    Example:
      >>> gsm.distributions.softmax(jnp.zeros((2, 4))).tolist()[0]
      [0.25, 0.25, 0.25, 0.25]
    """
    if logits.shape[-1] == 2:
        lead = temper(_lead(logits), temperature)
        return jnp.stack([jax.nn.sigmoid(lead), jax.nn.sigmoid(-lead)], axis=-1)
    return jax.nn.softmax(temper(logits, temperature), axis=-1)


def log_softmax(logits: Logits, temperature: Scalar = 1.0) -> Logits:
    """Logarithms of the class probabilities of each variable.

    Args:
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar by which they are divided.

    Returns:
      Log-probabilities ``[..., k]``, in nats.

    Raises:
      ValueError: the temperature is a number and not positive. The gradient at a traced 0 is NaN.

    Example:
      >>> jnp.exp(gsm.distributions.log_softmax(jnp.zeros((2, 4)))).round(3).tolist()[0]
      [0.25, 0.25, 0.25, 0.25]
    """
    if logits.shape[-1] == 2:
        return _log_sigmoids(temper(_lead(logits), temperature))
    return jax.nn.log_softmax(temper(logits, temperature), axis=-1)


@jax.custom_jvp
def _log_sigmoids(lead: Float[Array, "*batch"]) -> Float[Array, "*batch 2"]:
    """Log-sigmoid of the lead and of its negative."""
    smaller = jnp.log(1 + jnp.exp(-jnp.abs(lead)))  # log1p is not vectorised on CPU
    return jnp.stack([jnp.minimum(lead, 0) - smaller, jnp.minimum(-lead, 0) - smaller], axis=-1)


@_log_sigmoids.defjvp
def _log_sigmoids_jvp(primals, tangents):
    # By rule: at a lead of exactly 0, where priors start, autodiff of |x| would give (1, 0).
    (lead,), (lead_dot,) = primals, tangents
    tangents_out = jax.nn.sigmoid(-lead) * lead_dot, -jax.nn.sigmoid(lead) * lead_dot
    return _log_sigmoids(lead), jnp.stack(tangents_out, axis=-1)


def random_bits(key: Key[Array, ""], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Draw the same words as ``jax.random.bits(key, shape)``, faster on CPU.

    jax 0.10 compiles Threefry for CPU as a rolled loop, which XLA can neither fuse nor vectorise:
    the noise took 40 % of a training step. Written out it takes a tenth of that. Other kinds of
    keys than Threefry go to ``jax.random.bits``. The tests hold the two equal, bit for bit.

    Args:
      key: random key.
      shape: shape of the result.

    Returns:
      Random words ``[*shape]``.

    Source: Salmon et al. 2011, Threefry-2x32 with 20 rounds, in jax's partitionable layout.

    Example:
      >>> words = gsm.distributions.random_bits(jax.random.key(0), (2, 3))
      >>> bool((words == jax.random.bits(jax.random.key(0), (2, 3))).all())
      True
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

    Returns:
      Numbers ``[*shape]``.

    Example:
      >>> gsm.distributions.uniform(jax.random.key(0), (2, 3)).shape
      (2, 3)
    """
    middle = (random_bits(key, shape).astype(dtype) + 0.5) * 2.0**-32
    return jnp.minimum(middle, 1 - 2.0**-24) if dtype == jnp.float32 else middle


def uniform_and_complement(
    key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32
) -> tuple[Array, Array]:
    """Draw ``u`` as :func:`uniform` does, and ``1 - u``, each fine at its own lower end.

    Near 1 float32 has a spacing of 6e-8; the complement of such a number is on the grid of 2^-32
    again. So a comparison or a logarithm that concerns the upper end reads the complement.

    Args:
      key: random key.
      shape: shape of both.
      dtype: float32 or float64.

    Returns:
      ``u`` and ``1 - u``, from 2^-33; the other one of the pair may round to 1.

    Example:
      >>> u, complement = gsm.distributions.uniform_and_complement(jax.random.key(0), (2, 3))
      >>> (u + complement).round(6).tolist()[0]
      [1.0, 1.0, 1.0]
    """
    words = random_bits(key, shape)
    u, complement = ((x.astype(dtype) + 0.5) * 2.0**-32 for x in (words, ~words))
    return u, complement


def exponential(key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Draw standard exponential noise, positive and finite for every random word.

    Args:
      key: random key.
      shape: shape of the noise.
      dtype: float32, where the noise lies in [1.2e-10, 16.6], or float64.

    Returns:
      Noise ``[*shape]``.

    Cost: one random word and a logarithm for each number.

    Example:
      >>> bool((gsm.distributions.exponential(jax.random.key(0), (2, 3)) > 0).all())
      True
    """
    tail = uniform(key, shape, dtype)
    # -log1p(-tail) by Kahan's correction of the rounded 1 - tail: XLA does not vectorise log1p on
    # CPU, where it took three times as long as all the rest.
    rounded = 1 - tail
    lost = jnp.where(rounded == 1, 1, 1 - rounded)
    return jnp.where(rounded == 1, tail, -jnp.log(rounded) * (tail / lost))


def gumbel(key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Draw standard Gumbel noise, finite for every random word: in [-2.82, 22.88].

    The default mode of ``jax.random.gumbel`` stops at 15.94 (classes of probability below 1e-7 come
    at the wrong rate) and its other mode takes two words for each number. Here the uniform number's
    fine end serves the upper tail, which decides an argmax; the lower ends at probability 6e-8.

    Args:
      key: random key.
      shape: shape of the noise.
      dtype: float32 or float64; noise is not offered in lower precision (see the module's text).

    Returns:
      Noise ``[*shape]``.

    Cost: one random word and two logarithms for each number.

    Example:
      >>> gsm.distributions.gumbel(jax.random.key(0), (2, 3)).shape
      (2, 3)
    """
    return -jnp.log(exponential(key, shape, dtype))


def logistic(key: Key[Array, ""], shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Draw standard logistic noise, the difference of two Gumbels: in [-22.88, 22.88].

    Args:
      key: random key.
      shape: shape of the noise.
      dtype: float32 or float64.

    Returns:
      Noise ``[*shape]``.

    Cost: one random word and a logarithm for each number.

    Example:
      >>> gsm.distributions.logistic(jax.random.key(0), (2, 3)).shape
      (2, 3)
    """
    u, complement = uniform_and_complement(key, shape, dtype)
    return jnp.log(u / complement)


def perturb(key: Key[Array, ""], logits: Logits) -> Logits:
    """Add Gumbel noise to the logits, up to a constant in each row.

    Both Gumbel samplers start from these scores. Of two classes only the difference matters, so
    one logistic number serves for two Gumbels.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.

    Returns:
      Scores ``[..., k]``, float32 at least, whose argmax follows ``softmax(logits)``.

    Example:
      >>> gsm.distributions.perturb(jax.random.key(0), jnp.zeros((2, 3), jnp.bfloat16)).dtype
      dtype('float32')
    """
    logits = logits.astype(_compute_dtype(logits))
    if logits.shape[-1] == 2:
        noise = logistic(key, logits.shape[:-1], logits.dtype)
        return two_class_logits(_lead(logits) + noise)
    return logits + gumbel(key, logits.shape, logits.dtype)


def one_hot_argmax(scores: Logits) -> Logits:
    """One-hot of the largest score of each row.

    Args:
      scores: scores ``[..., k]``.

    Returns:
      One-hot ``[..., k]``, the first of equal scores; NaN in a row that has no largest score.

    Example:
      >>> gsm.distributions.one_hot_argmax(jnp.array([[0.0, 2.0, 1.0]])).tolist()
      [[0.0, 1.0, 0.0]]
    """
    if scores.shape[-1] == 2:
        lead = _lead(scores)
        first = jnp.where(jnp.isnan(lead), jnp.nan, (lead >= 0).astype(scores.dtype))
        return jnp.stack([first, 1 - first], axis=-1)
    # Two plain reductions: XLA does not vectorise argmax on CPU, nor the noise that it fuses with.
    classes = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    candidates = jnp.where(scores == largest, classes, scores.shape[-1])
    hard = (classes == jnp.min(candidates, axis=-1, keepdims=True)).astype(scores.dtype)
    return jnp.where(largest > -jnp.inf, hard, jnp.nan)


@sampler
def gumbel_max(key: Key[Array, ""], logits: Logits, *, where: Mask | None = None) -> Logits:
    """Draw an exact one-hot sample: the argmax of logits plus Gumbel noise.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]`` of ``k`` classes, any float dtype.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      One-hot ``z [..., k]`` in the dtype of the logits. It carries no gradient. NaN where no class
      is possible.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have no axis, or the keys are several.

    Source: Jang et al. 2017, equation 1.

    Cost: one Gumbel variate for each logit; one logistic variate for each variable of two classes.
    Classes are drawn at their rate down to a probability of 1e-8 (two classes), 1e-9 (more).

    Example:
      >>> logits = jnp.zeros((2, 3))
      >>> gsm.gumbel_max(jax.random.key(0), logits).sum(axis=-1).tolist()
      [1.0, 1.0]
      >>> mask = jnp.array([False, True, False])
      >>> gsm.gumbel_max(jax.random.key(0), logits, where=mask).tolist()
      [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    return one_hot_argmax(perturb(key, jax.lax.stop_gradient(logits))).astype(logits.dtype)


@sampler
def inverse_cdf(key: Key[Array, ""], logits: Logits, *, where: Mask | None = None) -> Logits:
    """Draw an exact one-hot sample from one random word per variable.

    The same law as :func:`gumbel_max` at a ``k``-th of its random numbers, and the cumulative
    probabilities are shared by all samples of an example under ``vmap`` over keys: this is the
    sampler of evaluation. Each class owns an interval of the 2^32 random words, in whole numbers,
    so every word belongs to exactly one class, and to none of probability 0, whatever ``k`` is.
    Probabilities are resolved to 2^-32: a class of 1e-8 comes at its rate to 3 %, one below 1e-10
    never.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``, any float dtype; ``k`` at most 100,000.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      One-hot ``z [..., k]`` in the dtype of the logits. It carries no gradient. NaN where no class
      is possible.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have no axis or too many classes, or the keys are several.

    Source: inversion (Devroye 1986, section III.2), in whole numbers.

    Cost: one random word for each variable.

    Example:
      >>> gsm.inverse_cdf(jax.random.key(0), jnp.zeros((2, 3))).sum(axis=-1).tolist()
      [1.0, 1.0]
    """
    probs = _probs_to_deal(logits, "inverse_cdf")
    first, width, last = word_intervals(probs)
    word = jnp.minimum(random_bits(key, logits.shape[:-1]), last)[..., None]
    hard = (word - first < width).astype(probs.dtype)  # modulo 2^32, so not below `first` either
    nan = jnp.isnan(probs).any(axis=-1, keepdims=True)
    return jnp.where(nan, jnp.nan, hard).astype(logits.dtype)


MAX_CLASSES = 100_000
# Of :func:`inverse_cdf`: the sum of so many rounded counts stays below 2^32.


@sampler
def inverse_cdf_classes(
    key: Key[Array, ""],
    logits: Logits,
    sample_shape: tuple[int, ...] = (),
    *,
    where: Mask | None = None,
) -> Int[Array, "..."]:
    """Draw classes by the law of :func:`inverse_cdf`, any number of independent samples at once.

    What reads one-hot samples through a linear map only needs the rows of their classes, and sums
    of rows cost a fraction of the product (``experiments.tasks.networks``).

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``, any float dtype; ``k`` at most 100,000.
      sample_shape: shape of the samples of each variable.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Class indices ``[*sample_shape, ...]``, int32; -1 where no class is possible.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have no axis or too many classes, or the keys are several.

    Source: inversion (Devroye 1986, section III.2), in whole numbers.

    Cost: one random word for each class drawn.

    Example:
      >>> logits = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 0.0]])
      >>> gsm.inverse_cdf_classes(jax.random.key(0), logits, (3,)).tolist()
      [[0, 1], [0, 1], [0, 1]]
    """
    probs = _probs_to_deal(logits, "inverse_cdf_classes")
    words = random_bits(key, (*sample_shape, *logits.shape[:-1]))

    def of_each(of_variables):
        return jax.lax.expand_dims(of_variables, range(len(sample_shape)))

    # The last class whose interval begins at the word or before it: empty ones do not count.
    if logits.shape[-1] == 2:  # without an axis of two, see above
        counts = _counts(probs)
        total = counts[..., 0] + counts[..., 1]
        last = _stretched(total, total) - 1
        second = _stretched(counts[..., 0], total)
        classes = jnp.minimum(words, of_each(last)) >= of_each(second)
    else:
        first, _, last = word_intervals(probs)
        begun = jnp.minimum(words, of_each(last))[..., None] >= of_each(first[..., 1:])
        classes = jnp.sum(begun, axis=-1)
    impossible = jnp.isnan(probs).any(axis=-1)
    return jnp.where(of_each(impossible), -1, classes.astype(jnp.int32))


def _probs_to_deal(logits: Logits, caller: str) -> Array:
    if logits.shape[-1] > MAX_CLASSES:
        raise ValueError(
            f"{caller} takes at most {MAX_CLASSES:,} classes; logits have shape {logits.shape}"
        )
    return softmax(jax.lax.stop_gradient(logits).astype(_compute_dtype(logits)))


def word_intervals(
    probs: Float[Array, "*batch k"],
) -> tuple[UInt32[Array, "*batch k"], UInt32[Array, "*batch k"], UInt32[Array, "*batch"]]:
    """How :func:`inverse_cdf` deals the 2^32 random words out to the classes.

    Args:
      probs: class probabilities ``[..., k]``.

    Returns:
      The first word of each class and how many it has, ``[..., k]``; and the last word that is
      dealt, ``[...]``: the rest, one at most, goes where it goes.

    Example:
      >>> first, width, last = gsm.distributions.word_intervals(jnp.array([0.5, 0.0, 0.5]))
      >>> (width / 2.0**32).round(3).tolist()
      [0.5, 0.0, 0.5]
    """
    ends = jnp.cumsum(_counts(probs), axis=-1, dtype=jnp.uint32)
    ends = _stretched(ends, ends[..., -1:])
    first = jnp.concatenate([jnp.zeros_like(ends[..., :1]), ends[..., :-1]], axis=-1)
    return first, ends - first, ends[..., -1] - 1


def _counts(probs: Array) -> Array:
    # In whole numbers: a cumulative sum of floats is not monotone, and its steps are 6e-8.
    return jnp.round(probs * (2.0**32 - 2.0**18)).astype(jnp.uint32)


def _stretched(ends: Array, total: Array) -> Array:
    """Ends of intervals, stretched from their total, which rounding leaves below 2^32, to 2^32 - 1.

    A class may have all words. The stretch grows with the end, so equal ends stay equal and others
    in order.
    """
    share = (~total).astype(jnp.float32) / total.astype(jnp.float32)
    return ends + jnp.floor(ends.astype(jnp.float32) * share).astype(jnp.uint32)


@sampler
def gumbel_top_k(
    key: Key[Array, ""], logits: Logits, count: int, *, where: Mask | None = None
) -> Int[Array, "*batch count"]:
    """Draw ``count`` different classes of each variable, one after the other without replacement.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      count: number of classes, 1 to ``k``.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Class indices ``[..., count]`` in the order drawn; the first alone is a Gumbel-Max sample. If
      fewer than ``count`` classes are possible, impossible ones follow them. All are -1 where no
      class is possible or a logit is NaN.

    Raises:
      ValueError: more classes are asked than exist, or none.

    Source: Vieira 2014; Kool et al. 2019, "Stochastic Beams". The law is Plackett-Luce's.

    Cost: one Gumbel variate for each logit and a sort.

    Example:
      >>> drawn = gsm.gumbel_top_k(jax.random.key(0), jnp.zeros((2, 3)), count=3)
      >>> jnp.sort(drawn).tolist()
      [[0, 1, 2], [0, 1, 2]]
    """
    if not 1 <= count <= logits.shape[-1]:
        raise ValueError(f"count must be between 1 and {logits.shape[-1]} classes; got {count}")
    logits = logits.astype(_compute_dtype(logits))
    drawn = jax.lax.top_k(logits + gumbel(key, logits.shape, logits.dtype), count)[1]
    return jnp.where(jnp.max(logits, axis=-1, keepdims=True) > -jnp.inf, drawn, -1)


def gumbel_top_k_log_prob(indices: Int[Array, "n count"], logits: LogitsND) -> Float[Array, ""]:
    """Log-probability of ordered draws without replacement, summed over the variables, in nats.

    Args:
      indices: different classes ``[n, count]`` of each variable, in the order drawn.
      logits: unnormalised log-probabilities ``[n, k]``.

    Returns:
      Scalar log-probability; ``-inf`` for an index that is no class, or a class that is drawn twice
      or is impossible.

    Raises:
      ValueError: the indices are not those of the variables of one example.

    Source: Plackett 1975; Luce 1959.

    Example:
      >>> order = jnp.array([[2, 0]])  # one of 3 x 2 orders that are equally likely
      >>> round(float(jnp.exp(gsm.gumbel_top_k_log_prob(order, jnp.zeros((1, 3)))) * 6), 3)
      1.0
    """
    _check_examples("gumbel_top_k_log_prob", logits=logits)
    if jnp.ndim(indices) != 2 or len(indices) != len(logits):
        raise ValueError(
            f"gumbel_top_k_log_prob: indices must be [n, count] with n = {len(logits)} as in the "
            f"logits; got {_describe(indices)}"
        )
    remaining, total = logits.astype(_compute_dtype(logits)), jnp.zeros(())
    nothing = jnp.max(remaining, axis=-1) == -jnp.inf  # NaN, by convention
    for drawn in indices.T:
        one_hot = jax.nn.one_hot(drawn, logits.shape[-1], dtype=bool)
        # Where all possible classes are drawn, what follows is impossible. The mass that is left is
        # summed anew each time: 1 - sum(p) would cancel.
        over = (jnp.max(remaining, axis=-1) == -jnp.inf) & ~nothing
        log_p = jax.nn.log_softmax(jnp.where(over[:, None], 0, remaining), axis=-1)
        of_drawn = jnp.sum(jnp.where(one_hot, log_p, 0), axis=-1)
        total += jnp.sum(jnp.where(over | ~one_hot.any(axis=-1), -jnp.inf, of_drawn))
        remaining = jnp.where(one_hot, -jnp.inf, remaining)
    return total


@sampler
def conditional_gumbels(
    key: Key[Array, ""], logits: Logits, z: Logits, *, where: Mask | None = None
) -> Logits:
    """Draw ``logits + Gumbel noise`` given that its argmax is the class of ``z``.

    Args:
      key: random key, independent of the one that drew ``z``.
      logits: unnormalised log-probabilities ``[..., k]``.
      z: one-hot sample ``[..., k]``.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      Perturbed logits ``[..., k]`` with ``argmax = z``, differentiable in the logits at a fixed
      ``z``. NaN where no class is possible.

    Raises:
      TypeError: the logits are not floats, or the key is not a random key.
      ValueError: the logits have the wrong rank, or the keys are several.

    Source: Maddison et al. 2014 ("A* sampling"), truncated Gumbels; computed in log space, where
    the form with exponentials of the literature is NaN at logits of 100.

    Cost: one Gumbel variate for each logit.

    Example:
      >>> z = jnp.array([[0.0, 0.0, 1.0]])
      >>> scores = gsm.conditional_gumbels(jax.random.key(0), jnp.zeros((1, 3)), z)
      >>> scores.argmax(axis=-1).tolist()
      [2]
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
    scores = jnp.where(z > 0, largest, truncated) + 0 * z  # NaN in, NaN out
    return jnp.where(jnp.all(masked, axis=-1, keepdims=True), jnp.nan, scores)


def log_prob(z: LogitsND, logits: LogitsND) -> Float[Array, ""]:
    """Log-probability of a one-hot sample, summed over the variables, in nats.

    For a relaxed ``z`` it is the multilinear extension ``sum z log softmax(logits)`` that the
    literature calls the relaxed log-mass (Maddison et al. 2017, equation 21): not a density.

    Args:
      z: one-hot or relaxed sample ``[n, k]``.
      logits: unnormalised log-probabilities ``[n, k]``.

    Returns:
      Scalar log-probability.

    Source: Jang et al. 2017, section 2; Maddison et al. 2017, equation 21.

    Example:
      >>> z = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> round(float(jnp.exp(gsm.log_prob(z, jnp.zeros((2, 2))))), 3)
      0.25
    """
    _check_examples("log_prob", z=z, logits=logits)
    return jnp.sum(log_probs(z, logits))


def log_probs(z: LogitsND, logits: LogitsND) -> Float[Array, " n"]:
    """Log-probability of a one-hot sample for each variable, in nats; see :func:`log_prob`.

    Args:
      z: one-hot or relaxed sample ``[n, k]``.
      logits: unnormalised log-probabilities ``[n, k]``.

    Returns:
      Log-probabilities ``[n]``.

    Example:
      >>> z = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> jnp.exp(gsm.distributions.log_probs(z, jnp.zeros((2, 2)))).round(3).tolist()
      [0.5, 0.5]
    """

    def term(z, log_p):
        # Twice `where`: 0 * -inf is NaN in the value, and its derivative by z would be -inf. That
        # of a possible class that was not drawn is its log-probability, as inside the simplex.
        counts = (z > 0) | (log_p > -jnp.inf)
        return jnp.where(counts, z * jnp.where(counts, log_p, 0), 0 * z)

    return _sum_over_classes(term, z, log_softmax(logits.astype(_compute_dtype(logits))))


def log_prob_ratio(z: LogitsND, logits_p: LogitsND, logits_q: LogitsND) -> Float[Array, ""]:
    """Compute ``log p(z) - log q(z)`` of a one-hot sample of q, in nats, for evaluation.

    One inner product with the table of ratios, which all samples of an example share under
    ``vmap``; with :func:`log_prob` twice, evaluating 200 units takes double. Where p is 0
    it gives the lowest finite number in place of ``-inf``, which has the same importance weight.

    Args:
      z: one-hot sample ``[n, k]``.
      logits_p: logits of p, ``[n, k]``.
      logits_q: logits of q, ``[n, k]``.

    Returns:
      Scalar difference, summed over the variables.

    Example:
      >>> z = jnp.array([[0.0, 1.0]])
      >>> uniform, certain = jnp.zeros((1, 2)), jnp.array([[-jnp.inf, 0.0]])
      >>> round(float(jnp.exp(gsm.distributions.log_prob_ratio(z, uniform, certain))), 3)
      0.5
    """
    _check_examples("log_prob_ratio", z=z, logits_p=logits_p, logits_q=logits_q)
    return jnp.vdot(z, log_ratios(logits_p, logits_q))


def log_ratios(logits_p: LogitsND, logits_q: LogitsND) -> Float[Array, "n k"]:
    """Compute ``log p - log q`` of each class, the table of :func:`log_prob_ratio`, in nats.

    Args:
      logits_p: logits of p, ``[n, k]``.
      logits_q: logits of q, ``[n, k]``.

    Returns:
      Differences ``[n, k]``: 0 where q is 0, and the lowest finite number where only p is.

    Example:
      >>> gsm.distributions.log_ratios(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 0.0]])).tolist()
      [[0.0, 0.0]]
    """
    log_q = log_softmax(logits_q)
    ratio = log_softmax(logits_p) - log_q
    table = jnp.where(logits_q > -jnp.inf, jnp.maximum(ratio, jnp.finfo(ratio.dtype).min), 0)
    return jnp.where(jnp.isnan(log_q), jnp.nan, table)


def _plogp(logit: Array, prob: Array, log_ratio: Array) -> Array:
    """``prob * log_ratio``, and 0 for impossible classes."""
    # Not `logit > -inf`, which is false for NaN too and would hide it; nor where no class is
    # possible, whose probabilities are NaN.
    impossible = (logit == -jnp.inf) & (prob == 0)
    product = prob * jnp.where(impossible, 0, log_ratio)
    # A probability that underflows is not 0: where p is, the divergence is infinite.
    underflows = (logit > -jnp.inf) & (prob == 0) & (log_ratio == jnp.inf)
    return jnp.where(impossible, 0, jnp.where(underflows, jnp.inf, product))


def entropy(logits: LogitsND) -> Float[Array, ""]:
    """Entropy of the ``n`` categoricals together, in nats.

    Args:
      logits: unnormalised log-probabilities ``[n, k]``.

    Returns:
      Scalar entropy.

    Example:
      >>> round(float(jnp.exp(gsm.distributions.entropy(jnp.zeros((2, 3))))), 3)
      9.0
    """
    _check_examples("entropy", logits=logits)
    logits = logits.astype(_compute_dtype(logits))
    return -jnp.sum(_sum_over_classes(_plogp, logits, softmax(logits), log_softmax(logits)))


def kl_divergence(logits_q: LogitsND, logits_p: LogitsND) -> Float[Array, ""]:
    """``KL[q || p]`` of two families of ``n`` independent categoricals, summed, in nats.

    A class that q never draws counts 0; one that q draws and p never does makes it ``inf``.

    Args:
      logits_q: logits of q, ``[n, k]``.
      logits_p: logits of p, ``[n, k]``.

    Returns:
      Scalar divergence.

    Example:
      >>> float(gsm.distributions.kl_divergence(jnp.zeros((2, 3)), jnp.ones((2, 3))))
      0.0
    """
    _check_examples("kl_divergence", logits_q=logits_q, logits_p=logits_p)
    logits_q, logits_p = (x.astype(_compute_dtype(x)) for x in (logits_q, logits_p))

    def term(logit, prob, log_q, log_p):
        return _plogp(logit, prob, log_q - log_p)

    tables = logits_q, softmax(logits_q), log_softmax(logits_q), log_softmax(logits_p)
    return jnp.sum(_sum_over_classes(term, *tables))


def check_positive(value: Scalar, name: str) -> None:
    """Raise ValueError for a number that is not positive; an array of JAX is not checked.

    Args:
      value: the argument to check.
      name: its name, for the message.

    Raises:
      ValueError: it is a number of Python or NumPy and not positive, or an array with axes.

    Example:
      >>> gsm.distributions.check_positive(-1.0, "temperature")
      Traceback (most recent call last):
      ValueError: temperature must be positive; got -1.0
    """
    if jnp.ndim(value):
        raise ValueError(f"{name} must be a scalar; got shape {jnp.shape(value)}")
    if isinstance(value, int | float | np.generic | np.ndarray) and not value > 0:
        raise ValueError(f"{name} must be positive; got {value}")


def temper(scores: Float[Array, "..."], temperature: Scalar) -> Float[Array, "..."]:
    """Divide scores by a temperature; the derivative is finite at infinite scores too.

    Args:
      scores: scores ``[...]``.
      temperature: positive scalar.

    Returns:
      ``scores / temperature``.

    Raises:
      ValueError: the temperature is a number and not positive. The gradient at a traced 0 is NaN.

    Example:
      >>> gsm.distributions.temper(jnp.array([1.0, -jnp.inf]), 0.5).tolist()
      [2.0, -inf]
    """
    check_positive(temperature, "temperature")
    if isinstance(temperature, int | float) and temperature == 1:
        return scores
    certain = jnp.isinf(scores)
    return jnp.where(certain, scores, jnp.where(certain, 0, scores) / temperature)


@sampler
def log_gumbel_softmax(
    key: Key[Array, ""], logits: Logits, temperature: Scalar = 1.0, *, where: Mask | None = None
) -> Logits:
    """Draw the logarithm of a Gumbel-Softmax sample; exact where the sample itself underflows.

    Args:
      key: random key.
      logits: unnormalised log-probabilities ``[..., k]``.
      temperature: positive scalar.
      where: boolean mask, broadcast to the logits; a class where it is False is impossible.

    Returns:
      ``log z [..., k]``, differentiable in logits and temperature, float32 at least. NaN where no
      class is possible.

    Raises:
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Maddison et al. 2017, section 3.3 ("ExpConcrete").

    Cost: that of :func:`gsm.gumbel_softmax`.

    Example:
      >>> log_z = gsm.log_gumbel_softmax(jax.random.key(0), jnp.zeros((2, 3)), 1e-3)
      >>> bool(jnp.isfinite(log_z).all()), bool((jnp.exp(log_z) == 0).any())
      (True, True)
    """
    return log_softmax(perturb(key, logits), temperature)


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

    Returns:
      Scalar log-density.

    Raises:
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Maddison et al. 2017, appendix C.2 (checked by quadrature in the tests).

    Example:
      >>> log_z = jnp.log(jnp.array([[0.5, 0.5]]))  # two classes: a logistic density at 0
      >>> density = jnp.exp(gsm.log_gumbel_softmax_log_density(log_z, jnp.zeros((1, 2)), 1.0))
      >>> round(float(density), 3)
      0.25
    """
    _check_examples("log_gumbel_softmax_log_density", log_z=log_z, logits=logits)
    check_positive(temperature, "temperature")
    n, k = logits.shape
    log_z, logits = (x.astype(_compute_dtype(x)) for x in (log_z, logits))
    scores = logits - temperature * log_z
    constant = math.lgamma(k) + (k - 1) * jnp.log(temperature)
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

    Returns:
      Scalar log-density.

    Raises:
      ValueError: the temperature is a number and not positive, or no scalar.

    Source: Jang et al. 2017, appendix B, equation 18; Maddison et al. 2017, equation 10.

    Example:
      >>> z = jnp.array([[0.3, 0.7]])  # at temperature 1 and equal logits it is uniform
      >>> round(float(jnp.exp(gsm.gumbel_softmax_log_density(z, jnp.zeros((1, 2)), 1.0))), 3)
      1.0
    """
    _check_examples("gumbel_softmax_log_density", z=z, logits=logits)
    log_z = jnp.log(z.astype(_compute_dtype(z)))
    return log_gumbel_softmax_log_density(log_z, logits, temperature) - jnp.sum(log_z)


# 14 divides the 784 pixels of an image and the 392 of half of one, and 2^14 is far from overflow.
_PIXELS_PER_LOGARITHM = 14


@jax.custom_jvp
def bernoulli_log_prob(x: Float[Array, " d"], logits: Float[Array, " d"]) -> Float[Array, ""]:
    """Log-probability of ``d`` independent binary pixels, summed, in nats.

    ``log p(x) = x l - max(l, 0) - log(1 + exp(-|l|))``. The arguments of the logarithms, each in
    (1, 2], are multiplied by 14 before the logarithm is taken, which leaves an exponential and a
    multiplication per pixel in the innermost loop of evaluation.

    Args:
      x: pixels ``[d]``, 0 or 1; values between give the (unnormalised) cross-entropy.
      logits: log-odds ``[d]`` of each pixel.

    Returns:
      Scalar log-probability.

    Example:
      >>> x = jnp.array([1.0, 0.0])
      >>> round(float(jnp.exp(gsm.distributions.bernoulli_log_prob(x, jnp.zeros(2)))), 3)
      0.25
    """

    x, logits = (value.astype(_compute_dtype(value)) for value in (x, logits))

    def grouped(values, filling):
        # Summed and multiplied along the major axis, which XLA vectorises.
        rest = -values.shape[0] % _PIXELS_PER_LOGARITHM
        padded = jnp.pad(values, (0, rest), constant_values=filling)
        return padded.reshape(_PIXELS_PER_LOGARITHM, -1)

    linear = jnp.sum(grouped(x * logits - jnp.maximum(logits, 0), 0), axis=0)
    products = jnp.prod(grouped(1 + jnp.exp(-jnp.abs(logits)), 1), axis=0)
    return jnp.sum(linear - jnp.log(products))


@functools.partial(bernoulli_log_prob.defjvp, symbolic_zeros=True)
def _bernoulli_log_prob_jvp(primals, tangents):
    x, logits = (value.astype(_compute_dtype(value)) for value in primals)
    x_dot, logits_dot = tangents
    terms = []
    if not isinstance(logits_dot, SymbolicZero):
        terms.append((x - jax.nn.sigmoid(logits)) * logits_dot)
    if not isinstance(x_dot, SymbolicZero):
        terms.append(logits * x_dot)
    return bernoulli_log_prob(x, logits), sum(map(jnp.sum, terms), jnp.zeros((), logits.dtype))
