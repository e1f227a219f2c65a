"""Sweeps: their points and jobs, their table, and what becomes of what fails, dies or finishes."""

import csv
import functools
import json
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from configs.sweeps import grid
from experiments import jobs, outcomes, points, tasks, workers
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


@pytest.fixture
def here(monkeypatch):
    """Config files are named from the repository's root."""
    monkeypatch.chdir(ROOT)


def test_sweep_files_and_points_that_cannot_serve_are_told_in_one_line(tmp_path, here):
    def told(path, pattern):
        with pytest.raises(ConfigError, match=pattern) as refusal:
            points.load_sweep(str(path))
        assert "\n" not in str(refusal.value)

    told("configs/sweeps/nope.py", "no sweep file 'configs/sweeps/nope.py'; sweeps here: configs/s")
    path = write_sweep(tmp_path, [{"seeds": 1}])
    told(path, "point 1 of .*: the config has no field 'seeds'")
    path = write_sweep(tmp_path, [{"seed": 0}, {"estimator": "none"}])
    told(path, "point 2 of .*: config.estimator must be one of exact")
    told(write_sweep(tmp_path, []), "returns no points")
    path.write_text("PILOT = ('lr',)\n" + write_sweep(tmp_path, [{}]).read_text())
    told(path, "PILOT of .*: no config of its points has the field 'lr'")
    chosen = "MAXIMIZE = 'test_accuracy'\n"
    path.write_text(chosen + write_sweep(tmp_path, [{}]).read_text())
    told(path, "MAXIMIZE of .*tiny.py must be valid_rate, a measure of validation; got 'test_accu")
    path.write_text(path.read_text().replace("cat_vae", "cat_sbn"))
    told(path, "MAXIMIZE of .*tiny.py must be left out: its points measure the bound alone; got 't")
    path.write_text("def get_sweep():\n    return 1 / 0\n")
    told(path, "raises ZeroDivisionError: division by zero")
    path.write_text("")
    told(path, r"has no function get_sweep\(argument\)")


def test_the_sweeps_of_the_repository_resolve(here):
    annealing = points.load_sweep("configs/sweeps/annealing.py:digits", num_steps=700).points
    assert len(annealing) == 24
    assert {point.config.num_steps for point in annealing} == {700}
    axes = ["temperature.rate", "temperature.update_every", "temperature.floor", "seed"]
    assert points.swept(annealing) == axes
    table1 = points.load_sweep("configs/sweeps/table1.py:digits")
    cells = {
        (point.config.task, point.config.model.num_classes, point.config.estimator)
        for point in table1.points
    }
    assert len(cells) == 28
    assert {point.config.num_steps for point in table1.points} == {545_000}
    for name in ("table2", "table2_cpu"):
        table2 = points.load_sweep(f"configs/sweeps/{name}.py:digits")
        assert table2.maximize == "valid_accuracy"
        assert len({point.config.estimator for point in table2.points}) == 5


def test_points_of_one_program_differ_in_seeds_and_float_settings_only(tmp_path, here):
    listed = [
        {"seed": 0}, {"seed": 1}, {"temperature.rate": 0.0}, {"optimizer.learning_rate": 0.1},
        {"estimator": "rloo"}, {"estimator": "rloo", "seed": 5}, {"batch_size": 7},
        {"signal.decay": 0.5},
    ]  # fmt: skip
    sweep = points.load_sweep(str(write_sweep(tmp_path, listed)))
    number = {point.hash: i for i, point in enumerate(sweep.points)}

    def cut(together):
        return [[number[p.hash] for p in job] for job in points.jobs(sweep.points, together)]

    assert cut(64) == [[0, 1, 2, 3], [4, 5], [6], [7]]
    assert cut(3) == [[0, 1, 2], [3], [4, 5], [6], [7]]
    assert cut(1) == [[i] for i in range(8)]
    backwards = sweep.points[::-1]
    assert list(points.jobs(backwards, 1)) == [[point] for point in backwards]


