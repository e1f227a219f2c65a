"""The scripts: what the benchmark counts, and what is kept of a run."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.storage.errors import RecordError
from scripts import bench, collect, doc_tables, draw

ROOT = Path(__file__).parents[2]


def test_product_flops_counts_matrix_products_in_loops_and_batches():
    a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))

    def loop(a, b):
        return jax.lax.scan(lambda carry, _: (carry, a @ b), 0, length=7)

    assert bench.flops_of(jnp.matmul, a, b) == 2 * 3 * 4 * 5
    assert bench.flops_of(jax.jit(loop), a, b) == 7 * 2 * 3 * 4 * 5
    batched = jax.vmap(jnp.matmul)
    assert bench.flops_of(batched, jnp.zeros((2, 3, 4)), jnp.zeros((2, 4, 5))) == 240
    assert bench.flops_of(jnp.add, a, a) == 0


def test_collect_keeps_result_curve_and_figures_and_no_place(tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    (run / "figures").mkdir(parents=True)
    (run / "figures" / "samples.png").write_bytes(b"png")
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "valid/nll": 3.1234567}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"task": "vae", "estimator": "rloo", "seed": 0}
    for name, content in (
        ("config", config | {"data.dir": "/somewhere"}),
        ("provenance", [{"command": "c --workdir=/somewhere"}, {"command": "d"}]),
        ("result", {"steps": 2, "config_hash": "a"}),
    ):
        (run / f"{name}.json").write_text(json.dumps(content))
    collect.collect(run, kept)
    about = json.loads((kept / "run.json").read_text())
    assert about["config"] == config
    assert about["provenance"] == [{"command": "c"}, {"command": "d"}]
    assert (kept / "curve.csv").read_text() == "step,loss,valid/nll\n1,2.0,\n2,1.0,3.12346\n"
    assert (kept / "samples.png").exists()
    (run / "result.json").unlink()
    with pytest.raises(RecordError, match=r"result\.json cannot be read"):
        collect.collect(run, kept)


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param("variance/small_vae", marks=pytest.mark.slow),
        pytest.param("variance/toy", marks=pytest.mark.slow),
        "temperature",
        "table1",
        "table2",
    ],
)
def test_draw_makes_the_committed_figures_again_from_their_rows(folder, tmp_path):
    shutil.copytree(ROOT / "results" / folder, tmp_path / "copy")
    committed = {path.name for path in (tmp_path / "copy").glob("*.png")}
    for path in (tmp_path / "copy").glob("*.png"):
        path.unlink()
    drawn = draw.draw(tmp_path / "copy")
    assert {path.name for path in drawn} == committed
    assert all(path.stat().st_size > 10_000 for path in drawn)


def test_draw_reports_a_folder_without_results(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .* holds no results .*variance\.csv"):
        draw.main(["draw", str(tmp_path)])


def test_a_page_has_a_copy_of_each_reported_table_that_it_names(tmp_path):
    (tmp_path / "table1_seeds").mkdir()
    (tmp_path / "table1_seeds" / "table1.md").write_text("| a |\n|---|\n")
    page = (
        "Text.\n\n<!-- table1_seeds -->\n{}\n<!-- end -->\n\n"
        "<!-- test command -->\nrun\n<!-- end -->\n"
    )
    assert doc_tables.fresh(page.format("old\n\nold"), tmp_path) == page.format("| a |\n|---|")
    with pytest.raises(KeyError, match="table3"):
        doc_tables.fresh("<!-- table3 -->\n\n<!-- end -->\n", tmp_path)
