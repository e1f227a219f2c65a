"""From a config to functions and arrays: the only place where configs meet :mod:`gsm`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from gsm import (
    data,
    distributions,
    evaluation,
    learned,
    models,
    objectives,
    schedules,
    training,
)
from gsm.estimators import ESTIMATORS, Hyperparams

OPTIMIZERS = ("adam", "sgd")
OBJECTIVES = ("elbo", "vimco", "iwae")

# Rows [image, sample] that evaluation decodes together: on CPU what the cache holds, elsewhere what
# keeps the device busy (300 MB at 784 pixels).
_ROWS_AT_ONCE = {"cpu": 2_000}
_ROWS_AT_ONCE_ELSEWHERE = 100_000


class Task(NamedTuple):
    """What the host loop needs of an experiment."""

    program: training.Program
    settings: dict[str, jax.Array]
    """The float hyperparameters that a sweep may trace."""
    train: jax.Array
    """Stored training examples, uint8, on the device once."""
    valid: jax.Array
    test: jax.Array
    bounds: Callable[..., jax.Array]
    """``bounds(params, key, images, first, num_samples=m) -> [b]``, nats of each image; jitted."""
    rates: Callable[..., jax.Array]
    """``rates(params, images) -> [b]``, KL from posterior to prior of each image; jitted."""
    learned_scalars: Callable[[Any], dict[str, float]]
    """The scalars among the estimator's learned parts, for the log."""
    pictures: Callable[..., dict[str, np.ndarray]]
    """``pictures(params, key) -> arrays`` for the figures at the end of a run."""


def build(config: ConfigDict, dataset: data.Dataset) -> Task:
    """Assemble the experiment that ``config`` describes (checked by ``config.check``).

    Args:
      config: fields of ``configs/defaults.py``.
      dataset: the loaded data set, not yet binarised.
    """
    train, held_out, prepare, to_float = _images(config, dataset)
    mean_image = train.train.images.mean(axis=0, dtype=np.float64) / train.max_value
    model = _model(config.model, mean_image)
    example, center = jnp.zeros(mean_image.shape), jnp.asarray(mean_image, jnp.float32)
    update_every = config.temperature.update_every

    def hyperparams(step, settings):
        return Hyperparams(
            temperature=schedules.annealed_temperature(
                step,
                settings["temperature_initial"],
                settings["temperature_rate"],
                settings["temperature_floor"],
                update_every,
            ),
            backward_temperature=settings["backward_temperature"],
            baseline=settings["baseline"],
            slope=schedules.annealed_slope(
                step,
                settings["slope_initial"],
                settings["slope_rate"],
                settings["slope_cap"],
                update_every,
            ),
            eta=settings["eta"],
        )

    floats = {name: jnp.float32(value) for name, value in settings(config).items()}
    parts = _learned_parts(config, mean_image.size, hyperparams(0, settings(config)))

    def init(key):
        # Of a key of its own, so that all estimators start from the same model.
        return model.init(key, example)["params"], parts.init(jax.random.fold_in(key, 1))

    def loss(params, learned, key, x, hyperparams):
        if config.objective == "vimco":
            return objectives.vae_vimco_loss(model, params, key, x, _num_samples(config))
        if config.objective == "iwae":
            return objectives.vae_iwae_loss(
                model, params, key, x, _num_samples(config), hyperparams.temperature
            )
        estimator, hyperparams = parts.attach(learned, x - center, hyperparams)
        return objectives.vae_loss(model, params, key, x, estimator, hyperparams, config.kl)

    program = training.Program(
        init=init,
        loss=loss,
        prepare=prepare,
        hyperparams=hyperparams,
        optimizer=_optimizer(config.optimizer),
        learned_optimizer=parts.optimizer,
        batch_size=config.batch_size,
    )
    valid, test = jnp.asarray(held_out.valid.images), jnp.asarray(held_out.test.images)
    return Task(
        program=program,
        settings=floats,
        train=jnp.asarray(train.train.images),
        valid=valid,
        test=test,
        bounds=functools.partial(jax.jit, static_argnames="num_samples")(
            functools.partial(_bounds, model, to_float)
        ),
        rates=jax.jit(
            lambda params, images: jax.lax.map(
                lambda x: objectives.vae_rate(model, params, to_float(x)), images, batch_size=1_000
            )
        ),
        learned_scalars=lambda parts: {
            f"learned_{name}": float(value) for name, value in learned.summary(parts).items()
        },
        pictures=functools.partial(_pictures, model, to_float, test),
    )


