"""The record of a finished run, read and checked.

A run leaves four files in its folder:

    config.json      the configuration, flat, with dotted names
    provenance.json  command, commit, versions, device, options, one entry for each start
    metrics.jsonl    one JSON object a line, with the step and the metrics measured there
    result.json      written once, at the end, with the SHA-256 of all but the provenance

Metrics are named ``split/metric``, as in ``valid/nll``, ``test/accuracy`` or ``learned/baseline``.
The number of samples behind a bound is a field of the configuration.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.storage.errors import RecordError
from experiments.storage.files import finite, read_json, write_json

PLACES = ("data.dir", "mesh.data")
"""Fields of a configuration that say where data are and where is computed, not what."""

ADDED: Mapping[str, Any] = {
    "mesh.data": 1,
    "entropy_weight": 1.0,
    "num_estimates": 1,
    "model.initialization": "lecun_normal",
}
"""Fields that configurations did not have from the start, oldest first, and what runs without them
did.

At these values they do not count: earlier runs and their tables stay what they were.
"""

_IS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "an object": lambda value: isinstance(value, dict),
    "a whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "a number or null": lambda value: (
        value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    ),
}
_CONFIG = {"task": "text", "estimator": "text", "seed": "a whole number"}
_RESULT = {"steps": "a whole number", "config_hash": "text"}
_OF_RESULT = {
    *_RESULT, "dataset", "digest", "estimator", "maximize", "seconds", "seed", "selected_step",
    "steps_per_second", "test_seconds",
}  # fmt: skip
"""All fields of a result that are not metrics."""
_ROW = {"step": "a whole number"}
_START = {"command": "text"}

Rows = Sequence[Mapping[str, Any]]
"""Rows of metrics, steps increasing."""


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a flat configuration that determine a run's numbers, in order of name.

    >>> identity({"seed": 0, "data.dir": "/data", "num_estimates": 1})
    {'seed': 0}
    """
    return {
        name: value
        for name, value in sorted(config.items())
        if name not in PLACES and not (name in ADDED and value == ADDED[name])
    }


