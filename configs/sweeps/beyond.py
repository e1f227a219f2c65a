"""Estimators that the paper did not have, under the protocol of its Table 1.

    python -m experiments.sweep --sweep=configs/sweeps/beyond.py:binarized_mnist --num_steps=100000
    python -m experiments.report --runs=runs/sweep-table1-binarized_mnist \\
        --runs=runs/sweep-beyond-binarized_mnist

Learning rates are not tuned for them: reinmax has that of ``st_gumbel_softmax``, the unbiased ones
have that of ``muprop``, as pilots of ``table1.py`` chose it. ``rloo`` has two samples, the cost of
``muprop``. The VAEs are also trained on a multi-sample bound itself, with five samples; and reinmax
once more with a learning rate that falls to 0 along a line, between which validation chooses. So
falling, larger rates are tried on the Bernoulli VAE, for gumbel_softmax too, there with a lower
floor of the temperature and with weight decay as well.
"""

from configs.sweeps import grid


def get_sweep(dataset: str = "mnist"):
    protocol = {
        "num_steps": (545_000,),
        "eval_every": (10_000,),
        "evaluation.curve_images": (500,),
        "seed": (0,),
    }
    fast = {"optimizer.learning_rate": (3e-3,), **protocol}
    slow = {"optimizer.learning_rate": (1e-3,), **protocol}

    def config(latents, task):
        return f"configs/{latents}_{task}.py:{dataset}"

    def reinmax(task, share):
        axes = {"estimator": ("reinmax",), "optimizer.final_share": (share,), **fast}
        return [point for latents in ("bern", "cat") for point in grid(config(latents, task), axes)]

    points = reinmax("vae", 0.0) + reinmax("sbn", 0.0)
    for task, of_task in (("vae", slow), ("sbn", fast)):
        points += grid(config("bern", task), {"estimator": ("disarm",), **of_task})
    for task, of_task in (("vae", slow), ("sbn", fast)):
        rloo = {"estimator": ("rloo",), "num_samples": (2,), **of_task}
        for latents in ("bern", "cat"):
            points += grid(config(latents, task), rloo)
    for latents in ("bern", "cat"):
        points += grid(config(latents, "vae"), {"estimator": ("rebar",), **slow})
    points += reinmax("vae", 1.0) + reinmax("sbn", 1.0)
    falling = {"optimizer.final_share": (0.0,), **protocol}
    iwae = {"objective": ("iwae",), "num_samples": (5,)}
    for estimator, rate, other in (
        ("gumbel_softmax", 6e-3, {}),
        ("gumbel_softmax", 1e-2, {"temperature.floor": (0.3,)}),
        ("gumbel_softmax", 1e-2, {"temperature.floor": (0.3,), "optimizer.weight_decay": (1e-2,)}),
        ("reinmax", 6e-3, {}),
        ("reinmax", 6e-3, iwae),
    ):
        axes = {"estimator": (estimator,), "optimizer.learning_rate": (rate,), **other}
        points += grid(config("bern", "vae"), {**axes, **falling})
    for latents in ("bern", "cat"):
        vimco = {"objective": ("vimco",), "estimator": ("score_function",), "num_samples": (5,)}
        points += grid(config(latents, "vae"), {**vimco, **slow})
        points += grid(config(latents, "sbn"), {"estimator": ("rebar",), **fast})
    return points
