"""The report: what validation chose beside the paper's curve at the same step."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

from experiments import config as configuration
from experiments import finished, points
from experiments.figures import tables
from scripts import draw

ROOT = Path(__file__).parent.parent
CONFIG = {
    "task": "vae", "model.num_classes": 10, "objective": "elbo", "temperature.rate": 1e-4,
    "num_samples": 0, "data.name": "mnist", "data.dir": "/somewhere/secret",
}  # fmt: skip


def write_run(sweep, name, estimator, rate, seed, valid, test, steps=50_000, **changes):
    """The folder of a finished run; test None: a pilot."""
    folder = sweep / "points" / name
    folder.mkdir(parents=True)
    config = CONFIG | {"estimator": estimator, "optimizer.learning_rate": rate, "seed": seed}
    result = {"valid_nll_m100": valid, "steps": steps, "config_hash": name}
    result |= {} if test is None else {"test_nll_m1000": test}
    rows = [
        {"step": at, "loss": 120.0, "valid_nll_m100": valid, "curve_nll_m1000": curve}
        for at, curve in ((steps // 2, 113.0), (steps, 111.0))
    ]
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "provenance.json").write_text(
        json.dumps([{"command": "python -m a --b=1 --workdir=secret"}])
    )
    text = "".join(json.dumps(row) + "\n" for row in [{"step": 1, "loss": 200.0}, *rows])
    (folder / "metrics.jsonl").write_text(text)


def report(*options):
    return subprocess.run(
        [sys.executable, "-m", "experiments.report", *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    sweep = tmp_path_factory.mktemp("sweep")
    # By validation the first rate, though the second one's test bound is lower.
    write_run(sweep, "a", "gumbel_softmax", 1e-3, 0, 110.0, 108.0)
    write_run(sweep, "b", "gumbel_softmax", 1e-3, 1, 111.0, 109.0)
    write_run(sweep, "c", "gumbel_softmax", 3e-3, 0, 112.0, 100.0)
    write_run(sweep, "d", "gumbel_softmax", 3e-3, 1, 112.0, 100.0)
    write_run(sweep, "e", "score_function", 1e-3, 0, 120.0, 119.0)
    # Between 5,000 and 20,000 steps the paper's curve is off its plot.
    write_run(sweep, "h", "gumbel_softmax", 1e-3, 0, 110.0, 108.0, steps=10_000)
    write_run(sweep, "i", "gumbel_softmax", 1e-3, 0, 110.0, 108.0, steps=22_500)
    write_run(sweep, "f", "reinmax", 1e-3, 0, 109.0, 107.5)
    write_run(sweep, "p", "darn", 1e-3, 0, 99.0, None, steps=100)
    write_run(sweep, "g", "gumbel_softmax", 1e-3, 0, 62.0, 59.0, task="sbn")
    ended = report(f"--runs={sweep}", f"--out={sweep / 'out'}")
    assert ended.returncode == 0, ended.stderr
    return sweep / "out", ended.stdout


def test_validation_chooses_and_the_test_bound_stands_beside_the_paper_s_at_that_step(written):
    out, _ = written
    rows = {
        (row["task"], row["estimator"]): row
        for row in read(out / "table1.csv")
        if row["steps"] == "50000"
    }
    assert len(rows) == 4
    other = {row["steps"]: row["paper_nats"] for row in read(out / "table1.csv")}
    assert other["10000"] == ""
    assert 111.9 < float(other["22500"]) < 114.0
    row = rows["cat_vae", "gumbel_softmax"]
    assert (row["learning_rate"], row["seeds"], row["steps"]) == ("0.001", "2", "50000")
    assert float(row["test_nats"]) == 108.5
    assert float(row["valid_nats"]) == 110.5
    assert float(row["stderr"]) == 0.5
    assert float(row["paper_nats"]) == pytest.approx(106.65)  # its curve at 50,000
    assert row["config_hash"] == "a"
    one_seed = rows["cat_vae", "score_function"]
    assert one_seed["stderr"] == ""
    assert float(one_seed["paper_nats"]) == pytest.approx(120.17)
    assert rows["cat_vae", "reinmax"]["paper_nats"] == ""
    assert float(rows["cat_sbn", "gumbel_softmax"]["paper_nats"]) == pytest.approx(65.51)


def test_curves_end_in_the_result_and_pilots_are_kept_apart(written):
    out, _ = written
    of_a = [r for r in read(out / "curves.csv") if r["estimator"] == "reinmax"]
    assert [(r["step"], float(r["test_nats"])) for r in of_a] == [
        ("25000", 109.5),
        ("50000", 107.5),
    ]
    pilot, *others = read(out / "pilots.csv")
    assert (pilot["estimator"], pilot["valid_nats"], pilot["steps"]) == ("darn", "99.0", "100")
    # Beside it what was run in full and not chosen, without its test bound.
    assert [row["config_hash"] for row in others] == ["c", "d"]
    assert "test_nats" not in pilot


def test_the_table_is_printed_and_provenance_kept_without_places(written):
    out, printed = written
    assert "| `gumbel_softmax` |  | 59.00 (65.5) |  | 108.50 ± 0.50 (106.7) |" in printed
    assert "| `reinmax` |  |  |  | 107.50 |" in printed
    assert (out / "table1.md").read_text().strip() in printed
    about = json.loads((out / "table1.json").read_text())
    assert set(about["runs"]) == {"a", "e", "f", "g", "h", "i"}
    assert about["runs"]["a"]["seeds"].keys() == {"0", "1"}
    assert about["runs"]["a"]["provenance"]["command"] == "python -m a --b=1"
    assert "secret" not in (out / "table1.json").read_text()
    for name in ("figure3", "figure4"):
        assert matplotlib.image.imread(out / f"{name}.png")[..., :3].std() > 0.01


def test_an_earlier_report_is_kept_and_added_to(written, tmp_path):
    """Alone it is written anew as it was; beside new runs it competes with them by validation."""
    out, _ = written
    assert report(f"--runs={out}", f"--out={tmp_path / 'again'}").returncode == 0
    for name in ("table1.csv", "table1.md", "pilots.csv"):
        assert (tmp_path / "again" / name).read_text() == (out / name).read_text()
    assert {tuple(row.items()) for row in read(tmp_path / "again" / "curves.csv")} >= {
        tuple(row.items()) for row in read(out / "curves.csv") if row["estimator"] == "reinmax"
    }
    write_run(tmp_path / "new", "f", "reinmax", 1e-3, 0, 109.0, 107.5)  # the report has it
    write_run(tmp_path / "new", "z", "reinmax", 1e-3, 1, 108.0, 106.0)
    write_run(tmp_path / "new", "y", "score_function", 3e-3, 0, 121.0, 100.0)
    added = report(f"--runs={out}", f"--runs={tmp_path / 'new'}", f"--out={tmp_path / 'both'}")
    assert added.returncode == 0, added.stderr
    rows = {(row["estimator"], row["steps"]): row for row in read(tmp_path / "both" / "table1.csv")}
    assert float(rows["score_function", "50000"]["test_nats"]) == 119.0
    assert float(rows["reinmax", "50000"]["test_nats"]) == 106.75  # the mean of two seeds
    assert rows["reinmax", "50000"]["seeds"] == "2"


def made(tmp_path, runs):
    """The report of a sweep whose runs are (estimator, rate, seed, valid, test, changes)."""
    for number, (*run, changes) in enumerate(runs):
        write_run(tmp_path, f"run{number}", *run, **changes)
    ended = report(f"--runs={tmp_path}", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    return tmp_path / "out", ended.stdout


DECAY = {"optimizer.weight_decay": 0.01, "temperature.floor": 0.3}


def test_settings_that_the_column_was_not_offered_have_a_row_and_a_note_of_their_own(tmp_path):
    """Even where they did best on validation; the run that was offered the same keeps its cell."""
    out, printed = made(tmp_path, [
        ("gumbel_softmax", 3e-3, 0, 110.0, 108.5, {}),
        ("gumbel_softmax", 1e-2, 0, 105.0, 104.1, DECAY),
        ("st_gumbel_softmax", 3e-3, 0, 109.5, 108.1, {}),
        ("st_gumbel_softmax", 1e-2, 0, 109.9, 107.1, DECAY),  # worse on validation: not shown
        ("darn", 3e-3, 0, 109.8, 108.2, {}),
        ("reinmax", 3e-3, 0, 108.0, 107.0, {"optimizer.final_share": 0.0}),
    ])  # fmt: skip
    note = "`optimizer.learning_rate` 0.01; `optimizer.weight_decay` 0.01; `temperature.floor` 0.3"
    assert "| `gumbel_softmax` |  |  |  | 108.50 (106.7) |" in printed
    assert "| `gumbel_softmax`, other settings |  |  |  | 104.10 [1] (106.7) |" in printed
    assert "| `reinmax` |  |  |  | 107.00 [2] |" in printed  # it has no other cell
    assert f"* [1] {note}\n* [2] `optimizer.final_share` 0.0\n" in printed
    marks = {row["config_hash"]: row["other_settings"] for row in read(out / "table1.csv")}
    assert marks["run1"] == note
    assert [marks.get(f"run{number}") for number in (0, 2, 3, 4)] == ["", "", None, ""]
    # A later report has both cells, with the curve of each.
    again = report(f"--runs={out}", f"--out={tmp_path / 'again'}")
    assert again.returncode == 0, again.stderr
    for name in ("table1.csv", "table1.md"):
        assert (tmp_path / "again" / name).read_text() == (out / name).read_text()
    curves = {
        (row["row"], row["step"]): float(row["test_nats"])
        for row in read(tmp_path / "again" / "curves.csv")
    }
    assert curves["run0", "50000"] == 108.5
    assert curves["run1", "50000"] == 104.1


def test_an_estimator_that_was_tried_with_fewer_rates_is_marked(tmp_path):
    """What was tried is known by pilots, and by runs in full that were not chosen."""
    runs = [
        ("gumbel_softmax", 3e-3, 0, 110.0, 108.5, {}),
        ("gumbel_softmax", 1e-3, 0, 115.0, None, {"steps": 20_000}),
        ("darn", 3e-3, 0, 109.5, 108.1, {}),
        ("darn", 1e-3, 0, 111.5, 108.0, {}),
        ("rebar", 1e-3, 0, 108.0, 107.0, {}),
    ]
    out, printed = made(tmp_path, runs)
    assert "| `rebar` |  |  |  | 107.00 [1] |" in printed
    assert "* [1] `optimizer.learning_rate` 0.003 not tried\n" in printed
    assert printed.count("[1]") == 3  # its cell, its note and what such numbers are
    again = report(f"--runs={out}", f"--out={tmp_path / 'again'}")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "table1.md").read_text() == (out / "table1.md").read_text()


def test_settings_that_the_pilots_of_most_had_are_not_marked(tmp_path):
    """The weight decay is a choice of one estimator, once the others were offered it too."""
    pilot = {"optimizer.weight_decay": 0.01, "steps": 20_000}
    _, printed = made(tmp_path, [
        ("gumbel_softmax", 3e-3, 0, 110.0, 108.5, {"optimizer.weight_decay": 0.01}),
        ("gumbel_softmax", 3e-3, 0, 115.0, None, {"steps": 20_000}),
        ("darn", 3e-3, 0, 109.5, 108.1, {}),
        ("darn", 3e-3, 0, 119.5, None, pilot),
        ("muprop", 3e-3, 0, 109.5, 109.1, {}),
        ("muprop", 3e-3, 0, 119.5, None, pilot),
    ])  # fmt: skip
    assert "| `gumbel_softmax` |  |  |  | 108.50 (106.7) |" in printed
    assert "[1]" not in printed


@pytest.mark.parametrize(
    ("seeds", "spread", "changes", "bold"),
    [(3, 0.1, {}, True), (3, 2.0, {}, False), (2, 0.1, {}, False), (1, 0.0, {}, False),
     (3, 0.1, DECAY, False)],
    ids=["clear", "within errors", "two seeds", "one seed", "other settings"],
)  # fmt: skip
def test_bold_is_what_leads_by_more_than_seeds_move(seeds, spread, changes, bold, tmp_path):
    """By more than three standard errors of the difference, with three seeds of the same offer."""
    runs = [
        (estimator, 3e-3, seed, nats + 1, nats + spread * (seed - 1), own)
        for estimator, nats, own in (
            ("gumbel_softmax", 105.0, changes), ("darn", 108.0, {}), ("muprop", 108.1, {}),
        )
        for seed in range(seeds)
    ]  # fmt: skip
    _, printed = made(tmp_path, runs)
    assert ("**105.00 ± 0.06** (106.7)" in printed) == bold
    assert printed.count("**") == 2 * bold
    assert ("One seed each: how far another seed would move a cell is not known" in printed) == (
        seeds == 1
    )
    assert ("±: standard error of the mean over the seeds" in printed) == (seeds > 1)


def test_the_figure_keeps_the_two_cells_of_an_estimator_apart(monkeypatch, tmp_path):
    """Each has a line of its own, dotted if its column was not offered its settings."""
    kept = []
    monkeypatch.setattr(tables, "save", lambda figure, path: kept.append(figure))
    rows = [
        {"task": "bern_vae", "estimator": "gumbel_softmax", "step": step, "row": row,
         "test_nats": nats}
        for row, nats in (("a", 108.5), ("b", 104.1)) for step in (1, 2)
    ]  # fmt: skip
    cells = [
        {"task": "bern_vae", "estimator": "gumbel_softmax", "config_hash": row,
         "other_settings": text}
        for row, text in (("a", ""), ("b", "`temperature.floor` 0.3"))
    ]  # fmt: skip
    paper = {("bern_vae", "gumbel_softmax"): ([1, 2], [106.0, 105.5])}
    tables.draw_overlay(rows, cells, paper, {"bern_vae": "VAE"}, tmp_path / "figure.png")
    lines = {line.get_linestyle(): list(line.get_ydata()) for line in kept[0].axes[0].lines}
    assert lines == {"-": [108.5, 108.5], ":": [104.1, 104.1], "--": [106.0, 105.5]}
    plt.close(kept[0])


def test_the_committed_table_1_marks_what_its_column_was_not_offered():
    """The README counts the other cells, below the paper's curves and above."""
    rows = read(ROOT / "results" / "table1" / "table1.csv")
    marked = {(r["task"], r["estimator"], r["test_nats"]) for r in rows if r["other_settings"]}
    assert ("bern_vae", "gumbel_softmax", "104.10265") in marked
    assert ("cat_sbn", "darn", "64.01539") in marked
    beyond = {"rloo", "disarm", "rebar", "reinmax", "iwae_reinmax"}
    assert {name for _, name, _ in marked} == beyond | {"gumbel_softmax", "darn"}
    equal = [row for row in rows if not row["other_settings"]]
    assert ("bern_vae", "gumbel_softmax", "108.53777") in {
        (row["task"], row["estimator"], row["test_nats"]) for row in equal
    }
    assert len(equal) == 28
    differences = [
        float(row["test_nats"]) - float(row["paper_nats"]) for row in equal if row["paper_nats"]
    ]
    below, above = (sum(sign * one > 1 for one in differences) for sign in (-1, 1))
    near = len(differences) - below - above
    words = " ".join((ROOT / "README.md").read_text().split())
    assert (
        f"Of the {len(differences)} other cells for which the paper has a curve, {below} are below "
        f"it by more than 1 nat, {above} are above it by more, and {near} are nearer." in words
    )


