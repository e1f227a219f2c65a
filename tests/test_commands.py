"""The command line as a person meets it: a run that works, that is broken off, that is refused."""

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
from absl.testing import flagsaver
from jax import random
from ml_collections import ConfigDict

from experiments import config as configuration
from experiments import loop, tasks, train
from experiments.rundir import Events, RunDir
from gsm import data, training

ROOT = Path(__file__).resolve().parents[1]
DIGITS = "--config=configs/cat_vae.py:digits"
SMALL = (
    DIGITS,
    "--config.model.num_latents=3",
    "--config.evaluation.valid_samples=2",
    "--config.evaluation.test_samples=4",
)
FIGURES = ("learning_curve", "reconstructions", "samples", "class_use")
_TIMES = {"steps_per_second", "seconds", "train_seconds", "test_seconds"}


def without_times(numbers: dict) -> dict:
    return {name: value for name, value in numbers.items() if name not in _TIMES}


def rows_of(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def result_of(workdir: Path) -> dict:
    return json.loads((workdir / "result.json").read_text())


def checkpoint_of(workdir: Path) -> dict:
    """The last checkpoint's leaves as bytes by name: state, optimiser, key and best parameters."""
    fields = json.loads((workdir / "config.json").read_text())
    config = configuration.load(str(ROOT / "configs/cat_vae.py") + ":digits")
    fields["model.hidden_sizes"] = tuple(fields["model.hidden_sizes"])
    config.update_from_flattened_dict(fields)
    task = tasks.build(config, data.load("digits"))
    state = training.init_state(task.program, random.key(0))
    best = {"params": state.params, "step": np.int32(0), "bound": np.float32(0)}
    run = RunDir(workdir, configuration.identity(config), fields)
    restored = run.restore({"state": state._asdict(), "best": best})
    run.close()
    restored["state"]["key"] = random.key_data(restored["state"]["key"])
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def step_of(checkpoint: dict) -> int:
    return int(np.frombuffer(checkpoint["['state']['step']"], np.int32)[0])


# --- the command in its own process ---

# 200 rows in about two seconds: long enough to be hit by a signal in the midst. It overfits: the
# best parameters are those of step 250, before the first break, and must outlive them all.
LONG = (
    *SMALL,
    "--config.model.num_latents=20",
    "--config.optimizer.learning_rate=0.01",
    "--config.temperature.rate=0",
    "--config.num_steps=2000",
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
    ctrl_c = Command(*options, terminal=True).signal_after(30, workdir, signal.SIGINT).ended()
    terminated = Command(*options).signal_after(50, workdir, signal.SIGTERM).ended()
    killed = Command(*options).signal_after(60, workdir, signal.SIGKILL).ended()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99990, "loss": 17')
    return Broken(workdir, ctrl_c, terminated, killed, Command(*options).ended())


def test_one_command_trains_and_leaves_everything_in_the_folder(unbroken):
    workdir, ended = unbroken
    assert ended.code == 0, ended.err
    result = result_of(workdir)
    assert set(result) == {
        "test_nll_m4", "test_rate", "valid_nll_m2", "valid_rate", "selected_step", "steps",
        "seconds", "steps_per_second", "test_seconds", "estimator", "dataset", "seed",
        "config_hash",
    }  # fmt: skip
    assert result["steps"] == 2000
    assert result["selected_step"] == 250
    assert 64 * 0.1 < result["test_nll_m4"] < 181  # nats of 64 pixels; 182 untrained
    assert 0 < result["steps_per_second"] < 1e6
    assert re.fullmatch("[0-9a-f]{12}", result["config_hash"])
    assert [row["step"] for row in rows_of(workdir)] == list(range(10, 2001, 10))
    fields = json.loads((workdir / "config.json").read_text())
    assert (fields["num_steps"], fields["model.num_latents"]) == (2000, 20)
    start, *_ = json.loads((workdir / "provenance.json").read_text())
    assert start["command"].startswith("python -m experiments.train --config=configs/cat_vae.py")
    assert start["jax"] == jax.__version__
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["1750", "2000"]
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
    r"step [\d,]+/2,000  loss [\d.]+  temperature [\d.]+(  bound -[\d.]+)?"
    r"  [\d,]+ steps/s  [\d:]+ left"
)


def test_piped_output_is_plain_lines(unbroken, broken):
    for ended in (unbroken[1], broken.last):  # the one after a kill -9
        assert "\r" not in ended.err
        first, *lines = ended.err.splitlines()
        if not first.startswith("going on at step "):
            lines = [first, *lines]
        for line in lines:  # no log of orbax, no warning of jax
            assert re.fullmatch(_PLAIN_LINE, line), line
        assert lines[-1].startswith("step 2,000/2,000")
        assert "bound" in lines[-1]


def test_the_result_is_all_of_standard_output(unbroken):
    workdir, ended = unbroken
    shown = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    assert set(shown) == {*result_of(workdir), "figures"}
    assert shown["config_hash"] == result_of(workdir)["config_hash"]
    assert shown["figures"] == str(workdir / "figures")


def test_ctrl_c_and_sigterm_save_and_say_how_to_go_on(broken):
    for ended in (broken.ctrl_c, broken.terminated):
        assert ended.code == 130, ended.err
        assert re.search(r"saved at step [\d,]+; run the same command to go on\s*$", ended.err)
        assert "Traceback" not in ended.err
        assert ended.out == ""


def test_each_start_goes_on_where_the_last_stopped(broken):
    def steps(pattern: str, ended: Ended) -> int:
        found = re.search(pattern, ended.err)
        assert found, ended.err
        return int(found[1].replace(",", ""))

    assert broken.killed.code == -signal.SIGKILL
    assert broken.last.code == 0, broken.last.err
    saved, going_on = r"saved at step ([\d,]+);", r"going on at step ([\d,]+) of 2,000"
    assert 300 <= steps(saved, broken.ctrl_c) == steps(going_on, broken.terminated)
    assert 800 <= steps(saved, broken.terminated) == steps(going_on, broken.killed)
    assert steps(going_on, broken.killed) <= steps(going_on, broken.last) < 2000


def test_a_broken_run_equals_the_unbroken_one_bit_for_bit(unbroken, broken):
    workdir, _ = unbroken
    expected, found = rows_of(workdir), rows_of(broken.workdir)
    assert list(map(without_times, found)) == list(map(without_times, expected))
    assert without_times(result_of(broken.workdir)) == without_times(result_of(workdir))
    for figure in ("reconstructions", "samples", "class_use"):
        name = Path("figures") / f"{figure}.png"
        assert (broken.workdir / name).read_bytes() == (workdir / name).read_bytes(), figure
    parameters, again = checkpoint_of(workdir), checkpoint_of(broken.workdir)
    assert step_of(parameters) == 2000
    assert again == parameters


def test_the_times_of_a_broken_run_add_up(broken):
    for name in ("seconds", "train_seconds"):
        times = [row[name] for row in rows_of(broken.workdir)]
        assert times == sorted(times)
        assert times[0] > 0


def test_a_terminal_shows_a_bar_with_all_that_one_watches(broken):
    frames = [frame for frame in broken.ctrl_c.err.split("\r") if "bound=" in frame]
    assert frames
    frame = frames[-1]
    assert re.search(r"\d+%\|.*\| *\d+/2000 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+step/s", frame)
    assert re.search(r"loss=\d+\.\d+", frame)
    assert re.search(r"temperature=\d\.\d+", frame)
    assert re.search(r"bound=-\d+\.\d+", frame)


def test_a_mistake_is_one_line_and_a_failure_to_the_shell():
    ended = Command(DIGITS, "--config.model.num_latent=3").ended()
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err == (
        "python -m experiments.train: error: the config has no field 'model.num_latent'; "
        "did you mean model.num_latents?\n"
    )


# --- the command in this process ---


def here(*options: str) -> int | str | None:
    """Run the command here; returns what it passes to sys.exit: a status or an error message."""
    argv = ["experiments/train.py", *options]
    patch = mock.patch.object(sys, "argv", argv)
    with flagsaver.flagsaver(), patch, contextlib.chdir(ROOT):
        try:
            train.main(configuration.parse_flags(argv))
        except SystemExit as end:
            return end.code
    return 0


def refused(*options: str) -> str:
    """The one line with which the command refuses to run."""
    message = here(*options)
    assert isinstance(message, str), f"exit status {message}"
    assert "error: " in message
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < 600
    return message


@pytest.fixture
def accepted(monkeypatch) -> list[ConfigDict]:
    """The configs that reach the training, which does not take place."""
    configs: list[ConfigDict] = []

    def record(config, workdir):
        configs.append(config)
        return {}

    monkeypatch.setattr(loop, "train", record)
    return configs


def field(name: str, value: str = "") -> tuple[str, str]:
    return DIGITS, f"--config.{name}={value}"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (field("num_step", "1"), ["'num_step'", "did you mean num_steps?"]),
        (
            field("learning_rate", "1"),
            ["'learning_rate'", "mean learned.learning_rate or optimizer.learning_rate?"],
        ),
        (field("model.num_latent", "1"), ["'model.num_latent'", "did you mean model.num_latents?"]),
        (field("wxyz", "1"), ["'wxyz'", "optimizer.*", "num_steps"]),
        ((DIGITS, "--noconfig.model.center_input"), ["'model.center_input'", "center_inputs"]),
        ((DIGITS, "--config.num_step", "7"), ["'num_step'", "did you mean num_steps?"]),
        (field("model", "1"), ["config.model is a group", "model.num_latents"]),
        (field("num_steps", "1e3"), ["config.num_steps", "a whole number", "'1e3'"]),
        (field("num_steps", "abc"), ["config.num_steps", "a whole number", "'abc'"]),
        (field("num_steps", "1.5"), ["config.num_steps", "a whole number", "'1.5'"]),
        (field("num_steps"), ["config.num_steps", "a whole number"]),
        ((DIGITS, "--config.num_steps", "x"), ["config.num_steps", "a whole number", "'x'"]),
        (field("control.eta", "low"), ["config.control.eta", "a number", "'low'"]),
        (field("model.center_inputs", "maybe"), ["center_inputs", "true or false", "'maybe'"]),
        (field("model.center_inputs"), ["center_inputs", "true or false"]),
        (field("model.hidden_sizes", "512,x"), ["hidden_sizes", "whole numbers", "'512,x'"]),
        (field("model.hidden_sizes", "512,1.5"), ["hidden_sizes", "whole numbers", "1.5"]),
        (field("model.hidden_sizes", "512,0"), ["hidden_sizes", "positive", "(512, 0)"]),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else "",
)
def test_a_misspelt_field_or_a_wrong_type_is_told(options, told, accepted):
    message = refused(*options)
    for part in told:
        assert part in message
    assert not accepted


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(
            (name, value, "between 1 and 2^31 - 1")
            for name in (
                "num_steps", "eval_every", "log_every", "batch_size", "model.num_latents",
                "temperature.update_every", "evaluation.valid_samples",
            )
            for value in ("0", "2147483648")
        ),
        *(
            (name, value, "between 0 and 2^31 - 1")
            for name in ("evaluation.test_samples", "evaluation.curve_images")
            for value in ("-1", "2147483648")
        ),
        ("optimizer.final_share", "1.5", "between 0 and 1"),
        ("optimizer.final_share", "nan", "between 0 and 1"),
        ("seed", "-1", "between 0 and 2^32 - 1"),
        ("seed", "4294967296", "between 0 and 2^32 - 1"),
        ("model.num_classes", "1", "at least 2"),
        *(
            (name, value, "positive and finite")
            for name in ("optimizer.learning_rate", "temperature.initial", "temperature.floor")
            for value in ("0", "-0.1", "nan", "inf")
        ),
        ("temperature.rate", "-1e-9", "0 or more and finite"),
        ("temperature.rate", "inf", "0 or more and finite"),
        ("optimizer.weight_decay", "-1e-9", "0 or more and finite"),
        ("optimizer.momentum", "1", "at least 0 and below 1"),
        ("optimizer.momentum", "-0.1", "at least 0 and below 1"),
        *(
            (name, "0.99999999999", "at least 0 and below 1 in float32")
            for name in ("optimizer.momentum", "signal.decay")
        ),
        ("control.eta", "nan", "finite"),
        *(
            (name, value, "representable in float32: 0, or about 1.2e-38 to 3.4e38 in size")
            for name, *values in (
                ("temperature.floor", "1e39", "1e-39"),
                ("temperature.initial", "1e-60"),
                ("optimizer.learning_rate", "1e39", "1e-45"),
                ("optimizer.weight_decay", "1e39"),
                ("slope.cap", "3.5e38"),
                ("signal.constant", "-1e39"),
                ("learned.learning_rate", "1e-40"),
            )
            for value in values
        ),
        ("evaluation.valid_samples", "1001", "at most 1,000, or a multiple of it"),
        ("evaluation.test_samples", "2500", "at most 1,000, or a multiple of it"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_told_with_the_range(name, value, expected, accepted):
    message = refused(*field(name, value))
    assert message.startswith(f"error: config.{name} must be {expected}")
    assert "; got " in message
    assert not accepted


def test_the_weights_of_classifiers_are_checked_in_float32_too(accepted):
    semisup = "--config=configs/semisup.py:digits"
    for name in ("alpha", "labels.weight", "consistency.weight", "augmentation.shift"):
        told = refused(semisup, f"--config.{name}=1e39")
        assert told.startswith(f"error: config.{name} must be representable in float32: ")
        assert told.endswith("; got 1e+39")
    told = refused(semisup, "--config.augmentation.scale=0.99999999")
    assert told.startswith("error: config.augmentation.scale must be at least 0 and below 1 in fl")
    assert not accepted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature.floor", "1.2e-38"),
        ("slope.cap", "3.4e38"),
        ("optimizer.momentum", "0.9999999"),
    ],
)
def test_the_ends_of_float32_are_accepted(name, value, accepted):
    assert here(*field(name, value)) == 0
    assert dict(configuration.fields(accepted.pop()))[name] == float(value)


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("estimator", "gumble_softmax", "gumbel_softmax"),
        ("estimator", "straight-through", "straight_through"),
        ("kl", "analytical", "analytic"),
        ("keep", "lsat", "last"),
        ("data.name", "fashion", "fashion_mnist"),
        ("data.binarization", "dynamc", "dynamic"),
        ("model.prior", "unifrom", "uniform"),
        ("optimizer.name", "adamw", "adam"),
        ("task", "vea", "vae"),
    ],
)
def test_an_unknown_choice_is_told_with_all_choices_and_the_nearest(name, value, nearest, accepted):
    message = refused(*field(name, value))
    assert message.startswith(f"error: config.{name} must be one of ")
    assert f"(nearest: {nearest})" in message
    assert message.endswith(f"; got {value!r}")
    assert not accepted


