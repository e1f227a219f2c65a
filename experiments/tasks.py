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
    augmentation,
    data,
    distributions,
    evaluation,
    learned,
    models,
    objectives,
    schedules,
    training,
)
from gsm.estimators import ESTIMATORS, RELAXED, Hyperparams

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
    train: Any
    """Stored training examples, uint8, on the device once; arrays, or dicts of them."""
    valid: Any
    test: Any
    uniform_guess: float
    """Negative bound, in nats, of a model that gives every predicted pixel the probability 1/2."""
    bounds: Callable[..., jax.Array]
    """``bounds(params, key, examples, first, num_samples=m) -> [b]``, nats of each; jitted."""
    measures: Callable[..., dict[str, jax.Array]]
    """``measures(params, examples) -> {name: [b]}``, what else is worth a log; jitted."""
    test_measures: Callable[..., dict[str, jax.Array]]
    """The same of the test set at the end; it may hold more, at a higher price."""
    classify: Callable[..., jax.Array] | None
    """``classify(params, images [b, d] in [0, 1]) -> [b, k]``, probabilities; jitted; or None."""
    learned_scalars: Callable[[Any], dict[str, float]]
    """The scalars among the estimator's learned parts, for the log."""
    pictures: Callable[..., dict[str, np.ndarray]]
    """``pictures(params, key) -> arrays`` for the figures at the end of a run."""


class _Images(NamedTuple):
    """A data set as one experiment sees it."""

    train: data.Dataset
    held_out: data.Dataset
    """Whose images do not change from one evaluation to the next."""
    mean: np.ndarray
    """Mean training image ``[d]`` in [0, 1]."""
    prepare: Callable[[jax.Array, jax.Array], jax.Array]
    """A stored image to one for the loss; draws a dynamic binarisation."""
    to_float: Callable[[jax.Array], jax.Array]
    """A stored held-out image to one for evaluation."""


class _Examples(NamedTuple):
    """What is stored of the data, and how it becomes what the functions of a task see."""

    train: Any
    valid: Any
    test: Any
    prepare: Callable[[jax.Array, Any], Any]
    """``prepare(key, stored)``: a training example for the loss."""
    to_float: Callable[[Any], Any]
    """A held-out example for evaluation."""


class _Model(NamedTuple):
    """What differs from task to task; everything is of one example."""

    examples: _Examples
    init: Callable[[jax.Array], tuple[Any, Any]]
    loss: Callable[..., jax.Array]
    learned_optimizer: optax.GradientTransformation
    log_weight: Callable[..., jax.Array]
    """``log_weight(params, key, x)``."""
    measures: Callable[..., dict[str, jax.Array]]
    """``measures(params, key, x)``."""
    pictures: Callable[..., dict[str, jax.Array]]
    """``pictures(params, key, examples)`` of the test set."""
    classify: Callable[..., jax.Array] | None = None
    """``classify(params, x)``."""
    other_loss: Callable[..., jax.Array] | None = None
    """``other_loss(params, key)``, of a whole step."""
    test_measures: Callable[..., dict[str, jax.Array]] | None = None
    """Instead of ``measures`` on the test set."""


def check(config: ConfigDict, dataset: data.Dataset) -> None:
    """Raise DataError if a checked config asks for what the data set does not have."""
    if config.task == "semisupervised":
        _labelled(config, dataset.train)