def test_pilots_choose_for_each_kind_and_never_read_the_test_set(tmp_path, here):
    rates = (0.1, 0.2)
    listed = [
        {"estimator": name, "optimizer.learning_rate": rate, "seed": seed}
        for name in ("darn", "rloo")
        for rate in rates
        for seed in (0, 1)
    ]
    path = write_sweep(tmp_path, listed)
    path.write_text("PILOT = ('optimizer.learning_rate',)\n" + path.read_text())
    sweep = points.load_sweep(str(path))
    short = points.pilots(sweep, 40)
    assert [(p.config.seed, p.config.num_steps, p.config.eval_every) for p in short] == [
        (0, 40, 40)
    ] * 4
    assert {p.config.evaluation.test_samples for p in short} == {0}
    # darn does best at the first rate; of rloo the first pilot failed.
    keys = [points.pilot_key(sweep, p) for p in short]
    assert len(set(keys)) == 4
    bounds = dict(zip(keys, (1.0, 2.0, None, 9.0), strict=True))
    full = points.chosen(sweep, {key: value for key, value in bounds.items() if value})
    of = [(p.config.estimator, p.config.optimizer.learning_rate, p.config.seed) for p in full]
    assert of == [("darn", 0.1, 0), ("darn", 0.1, 1), ("rloo", 0.2, 0), ("rloo", 0.2, 1)]
    assert {p.config.num_steps for p in full} == {100}
    assert points.chosen(sweep, {}) == []
    # What pilots could not tell apart is run in full.
    assert len(points.chosen(sweep, dict.fromkeys(keys, 1.0))) == len(sweep.points)


# --- jobs: real processes, that stand in for training ---


@pytest.fixture
def two_points(tmp_path, here):
    return points.load_sweep(str(write_sweep(tmp_path, [{"seed": 0}, {"seed": 1}]))).points


def acts(monkeypatch, code):
    """Let every job run Python code that knows the folders of its points and its attempt."""

    def command(workdir, job):
        folders = [str(jobs.folder(workdir, point)) for point in job]
        hashes = [point.hash for point in job]
        start = f"""
import json, os, signal, sys
from pathlib import Path
folders, hashes = {folders!r}, {hashes!r}
def finish(folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "result.json").write_text(json.dumps(dict(valid_nll_m2=1.0)))
count = Path({str(workdir)!r}) / hashes[0]
attempt = int(count.read_text()) + 1 if count.exists() else 0
count.write_text(str(attempt))
"""
        return [sys.executable, "-c", start + code]

    monkeypatch.setattr(jobs, "command", command)


def outcomes_of(job_list, workdir, place, retries=2):
    return {one.point.hash: one for one in jobs.run(job_list, workdir, place, retries)}


def test_a_killed_worker_s_point_is_started_again_as_often_as_asked(
    two_points, tmp_path, monkeypatch, capsys
):
    acts(
        monkeypatch,
        "if attempt < 2: os.kill(os.getpid(), signal.SIGKILL)\nfinish(folders[0])",
    )
    a, b = two_points
    place = workers.LocalWorkers(2)
    ended = outcomes_of([[a], [b]], tmp_path, place)
    assert [ended[p.hash].result for p in (a, b)] == [{"valid_nll_m2": 1.0}] * 2
    assert capsys.readouterr().err.count("was killed (signal 9); it is started again") == 4
    assert place.free == 2
    other = tmp_path / "other"
    other.mkdir()
    ended = outcomes_of([[a]], other, place, retries=1)
    assert ended[a.hash].result is None
    assert ended[a.hash].error == "ended with status -9"


def test_a_failed_point_is_reported_with_its_last_word_and_not_started_again(
    two_points, tmp_path, monkeypatch
):
    acts(monkeypatch, "print('a warning'); print('error: no such thing'); sys.exit(1)")
    ended = outcomes_of([[two_points[0]]], tmp_path, workers.LocalWorkers(1))
    assert ended[two_points[0].hash].error == "error: no such thing"
    assert (tmp_path / two_points[0].hash).read_text() == "0"


