"""200 Bernoulli units on dynamically binarised MNIST: estimators at equal evaluations of the cost.

    python -m experiments.sweep --sweep=configs/sweeps/bernoulli.py:mnist
    python -m experiments.report --runs=runs/sweep-bernoulli-mnist --out=results/bernoulli

The protocol of Dong et al. 2020 (DisARM) and its successors: the linear model 784-200-784 with a
learned prior, minibatches of 50, Adam at 1e-4, a bound of 100 samples. Theirs are 1,000,000 steps,
these 200,000. Every estimator averages as many estimates as two and as four evaluations of the
decoder allow; REBAR and RELAX take three. Their prior is trained by gradient descent at 1e-2, this
one as all else; their KL term is one sample inside the cost, this one in closed form, for all.
"""

from configs.sweeps import grid
from gsm.registry import ESTIMATORS

_AVERAGED = ("score_function", "gumbel_softmax", "reinmax", "muprop", "disarm")
_OF_THREE = ("rebar", "relax")


def get_sweep(dataset: str = "mnist"):
    protocol = {
        "data.binarization": ("dynamic",),
        "num_steps": (200_000,),
        "eval_every": (10_000,),
        "batch_size": (50,),
        "optimizer.learning_rate": (1e-4,),
        "evaluation.test_samples": (100,),
        "seed": (0,),
    }
    points = []
    for evaluations in (2, 4):
        offers: list[dict[str, tuple]] = [
            {
                "estimator": (name,),
                "num_estimates": (evaluations // ESTIMATORS[name].count_evaluations(200, 2),),
            }
            for name in _AVERAGED
        ]
        offers.append({"estimator": ("rloo",), "num_samples": (evaluations,)})
        if evaluations > 2:  # of two samples it is disarm
            offers.append({"estimator": ("arms",), "num_samples": (evaluations,)})
        else:
            offers.append({"estimator": _OF_THREE})
        for offer in offers:
            points += grid(f"configs/bern_vae.py:{dataset}", {**offer, **protocol})
    return points