def test_an_unknown_choice_far_from_all_is_told_without_a_guess(accepted):
    message = refused(*field("estimator", "xyzzy"))
    assert "nearest" not in message
    assert "exact, score_function, nvil, darn, muprop, straight_through" in message


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--config.estimator=exact"], ["config.estimator=exact", "65,536", "10 ** 20"]),
        (
            ["--config.estimator=exact", "--config.model.num_latents=2147483647"],
            ["config.estimator=exact", "10 ** 2147483647"],
        ),
        (
            ["--config.estimator=straight_through", "--config.kl=relaxed_density"],
            ["config.kl=relaxed_density", "straight_through", "use analytic or sampled"],
        ),
        (
            ["--config.estimator=score_function", "--config.kl=relaxed_log_mass"],
            ["config.kl=relaxed_log_mass", "score_function", "gumbel_softmax"],
        ),
        (["--config.kl=sampled"], ["config.kl=sampled", "gumbel_softmax", "use analytic"]),
    ],
)
def test_two_choices_that_cannot_be_had_together_are_told(options, told, accepted):
    message = refused(DIGITS, *options)
    for part in told:
        assert part in message
    assert not accepted


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "say which experiment: --config="),
        (["--config"], "say which experiment: --config="),
        (["--config="], "say which experiment: --config="),
        (["--confg=configs/cat_vae.py:digits"], "say which experiment: --config="),
        (["--config=configs/cat_va.py"], "no config file 'configs/cat_va.py'; configs here: "),
        (["--config", "configs/cat_va.py"], "no config file 'configs/cat_va.py'; configs here: "),
        (["--config=README.md"], "no config file 'README.md'; configs here: configs/bern_sbn.py"),
        (["--config=configs/defaults.py"], "configs/defaults.py has no function get_config"),
        (["--config=configs/cat_vae.py:digitz"], "(nearest: digits); got 'digitz'"),
        (["--config.seed=1", DIGITS], "--config.seed stands before --config"),
        ([DIGITS, "--config=configs/bern_vae.py:digits"], "--config is given more than once"),
        ([DIGITS, "digits"], "unexpected argument 'digits'"),
        ([DIGITS, "--", "digits"], "unexpected argument 'digits'"),
        ([DIGITS, "--confg.seed=1"], "'confg.seed'"),
        ([DIGITS, "--workdr=runs/x"], "'workdr'. Did you mean: workdir ?"),
        ([DIGITS, "--workdir"], "Missing value for flag --workdir"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_told(options, told, accepted):
    assert told in refused(*options)
    assert not accepted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "has no function get_config(argument)"),
        ("def get_config(:\n", "raises SyntaxError"),
        ("import nothing_of_this_name\n", "raises ModuleNotFoundError: No module named 'nothing"),
        (
            "def get_config():\n    raise ValueError('first\\n  second')\n",
            "ValueError: first second",
        ),
        ("def get_config():\n    return {}[3]\n", "raises KeyError: 3"),
        ("def get_config():\n    pass\n", "must return a ConfigDict; got None"),
    ],
)
def test_a_config_file_with_a_fault_is_named(text, told, tmp_path, accepted):
    file = tmp_path / "mine.py"
    file.write_text(text)
    message = refused(f"--config={file}")
    assert str(file) in message
    assert told in message
    assert not accepted


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (["--config.num_steps=7"], "num_steps", 7),
        (["--config.num_steps", "7"], "num_steps", 7),
        (["--config.model.center_inputs=false"], "model.center_inputs", False),
        (["--config.model.center_inputs", "false"], "model.center_inputs", False),
        (["--noconfig.model.center_inputs"], "model.center_inputs", False),
        (["--config.model.center_inputs"], "model.center_inputs", True),
        (["--config.model.hidden_sizes=32,16"], "model.hidden_sizes", (32, 16)),
        (["--config.model.hidden_sizes=(32,)"], "model.hidden_sizes", (32,)),
        (["--config.model.hidden_sizes=()"], "model.hidden_sizes", ()),
        (["--config.optimizer.learning_rate=1"], "optimizer.learning_rate", 1.0),
        (["--config.signal.constant", "-3.5"], "signal.constant", -3.5),
    ],
)
def test_every_way_to_write_a_value_is_read(options, name, value, accepted):
    for config in ([DIGITS], ["--config", "configs/cat_vae.py:digits"]):
        assert here(*config, *options) == 0
        read = dict(configuration.fields(accepted.pop()))[name]
        assert read == value
        assert type(read) is type(value)


