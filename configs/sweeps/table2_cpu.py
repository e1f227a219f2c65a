"""Table 2 within the reach of two CPU cores: 1,500 steps of smaller batches.

    python -m experiments.sweep --sweep=configs/sweeps/table2_cpu.py --backend=workers
    python -m experiments.report --runs=runs/sweep-table2_cpu --out=results/table2

As ``table2.py``, but 75,000 unlabelled images in all, 50 a step beside 20 labelled ones, with a
learning rate that falls to 0. The weight of the classification loss is that of 1, 10 and 100 whose
accuracy on validation was best after 400 steps by Gumbel-Softmax.
"""

from configs.sweeps import table2

PILOT, MAXIMIZE = (), table2.MAXIMIZE


def get_sweep(dataset: str = "mnist"):
    protocol = {
        "batch_size": (50,),
        "labels.batch_size": (20,),
        "num_steps": (1_500,),
        "eval_every": (500,),
        "log_every": (100,),
        "optimizer.final_share": (0.0,),
        "alpha": (100.0,),
        "seed": (0, 1, 2),
    }
    return table2.points(dataset, protocol)
