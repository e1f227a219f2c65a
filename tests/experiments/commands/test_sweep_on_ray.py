"""A sweep through a real Ray equals the local one, though workers and the driver are killed.

Ray listens on all interfaces, so it runs in a network of its own that has loopback only.
"""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.experiments.runs import ROOT
from tests.experiments.sweeping.stand_ins import rows_of, write_sweep

ALONE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""Runs a command in a network that has loopback only."""


def can_be_alone():
    try:
        return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def on_ray(test):
    """Slow, and skipped with a reason where it cannot run."""
    for reason, there in (
        ("Ray is not installed", importlib.util.find_spec("ray")),
        ("no network of its own for Ray can be made here", can_be_alone()),
    ):
        test = pytest.mark.skipif(not there, reason=reason)(test)
    return pytest.mark.slow(test)


def start(*options):
    return subprocess.Popen(
        [*ALONE, sys.executable, "-m", "experiments.sweep", "--backend=ray", "--start_open_ray",
         "--workers=2", *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(pattern, number, workdir):
    """Until so many files have something in them."""
    end = time.monotonic() + 240
    while sum(path.stat().st_size > 0 for path in workdir.glob(pattern)) < number:
        assert time.monotonic() < end, f"no {pattern}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory):
    """The option that names a sweep of three runs, and the folder where it is finished."""
    tmp_path = tmp_path_factory.mktemp("local")
    points = [{"num_steps": 4_000, "eval_every": 1_000, "seed": seed} for seed in range(3)]
    sweep = f"--sweep={write_sweep(tmp_path, points)}"
    local = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", sweep, f"--workdir={tmp_path / 'local'}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert local.returncode == 0, local.stderr
    return sweep, tmp_path / "local"


@on_ray
def test_a_sweep_on_ray_is_the_local_one_though_a_worker_and_the_driver_are_killed(
    three_runs, tmp_path
):
    sweep, local = three_runs
    workdir = tmp_path / "ray"
    driver = start(sweep, f"--workdir={workdir}")
    wait_for("points/*/metrics.jsonl", 2, workdir)
    lock = next(path for path in workdir.glob("points/*/.lock") if path.stat().st_size)
    os.kill(int(re.search(r"process (\d+)", lock.read_text())[1]), signal.SIGKILL)  # a run
    wait_for("points/*/result.json", 1, workdir)
    driver.kill()
    _, told = driver.communicate(timeout=120)
    assert "was killed (signal 9); it is started again" in told

    out, told = start(sweep, f"--workdir={workdir}").communicate(timeout=400)
    assert "best on validation" in out, told
    assert "Traceback" not in told
    assert_equal(local, workdir)


CLUSTER = """
import os, subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

workdir = Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
leaving = cluster.add_node(num_cpus=1)
driver = subprocess.Popen(
    [sys.executable, "-m", "experiments.sweep", "--backend=ray", "--workers=2",
     f"--workdir={workdir}", *sys.argv[2:]],
    env=os.environ | {"RAY_ADDRESS": cluster.address},
)
end = time.monotonic() + 240
while len(list(workdir.glob("points/*/metrics.jsonl"))) < 2 and time.monotonic() < end:
    time.sleep(0.05)
cluster.remove_node(leaving, allow_graceful=False)
code = driver.wait()
cluster.shutdown()
sys.exit(code)
"""
"""Two machines of one core each, of which one is lost while both train."""


@on_ray
def test_the_runs_of_a_machine_that_leaves_the_cluster_are_started_again_elsewhere(
    three_runs, tmp_path
):
    sweep, local = three_runs
    workdir = tmp_path / "ray"
    ended = subprocess.run(
        [*ALONE, sys.executable, "-c", CLUSTER, workdir, sweep],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("was killed (signal 9); it is started again") == 1
    assert_equal(local, workdir)


def assert_equal(local, workdir):
    """Two sweeps have one table, but for their times."""
    times = {"steps_per_second", "seconds", "train_seconds", "test_seconds"}
    tables = [
        [
            {name: value for name, value in row.items() if name not in times}
            for row in rows_of(table)
        ]
        for table in (local / "sweep.csv", workdir / "sweep.csv")
    ]
    assert tables[0] == tables[1]
