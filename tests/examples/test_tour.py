"""The notebook examples/tour.ipynb, without Jupyter: its cells run in order, in one namespace."""

import json
import re
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CELLS = [
    cell
    for cell in json.loads((EXAMPLES / "tour.ipynb").read_text())["cells"]
    if cell["cell_type"] == "code"
]


def test_the_notebook_holds_the_output_of_one_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    outputs = [output for cell in CELLS for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "stream", "execute_result", "display_data"
    }  # fmt: skip
    assert all(output.get("name") != "stderr" for output in outputs)
    text = (EXAMPLES / "tour.ipynb").read_text()
    assert len(text) < 300_000
    assert not re.search(r"/(home|root|tmp|work)/", text)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.close("all")))
    monkeypatch.chdir(EXAMPLES)
    names: dict = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):  # as a user
        for number, cell in enumerate(CELLS, 1):
            exec(compile("".join(cell["source"]), f"tour.ipynb, cell {number}", "exec"), names)
    assert len(shown) == 4
    assert abs(names["many"].mean(axis=0) - names["exact"]).max() < 0.1
    assert names["changed"].shape == (10, 20, 10)