def test_of_a_job_of_many_only_what_failed_is_reported_and_what_was_lost_done_again(
    two_points, tmp_path, monkeypatch
):
    a, b = two_points
    fails = "finish(folders[0]); print(hashes[1] + ': the loss is not finite'); sys.exit(1)"
    acts(monkeypatch, fails)
    ended = outcomes_of([[a, b]], tmp_path, workers.LocalWorkers(1))
    assert ended[a.hash].result
    assert ended[b.hash].error == "the loss is not finite"
    acts(monkeypatch, "finish(folders[0])\nif len(folders) > 1: os.kill(os.getpid(), 9)")
    workdir = tmp_path / "other"
    workdir.mkdir()
    ended = outcomes_of([[a, b]], workdir, workers.LocalWorkers(1))
    assert ended[a.hash].result
    assert ended[b.hash].result
    assert (workdir / b.hash).read_text() == "0"  # alone, since the other was finished


@pytest.mark.skipif(not hasattr(jobs.os, "sched_setaffinity"), reason="no pinning on this system")
def test_local_workers_are_pinned_and_gpus_shared_out(tmp_path):
    code = (
        "import os; print(sorted(os.sched_getaffinity(0)), os.environ.get('CUDA_VISIBLE_DEVICES'))"
    )
    cores = sorted(jobs.os.sched_getaffinity(0))

    def said(place, number):
        logs = [tmp_path / f"{place.number}-{i}" for i in range(number)]
        running = [place.start([sys.executable, "-c", code], log, {}) for log in logs]
        for one in running:
            one.wait()
            assert one.poll() == 0
        return [log.read_text().strip() for log in logs]

    affinities = [line.rpartition(" ")[0] for line in said(workers.LocalWorkers(2), 2)]
    assert affinities == [f"[{cores[i % len(cores)]}]" for i in range(2)]
    assert said(workers.LocalWorkers(1), 1)[0].startswith(str(cores))
    on_gpus = said(workers.LocalWorkers(3, ("4", "7"), accelerated=True), 3)
    assert on_gpus == [f"{cores} {gpu}" for gpu in ("4", "7", "4")]


def test_interrupted_jobs_are_asked_to_save_and_waited_for(two_points, tmp_path, monkeypatch):
    acts(
        monkeypatch,
        """
import time
def save(*_):
    time.sleep(0.3)
    (Path(folders[0]).parent / "saved").write_text("saved")
    sys.exit(130)
Path(folders[0]).parent.mkdir(parents=True, exist_ok=True)
signal.signal(signal.SIGINT, save)
count.with_name("ready").write_text("")
time.sleep(60)
""",
    )

    def press():
        while not (tmp_path / "ready").exists():
            pass
        jobs.signal.raise_signal(jobs.signal.SIGTERM)

    # The handler runs in the main thread, wherever the signal was raised.
    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        outcomes_of([[two_points[0]]], tmp_path, workers.LocalWorkers(1))
    assert (tmp_path / "points" / "saved").read_text() == "saved"


class FakeRay(types.ModuleType):
    """What RayWorkers uses of Ray, on threads: a real cluster would listen on the network."""

    class RayError(Exception):
        pass

    def __init__(self, resources):
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayError=self.RayError)
        self.resources, self.lost, self.options = resources, 0, None

    def init(self, **_):
        pass

    def cluster_resources(self):
        return self.resources

    def remote(self, **options):
        self.options = options

        def decorate(function):
            def start(*arguments):
                task = types.SimpleNamespace(value=None)

                def work():
                    task.value = function(*arguments)

                task.thread = threading.Thread(target=work)
                task.thread.start()
                return task

            return types.SimpleNamespace(remote=start)

        return decorate

    def wait(self, tasks, timeout=None):
        for task in tasks:
            task.thread.join(timeout)
        return [task for task in tasks if not task.thread.is_alive()], []

    def get(self, task):
        if self.lost:
            self.lost -= 1
            raise self.RayError("the worker died")
        return task.value