def build(config: ConfigDict, dataset: data.Dataset, shared: Task | None = None) -> Task:
    """Assemble the experiment that ``config`` describes (checked by ``config.check``).

    Args:
      config: fields of ``configs/defaults.py``.
      dataset: the loaded data set, not yet binarised.
      shared: a task of a config that differs in the seed and in SETTINGS only; its arrays and
        compiled functions then serve this one too.
    """
    hyperparams = functools.partial(_hyperparams, config.temperature.update_every)
    images = _images(config, dataset)
    model = _MODELS[config.task](config, images, hyperparams(0, settings(config)))
    examples = model.examples
    pictures = jax.jit(model.pictures)
    measured = [
        jax.jit(functools.partial(_measures, measures, examples.to_float))
        for measures in (model.measures, model.test_measures or model.measures)
    ]
    program = training.Program(
        init=model.init,
        loss=model.loss,
        prepare=examples.prepare,
        hyperparams=hyperparams,
        optimizer=_optimizer(config.optimizer),
        learned_optimizer=model.learned_optimizer,
        batch_size=config.batch_size,
        learning_rate=functools.partial(_learning_rate, config.num_steps),
        other_loss=model.other_loss,
    )
    of_config = {name: jnp.float32(value) for name, value in settings(config).items()}
    if shared is not None:
        program = shared.program._replace(init=program.init)
        return shared._replace(program=program, settings=of_config)
    train, valid, test = (
        jax.tree.map(jnp.asarray, stored)
        for stored in (examples.train, examples.valid, examples.test)
    )
    given = images.mean.size // 2 if config.task == "sbn" else 0
    return Task(
        program=program,
        settings=of_config,
        train=train,
        valid=valid,
        test=test,
        uniform_guess=(images.mean.size - given) * float(np.log(2)),
        bounds=functools.partial(jax.jit, static_argnames="num_samples")(
            functools.partial(_bounds, model.log_weight, examples.to_float)
        ),
        measures=measured[0],
        test_measures=measured[1],
        classify=model.classify and jax.jit(jax.vmap(model.classify, (None, 0))),
        learned_scalars=lambda parts: {
            f"learned_{name}": float(value) for name, value in learned.summary(parts).items()
        },
        pictures=lambda params, key: {
            name: np.asarray(array)
            for name, array in pictures(params, key, examples.to_float(test)).items()
        },
    )


def _learning_rate(num_steps: int, step, settings):
    return schedules.decayed_learning_rate(
        step, settings["learning_rate"], settings["learning_rate_final_share"], num_steps
    )


def _hyperparams(update_every: int, step, settings) -> Hyperparams:
    """The estimators' hyperparameters at a step."""
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


def settings(config: ConfigDict) -> dict[str, float]:
    """The float hyperparameters of a config, by the names under which programs read them."""
    values = config.to_dict()
    return {name: values[group][field] for name, (group, field) in _SETTINGS.items()}


_SETTINGS = {
    "learning_rate": ("optimizer", "learning_rate"),
    "learning_rate_final_share": ("optimizer", "final_share"),
    "temperature_initial": ("temperature", "initial"),
    "temperature_rate": ("temperature", "rate"),
    "temperature_floor": ("temperature", "floor"),
    "backward_temperature": ("temperature", "backward"),
    "slope_initial": ("slope", "initial"),
    "slope_rate": ("slope", "rate"),
    "slope_cap": ("slope", "cap"),
    "baseline": ("signal", "constant"),
    "eta": ("control", "eta"),
}
SETTINGS = tuple(f"{group}.{field}" for group, field in _SETTINGS.values())
"""Fields of a config that runs of one program may differ in, beside the seed."""


def _num_samples(config: ConfigDict) -> int:
    """Of the estimator or the multi-sample objective: the config's, or its default."""
    several = config.task == "vae" and config.objective != "elbo"
    default = 10 if several else ESTIMATORS[config.estimator].num_samples
    return config.num_samples or default or 1


def _learned_parts(
    config: ConfigDict, input_size: int, initial: Hyperparams
) -> learned.LearnedParts:
    """The learned parts of the config's estimator at one layer of latents."""
    entry = ESTIMATORS[config.estimator]
    if entry.num_samples is not None:
        entry = entry._replace(
            function=functools.partial(entry.function, num_samples=_num_samples(config))
        )
    if config.task == "vae" and config.objective != "elbo":
        entry = entry._replace(learned=())  # VIMCO has its own baselines
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


def _images(config: ConfigDict, dataset: data.Dataset) -> _Images:
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
    return _Images(train, held_out, mean, prepare, to_float)