# --- Table 2 -----------------------------------------------------------------------------------


def write_classifier(sweep, name, estimator, alpha, seed, valid, test, **changes):
    """A finished semi-supervised run; test None: a pilot."""
    write_run(sweep, name, estimator, 1e-3, seed, 110.0, test and 109.0, task="semisupervised",
              alpha=alpha, batch_size=100, **changes)  # fmt: skip
    folder = sweep / "points" / name
    result = json.loads((folder / "result.json").read_text()) | {"valid_accuracy": valid}
    result |= {} if test is None else {"test_accuracy": test, "test_marginal_nll": 107.0 + seed}
    (folder / "result.json").write_text(json.dumps(result))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[1]["valid_accuracy"], rows[2]["valid_accuracy"] = valid - 0.1, valid
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_table_2_goes_by_the_accuracy_on_validation(tmp_path):
    add = lambda *arguments, **changes: write_classifier(tmp_path, *arguments, **changes)  # noqa: E731
    add("a", "exact", 0.1, 0, 0.93, 0.92)
    add("b", "exact", 0.1, 1, 0.95, 0.94)
    add("c", "exact", 1.0, 0, 0.90, 0.99)  # what the paper would report
    add("d", "reinmax", 1.0, 0, 0.91, 0.905)
    add("p", "reinmax", 0.1, 0, 0.50, None)
    add("e", "exact", 0.1, 0, 0.98, 0.975, **{"consistency.weight": 1.0})
    ended = report(f"--runs={tmp_path}", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    rows = {(row["inference"], row["config"]): row for row in read(tmp_path / "out" / "table2.csv")}
    assert len(rows) == 3
    row = rows["exact", "configs/semisup.py"]
    assert (row["seeds"], row["steps"], row["alpha"]) == ("2", "50000", "0.1")
    assert (float(row["elbo"]), float(row["elbo_stderr"])) == (-107.5, 0.5)
    assert float(row["accuracy"]) == pytest.approx(93.0)
    assert float(row["accuracy_stderr"]) == pytest.approx(1.0)
    assert (row["paper_elbo"], row["paper_accuracy"]) == ("-106.8", "92.6")
    assert float(row["best_test_accuracy"]) == pytest.approx(99.0)
    assert rows["reinmax", "configs/semisup.py"]["accuracy_stderr"] == ""
    assert rows["reinmax", "configs/semisup.py"]["paper_elbo"] == ""
    assert float(rows["exact", "configs/semisup_best.py"]["accuracy"]) == pytest.approx(97.5)
    shown = (tmp_path / "out" / "table2.md").read_text()
    assert "(`exact`) | `semisup` | 1, 0.1 | 50,000 x 100 | 2 | -107.5 ± 0.5 (-106.8)" in shown
    about = json.loads((tmp_path / "out" / "table2.json").read_text())
    assert [pilot["alpha"] for pilot in about["pilots"]] == [0.1]
    assert "secret" not in (tmp_path / "out" / "table2.json").read_text()
    assert not (tmp_path / "out" / "table1.csv").exists()
    curves = {
        (point["run"], point["step"]): point
        for point in read(tmp_path / "out" / "table2_curves.csv")
    }
    assert {run: point["row"] for (run, _), point in curves.items()} == {
        "a": "a", "b": "a", "c": "", "d": "d", "e": "e"
    }  # fmt: skip
    point = curves["b", "25000"]
    assert (float(point["bound"]), float(point["accuracy"])) == (-110.0, 85.0)
    assert float(curves["b", "50000"]["accuracy"]) == 95.0
    height, width, _ = matplotlib.image.imread(tmp_path / "out" / "table2.png").shape
    assert 400 < height < width < 4000


def test_table_2_says_what_its_errors_are_and_which_rows_they_tell_apart(tmp_path):
    accuracies = {
        "exact": (0.94, 0.941, 0.942),
        "gumbel_softmax": (0.90, 0.92, 0.94),  # too far apart to place it
        "rloo": (0.919, 0.92, 0.921),
        "reinmax": (0.80, 0.801),  # of two seeds
        "st_gumbel_softmax": (0.70,),
    }
    for estimator, of_seeds in accuracies.items():
        for seed, accuracy in enumerate(of_seeds):
            name = f"{estimator}{seed}"
            write_classifier(tmp_path, name, estimator, 1.0, seed, accuracy, accuracy)
    # No row of another config or length is compared with these.
    for seed in range(3):
        write_classifier(
            tmp_path, f"longer{seed}", "rloo", 1.0, seed, 0.99, 0.99, steps=60_000, num_steps=60_000
        )
    ended = report(f"--runs={tmp_path}", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    shown = (tmp_path / "out" / "table2.md").read_text()
    assert "±: standard error of the mean over the seeds; a row of one seed has none." in shown
    assert "| 94.1 ± 0.1 (92.6) |" in shown
    assert "| 1 | -107.0 (-110.7) | 70.0 (93.6) |" in shown
    assert shown.endswith("* bound: none\n* accuracy: `exact` above `rloo`\n")


def test_rivals_in_table_2_are_compared_by_the_seeds_that_all_of_them_have(tmp_path):
    """A second seed with worse luck must not take the row from the choice that did better."""
    write_classifier(tmp_path, "a", "exact", 0.1, 0, 0.93, 0.92)
    write_classifier(tmp_path, "b", "exact", 0.1, 1, 0.85, 0.86)
    write_classifier(tmp_path, "c", "exact", 1.0, 0, 0.92, 0.91)
    ended = report(f"--runs={tmp_path}", f"--out={tmp_path / 'out'}")
    assert ended.returncode == 0, ended.stderr
    (row,) = read(tmp_path / "out" / "table2.csv")
    assert (row["seeds"], row["alpha"]) == ("2", "0.1")


def test_an_earlier_table_2_is_kept_and_added_to(tmp_path):
    """Alone it is written anew as it was; a new seed joins the others, a new config competes."""
    write_classifier(tmp_path, "a", "exact", 0.1, 0, 0.93, 0.92)
    write_classifier(tmp_path, "c", "exact", 1.0, 0, 0.90, 0.99)
    write_classifier(tmp_path, "p", "exact", 10.0, 0, 0.50, None)
    earlier, again, both = (tmp_path / name for name in ("earlier", "again", "both"))
    for runs, out in ((tmp_path, earlier), (earlier, again)):
        ended = report(f"--runs={runs}", f"--out={out}")
        assert ended.returncode == 0, ended.stderr
    for name in ("table2.csv", "table2_curves.csv"):
        assert (again / name).read_text() == (earlier / name).read_text()
    pilots = [json.loads((out / "table2.json").read_text())["pilots"] for out in (earlier, again)]
    assert pilots[0] == pilots[1] != []
    # A field that the first has not yet, at its default.
    write_classifier(
        tmp_path / "new", "b", "exact", 0.1, 1, 0.95, 0.94, **{"optimizer.momentum": 0.9}
    )
    write_classifier(tmp_path / "new", "c", "exact", 1.0, 0, 0.90, 0.99)  # the report has it
    assert (
        report(f"--runs={earlier}", f"--runs={tmp_path / 'new'}", f"--out={both}").returncode == 0
    )
    (row,) = read(both / "table2.csv")
    assert (row["seeds"], row["alpha"]) == ("2", "0.1")
    assert float(row["accuracy"]) == pytest.approx(93.0)
    assert float(row["best_test_accuracy"]) == pytest.approx(99.0)
    entries = json.loads((both / "table2.json").read_text())["runs"].values()
    assert sorted(list(entry["provenances"]) for entry in entries) == [["0"], ["0", "1"]]
    curves = read(both / "table2_curves.csv")
    assert [(point["run"], point["row"]) for point in curves[::2]] == [
        ("a", "a"), ("b", "a"), ("c", "")
    ]  # fmt: skip
    drawn = (both / "table2.png").read_bytes()
    (both / "table2.png").unlink()
    assert draw.draw(both) == [both / "table2.png"]
    assert (both / "table2.png").read_bytes() == drawn
    # A row whose report kept no learning curve stands with its test values alone.
    lines = (both / "table2_curves.csv").read_text().splitlines(keepends=True)
    (both / "table2_curves.csv").write_text("".join(lines[:1] + lines[-2:]))
    assert draw.draw(both) == [both / "table2.png"]
    assert (both / "table2.png").read_bytes() != drawn


def test_pilots_alone_make_no_table_2(tmp_path):
    write_classifier(tmp_path, "p", "exact", 0.1, 0, 0.9, None)
    ended = report(f"--runs={tmp_path}")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no run has a test accuracy: all are pilots" in ended.stderr


def test_folders_that_cannot_serve_are_told_in_one_line(tmp_path):
    ended = report(f"--runs={tmp_path}")
    assert ended.returncode == 1
    assert "holds no finished runs of a sweep" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [1, 2])
def test_the_readme_shows_the_committed_table(number):
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition(f"<!-- table {number} -->\n")[2].partition("\n<!-- end -->")[0]
    committed = ROOT / "results" / f"table{number}" / f"table{number}.md"
    assert shown == committed.read_text().strip()


def test_the_committed_table_2_is_what_its_sweep_asks_for():
    """Though its runs were made one by one: they have the fields of the sweep's points."""

    def own(fields):
        return json.dumps({k: v for k, v in fields.items() if k != "data.dir"}, sort_keys=True)

    measured = {own(run.config) for run in finished.load([ROOT / "results" / "table2"])}
    for point in points.load_sweep(str(ROOT / "configs/sweeps/table2_cpu.py")).points:
        assert own(dict(configuration.fields(point.config))) in measured, point.overrides
