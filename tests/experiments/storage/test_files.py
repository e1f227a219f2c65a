"""Files are written as a whole or not at all, and read with errors of one line."""

import json
import math
import os

import pytest

from experiments.storage.errors import RecordError
from experiments.storage.files import read_csv, read_json, write_atomically, write_csv, write_json


def test_an_atomic_write_to_a_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match=r"page\.html"):
        write_atomically(tmp_path / "page.html", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_an_atomic_write_leaves_the_old_file_where_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "the new text")
    monkeypatch.undo()
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null(value, tmp_path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    path = tmp_path / "value.json"
    write_json(path, {"a": value, "b": [1, value], "c": {"d": (value, "text")}})
    expected = {"a": None, "b": [1, None], "c": {"d": [None, "text"]}}
    assert json.loads(path.read_text(), parse_constant=refuse) == expected == read_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"{", "is damaged"), (b"\xff\xfe\x00", "is damaged")],
)
def test_a_file_that_is_not_json_is_reported_in_one_line(content, message, tmp_path):
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match=message) as refusal:
        read_json(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_csv_has_all_columns_as_they_appear_and_empty_cells(tmp_path):
    rows = [{"a": 1, "b": 0.123456}, {"c": "text", "a": None}, {"b": 12345.6}]
    path = write_csv(tmp_path / "rows.csv", rows)
    assert path.read_text() == "a,b,c\n1,0.1235,\n,,text\n,1.235e+04,\n"
    assert list(tmp_path.iterdir()) == [path]
    write_csv(path, rows, 6)
    assert path.read_text() == "a,b,c\n1,0.123456,\n,,text\n,12345.6,\n"
    write_csv(path, rows, decimals=2)
    assert path.read_text() == "a,b,c\n1,0.12,\n,,text\n,12345.6,\n"


def test_csv_comes_back_with_numbers_and_hashes_stay_text(tmp_path):
    rows = [{"n": 1, "x": 0.5, "hash": "012e45", "text": 'with "quotes", and more', "none": None}]
    path = write_csv(tmp_path / "rows.csv", rows)
    assert read_csv(path, text=("hash",)) == rows
    assert read_csv(path)[0]["hash"] != "012e45"


def test_a_csv_row_of_another_length_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(RecordError, match=r"rows.csv, line 3: expected 2 cells .*, got 1"):
        read_csv(path)
    with pytest.raises(RecordError, match="cannot be read"):
        read_csv(tmp_path / "none.csv")
