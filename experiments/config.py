"""From the command line to a checked config; whatever is wrong is told in one line."""

import contextlib
import difflib
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs import defaults
from experiments import tasks
from gsm import data, learned, objectives
from gsm.estimators import BERNOULLI_ONLY, ESTIMATORS, MAX_OUTCOMES, RELAXED
from gsm.evaluation import SAMPLES_AT_ONCE
from gsm.models import PRIORS, UNITS

# Fields that say where things are, not what is computed.
_PLACES = ("data.dir",)

# The normal numbers of float32.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


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
        argv = _joined(argv)
        _check_overrides(argv)
        rest = flags.FLAGS(argv)
        if rest[1:]:
            raise ConfigError(f"unexpected argument {rest[1]!r}; options start with --")
        return rest
    except ConfigError as error:
        message = str(error)
    except Exception as error:  # absl and ml_collections raise many kinds, some with long texts
        message = " ".join(str(error).split())[:300]
    sys.exit(f"{program}: error: {message}")


def quieten_libraries() -> None:
    """Leave errors alone, unless ``--verbosity`` asks: orbax tells 50 lines a checkpoint, jax warns
    of accelerators that are not there."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)


def _joined(argv: Sequence[str]) -> list[str]:
    """``--config.field value`` as ``--config.field=value``, so that only one form is checked."""
    joined = [argv[0]]
    for argument in argv[1:]:
        is_option = re.match(r"--?[a-z]|--$", argument)
        if re.fullmatch(r"--?config[\w.]*", joined[-1]) and not is_option:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _check_overrides(argv: Sequence[str]) -> None:
    """Raise for a config that cannot be loaded and for overrides that name no field or no value.

    ml_collections finds the same, but tells it in fifty lines of traceback.
    """
    options = [argument.lstrip("-").partition("=") for argument in argv if argument.startswith("-")]
    named = [value for name, _, value in options if name == "config"]
    if not any(named):
        raise ConfigError("say which experiment: --config=configs/cat_vae.py:digits, for example")
    if len(named) > 1:
        raise ConfigError(f"--config is given more than once: {', '.join(named)}")
    first = next(name for name, _, _ in options if name.partition(".")[0] == "config")
    if first != "config":
        raise ConfigError(f"--{first} stands before --config={named[0]}; put it after")
    config = load(named[0])
    known = dict(fields(config))
    groups = {name.rpartition(".")[0] for name in known} - {""}
    for option, equals, value in options:
        if not option.startswith(("config.", "noconfig.")):  # "no": false, in absl's short form
            continue
        name = option.partition(".")[2]
        if name in groups:
            members = ", ".join(field for field in known if field.startswith(f"{name}."))
            raise ConfigError(f"config.{name} is a group of fields: {members}")
        if name not in known:
            tops = dict.fromkeys(re.sub(r"\..*", ".*", field) for field in known)
            near = [field for field in known if field.rpartition(".")[2] == name]
            near = near or difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"they are: {', '.join(tops)}"
            raise ConfigError(f"the config has no field {name!r}; {hint}")
        if equals or type(known[name]) is not bool:
            _check_literal(name, known[name], value)


def _check_literal(name: str, default: Any, text: str) -> None:
    """Raise if ``text`` does not read as the type of the field's default."""
    kind = type(default)
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "t", "f"):
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
    if not (Path(path).is_file() and path.endswith(".py")):
        files = sorted(Path("configs").glob("*.py"))
        found = [str(file) for file in files if "get_config" in file.read_text()]
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
    with _as_config_error(path):
        spec.loader.exec_module(module)
    return module


def call(module: ModuleType, name: str, argument: str) -> Any:
    """Call a function of a loaded file, with an argument if there is one; raises ConfigError."""
    path = module.__file__
    function = getattr(module, name, None)
    if function is None:
        raise ConfigError(f"{path} has no function {name}(argument)")
    with _as_config_error(path):
        return function(*[argument] if argument else [])


