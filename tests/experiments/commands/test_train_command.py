"""``experiments.train`` as a user meets it: a run that works, that is stopped, that is refused."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import matplotlib.image
import numpy as np
import pytest
from jax import random

from experiments import data, figures, train
from experiments.running import config as configuration
from experiments.running import interrupts, loop, training
from experiments.running.run_folder import Events
from tests.experiments import runs
from tests.experiments.runs import (
    DIGITS,
    ROOT,
    checkpoint_of,
    result_of,
    rows_of,
    step_of,
    without_times,
)

SMALL = (DIGITS, *(f"--config.{name}={value}" for name, value in runs.SMALL.items()))
FIGURES = ("nll", "rate", "reconstructions", "samples", "class_use")


# --- the command in its own process ---

# 100 rows in about a second: long enough to be hit by a signal in the midst. It overfits: the
# best parameters are those of step 250, before the first break, and must outlive them all.
LONG = (
    *SMALL,
    "--config.model.num_latents=20",
    "--config.optimizer.learning_rate=0.01",
    "--config.temperature.rate=0",
    "--config.num_steps=1000",
    "--config.log_every=10",
    "--config.eval_every=250",
)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """``python -m experiments.train`` as a process, with pipes or, for stderr, a terminal."""

    def __init__(self, *options: str, terminal: bool = False):
        ours, theirs = os.openpty() if terminal else os.pipe()
        if terminal:
            termios.tcsetwinsize(theirs, (40, 150))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.train", *options],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
        )
        os.close(theirs)
        self._heard: list[bytes] = []
        self._listener = threading.Thread(target=self._listen, args=(ours,))
        self._listener.start()

    def _listen(self, source: int) -> None:
        with contextlib.suppress(OSError):  # a terminal ends with an error, a pipe with nothing
            while piece := os.read(source, 1 << 16):
                self._heard.append(piece)
        os.close(source)

    def signal_after(self, rows: int, workdir: Path, number: signal.Signals) -> "Command":
        """Send a signal once ``metrics.jsonl`` has that many rows more than now."""
        end, before = time.monotonic() + 120, self._count(workdir)
        while self._count(workdir) < before + rows:
            if time.monotonic() > end:
                self.process.kill()
            assert self.process.poll() is None, f"ended too early: {self.ended()}"
            time.sleep(0.002)
        self.process.send_signal(number)
        return self

    @staticmethod
    def _count(workdir: Path) -> int:
        metrics = workdir / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def ended(self) -> Ended:
        try:
            out, _ = self.process.communicate(timeout=180)
        finally:
            self.process.kill()
            self._listener.join()
        return Ended(self.process.returncode, out, b"".join(self._heard).decode())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, Ended]:
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    return workdir, Command(*LONG, f"--workdir={workdir}").ended()


class Broken(NamedTuple):
    workdir: Path
    ctrl_c: Ended
    terminated: Ended
    killed: Ended
    last: Ended


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Broken:
    """The unbroken run's command four times: Ctrl-C, SIGTERM, kill -9, and then to the end."""
    workdir = tmp_path_factory.mktemp("broken") / "run"
    options = (*LONG, f"--workdir={workdir}")
    ctrl_c = Command(*options, terminal=True).signal_after(26, workdir, signal.SIGINT).ended()
    terminated = Command(*options).signal_after(20, workdir, signal.SIGTERM).ended()
    killed = Command(*options).signal_after(20, workdir, signal.SIGKILL).ended()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99990, "loss": 17')
    return Broken(workdir, ctrl_c, terminated, killed, Command(*options).ended())


