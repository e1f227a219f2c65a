"""A run on several devices is the run on one, up to the rounding of float32."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax import random

from experiments.running import config as configuration
from experiments.running import devices, loop, training
from experiments.running.evaluation import evaluate
from experiments.tasks.checks import ConfigError
from tests.experiments.runs import ROOT, checkpoint_of, result_of, rows_of, small, step_of


def polynomial(**changes):
    """Of 4 units and minibatches of 96: without data, nearly nothing to compile."""
    config = configuration.load(f"{ROOT}/configs/polynomial.py")
    short = {
        "num_steps": 20, "eval_every": 10, "log_every": 10, "model.num_units": 4, "batch_size": 96
    }  # fmt: skip
    changes = {field.replace("__", "."): value for field, value in changes.items()}
    config.update_from_flattened_dict(short | changes)
    return configuration.check(config)


def same_rows(folder, other):
    """Whether the losses and metrics of two runs are equal within float32 rounding."""
    pairs = zip(rows_of(folder), rows_of(other), strict=True)
    for row, expected in pairs:
        names = [name for name in expected if name == "loss" or "/" in name]
        assert len(names) > 0
        for name in names:
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name


def test_the_devices_of_these_tests():
    assert jax.device_count() == 8


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_a_run_on_a_mesh_is_the_run_on_one_device(number, tmp_path):
    one = loop.train(polynomial(estimator="rloo"), tmp_path / "one")
    several = loop.train(polynomial(estimator="rloo", mesh__data=number), tmp_path / "several")
    assert several["valid/cost"] == pytest.approx(one["valid/cost"], rel=1e-4)
    assert several["config_hash"] == one["config_hash"]
    same_rows(tmp_path / "several", tmp_path / "one")


def test_the_minibatch_is_divided_and_the_parameters_are_whole():
    config = small(mesh__data=8, batch_size=96)
    experiment = loop.build(config, loop.load_dataset(config))
    state = devices.place(
        experiment.program.mesh, training.init_state(experiment.program, random.key(0))
    )
    scan = training.run_interval.lower(
        experiment.program, 2, experiment.task.train, experiment.settings, state
    )
    text = scan.compile().as_text()
    assert "all-reduce" in text
    assert "f32[12,784]" in text  # 12 of the 96 images on each device
    assert "f32[96,784]" not in text
    after, _ = training.run_interval(
        experiment.program, 2, experiment.task.train, experiment.settings, state
    )
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(after.params))


def test_metrics_do_not_depend_on_the_number_of_devices():
    """Also where the examples, here 597, are no multiple of it."""
    config = small()
    dataset = loop.load_dataset(config)
    alone = loop.build(config, dataset)
    params = alone.program.init(random.key(3))
    split = alone.task.held_out["valid"]
    examples = jax.tree.map(lambda x: x[:597], split.examples)
    expected = evaluate(split.metrics, params, random.key(1), examples)
    mesh = devices.mesh_of(small(mesh__data=4))
    params, examples = devices.place(mesh, (params, examples))
    found = evaluate(split.metrics, params, random.key(1), examples, mesh=mesh)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("members", [4, pytest.param(3, marks=pytest.mark.slow)])
def test_runs_together_on_a_mesh_are_the_runs_alone(members, tmp_path):
    """Whole runs on each device where their number allows it, else a share of each minibatch."""
    configs = [polynomial(estimator="rloo", seed=s, mesh__data=4) for s in range(members)]
    loop.train_together(configs, [tmp_path / str(s) for s in range(members)])
    loop.train(polynomial(estimator="rloo", seed=2), tmp_path / "alone")
    same_rows(tmp_path / "2", tmp_path / "alone")


def test_a_run_resumes_on_another_number_of_devices(tmp_path):
    """And is read on one, whatever it was trained on."""
    loop.train(polynomial(mesh__data=8), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    resumed = loop.train(polynomial(mesh__data=1), tmp_path / "run")
    experiment, params = loop.trained(tmp_path / "run")
    assert experiment.program.mesh is None
    assert resumed["steps"] == 20
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh__data": 9}, "config.mesh.data must be at most the number of devices, 8; got 9"),
        ({"mesh__data": 5}, "config.batch_size must be a multiple of the 5 devices of "
                            "config.mesh.data; got 96"),
    ],
)  # fmt: skip
def test_a_mesh_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        loop.build(polynomial(**changes), None)


@pytest.mark.parametrize(
    ("backend", "chosen", "kept"),
    [("cpu", None, None), ("gpu", None, "highest"), ("gpu", "default", "default")],
)
def test_products_on_accelerators_are_of_float32_unless_the_user_chose(
    backend, chosen, kept, monkeypatch
):
    before = jax.config.jax_default_matmul_precision
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        jax.config.update("jax_default_matmul_precision", chosen)
        devices.keep_float32()
        assert jax.config.jax_default_matmul_precision == kept
    finally:
        jax.config.update("jax_default_matmul_precision", before)


# --- several processes -----------------------------------------------------------------------

COMMAND = (
    "--config=configs/cat_vae.py:digits", "--config.model.num_latents=3", "--config.batch_size=96",
    "--config.evaluation.valid_samples=2", "--config.evaluation.test_samples=4",
    "--config.eval_every=50", "--config.log_every=25", "--config.mesh.data=0",
)  # fmt: skip


def start(workdir, num_steps):
    """Two processes of one run, over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one_device = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return [
        subprocess.Popen(
            [
                sys.executable, "-m", "experiments.train", *COMMAND, f"--workdir={workdir}",
                f"--config.num_steps={num_steps}", f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2", f"--process_id={i}",
            ],
            cwd=ROOT, env=os.environ | one_device, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]  # fmt: skip


def wait_for_rows(workdir, number, processes):
    end = time.monotonic() + 120
    while not (workdir / "metrics.jsonl").exists() or len(rows_of(workdir)) < number:
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_are_one_and_outlive_a_peer_and_a_signal(tmp_path):
    """A killed peer ends the other with one line; a signal to either one saves in both."""
    fields = dict(option.removeprefix("--config.").split("=") for option in COMMAND[1:-1])
    config = configuration.load(f"{ROOT}/configs/cat_vae.py:digits")
    config.update_from_flattened_dict(
        {name: int(value) for name, value in fields.items()} | {"num_steps": 600}
    )
    loop.train(configuration.check(config), tmp_path / "one")

    workdir = tmp_path / "two"
    first, second = start(workdir, 600)
    wait_for_rows(workdir, 3, (first, second))
    second.kill()
    _, told = first.communicate(timeout=60)
    second.communicate()
    assert first.returncode == 1
    *_, line = told.splitlines()
    assert line.startswith("stopped: another process of the run has ended or cannot be reached")
    assert "Traceback" not in told

    first, second = start(workdir, 600)
    wait_for_rows(workdir, len(rows_of(workdir)) + 2, (first, second))
    second.send_signal(signal.SIGTERM)  # to the one that keeps no folder
    ended = [process.communicate(timeout=60) for process in (first, second)]
    assert (first.returncode, second.returncode) == (130, 130)
    assert "resuming at step" in ended[0][1]
    assert "the same command resumes the run" in ended[0][1]
    assert 0 < step_of(checkpoint_of(workdir)) < 600

    first, second = start(workdir, 600)
    out, told = first.communicate(timeout=120)
    nothing, _ = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), told
    assert "test/nll" in out
    assert "test/nll" not in nothing
    same_rows(workdir, tmp_path / "one")
    np.testing.assert_allclose(
        result_of(workdir)["test/nll"], result_of(tmp_path / "one")["test/nll"], rtol=1e-4
    )


@pytest.mark.slow
def test_processes_end_with_the_error_of_the_first(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    processes = start(tmp_path, 50)
    for process in processes:
        _, told = process.communicate(timeout=90)
        assert process.returncode == 1
        assert "error: " in told
        assert "holds other files and no config.json" in told
        assert "Traceback" not in told
