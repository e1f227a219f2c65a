"""Table 2: test bound and accuracy of semi-supervised classifiers."""

import json

import matplotlib.image
import pytest

from experiments.storage.errors import ReportError
from scripts import draw

from .finished_runs import read, report, write_classifier


def test_the_accuracy_on_validation_chooses(tmp_path):
    add = lambda *arguments, **changes: write_classifier(tmp_path, *arguments, **changes)  # noqa: E731
    add("a", "exact", 0.1, 0, 0.93, 0.92)
    add("b", "exact", 0.1, 1, 0.95, 0.94)
    add("c", "exact", 1.0, 0, 0.90, 0.99)  # what the paper would report
    add("d", "reinmax", 1.0, 0, 0.91, 0.905)
    add("p", "reinmax", 0.1, 0, 0.50, None)
    add("e", "exact", 0.1, 0, 0.98, 0.975, **{"consistency.weight": 1.0})
    out = tmp_path / "out"
    shown = report(out, tmp_path, draw=True)
    rows = {(row["inference"], row["config"]): row for row in read(out / "table2.csv")}
    assert len(rows) == 3
    row = rows["exact", "configs/semisup.py"]
    assert (row["seeds"], row["steps"], row["alpha"]) == (2, 50_000, 0.1)
    assert (row["marginal_nll"], row["marginal_nll_stderr"]) == (107.5, 0.5)
    assert row["accuracy"] == pytest.approx(93.0)
    assert row["accuracy_stderr"] == pytest.approx(1.0)
    assert (row["paper_marginal_nll"], row["paper_accuracy"]) == (106.8, 92.6)
    assert row["best_test_accuracy"] == pytest.approx(99.0)
    assert rows["reinmax", "configs/semisup.py"]["accuracy_stderr"] is None
    assert rows["reinmax", "configs/semisup.py"]["paper_marginal_nll"] is None
    assert rows["exact", "configs/semisup_best.py"]["accuracy"] == pytest.approx(97.5)
    assert "(`exact`) | `semisup` | 1, 0.1 | 50,000 x (100 + 50) | 2 | 107.5 ± 0.5 (106.8)" in shown
    assert [row["alpha"] for row in read(out / "table2_pilots.csv")] == [0.1]
    assert "secret" not in (out / "table2.json").read_text()
    assert not (out / "table1.csv").exists()
    curves = {(point["run"], point["step"]): point for point in read(out / "table2_curves.csv")}
    assert {run: point["row"] for (run, _), point in curves.items()} == {
        "a": "a", "b": "a", "c": None, "d": "d", "e": "e"
    }  # fmt: skip
    point = curves["b", 25_000]
    assert (point["nll"], point["accuracy"]) == (110.0, 85.0)
    assert curves["b", 50_000]["accuracy"] == 95.0
    height, width, _ = matplotlib.image.imread(out / "table2.png").shape
    assert 400 < height < width < 4000


