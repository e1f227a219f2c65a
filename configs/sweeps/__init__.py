"""Sweeps: each file's ``get_sweep(argument)`` returns points, one dict of overrides for each run.

A point names its config file under "config" and the fields that differ from it by their dotted
names. :func:`grid` makes all combinations; lists of points add up with ``+``. A rate may be given
for the length of the run, as :class:`PerRun`.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PerRun:
    """A rate per step, given by what it comes to in a whole run: ``amount / num_steps``.

    ``"temperature.rate": (PerRun(1.0), PerRun(3.0))`` takes the temperature to exp(-1) and exp(-3)
    of its initial value, in as many steps as the point has, ``--num_steps`` counted in. Pilots have
    the rate of the full run, of which they are the beginning.
    """

    amount: float


def grid(config: str, axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values of the axes, the last axis fastest.

    Args:
      config: config file, with its argument: ``configs/cat_vae.py:mnist``.
      axes: values of each field.
    """
    combinations = itertools.product(*axes.values())
    return [{"config": config, **dict(zip(axes, values, strict=True))} for values in combinations]
