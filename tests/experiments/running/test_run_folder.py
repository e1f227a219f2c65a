"""A run's folder: what is in it survives kills, and what does not belong to it is refused."""

import json
import math
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.running.run_folder import (
    RunFolder,
    RunFolderError,
    read_checkpoint,
    read_config,
)

IDENTITY = {"seed": 0, "model.hidden_sizes": (8, 4), "optimizer.learning_rate": 1e-3}


def open_run(path: Path, **changes) -> RunFolder:
    identity = IDENTITY | changes
    return RunFolder(path, identity, identity | {"data.dir": "/somewhere"})


@pytest.fixture
def run(tmp_path):
    run = open_run(tmp_path / "run")
    yield run
    run.close()


def one_line(refusal: pytest.ExceptionInfo) -> str:
    message = str(refusal.value)
    assert message
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_a_folder_serves_one_process_at_a_time(run):
    with pytest.raises(RunFolderError, match="another process is running in") as refusal:
        open_run(run.path)
    assert str(run.path) in one_line(refusal)
    run.close()
    open_run(run.path).close()


def test_every_start_is_recorded(run):
    run.close()
    open_run(run.path).close()
    starts = json.loads((run.path / "provenance.json").read_text())
    assert len(starts) == 2
    assert {"time", "command", "git_commit", "python", "jax", "numpy", "device"} <= set(starts[0])


# --- metrics and result ---


def test_rows_come_back_as_they_were_appended(run):
    assert run.rows() == []
    rows = [{"step": step, "loss": 0.1 + step / 3} for step in (10, 20, 30)]
    for row in rows:
        run.append(row)
    assert run.rows() == rows


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null(run, value):
    run.append({"step": 1, "loss": value, "name": "x", "count": 3})
    run.write_result({"test/nll": value, "steps": 1})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row == {"step": 1, "loss": None, "name": "x", "count": 3}
    result = json.loads((run.path / "result.json").read_text(), parse_constant=refuse)
    assert result == {"test/nll": None, "steps": 1} == run.result()


@pytest.mark.parametrize("kept", range(0, 24, 4))
def test_a_torn_last_row_is_left_out_and_then_overwritten(run, kept):
    for step in (1, 2, 3):
        run.append({"step": step, "loss": 1.5})
    file = run.path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:kept])
    assert [row["step"] for row in run.rows()] == [1, 2]
    run.truncate(2)
    run.append({"step": 3, "loss": 2.5})
    assert [row["step"] for row in run.rows()] == [1, 2, 3]


def test_truncate_drops_the_rows_after_a_step_from_the_file(run):
    for step in (10, 20, 30):
        run.append({"step": step, "loss": step / 7})
    rest = run.truncate(20)
    assert [row["step"] for row in rest] == [10, 20]
    assert run.rows() == rest
    assert run.truncate(0) == [] == run.rows()


def test_result_is_none_until_it_is_written(run):
    assert run.result() is None
    run.write_result({"steps": 3})
    assert run.result() == {"steps": 3}


# --- whose folder it is ---


def test_the_same_config_opens_the_folder_again(run):
    run.append({"step": 1})
    run.close()
    again = open_run(run.path)
    again.close()
    assert again.rows() == [{"step": 1}]
    assert json.loads((run.path / "config.json").read_text())["data.dir"] == "/somewhere"


def test_another_config_is_refused_with_the_differing_fields_and_both_values(run):
    before = (run.path / "config.json").read_bytes()
    changes = {"seed": 7, "model.hidden_sizes": (8,)}
    with pytest.raises(RunFolderError) as refusal:
        open_run(run.path, **changes)
    message = one_line(refusal)
    assert "seed (0 there, 7 now)" in message
    assert "model.hidden_sizes ([8, 4] there, [8] now)" in message
    assert "learning_rate" not in message
    assert (run.path / "config.json").read_bytes() == before


def test_a_folder_of_other_files_is_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("\\begin{document}")
    with pytest.raises(RunFolderError, match="other files"):
        open_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_serves(tmp_path):
    assert open_run(tmp_path).rows() == []


@pytest.mark.parametrize("below", ["", "run", "some/run"])
def test_a_file_is_no_folder(tmp_path, below):
    (tmp_path / "file").write_text("here")
    with pytest.raises(RunFolderError, match=r"is a file|Not a directory") as refusal:
        open_run(tmp_path / "file" / below)
    assert str(tmp_path / "file") in one_line(refusal)


@pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="Permission denied") as refusal:
        open_run(tmp_path / "run")
    assert str(tmp_path / "run") in one_line(refusal)


@pytest.mark.parametrize("damage", [b"", b'{"seed": 0, "mod', b"\xff\xfe\x00 not text"])
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("config.json", "choose another --workdir"),
        ("result.json", "remove it"),
        ("provenance.json", "remove it"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(run, name, advice, damage):
    run.close()
    (run.path / name).write_bytes(damage)
    with pytest.raises(RunFolderError) as refusal:
        open_run(run.path).result()
    message = one_line(refusal)
    assert str(run.path / name) in message
    assert "is damaged" in message
    assert message.endswith(advice)


# --- checkpoints ---


def tree(step: int) -> dict:
    return {"step": jnp.int32(step), "params": {"w": jnp.arange(3.0) * step}}


def test_the_last_two_checkpoints_are_kept_and_the_last_comes_back(run):
    assert run.latest_step() is None
    for step in (1, 2, 3):
        run.save(step, tree(step))
    run.close()
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == ["2", "3"]
    again = open_run(run.path)
    assert again.latest_step() == 3
    restored = again.restore(tree(0))
    again.close()
    assert restored["step"] == 3
    np.testing.assert_array_equal(restored["params"]["w"], [0.0, 3.0, 6.0])


def test_the_same_step_is_saved_once(run):
    run.save(1, tree(1))
    run.save(1, tree(1))
    assert run.latest_step() == 1


def test_a_checkpoint_of_another_form_is_refused(run):
    run.save(5, tree(5))
    run.close()
    other = {"step": jnp.int32(0), "params": {"other": jnp.zeros((2, 2))}}
    with pytest.raises(RunFolderError) as refusal:
        run.restore(other)
    message = one_line(refusal)
    assert str(run.path / "checkpoints" / "5") in message
    assert "remove it" in message


def test_a_run_is_read_without_touching_its_folder(run):
    run.save(5, tree(5))
    run.close()
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    assert read_config(run.path)["seed"] == 0
    np.testing.assert_array_equal(read_checkpoint(run.path, tree(0))["params"]["w"], [0, 5, 10])
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_folder_without_a_run_or_a_checkpoint_is_named(run, tmp_path):
    with pytest.raises(RunFolderError, match="is not the folder of a run: it has no config"):
        read_config(tmp_path / "nothing")
    with pytest.raises(RunFolderError, match="has no checkpoint yet"):
        read_checkpoint(run.path, tree(0))
    (run.path / "checkpoints").mkdir()
    with pytest.raises(RunFolderError, match="has no checkpoint yet"):
        read_checkpoint(run.path, tree(0))
