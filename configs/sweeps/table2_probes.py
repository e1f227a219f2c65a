"""Probes of Table 2: can the straight-through form reach the paper's 93.6 %?

    python -m experiments.sweep --sweep=configs/sweeps/table2_probes.py --backend=workers
    python -m experiments.report --runs=runs/sweep-table2_probes --runs=results/table2

The protocol of ``table2_cpu.py`` with one change: the entropy of the class left out of the loss or
with the other sign, as in published code; or all 100 labels in each step, in place of 10 of them.
25 minutes to two hours for each run on a core.
"""

from configs.sweeps import table2_cpu

PROBES = ({"entropy_weight": 0.0}, {"entropy_weight": -1.0}, {"labels.batch_size": 100})


def get_sweep(dataset: str = "mnist"):
    return [
        point | probe
        for probe in PROBES
        for point in table2_cpu.get_sweep(dataset)
        if point["estimator"] == "st_gumbel_softmax" and point["seed"] < 2
    ]
