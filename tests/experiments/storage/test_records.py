"""The record of a finished run: what is malformed is one line that says where and what."""

import hashlib
import json
import math

import pytest

from experiments.storage import records
from experiments.storage.errors import RecordError
from experiments.storage.records import read_run, write_result

CONFIG = {"task": "vae", "estimator": "gumbel_softmax", "seed": 0}
RESULT = {"steps": 20, "config_hash": "a", "valid/nll": 110.0, "test/nll": None}
ROWS = [{"step": 10, "loss": 2.0, "valid/nll": 111.0}, {"step": 20, "loss": None}]


def write(folder, config=CONFIG, result=RESULT, rows=ROWS, starts=({"command": "c"},)):
    for name, value in (("config", config), ("result", result), ("provenance", starts)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_a_run_is_what_its_folder_holds(tmp_path):
    run = read_run(write(tmp_path, starts=[{"command": "first"}, {"command": "last"}]))
    assert (run.config, run.result, run.rows) == (CONFIG, RESULT, ROWS)
    assert run.provenance == {"command": "last"}
    assert (run.task, run.estimator, run.seed, run.steps) == ("vae", "gumbel_softmax", 0, 20)
    assert run.value("valid/nll") == 110.0
    assert math.isnan(run.value("test/nll"))
    with pytest.raises(RecordError, match="field 'test/accuracy': expected a number, got nothing"):
        run.value("test/accuracy")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", '"seed": 0', '"seed": 1'),
        ("metrics.jsonl", "111.0", "117.0"),
        ("result.json", "110.0", "117.0"),
    ],
)
def test_a_number_that_changed_on_the_disk_is_noticed(tmp_path, name, old, new):
    write_result(write(tmp_path), CONFIG | {"data.dir": "/elsewhere"}, ROWS, RESULT)
    assert read_run(tmp_path).result == RESULT
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new))
    with pytest.raises(RecordError, match="do not have the SHA-256") as refusal:
        read_run(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("objective", "estimator", "name"),
    [("elbo", "rloo", "rloo"), ("iwae", "gumbel_softmax", "iwae"), ("iwae", "reinmax",
     "iwae_reinmax"), ("vimco", "score_function", "vimco")],
)  # fmt: skip
def test_a_multi_sample_objective_is_part_of_the_name(objective, estimator, name, tmp_path):
    config = CONFIG | {"objective": objective, "estimator": estimator}
    assert read_run(write(tmp_path, config)).estimator == name


def test_settings_are_the_configuration_without_seed_and_place(tmp_path):
    one = read_run(write(tmp_path, CONFIG | {"seed": 3, "data.dir": "/a", "alpha": 1.0}))
    two = read_run(write(tmp_path, {"alpha": 1.0} | CONFIG))
    three = read_run(write(tmp_path, {"alpha": 2.0} | CONFIG))
    assert one.settings == two.settings != three.settings


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"result": {}}, "result.json: field 'steps': expected a whole number, got nothing"),
        ({"result": []}, "result.json: expected an object, got []"),
        ({"result": RESULT | {"steps": 1.5}}, "field 'steps': expected a whole number, got 1.5"),
        ({"result": RESULT | {"steps": True}}, "field 'steps': expected a whole number, got True"),
        (
            {"result": RESULT | {"test/nll": "low"}},
            "result.json: field 'test/nll': expected a number or null, got 'low'",
        ),
        ({"config": {"task": "vae"}}, "config.json: field 'estimator': expected text, got nothing"),
        ({"config": CONFIG | {"task": 3}}, "config.json: field 'task': expected text, got 3"),
        ({"starts": []}, "provenance.json: expected a list of starts, got []"),
        ({"starts": [3]}, "provenance.json, start 1: expected an object, got 3"),
        ({"rows": [{"loss": 1.0}]}, "metrics.jsonl, line 1: field 'step': expected a whole number"),
        (
            {"rows": [ROWS[0], {"step": 20, "valid/nll": [1]}]},
            "metrics.jsonl, line 2: field 'valid/nll': expected a number or null, got [1]",
        ),
        (
            {"rows": [ROWS[0], '{"step": 15, "lo', ROWS[1]]},
            'metrics.jsonl, line 2: expected a JSON object, got \'{"step": 15, "lo\'',
        ),
        (
            {"rows": [*ROWS, ROWS[1]]},
            "metrics.jsonl, line 3: field 'step': expected more than 20, the step of the row "
            "before, got 20",
        ),
        ({"rows": ["x" * 1_000]}, "metrics.jsonl, line 1: expected a JSON object, got 'xxx"),
    ],
)
def test_a_malformed_record_is_one_line(parts, message, tmp_path):
    with pytest.raises(RecordError) as refusal:
        read_run(write(tmp_path, **parts))
    assert f"{tmp_path}/" in str(refusal.value)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("name", ["config.json", "provenance.json", "result.json", "metrics.jsonl"])
@pytest.mark.parametrize("damage", [None, b"\xff\xfe\x00 not text", b"[" * 100_000])
def test_a_missing_or_damaged_file_is_named(name, damage, tmp_path):
    path = write(tmp_path) / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(RecordError) as refusal:
        read_run(tmp_path)
    assert str(path) in str(refusal.value)
    expected = (
        "cannot be read" if damage is None
        else "expected a JSON object" if name == "metrics.jsonl" and b"[" in damage
        else "is damaged"
    )  # fmt: skip
    assert expected in str(refusal.value)


def test_digests_of_earlier_versions_hold_for_configurations_with_fields_added_since():
    """The config.json of a folder has the fields of the version that started in it last."""
    rows = [{"step": 1, "loss": 2.0}]
    oldest = {"task": "semisupervised", "seed": 0, "data.dir": "/data"}
    later = oldest | {"entropy_weight": 1.0}
    now = later | {"num_estimates": 1}

    def as_they_wrote(config):
        what = {name: value for name, value in config.items() if name != "data.dir"}
        return hashlib.sha256(json.dumps([what, rows], sort_keys=True).encode()).hexdigest()

    for config in (oldest, later):
        assert records.is_digest(as_they_wrote(config), now, rows)
        assert records.is_digest(as_they_wrote(config), config, rows)
    assert records.is_digest(records.digest(now, rows), oldest, rows)
    for changed in (now | {"num_estimates": 2}, now | {"entropy_weight": 0.0}, now | {"seed": 1}):
        assert not records.is_digest(records.digest(now, rows), changed, rows)
        assert not records.is_digest(as_they_wrote(oldest), changed, rows)
        assert records.is_digest(records.digest(changed, rows), changed, rows)
    assert not records.is_digest(records.digest(now, rows), now, [*rows, {"step": 2}])
