"""How good a gradient estimate is: its bias, variance, cosine and cost, for any cost or loss.

:func:`compare` measures estimators on a cost or a loss of your own:

>>> import gsm, jax, jax.numpy as jnp
>>> logits = jnp.array([[0.5, 0.0, -1.0], [0.2, 1.0, 0.3]])
>>> def f(z):
...     return jnp.sin(jnp.sum(z * jnp.arange(6.0).reshape(2, 3)))
>>> rows = gsm.compare(jax.random.key(0), logits, f, ["rloo", "reinmax", "disarm"], num_keys=400)
>>> [row.estimator for row in rows], rows.reference
(['rloo', 'reinmax'], 'exact')
>>> rows.skipped
{'disarm': 'disarm needs two classes; logits have shape (2, 3)'}

``print(rows)`` is a table, ``rows.plot("errors.png")`` a figure, ``rows.to_csv("rows.csv")`` a
file. :func:`moments` and :func:`statistics` are what it is made of, for a gradient of any origin;
:func:`interleaved` and :func:`value_and_gradient_loop` measure times.

Estimates are summed in batches of keys, and every statistic is made of inner products of the
batches' means. Those of different batches are independent, so squared lengths come out unbiased:
the mean of n noisy estimates is never exactly at the reference, and its plain distance would be
read as bias.

Bands. Squared lengths of single estimates are often heavy-tailed. A jackknife band, symmetric and
with a quantile of Student's t, then misses high values: it covers the variance of estimates with
Student's t with 3 degrees of freedom in 72 % to 82 % of measurements. Here the jackknife gives
pseudo-values of each statistic, one for each batch (Efron and Tibshirani 1993, chapter 11), and the
quantiles are those of the studentised mean of resampled pseudo-values (bootstrap-t, chapter 12).
A resample has a fifth of the batches: for heavy tails the bootstrap of the studentised mean is
consistent only with resamples much smaller than the sample (Hall and LePage 1996). Also:

* variance and 1 - cosine are positive: their bands are on the logarithm;
* squared bias and 1 - cosine of the mean are squared distances, whose standard error vanishes with
  them. For one parameter with mean ``x`` and standard error ``s`` the distance is at most
  ``|x| + q s``, in squares ``x**2 + q (2 |x| s) + q**2 s**2``: the upper end has this last term;
* quantiles are limited to 5 standard errors, for laws whose large values are rare enough to be
  missing from most resamples.

Measured coverage of the 95 % bands (200 to 1,000 repetitions for each of 74 cases: 1 to 1,000
components, 200 to 2,000 keys, biases of 0 to 20 standard errors; normal, exponential, products of
normals, Student's t with 5 and 3 degrees of freedom, one large value in 50): 94 % to 100 % for all
statistics, but 90 % to 94 % for the variance with 3 degrees of freedom, whose fourth moment is
infinite, so that no method is exact. Widths are mostly 1.1 to 1.4 times the range that holds 95 %
of the values; for the variance at 200 keys of one component 1.9 times (exponential) and 7 times
(one large value in 50). What no key has shown cannot be covered: where all cosines are 1, the band
is 1 alone.
"""

import csv
import functools
import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Key

from gsm.distributions import check_key, check_logits
from gsm.estimators import MAX_OUTCOMES, scalar_cost
from gsm.registry import ESTIMATORS, Hyperparams, entry_of, operator_of

Gradient = Any
"""A pytree of arrays; a mapping's top level names the groups of parameters."""

_Numbers = Any
"""A number, or an array of such numbers."""

ALL = "all"
"""The group that holds every parameter."""

NUM_BATCHES = 40
_RESAMPLES = 4_000
_MOST_ERRORS = 5.0


class Moments(NamedTuple):
    """What :func:`statistics` needs of the estimates of one group of parameters.

    Args:
      products: inner products of the batches' mean estimates, ``[batch, batch]``.
      with_reference: inner products of those with the reference, ``[batch]``.
      reference: squared length of the reference.
      squares: mean squared length of single estimates, ``[batch]``.
      cosines: mean cosine of single estimates to the reference, ``[batch]``.

    Example: at :func:`moments`.
    """

    products: np.ndarray
    with_reference: np.ndarray
    reference: float
    squares: np.ndarray
    cosines: np.ndarray


class Statistic(NamedTuple):
    """A number with its 95 % band.

    Args:
      value: the number.
      low: lower end of the band.
      high: upper end of the band.

    Example:
      >>> gsm.diagnostics.Statistic(0.5, low=0.4, high=0.7).low
      0.4
    """

    value: float
    low: float
    high: float


