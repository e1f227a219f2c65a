"""Flax networks, deterministic: no key, no estimator and no loss inside. One example at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gsm import convolutions
from gsm.distributions import two_class_logits

PRIORS = ("learned", "uniform")
UNITS = ("zero_one", "plus_minus_one")


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
    """

    data_size: int
    num_latents: int
    num_classes: int
    units: str = "zero_one"
    hidden_sizes: Sequence[int] = ()
    prior: str = "learned"
    input_center: Float[Array, " d"] | None = None
    output_bias: Float[Array, " d"] | None = None

    def setup(self):
        self.latents = Latents(self.num_latents, self.num_classes, self.units)
        self.encoder = MLP(self.hidden_sizes, self.latents.size)
        self.decoder = MLP(self.hidden_sizes[::-1], self.data_size, self.output_bias)
        if self.prior == "learned":
            self.prior_free_logits = self.param(
                "prior_logits", nn.initializers.zeros, (self.latents.size,)
            )

    def encode(self, x: Float[Array, " d"]) -> Float[Array, "n k"]:
        """Posterior logits of an image."""
        if self.input_center is not None:
            x = x - self.input_center
        return self.latents.logits(self.encoder(x))

    def decode(self, z: Float[Array, "n k"]) -> Float[Array, " d"]:
        """Pixel logits of a one-hot or relaxed sample."""
        return self.decoder(self.latents.inputs(z))

    def prior_logits(self) -> Float[Array, "n k"]:
        """Prior logits."""
        if self.prior == "uniform":
            return jnp.zeros((self.num_latents, self.num_classes))
        return self.latents.logits(self.prior_free_logits)

    def __call__(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, "n k"]]:
        """Touch every parameter, for ``init``."""
        return self.decode(jax.nn.softmax(self.encode(x), axis=-1)), self.prior_logits()


class StructuredNetwork(nn.Module):
    """Layers of categorical latents between an input and the output that they predict.

    ``p(y | x) = sum_h p(h_1 | x) p(h_2 | h_1) ... p(y | h_L)``, each conditional one linear map: a
    sigmoid belief network where the latents are Bernoulli units.

    Attributes:
      output_size: number of pixels predicted.
      num_layers: stochastic layers L.
      num_latents: variables n of each layer.
      num_classes: classes of each, k; 2 makes Bernoulli units (:class:`Latents`).
      units: how the maps read them, "zero_one" or "plus_minus_one".
      input_center: subtracted from the input.
      output_bias: initial bias of the pixel logits.
    """

    output_size: int
    num_layers: int
    num_latents: int
    num_classes: int
    units: str = "zero_one"
    input_center: Float[Array, " i"] | None = None
    output_bias: Float[Array, " o"] | None = None

    def setup(self):
        self.latents = Latents(self.num_latents, self.num_classes, self.units)
        self.maps = [MLP((), self.latents.size) for _ in range(self.num_layers)]
        self.decoder = MLP((), self.output_size, self.output_bias)

    def first_logits(self, x: Float[Array, " i"]) -> Float[Array, "n k"]:
        """Logits of the first layer given the input."""
        if self.input_center is not None:
            x = x - self.input_center
        return self.latents.logits(self.maps[0](x))

    def next_logits(self, layer: int, z: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """Logits of layer ``layer`` (from 1) given a sample of the layer before."""
        return self.latents.logits(self.maps[layer](self.latents.inputs(z)))

    def decode(self, z: Float[Array, "n k"]) -> Float[Array, " o"]:
        """Pixel logits given a sample of the last layer."""
        return self.decoder(self.latents.inputs(z))

    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " o"]:
        """Touch every parameter, for ``init``."""
        z = jax.nn.softmax(self.first_logits(x), axis=-1)
        for layer in range(1, self.num_layers):
            z = jax.nn.softmax(self.next_logits(layer, z), axis=-1)
        return self.decode(z)