def test_ray_runs_jobs_and_a_lost_worker_s_point_again(two_points, tmp_path, monkeypatch, capsys):
    ray = FakeRay({"CPU": 3.0})
    monkeypatch.setitem(sys.modules, "ray", ray)
    place = workers.RayWorkers()
    assert (place.number, place.accelerated, ray.options["num_gpus"]) == (3, False, 0)
    acts(monkeypatch, "attempt and finish(folders[0])")
    ray.lost = 1
    ended = outcomes_of([[two_points[0]]], tmp_path, place)
    assert ended[two_points[0].hash].result
    assert "was killed (signal 9); it is started again" in capsys.readouterr().err
    assert place.free == 3
    acts(monkeypatch, "print('error: so it is'); sys.exit(3)")
    ended = outcomes_of([[two_points[1]]], tmp_path, place)
    assert ended[two_points[1].hash].error == "error: so it is"
    monkeypatch.setitem(sys.modules, "ray", FakeRay({"CPU": 64.0, "GPU": 2.0}))
    on_gpus = workers.RayWorkers()
    assert (on_gpus.number, on_gpus.accelerated) == (2, True)


# --- what is told of points: here with results that are already there, and one that fails ---


def finish(workdir, point, **numbers):
    folder = jobs.folder(workdir, point)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(numbers))


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_only_the_winner_s_test_number_is_told(tmp_path, here, monkeypatch, capsys):
    """Of two points that tie the first in the sweep is the best, and a failed one never is."""
    listed = points.load_sweep(str(write_sweep(tmp_path, [{"seed": i} for i in range(4)]))).points
    # The last is best by the test set, and by the bound of validation the two before it.
    bounds = ((20.0, 22.25), (20.0, 23.25), (30.0, 1.25))
    for point, (valid, test) in zip(listed[1:], bounds, strict=True):
        finish(tmp_path, point, valid_nll_m2=valid, test_nll_m2=test)
    acts(monkeypatch, "print('stopped: it diverged'); sys.exit(1)")
    ended = outcomes.run(listed, tmp_path, workers.LocalWorkers(1))
    assert [one.result is None for one in ended] == [True, False, False, False]
    told = capsys.readouterr()
    assert "1/4  seed=1: validation 20.00 nats\n" in told.err
    assert "4/4  seed=0: stopped: it diverged\n" in told.err
    assert "best on validation: seed=1\n  validation 20.00, test 22.25 nats\n" in told.out
    assert ".25" not in told.out.replace("22.25", "") + told.err
    table = rows_of(tmp_path / "sweep.csv")
    assert [row["seed"] for row in table] == ["0", "1", "2", "3"]
    assert table[0]["error"] == "stopped: it diverged"
    about = json.loads((tmp_path / "sweep.json").read_text())
    assert about["best"]["config_hash"] == listed[1].hash


def annealing(num_steps):
    named = "configs/sweeps/annealing.py:digits"
    return points.load_sweep(named, num_steps=num_steps).points


def test_points_whose_schedules_are_equal_in_training_are_one_run(tmp_path, here):
    """Held to what training computes at every step, in float32."""
    listed = annealing(2_500) + annealing(500)
    slopes = [{"slope.rate": rate, "slope.cap": cap} for rate in (0.0, 1e-9, 1.0) for cap in (1, 2)]
    # The slope is updated with the temperature, which this estimator does not read.
    slopes += [{"slope.rate": 1.0, "temperature.update_every": every} for every in (10, 99, 100)]
    slopes = [{"estimator": "slope_annealed_st", "temperature.rate": i, **slope} for i, slope in
              enumerate(slopes)]  # fmt: skip
    listed += points.load_sweep(str(write_sweep(tmp_path, slopes))).points

    def seen(point):
        config = point.config
        settings = {name: jnp.float32(value) for name, value in tasks.settings(config).items()}
        hyperparams = functools.partial(tasks._hyperparams, config.temperature.update_every)
        steps = jnp.arange(config.num_steps)
        values = jax.jit(jax.vmap(hyperparams, (0, None)))(steps, settings)
        name = "slope" if config.estimator == "slope_annealed_st" else "temperature"
        return config.seed, name, np.asarray(getattr(values, name)).tobytes()

    expected = {}
    for point in listed:
        expected.setdefault(seen(point), []).append(point)
    assert points.runs(listed) == list(expected.values())
    assert [len(same) for same in points.runs(annealing(500))] == [12, 12]
    # In the whole of the paper's run only a floor of 1 makes them equal.
    assert sorted(len(same) for same in points.runs(annealing(545_000))) == [1] * 16 + [4] * 2