def test_exact_is_refused_by_the_number_of_outcomes_alone(accepted):
    small = (*field("estimator", "exact"), "--config.model.num_classes=4")
    assert here(*small, "--config.model.num_latents=8") == 0  # 4 ** 8 = 65,536
    assert "4 ** 9" in refused(*small, "--config.model.num_latents=9")


def test_the_place_of_the_data_is_no_part_of_the_run(accepted):
    elsewhere = field("data.dir", "/elsewhere")
    assert here(DIGITS) == here(*elsewhere) == here(*field("seed", "1")) == 0
    digits, moved, other = accepted
    assert configuration.identity(moved) == configuration.identity(digits)
    assert configuration.config_hash(moved) == configuration.config_hash(digits)
    assert configuration.config_hash(other) != configuration.config_hash(digits)
    default = train.default_workdir(moved, "configs/cat_vae.py:digits")
    assert default == train.default_workdir(digits, "configs/cat_vae.py:digits")
    assert default.parts[0] == "runs"
    assert default.name.startswith("cat_vae-digits-gumbel_softmax-")
    assert default != train.default_workdir(other, "configs/cat_vae.py:digits")


def test_ctrl_c_before_the_first_step_leaves_no_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(data, "load", mock.Mock(side_effect=KeyboardInterrupt))
    assert here(*SMALL, f"--workdir={tmp_path / 'run'}") == 130
    assert "run the same command" in capsys.readouterr().err


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
    monkeypatch.setattr(tasks, "build", mock.Mock(side_effect=AssertionError("it trains")))