class Run(NamedTuple):
    """A finished run, checked by :func:`checked`."""

    config: dict[str, Any]
    result: dict[str, Any]
    rows: list[dict[str, Any]]
    """The rows of metrics.jsonl, steps increasing."""
    provenance: dict[str, Any]
    """The provenance of the last start."""
    source: str
    """The folder or file that the run was read from, for messages."""

    @property
    def task(self) -> str:
        return self.config["task"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def steps(self) -> int:
        return self.result["steps"]

    @property
    def config_hash(self) -> str:
        return self.result["config_hash"]

    @property
    def estimator(self) -> str:
        """The registry key, after the name of a multi-sample objective with that estimator."""
        objective, estimator = self.config.get("objective", "elbo"), self.config["estimator"]
        if objective == "elbo":
            return estimator
        own = estimator in ("score_function", "gumbel_softmax")
        return objective if own else f"{objective}_{estimator}"

    @property
    def settings(self) -> str:
        """All that determines the numbers but the seed, as one text."""
        return json.dumps({k: v for k, v in identity(self.config).items() if k != "seed"})

    def field(self, name: str) -> Any:
        """A field of the configuration.

        Raises:
          RecordError: the configuration has no such field.
        """
        if name not in self.config and name not in ADDED:
            raise RecordError(f"{self.source}: field {name!r}: expected a value, got nothing")
        return self.config.get(name, ADDED.get(name))

    def value(self, name: str) -> float:
        """A metric of the result; NaN where it was not finite.

        Raises:
          RecordError: the result has no such metric.
        """
        if name not in self.result:
            raise RecordError(f"{self.source}: field {name!r}: expected a number, got nothing")
        value = self.result[name]
        return float("nan") if value is None else value


def read_run(folder: Path) -> Run:
    """The finished run of a folder.

    Raises:
      RecordError: a file is missing or malformed; the message names file, line, field, what was
        expected and what was found.
    """
    result, config, starts = (
        read_result(folder), read_config(folder), read_json(folder / "provenance.json")
    )  # fmt: skip
    check_starts(starts, str(folder / "provenance.json"))
    return Run(config, result, read_rows(folder / "metrics.jsonl"), starts[-1], str(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, flat; raises RecordError."""
    config = read_json(folder / "config.json")
    check_config(config, str(folder / "config.json"))
    return config


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a finished run.

    Raises:
      RecordError: it is missing or malformed, or not of the configuration and the rows beside it.
    """
    path = folder / "result.json"
    result = read_json(path)
    check_result(result, str(path))
    if "digest" not in result:  # of a run that was finished before there were digests
        return result
    claimed = result.pop("digest")
    rows = read_rows(folder / "metrics.jsonl")
    if not is_digest(claimed, read_config(folder), rows, result):
        raise RecordError(
            f"{folder}: config.json, metrics.jsonl or result.json is damaged: together they do not "
            "have the SHA-256 that result.json gives"
        )
    return result


def write_result(
    folder: Path, config: Mapping[str, Any], rows: Rows, result: Mapping[str, Any]
) -> None:
    """Write the result of a run, with the digest by which damage is noticed."""
    write_json(folder / "result.json", {**result, "digest": digest(config, rows, result)})


def digest(config: Mapping[str, Any], *parts: Any) -> str:
    """SHA-256 of a configuration's :func:`identity`, and of what belongs to it."""
    return _sha256(identity(config), *parts)


def _sha256(*parts: Any) -> str:
    text = json.dumps(finite(list(parts)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_digest(claimed: Any, config: Mapping[str, Any], *parts: Any) -> bool:
    """Whether a digest is that of a configuration and parts, in whichever version it was written.

    An earlier version counted the fields that it had, whatever their values.
    """
    for known in range(len(ADDED) + 1):
        had = {name: config[name] for name in list(ADDED)[:known] if name in config}
        what = {k: v for k, v in (identity(config) | had).items() if k not in PLACES}
        if claimed == _sha256(what, *parts):
            return True
    return False


def check_config(config: Any, where: str) -> None:
    """Check the configuration of a run; raises RecordError."""
    check(config, _CONFIG, where)


def check_result(result: Any, where: str) -> None:
    """Check the result of a run; raises RecordError."""
    check(result, _RESULT, where)
    # One that is not known may be the digest under a damaged name.
    if unknown := [name for name in result if "/" not in name and name not in _OF_RESULT]:
        raise RecordError(f"{where}: unknown field {_short(unknown[0])}")


def check_starts(starts: Any, where: str) -> None:
    """Check the provenance of a run, one entry for each start; raises RecordError."""
    if not isinstance(starts, list) or not starts:
        raise RecordError(f"{where}: expected a list of starts, got {_short(starts)}")
    for number, start in enumerate(starts, 1):
        check(start, _START, f"{where}, start {number}")


def check_rows(rows: Any, where: str) -> None:
    """Check rows of metrics; raises RecordError."""
    if not isinstance(rows, list):
        raise RecordError(f"{where}: expected a list of rows, got {_short(rows)}")
    for number, row in enumerate(rows):
        check_row(row, rows[number - 1 : number], f"{where}, row {number + 1}")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl file.

    Raises:
      RecordError: a line is not a row, or its step does not follow the step of the line before.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}") from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise RecordError(f"{where}: expected a JSON object, got {_short(line)}") from None
        check_row(row, rows, where)
        rows.append(row)
    return rows


def check_row(row: Any, before: Sequence[dict[str, Any]], where: str) -> None:
    """Check a row of metrics, which follows other rows.

    Raises:
      RecordError: it is not a row, or its step is not greater than that of the row before.
    """
    check(row, _ROW, where)
    if before and row["step"] <= before[-1]["step"]:
        raise RecordError(
            f"{where}: field 'step': expected more than {before[-1]['step']}, the step of the row "
            f"before, got {row['step']}"
        )


def checked(
    config: Any, result: Any, rows: Sequence[dict[str, Any]], provenance: Any, source: str
) -> Run:
    """A run from its parts, which came out of another file than its own folder's.

    Raises:
      RecordError: a part is malformed.
    """
    check_config(config, f"{source}, config")
    check_result(result, f"{source}, result")
    check(provenance, {}, f"{source}, provenance")
    return Run(config, result, list(rows), provenance, source)


def check(value: Any, fields: Mapping[str, str], where: str) -> None:
    """Check that a value is an object with the fields and their types.

    Args:
      value: what was read.
      fields: the required fields; each of "text", "an object", "a whole number", "a number or
        null". Every field named ``split/metric``, and the loss, must be a number or null as well.
      where: the file and the place in it, for the message.

    Raises:
      RecordError: it is not.
    """
    if not isinstance(value, dict):
        raise RecordError(f"{where}: expected an object, got {_short(value)}")
    metrics = [name for name in value if "/" in name or name == "loss"]
    for name, expected in {**dict.fromkeys(metrics, "a number or null"), **fields}.items():
        if name not in value:
            raise RecordError(f"{where}: field {name!r}: expected {expected}, got nothing")
        if not _IS[expected](value[name]):
            got = _short(value[name])
            raise RecordError(f"{where}: field {name!r}: expected {expected}, got {got}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