def moments(
    gradient: Callable[..., Gradient],
    arguments: tuple,
    reference: Gradient,
    key: Key[Array, ""],
    num_keys: int,
    at_once: int = 1,
) -> dict[str, Moments]:
    """Estimate at many keys and sum up what statistics need, for each group of parameters.

    Args:
      gradient: one estimate, ``gradient(key, *arguments)``.
      arguments: arrays, not compiled in: other values of the same shapes do not compile again.
      reference: the exact gradient or a long-run mean, of the same tree.
      key: random key.
      num_keys: number of estimates, a multiple of ``40 * at_once``.
      at_once: estimates that are vectorised together.

    Returns:
      Moments by group: the top-level names of the gradient, if it is a mapping of several, and
      :data:`ALL`.

    Raises:
      ValueError: ``num_keys`` cannot be divided so.

    Cost: ``num_keys`` gradients; memory for 40 of them.

    Example:
      >>> def noisy(key, mean):
      ...     return mean + jax.random.normal(key, (2,))
      >>> mean = jnp.array([3.0, 4.0])
      >>> of_groups = gsm.diagnostics.moments(
      ...     noisy, (mean,), mean, jax.random.key(0), num_keys=4_000, at_once=100)
      >>> variance = gsm.diagnostics.statistics(of_groups["all"])["variance"]
      >>> variance.low < 2 / 25 < variance.high
      True
    """
    each = _keys_in_a_batch(num_keys, at_once)
    keys = random.split(key, (NUM_BATCHES, each, at_once))
    batches = [jax.device_get(measure_batch(gradient, arguments, reference, k)) for k in keys]
    means = jax.tree.map(
        lambda *of_batches: np.stack(of_batches), *(mean for mean, _, _ in batches)
    )
    reference = jax.device_get(reference)
    groups: dict[str, Moments] = {}
    for name in (*_groups(reference), ALL):
        products, with_reference, squared_reference = _products(
            _group(means, name), _group(reference, name)
        )
        groups[name] = Moments(
            products=products,
            with_reference=with_reference,
            reference=squared_reference,
            squares=np.array([float(squares[name]) for _, squares, _ in batches]),
            cosines=np.array([float(cosines[name]) for _, _, cosines in batches]),
        )
    return groups


def _keys_in_a_batch(num_keys: int, at_once: int) -> int:
    """How often ``at_once`` keys are used in each batch."""
    each, rest = divmod(num_keys, NUM_BATCHES * at_once)
    if rest or each < 1:
        raise ValueError(
            f"num_keys must be a positive multiple of {NUM_BATCHES} batches x {at_once} at once; "
            f"got {num_keys}"
        )
    return each


def _products(means: Gradient, reference: Gradient) -> tuple[np.ndarray, np.ndarray, float]:
    """Inner products of the batches' means, of those with the reference, and of it with itself."""

    def of_leaf(mean, target):
        mean = np.asarray(mean, np.float64).reshape(len(mean), -1)
        target = np.asarray(target, np.float64).reshape(-1)
        return mean @ mean.T, mean @ target, target @ target

    leaves = zip(jax.tree.leaves(means), jax.tree.leaves(reference), strict=True)
    products, with_reference, squared = zip(*(of_leaf(*pair) for pair in leaves), strict=True)
    return sum(products), sum(with_reference), float(sum(squared))


def statistics(m: Moments) -> dict[str, Statistic]:
    """Compute relative bias, relative variance and cosines of one group, each with its 95 % band.

    Args:
      m: moments of the group, from :func:`moments`.

    Returns:
      Statistics by name.
      "bias": distance of the mean estimate from the reference, over the reference's length. Its
      square is estimated without bias, so it may come out 0.
      "variance": of one estimate, summed over parameters, over the reference's squared length.
      "cosine": mean cosine of one estimate to the reference.
      "cosine_of_mean": cosine of the mean estimate to the reference.

    Source: the module's documentation has that of the bands.

    Example:
      >>> found = gsm.diagnostics.moments(
      ...     jax.random.normal, (), jnp.float32(1), jax.random.key(0), num_keys=4_000, at_once=100)
      >>> bias = gsm.diagnostics.statistics(found["all"])["bias"]
      >>> bias.low < 1 < bias.high
      True
    """
    count = len(m.squares)
    each = _Sums(
        products=2 * m.products.sum(axis=1) - np.diag(m.products),
        squared_means=np.diag(m.products),
        with_reference=m.with_reference,
        squares=m.squares,
        cosines=m.cosines,
    )
    total = _Sums(m.products.sum(), *(x.sum() for x in each[1:]))
    left_out = _Sums(*(x - y for x, y in zip(total, each, strict=True)))
    whole = _point(total, count, m.reference)
    without_one = _point(left_out, count - 1, m.reference)
    pseudo = {name: count * whole[name] - (count - 1) * without_one[name] for name in whole}
    # The mean's noise makes its plain distances too long; they serve as scales alone.
    plain = _distances(total.products / count**2, total.with_reference / count, m.reference)
    variance = _positive(whole["variance"], pseudo["variance"])
    bias = _squared_distance(whole["bias"], pseudo["bias"], plain["bias"])
    cosine = _positive(whole["cosine"], pseudo["cosine"])
    cosine_of_mean = _squared_distance(
        whole["cosine_of_mean"], pseudo["cosine_of_mean"], plain["cosine_of_mean"]
    )
    return {
        "bias": Statistic(*(float(np.sqrt(max(x, 0.0))) for x in bias)),
        "variance": variance,
        "cosine": _cosine(cosine),
        "cosine_of_mean": _cosine(cosine_of_mean),
    }


