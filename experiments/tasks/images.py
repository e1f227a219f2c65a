"""What tasks on images share: preparation of pixels, initial biases, splits scored by a bound."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from experiments import data
from experiments.data import Dataset
from experiments.tasks.base import HeldOut, Metric, evenly_spaced
from experiments.tasks.bounds import SAMPLES_AT_ONCE, multi_sample_bound
from experiments.tasks.checks import Checks
from gsm import distributions

PRIORS = ("learned", "uniform")
UNITS = ("zero_one", "plus_minus_one")


class Images(NamedTuple):
    """A dataset as one experiment sees it."""

    train: Dataset
    held_out: Dataset
    """Its images do not change from one evaluation to the next."""
    mean: np.ndarray
    """Mean training image ``[h, w]`` in [0, 1]."""
    prepare: Callable[..., Array]
    """``prepare(key, stored)``: a training image for the loss; draws a dynamic binarisation."""
    to_float: Callable[[Array], Array]
    """A stored held-out image for evaluation."""
    pictured: str
    """What pictures show: "test" images, or "validation" ones where the test set is not read."""

    def to_picture(self) -> Array:
        """The images of that split, ``[n, d]``."""
        held_out = self.held_out
        split = held_out.test if self.pictured == "test" else held_out.valid
        return self.to_float(jnp.asarray(split.images))


def center(config: ConfigDict, mean: np.ndarray) -> Array | None:
    """What the first map subtracts from its pixels, given their means in training images."""
    return jnp.asarray(mean.ravel(), jnp.float32) if config.model.center_inputs else None


def output_bias(config: ConfigDict, mean: np.ndarray) -> Array | None:
    """Initial bias of the logits of pixels, given their means in training images."""
    if not config.model.init_output_bias:
        return None
    clipped = np.clip(mean.ravel(), 1e-3, 1 - 1e-3)  # a pixel that is never on
    return jnp.asarray(np.log(clipped) - np.log1p(-clipped), jnp.float32)


def images_of(config: ConfigDict, dataset: Dataset) -> Images:
    """The images of a dataset, binarised as ``config.data.binarization`` says."""
    train = data.binarize(dataset, config.data.binarization)
    dynamic = config.data.binarization == "dynamic" and train.max_value > 1
    # A bound is comparable only on images that do not change from one evaluation to the next.
    held_out = data.binarize(dataset, "fixed") if dynamic else train

    def to_float(x):
        return x.astype(jnp.float32) / held_out.max_value

    def prepare(key, x):
        if not dynamic:
            return x.astype(jnp.float32) / train.max_value
        threshold = distributions.uniform(key, x.shape) * train.max_value
        return (x > threshold).astype(jnp.float32)

    mean = train.train.images.mean(axis=0, dtype=np.float64) / train.max_value
    pictured = "test" if config.evaluation.test_samples else "validation"
    return Images(train, held_out, mean.reshape(dataset.shape), prepare, to_float, pictured)


def bound_splits(
    config: ConfigDict,
    images: Images,
    log_weights: Callable[..., Float[Array, " m"]],
    guess: float,
    valid: Mapping[str, Metric],
    test: Mapping[str, Metric],
    labelled: bool = False,
) -> dict[str, HeldOut]:
    """Held-out splits on which ``nll``, a negative multi-sample bound, and more is measured.

    Args:
      config: reads ``evaluation``.
      images: the images.
      log_weights: ``log_weights(params, key, x, m)`` of m hard samples for one image ``[d]``.
      guess: the negative bound, in nats, of a model that gives every pixel probability 1/2.
      valid: further metrics at each evaluation.
      test: further metrics at the end.
      labelled: whether an example is ``{"image": ..., "label": ...}`` in place of an image.
    """

    def nll(num_samples):
        def measure(params, key, stored):
            x = images.to_float(stored["image"] if labelled else stored)
            return -multi_sample_bound(
                lambda key, m: log_weights(params, key, x, m), key, num_samples
            )

        return Metric(measure, num_samples, guess=guess)

    def examples(split) -> Any:
        of_images = jnp.asarray(split.images)
        return {"image": of_images, "label": jnp.asarray(split.labels)} if labelled else of_images

    evaluation = config.evaluation
    splits = {
        "valid": HeldOut(
            examples(images.held_out.valid), {"nll": nll(evaluation.valid_samples), **valid}
        )
    }
    if evaluation.test_samples:
        of_test, bound = examples(images.held_out.test), nll(evaluation.test_samples)
        splits["test"] = HeldOut(of_test, {"nll": bound, **test})
        if evaluation.curve_images:
            some = evenly_spaced(of_test, evaluation.curve_images)
            splits["curve"] = HeldOut(some, {"nll": bound})
    return splits


def check_images(checks: Checks) -> None:
    """Raise ConfigError for values of the fields that tasks on images share."""
    checks.one_of("data.name", tuple(data.DATASETS))
    checks.one_of("data.binarization", data.BINARIZATIONS)
    checks.whole(1, "model.num_latents", "evaluation.valid_samples")
    checks.whole(0, "evaluation.test_samples", "evaluation.curve_images")
    evaluation = checks.config.evaluation
    curve = evaluation.curve_images == 0 or evaluation.test_samples > 0
    checks.require("evaluation.curve_images", curve, "0 where evaluation.test_samples is 0")
    classes = checks.config.model.num_classes
    checks.require("model.num_classes", 2 <= classes < 2**31, "at least 2 (2: Bernoulli units)")
    for name in ("evaluation.valid_samples", "evaluation.test_samples"):
        samples = checks.values[name]
        streams = samples <= SAMPLES_AT_ONCE or samples % SAMPLES_AT_ONCE == 0
        checks.require(name, streams, f"at most {SAMPLES_AT_ONCE:,}, or a multiple of it")
