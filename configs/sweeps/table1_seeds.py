"""Table 1 of Jang et al. 2017 at 100,000 steps with three seeds: which differences are noise.

    python -m experiments.sweep --sweep=configs/sweeps/table1_seeds.py:binarized_mnist
    python -m experiments.report --runs=runs/sweep-table1_seeds-binarized_mnist \\
        --offered=results/table1 --out=results/table1_seeds

The cells of ``table1_length.py``. On the VAEs the first seed is run with both weight decays, so
that validation chooses; the other seeds have the chosen one.
"""

from configs.sweeps import grid
from configs.sweeps.table1_length import CELLS, ORDER, weight_decay


def get_sweep(dataset: str = "binarized_mnist"):
    protocol = {"num_steps": (100_000,), "eval_every": (20_000,), "keep": ("best",)}
    points = []
    for seed in (0, 1, 2):
        for estimator in ORDER:
            for config, cells in CELLS.items():
                offers_both = seed == 0 and config.endswith("vae")
                decays = (0.0, 1e-2) if offers_both else (weight_decay(config, estimator),)
                axes = {
                    "estimator": (estimator,),
                    "optimizer.weight_decay": decays,
                    **cells[estimator],
                    **protocol,
                    "seed": (seed,),
                }
                points += grid(f"configs/{config}.py:{dataset}", axes)
    return points