class _Sums(NamedTuple):
    """Over batches, or what each batch adds to them."""

    products: _Numbers
    """Over pairs of batches."""
    squared_means: _Numbers
    with_reference: _Numbers
    squares: _Numbers
    cosines: _Numbers


def _point(sums: _Sums, count: int, reference: float) -> dict[str, _Numbers]:
    """Variance, 1 - cosine, squared bias and 1 - cosine of the mean, of ``count`` batches."""
    squared_mean = (sums.products - sums.squared_means) / (count * (count - 1))
    return {
        "variance": (sums.squares / count - squared_mean) / reference,
        "cosine": 1 - sums.cosines / count,
    } | _distances(squared_mean, sums.with_reference / count, reference)


def _distances(
    squared_mean: _Numbers, with_reference: _Numbers, reference: float
) -> dict[str, _Numbers]:
    """Squared bias and 1 - cosine of a mean, from its squared length and its inner product."""
    # The cosine of a mean that cannot be distinguished from zero is not defined: give 0 for it.
    length = np.sqrt(np.maximum(squared_mean, 0.0) * reference)
    cosine = np.where(length > 0, with_reference / np.where(length > 0, length, 1), 0.0)
    return {
        "bias": (squared_mean - 2 * with_reference + reference) / reference,
        "cosine_of_mean": 1 - cosine,
    }


def _positive(value: _Numbers, pseudo: np.ndarray) -> Statistic:
    """Value and band of a positive statistic, symmetric on the logarithm if its law is."""
    value = max(float(value), 0.0)  # rounding may make it negative
    mean, error, resampled, errors = _resampled(pseudo)
    # Of a resample without a positive mean the logarithm is taken as -infinity.
    positive = (resampled > 0) & (mean > 0)
    logarithms = np.log(np.where(positive, resampled, 1) / np.where(positive, mean, 1))
    low, high = _quantiles(np.where(positive, logarithms * resampled, -np.inf), errors)
    # The standard error of a mean of positive numbers is at most about that mean.
    relative = min(float(error) / value, 1.0) if value > 0 else 0.0
    ends = (value * math.exp(-quantile * relative) for quantile in (high, low))
    return Statistic(value, *ends)


def _squared_distance(value: _Numbers, pseudo: np.ndarray, plain: _Numbers) -> Statistic:
    """Value and band of a squared distance; ``plain`` is that of the mean with its noise."""
    mean, error, resampled, errors = _resampled(pseudo)
    low, high = _quantiles(resampled - mean, errors)
    # Variance of the mean along the distance, since the error is 2 |x| s. The value had this
    # subtracted once to be unbiased; the upper end adds it back, and q**2 times more.
    noise = error**2 / (4 * float(plain)) if plain > 0 else 0.0
    value = float(value)
    return Statistic(value, value - high * error, value - low * error + (1 + low**2) * noise)


def _cosine(distance: Statistic) -> Statistic:
    value, high, low = (float(np.clip(1 - x, -1, 1)) for x in distance)
    return Statistic(value, low, high)


def _resampled(pseudo: np.ndarray) -> tuple[_Numbers, _Numbers, _Numbers, _Numbers]:
    """Mean and standard error of pseudo-values, and those of resamples of a fifth of them."""
    chosen = pseudo[_choices(len(pseudo))]
    return (*_mean_and_error(pseudo), *_mean_and_error(chosen))


def _mean_and_error(x: np.ndarray) -> tuple[_Numbers, _Numbers]:
    return x.mean(axis=-1), x.std(axis=-1, ddof=1) / np.sqrt(x.shape[-1])


