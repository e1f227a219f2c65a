"""From the command line to a checked config; whatever is wrong is told in one line."""

import difflib
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import tasks
from gsm import data, objectives
from gsm.estimators import ESTIMATORS, MAX_OUTCOMES, RELAXED
from gsm.evaluation import SAMPLES_AT_ONCE
from gsm.models import PRIORS

# Fields that say where things are, not what is computed.
_PLACES = ("data.dir",)


class ConfigError(ValueError):
    """A wish that cannot be carried out; the message names the field and what it may hold."""


def define_flag() -> flags.FlagHolder:
    """Define ``--config``. Without a default: a default would parse sys.argv at import."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, with its argument: configs/cat_vae.py:digits",
        lock_config=True,
    )
    flags.mark_flag_as_required("config")
    return holder


def config_file() -> str:
    """The path given to ``--config``, without the argument after the colon."""
    return cast(Any, flags.FLAGS["config"]).config_filename


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line for ``absl.app.run``; exits with one line on a mistake."""
    program = f"python -m experiments.{Path(argv[0]).stem}"
    try:
        _check_overrides(argv)
        rest = flags.FLAGS(list(argv))
        if rest[1:]:
            raise ConfigError(f"unexpected argument {rest[1]!r}; options start with --")
        return rest
    except ConfigError as error:
        message = str(error)
    except Exception as error:  # absl and ml_collections raise many kinds, some with long texts
        message = " ".join(str(error).strip("\"'").split())[:300]
    sys.exit(f"{program}: error: {message}")


def _check_overrides(argv: Sequence[str]) -> None:
    """Raise for a config that cannot be loaded and for overrides that name no field or no value.

    ml_collections finds the same, but tells it in fifty lines of traceback.
    """
    options = [argument.lstrip("-").partition("=") for argument in argv if argument.startswith("-")]
    named = [value for name, _, value in options if name == "config" and value]
    if not named:
        if "--config" in argv or "-config" in argv:
            return  # the form `--config FILE`; left to absl
        raise ConfigError("say which experiment: --config=configs/cat_vae.py:digits, for example")
    config = load(named[0])
    known = dict(fields(config))
    groups = {name.rpartition(".")[0] for name in known} - {""}
    for option, _, value in options:
        if not option.startswith("config."):
            continue
        name = option.removeprefix("config.")
        if name in groups:
            members = ", ".join(field for field in known if field.startswith(f"{name}."))
            raise ConfigError(f"config.{name} is a group of fields: {members}")
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"they are: {', '.join(known)}"
            raise ConfigError(f"the config has no field {name!r}; {hint}")
        _check_literal(name, known[name], value)


def _check_literal(name: str, default: Any, text: str) -> None:
    """Raise if ``text`` does not read as the type of the field's default."""
    kind = type(default)
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "t", "f", ""):
            raise ConfigError(f"config.{name} must be true or false; got {text!r}")
    elif kind in (int, float):
        try:
            kind(text)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise ConfigError(f"config.{name} must be {expected}; got {text!r}") from None


def load(named: str) -> ConfigDict:
    """Call ``get_config`` of ``FILE`` or ``FILE:ARGUMENT``; raises ConfigError."""
    path, _, argument = named.partition(":")
    if not Path(path).is_file():
        files = sorted(Path("configs").glob("*.py"))
        found = [str(file) for file in files if "get_config" in file.read_text()]
        hint = f"configs here: {', '.join(found)}" if found else "run from the repository's root"
        raise ConfigError(f"no config file {path!r}; {hint}")
    spec = importlib.util.spec_from_file_location("_config", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no function get_config(argument)")
    return module.get_config(*[argument] if argument else [])


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all fields."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check(config: ConfigDict) -> ConfigDict:
    """The config with references resolved, once every field is known to be possible.

    Raises:
      ConfigError: a value out of range, or two choices that cannot be had together.
    """
    config = config.copy_and_resolve_references()
    known = dict(fields(config))

    def require(name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"config.{name} must be {expected}; got {known[name]!r}")

    for name, choices in {
        "task": ("vae",),
        "estimator": tuple(ESTIMATORS),
        "kl": objectives.KL_FORMS,
        "keep": ("last", "best"),
        "data.name": tuple(data.DATASETS),
        "data.binarization": data.BINARIZATIONS,
        "model.prior": PRIORS,
        "optimizer.name": tasks.OPTIMIZERS,
    }.items():
        near = difflib.get_close_matches(str(known[name]), choices, 1, 0.6)
        nearest = f" (nearest: {near[0]})" if near else ""
        require(name, known[name] in choices, f"one of {', '.join(choices)}{nearest}")

    for name in (
        "num_steps", "eval_every", "log_every", "batch_size", "model.num_latents",
        "temperature.update_every", "evaluation.valid_samples", "evaluation.test_samples",
    ):  # fmt: skip
        require(name, known[name] >= 1, "at least 1")
    require("seed", 0 <= known["seed"] < 2**32, "between 0 and 2^32 - 1")
    require("model.num_classes", config.model.num_classes >= 2, "at least 2 (2: Bernoulli units)")
    sizes = config.model.hidden_sizes
    whole = all(isinstance(size, int) and size >= 1 for size in sizes)
    require("model.hidden_sizes", whole, "positive whole numbers, such as 512,256")
    for name in ("optimizer.learning_rate", "temperature.initial", "temperature.floor"):
        require(name, 0 < known[name] < float("inf"), "positive")
    require("temperature.rate", 0 <= config.temperature.rate < float("inf"), "0 or more")
    require("optimizer.momentum", 0 <= config.optimizer.momentum < 1, "at least 0 and below 1")
    require("baseline", abs(config.baseline) < float("inf"), "finite")
    for name in ("evaluation.valid_samples", "evaluation.test_samples"):
        streams = known[name] <= SAMPLES_AT_ONCE or known[name] % SAMPLES_AT_ONCE == 0
        require(name, streams, f"at most {SAMPLES_AT_ONCE:,}, or a multiple of it")

    relaxed = config.estimator in RELAXED
    if config.kl.startswith("relaxed") and not relaxed:
        raise ConfigError(
            f"config.kl={config.kl} needs relaxed samples, and {config.estimator} has hard ones; "
            f"use analytic or sampled, or the estimator {', '.join(sorted(RELAXED))}"
        )
    if config.kl == "sampled" and relaxed:
        raise ConfigError(
            f"config.kl=sampled needs hard samples, and {config.estimator} has relaxed ones; use "
            f"analytic, relaxed_log_mass or relaxed_density"
        )
    outcomes = config.model.num_classes**config.model.num_latents
    if config.estimator == "exact" and outcomes > MAX_OUTCOMES:
        raise ConfigError(
            f"config.estimator=exact enumerates num_classes ** num_latents outcomes, "
            f"{MAX_OUTCOMES:,} at most; the model has {config.model.num_classes} ** "
            f"{config.model.num_latents}. Try --config.model.num_latents=3"
        )
    return config


def identity(config: ConfigDict) -> dict[str, Any]:
    """The fields that determine a run's numbers, in order of name; places are left out."""
    return {name: value for name, value in sorted(fields(config)) if name not in _PLACES}


def config_hash(config: ConfigDict) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the config's identity."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
