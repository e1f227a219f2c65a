"""Flax networks, deterministic: no key, no estimator and no loss inside. One example at a time."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gsm.distributions import two_class_logits

PRIORS = ("learned", "uniform")


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


class ScalarNetwork(nn.Module):
    """A scalar of its input, zero at first: for baselines and control variates.

    Attributes:
      hidden_sizes: widths of the hidden layers, with tanh.
    """

    hidden_sizes: Sequence[int]

    @nn.compact
    def __call__(self, x: Float[Array, " i"]) -> Float[Array, ""]:
        for size in self.hidden_sizes:
            x = nn.tanh(nn.Dense(size)(x))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(x)[0]


class CategoricalVAE(nn.Module):
    """Encoder, decoder and prior of a VAE with one layer of categorical latents.

    With ``num_classes=2`` the latents are Bernoulli units: one logit each, seen as the two-class
    categorical ``[l, 0]``, and the decoder reads the unit (class 0), not both classes.

    Attributes:
      data_size: number of pixels d.
      num_latents: number of latent variables n.
      num_classes: classes of each, k.
      hidden_sizes: encoder's hidden layers; the decoder mirrors them. Empty: linear maps.
      prior: "learned" logits that start uniform, or "uniform".
      input_center: ``[d]``, subtracted from the encoder's input.
      output_bias: ``[d]``, initial bias of the pixel logits.
    """

    data_size: int
    num_latents: int
    num_classes: int
    hidden_sizes: Sequence[int] = ()
    prior: str = "learned"
    input_center: Float[Array, " d"] | None = None
    output_bias: Float[Array, " d"] | None = None

    def setup(self):
        self.encoder = MLP(self.hidden_sizes, self._logits_size)
        self.decoder = MLP(self.hidden_sizes[::-1], self.data_size, self.output_bias)
        if self.prior == "learned":
            self.prior_free_logits = self.param(
                "prior_logits", nn.initializers.zeros, (self._logits_size,)
            )

    @property
    def _logits_size(self) -> int:
        return self.num_latents * (self.num_classes if self.num_classes > 2 else 1)

    def _as_logits(self, free: Float[Array, " l"]) -> Float[Array, "n k"]:
        if self.num_classes == 2:
            return two_class_logits(free)
        return free.reshape(self.num_latents, self.num_classes)

    def encode(self, x: Float[Array, " d"]) -> Float[Array, "n k"]:
        """Posterior logits of an image."""
        if self.input_center is not None:
            x = x - self.input_center
        return self._as_logits(self.encoder(x))

    def decode(self, z: Float[Array, "n k"]) -> Float[Array, " d"]:
        """Pixel logits of a one-hot or relaxed sample."""
        return self.decoder(z[:, 0] if self.num_classes == 2 else z.reshape(-1))

    def prior_logits(self) -> Float[Array, "n k"]:
        """Prior logits."""
        if self.prior == "uniform":
            return jnp.zeros((self.num_latents, self.num_classes))
        return self._as_logits(self.prior_free_logits)

    def __call__(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, "n k"]]:
        """Touch every parameter, for ``init``."""
        return self.decode(jax.nn.softmax(self.encode(x), axis=-1)), self.prior_logits()
