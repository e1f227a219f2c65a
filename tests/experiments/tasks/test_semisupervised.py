"""Semi-supervised classification: its losses against each other, its data, its refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import data
from experiments.running import config as configuration
from experiments.tasks import semisupervised as task
from experiments.tasks.checks import ConfigError
from gsm import distributions, estimators
from gsm.registry import ESTIMATORS, Hyperparams
from tests.experiments.runs import ROOT
from tests.experiments.test_configs import digits  # noqa: F401, a fixture

X = (jnp.arange(16) % 3 == 0).astype(jnp.float32)


@pytest.fixture(scope="module")
def small():
    """Networks for images of 4x4 and 3 classes, every parameter moved off its start."""
    model = task.SemiSupervisedVAE(
        image_shape=(4, 4), num_classes=3, style_size=2, channels=(3, 4), decoder_width=4,
        decoder_channels=(4, 3),
    )  # fmt: skip
    params = jax.jit(model.init)(random.key(0), X)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = random.split(random.key(1), len(leaves))
    moved = [x + 0.5 * random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, moved)


def z_score(samples, expected):
    return (samples.mean() - expected) / (samples.std(ddof=1) / len(samples) ** 0.5)


def test_marginalisation_is_the_sum_over_classes_of_labelled_losses(small):
    """Equation 10: ``-U(x) = sum_y q(y | x) (-L(x, y)) + H``, at the same noise."""
    model, params = small
    key = random.key(3)
    _, key_style = random.split(random.clone(key))
    probabilities = jax.jit(task.classify, static_argnums=0)(model, params, X)
    labelled_loss = jax.jit(task.labelled_loss, static_argnums=0)
    labelled = jnp.stack(
        [labelled_loss(model, params, random.clone(key_style), X, y) for y in jnp.eye(3)[:, None]]
    )
    entropy = distributions.entropy(jnp.log(probabilities)[None])
    by_hand = jnp.vdot(probabilities, labelled) - entropy
    bound = jax.jit(task.marginal_bound, static_argnums=0)(model, params, key, X)
    np.testing.assert_allclose(-bound, by_hand, rtol=1e-5)

    weighed = jax.jit(
        lambda key: [
            task.unlabelled_loss(
                model, params, random.clone(key), X, ESTIMATORS["exact"], Hyperparams(), weight
            )
            for weight in (1.0, 0.0, -1.0)
        ]
    )
    found = np.asarray(weighed(random.clone(key)))
    np.testing.assert_allclose(found - found[0], np.arange(3) * entropy, rtol=1e-3, atol=1e-4)


def test_the_log_weight_has_the_marginal_bound_as_its_mean(small):
    """Two z-tests at 20,000 keys; false alarm 1e-6 each."""
    model, params = small
    weights, bounds = (
        jax.jit(jax.vmap(lambda k, of=of: of(model, params, k, X)))(keys)
        for of, keys in (
            (task.log_weight, random.split(random.key(4), 20_000)),
            (task.marginal_bound, random.split(random.key(5), 20_000)),
        )
    )
    difference = np.asarray(weights, np.float64) - np.asarray(bounds, np.float64)
    assert abs(z_score(difference, 0.0)) < 4.9
    assert abs(z_score(difference, 0.5)) > 4.9  # half a nat would be seen


@pytest.mark.parametrize("name", ["rloo", pytest.param("score_function", marks=pytest.mark.slow)])
def test_unbiased_estimators_have_the_gradient_of_marginalisation(small, name):
    """The classifier's gradient, projected on a fixed direction; 20,000 keys, false alarm 1e-6."""
    model, params = small
    direction = jax.tree.map(lambda x: jnp.ones_like(x), params["classifier"])

    def slope(estimator, key):
        def loss(t):
            classifier = jax.tree.map(lambda p, d: p + t * d, params["classifier"], direction)
            return task.unlabelled_loss(
                model, params | {"classifier": classifier}, key, X, estimator, Hyperparams()
            )

        return jax.grad(loss)(0.0)

    def exact(key, logits, f, hyperparams):
        return estimators.exact(logits, f)

    estimates, truth = (
        np.asarray(
            jax.jit(jax.vmap(lambda k, e=e: slope(e, k)))(random.split(random.key(6), 20_000)),
            np.float64,
        )
        for e in (ESTIMATORS[name].__call__, exact)
    )
    assert abs(z_score(estimates - truth, 0.0)) < 4.9
    assert abs(z_score(1.5 * estimates - truth, 0.0)) > 4.9  # so large a factor would be seen


