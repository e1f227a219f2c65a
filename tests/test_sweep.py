"""Sweeps: their points, their table, and what becomes of points that fail or finish."""

import csv
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

from configs.sweeps import grid
from experiments.config import ConfigError

ROOT = Path(__file__).parent.parent
SMALL = {
    "num_steps": 100, "eval_every": 50, "log_every": 50, "evaluation.valid_samples": 2,
    "evaluation.test_samples": 2, "model.num_latents": 3,
}  # fmt: skip


def command(*options):
    return subprocess.run(
        [sys.executable, "-m", "experiments.sweep", *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def write_sweep(folder, points):
    path = folder / "tiny.py"
    base = {"config": "configs/cat_vae.py:digits", **SMALL}
    path.write_text(f"def get_sweep():\n    return [{base!r} | p for p in {points!r}]\n")
    return path


def test_a_grid_is_all_combinations_the_last_axis_fastest():
    points = grid("c.py", {"a": (1, 2), "b": ("x", "y")})
    assert points[1] == {"config": "c.py", "a": 1, "b": "y"}
    assert len(points) == 4


def test_sweep_files_and_points_that_cannot_serve_are_told_in_one_line(tmp_path):
    """In one process: that of a command takes seconds to begin."""
    cases = {
        "configs/sweeps/nope.py": "no sweep file 'configs/sweeps/nope.py'; sweeps here: configs/s",
        str(
            write_sweep(tmp_path, [{"seeds": 1}])
        ): "point 1 of .*: the config has no field 'seeds'",
    }
    other = tmp_path / "other"
    other.mkdir()
    cases[str(write_sweep(other, [{"seed": 0}, {"estimator": "none"}]))] = (
        "point 2 of .*: config.estimator must be one of exact"
    )
    code = f"""
from experiments import config, sweep
for path in {list(cases)}:
    try:
        sweep.load_points(path)
    except config.ConfigError as error:
        print(error)
points = sweep.load_points("configs/sweeps/annealing.py:digits", num_steps=700)
print(len(points), {{p.fields["num_steps"] for p in points}}, sweep.swept(points))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *lines, last = ended.stdout.splitlines()
    assert len(lines) == len(cases)
    for line, told in zip(lines, cases.values(), strict=True):
        with pytest.raises(ConfigError, match=told):
            raise ConfigError(line)
    axes = ["temperature.rate", "temperature.update_every", "temperature.floor", "seed"]
    assert last == f"24 {{700}} {axes}"


@pytest.mark.slow
def test_a_sweep_runs_its_points_reports_a_failed_one_and_skips_what_is_finished(tmp_path):
    dying = {"temperature.rate": 100.0, "temperature.floor": 1e-60, "temperature.update_every": 20}
    path = write_sweep(tmp_path, [{"seed": 0}, {"seed": 1}, dying])
    options = (f"--sweep={path}", f"--workdir={tmp_path / 'run'}", "--workers=2")
    first = command(*options)
    assert first.returncode == 1
    assert "Warning" not in first.stderr
    assert first.stderr.splitlines()[-1].startswith("1 of 3 points failed; logs in ")
    with (tmp_path / "run" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    (failed,) = [row for row in rows if row["error"]]
    assert "the loss of step 21 is not finite" in failed["error"]
    finished = [row for row in rows if not row["error"]]
    assert {row["seed"] for row in finished} == {"0", "1"}
    best = min(finished, key=lambda row: float(row["valid_nats"]))
    assert best["config_hash"] in first.stdout
    assert matplotlib.image.imread(tmp_path / "run" / "sweep.png")[..., :3].std() > 0.01
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("result.json")}
    assert len(before) == 2
    command(*options)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("result.json")}
