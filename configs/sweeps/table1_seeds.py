"""Table 1 of Jang et al. 2017 at 100,000 steps with three seeds: which differences are noise.

    python -m experiments.sweep --sweep=configs/sweeps/table1_seeds.py:binarized_mnist
    python -m experiments.report --runs=runs/sweep-table1_seeds-binarized_mnist \\
        --out=results/table1_seeds

The cells of ``table1_length.py`` with the weight decay that its pilots of 100,000 steps chose on
validation (``results/table1/pilots_length.csv``).
"""

from configs.sweeps import grid
from configs.sweeps.table1_length import CELLS

# Cells whose pilots chose a weight decay of 0.01; the others chose none.
DECAYED = {
    "cat_vae": (
        "score_function", "darn", "muprop", "slope_annealed_st", "gumbel_softmax",
    ),
    "bern_vae": ("score_function", "darn", "muprop", "gumbel_softmax"),
}  # fmt: skip


def get_sweep(dataset: str = "binarized_mnist"):
    protocol = {
        "num_steps": (100_000,),
        "eval_every": (20_000,),
        "keep": ("best",),
    }
    points = []
    for seed in (1, 2, 0):
        for config, cells in CELLS.items():
            for estimator, chosen in cells.items():
                decay = 1e-2 if estimator in DECAYED.get(config, ()) else 0.0
                axes = {"optimizer.weight_decay": (decay,), **chosen, **protocol, "seed": (seed,)}
                axes = {"estimator": (estimator,), **axes}
                points += grid(f"configs/{config}.py:{dataset}", axes)
    return points
