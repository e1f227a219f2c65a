"""A discrete autoencoder in Flax Linen, with gumbel_softmax as a layer.

    python examples/flax_linen.py

The sampler stands where a nonlinearity would; its key comes from the module's random stream
"sample", its temperature from a schedule. A code of 3 variables with 4 classes must keep which of
16 random patterns it is of.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import gsm

CODE = (3, 4)  # variables and classes
PATTERNS = jax.random.bernoulli(jax.random.key(0), 0.5, (16, 32)).astype(jnp.float32)


class Autoencoder(nn.Module):
    @nn.compact
    def __call__(self, x, temperature):
        logits = nn.Dense(math.prod(CODE))(x).reshape(-1, *CODE)
        z = gsm.gumbel_softmax(self.make_rng("sample"), logits, temperature)
        return nn.Dense(x.shape[-1])(z.reshape(len(x), -1))


def train(num_steps: int) -> list[float]:
    """The loss of each step, in nats."""
    model, optimizer = Autoencoder(), optax.adam(0.03)
    temperature = gsm.schedules.exponential(1.0, rate=3e-3, floor=0.5)

    def loss(params, i):
        rngs = {"sample": jax.random.fold_in(jax.random.key(3), i)}
        pixel_logits = model.apply(params, PATTERNS, temperature(i), rngs=rngs)
        return optax.sigmoid_binary_cross_entropy(pixel_logits, PATTERNS).sum(axis=-1).mean()

    def step(carry, i):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, i)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    params = model.init({"params": jax.random.key(1), "sample": jax.random.key(2)}, PATTERNS, 1.0)
    start = params, optimizer.init(params)
    return jax.jit(lambda: jax.lax.scan(step, start, jnp.arange(num_steps))[1])().tolist()


if __name__ == "__main__":
    losses = train(300)
    print(f"{losses[0]:.1f} nats at the first step, {losses[-1]:.1f} at the last")
