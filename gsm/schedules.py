"""Schedules: temperature, slope and learning rate as functions of the step.

``exponential(1.0, rate=1e-4, floor=0.5)`` is a function ``step -> value``, so it composes as those
of optax do, and optax takes it where it takes a schedule of its own ::

    temperature = gsm.schedules.exponential(1.0, rate=1e-4, floor=0.5)
    z = gsm.gumbel_softmax(key, logits, temperature(step))

Every hyperparameter and the step may be traced: runs with other schedules share one program.

The examples assume ``import gsm, jax, jax.numpy as jnp``.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gsm.distributions import Scalar

Step = int | Int[Array, ""]
"""Number of updates done so far."""
Schedule = Callable[[Step], float | Float[Array, ""]]
"""The value at a step."""


def exponential(
    initial: Scalar, rate: Scalar, floor: Scalar = 0.0, update_every: Step = 1
) -> Schedule:
    """Decay exponentially: ``max(floor, initial * exp(-rate * t))``.

    Args:
      initial: value at step 0.
      rate: decay per step; 0 keeps the initial value.
      floor: smallest value.
      update_every: number of steps for which the value is held: ``t`` is the last multiple of it.

    Returns:
      A function ``step -> value``.

    Source: Jang et al. 2017, section 4.2: the temperature is ``max(0.5, exp(-r t))`` with r in
    {1e-5, 1e-4}, updated every N steps with N in {500, 1000}.

    Example:
      >>> temperature = gsm.schedules.exponential(1.0, rate=1e-4, floor=0.5, update_every=1000)
      >>> [round(float(temperature(step)), 3) for step in (0, 999, 1000, 100_000)]
      [1.0, 1.0, 0.905, 0.5]
    """

    def schedule(step):
        return jnp.maximum(floor, initial * jnp.exp(-rate * _last_update(step, update_every)))

    return schedule


def linear(
    initial: Scalar, rate: Scalar, cap: Scalar = float("inf"), update_every: Step = 1
) -> Schedule:
    """Rise along a line: ``min(cap, initial + rate * t)``.

    Args:
      initial: value at step 0.
      rate: increase per step.
      cap: largest value.
      update_every: number of steps for which the value is held: ``t`` is the last multiple of it.

    Returns:
      A function ``step -> value``.

    Source: Chung et al. 2017, section 3.2: the slope rises from 1 by 0.04 an epoch.

    NOTE(paper): Jang et al. name no schedule of the slope.

    Example:
      >>> slope = gsm.schedules.linear(1.0, rate=1e-3, cap=2.0, update_every=10)
      >>> [round(float(slope(step)), 3) for step in (0, 19, 20, 5_000)]
      [1.0, 1.01, 1.02, 2.0]
    """

    def schedule(step):
        return jnp.minimum(cap, initial + rate * _last_update(step, update_every))

    return schedule


def linear_decay(initial: Scalar, final_share: Scalar, num_steps: Step) -> Schedule:
    """Change along a line from ``initial`` to ``initial * final_share`` at step ``num_steps``.

    Args:
      initial: value at step 0.
      final_share: share of it that is left at ``num_steps``; 1 keeps the initial value.
      num_steps: number of steps until then; the line continues beyond.

    Returns:
      A function ``step -> value``.

    Source: none.

    Example:
      >>> import optax
      >>> rate = gsm.schedules.linear_decay(0.4, final_share=0.25, num_steps=10)
      >>> [round(float(rate(step)), 3) for step in (0, 5, 10)]
      [0.4, 0.25, 0.1]
      >>> optimizer = optax.adam(rate)
      >>> warm_up = gsm.schedules.linear(0.0, rate=0.04)
      >>> warmed_up = optax.join_schedules([warm_up, rate], boundaries=[10])
      >>> [round(float(warmed_up(step)), 3) for step in (0, 5, 10, 20)]
      [0.0, 0.2, 0.4, 0.1]
    """

    def schedule(step):
        return initial * (1 + (final_share - 1) * step / num_steps)

    return schedule


def _last_update(step: Step, update_every: Step) -> Step:
    return (step // update_every) * update_every


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "exponential": exponential,
    "linear": linear,
    "linear_decay": linear_decay,
}
"""Functions that make a schedule from hyperparameters, by name; programs choose here."""
