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
from experiments.storage.errors import RecordError

IDENTITY = {
    "task": "vae", "estimator": "rloo", "seed": 0, "model.hidden_sizes": (8, 4),
    "optimizer.learning_rate": 1e-3,
}  # fmt: skip
RESULT = {"steps": 3, "config_hash": "a"}


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
    with pytest.raises(
        RunFolderError, match=rf"process {os.getpid()} on \S+ is running in"
    ) as refusal:
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


def test_a_field_that_was_added_later_counts_only_where_it_is_not_the_default(run):
    run.close()
    open_run(run.path, num_estimates=1).close()  # the folder has no such field
    with pytest.raises(RunFolderError, match=r"differ in num_estimates \(1 there, 2 now\)"):
        open_run(run.path, num_estimates=2)
    folder = run.path.parent / "several"
    open_run(folder, num_estimates=2).close()
    with pytest.raises(RunFolderError, match=r"differ in num_estimates \(2 there, 1 now\)"):
        open_run(folder)


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
    assert result.pop("digest")
    assert result == {"test/nll": None, "steps": 1} == run.result()


@pytest.fixture
def saved(run):
    """A run of five rows, closed, with checkpoints at its steps 2 and 4."""
    for step in (1, 2, 3, 4, 5):
        run.append({"step": step, "loss": 1.5 * step})
        if step in (2, 4):
            run.save(step, tree(step))
    run.close()
    return run


def steps_after_resuming(run):
    """Step of the resumed tree, and the steps of rows in memory and in the file."""
    with open_run(run.path) as again:
        step = int(again.resume(tree(0))["step"])
        again.append({"step": step + 1, "loss": 2.5})
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == again.rows()
        return step, [row["step"] for row in again.rows()]


def test_rows_after_the_checkpoint_are_dropped(saved, capsys):
    assert steps_after_resuming(saved) == (4, [1, 2, 3, 4, 5])
    assert saved.rows()[:4] == [{"step": step, "loss": 1.5 * step} for step in (1, 2, 3, 4)]
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("kept", range(0, 24, 6))
def test_a_row_torn_by_a_kill_after_the_checkpoint_is_dropped(saved, kept, capsys):
    file = saved.path / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]) + lines[4][:kept])
    assert steps_after_resuming(saved) == (4, [1, 2, 3, 4, 5])
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b"1.5", b"7.5", 1),
        lambda text: text.replace(b"{", b"", 1),
        lambda text: text[: len(text) // 2],
        lambda text: text + text,
        lambda text: b"\xff\xfe" + text,
        lambda text: None,
    ],
    ids=["digit", "brace", "half", "twice", "no text", "gone"],
)
def test_a_damaged_metrics_file_is_restored_from_the_checkpoint(saved, damage, capsys):
    file = saved.path / "metrics.jsonl"
    text = damage(file.read_bytes())
    file.unlink() if text is None else file.write_bytes(text)
    assert steps_after_resuming(saved) == (4, [1, 2, 3, 4, 5])
    told = f"{file} was damaged; it is restored from the checkpoint" in capsys.readouterr().err
    assert told == (text is None or not text.startswith(b'{"step": 1, "loss": 1.5}') or
                    text.count(b"\n") < 4)  # fmt: skip


def test_without_a_checkpoint_the_run_starts_anew(run):
    run.append({"step": 1, "loss": 1.0})
    run.close()
    with open_run(run.path) as again:
        assert again.resume(tree(0)) is None
        assert again.rows() == []


def test_result_is_none_until_it_is_written(run):
    assert run.result() is None
    run.append({"step": 3, "loss": 1.0})
    run.write_result(RESULT)
    run.close()
    with open_run(run.path) as again:
        assert run.result() == again.result() == RESULT


# --- whose folder it is ---


def test_the_same_config_opens_the_folder_again(run):
    run.close()
    open_run(run.path).close()
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