@functools.cache
def _choices(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(count, size=(_RESAMPLES, count // 5))


def _quantiles(deviations: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """2.5 % and 97.5 % of deviations in units of their standard errors."""
    # Deviations without an error are 0 where all pseudo-values are equal.
    smallest = np.finfo(np.float64).tiny
    with np.errstate(over="ignore"):  # infinite where the error is tiny, and clipped below
        studentised = deviations / np.maximum(errors, smallest)
    low, high = np.quantile(np.clip(studentised, -_MOST_ERRORS, _MOST_ERRORS), [0.025, 0.975])
    return float(low), float(high)


@functools.partial(jax.jit, static_argnums=0)
def measure_batch(
    gradient: Callable[..., Gradient],
    arguments: tuple,
    reference: Gradient,
    keys: Key[Array, "each at_once"],
) -> tuple[Gradient, dict[str, Array], dict[str, Array]]:
    """Compute the mean estimate of a batch, and mean squared lengths and cosines by group.

    Args:
      gradient: one estimate, ``gradient(key, *arguments)``.
      arguments: arrays, not compiled in.
      reference: what cosines are to, of the tree of an estimate.
      keys: random keys ``[each, at_once]``; those of a row are vectorised together.

    Returns:
      ``(mean estimate, mean squared lengths by group, mean cosines by group)``.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), (10, 100))
      >>> mean, squares, cosines = gsm.diagnostics.measure_batch(
      ...     jax.random.normal, (), jnp.float32(1), keys)
      >>> abs(float(mean)) < 0.2 and abs(float(squares["all"]) - 1) < 0.2
      True
    """

    def some(keys):
        estimates = jax.vmap(lambda key: gradient(key, *arguments))(keys)
        estimates = jax.tree.map(  # sums of many bfloat16 numbers lose the last of them
            lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), estimates
        )
        mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), estimates)
        measured = jax.vmap(functools.partial(_lengths, reference))(estimates)
        squares, cosines = jax.tree.map(jnp.mean, measured)
        return mean, squares, cosines

    def add(total, keys):
        return jax.tree.map(jnp.add, total, some(keys)), None

    shapes = jax.eval_shape(lambda keys: some(keys[0]), keys)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, keys)
    return jax.tree.map(lambda x: x / keys.shape[0], total)


def _lengths(reference: Gradient, estimate: Gradient) -> tuple[dict, dict]:
    squares, cosines = {}, {}
    for name in (*_groups(reference), ALL):
        ours, target = _group(estimate, name), _group(reference, name)
        squares[name] = _dot(ours, ours)
        lengths = jnp.sqrt(squares[name]) * jnp.sqrt(_dot(target, target))
        cosines[name] = jnp.where(lengths > 0, _dot(ours, target) / lengths, 0)
    return squares, cosines


def _dot(one: Gradient, other: Gradient) -> Float[Array, ""]:
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y), one, other)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _groups(gradient: Gradient) -> tuple[str, ...]:
    several = isinstance(gradient, Mapping) and len(gradient) > 1
    return tuple(gradient) if several else ()


def _group(gradient: Gradient, name: str) -> Gradient:
    return gradient if name == ALL else gradient[name]


# --- Time ------------------------------------------------------------------------------------


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each call, all timed in turn, round after round.

    A machine's speed drifts; calls timed in turn share the drift, so their ratios do not have it.

    Args:
      calls: functions without arguments, by name. One round more, the first, compiles them.
      rounds: that are timed.

    Returns:
      Seconds by name, each until the arrays that the call returns are computed.

    Example:
      >>> calls = {"short": lambda: sum(range(10)), "long": lambda: sum(range(10**6))}
      >>> seconds = gsm.diagnostics.interleaved(calls)
      >>> seconds["short"] < seconds["long"]
      True
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if round_:  # the first compiles
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def value_and_gradient_loop(
    loss: Callable[..., Float[Array, ""]], arguments: tuple, num_keys: int
) -> Callable[[], tuple[Float[Array, " num_keys"], Any]]:
    """A call without arguments that estimates as training does, at one key after the other.

    Args:
      loss: one value, ``loss(key, params, *rest)``, whose gradient with respect to ``params`` is
        the estimate.
      arguments: ``(params, *rest)``; params is a pytree.
      num_keys: number of estimates.

    Returns:
      A call, for :func:`interleaved`, that returns the value at each key, and params as they were.

    Example:
      >>> def loss(key, x):
      ...     return x * jax.random.uniform(key)
      >>> call = gsm.diagnostics.value_and_gradient_loop(loss, (2.0,), 10)
      >>> values, x = call()
      >>> values.shape, float(x)
      ((10,), 2.0)
    """
    keys = random.split(random.key(0), num_keys)
    return lambda: _descend(loss, random.clone(keys), jnp.float32(0), *arguments)


@functools.partial(jax.jit, static_argnums=0)
def _descend(loss: Callable[..., Float[Array, ""]], keys, rate, params, *rest):
    """Gradient descent, a step for each key; the values of the loss.

    Every step needs the value, the whole gradient and the parameters of the step before. So XLA
    can neither drop a part of an estimate nor compute it once for all keys, though the rate is 0.
    """

    def step(params, key):
        value, gradient = jax.value_and_grad(loss, 1)(key, params, *rest)
        lower = jax.tree.map(lambda x, slope: (x - rate * slope).astype(x.dtype), params, gradient)
        return lower, value

    params, values = jax.lax.scan(step, params, keys)
    return values, params


