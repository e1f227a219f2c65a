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


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed")
@pytest.mark.skipif(not can_be_alone(), reason="no network of its own for Ray can be made here")
def test_a_sweep_on_ray_is_the_local_one_though_a_worker_and_the_driver_are_killed(tmp_path):
    points = [{"num_steps": 4_000, "eval_every": 1_000, "seed": seed} for seed in range(3)]
    sweep = f"--sweep={write_sweep(tmp_path, points)}"
    local = subprocess.run(
        [sys.executable, "-m", "experiments.sweep", sweep, f"--workdir={tmp_path / 'local'}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert local.returncode == 0, local.stderr

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
    times = {"steps_per_second", "seconds", "train_seconds", "test_seconds"}
    tables = [
        [
            {name: value for name, value in row.items() if name not in times}
            for row in rows_of(table)
        ]
        for table in (tmp_path / "local" / "sweep.csv", workdir / "sweep.csv")
    ]
    assert tables[0] == tables[1]