def _plain(images: _Images) -> _Examples:
    """Examples that are images and nothing else."""
    train, valid, test = (
        split.images for split in (images.train.train, images.held_out.valid, images.held_out.test)
    )
    return _Examples(train, valid, test, images.prepare, images.to_float)


def _center(config: ConfigDict, mean: np.ndarray) -> jax.Array | None:
    """What the first map subtracts from its pixels."""
    return jnp.asarray(mean, jnp.float32) if config.model.center_inputs else None


def _output_bias(config: ConfigDict, mean: np.ndarray) -> jax.Array | None:
    """Initial bias of the pixel logits."""
    # A pixel that is never on would start at minus infinity.
    clipped = np.clip(mean, 1e-3, 1 - 1e-3)
    bias = np.log(clipped) - np.log1p(-clipped)
    return jnp.asarray(bias, jnp.float32) if config.model.init_output_bias else None


def _vae(config: ConfigDict, images: _Images, initial: Hyperparams) -> _Model:
    model = models.CategoricalVAE(
        data_size=images.mean.size,
        num_latents=config.model.num_latents,
        num_classes=config.model.num_classes,
        units=config.model.units,
        hidden_sizes=tuple(config.model.hidden_sizes),
        prior=config.model.prior,
        input_center=_center(config, images.mean),
        output_bias=_output_bias(config, images.mean),
    )
    mean = jnp.asarray(images.mean, jnp.float32)
    parts = _learned_parts(config, images.mean.size, initial)

    def init(key):
        # The parts from a key of their own: all estimators start from the same model.
        return model.init(key, mean)["params"], parts.init(jax.random.fold_in(key, 1))

    def loss(params, learned, key, x, hyperparams):
        if config.objective == "vimco":
            return objectives.vae_vimco_loss(model, params, key, x, _num_samples(config))
        if config.objective == "iwae" and config.estimator in RELAXED:
            return objectives.vae_iwae_loss(
                model, params, key, x, _num_samples(config), hyperparams.temperature
            )
        estimator, hyperparams = parts.attach(learned, x - mean, hyperparams)
        if config.objective == "iwae":
            return objectives.vae_hard_iwae_loss(
                model, params, key, x, estimator, hyperparams, _num_samples(config)
            )
        return objectives.vae_loss(model, params, key, x, estimator, hyperparams, config.kl)

    return _Model(
        examples=_plain(images),
        init=init,
        loss=loss,
        learned_optimizer=parts.optimizer,
        log_weight=functools.partial(objectives.vae_log_weight, model),
        measures=lambda params, key, x: {"rate": objectives.vae_rate(model, params, x)},
        pictures=functools.partial(_vae_pictures, model),
    )


def _vae_pictures(model, params, key, images) -> dict[str, jax.Array]:
    """Images in [0, 1], and how often each class is used over the images."""
    key_rows, key_reconstruct, key_generate = jax.random.split(key, 3)
    originals = jax.random.choice(key_rows, images, (10,), replace=False)
    draw = functools.partial(objectives.vae_reconstruct, model, params)
    generate = functools.partial(objectives.vae_generate, model, params)
    posterior = functools.partial(objectives.vae_posterior, model, params)
    return {
        "originals": originals,
        "reconstructions": jax.vmap(draw)(jax.random.split(key_reconstruct, 10), originals),
        "samples": jax.vmap(generate)(jax.random.split(key_generate, 100)),
        "class_use": jnp.mean(jax.lax.map(posterior, images, batch_size=1_000), axis=0),
    }


