"""Flax networks, deterministic: no key, no estimator and no loss inside. One example at a time.

An input may be a relaxed or one-hot sample, or many hard samples as their classes
(:class:`Classes`), which the first map reads as sums of rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int

from gsm.distributions import two_class_logits

INITIALIZATIONS = ("lecun_normal", "pytorch")
"""Of dense layers with i inputs: truncated normal kernels of variance 1 / i and biases of zero; or
both uniform in +-1 / sqrt(i), a third of that variance, as PyTorch's ``Linear``."""


class Dense(nn.Module):
    """``x @ kernel + bias``, of an input ``[i]`` or of many samples (:class:`Classes`).

    Attributes:
      size: width of the output.
      initial_bias: ``[size]``; without one that of the initialisation.
      initialization: one of INITIALIZATIONS.
    """

    size: int
    initial_bias: Float[Array, " o"] | None = None
    initialization: str = "lecun_normal"

    @nn.compact
    def __call__(self, x: "Float[Array, '*m i'] | Classes") -> Float[Array, "*m o"]:
        of_kernel, of_bias = nn.initializers.lecun_normal(), nn.initializers.zeros
        if self.initialization == "pytorch":
            of_kernel = of_bias = _uniform(x.shape[-1] ** -0.5)
        kernel = self.param("kernel", of_kernel, (x.shape[-1], self.size))
        if self.initial_bias is not None:
            initial = jnp.asarray(self.initial_bias, jnp.float32)
            bias = self.param("bias", lambda _: initial)
        else:
            bias = self.param("bias", of_bias, (self.size,))
        product = x @ kernel
        return product + bias.reshape((1,) * (product.ndim - 1) + (self.size,))


def _uniform(bound: float) -> nn.initializers.Initializer:
    return lambda key, shape, *_: random.uniform(key, shape, minval=-bound, maxval=bound)


class MLP(nn.Module):
    """Dense layers with ReLU between them; no hidden layer makes it a linear map.

    Attributes:
      hidden_sizes: widths of the hidden layers.
      output_size: width of the output.
      output_bias: initial bias ``[output_size]`` of the last layer; without one that of the
        initialisation.
      initialization: one of INITIALIZATIONS.
    """

    hidden_sizes: Sequence[int]
    output_size: int
    output_bias: Float[Array, " d"] | None = None
    initialization: str = "lecun_normal"

    @nn.compact
    def __call__(self, x: "Float[Array, '*m i'] | Classes") -> Float[Array, "*m o"]:
        for size in self.hidden_sizes:
            x = nn.relu(Dense(size, None, self.initialization)(x))
        return Dense(self.output_size, self.output_bias, self.initialization)(x)


class Latents(NamedTuple):
    """The shape of one layer of latent variables, and how networks write and read it.

    Two classes are a Bernoulli unit: one logit, seen as the categorical ``[l, 0]``, and one input
    of the next network (class 0 of the sample).

    Attributes:
      num_variables: n of the layer.
      num_classes: k of each.
      units: "zero_one": networks read the sample as it is. "plus_minus_one": as ``2 z - 1``, which
        spans the same functions of a linear map and is trained along other directions.
    """

    num_variables: int
    num_classes: int
    units: str = "zero_one"

    @property
    def size(self) -> int:
        """Width of a network that writes the logits or reads the sample."""
        return self.num_variables * (self.num_classes if self.num_classes > 2 else 1)

    def logits(self, free: Float[Array, "*m l"]) -> Float[Array, "*m n k"]:
        """Logits of the variables from a network's output."""
        if self.num_classes == 2:
            return two_class_logits(free)
        return free.reshape(*free.shape[:-1], self.num_variables, self.num_classes)

    def inputs(self, z: Float[Array, "n k"] | Int[Array, "m n"]) -> "Float[Array, ' l'] | Classes":
        """A network's input from a one-hot or relaxed sample, or from the classes of m samples."""
        if jnp.issubdtype(z.dtype, jnp.integer):
            return Classes(z, self)
        # `split`, whose gradient is a stack: that of an index, a padded array, takes longer.
        read = jax.lax.split(z, (1, 1), axis=1)[0] if self.num_classes == 2 else z
        flat = read.reshape(-1)
        return flat if self.units == "zero_one" else 2 * flat - 1

    def rows(self, kernel: Float[Array, "l o"]) -> Float[Array, "n k o"]:
        """What each class of each variable adds to a linear map of :meth:`inputs`."""
        if self.num_classes == 2:
            off = jnp.zeros_like(kernel) if self.units == "zero_one" else -kernel
            return jnp.stack([kernel, off], axis=1)
        rows = kernel.reshape(self.num_variables, self.num_classes, -1)
        if self.units == "zero_one":
            return rows
        return 2 * rows - jnp.sum(rows, axis=1, keepdims=True)