def test_one_command_trains_and_leaves_everything_in_the_folder(unbroken):
    workdir, ended = unbroken
    assert ended.code == 0, ended.err
    result = result_of(workdir)
    assert set(result) == {
        "test/nll", "test/rate", "last/nll", "last/rate", "train/loss", "valid/nll", "valid/rate",
        "maximize", "selected_step", "steps", "seconds", "steps_per_second", "test_seconds",
        "estimator", "dataset", "seed", "config_hash", "digest",
    }  # fmt: skip
    assert result["steps"] == 1000
    assert result["selected_step"] == 250
    assert 64 * 0.1 < result["test/nll"] < 181  # nats of 64 pixels; 182 untrained
    assert 0 < result["steps_per_second"] < 1e6
    assert re.fullmatch("[0-9a-f]{12}", result["config_hash"])
    assert [row["step"] for row in rows_of(workdir)] == list(range(10, 1001, 10))
    fields = json.loads((workdir / "config.json").read_text())
    assert (fields["num_steps"], fields["model.num_latents"]) == (1000, 20)
    start, *_ = json.loads((workdir / "provenance.json").read_text())
    assert start["command"].startswith("python -m experiments.train --config=configs/cat_vae.py")
    assert start["jax"] == jax.__version__
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1000", "750"]
    if (workdir / "events").exists():  # with the extra
        assert list((workdir / "events").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_run_ends_with_figures_to_look_at(unbroken, name):
    image = matplotlib.image.imread(unbroken[0] / "figures" / f"{name}.png")
    height, width, _ = image.shape
    assert 100 < height < 4000
    assert 300 < width < 4000
    assert image[..., :3].std() > 0.01, "one colour"


def test_no_other_figure_is_written(unbroken):
    assert {path.stem for path in (unbroken[0] / "figures").iterdir()} == set(FIGURES)


_PLAIN_LINE = (
    r"step [\d,]+/1,000  loss [\d.]+  temperature [\d.]+(  valid/nll [\d.]+)?"
    r"  [\d,]+ steps/s  [\d:]+ left"
)
_WAIT = r"(loading|building|preparing|compiling|measuring|drawing) [^\d]*[\d,]*[^\d]* \.\.\."


def test_piped_output_is_plain_lines(unbroken, broken):
    for ended in (unbroken[1], broken.last):  # the one after a kill -9
        assert "\r" not in ended.err
        lines = ended.err.splitlines()
        for line in lines:  # no log of orbax, no warning of jax
            assert re.fullmatch(f"{_PLAIN_LINE}|{_WAIT}|resuming at step .*", line), line
        *_, last = (line for line in lines if re.fullmatch(_PLAIN_LINE, line))
        assert last.startswith("step 1,000/1,000")
        assert "valid/nll" in last


def test_the_result_is_all_of_standard_output(unbroken):
    workdir, ended = unbroken
    shown = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert set(shown) == {*result_of(workdir), "figures"} - {"digest", "maximize"}
    assert shown["config_hash"] == result_of(workdir)["config_hash"]
    assert shown["figures"] == str(workdir / "figures")


def test_ctrl_c_and_sigterm_save_and_say_how_to_resume(broken):
    for ended in (broken.ctrl_c, broken.terminated):
        assert ended.code == 130, ended.err
        assert re.search(r"saved at step [\d,]+; the same command resumes the run\s*$", ended.err)
        assert "Traceback" not in ended.err
        assert ended.out == ""


def test_each_start_resumes_where_the_last_stopped(broken):
    def steps(pattern: str, ended: Ended) -> int:
        found = re.search(pattern, ended.err)
        assert found, ended.err
        return int(found[1].replace(",", ""))

    assert broken.killed.code == -signal.SIGKILL
    assert broken.last.code == 0, broken.last.err
    saved, resumed = r"saved at step ([\d,]+);", r"resuming at step ([\d,]+) of 1,000"
    assert 260 <= steps(saved, broken.ctrl_c) == steps(resumed, broken.terminated)
    assert 460 <= steps(saved, broken.terminated) == steps(resumed, broken.killed)
    assert steps(resumed, broken.killed) <= steps(resumed, broken.last) < 1000


def test_a_broken_run_equals_the_unbroken_one_bit_for_bit(unbroken, broken):
    workdir, _ = unbroken
    expected, found = rows_of(workdir), rows_of(broken.workdir)
    assert list(map(without_times, found)) == list(map(without_times, expected))
    assert without_times(result_of(broken.workdir)) == without_times(result_of(workdir))
    for figure in ("reconstructions", "samples", "class_use"):
        name = Path("figures") / f"{figure}.png"
        assert (broken.workdir / name).read_bytes() == (workdir / name).read_bytes(), figure
    parameters, again = checkpoint_of(workdir), checkpoint_of(broken.workdir)
    assert step_of(parameters) == 1000
    assert again == parameters


def test_the_times_of_a_broken_run_add_up(broken):
    for name in ("seconds", "train_seconds"):
        times = [row[name] for row in rows_of(broken.workdir)]
        assert times == sorted(times)
        assert times[0] > 0


def test_a_terminal_shows_a_bar_with_all_that_one_watches(broken):
    frames = [frame for frame in broken.ctrl_c.err.split("\r") if "valid/nll=" in frame]
    assert frames
    frame = frames[-1]
    assert re.search(r"\d+%\|.*\| *\d+/1000 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+step/s", frame)
    assert re.search(r"loss=\d+\.\d+", frame)
    assert re.search(r"temperature=\d\.\d+", frame)
    assert re.search(r"valid/nll=\d{2,3}", frame)


def test_a_mistake_is_one_line_and_a_failure_to_the_shell():
    ended = Command(DIGITS, "--config.model.num_latent=3").ended()
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err == (
        "python -m experiments.train: error: the config has no field 'model.num_latent'; "
        "did you mean model.num_latents?\n"
    )


# --- the command in this process ---


def here(*options: str) -> int | str:
    return runs.here(train.main, *options)


def refused(*options: str) -> str:
    """The one line with which the command refuses to run."""
    message = here(*options)
    assert isinstance(message, str), f"exit status {message}"
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def test_ctrl_c_before_the_first_step_leaves_no_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(data, "load", mock.Mock(side_effect=KeyboardInterrupt))
    assert here(*SMALL, f"--workdir={tmp_path / 'run'}") == 130
    assert "the same command resumes" in capsys.readouterr().err


# --- short runs in this process ---

# No number divides another: every scan must end where the next thing is due.
ODD = (
    *SMALL,
    "--config.num_steps=23",
    "--config.eval_every=10",
    "--config.log_every=4",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert here(*ODD, f"--workdir={workdir}") == 0
    return workdir


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(training, "init_state", mock.Mock(side_effect=AssertionError("it trains")))


def test_exactly_num_steps_updates_are_done_and_the_end_is_evaluated(finished):
    rows = rows_of(finished)
    assert [row["step"] for row in rows] == [4, 8, 10, 12, 16, 20, 23]
    assert [row["step"] for row in rows if "valid/nll" in row] == [10, 20, 23]
    assert result_of(finished)["steps"] == 23
    checkpoint = checkpoint_of(finished)
    assert step_of(checkpoint) == 23
    counts = [leaf for name, leaf in checkpoint.items() if "count" in name]  # Adam's own
    assert {int(np.frombuffer(count, np.int32)[0]) for count in counts} == {23}


def test_a_finished_run_shows_its_result_without_training(finished, no_training, capsys):
    assert here(*ODD, f"--workdir={finished}") == 0
    out, err = capsys.readouterr()
    assert result_of(finished)["config_hash"] in out
    assert f"{finished} is finished" in err


def test_the_same_run_with_its_data_elsewhere_is_the_same_run(copy, no_training):
    assert here(*ODD, f"--workdir={copy}", "--config.data.dir=/elsewhere") == 0


def test_another_config_in_the_same_folder_is_refused(copy, no_training):
    result = (copy / "result.json").read_bytes()
    message = refused(*ODD, f"--workdir={copy}", "--config.seed=3", "--config.kl=relaxed_density")
    assert "seed (0 there, 3 now)" in message
    assert "kl ('analytic' there, 'relaxed_density' now)" in message
    assert "num_steps" not in message
    assert "--workdir" in message
    assert (copy / "result.json").read_bytes() == result


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_damaged_record_is_named(copy, name, no_training):
    text = (copy / name).read_text()
    (copy / name).write_text(text[: len(text) // 2])
    message = refused(*ODD, f"--workdir={copy}")
    assert f"{copy / name} is damaged" in message


@pytest.mark.parametrize("place", ["config.json", "config.json/run"])
def test_a_workdir_that_is_a_file_is_refused(copy, place, no_training):
    assert str(copy / "config.json") in refused(*ODD, f"--workdir={copy / place}")


def test_a_folder_with_other_files_is_refused(tmp_path, no_training):
    (tmp_path / "notes.txt").write_text("mine")
    assert "other files" in refused(*ODD, f"--workdir={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same_end(
    copy, finished, capfd
):
    """With the metrics file damaged too, which the checkpoint restores."""
    (copy / "result.json").unlink()
    last = copy / "checkpoints" / "23"
    arrays = max((p for p in last.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    arrays.write_bytes(arrays.read_bytes()[: arrays.stat().st_size // 2])
    metrics = copy / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("{", "", 1))
    assert here(*ODD, f"--workdir={copy}") == 0
    told = capfd.readouterr().err
    assert "the checkpoint of step 23 is damaged" in told
    assert "metrics.jsonl was damaged; it is restored" in told
    assert "Traceback" not in told
    assert without_times(result_of(copy)) == without_times(result_of(finished))
    assert list(map(without_times, rows_of(copy))) == list(map(without_times, rows_of(finished)))


def test_checkpoints_that_are_all_damaged_are_named_and_left(copy):
    (copy / "result.json").unlink()
    for file in (copy / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = refused(*ODD, f"--workdir={copy}")
    assert f"no checkpoint in {copy / 'checkpoints'} can be read" in message
    assert {path.name for path in (copy / "checkpoints").iterdir()} == {"20", "23"}


def test_a_checkpoint_that_orbax_cannot_even_list_gives_way_to_the_one_before(
    copy, finished, capfd
):
    (copy / "result.json").unlink()
    (copy / "checkpoints" / "23" / "_CHECKPOINT_METADATA").write_text("[" * 100_000)
    assert here(*ODD, f"--workdir={copy}") == 0
    told = capfd.readouterr().err
    assert "the checkpoint of step 23 is damaged" in told
    assert "Traceback" not in told
    assert (copy / "damaged" / "23-0").is_dir()
    assert without_times(result_of(copy)) == without_times(result_of(finished))


@pytest.mark.parametrize("content", ["[" * 100_000, '{"custom_metadata": {"a": 1}, "b": 1}'])
def test_it_is_named_where_none_remains(content, copy):
    (copy / "result.json").unlink()
    for step in ("20", "23"):
        (copy / "checkpoints" / step / "_CHECKPOINT_METADATA").write_text(content)
    message = refused(*ODD, f"--workdir={copy}")
    assert f"a _CHECKPOINT_METADATA in {copy / 'checkpoints'} is damaged" in message


@pytest.mark.parametrize(
    "size",
    ["model.num_classes=1000000000", "batch_size=2147483647", "model.hidden_sizes=100000,1000000"],
)
def test_sizes_that_cannot_fit_into_the_memory_are_refused_at_once(size, tmp_path, no_training):
    message = refused(*SMALL, f"--config.{size}", f"--workdir={tmp_path / 'run'}")
    assert re.search(r"need at least [\d,.]+ GB of memory; [\d,.]+ GB are available", message)
    assert not (tmp_path / "run").exists()


def usage(*free):
    """A disk with so much space at each look; the last one stays."""
    answers = list(free)
    return lambda _: mock.Mock(free=answers.pop(0) if len(answers) > 1 else answers[0])


@pytest.mark.slow
def test_too_little_space_is_found_before_training_and_before_a_checkpoint(tmp_path, monkeypatch):
    """What was saved before the disk was full is kept, and resumes to the same end."""
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert here(*ODD, f"--workdir={unbroken}") == 0
    monkeypatch.setattr(shutil, "disk_usage", usage(100_000))
    message = refused(*ODD, f"--workdir={broken}")
    assert re.search(r"3 checkpoints need [\d.]+ MB in .*; 0.1 MB are free there", message)
    monkeypatch.setattr(shutil, "disk_usage", usage(10**9, 10**9, 100_000))
    message = refused(*ODD, f"--workdir={broken}")
    assert "a checkpoint needs" in message
    assert "What was saved before is kept" in message
    monkeypatch.undo()
    assert step_of(checkpoint_of(broken)) == 10
    assert here(*ODD, f"--workdir={broken}") == 0
    assert checkpoint_of(broken) == checkpoint_of(unbroken)
    assert without_times(result_of(broken)) == without_times(result_of(unbroken))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    # The temperature is held for 25 steps, then the logits divided by it overflow: infinity
    # less infinity is the 26th loss.
    workdir = tmp_path / "run"
    command = (
        *SMALL,
        f"--workdir={workdir}",
        "--config.num_steps=60",
        "--config.eval_every=10",
        "--config.log_every=10",
        "--config.temperature.update_every=25",
        "--config.temperature.rate=10",
        "--config.temperature.floor=1.2e-38",
    )
    expected = (
        "stopped: the loss of step 26 is not finite (nan). The checkpoint of step 20 is kept in "
        f"{workdir}. Try a smaller --config.optimizer.learning_rate"
    )
    assert here(*command) == expected
    text = (workdir / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert [row["step"] for row in rows_of(workdir)] == [10, 20]
    assert not (workdir / "result.json").exists()
    assert step_of(checkpoint_of(workdir)) == 20
    assert here(*command) == expected  # the same command resumes at 20 and comes to the same


def test_a_finite_bound_far_below_a_uniform_guess_stops_the_run(tmp_path):
    workdir = tmp_path / "run"
    options = (*SMALL, "--config.num_steps=40", "--config.eval_every=10", "--config.log_every=5")
    command = (*options, f"--workdir={workdir}", "--config.optimizer.learning_rate=1e30")
    message = here(*command)
    assert re.fullmatch(
        r"stopped: valid/nll at step 10 is [\d.]+e\+3\d, more than 10 times the 543\.4 of a "
        r"uniform guess: training has diverged. No checkpoint yet in "
        rf"{workdir}. Try a smaller --config.optimizer.learning_rate",
        message,
    )
    assert [row["step"] for row in rows_of(workdir)] == [5]
    assert not (workdir / "checkpoints").exists()
    assert not (workdir / "result.json").exists()


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_test_bound_far_below_a_uniform_guess_is_no_result(keep, tmp_path, monkeypatch):
    workdir, real = tmp_path / "run", loop.evaluate
    of_test = random.key_data(random.key(loop._KEY_TEST))

    def diverged(metrics, params, key, *rest):
        means = real(metrics, params, key, *rest)
        return means | {"nll": 6_000.0} if (random.key_data(key) == of_test).all() else means

    monkeypatch.setattr(loop, "evaluate", diverged)
    options = ("--config.num_steps=10", "--config.eval_every=5", f"--config.keep={keep}")
    assert here(*SMALL, *options, f"--workdir={workdir}") == (
        "stopped: test/nll at step 10 is 6000, more than 10 times the 543.4 of a uniform guess: "
        "training has diverged. The checkpoint of step 10 is kept in "
        f"{workdir}. Try a smaller --config.optimizer.learning_rate"
    )
    assert not (workdir / "result.json").exists()


def test_parameters_that_a_step_has_broken_are_not_kept_as_a_checkpoint(tmp_path):
    workdir = tmp_path / "run"
    message = here(
        *SMALL,
        f"--workdir={workdir}",
        "--config.num_steps=2",
        "--config.eval_every=1",
        "--config.optimizer.learning_rate=1e37",
    )
    assert message == (
        "stopped: valid/nll at step 1 is not finite (nan). No checkpoint yet in "
        f"{workdir}. Try a smaller --config.optimizer.learning_rate"
    )
    assert not (workdir / "checkpoints").exists()


def raise_and_wait(number):
    """Raise a signal and wait until the thread that reads it has said so to the loop."""
    signal.raise_signal(number)
    while not interrupts._requests[-1].made:
        time.sleep(0.001)


def test_a_signal_between_two_evaluations_saves_the_last_row(tmp_path, monkeypatch):
    """What is said to be saved is saved: the signal comes when the row is already written."""
    workdir, real = tmp_path / "run", Events.add

    def signalled(self, row):
        real(self, row)
        if row["step"] == 8:
            raise_and_wait(signal.SIGTERM)

    monkeypatch.setattr(Events, "add", signalled)
    options = ("--config.num_steps=40", "--config.eval_every=20", "--config.log_every=4")
    assert here(*SMALL, *options, f"--workdir={workdir}") == 130
    assert step_of(checkpoint_of(workdir)) == 8
    assert [row["step"] for row in rows_of(workdir)] == [4, 8]


def test_a_signal_during_an_evaluation_leaves_the_interval_out(tmp_path, monkeypatch):
    """An evaluation may be long: the state of the last row is saved, and the run is the same."""
    unbroken, broken, real = tmp_path / "unbroken", tmp_path / "broken", loop.evaluate
    options = ("--config.num_steps=12", "--config.eval_every=8", "--config.log_every=4")
    assert here(*SMALL, *options, f"--workdir={unbroken}") == 0

    def signalled(*arguments):
        raise_and_wait(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(loop, "evaluate", signalled)
    assert here(*SMALL, *options, f"--workdir={broken}") == 130
    monkeypatch.undo()
    assert step_of(checkpoint_of(broken)) == 4
    assert [row["step"] for row in rows_of(broken)] == [4]
    assert here(*SMALL, *options, f"--workdir={broken}") == 0
    assert checkpoint_of(broken) == checkpoint_of(unbroken)
    assert list(map(without_times, rows_of(broken))) == list(map(without_times, rows_of(unbroken)))


def test_a_signal_before_the_first_row_says_that_nothing_is_saved(tmp_path, monkeypatch, capsys):
    real = loop.evaluate

    def signalled(*arguments):
        raise_and_wait(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(loop, "evaluate", signalled)
    options = ("--config.num_steps=4", "--config.eval_every=4", "--config.log_every=4")
    assert here(*SMALL, *options, f"--workdir={tmp_path / 'run'}") == 130
    assert "stopped before the first row" in capsys.readouterr().err
    assert rows_of(tmp_path / "run") == []
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_long_intervals_are_cut_so_that_a_signal_is_answered(tmp_path, monkeypatch):
    """In pieces or whole, the rows are the same; a signal between two leaves the interval out."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = (*SMALL, "--config.num_steps=30", "--config.eval_every=15", "--config.log_every=15")
    assert here(*options, f"--workdir={whole}") == 0
    monkeypatch.setattr(loop, "_SECONDS_OF_A_SCAN", 1e-9)  # one step in each
    assert here(*options, f"--workdir={cut}") == 0
    assert list(map(without_times, rows_of(cut))) == list(map(without_times, rows_of(whole)))
    assert checkpoint_of(cut) == checkpoint_of(whole)

    shutil.rmtree(cut)
    scans = []

    def scan(self, length, *arguments):
        compiled = scan_of(self, length, *arguments)

        def counted(*operands):
            scans.append(length)
            if len(scans) == 4:  # the first interval is one scan
                raise_and_wait(signal.SIGINT)
            return compiled(*operands)

        return counted

    scan_of = loop._Scans._scan
    monkeypatch.setattr(loop._Scans, "_scan", scan)
    assert here(*options, f"--workdir={cut}") == 130
    assert scans == [15, 1, 1, 1]
    assert step_of(checkpoint_of(cut)) == 15


@pytest.mark.usefixtures("drawn")
def test_a_figure_that_cannot_be_drawn_leaves_a_result(tmp_path, monkeypatch, capsys):
    """The result of hours is on disk before the first figure, and the next start draws."""
    workdir = tmp_path / "run"
    broken = mock.Mock(side_effect=RuntimeError("no font"))
    monkeypatch.setattr(figures, "draw_run", broken)
    command = (*SMALL, "--config.num_steps=2", f"--workdir={workdir}")
    with pytest.raises(RuntimeError, match="no font"):
        here(*command)
    assert result_of(workdir)["steps"] == 2
    monkeypatch.undo()
    capsys.readouterr()
    assert here(*command) == 0
    out, err = capsys.readouterr()
    assert "resuming at step 2 of 2" in err
    assert result_of(workdir)["config_hash"] in out
    assert (workdir / "figures" / "nll.png").exists()


# --- a task without a dataset ---

POLYNOMIAL = (
    "--config=configs/polynomial.py",
    "--config.model.num_units=4",
    "--config.estimator=rloo",
    "--config.num_steps=40",
    "--config.eval_every=20",
    "--config.log_every=10",
    "--config.optimizer.learning_rate=0.1",
)


@pytest.mark.usefixtures("drawn")
def test_a_task_without_a_dataset_trains_stops_and_resumes(tmp_path, monkeypatch, capsys):
    unbroken, broken, real = tmp_path / "unbroken", tmp_path / "broken", Events.add
    assert here(*POLYNOMIAL, f"--workdir={unbroken}") == 0
    assert "dataset  None" in capsys.readouterr().out
    result = result_of(unbroken)
    rows = rows_of(unbroken)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert result["valid/cost"] == result["test/cost"] == rows[-1]["valid/cost"]
    assert rows[-1]["valid/cost"] < rows[1]["valid/cost"] < 0.2525  # of units that are fair coins
    assert [path.name for path in (unbroken / "figures").iterdir()] == ["cost.png"]

    def signalled(self, row):
        real(self, row)
        if row["step"] == 10:
            raise_and_wait(signal.SIGTERM)

    monkeypatch.setattr(Events, "add", signalled)
    assert here(*POLYNOMIAL, f"--workdir={broken}") == 130
    assert "saved at step 10" in capsys.readouterr().err
    assert here(*POLYNOMIAL, f"--workdir={broken}") == 0
    assert "resuming at step 10 of 40" in capsys.readouterr().err
    assert list(map(without_times, rows_of(broken))) == list(map(without_times, rows))
    assert without_times(result_of(broken)) == without_times(result)
    assert checkpoint_of(broken) == checkpoint_of(unbroken)


def test_the_default_folder_of_a_task_without_a_dataset_has_no_dataset_in_its_name():
    config = configuration.load(str(ROOT / "configs/polynomial.py"))
    folder = train.default_workdir(configuration.check(config), "configs/polynomial.py")
    assert re.fullmatch(r"polynomial-gumbel_softmax-[0-9a-f]{12}", folder.name)
