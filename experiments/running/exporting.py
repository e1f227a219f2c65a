"""Functions of a trained model as StableHLO files, which jax alone can run."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from experiments.running.trained import Trained
from experiments.storage import records
from experiments.storage.files import write_json
from experiments.storage.provenance import portable, provenance
from experiments.tasks.base import KEY, Function
from experiments.tasks.checks import ConfigError, fields

PLATFORMS = ("cpu", "cuda", "tpu")


def exported(function: Function, params: Any) -> jax.export.Exported:
    """A function of one input over batches ``[b, ...]``, the parameters inside."""
    batch = jax.export.symbolic_shape("b")
    (one,) = function.inputs
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype), one)
    over_batch = jax.jit(jax.vmap(functools.partial(function.call, params)))
    return jax.export.export(over_batch, platforms=PLATFORMS)(many)


def export(model: Trained, folder: Path) -> list[Path]:
    """Write the functions of a model that draw nothing, and ``export.json``.

    Raises:
      ConfigError: there are none, or a file does not compute what the model does.
    """
    functions = {n: f for n, f in model.functions.items() if KEY not in f.inputs}
    if not functions:
        raise ConfigError(f"a model of the task {model.config.task} has no function to export")
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {}
    for name, function in functions.items():
        path = folder / f"{name}.bin"
        content = exported(function, model.params)
        path.write_bytes(content.serialize())
        about[name] = {
            "inputs": [str(x) for x in content.in_avals],
            "outputs": [str(x) for x in content.out_avals],
        }
        _compare(path, function, model.params)
    write_json(
        folder / "export.json",
        {
            "platforms": PLATFORMS,
            "functions": about,
            "config": {n: v for n, v in fields(model.config) if n not in records.PLACES},
            "provenance": portable(provenance()),
        },
    )
    return [folder / f"{name}.bin" for name in functions]


def _compare(path: Path, function: Function, params: Any) -> None:
    """Raise ConfigError unless a file computes what the function does, but for rounding."""
    draw = np.random.default_rng(0)
    x = jax.tree.map(
        lambda one: jnp.asarray(draw.random((3, *one.shape)), one.dtype), function.inputs[0]
    )
    expected = jax.jit(jax.vmap(function.call, (None, 0)))(params, x)
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(x)
    close = functools.partial(np.allclose, rtol=1e-4, atol=1e-5)
    if not jax.tree.all(jax.tree.map(close, found, expected)):
        raise ConfigError(f"{path} does not compute what the model does")
