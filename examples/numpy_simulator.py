"""RLOO around a simulator in NumPy: which of two machines each of eight jobs is given to.

    python examples/numpy_simulator.py

The simulator is a black box to jax: it is called back from inside the compiled step, and has no
derivative. RLOO needs none. The cost is vectorised over samples by ``vmap``, and ``vmap_method``
says how the callback is: "expand_dims" calls it once for all samples, with a leading axis, which a
simulator that is written for arrays of jobs ``[..., n, k]`` takes; "sequential" would call it once
for each sample.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gsm

MINUTES = np.array([[9, 4], [5, 8], [7, 7], [3, 9], [8, 2], [6, 5], [4, 6], [9, 8]], np.float32)
CALLS: list[tuple[int, ...]] = []
"""Shapes that the simulator was called with."""


def makespan(z) -> np.ndarray:
    """Minutes ``[...]`` until both machines are done with their jobs ``z [..., 8, 2]``."""
    z = np.asarray(z)
    CALLS.append(z.shape)
    return (z * MINUTES).sum(axis=-2).max(axis=-1)


def cost(z):
    """The simulator as a cost of one sample ``z [8, 2]``."""
    minutes = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(makespan, minutes, z, vmap_method="expand_dims")


def train(num_steps: int, num_samples: int = 16):
    """The logits ``[8, 2]`` after descent on the expected makespan."""
    optimizer = optax.adam(0.02)

    @jax.jit
    def step(logits, state, key):
        gradient = jax.grad(functools.partial(gsm.rloo, num_samples=num_samples), argnums=1)
        updates, state = optimizer.update(gradient(key, logits, cost), state)
        return optax.apply_updates(logits, updates), state

    logits = jnp.zeros(MINUTES.shape)
    state = optimizer.init(logits)
    for i in range(num_steps):
        logits, state = step(logits, state, jax.random.fold_in(jax.random.key(0), i))
    return logits


def shortest() -> float:
    """The best makespan of all 2^8 assignments."""
    return min(
        makespan(np.eye(2)[list(choice)]) for choice in itertools.product(range(2), repeat=8)
    )


if __name__ == "__main__":
    logits = train(600)
    assigned = jax.nn.one_hot(logits.argmax(axis=-1), 2)
    print(f"machines {logits.argmax(axis=-1).tolist()}: {makespan(assigned):.0f} minutes")
    print(f"the best of all assignments: {shortest():.0f} minutes")
