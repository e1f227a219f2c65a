"""Tasks. Each is one module: networks, loss, metrics, pictures and the fields of its config.

A task is a module with three functions (docs/extending.md):

* ``default_config(dataset)``: its fields with their defaults;
* ``check(config, checks)``: raises ConfigError for values that it cannot serve;
* ``build(config, dataset)``: the :class:`experiments.tasks.base.Task`.

It may have a fourth: ``functions(config, **constants)`` gives the functions of a trained model by
name, each an :class:`experiments.tasks.base.Function`, without the dataset; the constants are those
of the :class:`Task`. ``encode``, ``decode``, ``sample`` and ``classify`` have a meaning
(:class:`experiments.running.trained.Trained`); a task has those of them that its model allows.

``config.task`` names a module of this package, or any importable module.
"""

import importlib
from pathlib import Path
from typing import Any

from experiments.tasks.checks import ConfigError


def names() -> list[str]:
    """Tasks of this package."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [file.stem for file in files if "\ndef build(" in file.read_text()]


def find(name: str) -> Any:
    """The module of a task.

    Raises:
      ConfigError: there is no such module, or it is not a task.
    """
    own = name in names()
    try:
        module = importlib.import_module(f"{__name__}.{name}" if own else name)
    except (ImportError, ValueError, TypeError) as error:
        raise ConfigError(
            f"config.task must be one of {', '.join(names())}, or an importable module; got "
            f"{name!r} ({error})"
        ) from None
    missing = [f for f in ("default_config", "check", "build") if not hasattr(module, f)]
    if missing:
        raise ConfigError(f"config.task: the module {name} has no function {missing[0]}")
    return module
