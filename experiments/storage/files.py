"""JSON and CSV files, each written as a whole or not at all."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.storage.errors import RecordError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in the errors of writing it: that of a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.strerror is not None:
            error.filename = str(path)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing: a killed process leaves no partial file.

    Args:
      path: the file; an existing one is replaced.
      text: its content.

    Raises:
      OSError: it cannot be written; the message names it.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a loss of power could leave the new name and no content
        try:
            os.replace(temporary, path)
        except OSError:  # there is a folder of that name
            temporary.unlink()
            raise


def sync(folder: Path) -> None:
    """Make sure that all files of a folder are on the disk."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def finite(value: Any) -> Any:
    """The value with each NaN and infinity replaced by None, which JSON can express.

    >>> finite({"loss": float("nan"), "steps": [1, 2.5]})
    {'loss': None, 'steps': [1, 2.5]}
    """
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; a number that is not finite becomes null."""
    write_atomically(path, json.dumps(finite(value), indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
      RecordError: the file does not exist, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not JSON, or not even text, or nested deeply
        raise RecordError(f"{path} is damaged: {error}") from None


def write_csv(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    digits: int = 4,
    *,
    decimals: int | None = None,
) -> Path:
    """Write rows as CSV, atomically; returns the path. The arguments are those of csv_text."""
    write_atomically(path, csv_text(rows, digits, decimals=decimals))
    return path


def csv_text(
    rows: Iterable[Mapping[str, Any]], digits: int = 4, *, decimals: int | None = None
) -> str:
    """Rows as CSV.

    Args:
      rows: their columns are the union of all names, in order of first appearance; None and a
        missing name make an empty cell.
      digits: significant digits of floats.
      decimals: digits after the point at most, instead of ``digits``.

    >>> print(csv_text([{"step": 100, "loss": 1.23456}, {"step": 200}]), end="")
    step,loss
    100,1.235
    200,
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value, digits, decimals) for name, value in row.items()})
    return text.getvalue()


def _cell(value: Any, digits: int, decimals: int | None) -> Any:
    if not isinstance(value, float):
        return value
    return f"{value:.{digits}g}" if decimals is None else round(value, decimals)


def read_csv(path: Path, text: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of a CSV file: numbers as int or float, an empty cell as None.

    Args:
      path: the file.
      text: columns that stay text whatever they hold: the hash "1e5" is no number.

    Raises:
      RecordError: the file does not exist, cannot be read, or a row has another number of cells
        than the header.
    """
    try:
        lines = list(csv.reader(path.read_text().splitlines()))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RecordError(f"{path} is damaged: {error}") from None
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(lines[0]):
            raise RecordError(
                f"{path}, line {number}: expected {len(lines[0])} cells as in the header, got "
                f"{len(cells)}"
            )
        row = dict(zip(lines[0], cells, strict=True))
        rows.append({k: (v or None) if k in text else _value(v) for k, v in row.items()})
    return rows


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None