class Convolution(nn.Module):
    """``[h, w, i] -> [p, q, o]``, zeros around the image ("SAME"), with a bias.

    Attributes:
      channels: o.
      size: side of the kernel.
      stride: in both directions; the output's sides are the input's divided, or multiplied, by it.
      transposed: whether it is the transposed convolution.
    """

    channels: int
    size: int
    stride: int = 1
    transposed: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "h w i"], constants: Float[Array, " c"] | None = None
    ) -> Float[Array, "p q o"]:
        """Convolve an image.

        Args:
          x: the image.
          constants: values of further channels, after those of x, that are constant over the image.
            They cost one product ``[c] [c, p q o]``, whatever c: nothing is convolved for each
            example.
        """
        own = x.shape[-1]
        width = own + (0 if constants is None else constants.size)
        shape = (self.size, self.size, width, self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        operation = convolutions.convolve_transposed if self.transposed else convolutions.convolve
        y = operation(x, kernel[:, :, :own], self.stride) + bias[None, None]
        if constants is None:
            return y
        of_ones = kernel[:, :, own:].reshape(self.size, self.size, 1, -1)
        each = operation(jnp.ones_like(x[:, :, :1]), of_ones, self.stride)
        return y + jnp.einsum("c,pqco->pqo", constants, each.reshape(*y.shape[:2], -1, y.shape[2]))


class ConvolutionalEncoder(nn.Module):
    """Convolutions of halving size with ReLU, then a linear map (Jang et al. 2017, figure 7 a, b).

    Attributes:
      channels: of each convolution.
      output_size: width of the output.
    """

    channels: Sequence[int]
    output_size: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "h w i"], constants: Float[Array, " c"] | None = None
    ) -> Float[Array, " o"]:
        for channels in self.channels:
            x = nn.relu(Convolution(channels, size=5, stride=2)(x, constants))
            constants = None
        return nn.Dense(self.output_size)(x.reshape(-1))


class ConvolutionalDecoder(nn.Module):
    """A linear map to one pixel, transposed convolutions of doubling size, a linear map (7 c).

    Attributes:
      width: channels of the first pixel.
      channels: of each transposed convolution.
      output_size: width of the output.
      output_bias: initial bias of the output.
    """

    width: int
    channels: Sequence[int]
    output_size: int
    output_bias: Float[Array, " d"] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, " i"]) -> Float[Array, " d"]:
        x = nn.relu(nn.Dense(self.width)(x)).reshape(1, 1, self.width)
        for channels in self.channels:
            x = nn.relu(Convolution(channels, size=3, stride=2, transposed=True)(x))
        return MLP((), self.output_size, self.output_bias)(x.reshape(-1))


class SemiSupervisedVAE(nn.Module):
    """A classifier ``q(y | x)``, an encoder ``q(z | x, y)`` and a decoder ``p(x | y, z)``.

    The networks of Jang et al. 2017, appendix A, figure 7, on square images; z is a Gaussian with
    a standard normal prior, y one categorical with a uniform one.

    Attributes:
      num_pixels: d, the square of the image's side.
      num_classes: k.
      style_size: width s of z.
      channels: of the convolutions of classifier and encoder.
      decoder_width: channels of the decoder's first pixel.
      decoder_channels: of its transposed convolutions.
      output_bias: initial bias of the pixel logits.
    """

    num_pixels: int
    num_classes: int
    style_size: int
    channels: Sequence[int] = (32, 64, 128)
    decoder_width: int = 64
    decoder_channels: Sequence[int] = (128, 64, 32, 32)
    output_bias: Float[Array, " d"] | None = None

    def setup(self):
        self.side = round(self.num_pixels**0.5)
        self.classifier = ConvolutionalEncoder(self.channels, self.num_classes)
        # NOTE(paper): "FC 32" is read as the width of each of mean and log-variance.
        self.encoder = ConvolutionalEncoder(self.channels, 2 * self.style_size)
        self.decoder = ConvolutionalDecoder(
            self.decoder_width, self.decoder_channels, self.num_pixels, self.output_bias
        )

    def classify(self, x: Float[Array, " d"]) -> Float[Array, "1 k"]:
        """Logits of the class of an image."""
        return self.classifier(x.reshape(self.side, self.side, 1))[None]

    def encode(
        self, x: Float[Array, " d"], y: Float[Array, "1 k"]
    ) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
        """Mean and logarithm of the variance of z, given an image and its class.

        NOTE(paper): how the class joins the image is not said; here as k constant channels.
        """
        mean, log_variance = jnp.split(self.encoder(x.reshape(self.side, self.side, 1), y[0]), 2)
        return mean, log_variance

    def decode(self, y: Float[Array, "1 k"], z: Float[Array, " s"]) -> Float[Array, " d"]:
        """Pixel logits given a class and z."""
        return self.decoder(jnp.concatenate([y[0], z]))

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """Touch every parameter, for ``init``."""
        y = jax.nn.softmax(self.classify(x), axis=-1)
        mean, _ = self.encode(x, y)
        return self.decode(y, mean)