def test_fields_that_an_estimator_does_not_read_make_no_run_of_their_own(tmp_path, here):
    def runs(*changes, **common):
        listed = points.load_sweep(str(write_sweep(tmp_path, [common | one for one in changes])))
        return [len(same) for same in points.runs(listed.points)]

    temperatures = [{"temperature.initial": value} for value in (1.0, 2.0)]
    backward = [{"temperature.backward": value} for value in (1.0, 2.0)]
    assert runs(*temperatures, *backward, estimator="straight_through") == [3]
    assert runs(*temperatures, estimator="gumbel_softmax") == [1, 1]
    assert runs(*backward, estimator="gumbel_softmax") == [2]
    assert runs(*backward, estimator="decoupled_gumbel_softmax") == [1, 1]
    assert runs({"seed": 0}, {"seed": 1}, estimator="straight_through") == [1, 1]
    # A temperature that is learned only starts at the schedule's.
    rates = [{"temperature.rate": value, "temperature.update_every": 10} for value in (0.01, 0.02)]
    assert runs(*rates, *temperatures, estimator="rebar") == [3, 1]
    assert runs(*rates, **{"estimator": "rebar", "control.learn": False}) == [1, 1]


def test_equal_points_are_found_fast_in_the_longest_run(here):
    listed = annealing(545_000)[:1] * 50
    often = [point._replace(config=point.config.copy_and_resolve_references()) for point in listed]
    for point in often:
        point.config.temperature.update_every = 1
    start = time.monotonic()
    assert len(points.runs(often)) == 1
    assert time.monotonic() - start < 10


def test_a_rate_for_the_length_of_the_run_becomes_a_number(tmp_path, here):
    path = write_sweep(tmp_path, [])
    point = "{'config': 'configs/cat_vae.py:digits', 'temperature.rate': PerRun(3)}"
    path.write_text(
        "from configs.sweeps import PerRun\nPILOT = ('temperature.rate',)\n"
        f"def get_sweep():\n    return [{point}, {point} | {{'num_steps': 200}}]\n"
    )

    def rates(listed):
        return [(point.config.num_steps, point.config.temperature.rate) for point in listed]

    sweep = points.load_sweep(str(path))
    assert rates(sweep.points) == [(5_000, 3 / 5_000), (200, 3 / 200)]
    assert sweep.points[1].overrides["temperature.rate"] == 3 / 200
    assert rates(points.pilots(sweep, 40)) == [(40, 3 / 5_000), (40, 3 / 200)]
    assert rates(points.load_sweep(str(path), num_steps=1_000).points) == [(1_000, 3 / 1_000)]


def test_one_run_serves_all_points_that_are_the_same(tmp_path, here, monkeypatch, capsys):
    listed = annealing(2_000)[::2]  # the first seed
    runs = points.runs(listed)
    assert [len(same) for same in runs] == [2, 4, 2, 2, 2]
    # Trained before equal points were found: a result that is there is used.
    finish(tmp_path, runs[1][3], valid_nll_m100=10.0, test_nll_m1000=12.0)
    acts(
        monkeypatch,
        "Path(folders[0]).mkdir(parents=True)\n"
        "(Path(folders[0]) / 'result.json').write_text('{\"valid_nll_m100\": 20.0}')",
    )
    ended = outcomes.run(listed, tmp_path, workers.LocalWorkers(2))
    assert [one.point for one in ended] == listed
    assert len(list((tmp_path / "points").iterdir())) == 5
    told = capsys.readouterr()
    assert "sweep: 12 points, 5 runs, 2 at a time" in told.err
    assert (
        "2 points with temperature.rate=1e-05, temperature.update_every=500 have the same "
        "temperature at every step and are trained once: temperature.floor=0.25; "
        "temperature.floor=0.5\n"
    ) in told.err
    assert told.err.count(" 10.00 nats") == 1
    table = rows_of(tmp_path / "sweep.csv")
    assert len(table) == 12
    assert [row["valid_nats"] for row in table].count("10") == 4
    shared = [row["same_run_as"] for row in table if row["valid_nats"] == "10"]
    assert sorted(shared) == ["", *[runs[1][3].hash] * 3]
    best, *lines = told.out.splitlines()
    assert best.startswith("best on validation: temperature.rate=1e-05, temperature.update_every=5")
    assert lines[0].startswith("  the same run as 3 more: ")
    assert lines[1:3] == [
        "  validation 10.00, test 12.00 nats", f"  {jobs.folder(tmp_path, runs[1][3])}"
    ]  # fmt: skip


