"""The command line of every command: ``--config``, its overrides, and errors in one line."""

import ast
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments.data import DataError
from experiments.running import config as configuration
from experiments.running import explain
from experiments.running.devices import PeerLost
from experiments.running.loop import Diverged, Interrupted
from experiments.running.terminal import loading, say
from experiments.storage.errors import RecordError, ReportError
from experiments.tasks.checks import ConfigError, fields, no_field

_LONGEST = 500
"""Characters of a message."""
ERRORS = (
    ConfigError, DataError, RecordError, ReportError, OSError, MemoryError,
    jax.errors.JaxRuntimeError,
)  # fmt: skip
"""What :func:`one_line_errors` may report in one line."""
_QUICK: dict[str, Any] = {}
"""Values of the flags of this command's ``--quick``."""


def define_config() -> flags.FlagHolder:
    """Define ``--config``. Without a default: a default would parse sys.argv at import."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, with its argument: configs/cat_vae.py:digits",
        lock_config=True,
    )
    flags.mark_flag_as_required("config")
    return holder


def define_quick(**values: Any) -> None:
    """Define ``--quick``, which sets other flags to these values where they are not given."""
    shown = " ".join(
        f"--{name}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in values.items()
    )
    flags.DEFINE_bool("quick", False, f"A first look, coarse and soon done: {shown}.")
    _QUICK.update(values)


def config_file() -> str:
    """The path given to ``--config``, without the argument after the colon."""
    return cast(Any, flags.FLAGS["config"]).config_filename


def run(main: Any) -> None:
    """Run a command: parse its flags, call ``main()``, and report errors in one line."""

    loading.close()

    def command(argv: Sequence[str]) -> None:
        del argv
        # Unless --verbosity asks for more: orbax logs 50 lines for a checkpoint and 300 for one
        # that fails, which is reported in one line here; jax warns of accelerators that are not
        # there.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)
        with one_line_errors():
            main()

    app.run(command, flags_parser=_parse)


def can_be_put_right(error: Exception) -> bool:
    """Whether a user can put one of :data:`ERRORS` right: of jax's only a full memory."""
    is_of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    return not is_of_jax or "RESOURCE_EXHAUSTED" in str(error)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line for every error that a user can put right."""
    try:
        yield
    except PeerLost as error:
        say(f"stopped: {error}")
        sys.stdout.flush()
        os._exit(1)  # else jax would wait for the processes that have ended
    except ERRORS as error:
        if not can_be_put_right(error):
            raise
        # Orbax leaves coroutines open over a damaged checkpoint, reported in 300 lines at exit.
        sys.unraisablehook = lambda _: None
        sys.exit(f"error: {told(error)}")
    except Diverged as error:
        sys.exit(f"stopped: {error}")
    except Interrupted as message:
        say(str(message))
        sys.exit(130)
    except KeyboardInterrupt:
        say("stopped at once; the same command resumes from the last checkpoint")
        sys.exit(130)


def _parse(argv: Sequence[str]) -> list[str]:
    """Parse the command line; exits with one line on a mistake."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec else Path(argv[0]).name
    try:
        takes_config = "config" in flags.FLAGS and isinstance(
            flags.FLAGS["config"], config_flags.config_flags._ConfigFlag
        )
        if takes_config:
            # For --help, which shows the flags of the main module.
            flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS["config"])
            argv = _joined(argv)
        named = [arg.partition("=")[2] for arg in argv if re.match("--?config=.", arg)]
        if "quick" in flags.FLAGS:
            flags.FLAGS.register_key_flag_for_module(argv[0], flags.FLAGS["quick"])
        text = explain.answer(argv, *named[-1:])
        if text is None:
            if takes_config and "--helpfull" not in argv:
                _check_overrides(argv)
            rest = flags.FLAGS(list(argv))
            if "quick" in flags.FLAGS and flags.FLAGS["quick"].value:
                for name, value in _QUICK.items():
                    several = isinstance(value, tuple)
                    flags.FLAGS.set_default(name, list(value) if several else value)
            if rest[1:]:
                raise ConfigError(f"unexpected argument {rest[1]!r}; options start with --")
            return rest
    except Exception as error:  # absl and ml_collections raise many kinds, some with long texts
        sys.exit(f"{program}: error: {_one_line(error)}")
    explain.print_and_exit(text)


