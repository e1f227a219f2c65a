"""The VAE on grey images of ReinMax's table (Liu et al. 2023): 784-512-256-(n x k)-256-512-784.

    python -m experiments.train --config=configs/reinmax_vae.py:mnist
    python -m experiments.train --config=configs/reinmax_vae.py:mnist --config.estimator=gumbel_rao

The argument after the colon is the dataset. Eight classes of four latents, the table's 8x4. The
number to compare is the training loss, the last rows of ``metrics.jsonl``: that table prints
the mean of the last epoch, with the loss of pixels in [0, 1] that are not binarised.

The temperature of ReinMax is ``temperature.backward``, that of the other estimators
``temperature.initial``. Straight-through at a temperature t is ``slope_annealed_st`` with the slope
1 / t: ``--config.slope.initial=0.77 --config.slope.rate=0``.

Networks are initialised as in PyTorch, since this table depends on it (docs/reproduction.md).

NOTE(paper): batches are drawn with replacement from 50,000 images here; the published runs go
through all 60,000 of the training set, shuffled anew, and an epoch is 600 steps.
"""

from experiments.tasks import vae


def get_config(dataset: str = "mnist"):
    config = vae.default_config(dataset)
    config.estimator = "reinmax"
    config.data.binarization = "none"
    config.model.hidden_sizes = (512, 256)
    config.model.prior = "uniform"
    config.model.num_latents = 4
    config.model.num_classes = 8
    config.model.center_inputs = False
    config.model.initialization = "pytorch"
    config.model.init_output_bias = False
    config.optimizer.learning_rate = 5e-4
    config.temperature.rate = 0.0
    config.temperature.backward = 1.3  # the authors' for 8x4 latents
    config.evaluation.valid_samples = 1
    config.evaluation.test_samples = 1
    if dataset != "digits":
        config.num_steps = 96_000
        config.eval_every = 6_000
        config.log_every = 600
    return config
