"""Hard attention: one position of a sequence is read, the others not at all.

    python examples/hard_attention.py

Each sequence has a marked position, whose value is the answer, and an end, beyond which there is
nothing to read (``where``). The attention is one categorical variable over the positions; ReinMax
makes it one-hot, with a gradient for the scores.
"""

import jax
import jax.numpy as jnp
import optax

import gsm

LENGTH, SIZE = 10, 8


def data(key, number):
    """Items ``[b, t, 8]``, their mask ``[b, t]``, marked position and answer ``[b]``.

    An item is its value, whether it is marked, and noise.
    """
    keys = jax.random.split(key, 3)
    ends = jax.random.randint(keys[0], (number, 1), 1, LENGTH + 1)
    mask = jnp.arange(LENGTH)[None] < ends
    items = jax.random.normal(keys[1], (number, LENGTH, SIZE))
    marked = jnp.argmax(jnp.where(mask, jax.random.uniform(keys[2], mask.shape), -1.0), axis=-1)
    items = items.at[:, :, 1].set(jax.nn.one_hot(marked, LENGTH))
    answers = jnp.take_along_axis(items[:, :, 0], marked[:, None], axis=1)[:, 0]
    return items, mask, marked, answers


def scores(params, items):
    """Attention scores ``[b, t]``."""
    return items @ params["query"]


def loss(params, key, items, mask, answers):
    attention = gsm.reinmax(key, scores(params, items), where=mask)  # one-hot [b, t]
    read = jnp.einsum("bt,bts->bs", attention, items)
    return jnp.mean((read @ params["output"] - answers) ** 2)


def train(num_steps: int):
    """The parameters, and the loss of each step."""
    optimizer = optax.adam(0.03)

    def step(carry, key):
        params, state = carry
        key_data, key_read = jax.random.split(key)
        items, mask, _, answers = data(key_data, 64)
        value, gradient = jax.value_and_grad(loss)(params, key_read, items, mask, answers)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    params = {"query": jnp.zeros(SIZE), "output": jnp.zeros(SIZE).at[0].set(0.1)}
    keys = jax.random.split(jax.random.key(0), num_steps)
    start = params, optimizer.init(params)
    (params, _), losses = jax.jit(lambda: jax.lax.scan(step, start, keys))()
    return params, losses


def share_found(params) -> float:
    """How often the most likely position is the marked one, on new sequences."""
    items, mask, marked, _ = data(jax.random.key(1), 1_000)
    return float(
        jnp.mean(jnp.where(mask, scores(params, items), -jnp.inf).argmax(axis=-1) == marked)
    )


if __name__ == "__main__":
    params, losses = train(500)
    print(
        f"squared error: {losses[0]:.3f} at the first step, {losses[-50:].mean():.4f} at the last"
    )
    print(f"the marked position is read in {share_found(params):.1%} of new sequences")
