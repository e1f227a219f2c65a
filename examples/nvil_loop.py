"""NVIL with its learned baseline in a training loop of one's own.

    python examples/nvil_loop.py

``gsm.learned`` holds the baseline's parameters beside the model's, a sigmoid belief network, under
one optimiser; they train through the same scalar. The loss is one example's, ``jax.vmap`` adds the
minibatch. The data are the horizontal and vertical bars of 4x4 pixels.
"""

import jax
import jax.numpy as jnp
import optax

import gsm

NUM_LATENTS = 6
_BAR = jnp.eye(4)[:, :, None] * jnp.ones(4)  # [4, 4, 4]: row i is on
BARS = jnp.concatenate([_BAR, _BAR.swapaxes(1, 2)]).reshape(8, 16)

entry = gsm.ESTIMATORS["nvil"]
parts = gsm.learned.learned_parts(entry, BARS.shape[1], (NUM_LATENTS, 2), hidden_sizes=(20,))


def init(key):
    keys, size = jax.random.split(key, 3), BARS.shape[1]
    model = {
        "encoder": 0.1 * jax.random.normal(keys[0], (size, NUM_LATENTS)),
        "decoder": 0.1 * jax.random.normal(keys[1], (NUM_LATENTS, size)),
        "pixels": jnp.zeros(size),
        "prior": jnp.zeros(NUM_LATENTS),
    }
    return {"model": model, "estimator": parts.init(keys[2])}


def loss_of_one(params, key, x):
    """Surrogate of the negative evidence lower bound of one image, in nats."""
    model = params["model"]
    logits = gsm.two_class_logits((x - BARS.mean(axis=0)) @ model["encoder"])
    prior = gsm.two_class_logits(model["prior"])

    def cost(z):  # one-hot [n, 2]; all that depends on the sample, the KL term included
        pixel_logits = z[:, 0] @ model["decoder"] + model["pixels"]
        log_ratio = gsm.log_prob(z, logits) - gsm.log_prob(z, prior)
        return log_ratio - gsm.distributions.bernoulli_log_prob(x, pixel_logits)

    estimator, hyperparams = parts.attach(params["estimator"], x, gsm.Hyperparams())
    return estimator(key, logits, cost, hyperparams)


def loss(params, key):
    keys = jax.random.split(key, len(BARS))
    return jax.vmap(loss_of_one, (None, 0, 0))(params, keys, BARS).mean()


def train(num_steps: int):
    """The parameters, and the loss of each step."""
    optimizer = optax.multi_transform(
        {"model": optax.adam(0.03), "estimator": gsm.learned.optimizer(learning_rate=0.01)},
        {"model": "model", "estimator": "estimator"},
    )

    def step(carry, key):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), num_steps)
    start = params, optimizer.init(params)
    (params, _), losses = jax.jit(lambda: jax.lax.scan(step, start, keys))()
    return params, losses


if __name__ == "__main__":
    params, losses = train(3_000)
    print(f"negative ELBO: {losses[0]:.2f} nats at first, {losses[-500:].mean():.2f} at last")
    print(f"log 8, the entropy of the data: {jnp.log(8):.2f} nats")
    print(f"moving average of the baseline: {gsm.learned.summary(params['estimator'])}")