def told(error: Exception) -> str:
    """An error in one line, with what to do about a full memory."""
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
        return (
            f"the memory is full ({_one_line(error)[:200]}). What was saved is kept; lower "
            "config.batch_size, config.evaluation.* or the sizes in config.model, or --together "
            "of a sweep"
        )
    return _one_line(error)


def _one_line(error: Exception) -> str:
    """What was given may be long: the beginning names it, the end says what was expected."""
    text = " ".join(str(error).split())
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


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

    ml_collections finds the same errors, but reports them in fifty lines of traceback.
    """
    options = [argument.lstrip("-").partition("=") for argument in argv if argument.startswith("-")]
    named = [value for name, _, value in options if name == "config"]
    if not any(named):
        written = [name.partition(".")[0] for name, _, _ in options if name]
        known_flags = {*flags.FLAGS, *(f"no{name}" for name in flags.FLAGS)}
        unknown = "".join(f"no flag --{name}; " for name in written if name not in known_flags)
        raise ConfigError(
            f"{unknown}name the experiment: --config=configs/cat_vae.py:digits, for example"
        )
    if len(named) > 1:
        raise ConfigError(f"--config is given more than once: {', '.join(named)}")
    first = next(name for name, _, _ in options if name.partition(".")[0] == "config")
    if first != "config":
        raise ConfigError(f"--{first} stands before --config={named[0]}; put it after")
    known = dict(fields(configuration.load(named[0])))
    groups = {name.rpartition(".")[0] for name in known} - {""}
    for option, equals, value in options:
        if not option.startswith(("config.", "noconfig.")):  # "no": false, in absl's short form
            continue
        name = option.partition(".")[2]
        if name in groups:
            members = ", ".join(field for field in known if field.startswith(f"{name}."))
            raise ConfigError(f"config.{name} is a group of fields: {members}")
        if name not in known:
            raise no_field(name, known)
        if (equals or type(known[name]) is not bool) and type(known[name]) is not tuple:
            literal(name, known[name], value)


def literal(name: str, default: Any, text: str) -> Any:
    """The value of a field as it stands on a command line, of the type of the field's default.

    Raises:
      ConfigError: it does not read as that type.
    """
    kind = type(default)
    expected = {
        bool: "true or false", int: "a whole number", float: "a number",
        tuple: "a tuple, such as (512,256)",
    }  # fmt: skip
    try:
        if kind is bool:
            return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[
                text.lower()
            ]
        if kind is tuple:
            value = ast.literal_eval(text)
            return value if isinstance(value, tuple) else (value,)
        return kind(text)
    except (KeyError, ValueError, SyntaxError):
        raise ConfigError(f"config.{name} must be {expected[kind]}; got {text!r}") from None


def grid(texts: Sequence[str], config: ConfigDict) -> dict[str, list[Any]]:
    """The axes of a grid as they stand on a command line, ``FIELD=VALUE,VALUE``.

    A comma within brackets is part of a value.

    Raises:
      ConfigError: no such field, or a value that is not of its type.
    """
    known = dict(fields(config))
    axes: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if name not in known:
            raise no_field(name, known)
        if not equals or not values or name in axes:
            raise ConfigError(f"--grid takes each field once, as FIELD=VALUE,VALUE; got {text!r}")
        parts = re.split(r",(?![^(]*\))", values)
        axes[name] = [literal(name, known[name], part.strip()) for part in parts]
    return axes


def numbers(
    flag: flags.FlagHolder, kind: type, low: float, least: int = 0, increasing: bool = True
) -> list:
    """The values of a list flag as numbers.

    Args:
      flag: of a list.
      kind: int or float.
      low: smallest value.
      least: smallest number of values.
      increasing: whether they must be in increasing order.

    Raises:
      ConfigError: they are not.
    """
    try:
        values = [kind(text) for text in flag.value]
    except ValueError:
        values = []
        least = max(least, 1)
    valid = all(low <= x < float("inf") for x in values)
    valid &= not increasing or values == sorted(set(values))
    if not valid or len(values) < least:
        number = f"{least} or more " if least else ""
        order = "increasing " if increasing else ""
        what = f"whole numbers, {low:g} or more" if kind is int else "positive numbers"
        given = ",".join(flag.value)
        raise ConfigError(f"--{flag.name} must be {number}{order}{what}; got {given!r}")
    return values
