"""Figure 1 of Jang et al. 2017: expectation and samples of Gumbel-Softmax over the temperature.

    python -m experiments.temperature --out=runs/temperature

The same noise serves every temperature, so one column of samples is one draw that melts from a
one-hot vector to the uniform one, while the expectation leaves the class probabilities.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import random

from experiments import figures
from experiments.running import command_line, measuring
from experiments.running.measuring import Row
from experiments.running.terminal import Progress, waiting
from gsm.distributions import gumbel_max
from gsm.estimators import gumbel_softmax

_PROBABILITIES = flags.DEFINE_list(
    "probabilities", ["0.08", "0.16", "0.04", "0.3", "0.22", "0.14", "0.06"], "Of the classes."
)
_TEMPERATURES = flags.DEFINE_list("temperatures", ["0.1", "0.5", "1", "10"], "A column of each.")
_DRAWS = flags.DEFINE_integer(
    "draws", 100_000, "Draws in an expectation.", lower_bound=100, upper_bound=10**7
)
_SAMPLES = flags.DEFINE_integer("samples", 3, "Samples shown.", lower_bound=1, upper_bound=20)
_OUT = flags.DEFINE_string("out", "runs/temperature", "Folder.")
command_line.define_quick(draws=10_000)


def rows_of(
    probabilities: list[float], temperatures: list[float], draws: int, samples: int
) -> list[Row]:
    """A row for each temperature (0: the categorical itself) and class."""
    logits = jnp.log(jnp.asarray(probabilities))[None]
    keys = random.split(random.key(0), draws)
    rows: list[Row] = []
    progress = Progress(0, 1 + len(temperatures), "temperature")
    for number, temperature in enumerate((0.0, *temperatures), 1):
        sampler = functools.partial(gumbel_softmax, temperature=temperature)
        draws_of = jax.vmap(sampler if temperature else gumbel_max, (0, None))
        with waiting(f"compiling, and drawing {draws:,} samples"):
            z = np.asarray(jax.jit(draws_of)(keys, logits), np.float64)[:, 0]
        error = 1.96 * z.std(axis=0, ddof=1) / np.sqrt(draws)
        for k, probability in enumerate(probabilities):
            row: Row = {
                "temperature": temperature, "class": k, "probability": probability,
                "expectation": float(z[:, k].mean()),
                "expectation_low": float(z[:, k].mean() - error[k]),
                "expectation_high": float(z[:, k].mean() + error[k]),
            }  # fmt: skip
            rows.append(row | {f"sample_{i + 1}": float(z[i, k]) for i in range(samples)})
        progress.show(number, {})
    progress.close()
    return rows


def main() -> None:
    weights = command_line.numbers(_PROBABILITIES, float, 1e-9, least=2, increasing=False)
    temperatures = command_line.numbers(_TEMPERATURES, float, 1e-6, least=1)
    rows = rows_of(
        [weight / sum(weights) for weight in weights], temperatures, _DRAWS.value, _SAMPLES.value
    )
    out = Path(_OUT.value)
    measuring.write(out, "temperature", rows, {"draws": _DRAWS.value})
    print(figures.gumbel_softmax_over_temperature(rows, out / "temperature.png"))


if __name__ == "__main__":
    command_line.run(main)
