"""Table 2 of Jang et al. 2017: classification from 100 labels, by inference over the class.

    python -m experiments.sweep --sweep=configs/sweeps/table2.py --pilot_steps=5000
    python -m experiments.report --runs=runs/sweep-table2 --out=results/table2

The paper's three, and two that it did not have, one of them unbiased. Pilots choose the weight of
the classification loss, and whether the labelled images' bound counts, by the accuracy on
validation. NOTE(paper): its weights are 0.1 to 1.0, of a loss whose normalisation it does not say;
there the best result on the test set is the one reported.
"""

from configs.sweeps import grid

PILOT = ("alpha", "labels.weight")

ALPHAS = (1.0, 10.0, 100.0, 1_000.0)
# Each with the fields that are its own.
INFERENCES = {
    "exact": {},
    "gumbel_softmax": {},
    "st_gumbel_softmax": {},
    "reinmax": {},
    "rloo": {"num_samples": (2,)},
}


def get_sweep(dataset: str = "mnist"):
    weights = {"alpha": ALPHAS, "labels.weight": (0.0, 1.0)}
    return points(dataset, {"num_steps": (100_000,), **weights, "seed": (0, 1, 2)})


def points(dataset, axes):
    """The points of all inferences over further axes."""
    config = f"configs/semisup.py:{dataset}"
    of_each = ({"estimator": (name,), **axes, **own} for name, own in INFERENCES.items())
    return [point for fields in of_each for point in grid(config, fields)]
