"""Table 2 within the reach of two CPU cores: 10,000 steps of smaller batches.

    python -m experiments.sweep --sweep=configs/sweeps/table2_cpu.py --backend=workers
    python -m experiments.report --runs=runs/sweep-table2_cpu --out=results/table2

As ``table2.py``, but 20 unlabelled images a step beside 10 labelled ones, with a learning rate that
falls to 0, and a style of 16: four passes over the data. The weights were chosen by accuracy on
validation, of runs of 10,000 steps and of probes of 2,500 (``results/table2``): 100 of 10, 100 and
1,000 for the classification loss; 0 for the labelled images' bound, which with 1 costs three to six
nats and up to eight points of accuracy.
"""

from configs.sweeps import table2


def get_sweep(dataset: str = "mnist"):
    protocol = {
        "batch_size": (20,),
        "labels.batch_size": (10,),
        "num_steps": (10_000,),
        "eval_every": (2_500,),
        "log_every": (100,),
        "optimizer.final_share": (0.0,),
        "model.style_size": (16,),
        "labels.weight": (0.0,),
        "alpha": (100.0,),
        "seed": (0, 1, 2),
    }
    return table2.points(dataset, protocol)