# Variables are looked up in groups of so many outcomes at most: fewer rows to add, and tables that
# stay in the cache.
_OUTCOMES_OF_A_GROUP = 16
# Rows that are added in one pass over the result.
_ROWS_AT_ONCE = 5


class Classes(NamedTuple):
    """Many hard samples as the classes of their variables, in place of one-hot inputs.

    ``classes @ kernel`` is what the one-hot inputs would give: on a CPU by sums of the kernel's
    rows, which takes a third of the product's time; elsewhere by that product.
    """

    classes: Int[Array, "m n"]
    """-1 for a sample that is not defined, which gives NaN."""
    latents: Latents

    @property
    def shape(self) -> tuple[int, int]:
        """Of the one-hot inputs."""
        return len(self.classes), self.latents.size

    def __matmul__(self, kernel: Float[Array, "l o"]) -> Float[Array, "m o"]:
        return sum_of_rows(self.classes, self.latents.rows(kernel))


def sum_of_rows(classes: Int[Array, "m n"], rows: Float[Array, "n k o"]) -> Float[Array, "m o"]:
    """Compute ``sum_i rows[i, classes[:, i]]``, NaN where a class is negative."""
    summed = jax.lax.platform_dependent(classes, rows, cpu=_looked_up, default=_by_product)
    return jnp.where(jnp.any(classes < 0, axis=1, keepdims=True), jnp.nan, summed)


def _by_product(classes: Int[Array, "m n"], rows: Float[Array, "n k o"]) -> Float[Array, "m o"]:
    one_hot = jax.nn.one_hot(classes, rows.shape[1], dtype=rows.dtype)
    return one_hot.reshape(len(classes), -1) @ rows.reshape(-1, rows.shape[-1])


def _looked_up(classes: Int[Array, "m n"], rows: Float[Array, "n k o"]) -> Float[Array, "m o"]:
    while rows.shape[1] ** 2 <= _OUTCOMES_OF_A_GROUP and len(rows) > 1:
        classes, rows = _in_pairs(classes, rows)

    def add(first, number, total):
        for i in range(number):
            table, of_samples = rows[first + i], classes[:, first + i]
            total += jnp.take(table, of_samples, axis=0, mode="clip")
        return total

    # In a loop: XLA would look up the rows anew for each of the consumers of their sum.
    rest = len(rows) % _ROWS_AT_ONCE
    begun = add(0, rest, jnp.zeros((len(classes), rows.shape[-1]), rows.dtype))
    return jax.lax.fori_loop(
        0,
        len(rows) // _ROWS_AT_ONCE,
        lambda i, total: add(rest + i * _ROWS_AT_ONCE, _ROWS_AT_ONCE, total),
        begun,
    )


def _in_pairs(
    classes: Int[Array, "m n"], rows: Float[Array, "n k o"]
) -> tuple[Int[Array, "m half"], Float[Array, "half k2 o"]]:
    """Two variables as one with the pairs of their classes; the last may be paired with nothing."""
    if len(rows) % 2:
        classes = jnp.pad(classes, ((0, 0), (0, 1)))
        rows = jnp.pad(rows, ((0, 1), (0, 0), (0, 0)))
    size = rows.shape[1]
    pairs = rows[0::2, :, None] + rows[1::2, None, :]
    return classes[:, 0::2] * size + classes[:, 1::2], pairs.reshape(len(pairs), size**2, -1)
