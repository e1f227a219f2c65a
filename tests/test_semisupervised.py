"""Semi-supervised classification: its losses against each other, its data, its refusals."""

import gzip
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from experiments import config as configuration
from experiments import tasks
from experiments.config import ConfigError
from gsm import data, distributions, estimators, models, objectives
from gsm.estimators import ESTIMATORS, Hyperparams
from tests.test_configs import ROOT, digits  # noqa: F401, a fixture

X = (jnp.arange(16) % 3 == 0).astype(jnp.float32)


@pytest.fixture(scope="module")
def small():
    """Networks for images of 4x4 and 3 classes, every parameter moved off its start."""
    model = models.SemiSupervisedVAE(
        num_pixels=16, num_classes=3, style_size=2, channels=(3, 4), decoder_width=4,
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
    probabilities = objectives.semisupervised_classify(model, params, X)
    labelled = jnp.stack(
        [
            objectives.semisupervised_labelled_loss(model, params, random.clone(key_style), X, y)
            for y in jnp.eye(3)[:, None]
        ]
    )
    entropy = distributions.entropy(jnp.log(probabilities)[None])
    by_hand = jnp.vdot(probabilities, labelled) - entropy
    bound = objectives.semisupervised_marginal_bound(model, params, key, X)
    np.testing.assert_allclose(-bound, by_hand, rtol=1e-5)


def test_the_log_weight_has_the_marginal_bound_as_its_mean(small):
    """Two z-tests at 20,000 keys; false alarm 1e-6 each."""
    model, params = small
    keys = random.split(random.key(4), 20_000)
    weights = jax.vmap(lambda k: objectives.semisupervised_log_weight(model, params, k, X))(keys)
    bounds = jax.vmap(lambda k: objectives.semisupervised_marginal_bound(model, params, k, X))(
        random.split(random.key(5), 20_000)
    )
    difference = np.asarray(weights, np.float64) - np.asarray(bounds, np.float64)
    assert abs(z_score(difference, 0.0)) < 4.9
    assert abs(z_score(difference, 0.5)) > 4.9  # half a nat would be seen


@pytest.mark.parametrize("name", ["rloo", "score_function"])
def test_unbiased_estimators_have_the_gradient_of_marginalisation(small, name):
    """The classifier's gradient, projected on a fixed direction; 20,000 keys, false alarm 1e-6."""
    model, params = small
    direction = jax.tree.map(lambda x: jnp.ones_like(x), params["classifier"])

    def slope(estimator, key):
        def loss(t):
            classifier = jax.tree.map(lambda p, d: p + t * d, params["classifier"], direction)
            return objectives.semisupervised_unlabelled_loss(
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


IMAGES = (np.arange(2 * 784) % 256).astype(np.uint8).reshape(2, 28, 28)
IDX = struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 28, 28) + IMAGES.tobytes()


def test_images_are_read_from_every_format(tmp_path):
    from PIL import Image

    (tmp_path / "a.idx").write_bytes(IDX)
    (tmp_path / "a.gz").write_bytes(gzip.compress(IDX))
    np.save(tmp_path / "a.npy", IMAGES)
    np.save(tmp_path / "floats.npy", IMAGES.reshape(2, 784) / 255)
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    expected = IMAGES.reshape(2, 784) / np.float32(255)
    for name in ("a.idx", "a.gz", "a.npy", "floats.npy"):
        np.testing.assert_allclose(data.read_images(tmp_path / name), expected, rtol=1e-6)
    np.testing.assert_allclose(data.read_images(tmp_path / "a.png"), expected[:1], rtol=1e-6)


def npy(array):
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"", "the file is empty"),
        (b"hello", "neither IDX of bytes, nor .npy, nor PNG"),
        (IDX[:-1], "expected 1568 bytes of data"),
        (b"\x1f\x8bxx", "not a whole gzip file"),
        (b"\x89PNG broken", "cannot identify image"),
        (npy(np.zeros((3, 9, 9))), r"expected images of 28x28 pixels; found shape \(3, 9, 9\)"),
        (npy(np.zeros((0, 28, 28))), r"found shape \(0, 28, 28\)"),
        (npy(np.full((1, 28, 28), np.nan)), "expected integers from 0 to 255, or floats"),
        (npy(np.full((28, 28), -1)), "expected integers from 0 to 255"),
        (npy(np.full((28, 28), "a")), "expected integers from 0 to 255"),
    ],
)
def test_files_that_hold_no_images_are_named_in_one_line(tmp_path, content, told):
    path = tmp_path / "images"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(data.DataError, match=told) as refusal:
        data.read_images(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


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
        tasks.check(config_with(model__num_classes=7), digits)


def test_labelled_images_come_from_the_draw_and_alpha_weighs_their_classification(digits):  # noqa: F811
    config = config_with(labels__number=10, data__binarization="threshold")
    task = tasks.build(config, digits)
    positions, labels = data.labelled_subset(digits.train.labels, 10, 10, 0)
    stored = {
        (digits.train.images[p] > 127).tobytes(): y for p, y in zip(positions, labels, strict=True)
    }
    prepare = jax.jit(jax.vmap(task.program.prepare, (0, None)))
    drawn = prepare(random.split(random.key(0), 200), task.train[0])
    seen = set()
    for image, y in zip(*map(np.asarray, (drawn["labelled_image"], drawn["label"])), strict=True):
        assert stored[(image > 0.5).tobytes()] == y.argmax()
        seen.add(int(y.argmax()))
    assert seen == set(range(10))

    params, learned = task.program.init(random.key(1))
    example = jax.tree.map(lambda x: x[0], drawn)
    losses = [
        tasks.build(config_with(labels__number=10, alpha=alpha), digits).program.loss(
            params, learned, random.key(2), example, Hyperparams()
        )
        for alpha in (0.0, 2.0)
    ]
    probability = task.classify(params, example["labelled_image"][None])[0] @ example["label"][0]
    np.testing.assert_allclose(losses[1] - losses[0], -2 * jnp.log(probability), rtol=1e-3)
