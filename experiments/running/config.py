"""Configurations: loaded from a file, checked, identified. Every error is one line."""

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from experiments import tasks
from experiments.running import explain
from experiments.running.training import OPTIMIZERS
from experiments.storage import records
from experiments.tasks import base
from experiments.tasks.checks import Checks, ConfigError, fields
from gsm import learned
from gsm.registry import ESTIMATORS


def load(named: str) -> ConfigDict:
    """Call ``get_config`` of ``FILE`` or ``FILE:ARGUMENT``; raises ConfigError."""
    path, _, argument = named.partition(":")
    if not (Path(path).is_file() and path.endswith(".py")):
        found = [str(file) for file in explain.config_files()]
        hint = f"configs here: {', '.join(found)}" if found else "run from the repository's root"
        raise ConfigError(f"no config file {path!r}; {hint}")
    config = call(load_module(path), "get_config", argument)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config of {path} must return a ConfigDict; got {config!r}")
    return config


def load_module(path: str) -> ModuleType:
    """Run a Python file of the user's; raises ConfigError, in one line, what it raises."""
    spec = importlib.util.spec_from_file_location("_of_the_user", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with errors_of(path):
        spec.loader.exec_module(module)
    return module


def call(module: ModuleType, name: str, argument: str) -> Any:
    """Call a function of a loaded file, with an argument if there is one; raises ConfigError."""
    path = module.__file__
    function = getattr(module, name, None)
    if function is None:
        raise ConfigError(f"{path} has no function {name}(argument)")
    with errors_of(path):
        return function(*[argument] if argument else [])


@contextlib.contextmanager
def errors_of(path: str | None) -> Iterator[None]:
    """What a file of the user's raises becomes a ConfigError, in one line."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # it is the user's code
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} raises {type(error).__name__}: {reason}") from error


def check(config: ConfigDict) -> ConfigDict:
    """The config with references resolved, once every field is known to be valid.

    An alias of an estimator becomes its name, so that the same run has one identity.

    Raises:
      ConfigError: a value out of range, or two choices that exclude each other.
    """
    config = config.copy_and_resolve_references()
    for name, entry in ESTIMATORS.items():
        if config.get("estimator") in entry.aliases:
            config.estimator = name
    checks = Checks(config)
    checks.require("task", isinstance(config.get("task"), str), "the name of a task")
    task = tasks.find(config.task)
    checks.types(task.default_config(checks.values.get("data.name", "")))

    checks.one_of("estimator", tuple(ESTIMATORS))
    checks.one_of("signal.baseline", learned.BASELINES)
    checks.one_of("optimizer.name", OPTIMIZERS)
    checks.one_of("keep", ("last", "best"))
    checks.whole(
        1, "num_steps", "eval_every", "log_every", "batch_size", "num_estimates",
        "temperature.update_every",
    )  # fmt: skip
    checks.whole(0, "seed", high=2**32 - 1)
    checks.whole(0, "mesh.data")
    checks.sizes("learned.hidden_sizes")
    checks.positive(
        "optimizer.learning_rate", "temperature.initial", "temperature.floor",
        "temperature.backward", "slope.initial", "slope.cap", "learned.learning_rate",
    )  # fmt: skip
    checks.not_negative("temperature.rate", "slope.rate", "optimizer.weight_decay")
    checks.below_one("optimizer.momentum", "signal.decay")
    checks.share("optimizer.final_share")
    for name in ("signal.constant", "control.eta"):
        checks.require(name, abs(checks.values[name]) < float("inf"), "finite")
    base.hyperparams(config)  # raises for schedules
    task.check(config, checks)
    checks.floats()
    # Else the first value would be another one than the config says.
    if config.temperature.schedule == "exponential":
        initial = config.temperature.initial
        at_most = f"at most config.temperature.initial, {initial:g}"
        checks.require("temperature.floor", config.temperature.floor <= initial, at_most)
    if config.slope.schedule == "linear":
        at_least = f"at least config.slope.initial, {config.slope.initial:g}"
        checks.require("slope.cap", config.slope.cap >= config.slope.initial, at_least)
    return config


def from_fields(values: Mapping[str, Any]) -> ConfigDict:
    """The checked config of a run from its flat fields, as they stand in its config.json."""
    config = ConfigDict()
    values = _with_added(values)
    for name, value in values.items():
        *groups, field = name.split(".")
        group = config
        for part in groups:
            if part not in group:
                group[part] = ConfigDict()
            group = group[part]
            if not isinstance(group, ConfigDict):
                raise ConfigError(f"config.{name}: {part!r} is a value, not a group of fields")
        if isinstance(value, dict):
            raise ConfigError(f"config.{name} must not be an object; got {value!r}")
        if isinstance(group.get(field), ConfigDict):
            raise ConfigError(f"config.{name} is a group of fields, not a value")
        group[field] = tuple(value) if isinstance(value, list) else value
    return check(config)


def _with_added(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run with those that its task has today and had not then."""
    task, dataset = values.get("task"), values.get("data.name", "")
    if not isinstance(task, str) or not isinstance(dataset, str):
        return dict(values)  # refused by check
    default = dict(fields(tasks.find(task).default_config(dataset)))
    added = {name: value for name, value in records.ADDED.items() if name in default}
    return {**added, **values}


def identity(config: ConfigDict) -> dict[str, Any]:
    """The fields that determine a run's numbers, in order of name."""
    return records.identity(dict(fields(config)))


def config_hash(config: ConfigDict) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the config's identity."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
