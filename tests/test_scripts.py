"""The scripts: what the benchmark counts, and what is kept of a run."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from scripts import bench, collect, draw

ROOT = Path(__file__).parent.parent


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
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "valid": 3.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in (
        ("config", {"data.dir": "/somewhere", "seed": 0}),
        ("provenance", [{"command": "c"}]),
        ("result", {"steps": 2}),
    ):
        (run / f"{name}.json").write_text(json.dumps(content))
    collect.collect(run, kept)
    assert json.loads((kept / "run.json").read_text())["config"] == {"seed": 0}
    assert (kept / "curve.csv").read_text() == "step,loss,valid\n1,2.0,\n2,1.0,3.0\n"
    assert (kept / "samples.png").exists()
    (run / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        collect.collect(run, kept)


@pytest.mark.parametrize("folder", ["variance/small_vae", "variance/toy", "temperature", "table2"])
def test_draw_makes_the_committed_figures_anew_from_their_rows(folder, tmp_path):
    shutil.copytree(ROOT / "results" / folder, tmp_path / "copy")
    committed = {path.name for path in (tmp_path / "copy").glob("*.png")}
    for path in (tmp_path / "copy").glob("*.png"):
        path.unlink()
    drawn = draw.draw(tmp_path / "copy")
    assert {path.name for path in drawn} == committed
    assert all(path.stat().st_size > 10_000 for path in drawn)


def test_draw_tells_of_a_folder_without_measurements(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .* holds no measurements: .*variance\.csv"):
        draw.main(["draw", str(tmp_path)])
