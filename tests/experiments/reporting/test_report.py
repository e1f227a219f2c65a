"""The command, what it refuses, and whether the committed tables are fresh."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from experiments.reporting import all_tables, folders
from experiments.running import config as configuration
from experiments.storage.errors import RecordError, ReportError
from experiments.storage.records import identity
from experiments.sweeping import points

from .finished_runs import PAPER, ROOT, read, report, write_run


def command(*options, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "experiments.report", *options],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_the_command_writes_a_table_and_prints_it(tmp_path):
    write_run(tmp_path, "a", "reinmax", 1e-3, 0, 109.0, 107.5)
    ended = command(f"--runs={tmp_path}")
    assert ended.returncode == 0, ended.stderr
    assert "| `reinmax` |  |  |  | 107.50 |" in ended.stdout
    assert ended.stdout.endswith(f"written to {tmp_path / 'report'}\n")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "table1.csv", "table1.md", "table1.html", "table1.json", "curves.csv", "figure4.png",
    }  # fmt: skip


@pytest.mark.parametrize("place", ["empty", "damaged"])
def test_folders_that_cannot_serve_are_reported_in_one_line(place, tmp_path):
    if place == "damaged":
        folder = write_run(tmp_path, "a", "reinmax", 1e-3, 0, 109.0, 107.5)
        (folder / "result.json").write_text("{}")
    ended = command(f"--runs={tmp_path}")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_runs_of_several_data_sets_are_not_compared_and_other_ones_not_with_the_paper(tmp_path):
    write_run(tmp_path, "a", "gumbel_softmax", 1e-3, 0, 109.0, 107.5)
    assert "| 107.50 (106.7) |" in report(tmp_path / "mnist", tmp_path)
    write_run(tmp_path, "b", "rloo", 1e-3, 0, 50.0, 40.0, **{"data.name": "digits"})
    ended = command(f"--runs={tmp_path}")
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        "error: Table 1: test nats by estimator: the runs are on several"
    )
    assert ended.stderr.endswith("(digits, mnist); report those of each apart\n")
    shutil.rmtree(tmp_path / "points" / "a")
    shown = report(tmp_path / "digits", tmp_path)
    assert "| 40.00 |" in shown
    assert "the paper's best" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cells", "--runs=a"], "--cells concerns results/ alone and excludes --runs"),
        (["--check", "--cells"], "--check concerns results/ alone and excludes --cells"),
        (["--cells", "--offered=a"], "--cells concerns results/ alone and excludes --offered"),
        (["--runs=a", "--html=b", "--out=c"], "--html writes one page instead of tables and"
         " excludes --out"),
        (["--runs=a", "--html=b", "--offered=c"], "--html writes one page instead of tables and"
         " excludes --offered"),
    ],
)  # fmt: skip
def test_options_that_exclude_each_other_are_refused(options, message):
    ended = command(*options)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {message}")


def test_an_unknown_option_is_one_line():
    ended = command("--run=a")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: Unknown command line flag 'run'. Did you mean: ")
    assert ended.stderr.count("\n") == 1


def test_neither_reading_runs_nor_writing_a_table_imports_jax_or_flax(tmp_path):
    write_run(tmp_path, "a", "reinmax", 1e-3, 0, 109.0, 107.5)
    code = f"""