# --- data ---


def test_labels_are_drawn_alike_for_each_class_by_the_seed_alone(digits):  # noqa: F811
    labels = digits.train.labels
    positions, drawn = data.labelled_subset(labels, 50, 10, seed=3)
    assert (np.bincount(drawn) == 5).all()
    assert (labels[positions] == drawn).all()
    assert (np.diff(positions) > 0).all()
    again, _ = data.labelled_subset(labels, 50, 10, seed=3)
    other, _ = data.labelled_subset(labels, 50, 10, seed=4)
    assert (positions == again).all()
    assert (positions != other).any()


@pytest.mark.parametrize(
    ("labels", "number", "classes", "told"),
    [
        (None, 10, 10, "has no labels"),
        ([0, 1, 2], 4, 2, "labels are of 3 classes; expected 2"),
        ([0, 2], 3, 3, "labels are of 2 classes; expected 3"),
        ([0, 1], 1, 2, "a multiple of the 2 classes, at least one of each; got 1"),
        ([0, 1], 3, 2, "a multiple of the 2 classes"),
        ([0, 0, 1], 4, 2, "asks for 2 examples of each class; class 1 has 1"),
    ],
)
def test_labels_that_cannot_be_had_are_refused(labels, number, classes, told):
    with pytest.raises(data.DataError, match=told):
        data.labelled_subset(labels and np.array(labels), number, classes, seed=0)


# --- the task ---


def config_with(**changes):
    config = configuration.load(str(ROOT / "configs/semisup.py") + ":digits")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return configuration.check(config)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"alpha": -0.1}, "config.alpha must be 0 or more and finite; got -0.1"),
        ({"labels__number": 0}, "config.labels.number must be between 1"),
        ({"labels__batch_size": 101}, r"between 0 \(all\) and the 100 labels; got 101"),
        ({"labels__weight": -1.0}, "config.labels.weight must be 0 or more and finite; got -1.0"),
        ({"augmentation__shift": -1.0}, "config.augmentation.shift must be 0 or more and finite"),
        ({"augmentation__scale": 1.0}, "config.augmentation.scale must be at least 0 and below 1"),
        ({"consistency__weight": -1.0}, "config.consistency.weight must be 0 or more and finite"),
        ({"consistency__threshold": 1.1}, "config.consistency.threshold must be between 0 and 1"),
        ({"model__num_latents": 2}, "config.model.num_latents must be 1: the class; got 2"),
        ({"model__style_size": 0}, "config.model.style_size must be between 1"),
        ({"estimator": "disarm"}, "disarm needs two classes"),
    ],
)
def test_impossible_configs_are_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        config_with(**changes)


def test_classes_other_than_the_data_s_are_refused(digits):  # noqa: F811
    with pytest.raises(data.DataError, match="labels are of 10 classes; expected 7"):
        task.build(config_with(model__num_classes=7), digits)


def labelled_images(digits, number):  # noqa: F811
    """The labelled images at the threshold, and their labels."""
    positions, labels = data.labelled_subset(digits.train.labels, number, 10, 0)
    return (digits.train.images[positions] > 127).astype(np.float32), labels


PARAMS: list = []


