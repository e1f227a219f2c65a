"""Jobs of a sweep: real processes that stand in for training, on workers of two kinds."""

import os
import signal
import sys
import threading
import types

import pytest

from experiments.sweeping import jobs, workers
from tests.experiments.sweeping.stand_ins import END, acts


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
    assert [ended[p.hash].result for p in (a, b)] == [END | {"valid/nll": 1.0}] * 2
    assert capsys.readouterr().err.count("was killed (signal 9); it is started again") == 4
    assert place.free == 2
    other = tmp_path / "other"
    other.mkdir()
    ended = outcomes_of([[a]], other, place, retries=1)
    assert ended[a.hash].result is None
    assert ended[a.hash].error == "killed by signal 9"


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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no pinning on this system")
def test_local_workers_are_pinned_and_gpus_shared_out(tmp_path):
    code = (
        "import os; print(sorted(os.sched_getaffinity(0)), os.environ.get('CUDA_VISIBLE_DEVICES'))"
    )
    cores = sorted(os.sched_getaffinity(0))

    def printed(place, number):
        logs = [tmp_path / f"{place.number}-{i}" for i in range(number)]
        running = [place.start([sys.executable, "-c", code], log, {}) for log in logs]
        for one in running:
            one.wait()
            assert one.poll() == 0
        return [log.read_text().strip() for log in logs]

    affinities = [line.rpartition(" ")[0] for line in printed(workers.LocalWorkers(2), 2)]
    assert affinities == [f"[{cores[i % len(cores)]}]" for i in range(2)]
    assert printed(workers.LocalWorkers(1), 1)[0].startswith(str(cores))
    on_gpus = printed(workers.LocalWorkers(3, ("4", "7"), accelerated=True), 3)
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
        signal.raise_signal(signal.SIGTERM)

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
