"""Temperature, slope and learning rate against the step, traceable in every argument."""

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


def annealed_slope(
    step: int | Int[Array, ""],
    initial: float | Float[Array, ""],
    rate: float | Float[Array, ""],
    cap: float | Float[Array, ""],
    update_every: int | Int[Array, ""],
) -> Float[Array, ""]:
    """``min(cap, initial + rate * t)``, with t the last multiple of ``update_every``.

    Args:
      step: number of updates done so far.
      initial: slope at step 0.
      rate: increase per step.
      cap: largest slope.
      update_every: the slope is held for this many steps.

    Source: Chung et al. 2017, section 3.2 (0.04 an epoch from 1); Jang et al. name no schedule.
    """
    last_update = (step // update_every) * update_every
    return jnp.minimum(cap, initial + rate * last_update)


def decayed_learning_rate(
    step: int | Int[Array, ""],
    initial: float | Float[Array, ""],
    final_share: float | Float[Array, ""],
    num_steps: int,
) -> float | Float[Array, ""]:
    """From ``initial`` at step 0 along a line to ``initial * final_share`` at ``num_steps``."""
    return initial * (1 + (final_share - 1) * step / num_steps)
