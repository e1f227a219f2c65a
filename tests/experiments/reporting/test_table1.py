"""Table 1: what validation chose, beside the paper's curve at the same step."""

import json

import matplotlib.image
import matplotlib.pyplot as plt
import pytest

from experiments.figures import tables
from experiments.storage.errors import ReportError

from .finished_runs import read, report, write_run


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    sweep = tmp_path_factory.mktemp("sweep")
    # On validation the first rate is better, though the test bound of the second one is lower.
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
    return sweep / "out", report(sweep / "out", sweep, draw=True)


def test_validation_chooses_and_the_test_bound_stands_beside_the_paper_s_at_that_step(written):
    out, _ = written
    table = read(out / "table1.csv")
    rows = {(row["task"], row["estimator"]): row for row in table if row["steps"] == 50_000}
    assert len(rows) == 4
    other = {row["steps"]: row["paper_nats"] for row in table}
    assert other[10_000] is None
    assert 111.9 < other[22_500] < 114.0
    row = rows["cat_vae", "gumbel_softmax"]
    assert (row["learning_rate"], row["seeds"], row["steps"]) == (0.001, 2, 50_000)
    assert (row["test_nats"], row["valid_nats"], row["stderr"]) == (108.5, 110.5, 0.5)
    assert row["paper_nats"] == pytest.approx(106.65)  # its curve at 50,000
    assert row["config_hash"] == "a"
    assert rows["cat_vae", "score_function"]["stderr"] is None
    assert rows["cat_vae", "score_function"]["paper_nats"] == pytest.approx(120.17)
    assert rows["cat_vae", "reinmax"]["paper_nats"] is None
    assert rows["cat_sbn", "gumbel_softmax"]["paper_nats"] == pytest.approx(65.51)


def test_curves_end_in_the_result_and_pilots_are_kept_apart(written):
    out, _ = written
    curves = read(out / "curves.csv")
    of_reinmax = [row for row in curves if row["estimator"] == "reinmax"]
    assert [(row["step"], row["test_nats"]) for row in of_reinmax] == [
        (25_000, 109.5),
        (50_000, 107.5),
    ]
    cells = {row["run"]: row["row"] for row in curves}
    assert {name: cells[name] for name in "abcd"} == {"a": "a", "b": "a", "c": None, "d": None}
    (pilot,) = read(out / "pilots.csv")
    assert (pilot["estimator"], pilot["valid_nats"], pilot["steps"]) == ("darn", 99.0, 100)


def test_a_curve_passes_through_the_tested_value_at_the_step_that_was_tested(tmp_path):
    """Where validation chose an earlier step, the curve of fewer images goes on behind it."""
    folder = write_run(tmp_path, "a", "rloo", 1e-3, 0, 109.0, 107.5)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"selected_step": 25_000}))
    out = tmp_path / "out"
    report(out, tmp_path)
    curve = {row["step"]: row["test_nats"] for row in read(out / "curves.csv")}
    assert curve == {25_000: 107.5, 50_000: 105.5}  # the curve falls by 2 there
    report(tmp_path / "again", out)
    assert (tmp_path / "again" / "curves.csv").read_text() == (out / "curves.csv").read_text()


def test_the_table_is_printed_and_provenance_kept_without_places(written):
    out, printed = written
    assert "| `gumbel_softmax` |  | 59.00 (65.5) |  | 108.50 ± 0.50 (106.7) |" in printed
    assert "| `reinmax` |  |  |  | 107.50 |" in printed
    assert (out / "table1.md").read_text() == printed
    about = json.loads((out / "table1.json").read_text())
    assert set(about["runs"]) == {"a", "c", "e", "f", "g", "h", "i"}
    assert about["runs"]["a"]["seeds"].keys() == {"0", "1"}
    assert about["runs"]["a"]["provenances"]["0"]["command"] == "python -m a --b=1"
    assert "secret" not in (out / "table1.json").read_text()
    for name in ("figure3", "figure4"):
        assert matplotlib.image.imread(out / f"{name}.png")[..., :3].std() > 0.01


def test_an_earlier_report_is_kept_and_added_to(written, tmp_path):
    """Alone it is reproduced; beside new runs its runs compete with them on validation."""
    out, _ = written
    report(tmp_path / "again", out)
    for name in ("table1.csv", "table1.md", "pilots.csv", "curves.csv"):
        assert (tmp_path / "again" / name).read_text() == (out / name).read_text()
    write_run(tmp_path / "new", "f", "reinmax", 1e-3, 0, 109.0, 107.5)  # the report has it
    write_run(tmp_path / "new", "z", "reinmax", 1e-3, 1, 108.0, 106.0)
    write_run(tmp_path / "new", "y", "score_function", 3e-3, 0, 121.0, 100.0)
    report(tmp_path / "both", out, tmp_path / "new")
    rows = {(row["estimator"], row["steps"]): row for row in read(tmp_path / "both" / "table1.csv")}
    assert rows["score_function", 50_000]["test_nats"] == 119.0
    assert rows["reinmax", 50_000]["test_nats"] == 106.75  # the mean of two seeds
    assert rows["reinmax", 50_000]["seeds"] == 2


