"""Temperature against the step. Traceable in every argument, so sweeps may vmap over the rates."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def annealed_temperature(
    step: int | Int[Array, ""],
    initial: float | Float[Array, ""],
    rate: float | Float[Array, ""],
    floor: float | Float[Array, ""],
    update_every: int | Int[Array, ""],
) -> Float[Array, ""]:
    """``max(floor, initial * exp(-rate * t))``, with t the last multiple of ``update_every``.

    Args:
      step: number of updates done so far.
      initial: temperature at step 0.
      rate: decay per step; 0 keeps the initial temperature.
      floor: smallest temperature.
      update_every: the temperature is held for this many steps.

    Source: Jang et al. 2017, section 4.2: ``max(0.5, exp(-r t))``, r in {1e-5, 1e-4}, updated every
    N steps, N in {500, 1000}.
    """
    last_update = (step // update_every) * update_every
    return jnp.maximum(floor, initial * jnp.exp(-rate * last_update))
