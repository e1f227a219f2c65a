"""Probes of Table 2: can the straight-through form reach the paper's 93.6 %?

    python -m experiments.sweep --sweep=configs/sweeps/table2_probes.py --backend=workers
    python -m experiments.report --runs=runs/sweep-table2_probes --runs=results/table2

The protocol of ``table2_cpu.py``, with the entropy of the class left out of the loss or with the
other sign, as in published code. 25 minutes to two hours for each run on a core.
"""

from configs.sweeps import table2_cpu


def get_sweep(dataset: str = "mnist"):
    return [
        point | {"entropy_weight": weight}
        for weight in (0.0, -1.0)
        for point in table2_cpu.get_sweep(dataset)
        if point["estimator"] == "st_gumbel_softmax" and point["seed"] < 2
    ]
