"""The scripts: what the benchmark counts, and what is kept of a run."""

import json

import jax
import jax.numpy as jnp
import pytest

from scripts import bench, collect


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
