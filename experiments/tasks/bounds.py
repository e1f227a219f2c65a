"""Multi-sample bounds of held-out examples, on hard samples, streamed over the samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Key

SAMPLES_AT_ONCE = 1000

LogWeights = Callable[[Key[Array, ""], int], Float[Array, " m"]]


def multi_sample_bound(
    log_weights: LogWeights,
    key: Key[Array, ""],
    num_samples: int,
    samples_at_once: int = SAMPLES_AT_ONCE,
) -> Float[Array, ""]:
    """Importance-weighted bound on ``log p(x)`` of one example, ``log (1/m) sum_i w_i``, in nats.

    Args:
      log_weights: ``log_weights(key, m)``: ``log w`` of m independent samples.
      key: random key; chunk c uses ``fold_in(key, c)``.
      num_samples: m, a multiple of ``samples_at_once`` if it is larger.
      samples_at_once: size of the chunks over which the log-sum-exp streams, so that memory does
        not grow with m.

    Returns:
      The bound: the ELBO in expectation at m = 1, increasing in m, below ``log p(x)``.

    Raises:
      ValueError: m is below 1, or not a whole number of chunks.

    Source: Burda et al. 2016, equation 8; Jang et al. 2017, section 4 (m = 1000).
    """
    chunk = min(num_samples, samples_at_once)
    if num_samples < 1 or num_samples % chunk:
        raise ValueError(
            f"num_samples must be at least 1 and at most, or a multiple of, samples_at_once = "
            f"{samples_at_once}; got {num_samples}"
        )

    def add_chunk(total, index):
        of_chunk = log_weights(random.fold_in(key, index), chunk)
        return jnp.logaddexp(total, jax.nn.logsumexp(of_chunk)), None

    chunks = jnp.arange(num_samples // chunk)
    total, _ = jax.lax.scan(add_chunk, jnp.float32(-jnp.inf), chunks)
    return total - jnp.log(num_samples)
