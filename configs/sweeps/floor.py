"""The floor of the temperature on the Bernoulli VAE, in place of the paper's 0.5 (section 4.2).

    python -m experiments.sweep --sweep=configs/sweeps/floor.py:binarized_mnist

Gumbel-Softmax and its straight-through form as in ``table1_seeds.py``, 100,000 steps, one seed.
"""

from configs.sweeps import grid
from configs.sweeps.table1_length import CELLS, weight_decay


def get_sweep(dataset: str = "binarized_mnist"):
    points = []
    for estimator in ("gumbel_softmax", "st_gumbel_softmax"):
        axes = {
            "estimator": (estimator,),
            "temperature.floor": (0.1, 0.2, 0.3, 0.5),
            "optimizer.weight_decay": (weight_decay("bern_vae", estimator),),
            **CELLS["bern_vae"][estimator],
            "num_steps": (100_000,),
            "eval_every": (20_000,),
            "keep": ("best",),
        }
        points += grid(f"configs/bern_vae.py:{dataset}", axes)
    return points
