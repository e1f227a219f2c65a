"""The published models of results/models: small, described, and as good as their cards say."""

import doctest

import jax
import numpy as np
import pytest
from jax import random

import experiments
from experiments import data
from experiments.running import loop, trained
from experiments.running.evaluation import evaluate
from experiments.storage.files import read_json
from scripts.publish import card
from tests.experiments.runs import ROOT

FOLDERS = sorted(path.parent for path in (ROOT / "results" / "models").glob("*/run.json"))
over_models = pytest.mark.parametrize(
    "folder", [pytest.param(folder, id=folder.name) for folder in FOLDERS]
)


@over_models
def test_a_model_is_small_and_its_card_is_that_of_its_run(folder):
    assert {path.name for path in folder.iterdir()} == {"README.md", "run.json", trained.FILE}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    model = experiments.load(folder)
    about = read_json(folder / "run.json")
    assert "+changes" not in about["provenance"][-1]["git_commit"]
    assert (folder / "README.md").read_text() == card(folder.name, about, list(model.functions))


def test_the_example_of_load_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):  # as a user
        failed, tried = doctest.testmod(experiments)
    assert (failed, tried > 3) == (0, True)


@pytest.mark.slow
@over_models
def test_a_model_reaches_the_numbers_of_its_card(folder):
    """The metric of its functions, on the whole test set, with the draws of the run."""
    model = experiments.load(folder)
    result = read_json(folder / "run.json")["result"]
    try:
        dataset = data.load(model.config.data.name)
    except data.DataError as error:
        pytest.skip(str(error))
    split = loop.build(model.config, dataset).task.held_out["test"]
    metric = "accuracy" if "classify" in model.functions else "nll"
    key = random.key(2)  # that of every test
    means = evaluate({metric: split.metrics[metric]}, model.params, key, split.examples)
    np.testing.assert_allclose(means[metric], result[f"test/{metric}"], rtol=1e-4)