# --- Comparison ------------------------------------------------------------------------------

Operator = Callable[..., Float[Array, ""]]
"""``estimator(key, logits, f) -> surrogate``."""

BASE = "gumbel_softmax"
"""The estimator that times are relative to, if it takes part; else the fastest."""


class Row(NamedTuple):
    """One estimator's gradient with respect to one group of parameters.

    Bias is over the reference's length, variances and squared errors over its square.

    Args:
      estimator: name of the estimator.
      group: a top-level name of the parameters, or "all".
      bias: of the mean estimate.
      variance: of one estimate.
      cosine: mean cosine of one estimate to the reference.
      cosine_of_mean: cosine of the mean estimate to the reference.
      evaluations: evaluations of f for one estimate of one example.
      seconds: seconds of one value and gradient.
      relative_time: those over the seconds of :data:`BASE`.
      error_at_evaluations: mean squared error, ``bias ** 2 + variance / m``, of the mean of as many
        estimates m as the budget of evaluations pays for; infinite if that is none.
      error_at_time: the same for a budget of time, that of ``budget`` estimates of :data:`BASE`.

    Example: at :func:`compare`.
    """

    estimator: str
    group: str
    bias: Statistic
    variance: Statistic
    cosine: Statistic
    cosine_of_mean: Statistic
    evaluations: int
    seconds: float
    relative_time: float
    error_at_evaluations: float
    error_at_time: float


class Comparison(list[Row]):
    """What :func:`compare` returns: rows, and what they were measured against.

    Attributes:
      reference: whose gradient the reference is.
      reference_error: standard error of the reference over its length, by group; 0 where exact.
      skipped: estimators that could not serve, with the reason.
      budget: evaluations, and estimates of :data:`BASE`, that errors are stated for.
      num_keys: estimates of each.

    Example: at :func:`compare`.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        reference: str,
        reference_error: Mapping[str, float],
        skipped: Mapping[str, str],
        budget: int,
        num_keys: int,
    ):
        super().__init__(rows)
        self.reference, self.reference_error = reference, dict(reference_error)
        self.skipped, self.budget, self.num_keys = dict(skipped), budget, num_keys

    def __str__(self) -> str:
        """An aligned table, with the reference and the estimators left out below it."""
        groups = len({row.group for row in self}) > 1
        head = ["estimator", *["group"] * groups, "bias", "[95 %]", "variance", "[95 %]"]
        head += ["cosine", "[95 %]", "evaluations", "microseconds"]
        head += ["error at evaluations", "error at time"]
        table = [head]
        for row in self:
            line = [row.estimator, *[row.group] * groups]
            for statistic in (row.bias, row.variance, row.cosine):
                line += [f"{statistic.value:.3g}", f"[{statistic.low:.3g}, {statistic.high:.3g}]"]
            line += [f"{row.evaluations:,}", f"{1e6 * row.seconds:,.3g}"]
            line += [f"{row.error_at_evaluations:.2g}", f"{row.error_at_time:.2g}"]
            table.append(line)
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        texts = 1 + groups
        lines = [
            "  ".join(
                cell.ljust(width) if i < texts else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        error = max(self.reference_error.values(), default=0.0)
        within = f" (standard error {error:.1%} of its length)" if error else ""
        base = next(row.estimator for row in self if row.relative_time == 1)
        lines += [
            f"{self.num_keys:,} estimates each. Reference: {self.reference}{within}. Errors: mean "
            f"squared, at {self.budget:,} evaluations of f and in the time of {self.budget:,} "
            f"estimates of {base}."
        ]
        return "\n".join(lines + [f"without {name}: {why}" for name, why in self.skipped.items()])

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write the rows, each band as two columns of their own, with four significant digits."""
        lines = []
        for row in self:
            line: dict[str, Any] = {}
            for name, value in row._asdict().items():
                if isinstance(value, Statistic):
                    line |= {name: value.value, f"{name}_low": value.low}
                    line[f"{name}_high"] = value.high
                else:
                    line[name] = value
            line["reference"] = self.reference
            line["reference_error"] = self.reference_error.get(row.group, 0.0)
            lines.append({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items()})
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)

    def plot(self, target: Any = None, group: str = ALL) -> Any:
        """Draw the mean squared error over the evaluations spent, a line for each estimator.

        An unbiased estimator's error falls for ever, a biased one's down to its squared bias.

        Args:
          target: path of an image to write, or matplotlib's axes to draw on; None: axes of a new
            figure of pyplot, which a notebook shows.
          group: a top-level name of the parameters, or "all".

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
          ValueError: there is no such group.
        """
        rows = [row for row in self if row.group == group]
        if not rows:
            names = ", ".join(dict.fromkeys(row.group for row in self))
            raise ValueError(f"group must be one of {names}; got {group!r}")
        axes = target if hasattr(target, "plot") else _new_axes(pyplot=target is None)
        _draw_errors(rows, axes)
        if axes is not target and target is not None:
            axes.figure.savefig(target)
        return axes