def settings(config: ConfigDict) -> dict[str, float]:
    """The float hyperparameters of a config, by the names under which programs read them."""
    return {
        "learning_rate": config.optimizer.learning_rate,
        "temperature_initial": config.temperature.initial,
        "temperature_rate": config.temperature.rate,
        "temperature_floor": config.temperature.floor,
        "backward_temperature": config.temperature.backward,
        "slope_initial": config.slope.initial,
        "slope_rate": config.slope.rate,
        "slope_cap": config.slope.cap,
        "baseline": config.signal.constant,
        "eta": config.control.eta,
    }


def _num_samples(config: ConfigDict) -> int:
    """Of the estimator or the multi-sample objective: the config's, or its default."""
    default = ESTIMATORS[config.estimator].num_samples if config.objective == "elbo" else 10
    return config.num_samples or default or 1


def _learned_parts(
    config: ConfigDict, input_size: int, initial: Hyperparams
) -> learned.LearnedParts:
    """The learned parts of the config's estimator."""
    entry = ESTIMATORS[config.estimator]
    if config.objective != "elbo":
        entry = entry._replace(learned=())  # VIMCO has its own baselines
    elif entry.num_samples is not None:
        entry = entry._replace(
            surrogate=functools.partial(entry.surrogate, num_samples=_num_samples(config))
        )
    return learned.learned_parts(
        entry,
        input_size,
        (config.model.num_latents, config.model.num_classes),
        initial,
        baseline=config.signal.baseline,
        normalize=config.signal.normalize,
        decay=config.signal.decay,
        learn_control=config.control.learn,
        hidden_sizes=tuple(config.learned.hidden_sizes),
        learning_rate=config.learned.learning_rate,
    )


def _images(config: ConfigDict, dataset: data.Dataset):
    """Training set, held-out sets and how a stored image becomes one for the loss."""
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

    return train, held_out, prepare, to_float


def _model(config: ConfigDict, mean_image: np.ndarray) -> models.CategoricalVAE:
    # A pixel that is never on would start at minus infinity.
    clipped = np.clip(mean_image, 1e-3, 1 - 1e-3)
    output_bias = np.log(clipped) - np.log1p(-clipped)
    return models.CategoricalVAE(
        data_size=mean_image.size,
        num_latents=config.num_latents,
        num_classes=config.num_classes,
        hidden_sizes=tuple(config.hidden_sizes),
        prior=config.prior,
        input_center=jnp.asarray(mean_image, jnp.float32) if config.center_inputs else None,
        output_bias=jnp.asarray(output_bias, jnp.float32) if config.init_output_bias else None,
    )


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    return optax.scale_by_adam() if config.name == "adam" else optax.trace(config.momentum)


def _bounds(model, to_float, params, key, images, first, num_samples):
    samples = min(num_samples, evaluation.SAMPLES_AT_ONCE)
    rows = _ROWS_AT_ONCE.get(jax.default_backend(), _ROWS_AT_ONCE_ELSEWHERE)

    def bound(key, image):
        x = to_float(image)
        return evaluation.multi_sample_bound(
            lambda key: objectives.vae_log_weight(model, params, key, x), key, num_samples
        )

    return evaluation.map_examples(bound, key, images, max(1, rows // samples), first)


def _pictures(model, to_float, test, params, key) -> dict[str, Any]:
    """Arrays for the figures: images in [0, 1], and posterior classes over the test set."""
    key_rows, key_reconstruct, key_generate = jax.random.split(key, 3)
    rows = jax.random.choice(key_rows, test.shape[0], (10,), replace=False)
    originals = to_float(test[rows])
    draw = functools.partial(objectives.vae_reconstruct, model, params)
    generate = functools.partial(objectives.vae_generate, model, params)
    posterior = functools.partial(objectives.vae_posterior, model, params)
    arrays = {
        "originals": originals,
        "reconstructions": jax.vmap(draw)(jax.random.split(key_reconstruct, 10), originals),
        "samples": jax.vmap(generate)(jax.random.split(key_generate, 100)),
        "class_use": jnp.mean(
            jax.lax.map(lambda x: posterior(to_float(x)), test, batch_size=1_000), axis=0
        ),
    }
    return {name: np.asarray(array) for name, array in arrays.items()}
