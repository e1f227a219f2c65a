"""Top-1 routing in a mixture of experts: only the chosen expert is computed.

    python examples/mixture_of_experts.py

The router's choice is a categorical variable; the cost looks up one expert by its index. It has no
derivative in the choice, so RLOO carries the gradient to the router, while the chosen experts train
through the same scalar. A dense mixture, or a straight-through sampler, would evaluate them all.
The data are of four linear maps, each in a cluster of inputs of its own.
"""

import jax
import jax.numpy as jnp
import optax

import gsm

NUM_EXPERTS, SIZE = 4, 5


def data(key, number):
    """Inputs ``[b, 5]``, targets ``[b]`` and the cluster that each came from."""
    keys = jax.random.split(key, 3)
    centers = 4.0 * jax.random.normal(jax.random.key(0), (NUM_EXPERTS, SIZE))
    maps = jax.random.normal(jax.random.key(1), (NUM_EXPERTS, SIZE))
    cluster = jax.random.randint(keys[0], (number,), 0, NUM_EXPERTS)
    x = centers[cluster] + jax.random.normal(keys[1], (number, SIZE))
    return x, jnp.sum(maps[cluster] * x, axis=-1), cluster


def init(key):
    router, experts = jax.random.split(key)
    return {
        "router": 0.1 * jax.random.normal(router, (SIZE, NUM_EXPERTS)),
        "experts": 0.1 * jax.random.normal(experts, (NUM_EXPERTS, SIZE)),
    }


def loss(params, key, x, y):
    logits = (x @ params["router"])[:, None]  # [b, 1, 4]

    def cost(z, x, y):
        expert = params["experts"][jnp.argmax(z[0])]  # the parameters of one expert
        return (expert @ x - y) ** 2

    return jnp.mean(gsm.batched(gsm.rloo)(key, logits, cost, x, y, num_samples=2))


def train(num_steps: int):
    """The parameters, and the loss of each step."""
    optimizer = optax.adam(0.02)

    def step(carry, key):
        params, state = carry
        key_data, key_route = jax.random.split(key)
        x, y, _ = data(key_data, 128)
        value, gradient = jax.value_and_grad(loss)(params, key_route, x, y)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    params = init(jax.random.key(2))
    keys = jax.random.split(jax.random.key(3), num_steps)
    start = params, optimizer.init(params)
    (params, _), losses = jax.jit(lambda: jax.lax.scan(step, start, keys))()
    return params, losses


def clusters_per_expert(params):
    """How many inputs of each cluster (rows) each expert (columns) gets."""
    x, _, cluster = data(jax.random.key(4), 1_000)
    chosen = jnp.argmax(x @ params["router"], axis=-1)
    return jax.nn.one_hot(cluster, NUM_EXPERTS).T @ jax.nn.one_hot(chosen, NUM_EXPERTS)


if __name__ == "__main__":
    params, losses = train(2_000)
    print(
        f"squared error: {losses[0]:.2f} at the first step, {losses[-100:].mean():.4f} at the last"
    )
    print(clusters_per_expert(params).astype(int))
