"""A relaxed one-hot distribution for distrax, made of gsm's sampler and density.

    python examples/distrax_relaxed.py

Needs ``pip install distrax``. The distribution samples with a gradient and has a log-density, so it
serves as posterior and prior of a relaxed model (Maddison et al. 2017, equation 20). Here one is
fitted to another by the reparameterised gradient of their KL divergence.
"""

import distrax
import jax
import jax.numpy as jnp
import optax

import gsm


class RelaxedOneHot(distrax.Distribution):
    """Gumbel-Softmax distribution over the simplex, the Concrete distribution.

    Args:
      logits: unnormalised log-probabilities ``[..., k]``; the leading axes are the batch.
      temperature: positive scalar.
    """

    def __init__(self, logits, temperature):
        super().__init__()
        self.logits, self.temperature = jnp.asarray(logits), temperature

    @property
    def event_shape(self):
        return self.logits.shape[-1:]

    @property
    def batch_shape(self):
        return self.logits.shape[:-1]

    def _sample_n(self, key, n):
        return gsm.gumbel_softmax(
            key, jnp.broadcast_to(self.logits, (n, *self.logits.shape)), self.temperature
        )

    def log_prob(self, value):
        def of_one(z, logits):
            return gsm.gumbel_softmax_log_density(z[None], logits[None], self.temperature)

        return jnp.vectorize(of_one, signature="(k),(k)->()")(value, self.logits)


def train(target: RelaxedOneHot, num_steps: int):
    """Logits of the distribution that is nearest to a target."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, num_steps))

    def divergence(logits, key):
        fitted = RelaxedOneHot(logits, target.temperature)
        z, log_q = fitted.sample_and_log_prob(seed=key, sample_shape=(64,))
        return jnp.mean(log_q - target.log_prob(z))

    def step(carry, key):
        logits, state = carry
        updates, state = optimizer.update(jax.grad(divergence)(logits, key), state)
        return (optax.apply_updates(logits, updates), state), None

    logits = jnp.zeros_like(target.logits)
    start = logits, optimizer.init(logits)
    keys = jax.random.split(jax.random.key(0), num_steps)
    return jax.jit(lambda: jax.lax.scan(step, start, keys)[0][0])()


if __name__ == "__main__":
    target = RelaxedOneHot(jnp.log(jnp.array([0.1, 0.2, 0.7])), 0.7)
    print(f"target 0.1, 0.2, 0.7; fitted {jax.nn.softmax(train(target, 500)).round(3).tolist()}")