def test_what_a_failed_start_left_is_no_other_files(tmp_path):
    """Of a disk that was full, or a folder that was removed while orbax wrote into it."""
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / ".lock").write_text("process 1")
    open_run(tmp_path).close()
    (tmp_path / "config.json").unlink()
    (tmp_path / "provenance.json").unlink()
    (tmp_path / "checkpoints" / "5").mkdir()
    with pytest.raises(RunFolderError, match="holds other files and no config"):
        open_run(tmp_path)


def test_a_folder_that_was_removed_is_not_begun_again(run):
    import shutil

    shutil.rmtree(run.path)
    with pytest.raises(RunFolderError, match="has gone"):
        run.append({"step": 1, "loss": 1.0})
    with pytest.raises(RunFolderError, match="has gone"):
        run.write_result(RESULT)
    assert not run.path.exists()


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


@pytest.mark.parametrize(
    "damage", [b"", b'{"seed": 0, "mod', b"\xff\xfe\x00 not text", b"{}", b"[]", b"3", b"null"]
)
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("config.json", "choose another --workdir"),
        ("result.json", "to end the run again from its last checkpoint"),
        ("provenance.json", "remove it"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(run, name, advice, damage):
    """Nothing is written before all is known to be whole."""
    run.close()
    (run.path / name).write_bytes(damage)
    before = {path: path.read_bytes() for path in run.path.rglob("*.json*")}
    with pytest.raises(RunFolderError) as refusal:
        open_run(run.path)
    message = one_line(refusal)
    assert str(run.path / name) in message
    assert "is damaged" in message or "expected" in message
    assert message.endswith(advice)
    assert {path: path.read_bytes() for path in run.path.rglob("*.json*")} == before
    (run.path / name).unlink()
    if name != "config.json":
        open_run(run.path).close()  # the lock is free


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json"])
def test_a_number_that_changed_after_the_end_is_noticed(saved, name):
    """Each file is as well-formed as before; without the result, the run ends again."""
    with open_run(saved.path) as run:
        run.resume(tree(0))
        run.write_result(RESULT | {"test/nll": 1.5})
    open_run(saved.path).close()
    file = saved.path / name
    file.write_text(file.read_text().replace("1.5", "1.7", 1))
    with pytest.raises(RunFolderError) as refusal:
        open_run(saved.path)
    assert "do not have the SHA-256" in one_line(refusal)
    (saved.path / "result.json").unlink()
    assert steps_after_resuming(saved)[0] == 4


def test_a_checkpoint_belongs_to_its_config(saved):
    """As read for classification, where no command line says what the config is."""
    read_checkpoint(saved.path, tree(0))
    config = saved.path / "config.json"
    config.write_text(config.read_text().replace('"rloo"', '"reinforce"'))
    with pytest.raises(RecordError) as refusal:
        read_checkpoint(saved.path, tree(0))
    assert "config.json" in one_line(refusal)


@pytest.mark.parametrize("name", ["checkpoints", "figures", "events"])
def test_a_file_in_place_of_a_folder_is_named(run, name):
    run.close()
    if (run.path / name).is_dir():
        (run.path / name).rmdir()
    (run.path / name).write_text("here")
    with pytest.raises(RunFolderError, match=f"{name} is a file"):
        open_run(run.path)


# --- checkpoints ---


def tree(step: int) -> dict:
    return {"step": jnp.int32(step), "params": {"w": jnp.arange(3.0) * step}}


def test_the_last_two_checkpoints_are_kept_and_the_last_comes_back(run):
    assert run.checkpoints.steps() == []
    for step in (1, 2, 3):
        run.save(step, tree(step))
    run.close()
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == ["2", "3"]
    with open_run(run.path) as again:
        restored = again.resume(tree(0))
    assert restored["step"] == 3
    np.testing.assert_array_equal(restored["params"]["w"], [0.0, 3.0, 6.0])


def test_the_same_step_is_saved_once(run):
    run.save(1, tree(1))
    run.save(1, tree(1))
    assert run.checkpoints.steps() == [1]


def damage_largest(folder):
    """Change one byte in the midst of the largest file, as a bad disk does."""
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def remove_arrays(folder):
    import shutil

    shutil.rmtree(folder / "tree")


def change_record(folder):
    file = next((folder / "record").rglob("metadata"))
    file.write_text(file.read_text().replace('"digest": "', '"digest": "0'))


def change_row(folder):
    file = next((folder / "record").rglob("metadata"))
    assert '"loss": 1.5' in file.read_text()
    file.write_text(file.read_text().replace('"loss": 1.5', '"loss": 1.7'))


def remove_all(folder):
    import shutil

    shutil.rmtree(folder)


def test_a_checkpoint_that_is_gone_is_missed(saved):
    """The one before would answer another question."""
    remove_all(saved.path / "checkpoints" / "4")
    with pytest.raises(RecordError, match=r"can be read \(step 4: ") as refusal:
        read_checkpoint(saved.path, tree(0))
    one_line(refusal)
    assert steps_after_resuming(saved) == (2, [1, 2, 3])


@pytest.mark.parametrize("digests", ["", "[]", '{"four": {}}', "{}"])
def test_without_the_digests_of_its_files_a_checkpoint_is_checked_by_its_own(saved, digests):
    (saved.path / "checkpoints.json").write_text(digests)
    assert read_checkpoint(saved.path, tree(0))["step"] == 4
    change_row(saved.path / "checkpoints" / "4")
    assert steps_after_resuming(saved) == (2, [1, 2, 3])


def nest_record(folder):
    next((folder / "record").rglob("metadata")).write_text("[" * 100_000)


@pytest.mark.parametrize(
    "damage", [damage_largest, remove_arrays, change_record, change_row, nest_record]
)
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_resumes(saved, damage, capsys):
    damage(saved.path / "checkpoints" / "4")
    with pytest.raises(RecordError, match=r"can be read \(step 4: .*resumes from the one before"):
        read_checkpoint(saved.path, tree(0))
    assert steps_after_resuming(saved) == (2, [1, 2, 3])
    assert "the checkpoint of step 4 is damaged" in capsys.readouterr().err
    assert [path.name for path in (saved.path / "damaged").iterdir()] == ["4-0"]
    with open_run(saved.path) as again:
        assert again.resume(tree(0))["step"] == 2
        again.save(4, tree(4))
    assert steps_after_resuming(saved)[0] == 4


def test_a_checkpoint_that_could_not_be_written_is_one_line(saved, monkeypatch):
    """As on a disk that fills up while it is written: the folder of the step is not there."""
    import shutil

    again = open_run(saved.path)
    again.resume(tree(0))
    again.save(6, tree(6))
    again.checkpoints._manager().wait_until_finished()
    shutil.rmtree(saved.path / "checkpoints" / "6")
    with pytest.raises(RecordError, match=r"of step 6 could not be written in .* are kept"):
        again.close()
    assert steps_after_resuming(saved)[0] == 4


def test_bits_that_changed_are_noticed(saved):
    """Whatever the format's own checks are worth: the digest is of the arrays that were saved."""
    from experiments.running.checkpoints import digest

    one, other = tree(4), tree(4)
    other["params"]["w"] = other["params"]["w"].at[1].add(2**-20)
    assert digest(one) == digest(tree(4)) != digest(other)
    assert digest({"a": jnp.zeros(2)}) != digest({"b": jnp.zeros(2)})
    assert digest({"a": jnp.zeros(2)}) != digest({"a": jnp.zeros(2, jnp.int32)})


def test_checkpoints_none_of_which_can_be_read_are_left_where_they_are(saved):
    other = {"step": jnp.int32(0), "params": {"other": jnp.zeros((2, 2))}}
    with open_run(saved.path) as again, pytest.raises(RecordError) as refusal:
        again.resume(other)
    message = one_line(refusal)
    assert str(saved.path / "checkpoints") in message
    assert "remove that folder" in message
    assert steps_after_resuming(saved)[0] == 4


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
