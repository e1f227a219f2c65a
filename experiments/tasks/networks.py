"""Flax networks, deterministic: no key, no estimator and no loss inside. One example at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gsm.distributions import two_class_logits


class MLP(nn.Module):
    """Dense layers with ReLU between them; no hidden layer makes it a linear map.

    Attributes:
      hidden_sizes: widths of the hidden layers.
      output_size: width of the output.
      output_bias: initial bias ``[output_size]`` of the last layer; zeros without one.
    """

    hidden_sizes: Sequence[int]
    output_size: int
    output_bias: Float[Array, " d"] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        for size in self.hidden_sizes:
            x = nn.relu(nn.Dense(size)(x))
        bias = nn.initializers.zeros
        if self.output_bias is not None:
            bias = lambda *_: jnp.asarray(self.output_bias, jnp.float32)  # noqa: E731
        return nn.Dense(self.output_size, bias_init=bias)(x)


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

    def logits(self, free: Float[Array, " l"]) -> Float[Array, "n k"]:
        """Logits of the variables from a network's output."""
        if self.num_classes == 2:
            return two_class_logits(free)
        return free.reshape(self.num_variables, self.num_classes)

    def inputs(self, z: Float[Array, "n k"]) -> Float[Array, " l"]:
        """A network's input from a one-hot or relaxed sample."""
        flat = z[:, 0] if self.num_classes == 2 else z.reshape(-1)
        return flat if self.units == "zero_one" else 2 * flat - 1
