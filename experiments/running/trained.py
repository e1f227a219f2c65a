"""Trained models in use, from the folder of a run or from a published one.

A published model is a folder with ``run.json``, what ``scripts.collect`` keeps of a run, and
``model.safetensors``: the parameters that its functions read, and what they know of the dataset.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util
from jax import random
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from experiments import tasks
from experiments.running import config as configuration
from experiments.running import loop
from experiments.storage import records
from experiments.storage.errors import RecordError
from experiments.storage.files import read_json
from experiments.tasks.base import Function, Params
from experiments.tasks.checks import ConfigError, fields

FILE = "model.safetensors"
"""Parameters of a published model: ``params/...`` and ``constants/...``, and in the metadata the
names of the functions that they serve."""


class Trained:
    """A trained model, from :func:`experiments.load`.

    Attributes:
      config: the configuration of the run.
      params: the parameters that the run kept, ``{"model": ..., "estimator": ...}``; of a published
        model those that its functions read.
      constants: what the networks know of the dataset: ``mean_image [h, w]``.
      functions: the functions that the model has, by name, each for one example
        (:class:`experiments.tasks.base.Function`). They are pure functions of the parameters, to be
        differentiated or fine-tuned.

    The methods below add leading axes. Each raises ConfigError if the model has no such function,
    and ValueError for an input of another shape.
    """

    def __init__(
        self,
        folder: Path,
        config: ConfigDict,
        params: Params,
        constants: Mapping[str, np.ndarray],
        names: Sequence[str] | None = None,
    ):
        self.config, self.params, self.constants = config, params, constants
        make = getattr(tasks.find(config.task), "functions", None)
        functions: dict[str, Function] = make(config, **constants) if make else {}
        self.functions = {n: f for n, f in functions.items() if names is None or n in names}
        self._folder = folder
        self._mapped: dict[tuple[str, int], Callable[..., Any]] = {}

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images.

        Raises:
          ConfigError: the model is not one of images.
        """
        if "mean_image" not in self.constants:
            raise ConfigError(f"{self._folder}: the task {self.config.task} has no images")
        height, width = self.constants["mean_image"].shape
        return height, width

    def encode(self, x: Float[Array, "... i"]) -> Any:
        """Parameters of the distribution of the latents given images.

        Args:
          x: pixels ``[..., d]`` in [0, 1], binary as in training; of a structured network the upper
            halves ``[..., i]``.

        Returns:
          Logits ``[..., n, k]``, of a structured network those of the first layer. Of a
          semi-supervised model a dict: "class", logits ``[..., 1, k]``, and "style", the mean
          ``[..., s]`` of the Gaussian given the likeliest class.
        """
        return self._map("encode", x)

    def decode(self, z: Any) -> Float[Array, "... o"]:
        """Pixel probabilities ``[..., d]`` given latents.

        Args:
          z: samples ``[..., n, k]``, one-hot or relaxed; of a structured network those of the last
            layer, which gives the lower halves ``[..., o]``. Of a semi-supervised model a dict:
            "class", one-hot ``[..., 1, k]``, and "style" ``[..., s]``.
        """
        return self._map("decode", z)

    def classify(self, x: Float[Array, "... d"]) -> Float[Array, "... k"]:
        """Class probabilities ``[..., k]`` of images ``[..., d]``, binary as in training."""
        return self._map("classify", x)

    def sample(
        self, key: Key[Array, ""], n: int = 1, x: Float[Array, " i"] | None = None
    ) -> Float[Array, "n o"]:
        """Pixel probabilities ``[n, d]`` of images drawn from the model.

        Args:
          key: random key.
          n: number of samples.
          x: what is given: of a structured network the upper half ``[i]`` of an image, whose lower
            half ``[o]`` is then drawn; of other models nothing.
        """
        given = self.function("sample").inputs[1:]
        inputs = () if x is None else (jnp.asarray(x, jnp.float32),)
        if [of.shape for of in inputs] != [of.shape for of in given]:
            takes = f"sample(key, n, x) with x of shape {given[0].shape}" if given else ""
            got = f"; got x of shape {inputs[0].shape}" if inputs else ""
            raise ValueError(f"{self._folder}: this model takes {takes or 'sample(key, n)'}{got}")
        return self._over_axes("sample", 1)(self.params, random.split(key, n), *inputs)

    def function(self, name: str) -> Function:
        """A function of the model by its name.

        Raises:
          ConfigError: it has no such function.
        """
        if name not in self.functions:
            has = ", ".join(self.functions) or "no function"
            raise ConfigError(
                f"{self._folder}: this model of the task {self.config.task} has no function "
                f"{name}; it has {has}"
            )
        return self.functions[name]

    def _map(self, name: str, value: Any) -> Any:
        value, axes = self._checked(name, self.function(name).inputs[0], value)
        return self._over_axes(name, axes)(self.params, value)

    def _checked(self, name: str, expected: Any, value: Any) -> tuple[Any, int]:
        """An input as arrays, and the number of its leading axes."""
        leading: set[tuple[int, ...]] = set()

        def array(of, x):
            x = jnp.asarray(x, of.dtype)
            if x.shape[-of.ndim :] != of.shape:
                raise ValueError
            leading.add(x.shape[: -of.ndim])
            return x

        try:
            value = jax.tree.map(array, expected, value)
            (axes,) = leading
        except (TypeError, ValueError):
            raise ValueError(
                f"{self._folder}: {name} takes arrays of shape {_shapes(expected)}; got "
                f"{jax.tree.map(np.shape, value)}"
            ) from None
        return value, len(axes)

    def _over_axes(self, name: str, axes: int) -> Callable[..., Any]:
        """A function over leading axes of its first input, compiled once."""
        if (name, axes) not in self._mapped:
            function = self.function(name)
            call = function.call
            for _ in range(axes):
                call = jax.vmap(call, (None, 0, *[None] * (len(function.inputs) - 1)))
            self._mapped[name, axes] = jax.jit(call)
        return self._mapped[name, axes]