def test_a_run_that_was_made_again_replaces_the_earlier_one(written, tmp_path):
    """Whatever its hash: it has the same settings and the same seed."""
    out, _ = written
    write_run(tmp_path / "new", "other_hash", "reinmax", 1e-3, 0, 109.0, 107.0)
    report(tmp_path / "both", out, tmp_path / "new")
    rows = {row["estimator"]: row for row in read(tmp_path / "both" / "table1.csv")}
    assert (rows["reinmax"]["seeds"], rows["reinmax"]["test_nats"]) == (1, 107.0)
    assert rows["reinmax"]["config_hash"] == "other_hash"


def test_the_html_page_shows_the_same_cells(written):
    out, _ = written
    page = (out / "table1.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<th>estimator</th><th>SBN (Bernoulli)</th>" in page
    assert "<td><code>reinmax</code></td><td></td><td></td><td></td><td>107.50</td>" in page
    rows = [line for line in (out / "table1.md").read_text().splitlines() if line[:2] == "| "]
    assert page.count("<tr>") == len(rows)


def test_a_run_that_diverged_is_chosen_last(tmp_path):
    """Its metrics are null in the files, as JSON has no NaN."""
    folder = write_run(tmp_path, "a", "darn", 1e-3, 0, None, 1.0)
    result = json.loads((folder / "result.json").read_text()) | {"test/nll": None}
    (folder / "result.json").write_text(json.dumps(result))
    write_run(tmp_path, "b", "darn", 3e-3, 0, 120.0, 119.0)
    report(tmp_path / "out", tmp_path)
    (row,) = read(tmp_path / "out" / "table1.csv")
    assert (row["config_hash"], row["test_nats"]) == ("b", 119.0)


def made(tmp_path, runs):
    """The report of a sweep whose runs are (estimator, rate, seed, valid, test, changes)."""
    for number, (*run, changes) in enumerate(runs):
        write_run(tmp_path, f"run{number}", *run, **changes)
    return tmp_path / "out", report(tmp_path / "out", tmp_path)


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
    assert marks == {"run0": None, "run1": note, "run2": None, "run4": None,
                     "run5": "`optimizer.final_share` 0.0"}  # fmt: skip
    # A later report has both cells, with the curve of each.
    again = tmp_path / "again"
    report(again, out)
    for name in ("table1.csv", "table1.md"):
        assert (again / name).read_text() == (out / name).read_text()
    curves = {(row["row"], row["step"]): row["test_nats"] for row in read(again / "curves.csv")}
    assert curves["run0", 50_000] == 108.5
    assert curves["run1", 50_000] == 104.1


def test_an_estimator_that_was_tried_with_fewer_rates_is_marked(tmp_path):
    """Pilots, and runs in full that were not chosen, say what was tried."""
    out, printed = made(tmp_path, [
        ("gumbel_softmax", 3e-3, 0, 110.0, 108.5, {}),
        ("gumbel_softmax", 1e-3, 0, 115.0, None, {"steps": 20_000}),
        ("darn", 3e-3, 0, 109.5, 108.1, {}),
        ("darn", 1e-3, 0, 111.5, 108.0, {}),
        ("rebar", 1e-3, 0, 108.0, 107.0, {}),
    ])  # fmt: skip
    assert "| `rebar` |  |  |  | 107.00 [1] |" in printed
    assert "* [1] `optimizer.learning_rate` 0.003 not tried\n" in printed
    assert printed.count("[1]") == 3  # its cell, its note and what such numbers are
    assert report(tmp_path / "again", out) == printed


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


def test_what_others_were_offered_counts_before_their_cells_are_there(tmp_path):
    """A table that is still being filled marks what the whole one would."""
    low = {"temperature.floor": 0.3}
    _, printed = made(tmp_path, [
        ("gumbel_softmax", 3e-3, 0, 110.0, 108.5, {}),
        ("gumbel_softmax", 3e-3, 0, 107.0, 104.0, low),
        ("darn", 3e-3, 0, 115.0, None, {"steps": 20_000}),
        ("darn", 3e-3, 0, 62.0, 61.0, {"task": "sbn"}),
    ])  # fmt: skip
    assert "| `gumbel_softmax` |  |  |  | 108.50 (106.7) |" in printed
    assert "| `gumbel_softmax`, other settings |  |  |  | 104.00 [1] (106.7) |" in printed
    assert "* [1] `temperature.floor` 0.3\n" in printed


@pytest.mark.parametrize(("others", "marked"), [(("darn", "muprop"), True), (("rebar",), False)])
def test_what_the_paper_s_estimators_were_offered_counts_before_they_have_a_cell(
    others, marked, tmp_path
):
    """Those of a later one count where the table has it."""
    low = {"temperature.floor": 0.3}
    _, printed = made(tmp_path, [
        ("gumbel_softmax", 3e-3, 0, 107.0, 104.0, low),
        ("st_gumbel_softmax", 3e-3, 0, 108.0, 105.0, low),
        *((name, 3e-3, 0, 115.0, None, {"steps": 20_000}) for name in others),
    ])  # fmt: skip
    assert ("[1]" in printed) == marked


def test_runs_elsewhere_that_chose_the_settings_are_pilots_tested_or_not(tmp_path):
    """They are offers to the cells, not cells, and a later report of the table keeps them."""
    cells, chose, out = (tmp_path / name for name in ("cells", "chose", "out"))
    decays = {"gumbel_softmax": 0.01, "darn": 0.0, "muprop": 0.0}
    for estimator, decay in decays.items():
        own = {"optimizer.weight_decay": decay}
        write_run(cells, estimator, estimator, 3e-3, 0, 109.0, 108.5, **own)
        own = {"optimizer.weight_decay": 0.01 - decay}
        test = None if estimator == "muprop" else 99.0
        write_run(chose, f"{estimator}2", estimator, 3e-3, 0, 119.5, test, 20_000, **own)
    alone = report(tmp_path / "alone", cells)
    assert "* [1] `optimizer.weight_decay` 0.01\n" in alone
    printed = report(out, cells, offered=[chose])
    assert "[1]" not in printed
    assert "99.00" not in printed
    assert {row["config_hash"] for row in read(out / "pilots.csv")} == {f"{e}2" for e in decays}
    assert report(tmp_path / "again", out) == printed
    # Of an earlier report the pilots are offers as well, and its cells.
    assert report(tmp_path / "other", cells, offered=[out]) == printed


@pytest.mark.parametrize(
    ("seeds", "spread", "changes", "bold"),
    [(3, 0.1, {}, True), (3, 2.0, {}, False), (2, 0.5, {}, False), (1, 0.0, {}, False),
     (3, 0.1, DECAY, False)],
    ids=["clear", "within errors", "two seeds", "one seed", "other settings"],
)  # fmt: skip
def test_bold_is_what_leads_by_more_than_seeds_move(seeds, spread, changes, bold, tmp_path):
    """By more than three standard errors of the difference (8 do not do with two seeds)."""
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


def test_pilots_alone_make_no_table(tmp_path):
    write_run(tmp_path, "p", "darn", 1e-3, 0, 99.0, None)
    with pytest.raises(ReportError, match="no run of table1 has test/nll: all are pilots"):
        report(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


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


def test_the_last_step_stands_behind_a_slash_where_an_earlier_one_was_tested(tmp_path):
    for seed, last in ((0, 109.5), (1, None)):  # of seed 1 the last step is the best one
        path = write_run(tmp_path, f"run{seed}", "reinmax", 1e-3, seed, 109.0, 107.5)
        result = json.loads((path / "result.json").read_text())
        result |= {} if last is None else {"last/nll": last, "selected_step": 25_000}
        (path / "result.json").write_text(json.dumps(result))
    shown = report(tmp_path / "out", tmp_path)
    assert "107.50 ± 0.00 / 108.50" in shown
    assert "Behind a slash: at the last step" in shown
    (row,) = read(tmp_path / "out" / "table1.csv")
    assert (row["test_nats"], row["last_nats"]) == (107.5, 108.5)


def test_no_last_step_is_shown_where_a_run_was_tested_at_an_earlier_one_alone(tmp_path):
    for seed, last in ((0, {"last/nll": 109.5}), (1, {})):
        path = write_run(tmp_path, f"run{seed}", "reinmax", 1e-3, seed, 109.0, 107.5)
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps(result | last | {"selected_step": 25_000}))
    report(tmp_path / "out", tmp_path)
    (row,) = read(tmp_path / "out" / "table1.csv")
    assert (row["test_nats"], row["last_nats"]) == (107.5, None)


def test_runs_without_a_learning_curve_are_not_drawn(tmp_path):
    path = write_run(tmp_path / "runs", "run", "reinmax", 1e-3, 0, 109.0, 107.5)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    without = [{k: v for k, v in row.items() if k != "curve/nll"} for row in rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in without))
    report(tmp_path / "out", tmp_path / "runs", draw=True)
    assert not list((tmp_path / "out").glob("*.png"))
