"""Sweeps: each file's ``get_sweep(argument)`` returns points, one dict of overrides for each run.

A point names its config file under "config" and the fields that differ from it by their dotted
names. :func:`grid` makes all combinations; lists of points add up with ``+``.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any


def grid(config: str, axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values of the axes, the last axis fastest.

    Args:
      config: config file, with its argument: ``configs/cat_vae.py:mnist``.
      axes: values of each field.
    """
    combinations = itertools.product(*axes.values())
    return [{"config": config, **dict(zip(axes, values, strict=True))} for values in combinations]