def _shapes(expected: Any) -> Any:
    """The shapes of an input, for messages."""
    return jax.tree.map(lambda of: f"[..., {', '.join(map(str, of.shape))}]", expected)


def load(folder: Path) -> Trained:
    """The trained model of a folder, which stays as it is (:func:`experiments.load`)."""
    if not (folder / FILE).is_file():
        experiment, params = loop.trained(folder)
        return Trained(folder, experiment.config, params, experiment.task.constants)
    about = read_json(folder / "run.json")
    records.check(about, {"config": "an object"}, str(folder / "run.json"))
    records.check_config(about["config"], f"{folder / 'run.json'}, config")
    task, values = tasks.find(about["config"]["task"]), about["config"]
    # A field that is younger than the model has its default.
    defaults = dict(fields(task.default_config(values.get("data.name", ""))))
    config = configuration.from_fields(defaults | values)
    try:
        with safetensors.safe_open(folder / FILE, "numpy") as file:
            functions, names = file.metadata()["functions"].split(), file.keys()
            flat = {tuple(name.split("/")): file.get_tensor(name) for name in names}
        tree = traverse_util.unflatten_dict(flat)
        params, constants = jax.tree.map(jnp.asarray, tree["params"]), tree.get("constants", {})
    except (safetensors.SafetensorError, OSError, TypeError, KeyError) as error:
        raise RecordError(f"{folder / FILE} is damaged: {error}") from None
    return Trained(folder, config, params, constants, functions)


def save(model: Trained, path: Path, names: Sequence[str] = ()) -> None:
    """Write what functions of a model read, as safetensors.

    Args:
      model: the model.
      path: the file.
      names: its functions; none: all.

    Raises:
      ConfigError: it has no such function.
    """
    names = names or list(model.functions)
    leaves = [
        (jax.tree_util.keystr(where, simple=True, separator="/"), leaf)
        for where, leaf in jax.tree.leaves_with_path(model.params)
    ]
    read: set[int] = set()
    for name in names:
        function = model.function(name)
        jaxpr = jax.make_jaxpr(function.call)(model.params, *function.inputs).jaxpr
        used = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
        read |= {i for i in range(len(leaves)) if id(jaxpr.invars[i]) in used}
    arrays = {f"params/{leaves[i][0]}": np.asarray(leaves[i][1]) for i in sorted(read)}
    arrays |= {f"constants/{name}": np.asarray(x) for name, x in model.constants.items()}
    safetensors.numpy.save_file(arrays, path, metadata={"functions": " ".join(names)})
