"""``experiments.classify`` as a user types it: a trained classifier, files of images, a table."""

import csv
import io
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import data
from experiments.running import loop
from experiments.tasks import semisupervised
from scripts.publish import publish
from tests.experiments.runs import ROOT, small


def command(*options):
    """The command's end; its lines about waiting, which a busy machine brings, are left out."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments.classify", *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stderr.splitlines(keepends=True)
    done.stderr = "".join(line for line in lines if not line.endswith(" ...\n"))
    return done


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder of a run of ten steps that keeps the parameters of the best step."""
    changes = {
        "model.num_latents": 1, "num_steps": 10, "eval_every": 5, "keep": "best",
        "evaluation.test_samples": 0,
    }  # fmt: skip
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    loop.train(small("semisup", **changes), workdir)
    return workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Grey test images of digits as a file."""
    path = tmp_path_factory.mktemp("images") / "some.npy"
    np.save(path, data.load("digits").test.images[:7].reshape(7, 28, 28))
    return path


def test_images_of_files_get_the_probabilities_of_the_kept_parameters(classifier, images, tmp_path):
    """Pixels of one half or more are on; an unreadable file does not stop the others."""
    out = tmp_path / "probabilities.csv"
    (tmp_path / "notes.txt").write_text("no images")
    files = (tmp_path / "notes.txt", tmp_path / "none.npy", images)
    before = {path: path.stat().st_mtime_ns for path in classifier.rglob("*")}
    done = command(
        f"--workdir={classifier}", f"--out={out}", *(f"--images={file}" for file in files)
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *errors, last = done.stderr.splitlines()
    assert [error.startswith("error: ") for error in errors] == [True, True]
    assert str(files[0]) in errors[0]
    assert str(files[1]) in errors[1]
    assert last == "2 of 3 files could not be read"
    assert before == {path: path.stat().st_mtime_ns for path in classifier.rglob("*")}

    experiment, params = loop.trained(classifier)
    binary = (np.load(images).reshape(7, -1) / 255 >= 0.5).astype(np.float32)
    model = semisupervised.network(experiment.config, experiment.task.constants["mean_image"])
    predict = jax.vmap(lambda x: semisupervised.classify(model, params["model"], x))
    expected = np.asarray(jax.jit(predict)(binary))
    rows = list(csv.DictReader(out.open()))
    assert [(row["file"], row["index"]) for row in rows] == [
        (str(images), str(i)) for i in range(7)
    ]
    found = np.array([[float(row[f"p_{k}"]) for k in range(10)] for row in rows])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert [int(row["class"]) for row in rows] == list(expected.argmax(axis=1))


def test_without_out_the_table_is_all_of_standard_output(classifier, images, tmp_path):
    """And a published model serves as the run does."""
    publish(classifier, tmp_path, ["classify"])
    for folder in (classifier, tmp_path):
        done = command(f"--workdir={folder}", f"--images={images}")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == 7


def test_a_folder_without_a_classifier_is_refused_in_one_line(images, tmp_path):
    loop.train(small(num_steps=1), tmp_path / "vae")
    for folder, message in (
        (tmp_path / "vae", "has no function classify; it has encode, decode, sample"),
        (tmp_path, "is not the folder of a run: it has no config.json"),
    ):
        done = command(f"--workdir={folder}", f"--images={images}")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {folder}")
        assert done.stderr.endswith(f"{message}\n")
        assert done.stderr.count("\n") == 1
