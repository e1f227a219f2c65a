"""Discrete latents of a NumPyro model, by RLOO: which diseases explain the symptoms.

    python examples/numpyro_latent.py

Needs ``pip install numpyro``. The model stays as NumPyro has it; ``log_density`` makes it a cost of
a sample, which needs no derivative, so no latent has to be marginalised by hand. With 8 diseases it
still can be: the bound is compared with the exact log-evidence.
"""

import functools

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer.util import log_density

import gsm
from gsm.testing import outcomes

NUM_DISEASES, NUM_SYMPTOMS = 8, 12
PREVALENCE = jnp.linspace(0.05, 0.3, NUM_DISEASES)
CAUSES = jax.random.uniform(jax.random.key(0), (NUM_DISEASES, NUM_SYMPTOMS)) ** 4
SYMPTOMS = (jnp.arange(NUM_SYMPTOMS) % 3 == 0).astype(jnp.int32)


def model(symptoms):
    """Noisy-or: a symptom is absent if no disease, and no chance of 2 %, causes it."""
    with numpyro.plate("diseases", NUM_DISEASES):
        disease = numpyro.sample("disease", dist.Bernoulli(PREVALENCE))
    absent = 0.98 * jnp.prod((1 - CAUSES) ** disease[:, None], axis=0)
    with numpyro.plate("symptoms", NUM_SYMPTOMS):
        numpyro.sample("symptom", dist.Bernoulli(1 - absent), obs=symptoms)


def log_joint(z):
    """``log p(symptoms, diseases)`` of a sample ``z [n, 2]``, whose first class is "ill"."""
    return log_density(model, (SYMPTOMS,), {}, {"disease": z[:, 0]})[0]


def loss(logits, key, num_samples=8):
    """Surrogate of the negative evidence lower bound, in nats."""
    distortion = gsm.rloo(key, logits, lambda z: -log_joint(z), num_samples=num_samples)
    return distortion - gsm.distributions.entropy(logits)


def train(num_steps: int):
    """Logits ``[n, 2]`` of the approximate posterior."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, num_steps))

    def step(carry, key):
        logits, state = carry
        updates, state = optimizer.update(jax.grad(loss)(logits, key), state)
        return (optax.apply_updates(logits, updates), state), None

    logits = jnp.zeros((NUM_DISEASES, 2))
    keys = jax.random.split(jax.random.key(1), num_steps)
    start = logits, optimizer.init(logits)
    return jax.jit(lambda: jax.lax.scan(step, start, keys)[0][0])()


def log_evidence():
    """``log p(symptoms)``, by enumeration of all 2^8 outcomes."""
    return jax.nn.logsumexp(jax.lax.map(log_joint, jnp.asarray(outcomes(NUM_DISEASES, 2))))


if __name__ == "__main__":
    logits = train(1_000)
    bound = -jax.jit(functools.partial(loss, num_samples=10_000))(logits, jax.random.key(2))
    print(f"bound {bound:.3f} nats, log-evidence {log_evidence():.3f}")
    print(f"probability of each disease: {jax.nn.softmax(logits)[:, 0].round(3).tolist()}")
