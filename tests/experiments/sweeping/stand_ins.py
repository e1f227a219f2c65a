"""Sweep files of small points, and jobs that stand in for training."""

import csv
import json
import sys

from experiments.sweeping import jobs, points
from tests.experiments import runs

SMALL = runs.SMALL | {
    "num_steps": 100, "eval_every": 50, "log_every": 50, "evaluation.test_samples": 2
}  # fmt: skip


def write_sweep(folder, points, config="configs/cat_vae.py:digits", base=SMALL):
    """A sweep file of points, each of which changes a small config."""
    path = folder / "tiny.py"
    base = {"config": config, **base}
    path.write_text(f"def get_sweep():\n    return [{base!r} | p for p in {points!r}]\n")
    return path


def load(*arguments, **keywords):
    """The points of such a file."""
    return points.load_sweep(str(write_sweep(*arguments, **keywords))).points


def annealing(num_steps):
    named = "configs/sweeps/annealing.py:digits"
    return points.load_sweep(named, num_steps=num_steps).points


END = {"steps": 1, "config_hash": "", "maximize": False}
"""What every result has."""


def finish(workdir, point, **numbers):
    folder = jobs.folder(workdir, point)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(END | numbers))


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def acts(monkeypatch, code):
    """Let every job run Python code that knows the folders of its points and its attempt."""

    def command(workdir, job):
        folders = [str(jobs.folder(workdir, point)) for point in job]
        hashes = [point.hash for point in job]
        start = f"""
import json, os, signal, sys
from pathlib import Path
folders, hashes = {folders!r}, {hashes!r}
def finish(folder, nll=1.0):
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "result.json").write_text(json.dumps({{"valid/nll": nll}} | {END!r}))
count = Path({str(workdir)!r}) / hashes[0]
attempt = int(count.read_text()) + 1 if count.exists() else 0
count.write_text(str(attempt))
"""
        return [sys.executable, "-c", start + code]

    monkeypatch.setattr(jobs, "command", command)