def _sbn(config: ConfigDict, images: _Images, initial: Hyperparams) -> _Model:
    half = images.mean.size // 2
    model = models.StructuredNetwork(
        output_size=images.mean.size - half,
        num_layers=config.model.num_layers,
        num_latents=config.model.num_latents,
        num_classes=config.model.num_classes,
        units=config.model.units,
        input_center=_center(config, images.mean[:half]),
        output_bias=_output_bias(config, images.mean[half:]),
    )
    mean = jnp.asarray(images.mean[:half], jnp.float32)
    size = config.model.num_latents * config.model.num_classes
    # A signal of its own for each layer: what a baseline can know differs.
    parts = [
        _learned_parts(config, half if layer == 0 else size, initial)
        for layer in range(config.model.num_layers)
    ]

    def init(key):
        keys = jax.random.split(jax.random.fold_in(key, 1), len(parts))
        learned = {
            f"layer_{i}": part.init(k) for i, (part, k) in enumerate(zip(parts, keys, strict=True))
        }
        return model.init(key, mean)["params"], learned

    def loss(params, learned, key, image, hyperparams):
        def at_layer(layer, inputs):
            inputs = inputs - mean if layer == 0 else inputs
            return parts[layer].attach(learned[f"layer_{layer}"], inputs, hyperparams)

        return objectives.structured_loss(model, params, key, image[:half], image[half:], at_layer)

    def log_weight(params, key, image):
        return objectives.structured_log_weight(model, params, key, image[:half], image[half:])

    return _Model(
        examples=_plain(images),
        init=init,
        loss=loss,
        learned_optimizer=parts[0].optimizer,  # it goes by names, in every layer alike
        log_weight=log_weight,
        measures=lambda params, key, image: {},
        pictures=functools.partial(_sbn_pictures, model, half),
    )


def _sbn_pictures(model, half, params, key, images) -> dict[str, jax.Array]:
    """Test images, and several predictions of their lower halves from the upper ones."""
    key_rows, key_predict = jax.random.split(key)
    originals = jax.random.choice(key_rows, images, (10,), replace=False)
    keys = jax.random.split(key_predict, (6, 10))

    def predict(key, image):
        logits = objectives.structured_sample(model, params, key, image[:half])
        return jnp.concatenate([image[:half], jax.nn.sigmoid(logits)])

    predictions = jax.vmap(jax.vmap(predict), (0, None))(keys, originals)
    return {"originals": originals, "completions": predictions}


def _labelled(config: ConfigDict, split: data.Split) -> tuple[np.ndarray, np.ndarray]:
    """Positions and labels of the labelled images."""
    labels = config.labels
    return data.labelled_subset(split.labels, labels.number, config.model.num_classes, labels.seed)