@contextlib.contextmanager
def _as_config_error(path: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # it is the user's code
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} raises {type(error).__name__}: {reason}") from error


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
    known = {"task": None, **dict(fields(config))}

    def require(name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"config.{name} must be {expected}; got {known[name]!r}")

    def require_one_of(name: str, choices: Sequence[str]) -> None:
        near = difflib.get_close_matches(str(known[name]), choices, 1, 0.6)
        nearest = f" (nearest: {near[0]})" if near else ""
        require(name, known[name] in choices, f"one of {', '.join(choices)}{nearest}")

    require_one_of("task", tuple(defaults.TASKS))
    task = config.task
    for name, default in fields(defaults.TASKS[task]("mnist")):
        if type(known.get(name)) is not type(default):
            raise ConfigError(
                f"config.{name} must be of type {type(default).__name__}, as in "
                f"configs/defaults.py; got {known.get(name)!r}"
            )

    for name, choices in {
        "estimator": tuple(ESTIMATORS),
        "objective": tasks.OBJECTIVES,
        "kl": objectives.KL_FORMS,
        "signal.baseline": learned.BASELINES,
        "keep": ("last", "best"),
        "data.name": tuple(data.DATASETS),
        "data.binarization": data.BINARIZATIONS,
        "model.prior": PRIORS,
        "model.units": UNITS,
        "optimizer.name": tasks.OPTIMIZERS,
    }.items():
        if name in known:  # not every task has all of them
            require_one_of(name, choices)

    if task == "semisupervised":
        require("alpha", 0 <= config.alpha < float("inf"), "0 or more and finite")
        require("model.num_latents", config.model.num_latents == 1, "1: the class")
        for name in ("labels.number", "model.style_size"):
            require(name, 1 <= known[name] < 2**31, "between 1 and 2^31 - 1")
        whole = 0 <= config.labels.batch_size <= config.labels.number
        require(
            "labels.batch_size", whole, f"between 0 (all) and the {config.labels.number} labels"
        )
        require("labels.weight", 0 <= config.labels.weight < float("inf"), "0 or more and finite")
        for name in ("shift", "rotation"):
            name = f"augmentation.{name}"
            require(name, 0 <= known[name] < float("inf"), "0 or more and finite")
        require(
            "consistency.weight", 0 <= config.consistency.weight < float("inf"),
            "0 or more and finite",
        )  # fmt: skip
        require("consistency.threshold", 0 <= config.consistency.threshold <= 1, "between 0 and 1")
        require("labels.seed", 0 <= config.labels.seed < 2**32, "between 0 and 2^32 - 1")
    if task == "sbn":
        require("model.num_layers", 1 <= config.model.num_layers <= 100, "between 1 and 100")
    for name in (
        "num_steps", "eval_every", "log_every", "batch_size", "model.num_latents",
        "temperature.update_every", "evaluation.valid_samples",
    ):  # fmt: skip
        require(name, 1 <= known[name] < 2**31, "between 1 and 2^31 - 1")
    for name in ("evaluation.test_samples", "evaluation.curve_images"):
        require(name, 0 <= known[name] < 2**31, "between 0 and 2^31 - 1")
    curve = config.evaluation.curve_images == 0 or config.evaluation.test_samples > 0
    require("evaluation.curve_images", curve, "0 where evaluation.test_samples is 0")
    require("seed", 0 <= known["seed"] < 2**32, "between 0 and 2^32 - 1")
    require("model.num_classes", config.model.num_classes >= 2, "at least 2 (2: Bernoulli units)")
    for name in {"model.hidden_sizes", "learned.hidden_sizes"} & set(known):
        whole = all(isinstance(size, int) and size >= 1 for size in known[name])
        require(name, whole, "positive whole numbers, such as 512,256, or ()")
    for name in (
        "optimizer.learning_rate", "temperature.initial", "temperature.floor",
        "temperature.backward", "slope.initial", "slope.cap", "learned.learning_rate",
    ):  # fmt: skip
        require(name, 0 < known[name] < float("inf"), "positive and finite")
    for name in ("temperature.rate", "slope.rate", "optimizer.weight_decay"):
        require(name, 0 <= known[name] < float("inf"), "0 or more and finite")
    below_one = {"optimizer.momentum", "signal.decay", "augmentation.scale", "augmentation.shear"}
    for name in below_one & set(known):
        in_float32 = float(np.float32(known[name]))
        require(name, 0 <= in_float32 < 1, "at least 0 and below 1 in float32")
    require("optimizer.final_share", 0 <= known["optimizer.final_share"] <= 1, "between 0 and 1")
    for name in ("signal.constant", "control.eta"):
        require(name, abs(known[name]) < float("inf"), "finite")
    for name in ("evaluation.valid_samples", "evaluation.test_samples"):
        streams = known[name] <= SAMPLES_AT_ONCE or known[name] % SAMPLES_AT_ONCE == 0
        require(name, streams, f"at most {SAMPLES_AT_ONCE:,}, or a multiple of it")
    # Programs compute in float32, of which CPUs take the subnormal numbers for 0.
    for name, value in known.items():
        normal = not isinstance(value, float) or value == 0 or _SMALLEST <= abs(value) <= _LARGEST
        require(name, normal, "representable in float32: 0, or about 1.2e-38 to 3.4e38 in size")

    objective = _check_vae(config) if task == "vae" else "elbo"
    several = objective != "elbo" or ESTIMATORS[config.estimator].num_samples is not None
    require("num_samples", 0 <= known["num_samples"] < 2**31, "0 (the default) or more")
    if known["num_samples"] and not several:
        averaging = [name for name, entry in ESTIMATORS.items() if entry.num_samples is not None]
        raise ConfigError(
            f"config.num_samples is for {', '.join(averaging)}, and for the objectives vimco and "
            f"iwae; {config.estimator} takes one sample"
        )
    if known["num_samples"] == 1 and (objective == "vimco" or config.estimator == "rloo"):
        raise ConfigError(
            f"config.num_samples must be at least 2 for "
            f"{config.estimator if objective == 'elbo' else objective}, whose samples are each "
            f"other's baselines; got 1"
        )
    if config.estimator in BERNOULLI_ONLY and config.model.num_classes != 2:
        raise ConfigError(
            f"config.estimator={config.estimator} needs two classes; config.model.num_classes is "
            f"{config.model.num_classes}. Try configs/bern_vae.py"
        )
    variables = config.model.num_latents * config.model.get("num_layers", 1)
    exponent = min(variables, MAX_OUTCOMES.bit_length())  # more is too many anyhow
    if config.estimator == "exact" and config.model.num_classes**exponent > MAX_OUTCOMES:
        raise ConfigError(
            f"config.estimator=exact enumerates num_classes ** num_latents outcomes (of all "
            f"layers), {MAX_OUTCOMES:,} at most; the model has {config.model.num_classes} ** "
            f"{variables}. Lower config.model.num_latents"
        )
    return config