def test_exactly_num_steps_updates_are_done_and_the_end_is_evaluated(finished):
    rows = rows_of(finished)
    assert [row["step"] for row in rows] == [4, 8, 10, 12, 16, 20, 23]
    assert [row["step"] for row in rows if "valid_nll_m2" in row] == [10, 20, 23]
    assert result_of(finished)["steps"] == 23
    checkpoint = checkpoint_of(finished)
    (count,) = (leaf for name, leaf in checkpoint.items() if "count" in name)
    assert int(np.frombuffer(count, np.int32)[0]) == step_of(checkpoint) == 23  # adam's own count


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


def test_a_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same_end(copy, finished):
    (copy / "result.json").unlink()
    last = copy / "checkpoints" / "23"
    command = (*ODD, f"--workdir={copy}")
    files = [path for path in last.rglob("*") if path.is_file()]
    arrays = max(files, key=lambda path: path.stat().st_size)
    for damaged in ([arrays], files):  # orbax raises one kind of error for arrays, many for others
        for file in damaged:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        message = refused(*command)
        assert f"cannot read the checkpoint {last}; remove it to go on" in message
    shutil.rmtree(last)
    assert here(*command) == 0
    assert without_times(result_of(copy)) == without_times(result_of(finished))
    assert list(map(without_times, rows_of(copy))) == list(map(without_times, rows_of(finished)))