def _new_axes(pyplot: bool) -> Any:
    try:
        if pyplot:
            import matplotlib.pyplot

            figure = matplotlib.pyplot.figure(figsize=(7, 4.5), layout="constrained")
        else:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(7, 4.5), layout="constrained")
    except ImportError as error:
        raise ImportError("plot needs matplotlib: pip install matplotlib") from error
    return figure.subplots()


def _draw_errors(rows: list[Row], axes: Any) -> None:
    dearest = max(row.evaluations for row in rows)
    for i, row in enumerate(rows):
        # From one estimate to a thousand of the dearest.
        spent = np.geomspace(row.evaluations, 1_000 * dearest, 100)
        error = row.bias.value**2 + row.variance.value * row.evaluations / spent
        style = ("-", "--", ":")[i // 10 % 3]
        axes.plot(spent, error, style, color=f"C{i % 10}", label=row.estimator)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="evaluations of f",
        ylabel="mean squared error / squared length of the gradient",
    )
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def compare(
    key: Key[Array, ""],
    params: Any,
    f: Callable[..., Any],
    estimators: str | Iterable[str] | Mapping[str, Operator] | None = None,
    *,
    hyperparams: Hyperparams = Hyperparams(),  # noqa: B008, immutable
    num_keys: int = 4_000,
    at_once: int = 10,
    budget: int = 100,
    timed_keys: int = 100,
    reference: Gradient | None = None,
    reference_keys: int = 4_000,
) -> Comparison:
    """Measure estimators on a cost or a loss of your own: bias, variance, cosine and cost.

    Args:
      key: random key.
      params: unnormalised log-probabilities (logits) ``[n, k]`` if f is a cost; else a pytree of
        arrays of floats, whatever the loss takes. The top-level names of a mapping are groups with
        rows of their own.
      f: a cost ``f(z)`` of one sample ``z [n, k]``; or a loss ``f(params, key, estimator)``, which
        uses the operator it is given, ``estimator(key, logits, f)``, wherever it needs a
        surrogate, also for each example of a minibatch or in several nested layers. The two are
        distinguished by the number of arguments without a default, one or three.
      estimators: names of registry entries, or a mapping from names to operators, such as one of
        your own or ``functools.partial(ESTIMATORS["relax"], control=...)``, or samplers that can be
        called as ``sampler(key, logits)``. None: all entries but exact. Those that cannot serve
        are left out and listed in ``skipped``: without the classes they need, without a
        hyperparameter that has no default, or whose derivative f lacks. So are groups of parameters
        whose reference gradient is 0.
      hyperparams: of registry entries.
      num_keys: estimates of each, a multiple of ``40 * at_once``.
      at_once: estimates that are vectorised together; memory grows with it.
      budget: what the mean squared errors are stated for: so many evaluations of f, and the time
        of so many Gumbel-Softmax estimates.
      timed_keys: estimates in one round of timing.
      reference: the gradient to compare with, of the tree of ``params``. None: the exact one where
        ``k ** n`` is at most 65,536, also after multiplication over nested layers, else the mean
        of ``reference_keys`` estimates of ``local_expectation`` (``rloo`` where that evaluates f
        more than 1,000 times), with its standard error in ``reference_error``. The bands do not
        contain that error: a bias of less than twice it cannot be told from 0.
      reference_keys: estimates in that mean, at least 2.

    Returns:
      Rows in the order of the estimators. ``print(rows)`` is a table; see :class:`Comparison`.

    Raises:
      TypeError: the key is not a random key, or parameters or the value of f are not floats.
      ValueError: logits have another rank, f returns no scalar or takes another number of
        arguments, a number of keys is too small or cannot be divided, no estimator can serve, or
        the reference is 0.
      KeyError: there is no such estimator.

    Source: the score-function identity, enumerated, is the exact gradient; the module's
    documentation has the source of the bands.

    Cost: ``num_keys + 6 * timed_keys`` estimates of each, and two compilations, about a second.

    Example:
      >>> def f(z):
      ...     return jnp.sum((z[:, 0] - 0.45) ** 2)
      >>> rows = gsm.compare(
      ...     jax.random.key(0), jnp.zeros((2, 3)), f, ["rloo", "straight_through"], num_keys=400)
      >>> [(row.estimator, row.evaluations) for row in rows], rows.reference
      ([('rloo', 4), ('straight_through', 1)], 'exact')
      >>> rows[0].bias.low
      0.0

      A loss over a pytree, with the decoder's weights inside f:

      >>> def loss(params, key, estimator):
      ...     def f(z):
      ...         return jnp.sum((z @ params["w"] - 1.0) ** 2)
      ...     return estimator(key, params["logits"], f)
      >>> params = {"logits": jnp.zeros((2, 2)), "w": jnp.array([[0.5], [2.0]])}
      >>> rows = gsm.compare(jax.random.key(0), params, loss, ["reinmax"], num_keys=400)
      >>> [row.group for row in rows]
      ['logits', 'w', 'all']
    """
    check_key(key, "compare")
    _keys_in_a_batch(num_keys, at_once)
    given = {"budget": (budget, 1), "timed_keys": (timed_keys, 1)}
    for name, (number, least) in (given | {"reference_keys": (reference_keys, 2)}).items():
        if number < least:
            raise ValueError(f"compare: {name} must be at least {least}; got {number}")
    if estimators is None:
        estimators = [name for name in ESTIMATORS if name != "exact"]
    if isinstance(estimators, str):
        estimators = [estimators]
    if not isinstance(estimators, Mapping):
        estimators = {name: ESTIMATORS[name] for name in estimators}
    loss, params = _as_loss(f, params), jax.tree.map(jnp.asarray, params)
    _check_loss(loss, params)
    operators = {name: _bind(operator, hyperparams) for name, operator in estimators.items()}
    gradients: dict[str, Callable[..., Gradient]] = {}
    evaluations: dict[str, int] = {}
    skipped: dict[str, str] = {}
    for name, operator in operators.items():
        try:
            evaluations[name] = _count_evaluations(loss, params, operator)
            gradients[name] = _gradient_of(loss, operator)
        except (TypeError, ValueError) as error:
            skipped[name] = str(error).splitlines()[0]
    if not gradients:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise ValueError(f"no estimator can serve: {reasons}")
    key_reference, key = random.split(key)
    if reference is None:
        reference, of, errors = _reference(key_reference, loss, params, hyperparams, reference_keys)
    else:
        of, errors = "given", {}
    if not _is_any(reference):
        raise ValueError(f"the reference gradient ({of}) is 0: nothing can be relative to it")
    of_nothing = [name for name in _groups(reference) if not _is_any(_group(reference, name))]
    for group in of_nothing:
        skipped[f"params {group!r}"] = f"the reference gradient ({of}) is 0"
    measured = {
        # The same keys for each: what they share does not enter their differences.
        name: moments(gradient, (params,), reference, random.clone(key), num_keys, at_once)
        for name, gradient in gradients.items()
    }
    seconds = interleaved(
        {
            name: value_and_gradient_loop(_keyed(loss, operators[name]), (params,), timed_keys)
            for name in gradients
        }
    )
    base = seconds.get(BASE, min(seconds.values()))
    rows = []
    for name, of_groups in measured.items():
        relative_time = seconds[name] / base
        for group, of_group in of_groups.items():
            if group in of_nothing:
                continue
            found = statistics(of_group)
            rows.append(
                Row(
                    estimator=name,
                    group=group,
                    bias=found["bias"],
                    variance=found["variance"],
                    cosine=found["cosine"],
                    cosine_of_mean=found["cosine_of_mean"],
                    evaluations=evaluations[name],
                    seconds=seconds[name] / timed_keys,
                    relative_time=relative_time,
                    error_at_evaluations=_error(found, budget // evaluations[name]),
                    error_at_time=_error(found, int(budget / relative_time)),
                )
            )
    return Comparison(rows, of, errors, skipped, budget, num_keys)


def _is_any(gradient: Gradient) -> bool:
    """Whether any component is not 0."""
    return any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(gradient)))


