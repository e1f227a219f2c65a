"""The points of a Bayesian search (Optuna's TPE): proposed in batches, told what validation says.

The proposals follow from the seed and from the earlier results alone, so the same command proposes
the same points again, finds the finished ones in their folders, and goes on.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.running import command_line
from experiments.running.terminal import say, waiting
from experiments.sweeping import points
from experiments.sweeping.points import Point
from experiments.tasks.checks import ConfigError, fields, no_field

_DIGITS = 4  # significant, of a proposed number

Space = dict[str, Callable[[Any], Any]]
"""For each field a function that takes a proposal from one of Optuna's trials."""


def space(texts: Sequence[str], config: ConfigDict) -> Space:
    """The fields to search as they stand on a command line.

    ``FIELD=LOW:HIGH`` and ``FIELD=LOW:HIGH:log`` are intervals, ``FIELD=VALUE,VALUE`` choices.

    Raises:
      ConfigError: no such field, or values that are not of its type or not in order.
    """
    known = dict(fields(config))
    found: Space = {}
    for text in texts:
        name, _, values = text.partition("=")
        if name in found:
            raise ConfigError(f"--search takes each field once; got {name} again: {text!r}")
        if ":" not in values:
            (choices,) = command_line.grid([text], config).values()
            found[name] = _choice(name, choices)
            continue
        if name not in known:
            raise no_field(name, known)
        low, high, *scale = values.split(":")
        of_type = [command_line.literal(name, known[name], one) for one in (low, high)]
        numeric = type(known[name]) in (int, float)
        ordered = -math.inf < of_type[0] < of_type[1] < math.inf if numeric else False
        if not ordered or scale not in ([], ["log"]):
            raise ConfigError(
                f"--search takes a number as FIELD=LOW:HIGH or FIELD=LOW:HIGH:log, LOW below HIGH, "
                f"both finite; got {text!r}"
            )
        if scale and of_type[0] <= 0:
            raise ConfigError(f"--search on a logarithmic scale needs LOW above 0; got {text!r}")
        found[name] = _interval(name, type(known[name]), of_type[0], of_type[1], bool(scale))
    return found


def _choice(name: str, choices: list[Any]) -> Callable[[Any], Any]:
    return lambda trial: trial.suggest_categorical(name, choices)


def _interval(name: str, kind: type, low: Any, high: Any, log: bool) -> Callable[[Any], Any]:
    if kind is int:
        return lambda trial: trial.suggest_int(name, low, high, log=log)

    def take(trial: Any) -> float:
        rounded = float(f"{trial.suggest_float(name, low, high, log=log):.{_DIGITS}g}")
        return min(high, max(low, rounded))

    return take


def propose(
    space: Space,
    base: dict[str, Any],
    trials: int,
    at_once: int,
    costs: Callable[[list[Point]], list[float | None]],
) -> Iterator[Point]:
    """The points of a search, each once.

    Args:
      space: from :func:`space`.
      base: overrides of every point, with the "config" file.
      trials: number of proposals.
      at_once: proposals in a batch, none of which knows the results of the others.
      costs: trains a batch; what is minimised for each, None where it failed.

    Raises:
      ConfigError: Optuna is not installed, or all proposals of a search are invalid.
    """
    try:
        with waiting("loading Optuna"):
            import optuna
    except ImportError:
        raise ConfigError("--search needs Optuna, the extra search: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=0, constant_liar=at_once > 1)
    study = optuna.create_study(sampler=sampler)
    seen = set()
    invalid = ConfigError("no proposals")
    for first in range(0, trials, at_once):
        asked = [study.ask() for _ in range(min(at_once, trials - first))]
        valid, batch = [], []
        for trial in asked:
            try:
                values = {name: take(trial) for name, take in space.items()}
                batch.append(points.resolve(base | values))
                valid.append(trial)
            except ConfigError as error:  # such as a floor above the initial temperature
                say(f"not trained: {error}")
                invalid = error
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        for trial, cost in zip(valid, costs(batch), strict=True):
            if cost is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, cost)
        for point in batch:
            if point.hash not in seen:
                seen.add(point.hash)
                yield point
    if not seen:
        raise invalid
