"""The smallest task that has all that a command asks for: images of 2x2 pixels in three classes.

Its runs take a second, so that hundreds of folders can be damaged. As a config file:

    python -m experiments.train --config=tests/faults/classifier.py
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

import gsm
from configs import defaults
from experiments.tasks import base
from experiments.tasks.base import Function, HeldOut, Metric, Task, floats


def default_config(dataset=""):
    config = defaults.common("tests.faults.classifier")
    config.estimator = "rloo"
    config.select = "accuracy"
    config.keep = "best"
    config.batch_size = 20
    config.num_steps, config.eval_every, config.log_every = 15, 5, 5
    return config


def get_config():
    return default_config()


def check(config, checks):
    checks.one_of("select", ("accuracy", "nll"))
    base.check_num_samples(checks)
    base.check_estimator(checks, 1, 3)


def logits(params, x):
    return 4.0 * x @ params["model"]["weights"]


def build(config, dataset=None):
    key_classes, key_noise = random.split(random.key(0))
    classes = random.randint(key_classes, (300,), 0, 3)
    centres = jnp.eye(3, 4)[classes]
    images = jnp.clip(centres + 0.4 * random.normal(key_noise, (300, 4)), 0.0, 1.0)
    examples = {"image": images, "class": jax.nn.one_hot(classes, 3)}
    train, valid, test = (
        jax.tree.map(lambda x: x[rows], examples)  # noqa: B023
        for rows in (slice(200), slice(200, 250), slice(250, 300))
    )
    parts = base.learned_parts(config, base.estimator(config), 4, (1, 3))

    def init(key):
        weights = 0.1 * random.normal(key, (4, 3))
        return {"model": {"weights": weights}, "estimator": parts.init(random.fold_in(key, 1))}

    def loss(params, key, example, hyperparams):
        x, label = example["image"], example["class"]
        estimator, hyperparams = parts.attach(params["estimator"], x, hyperparams)
        return estimator(
            key, logits(params, x)[None], lambda z: -jnp.sum(z[0] * label), hyperparams
        )

    def accuracy(params, key, example):
        found = jnp.argmax(logits(params, example["image"]))
        return (found == jnp.argmax(example["class"])).astype(jnp.float32)

    def nll(params, key, example):
        return -gsm.log_prob(example["class"][None], logits(params, example["image"])[None])

    metrics = {"accuracy": Metric(accuracy, maximize=True), "nll": Metric(nll)}
    return Task(
        init=init,
        loss=base.mean_over_examples(loss),
        prepare=lambda key, x: x,
        train=train,
        held_out={"valid": HeldOut(valid, metrics), "test": HeldOut(test, metrics)},
        latents=((1, 3),),
        constants={"mean_image": np.asarray(images.mean(axis=0)).reshape(2, 2)},
    )


def functions(config, mean_image):
    def classify(params, x):
        return jax.nn.softmax(logits(params, x))

    return {"classify": Function(classify, (floats(mean_image.size),))}
