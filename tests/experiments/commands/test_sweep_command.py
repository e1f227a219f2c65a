"""``experiments.sweep`` as a user types it: points that finish, fail, resume, are chosen."""

import os
import signal
import subprocess
import sys
import time

import matplotlib.image
import pytest

from tests.experiments.runs import ROOT
from tests.experiments.sweeping.stand_ins import rows_of, write_sweep


def command(*options):
    return subprocess.run(
        [sys.executable, "-m", "experiments.sweep", *options],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def runs_of(workdir):
    """The rows of runs, without those of configurations."""
    return [row for row in rows_of(workdir / "sweep.csv") if row["level"] == "run"]


def wait_for_rows(workdir):
    """Until two runs have written a row."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if sum(path.stat().st_size > 0 for path in workdir.glob("points/*/metrics.jsonl")) == 2:
            return
        time.sleep(0.05)
    raise AssertionError("no rows")


@pytest.mark.slow
def test_shares_of_a_slurm_array_are_the_sweep(tmp_path):
    """The script as SLURM starts it; then the same sweep without a share collects."""
    path = write_sweep(tmp_path, [{"seed": seed} for seed in range(3)])
    options = (f"--sweep={path}", f"--workdir={tmp_path / 'run'}")
    for index in range(2):
        task = {"SLURM_ARRAY_TASK_ID": f"{index}", "SLURM_ARRAY_TASK_COUNT": "2"}
        done = subprocess.run(
            ["bash", "scripts/sweep.slurm", *options],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | task | {"PYTHON": sys.executable},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / "run" / "points").iterdir())) == (2, 3)[index]
    starts = {p: p.read_text() for p in tmp_path.glob("run/points/*/provenance.json")}
    assert command(*options).returncode == 0
    assert sorted(row["seed"] for row in runs_of(tmp_path / "run")) == ["0", "1", "2"]
    assert starts == {p: p.read_text() for p in tmp_path.glob("run/points/*/provenance.json")}


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--workers=2",), ("--backend=here", "--together=3")])
def test_a_sweep_runs_its_points_reports_a_failed_one_and_skips_what_is_finished(options, tmp_path):
    dying = {
        "temperature.rate": 100.0,
        "temperature.floor": 1.2e-38,
        "temperature.update_every": 20,
    }
    listed = [
        point | {"temperature.update_every": 20} for point in ({"seed": 0}, {"seed": 1}, dying)
    ]
    path = write_sweep(tmp_path, listed)
    options = (f"--sweep={path}", f"--workdir={tmp_path / 'run'}", *options)
    first = command(*options)
    assert first.returncode == 1
    assert "Warning" not in first.stderr
    assert first.stderr.splitlines()[-1].startswith("1 points failed; logs in ")
    rows = runs_of(tmp_path / "run")
    assert len(rows) == 3
    (failed,) = [row for row in rows if row["error"]]
    assert "the loss of step 21 is not finite" in failed["error"]
    finished = [row for row in rows if not row["error"]]
    assert {row["seed"] for row in finished} == {"0", "1"}
    assert all(row["config_hash"] in first.stdout for row in finished)  # the seeds of the best
    assert matplotlib.image.imread(tmp_path / "run" / "sweep.png")[..., :3].std() > 0.01
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("result.json")}
    assert len(before) == 2
    command(*options)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("result.json")}


@pytest.mark.slow
def test_pilots_go_by_the_metric_that_the_config_selects(tmp_path):
    """Of two learning rates the larger drives up the rate, by which the lower is then best."""
    rates = [{"optimizer.learning_rate": rate, "select": "rate"} for rate in (0.5, 1e-3)]
    path = write_sweep(tmp_path, rates)
    path.write_text(f"PILOT = ('optimizer.learning_rate',)\n{path.read_text()}")
    workdir = tmp_path / "w"
    options = f"--sweep={path}", f"--workdir={workdir}", "--backend=here"
    done = command(*options, "--pilot_steps=50")
    assert done.returncode == 0, done.stderr
    first, second, *_ = rows_of(workdir / "pilots.csv")
    assert float(first["valid/rate"]) > float(second["valid/rate"])
    assert not first.get("test/nll")
    assert "best on validation: optimizer.learning_rate=0.001" in done.stdout
    assert "  valid/rate " in done.stdout
    assert [row["level"] for row in rows_of(workdir / "sweep.csv")] == ["run", "configuration"]


ONE_TASK = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1", "PYTHON": sys.executable}


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "experiments.sweep"], ["bash", "scripts/sweep.slurm"]]
)
def test_sigterm_saves_the_runs_and_the_same_command_resumes_them(program, tmp_path):
    """To the process that was started: SLURM's is the shell of its script."""
    path = write_sweep(tmp_path, [{"num_steps": 3_000, "seed": seed} for seed in (0, 1)])
    workdir = tmp_path / "w"
    arguments = [f"--sweep={path}", f"--workdir={workdir}", "--backend=here", "--together=2"]
    started = subprocess.Popen(
        [*program, *arguments], env=os.environ | ONE_TASK,
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_rows(workdir)
    started.send_signal(signal.SIGTERM)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 130, err
    assert err.splitlines()[-1] == "the same command resumes the sweep"
    assert "saved at step" in err
    assert "Traceback" not in err
    resumed = command(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count("resuming at step") == 2
    assert {row["steps"] for row in runs_of(workdir)} == {"3000"}


@pytest.mark.slow
def test_workers_end_with_a_killed_driver_and_a_second_driver_is_refused(tmp_path):
    """The runs save their state; the same command, given at once, waits for them and resumes."""
    path = write_sweep(tmp_path, [{"num_steps": 6_000, "seed": seed} for seed in (0, 1)])
    workdir = tmp_path / "w"
    arguments = [f"--sweep={path}", f"--workdir={workdir}", "--workers=2"]
    started = subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *arguments],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_rows(workdir)
    second = command(*arguments)
    assert second.returncode == 1
    assert f"error: process {started.pid} on " in second.stderr
    assert f"runs a sweep in {workdir}" in second.stderr
    started.kill()
    started.wait()
    resumed = command(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    logs = sorted((workdir / "logs").iterdir())
    assert [log.stem[-2:] for log in logs] == ["-1", "-2", "-1", "-2"]
    for first, last in (logs[:2], logs[2:]):
        assert "saved at step" in first.read_text()
        assert "resuming at step" in last.read_text()
    rows = runs_of(workdir)
    assert [(row["steps"], row["error"]) for row in rows] == [("6000", "")] * 2


ANNEALING = "--sweep=configs/sweeps/annealing.py:digits"
REFUSED = [
    ([], "name one sweep file, --sweep=FILE, or one config, --config=FILE --grid"),
    (["--config=configs/cat_vae.py"], "--config needs the fields to vary: --grid "),
    (["--sweep=configs/sweeps/anealing.py"], "no sweep file 'configs/sweeps/anealing.py'; "),
    (
        [ANNEALING, "--pilot_steps=5"],
        "--pilot_steps: configs/sweeps/annealing.py:digits names no fields in PILOT",
    ),
    ([ANNEALING, "--backend=ray"], "on all network interfaces: --start_open_ray permits that"),
    ([ANNEALING, "--share=2/2"], "must be I/N with I from 0 to N - 1, such as 0/8; got '2/2'"),
    ([ANNEALING, "--share=a"], "must be I/N with I from 0 to N - 1, such as 0/8; got 'a'"),
    (
        ["--config=configs/cat_vae.py:mnist", "--grid=data.dir=/none", "--grid=seed=0,1"],
        "data_dir must be an existing folder; found '/none'",
    ),
    (
        ["--config=configs/cat_vae.py:digits", "--grid=seed=1", "--search=seed=1:3"],
        "seed is in both --search and --grid; give it once",
    ),
]


def test_mistakes_are_reported_in_one_line_and_nothing_is_written(tmp_path, monkeypatch):
    """In one process: that of a command takes seconds to begin."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    workdir, lone = tmp_path / "w", write_sweep(tmp_path, [{}])
    refused = [([*options, f"--workdir={workdir}"], message) for options, message in REFUSED]
    refused.append(
        ([f"--sweep={lone}", f"--workdir={tmp_path / 'lone'}", "--share=5/6"],
         "the sweep has 1 runs; nothing is left for it")
    )  # fmt: skip
    code = f"""
import sys
from absl.testing import flagsaver
from experiments import sweep
from experiments.running import command_line
for options in {[options for options, _ in refused]}:
    sys.argv = ["experiments/sweep.py", *options]
    with flagsaver.flagsaver():
        try:
            command_line._parse(sys.argv)
            with command_line.one_line_errors():
                sweep.main()
        except SystemExit as end:
            print(end.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(refused), done.stdout
    for line, (_, message) in zip(lines, refused, strict=True):
        assert line.startswith("error: ")
        assert message in line
    assert not workdir.exists()


@pytest.mark.slow
def test_a_search_trains_its_proposals_and_the_same_command_trains_none_again(tmp_path):
    pytest.importorskip("optuna", reason="the extra gsm-jax[search] is not installed")
    options = (
        "--config=configs/polynomial.py", "--search=optimizer.learning_rate=1e-3:1.0:log",
        "--grid=model.num_units=2", "--grid=num_steps=40", "--grid=eval_every=20",
        "--grid=log_every=20", "--trials=5", "--workers=2", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    done = command(*options)
    assert done.returncode == 0, done.stderr
    rows = runs_of(tmp_path / "run")
    assert len(rows) == 5
    rates = [float(row["optimizer.learning_rate"]) for row in rows]
    assert all(1e-3 <= rate <= 1 for rate in rates)
    starts = {p: p.read_text() for p in tmp_path.glob("run/points/*/provenance.json")}
    assert len(starts) == 5
    assert command(*options).returncode == 0
    assert starts == {p: p.read_text() for p in tmp_path.glob("run/points/*/provenance.json")}


@pytest.mark.slow
def test_a_search_trains_proposals_that_are_the_same_run_once(tmp_path):
    """No rate changes the temperature of a run that ends before its first update."""
    pytest.importorskip("optuna", reason="the extra gsm-jax[search] is not installed")
    done = command(
        "--config=configs/polynomial.py", "--search=temperature.rate=1e-5:1e-2:log",
        "--grid=model.num_units=2", "--grid=num_steps=40", "--grid=eval_every=20",
        "--grid=log_every=20", "--grid=temperature.update_every=1000", "--trials=4",
        "--grid=estimator=gumbel_softmax", "--workers=2", f"--workdir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(runs_of(tmp_path / "run")) == 4
    assert len(list(tmp_path.glob("run/points/*"))) == 1