def test_a_checkpoint_without_its_row_of_metrics_is_refused(copy):
    (copy / "result.json").unlink()
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    message = refused(*ODD, f"--workdir={copy}")
    assert "lost the row of step 23" in message
    assert str(copy / "checkpoints" / "23") in message


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
    assert here(*command) == expected  # the same command goes on from 20 and comes to the same


def test_a_finite_bound_far_below_a_uniform_guess_stops_the_run(tmp_path):
    workdir = tmp_path / "run"
    options = (*SMALL, "--config.num_steps=40", "--config.eval_every=10", "--config.log_every=5")
    command = (*options, f"--workdir={workdir}", "--config.optimizer.learning_rate=1e30")
    message = here(*command)
    assert re.fullmatch(
        r"stopped: the validation bound of step 10 is -[\d.]+e\+3\d nats, more than 10 times the "
        r"-543\.4 of a uniform guess of the pixels: training has diverged. No checkpoint yet in "
        rf"{workdir}. Try a smaller --config.optimizer.learning_rate",
        message,
    )
    assert [row["step"] for row in rows_of(workdir)] == [5]
    assert not (workdir / "checkpoints").exists()
    assert not (workdir / "result.json").exists()


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_test_bound_far_below_a_uniform_guess_is_no_result(keep, tmp_path, monkeypatch):
    workdir, real = tmp_path / "run", loop._negative_bound

    def diverged(task, params, examples, *rest):
        return 6_000.0 if examples is task.test else real(task, params, examples, *rest)

    monkeypatch.setattr(loop, "_negative_bound", diverged)
    options = ("--config.num_steps=10", "--config.eval_every=5", f"--config.keep={keep}")
    assert here(*SMALL, *options, f"--workdir={workdir}") == (
        "stopped: the test bound of step 10 is -6000 nats, more than 10 times the -543.4 of a "
        "uniform guess of the pixels: training has diverged. The checkpoint of step 10 is kept in "
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
        "stopped: the validation bound of step 1 is not finite (nan). No checkpoint yet in "
        f"{workdir}. Try a smaller --config.optimizer.learning_rate"
    )
    assert not (workdir / "checkpoints").exists()


def test_a_signal_that_comes_after_the_save_waits_for_the_next(tmp_path, monkeypatch):
    """What is said to be saved is saved: the signal comes between a row's save and its end."""
    workdir, real = tmp_path / "run", Events.add

    def signalled(self, row):
        real(self, row)
        if row["step"] == 8:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Events, "add", signalled)
    options = ("--config.num_steps=40", "--config.eval_every=20", "--config.log_every=4")
    assert here(*SMALL, *options, f"--workdir={workdir}") == 130
    assert step_of(checkpoint_of(workdir)) == 12
    assert [row["step"] for row in rows_of(workdir)] == [4, 8, 12]