def test_it_says_what_its_errors_are_and_which_rows_can_be_distinguished(tmp_path):
    accuracies = {
        "exact": (0.94, 0.941, 0.942),
        "gumbel_softmax": (0.90, 0.92, 0.94),  # too far apart to place it
        "rloo": (0.919, 0.92, 0.921),
        "reinmax": (0.84, 0.88),  # three and four standard errors below, but of two seeds
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
    shown = report(tmp_path / "out", tmp_path)
    assert "±: standard error of the mean over the seeds; a row of one seed has none." in shown
    assert "| 94.1 ± 0.1 (92.6) |" in shown
    assert "| 1 | 107.0 (110.7) | 70.0 (93.6) |" in shown
    assert shown.endswith("* marginal nll: none\n* accuracy: `exact` better than `rloo`\n")


def test_rivals_are_compared_on_the_seeds_that_all_of_them_have(tmp_path):
    """A second seed with worse luck must not take the row from the choice that did better."""
    write_classifier(tmp_path, "a", "exact", 0.1, 0, 0.93, 0.92)
    write_classifier(tmp_path, "b", "exact", 0.1, 1, 0.85, 0.86)
    write_classifier(tmp_path, "c", "exact", 1.0, 0, 0.92, 0.91)
    report(tmp_path / "out", tmp_path)
    (row,) = read(tmp_path / "out" / "table2.csv")
    assert (row["seeds"], row["alpha"]) == (2, 0.1)


def test_each_probe_has_a_row_and_none_is_chosen_among_them(tmp_path):
    for weight, accuracy in ((1.0, 0.90), (0.0, 0.91), (-1.0, 0.92)):
        write_classifier(
            tmp_path, f"w{weight}", "exact", 1.0, 0, accuracy, accuracy, entropy_weight=weight
        )
    for labels, size, accuracy in ((10, 20, 0.93), (0, 20, 0.94), (100, 20, 0.95), (0, 100, 0.89)):
        write_classifier(
            tmp_path, f"l{labels}of{size}", "reinmax", 1.0, 0, accuracy, accuracy,
            batch_size=size, **{"labels.batch_size": labels},
        )  # fmt: skip
    shown = report(tmp_path / "out", tmp_path, draw=True)
    probes, paper = "configs/sweeps/table2_probes.py", "configs/semisup.py"
    assert {
        (row["config"], row["entropy_weight"], row["labels_batch_size"], round(row["accuracy"]))
        for row in read(tmp_path / "out" / "table2.csv")
    } == {
        (paper, 1, 50, 90), (probes, 0, 50, 91), (probes, -1, 50, 92),
        (paper, 1, 10, 93), (probes, 1, 100, 95),
    }  # fmt: skip
    assert "| `table2_probes` | 1, 1, -1 |" in shown
    assert "| `table2_probes` | 1, 1 | 50,000 x (20 + 100) |" in shown
    assert (tmp_path / "out" / "table2.png").exists()


def test_an_earlier_table_is_kept_and_added_to(tmp_path):
    """Alone it is reproduced; a new seed joins the others, a new config competes."""
    write_classifier(tmp_path, "a", "exact", 0.1, 0, 0.93, 0.92)
    write_classifier(tmp_path, "c", "exact", 1.0, 0, 0.90, 0.99)
    write_classifier(tmp_path, "p", "exact", 10.0, 0, 0.50, None)
    earlier, again, both = (tmp_path / name for name in ("earlier", "again", "both"))
    report(earlier, tmp_path)
    report(again, earlier)
    for name in ("table2.csv", "table2_curves.csv", "table2_pilots.csv"):
        assert (again / name).read_text() == (earlier / name).read_text()
    write_classifier(tmp_path / "new", "b", "exact", 0.1, 1, 0.95, 0.94)
    write_classifier(tmp_path / "new", "c", "exact", 1.0, 0, 0.90, 0.99)  # the report has it
    report(both, earlier, tmp_path / "new", draw=True)
    (row,) = read(both / "table2.csv")
    assert (row["seeds"], row["alpha"]) == (2, 0.1)
    assert row["accuracy"] == pytest.approx(93.0)
    assert row["best_test_accuracy"] == pytest.approx(99.0)
    entries = json.loads((both / "table2.json").read_text())["runs"].values()
    assert sorted(list(entry["provenances"]) for entry in entries) == [["0"], ["0", "1"]]
    curves = read(both / "table2_curves.csv")
    assert [(point["run"], point["row"]) for point in curves[::2]] == [
        ("a", "a"), ("b", "a"), ("c", None)
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


def test_pilots_alone_make_no_table(tmp_path):
    write_classifier(tmp_path, "p", "exact", 0.1, 0, 0.9, None)
    with pytest.raises(ReportError, match=r"no run of table2 has .*test/accuracy: all are pilots"):
        report(tmp_path / "out", tmp_path)