def _check_vae(config: ConfigDict) -> str:
    """The objective, once it is known to go with the estimator and the form of the KL term."""
    hard = (
        name
        for name, entry in ESTIMATORS.items()
        if entry.is_sampler and not entry.relaxed and entry.num_samples is None
    )
    pairs = {"vimco": ("score_function",), "iwae": ("gumbel_softmax", *hard)}
    if config.estimator not in (needed := pairs.get(config.objective, (config.estimator,))):
        raise ConfigError(
            f"config.objective={config.objective} needs config.estimator={' or '.join(needed)}; "
            f"got {config.estimator}"
        )
    signalled = "variance" in ESTIMATORS[config.estimator].learned and config.objective == "elbo"
    if config.signal.normalize and signalled and config.kl == "analytic":
        raise ConfigError(
            "config.signal.normalize divides the distortion's gradient and leaves that of the "
            "analytic KL: another objective; use config.kl=sampled with it"
        )
    relaxed = config.estimator in RELAXED
    if config.kl == "relaxed_density" and config.estimator != "gumbel_softmax" and relaxed:
        raise ConfigError(
            f"config.kl=relaxed_density needs config.estimator=gumbel_softmax, whose density it "
            f"is; got {config.estimator}"
        )
    if config.kl.startswith("relaxed") and not relaxed:
        raise ConfigError(
            f"config.kl={config.kl} needs relaxed samples, and {config.estimator} has hard ones; "
            f"use analytic or sampled, or the estimator {', '.join(sorted(RELAXED, reverse=True))}"
        )
    if config.kl == "sampled" and relaxed:
        raise ConfigError(
            f"config.kl=sampled needs hard samples, and {config.estimator} has relaxed ones; use "
            f"analytic, relaxed_log_mass or relaxed_density"
        )
    return config.objective


def from_fields(values: Mapping[str, Any]) -> ConfigDict:
    """The checked config of a run from its flat fields, as they stand in its config.json."""
    config = defaults.TASKS[values["task"]](values["data.name"])
    known = dict(fields(config))
    config.update_from_flattened_dict(
        {
            name: tuple(value) if isinstance(known.get(name), tuple) else value
            for name, value in values.items()
        }
    )
    return check(config)


def identity(config: ConfigDict) -> dict[str, Any]:
    """The fields that determine a run's numbers, in order of name; places are left out."""
    return {name: value for name, value in sorted(fields(config)) if name not in _PLACES}


def identity_in_training(config: ConfigDict) -> dict[str, Any]:
    """The identity with what training sees of the schedules in place of their fields.

    It is equal of configs that train the same run: the temperature and the slope of each are the
    same at every step, or its estimator does not read them. They stand there as digests, computed
    in NumPy alone, since the process of a sweep leaves accelerators to its workers.
    """
    entry = ESTIMATORS[config.estimator]
    temperature, slope = config.temperature, config.slope
    seen = {
        name: value
        for name, value in identity(config).items()
        if not name.startswith(("temperature.", "slope."))
    }
    if "backward_temperature" in entry.reads:
        seen["temperature.backward"] = temperature.backward
    # As gsm.schedules, at the steps where a schedule is updated.
    updates = np.arange(0, config.num_steps, temperature.update_every)
    steps = updates.astype(np.float32)
    with np.errstate(over="ignore"):
        if "temperature" in entry.reads:
            decay = np.exp(-np.float32(temperature.rate) * steps)
            values = np.maximum(
                np.float32(temperature.floor), np.float32(temperature.initial) * decay
            )
            # Learned, it starts at the schedule's first value and leaves it.
            learned = "temperature" in entry.learned and config.control.learn
            seen["temperature"] = _digest(updates, values[:1] if learned else values)
        if "slope" in entry.reads:
            values = np.float32(slope.initial) + np.float32(slope.rate) * steps
            seen["slope"] = _digest(updates, np.minimum(np.float32(slope.cap), values))
    return seen


def _digest(updates: np.ndarray, values: np.ndarray) -> str:
    """Of a function of the step that has these values from the updates on: equal if it is."""
    changes = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    return hashlib.sha256(updates[changes].tobytes() + values[changes].tobytes()).hexdigest()


def config_hash(config: ConfigDict) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the config's identity."""
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
