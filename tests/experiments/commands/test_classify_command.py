"""``experiments.classify`` as a user types it: a trained classifier, files of images, a table."""

import csv
import io
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.running import config as configuration
from experiments.running import loop
from tests.experiments.runs import ROOT
from tests.faults.classifier import logits

MODELS = ROOT / "results" / "models"


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
    """The folder of a run on tiny images that keeps the parameters of the best step."""
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    config = configuration.load(f"{ROOT}/tests/faults/classifier.py")
    loop.train(configuration.check(config), workdir)
    return workdir


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Grey images as a file."""
    path = tmp_path_factory.mktemp("images") / "some.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (7, 2, 2), np.uint8))
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
    *errors, written, last = done.stderr.splitlines()
    assert written == f"{len(list(csv.DictReader(out.open())))} images, written to {out}"
    assert [error.startswith("error: ") for error in errors] == [True, True]
    assert str(files[0]) in errors[0]
    assert str(files[1]) in errors[1]
    assert last == "2 of 3 files could not be read"
    assert before == {path: path.stat().st_mtime_ns for path in classifier.rglob("*")}

    _, params = loop.trained(classifier)
    binary = (np.load(images).reshape(7, -1) / 255 >= 0.5).astype(np.float32)
    expected = np.asarray(jax.nn.softmax(logits(params, binary)))
    rows = list(csv.DictReader(out.open()))
    assert [(row["file"], row["index"]) for row in rows] == [
        (str(images), str(i)) for i in range(7)
    ]
    found = np.array([[float(row[f"p_{k}"]) for k in range(3)] for row in rows])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert [int(row["class"]) for row in rows] == list(expected.argmax(axis=1))


def test_without_out_the_table_is_all_of_standard_output(classifier, images, tmp_path):
    """And a published model serves as the run does."""
    large = tmp_path / "large.npy"
    np.save(large, np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8))
    for folder, file in ((classifier, images), (MODELS / "semisup", large)):
        done = command(f"--workdir={folder}", f"--images={file}")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == 7


def test_a_folder_without_a_classifier_is_refused_in_one_line(images, tmp_path):
    for folder, message in (
        (
            MODELS / "cat_vae",
            "has no function classify; it has encode, decode, sample",
        ),
        (tmp_path, "is not the folder of a run: it has no config.json"),
    ):
        done = command(f"--workdir={folder}", f"--images={images}")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {folder}")
        assert done.stderr.endswith(f"{message}\n")
        assert done.stderr.count("\n") == 1
