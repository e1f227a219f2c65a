"""The points of a sweep: from a sweep file to checked configs, and what pilots choose of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs.sweeps import PerRun
from experiments import config as configuration
from experiments import tasks
from experiments.config import ConfigError

MEASURES = {"vae": ("valid_rate",), "sbn": (), "semisupervised": ("valid_accuracy",)}
"""What a result of each task holds of validation beside the bound: only this may choose."""


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
        return dict(configuration.fields(self.config)).get(name)


class Sweep(NamedTuple):
    """What a sweep file says."""

    points: list[Point]
    pilot: tuple[str, ...]
    """The fields that pilot runs may choose."""
    maximize: str = ""
    """The measure on validation, the higher the better, that choices go by; "": the bound."""


def load_sweep(named: str, num_steps: int = 0) -> Sweep:
    """The points of ``FILE`` or ``FILE:ARGUMENT``, each resolved and checked.

    Args:
      named: the sweep file, whose ``get_sweep(argument)`` lists overrides of config files.
      num_steps: of every point, instead of what is said there; 0 leaves it.

    Raises:
      ConfigError: the file cannot serve, or a point of it; the message says which.
    """
    path, _, argument = named.partition(":")
    if not (Path(path).is_file() and path.endswith(".py")):
        found = sorted(str(file) for file in Path("configs/sweeps").glob("[!_]*.py"))
        hint = f"sweeps here: {', '.join(found)}" if found else "run from the repository's root"
        raise ConfigError(f"no sweep file {path!r}; {hint}")
    module = configuration.load_module(path)
    listed = list(configuration.call(module, "get_sweep", argument) or ())
    if not listed:
        raise ConfigError(f"get_sweep of {path} returns no points")
    pilot = tuple(getattr(module, "PILOT", ()))
    points: dict[str, Point] = {}
    for number, overrides in enumerate(listed, 1):
        try:
            point = resolve(overrides | ({"num_steps": num_steps} if num_steps else {}))
        except (ConfigError, TypeError, KeyError) as error:
            raise ConfigError(f"point {number} of {path}: {error}") from None
        points.setdefault(point.hash, point)
    for name in pilot:
        if all(point.field(name) is None for point in points.values()):
            raise ConfigError(f"PILOT of {path}: no config of its points has the field {name!r}")
    maximize = getattr(module, "MAXIMIZE", "")
    of_points = [MEASURES[point.config.task] for point in points.values()]
    allowed = [name for name in of_points[0] if all(name in names for names in of_points)]
    if maximize and maximize not in allowed:
        measured = f"{' or '.join(allowed)}, a measure of validation"
        expected = measured if allowed else "left out: its points measure the bound alone"
        raise ConfigError(f"MAXIMIZE of {path} must be {expected}; got {maximize!r}")
    return Sweep(list(points.values()), pilot, maximize)


def resolve(overrides: Mapping[str, Any]) -> Point:
    """The point of a config file and what is changed in it; raises ConfigError."""
    config = configuration.load(overrides["config"])
    num_steps = max(1, overrides.get("num_steps", config.num_steps))  # the check refuses others
    overrides = {
        name: value.amount / num_steps if isinstance(value, PerRun) else value
        for name, value in overrides.items()
    }
    changes = {name: value for name, value in overrides.items() if name != "config"}
    for name in changes:
        _check_field(config, name)
    config.update_from_flattened_dict(changes)
    config = configuration.check(config)
    return Point(overrides, config, configuration.config_hash(config))


def _check_field(config: ConfigDict, name: str) -> None:
    if name not in dict(configuration.fields(config)):
        raise ConfigError(f"the config has no field {name!r}")


def swept(points: Sequence[Point]) -> list[str]:
    """The fields that are not the same in all points, in the order of the sweep file."""
    names = dict.fromkeys(name for point in points for name in point.overrides)
    return [name for name in names if len({json.dumps(point.field(name)) for point in points}) > 1]


def runs(points: Sequence[Point]) -> list[list[Point]]:
    """The points, those that are the same run together, in the order of the first of each."""
    same: dict[str, list[Point]] = {}
    for point in points:
        seen = configuration.identity_in_training(point.config)
        same.setdefault(json.dumps(seen), []).append(point)
    return list(same.values())


def schedules_read(point: Point) -> list[str]:
    """Which of temperature and slope its training reads."""
    seen = configuration.identity_in_training(point.config)
    return [name for name in ("temperature", "slope") if name in seen]


def jobs(points: Sequence[Point], together: int) -> Iterator[list[Point]]:
    """Points that one program can train, at most ``together`` of them at a time.

    Such points differ in the seed and in float settings only (``tasks.SETTINGS``). One at a time
    they keep their order.
    """
    if together == 1:
        yield from ([point] for point in points)
        return
    programs: dict[str, list[Point]] = {}
    for point in points:
        structure = configuration.identity(point.config)
        for name in ("seed", *tasks.SETTINGS):
            del structure[name]
        programs.setdefault(json.dumps(structure), []).append(point)
    for alike in programs.values():
        for first in range(0, len(alike), together):
            yield alike[first : first + together]


# --- pilots ----------------------------------------------------------------------------------


def pilots(sweep: Sweep, num_steps: int) -> list[Point]:
    """Short runs of all points of the first seed, which do not read the test set."""
    seed = sweep.points[0].config.seed
    short = {
        "num_steps": num_steps,
        "eval_every": num_steps,
        "evaluation.test_samples": 0,
        "evaluation.curve_images": 0,
    }
    return [resolve(point.overrides | short) for point in sweep.points if point.config.seed == seed]


def chosen(sweep: Sweep, costs: Mapping[str, float]) -> list[Point]:
    """The points whose values of the PILOT fields did best in the pilots of their kind.

    All of those that did equally well: pilots too short to tell them apart choose none of them.

    Args:
      sweep: all points.
      costs: of each pilot that succeeded, by :func:`pilot_key`, the lower the better: its negative
        validation bound, or minus what the sweep maximizes. A kind all of whose pilots failed is
        left out.
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
