"""``experiments.export`` as a user types it: files that jax alone reads compute the same."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

import experiments
from experiments.running import config as configuration
from experiments.running import exporting, loop, trained
from experiments.tasks.base import Function, floats
from experiments.tasks.checks import ConfigError
from tests.experiments.runs import ROOT, small

_READ = """
import sys, jax.export, numpy as np
folder, name = sys.argv[1:]
call = jax.export.deserialize(bytearray(open(f"{folder}/{name}.bin", "rb").read())).call
with np.load(f"{folder}/inputs.npz") as inputs:
    np.savez(f"{folder}/outputs.npz", **{size: call(x) for size, x in inputs.items()})
print([m for m in ("gsm", "experiments", "flax") if m in sys.modules])
"""


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_exported_functions_compute_what_the_model_does_without_this_project(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    loop.train(small(num_steps=2, eval_every=2, log_every=2), run)
    done = python("-m", "experiments.export", f"--workdir={run}", f"--out={out}")
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert {path.name for path in out.iterdir()} == {"encode.bin", "decode.bin", "export.json"}
    about = json.loads((out / "export.json").read_text())
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["config"]["data.name"] == "digits"
    assert not {"data.dir", "mesh.data"} & about["config"].keys()
    assert about["functions"]["encode"] == {
        "inputs": ["float32[b,784]"], "outputs": ["float32[b,3,10]"]
    }  # fmt: skip

    images = (np.random.default_rng(0).random((5, 784)) < 0.2).astype(np.float32)
    np.savez(out / "inputs.npz", five=images, one=images[:1])
    read = python("-c", _READ, str(out), "encode")
    assert (read.returncode, read.stdout) == (0, "[]\n"), read.stderr
    model = experiments.load(run)
    with np.load(out / "outputs.npz") as outputs:
        np.testing.assert_allclose(outputs["five"], model.encode(images), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs["one"], model.encode(images[:1]), rtol=1e-4, atol=1e-5)
    assert jax.export.deserialize(bytearray((out / "decode.bin").read_bytes())).platforms == (
        "cpu", "cuda", "tpu"
    )  # fmt: skip


@pytest.mark.slow
def test_a_convolutional_classifier_is_exported_for_any_batch(tmp_path):
    changes = {"model.num_latents": 1, "num_steps": 1, "evaluation.test_samples": 0}
    loop.train(small("semisup", **changes), tmp_path / "run")
    model = experiments.load(tmp_path / "run")
    paths = exporting.export(model, tmp_path / "out")
    assert {path.stem for path in paths} == {"classify", "encode", "decode"}
    classify = jax.export.deserialize(bytearray((tmp_path / "out/classify.bin").read_bytes()))
    images = (np.random.default_rng(0).random((7, 784)) < 0.2).astype(np.float32)
    for some in (images, images[:2]):
        np.testing.assert_allclose(classify.call(some), model.classify(some), rtol=1e-4, atol=1e-5)


def test_a_file_that_computes_something_else_is_reported(tmp_path, monkeypatch):
    function = Function(lambda params, x: params * x, (floats(4),))
    written = exporting.exported(function, 2.0)
    monkeypatch.setattr(exporting, "exported", lambda function, params: written)
    config = configuration.check(configuration.load(f"{ROOT}/configs/polynomial.py"))
    model = trained.Trained("own", config, 3.0, {})
    with pytest.raises(ConfigError, match=r"task polynomial has no function to export"):
        exporting.export(model, tmp_path)
    model.functions["scale"] = function
    with pytest.raises(ConfigError, match=r"scale\.bin does not compute what the model does"):
        exporting.export(model, tmp_path)
    model.params = 2.0
    assert exporting.export(model, tmp_path) == [tmp_path / "scale.bin"]