def test_a_sweep_that_cannot_tell_anything_says_so_and_names_no_best(
    tmp_path, here, monkeypatch, capsys
):
    def told(listed, folder):
        for point in (same[0] for same in points.runs(listed)):
            samples = point.config.evaluation.valid_samples
            finish(tmp_path / folder, point, **{f"valid_nll_m{samples}": 20.0})
        outcomes.run(listed, tmp_path / folder, workers.LocalWorkers(1))
        assert "best" not in json.loads((tmp_path / folder / "sweep.json").read_text())
        out, err = capsys.readouterr()
        assert "best" not in out
        assert out.splitlines()[0] in err.splitlines()
        return out.splitlines()[0]

    assert told(annealing(500), "short") == (
        "500 steps are too few for the sweep to tell anything: all points of a seed have the same "
        "temperature at every step and are trained once. Take more steps, or rates for the length "
        "of the run (PerRun of configs/sweeps)"
    )
    rates = [{"estimator": "reinmax", "temperature.rate": rate} for rate in (0.0, 1.0)]
    assert told(points.load_sweep(str(write_sweep(tmp_path, rates))).points, "reinmax") == (
        "the sweep cannot tell anything: all points of a seed differ in nothing that reinmax reads "
        "and are trained once"
    )


def test_a_point_that_diverges_counts_as_failed_and_is_never_the_best(tmp_path, here, capsys):
    short = {"num_steps": 10, "eval_every": 5, "log_every": 5}
    rates = [short | {"optimizer.learning_rate": rate} for rate in (1e30, 1e-3)]
    listed = points.load_sweep(str(write_sweep(tmp_path, rates))).points
    # By the rate, which the diverged point would have by far the most of.
    diverged, fine = outcomes.run(listed, tmp_path, None, maximize="valid_rate", together=2)
    assert diverged.result is None
    assert "training has diverged. No checkpoint yet in" in diverged.error
    assert fine.result["steps"] == 10
    told = capsys.readouterr()
    assert f"optimizer.learning_rate=1e+30: {diverged.error}\n" in told.err
    assert "best on validation: optimizer.learning_rate=0.001\n" in told.out
    assert rows_of(tmp_path / "sweep.csv")[0]["error"] == diverged.error


# --- the command ---


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
    rows = rows_of(tmp_path / "run" / "sweep.csv")
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


@pytest.mark.slow
def test_a_sweep_may_maximize_a_measure_and_pilots_go_by_it(tmp_path):
    """Here the rate, which the larger of two learning rates drives up at the price of the bound."""
    path = write_sweep(tmp_path, [{"optimizer.learning_rate": rate} for rate in (1e-2, 0.5)])
    text = path.read_text()
    path.write_text(f"PILOT = ('optimizer.learning_rate',)\nMAXIMIZE = 'valid_rate'\n{text}")
    options = f"--sweep={path}", f"--workdir={tmp_path / 'w'}", "--backend=here"
    told = command(*options, "--pilot_steps=50")
    assert told.returncode == 0, told.stderr
    first, second = rows_of(tmp_path / "w" / "pilots.csv")
    assert float(first["valid_rate"]) < float(second["valid_rate"])
    assert float(first["valid_nats"]) < float(second["valid_nats"])
    assert "best on validation: optimizer.learning_rate=0.5" in told.stdout
    assert len(rows_of(tmp_path / "w" / "sweep.csv")) == 1
    path.write_text(path.read_text().replace("'valid_rate'", "'test_rate'"))
    wrong = command(*options)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(f"error: MAXIMIZE of {path} must be valid_rate")
    assert wrong.stderr.count("\n") == 1