def _semisupervised(config: ConfigDict, images: _Images, initial: Hyperparams) -> _Model:
    """An example is an unlabelled image; the labelled ones are the rest of a step's loss."""
    num_classes = config.model.num_classes
    model = models.SemiSupervisedVAE(
        num_pixels=images.mean.size,
        num_classes=num_classes,
        style_size=config.model.style_size,
        output_bias=_output_bias(config, images.mean),
    )
    mean = jnp.asarray(images.mean, jnp.float32)
    parts = _learned_parts(config, images.mean.size, initial)
    train, held_out = images.train.train, images.held_out
    chosen, labels = _labelled(config, train)
    labelled_images = jnp.asarray(train.images[chosen])
    labelled_classes = jax.nn.one_hot(labels, num_classes)[:, None]
    augments = any(value for _, value in config.augmentation.items())
    agrees = config.consistency.weight > 0
    side = round(images.mean.size**0.5)
    valid, test = (
        {"image": split.images, "label": split.labels} for split in (held_out.valid, held_out.test)
    )

    def augment(key, stored):
        if not augments:
            return images.prepare(key, stored)
        key_affine, key_image = jax.random.split(key)
        square = stored.reshape(side, side).astype(jnp.float32)
        changed = augmentation.random_affine(key_affine, square, **config.augmentation)
        return images.prepare(key_image, changed.reshape(-1))

    def prepare(key, stored):
        keys = jax.random.split(key)
        example = {"image": images.prepare(keys[0], stored)}
        return example | ({"augmented": augment(keys[1], stored)} if agrees else {})

    def to_float(stored):
        return stored | {"image": images.to_float(stored["image"])}

    def init(key):
        return model.init(key, mean)["params"], parts.init(jax.random.fold_in(key, 1))

    def loss(params, learned, key, example, hyperparams):
        x = example["image"]
        estimator, hyperparams = parts.attach(learned, x - mean, hyperparams)
        bound = objectives.semisupervised_unlabelled_loss(
            model, params, key, x, estimator, hyperparams
        )
        if not agrees:
            return bound
        return bound + config.consistency.weight * objectives.semisupervised_consistency_loss(
            model, params, x, example["augmented"], config.consistency.threshold
        )

    def of_labelled(params, key, stored, y):
        """Of one labelled image."""
        key_image, key_augmented, key_style = jax.random.split(key, 3)
        x = seen = images.prepare(key_image, stored)
        if augments:
            seen = augment(key_augmented, stored)
        loss = config.alpha * objectives.semisupervised_classification_loss(model, params, seen, y)
        if config.labels.weight == 0:  # then it need not be computed
            return loss
        bound = objectives.semisupervised_labelled_loss(model, params, key_style, x, y)
        return loss + config.labels.weight * bound

    def other_loss(params, key):
        size = config.labels.batch_size or len(chosen)
        key_rows, key_loss = jax.random.split(key)
        rows = jax.random.choice(key_rows, len(chosen), (size,), replace=False)
        losses = jax.vmap(of_labelled, (None, 0, 0, 0))(
            params, jax.random.split(key_loss, size), labelled_images[rows], labelled_classes[rows]
        )
        return jnp.mean(losses)

    def measures(params, key, example):
        probabilities = objectives.semisupervised_classify(model, params, example["image"])
        return {"accuracy": (jnp.argmax(probabilities) == example["label"]).astype(jnp.float32)}

    def test_measures(params, key, example):
        bound = objectives.semisupervised_marginal_bound(model, params, key, example["image"])
        return measures(params, key, example) | {"marginal_nll": -bound}

    return _Model(
        examples=_Examples(train.images, valid, test, prepare, to_float),
        init=init,
        loss=loss,
        learned_optimizer=parts.optimizer,
        log_weight=lambda params, key, example: objectives.semisupervised_log_weight(
            model, params, key, example["image"]
        ),
        measures=measures,
        pictures=functools.partial(_semisupervised_pictures, model),
        classify=functools.partial(objectives.semisupervised_classify, model),
        other_loss=other_loss,
        test_measures=test_measures,
    )


def _semisupervised_pictures(model, params, key, examples) -> dict[str, jax.Array]:
    """Images of all classes (columns) in a few styles (rows), drawn from the prior of z."""
    styles = jax.random.normal(key, (6, model.style_size))
    classes = jnp.eye(model.num_classes)[:, None]
    draw = functools.partial(objectives.semisupervised_generate, model, params)
    return {"analogies": jax.vmap(jax.vmap(draw, (0, None)), (None, 0))(classes, styles)}


_MODELS = {"vae": _vae, "sbn": _sbn, "semisupervised": _semisupervised}
TASKS = tuple(_MODELS)


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """The direction of a step, before the learning rate."""
    own = optax.scale_by_adam() if config.name == "adam" else optax.trace(config.momentum)
    if not config.weight_decay:
        return own
    return optax.chain(own, optax.add_decayed_weights(config.weight_decay, _kernels))


def _kernels(params):
    """Which parameters decay: those of maps, not biases, nor the logits of a prior."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _measures(measures, to_float, params, stored):
    """Of each example, with noise of its own that is the same whenever it is measured."""

    def of_one(key, example):
        return measures(params, key, to_float(example))

    return evaluation.map_examples(of_one, jax.random.key(0), stored, at_once=100)


def _bounds(log_weight, to_float, params, key, images, first, num_samples):
    samples = min(num_samples, evaluation.SAMPLES_AT_ONCE)
    rows = _ROWS_AT_ONCE.get(jax.default_backend(), _ROWS_AT_ONCE_ELSEWHERE)

    def bound(key, image):
        x = to_float(image)
        return evaluation.multi_sample_bound(
            lambda key: log_weight(params, key, x), key, num_samples
        )

    return evaluation.map_examples(bound, key, images, max(1, rows // samples), first)