import sys
from pathlib import Path
from experiments import report
from experiments.reporting import all_tables, folders
tables = all_tables(Path({str(PAPER)!r}))
folders.write(tables[0], folders.find([Path({str(tmp_path)!r})], tables), Path(sys.argv[1]))
print([name for name in ("jax", "flax", "gsm", "configs", "ml_collections") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout == "[]\n", ended.stderr
    assert (tmp_path / "out" / "figure4.png").is_file()


@pytest.fixture
def results(tmp_path):
    """A copy of the committed reports without figures."""
    for name in ("table1", "table2"):
        shutil.copytree(
            ROOT / "results" / name, tmp_path / name, ignore=shutil.ignore_patterns("*.png")
        )
    return tmp_path


def outdated(results):
    return folders.outdated(all_tables(PAPER), results)


def test_the_committed_tables_are_what_their_runs_make(results):
    assert outdated(results) == []


@pytest.mark.parametrize(
    "name",
    ["table1/table1.csv", "table1/table1.md", "table1/table1.html", "table1/curves.csv",
     "table1/pilots.csv", "table2/table2.csv", "table2/table2.md", "table2/table2_curves.csv"],
)  # fmt: skip
def test_a_changed_file_is_outdated(name, results):
    """In its last line: changed curves and pilots are read, and found where they do not belong."""
    text = (results / name).read_text()
    last = text.splitlines(keepends=True)[-1]
    (results / name).write_text(text + last)
    if name.endswith("_curves.csv") or name == "table1/curves.csv":
        with pytest.raises(RecordError, match="step"):
            outdated(results)
    else:
        assert [one for one in outdated(results) if str(results / name) in one]


def test_a_missing_file_and_what_no_report_would_keep_are_found(results):
    (results / "table2" / "table2.html").unlink()
    path = results / "table1" / "table1.json"
    about = json.loads(path.read_text())
    next(iter(about["runs"].values()))["config"]["data.dir"] = "/somewhere"
    path.write_text(json.dumps(about))
    json_differs, html_differs = outdated(results)
    assert json_differs == f"{path} differs from what a report keeps of its runs"
    assert html_differs.startswith(f"{results / 'table2' / 'table2.html'} differs")


def test_the_check_exits_with_1_and_names_what_differs(results, tmp_path):
    """The command, in a folder with results/ as in the repository."""
    shutil.copytree(PAPER, tmp_path / "results" / "paper")
    for name in ("table1", "table2"):
        (tmp_path / name).rename(tmp_path / "results" / name)
    page = tmp_path / "results" / "README.md"
    ended = command("--check", cwd=tmp_path)
    assert ended.stderr == "error: results/README.md differs from what --cells writes\n"
    assert command("--cells", cwd=tmp_path).returncode == 0
    published = "| VAE (categorical) | `muprop` | `test/nll` | 100,000 | 109.59 | 105.52 | 1 | 5 |"
    assert published in page.read_text()
    commands = [line for line in page.read_text().splitlines() if line.startswith("* [")]
    assert commands
    for line in commands:  # each with the commit that it ran at
        assert re.search(r"`python -m [^`]+` at `[0-9a-f]{7}`( with changes)?$", line), line
    assert command("--check", cwd=tmp_path).returncode == 0
    path = tmp_path / "results" / "table1" / "table1.csv"
    path.write_text(path.read_text().replace("70.16205", "60.16205"))
    assert command("--cells", cwd=tmp_path).returncode == 0
    ended = command("--check", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "error: results/table1/table1.csv differs from the table made from "
        "results/table1/table1.json\n"
    )


def test_a_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(ReportError, match="holds no report"):
        outdated(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda about: about.pop("runs"), "field 'runs': expected an object, got nothing"),
        (lambda about: about["runs"]["a"].pop("seeds"), "run a: field 'seeds': expected an object"),
        (
            lambda about: about["runs"]["a"]["seeds"]["0"].update(steps="many"),
            "run a, result: field 'steps': expected a whole number, got 'many'",
        ),
        (
            lambda about: about["runs"]["a"]["seeds"].update({"x": {}}),
            "run a: expected seeds as whole numbers, got 'x'",
        ),
        (
            lambda about: about["runs"]["a"].update(provenances={}),
            "run a, provenance: expected an object, got None",
        ),
    ],
)
def test_a_malformed_report_is_one_line(damage, message, tmp_path):
    write_run(tmp_path, "a", "reinmax", 1e-3, 0, 109.0, 107.5)
    report(tmp_path / "out", tmp_path)
    about = json.loads((tmp_path / "out" / "table1.json").read_text())
    damage(about)
    (tmp_path / "out" / "table1.json").write_text(json.dumps(about))
    with pytest.raises(RecordError) as refusal:
        report(tmp_path / "again", tmp_path / "out")
    assert message in str(refusal.value)
    assert str(tmp_path / "out" / "table1.json") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_run_without_a_field_that_the_table_shows_is_one_line(tmp_path):
    folder = write_run(tmp_path, "a", "reinmax", 1e-3, 0, 109.0, 107.5)
    config = json.loads((folder / "config.json").read_text())
    del config["temperature.rate"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecordError, match=r"points/a: field 'temperature.rate': expected a value"):
        report(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_committed_table_1_marks_what_its_column_was_not_offered():
    rows = read(ROOT / "results" / "table1" / "table1.csv")
    marked = {(r["task"], r["estimator"], r["test_nats"]) for r in rows if r["other_settings"]}
    assert ("bern_vae", "gumbel_softmax", 104.10265) in marked
    assert ("cat_sbn", "darn", 64.01539) in marked
    beyond = {"rloo", "disarm", "rebar", "reinmax", "vimco", "iwae_reinmax"}
    assert {name for _, name, _ in marked} == beyond | {"gumbel_softmax", "darn"}
    equal = [row for row in rows if not row["other_settings"]]
    assert ("bern_vae", "gumbel_softmax", 108.53777) in {
        (row["task"], row["estimator"], row["test_nats"]) for row in equal
    }
    assert len(equal) == 28


@pytest.mark.parametrize(
    ("folder", "counts"), [("table1", (26, 15, 4)), ("table1_seeds", (26, 18, 2))]
)
def test_the_documentation_counts_the_cells_below_and_above_the_paper_s_curves(folder, counts):
    rows = read(ROOT / "results" / folder / "table1.csv")
    equal = [row for row in rows if not row["other_settings"] and row["paper_nats"]]
    differences = [row["test_nats"] - row["paper_nats"] for row in equal]
    below, above = (sum(sign * one > 1 for one in differences) for sign in (-1, 1))
    assert (len(differences), below, above) == counts


def test_the_committed_table_2_is_what_its_sweep_asks_for():
    """Though its runs were made one by one: they have the fields of the points of the sweep."""
    found = folders.find([ROOT / "results" / "table2"], all_tables(PAPER))
    for point in points.load_sweep(str(ROOT / "configs/sweeps/table2_cpu.py")).points:
        wanted = json.loads(json.dumps(configuration.identity(point.config)))
        configs = [identity(run.config) for run in found.runs]
        assert wanted in configs, point.overrides
