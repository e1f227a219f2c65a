"""The points of a sweep: from a sweep file to checked configs, and the choice by pilots."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs.sweeps import PerRun
from experiments.running import command_line, explain
from experiments.running import config as configuration
from experiments.tasks.base import traced_fields
from experiments.tasks.checks import ConfigError, fields, no_field
from gsm.registry import ESTIMATORS


class Point(NamedTuple):
    """One run of a sweep."""

    overrides: dict[str, Any]
    """The fields that the sweep file sets, with the "config" file."""
    config: ConfigDict
    """Resolved and checked."""
    hash: str
    """Of the config."""

    def field(self, name: str) -> Any:
        """A field of the config by its dotted name, or its file; None if it has none such."""
        if name == "config":
            return self.overrides["config"]
        return dict(fields(self.config)).get(name)


class Sweep(NamedTuple):
    """The content of a sweep file."""

    points: list[Point]
    pilot: tuple[str, ...]
    """The fields that pilot runs may choose."""


def load_sweep(named: str, num_steps: int = 0, grid: Sequence[str] = ()) -> Sweep:
    """The points of ``FILE`` or ``FILE:ARGUMENT``, each resolved and checked.

    Args:
      named: the sweep file, whose ``get_sweep(argument)`` lists overrides of config files; or a
        config file, which is one point.
      num_steps: of every point, instead of what is said there; 0 leaves it.
      grid: further axes, ``FIELD=VALUE,VALUE``: every point with each combination of their values.

    Raises:
      ConfigError: the file cannot serve, or a point of it; the message says which.
    """
    path, _, argument = named.partition(":")
    if not (Path(path).is_file() and path.endswith(".py")):
        found = [str(file) for file in explain.sweep_files()]
        hint = f"sweeps here: {', '.join(found)}" if found else "run from the repository's root"
        raise ConfigError(f"no sweep file {path!r}; {hint}")
    module = configuration.load_module(path)
    if hasattr(module, "get_config") and not hasattr(module, "get_sweep"):
        listed = [{"config": named}]
    else:
        with configuration.errors_of(path):  # a generator runs here
            listed = list(configuration.call(module, "get_sweep", argument) or ())
    if not listed:
        raise ConfigError(f"get_sweep of {path} returns no points")
    for number, one in enumerate(listed, 1):
        if not isinstance(one, Mapping) or not isinstance(one.get("config"), str):
            raise ConfigError(
                f'point {number} of {path} must be a dictionary with a config file as "config"; '
                f"got {one!r}"
            )
    if grid:
        axes = command_line.grid(grid, configuration.load(listed[0]["config"]))
        added = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        listed = [point | more for point in listed for more in added]
    pilot = getattr(module, "PILOT", ())
    if not isinstance(pilot, list | tuple) or not all(isinstance(name, str) for name in pilot):
        raise ConfigError(f"PILOT of {path} must be a tuple of names of fields; got {pilot!r}")
    points: dict[str, Point] = {}
    for number, overrides in enumerate(listed, 1):
        try:
            point = resolve(overrides | ({"num_steps": num_steps} if num_steps else {}))
        except (ConfigError, TypeError, KeyError, ValueError, OverflowError) as error:
            raise ConfigError(f"point {number} of {path}: {error}") from None
        points.setdefault(point.hash, point)
    for name in pilot:
        if all(point.field(name) is None for point in points.values()):
            raise ConfigError(f"PILOT of {path}: no config of its points has the field {name!r}")
    if len(chosen_by := {point.config.select for point in points.values()}) > 1:
        names = ", ".join(sorted(chosen_by))
        raise ConfigError(f"{path}: config.select must be the same in all points; got {names}")
    return Sweep(list(points.values()), tuple(pilot))


def resolve(overrides: Mapping[str, Any]) -> Point:
    """The point of a config file and what is changed in it; raises ConfigError."""
    config = configuration.load(overrides["config"])
    num_steps = max(1, overrides.get("num_steps", config.num_steps))  # the check refuses others
    overrides = {
        name: value.amount / num_steps if isinstance(value, PerRun) else value
        for name, value in overrides.items()
    }
    changes = {name: value for name, value in overrides.items() if name != "config"}
    known = dict(fields(config))
    for name in changes:
        if name not in known:
            raise no_field(name, known)
    config.update_from_flattened_dict(changes)
    config = configuration.check(config)
    return Point(overrides, config, configuration.config_hash(config))


def swept(points: Sequence[Point]) -> list[str]:
    """The fields that are not the same in all points, in the order of the sweep file."""
    names = dict.fromkeys(name for point in points for name in point.overrides)
    return [name for name in names if len({json.dumps(point.field(name)) for point in points}) > 1]


def runs(points: Sequence[Point]) -> list[list[Point]]:
    """The points, those that are the same run together, in the order of the first of each."""
    same: dict[str, list[Point]] = {}
    for point in points:
        seen = identity_in_training(point.config)
        same.setdefault(json.dumps(seen), []).append(point)
    return list(same.values())


def identity_in_training(config: ConfigDict) -> dict[str, Any]:
    """The identity with the values of the schedules in place of their fields.

    It is equal for configs that train the same run: their temperature and slope are the same at
    every step, or their estimator does not read them. Schedules other than the default ones keep
    their fields. Values are computed in NumPy alone, since the process of a sweep leaves
    accelerators to its workers.
    """
    reads = ESTIMATORS[config.estimator].reads
    temperature, slope = config.temperature, config.slope
    ours = (temperature.schedule, slope.schedule) == ("exponential", "linear")
    seen = {
        name: value
        for name, value in configuration.identity(config).items()
        if not (ours and name.startswith(("temperature.", "slope.")))
    }
    if not ours:
        return seen
    if "backward_temperature" in reads:
        seen["temperature.backward"] = temperature.backward
    # As in gsm.schedules, at the steps where a schedule is updated.
    updates = np.arange(0, config.num_steps, temperature.update_every)
    steps = updates.astype(np.float32)
    with np.errstate(over="ignore"):
        if "temperature" in reads:
            decay = np.exp(-np.float32(temperature.rate) * steps)
            values = np.maximum(
                np.float32(temperature.floor), np.float32(temperature.initial) * decay
            )
            # A learned temperature starts at the schedule's first value and leaves it.
            learned = "temperature" in ESTIMATORS[config.estimator].learned and config.control.learn
            seen["temperature"] = _digest(updates, values[:1] if learned else values)
        if "slope" in reads:
            values = np.float32(slope.initial) + np.float32(slope.rate) * steps
            seen["slope"] = _digest(updates, np.minimum(np.float32(slope.cap), values))
    return seen


def _digest(updates: np.ndarray, values: np.ndarray) -> str:
    """Digest of the function of the step that takes these values from the updates on."""
    changes = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    return hashlib.sha256(updates[changes].tobytes() + values[changes].tobytes()).hexdigest()


def schedules_read(point: Point) -> list[str]:
    """Which of temperature and slope the training of a point reads."""
    seen = identity_in_training(point.config)
    return [name for name in ("temperature", "slope") if name in seen]


def concerning(point: Point, names: Sequence[str]) -> list[str]:
    """Those of the fields that the config of a point has and its training reads."""
    seen = identity_in_training(point.config)
    unread = [of for of in ("temperature", "slope") if of not in seen]
    # Of a multi-sample objective the number is that of its bound, whatever the estimator.
    is_of_bound = point.config.get("objective", "elbo") != "elbo"
    reads_samples = is_of_bound or ESTIMATORS[point.config.estimator].num_samples is not None
    return [
        name
        for name in names
        if point.field(name) is not None
        and (name in seen or name.partition(".")[0] not in unread)
        and (name != "num_samples" or reads_samples)
    ]


def jobs(points: Sequence[Point], together: int) -> Iterator[list[Point]]:
    """Points that one program can train, at most ``together`` of them at a time.

    Such points differ in the seed and in traced fields only. One at a time they keep their order.
    """
    if together == 1:
        yield from ([point] for point in points)
        return
    programs: dict[str, list[Point]] = {}
    for point in points:
        structure = configuration.identity(point.config)
        for name in ("seed", *traced_fields(point.config)):
            del structure[name]
        programs.setdefault(json.dumps(structure), []).append(point)
    for alike in programs.values():
        for first in range(0, len(alike), together):
            yield alike[first : first + together]


# --- pilots ----------------------------------------------------------------------------------


def pilots(sweep: Sweep, num_steps: int) -> list[Point]:
    """Short runs of all points, with the first seed of each kind; they do not read the test set."""
    seeds: dict[str, int] = {}
    for point in sweep.points:
        seeds.setdefault(_kind(sweep, point), point.config.seed)
    short = {
        "num_steps": num_steps,
        "eval_every": num_steps,
        "evaluation.test_samples": 0,
        "evaluation.curve_images": 0,
    }
    return [
        resolve(point.overrides | {k: v for k, v in short.items() if point.field(k) is not None})
        for point in sweep.points
        if point.config.seed == seeds[_kind(sweep, point)]
    ]


def chosen(sweep: Sweep, costs: Mapping[str, float]) -> list[Point]:
    """The points whose values of the PILOT fields did best in the pilots of their kind.

    All of those that did equally well: pilots too short to tell them apart choose none of them.

    Args:
      sweep: all points.
      costs: of each pilot that succeeded, by :func:`pilot_key`, the lower the better. A kind all
        of whose pilots failed is left out.
    """
    best: dict[str, float] = {}
    for point in sweep.points:
        cost = costs.get(pilot_key(sweep, point), float("inf"))
        best[_kind(sweep, point)] = min(cost, best.get(_kind(sweep, point), cost))
    return [
        point for point in sweep.points
        if costs.get(pilot_key(sweep, point)) == best[_kind(sweep, point)]
    ]  # fmt: skip


def pilot_key(sweep: Sweep, point: Point) -> str:
    """What a point has in common with its pilot: all that is swept, but seed and length."""
    return _kind(sweep, point) + json.dumps([point.field(name) for name in sweep.pilot])


def _kind(sweep: Sweep, point: Point) -> str:
    """What points share whose PILOT fields compete."""
    names = {name for point in sweep.points for name in point.overrides}
    names -= {*sweep.pilot, "seed", "num_steps", "eval_every"}
    names = {name for name in names if not name.startswith("evaluation.")}
    return json.dumps({name: point.field(name) for name in sorted(names)})