def _error(found: Mapping[str, Statistic], num_estimates: int) -> float:
    """Relative mean squared error of the mean of so many estimates."""
    if not num_estimates:
        return math.inf
    return found["bias"].value ** 2 + found["variance"].value / num_estimates


Loss = Callable[[Any, Key[Array, ""], Operator], Float[Array, ""]]


def _as_loss(f: Callable[..., Any], params: Any) -> Loss:
    """Make a loss over the logits of a cost of one sample; a loss stays itself."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except ValueError:  # builtins may have none
        required = 1
    else:
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        required = sum(p.default is p.empty and p.kind in positional for p in parameters)
    if required == 3:
        return f
    if required != 1:
        raise ValueError(
            "compare: f must be a cost f(z) or a loss f(params, key, estimator); it takes "
            f"{required} arguments without a default"
        )
    check_logits(params, "compare")
    return lambda logits, key, estimator: estimator(key, logits, f)


def _check_loss(loss: Loss, params: Any) -> None:
    """Raise for logits, parameters and values that no estimator takes, before any is called."""
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"compare: params must be arrays of floats; params{jax.tree_util.keystr(path)} is "
                f"an array of {leaf.dtype}"
            )

    def cost_at_logits(key, logits, f):
        check_logits(logits, "compare")
        if logits.ndim != 2:
            raise ValueError(
                f"compare: logits must be those of one example, [n, k]; got shape {logits.shape}: "
                "use logits[None] for one variable, and for a minibatch a loss "
                "f(params, key, estimator) with jax.vmap over its examples"
            )
        return scalar_cost(f, "compare", differentiates=False)(logits)

    value = jax.eval_shape(lambda: loss(params, random.key(0), cost_at_logits))
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(
            f"compare: the loss f must return one float; it returned {jnp.result_type(value)} of "
            f"shape {jnp.shape(value)}"
        )


def _keyed(loss: Loss, operator: Operator) -> Callable[..., Float[Array, ""]]:
    return lambda key, params: loss(params, key, operator)


def _gradient_of(loss: Loss, operator: Operator) -> Callable[..., Gradient]:
    return jax.grad(_keyed(loss, operator), 1)


def _bind(operator: Any, hyperparams: Hyperparams) -> Operator:
    if entry_of(operator) is None:
        return operator_of(operator)
    return functools.partial(operator, hyperparams=hyperparams)


def _count_evaluations(loss: Loss, params: Any, operator: Operator) -> int:
    """Evaluations of f for one gradient, with those of nested layers multiplied.

    The gradient is only traced, so it raises what the estimator or the loss has to say against it.
    Under ``vmap`` a call counts once: that of one example.
    """
    within = 0  # of the calls inside the present one, or of the loss

    def counting(key, logits, f):
        nonlocal within
        inner = 1

        def counted(z):
            nonlocal within, inner
            outside, within = within, 0
            value = f(z)
            inner, within = max(inner, within), outside
            return value

        value = operator(key, logits, counted)
        within += _evaluations(operator, *logits.shape) * inner
        return value

    jax.eval_shape(_gradient_of(loss, counting), random.key(0), params)
    return within


def _evaluations(operator: Operator, n: int, k: int) -> int:
    """Evaluations of f for one estimate: as the entry states, else counted as it runs."""
    entry = entry_of(operator)
    keywords = operator.keywords if isinstance(operator, functools.partial) else {}
    # Another keyword, such as relax's eta=None, may change what the entry states.
    if entry is not None and keywords.keys() <= {"num_samples", "control", "hyperparams"}:
        return entry.count_evaluations(n, k, keywords.get("num_samples"))
    count = 0

    def evaluated(z):
        nonlocal count
        count += 1

    def cost(z):
        jax.debug.callback(evaluated, z)
        return jnp.sum(jnp.sin(z))

    with jax.ensure_compile_time_eval():
        gradient = jax.jit(jax.grad(lambda x: operator(random.key(0), x, cost)))
        jax.block_until_ready(gradient(jnp.zeros((n, k))))
        jax.effects_barrier()
    return count


_MOST_REFERENCE_EVALUATIONS = 1_000


def _reference(
    key: Key[Array, ""], loss: Loss, params: Any, hyperparams: Hyperparams, num_keys: int
) -> tuple[Gradient, str, dict[str, float]]:
    """The gradient to compare with, whose it is, and its relative standard error by group."""

    def serves(name: str, most: int) -> Operator | None:
        operator = _bind(ESTIMATORS[name], hyperparams)
        try:
            affordable = _count_evaluations(loss, params, operator) <= most
        except (TypeError, ValueError):
            return None
        return operator if affordable else None

    if exact := serves("exact", MAX_OUTCOMES):
        return jax.jit(_gradient_of(loss, exact))(key, params), "exact", {}
    name = "local_expectation"
    operator = serves(name, _MOST_REFERENCE_EVALUATIONS)
    if operator is None:
        name = "rloo"
        operator = _bind(ESTIMATORS[name], hyperparams)
    keys = random.split(key, (num_keys, 1))
    zeros = jax.tree.map(jnp.zeros_like, params)
    found = measure_batch(_gradient_of(loss, operator), (params,), zeros, keys)
    gradient, squares, _ = jax.device_get(found)
    errors = {}
    for group, squared in squares.items():
        length = sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(_group(gradient, group)))
        variance = max(float(squared) - length, 0.0)
        errors[group] = math.sqrt(variance / num_keys / length) if length else math.inf
    return gradient, f"mean of {num_keys:,} {name} estimates", errors
