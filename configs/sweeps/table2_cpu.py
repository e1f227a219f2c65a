"""Table 2 within the reach of two CPU cores: two epochs, smaller batches, one seed.

    python -m experiments.sweep --sweep=configs/sweeps/table2_cpu.py --backend=workers \\
        --pilot_steps=500
    python -m experiments.report --runs=runs/sweep-table2_cpu --out=results/table2

As ``table2.py``, but 2,000 steps of 50 unlabelled and 20 labelled images, with a learning rate that
falls to 0. It takes an hour; a GPU is asked for ``table2.py``.
"""

from configs.sweeps import table2

PILOT, MAXIMIZE = table2.PILOT, table2.MAXIMIZE


def get_sweep(dataset: str = "mnist"):
    protocol = {
        "batch_size": (50,),
        "labels.batch_size": (20,),
        "num_steps": (2_000,),
        "eval_every": (1_000,),
        "log_every": (100,),
        "optimizer.final_share": (0.0,),
        "alpha": (1.0, 10.0, 100.0),
    }
    return table2.points(dataset, protocol)
