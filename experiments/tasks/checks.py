"""Checks of a configuration: every error is one line with the field and what it may hold."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

# The normal numbers of float32, in which programs compute.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class ConfigError(ValueError):
    """The configuration is invalid; the message names the field and what it may hold."""


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all fields."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def no_field(name: str, known: Sequence[str] | Mapping[str, Any]) -> ConfigError:
    """The error of a name that is no field, with the nearest one."""
    tops = dict.fromkeys(re.sub(r"\..*", ".*", field) for field in known)
    near = [field for field in known if field.rpartition(".")[2] == name]
    near = near or difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"they are: {', '.join(tops)}"
    return ConfigError(f"the config has no field {name!r}; {hint}")


class Checks:
    """Checks of the fields of one configuration; each raises ConfigError.

    Args:
      config: the configuration, with references resolved.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.values = dict(fields(config))

    def require(self, name: str, holds: bool, expected: str) -> None:
        """Raise unless a condition on a field holds."""
        if not holds:
            raise ConfigError(f"config.{name} must be {expected}; got {self.values.get(name)!r}")

    def types(self, defaults: ConfigDict) -> None:
        """Every field of the defaults exists and has the type of its default."""
        for name, default in fields(defaults):
            if type(self.values.get(name)) is not type(default):
                raise ConfigError(
                    f"config.{name} must be of type {type(default).__name__}; "
                    f"got {self.values.get(name)!r}"
                )

    def one_of(self, name: str, choices: Sequence[str]) -> None:
        """A field is one of several names."""
        value = self.values.get(name)
        near = difflib.get_close_matches(str(value), choices, 1, 0.6)
        nearest = f" (nearest: {near[0]})" if near else ""
        self.require(name, value in choices, f"one of {', '.join(choices)}{nearest}")

    def whole(self, low: int, *names: str, high: int = 2**31 - 1) -> None:
        """Fields are whole numbers in a range."""
        limit = "2^31 - 1" if high == 2**31 - 1 else "2^32 - 1" if high == 2**32 - 1 else str(high)
        for name in names:
            value = self.values[name]
            self.require(name, low <= value <= high, f"between {low} and {limit}")

    def positive(self, *names: str) -> None:
        """Fields are positive and finite."""
        for name in names:
            self.require(name, 0 < self.values[name] < float("inf"), "positive and finite")

    def not_negative(self, *names: str) -> None:
        """Fields are 0 or more and finite."""
        for name in names:
            self.require(name, 0 <= self.values[name] < float("inf"), "0 or more and finite")

    def share(self, *names: str) -> None:
        """Fields are between 0 and 1."""
        for name in names:
            self.require(name, 0 <= self.values[name] <= 1, "between 0 and 1")

    def below_one(self, *names: str) -> None:
        """Fields are at least 0 and below 1 in float32."""
        for name in names:
            value = self.values[name]  # first as it is: float32 warns of what it cannot hold
            below = 0 <= value < 1 and np.float32(value) < 1
            self.require(name, bool(below), "at least 0 and below 1 in float32")

    def sizes(self, *names: str) -> None:
        """Fields are tuples of positive whole numbers."""
        for name in names:
            value = self.values[name]
            whole = all(type(size) is int and 1 <= size < 2**31 for size in value)
            self.require(name, whole, "positive whole numbers, such as 512,256, or ()")

    def floats(self) -> None:
        """All floats are representable in float32, whose subnormal numbers CPUs take for 0."""
        for name, value in self.values.items():
            normal = (
                not isinstance(value, float) or value == 0 or _SMALLEST <= abs(value) <= _LARGEST
            )
            self.require(
                name, normal, "representable in float32: 0, or about 1.2e-38 to 3.4e38 in size"
            )