class Built:
    """The task on ten labelled images at the threshold, its parameters and one unlabelled image."""

    def __init__(self, digits, **changes):  # noqa: F811
        changes = {"labels__number": 10, "data__binarization": "threshold"} | changes
        config = config_with(**changes)
        self.task = task.build(config, digits)
        call = task.functions(config, **self.task.constants)["classify"].call
        self.classify = jax.jit(jax.vmap(lambda x: call(self.params, x)))
        if not PARAMS:  # the same for all: initialisation takes seconds to compile
            PARAMS.append(jax.jit(self.task.init)(random.key(1)))
        (self.params,) = PARAMS
        stored = jnp.asarray(self.task.train[:1])
        self.batch = jax.vmap(self.task.prepare)(random.split(random.key(2), 1), stored)
        # Parameters are arguments: constants of that size take seconds to fold.
        loss = jax.jit(lambda params, key: self.task.loss(params, key, self.batch, Hyperparams()))
        self.loss = functools.partial(loss, self.params)


def test_alpha_weighs_the_classification_of_all_labelled_images(digits):  # noqa: F811
    one, other = (Built(digits, alpha=alpha) for alpha in (0.0, 2.0))
    images, labels = labelled_images(digits, 10)
    probabilities = one.classify(images)[np.arange(10), labels]
    difference = other.loss(random.key(2)) - one.loss(random.key(2))
    np.testing.assert_allclose(difference, -2 * jnp.mean(jnp.log(probabilities)), rtol=1e-3)


def test_without_weight_the_labelled_images_are_only_classified(digits):  # noqa: F811
    """With a weight their bound counts that often."""
    losses = [
        Built(digits, alpha=2.0, labels__weight=weight).loss(random.key(2)) for weight in (0.0, 1.0)
    ]
    assert losses[1] - losses[0] > 10


@pytest.mark.slow
def test_half_the_weight_counts_half(digits):  # noqa: F811
    losses = [
        Built(digits, alpha=2.0, labels__weight=weight).loss(random.key(2))
        for weight in (0.0, 0.5, 1.0)
    ]
    np.testing.assert_allclose(losses[1] - losses[0], (losses[2] - losses[0]) / 2, rtol=1e-3)


def test_a_labelled_minibatch_is_drawn_anew_in_each_step(digits):  # noqa: F811
    """With a huge alpha the loss shows which image was drawn."""
    built = Built(digits, alpha=1e6, labels__batch_size=1)
    images, labels = labelled_images(digits, 10)
    each = -1e6 * np.log(built.classify(images)[np.arange(10), labels])
    seen = set()
    for seed in range(12):
        loss = built.loss(random.key(seed))
        nearest = int(np.argmin(abs(each - loss)))
        assert abs(each[nearest] - loss) < 2_000  # the generative parts
        seen.add(nearest)
    assert len(seen) > 3


@pytest.mark.slow
def test_consistency_is_the_cross_entropy_with_the_confident_class(digits):  # noqa: F811
    changes = {"consistency__weight": 3.0, "augmentation__shift": 2.0}
    built = {
        threshold: Built(digits, consistency__threshold=threshold, **changes)
        for threshold in (0.0, 1.0)
    }
    one = built[0.0]
    images = jnp.concatenate([one.batch["image"], one.batch["augmented"]])
    assert (images[0] != images[1]).any()
    before, after = one.classify(images)
    expected = -3 * jnp.log(after[jnp.argmax(before)])
    losses = {threshold: each.loss(random.key(3)) for threshold, each in built.items()}
    np.testing.assert_allclose(losses[0.0] - losses[1.0], expected, rtol=1e-2)


@pytest.mark.slow
def test_augmented_images_are_what_is_classified_of_the_labelled(digits):  # noqa: F811
    """And only that: with alpha 0 the loss does not change."""

    def difference(alpha):
        plain, changed = (
            Built(digits, alpha=alpha, augmentation__shift=shift).loss(random.key(2))
            for shift in (0.0, 3.0)
        )
        return abs(plain - changed)

    assert difference(0.0) == 0
    assert difference(1.0) > 0
