"""A discrete autoencoder in Flax NNX, with reinmax as a layer.

    python examples/flax_nnx.py

As examples/flax_linen.py, with one-hot codes: the module holds its random stream, and the decoder
sees no relaxed sample.
"""

import math

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import gsm

CODE = (3, 4)  # variables and classes
PATTERNS = jax.random.bernoulli(jax.random.key(0), 0.5, (16, 32)).astype(jnp.float32)


class Autoencoder(nnx.Module):
    def __init__(self, size: int, rngs: nnx.Rngs):
        self.encoder = nnx.Linear(size, math.prod(CODE), rngs=rngs)
        self.decoder = nnx.Linear(math.prod(CODE), size, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        z = gsm.reinmax(self.rngs.sample(), self.encoder(x).reshape(-1, *CODE))
        return self.decoder(z.reshape(len(x), -1))


def distortion(model):
    """Negative log-likelihood of the patterns, in nats."""
    return optax.sigmoid_binary_cross_entropy(model(PATTERNS), PATTERNS).sum(axis=-1).mean()


def train(num_steps: int) -> list[float]:
    """The loss of each step, in nats."""
    model = Autoencoder(PATTERNS.shape[1], nnx.Rngs(params=1, sample=2))
    optimizer = nnx.Optimizer(model, optax.adam(0.03), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, gradient = nnx.value_and_grad(distortion)(model)
        optimizer.update(model, gradient)
        return value

    return [float(step(model, optimizer)) for _ in range(num_steps)]


if __name__ == "__main__":
    losses = train(300)
    print(f"{losses[0]:.1f} nats at the first step, {losses[-1]:.1f} at the last")
