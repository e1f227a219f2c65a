"""Semi-supervised classification with 100 labels, networks of the paper's figure 7 (section 4.3).

    python -m experiments.train --config=configs/semisup.py

``--config.estimator=exact`` is inference by marginalisation over the class.
"""

from experiments.tasks import semisupervised


def get_config(dataset: str = "mnist"):
    config = semisupervised.default_config(dataset)
    if dataset == "digits":
        config.num_steps = 300
        config.eval_every = 100
        config.log_every = 20
        config.batch_size = 32
    return config
