"""The command line: every way to write an override, and every mistake reported in one line."""

import re
import subprocess
import sys
from unittest import mock

import jax
import pytest
from ml_collections import ConfigDict

import gsm
from experiments import train
from experiments.running import config as configuration
from experiments.running import explain, loop
from gsm import __main__ as gsm_command
from gsm.registry import ESTIMATORS
from tests.experiments import runs
from tests.experiments.runs import DIGITS, ROOT

CONFIG_FILES = [
    file for file in sorted((ROOT / "configs").glob("*.py")) if "get_config" in file.read_text()
]


def here(*options: str) -> int | str:
    return runs.here(train.main, *options)


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
    ("options", "expected"),
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
        (
            field("control.eta", "x" * 10_000),
            ["config.control.eta must be a number; got 'xxx", "xx'"],
        ),
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
def test_a_misspelt_field_or_a_wrong_type_is_reported(options, expected, accepted):
    message = refused(*options)
    for part in expected:
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
def test_a_value_out_of_range_is_reported_with_the_range(name, value, expected, accepted):
    message = refused(*field(name, value))
    assert message.startswith(f"error: config.{name} must be {expected}")
    assert "; got " in message
    assert not accepted


def test_the_weights_of_classifiers_are_checked_in_float32_too(accepted):
    semisup = "--config=configs/semisup.py:digits"
    for name in ("alpha", "labels.weight", "consistency.weight", "augmentation.shift"):
        message = refused(semisup, f"--config.{name}=1e39")
        assert message.startswith(f"error: config.{name} must be representable in float32: ")
        assert message.endswith("; got 1e+39")
    message = refused(semisup, "--config.augmentation.scale=0.99999999")
    assert message.startswith(
        "error: config.augmentation.scale must be at least 0 and below 1 in fl"
    )
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
        ("signal.baseline", "networks", "network"),
    ],
)
def test_an_unknown_choice_is_reported_with_all_choices_and_the_nearest(
    name, value, nearest, accepted
):
    message = refused(*field(name, value))
    assert message.startswith(f"error: config.{name} must be one of ")
    assert f"(nearest: {nearest})" in message
    assert message.endswith(f"; got {value!r}")
    assert not accepted


def test_an_unknown_choice_far_from_all_is_reported_without_a_guess(accepted):
    message = refused(*field("estimator", "xyzzy"))
    assert "nearest" not in message
    assert "exact, score_function, nvil, darn, muprop, straight_through" in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "task",
            "vea",
            "one of polynomial, sbn, semisupervised, vae, or an importable module; got",
        ),
        ("select", "accuracy", "one of nll, rate; got 'accuracy'"),
        (
            "temperature.schedule",
            "linaer",
            "one of exponential, linear, linear_decay; got 'linaer'",
        ),
        ("slope.schedule", "", "one of exponential, linear, linear_decay; got ''"),
    ],
)
def test_an_unknown_task_metric_or_schedule_is_reported_with_those_there_are(
    name, value, expected, accepted
):
    assert refused(*field(name, value)).startswith(f"error: config.{name} must be {expected}")
    assert not accepted


def test_a_module_that_is_not_a_task_and_a_schedule_without_its_fields_are_reported(accepted):
    message = refused(*field("task", "json"))
    assert message == "error: config.task: the module json has no function default_config"
    assert refused(*field("temperature.schedule", "linear_decay")) == (
        "error: config.temperature.schedule=linear_decay needs the field "
        "config.temperature.final_share"
    )
    assert not accepted


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--config.evaluation.test_samples=0", "--config.evaluation.curve_images=5"],
            ["config.evaluation.curve_images", "0 where evaluation.test_samples is 0"],
        ),
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
def test_choices_that_exclude_each_other_are_reported(options, expected, accepted):
    message = refused(DIGITS, *options)
    for part in expected:
        assert part in message
    assert not accepted


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "name the experiment: --config="),
        (["--config"], "name the experiment: --config="),
        (["--config="], "name the experiment: --config="),
        (["--confg=configs/cat_vae.py:digits"], "no flag --confg; name the experiment: --config="),
        (["--nolog"], "error: no flag --nolog; name the experiment: --config="),
        (["--noalsologtostderr", "--config"], "error: name the experiment: --config="),
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
def test_a_command_line_that_cannot_be_read_is_reported(options, expected, accepted):
    assert expected in refused(*options)
    assert not accepted


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--num_processes=2"], "error: --num_processes needs --coordinator=HOST:PORT"),
        (["--process_id=1"], "error: --process_id must be below --num_processes, 1; got 1"),
        (["--num_processes=2", "--process_id=2"], "must be below --num_processes, 2; got 2"),
    ],
)
def test_a_process_of_several_without_the_others_is_refused(options, expected, accepted):
    assert expected in refused(DIGITS, *options)
    assert not accepted


QUICK = ("report",)  # each takes the seconds in which its process begins
COMMANDS = sorted(path.stem for path in (ROOT / "experiments").glob("[a-z]*.py"))


def lines_of(*command: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COMMANDS],
)
def test_help_needs_no_config_and_lists_what_can_be_named(name):
    lines = lines_of(f"experiments.{name}", "--help")
    text = (ROOT / "experiments" / f"{name}.py").read_text()
    assert lines[0] == text.partition("\n")[0].strip('"')
    for flag in re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', text):
        assert any(re.match(rf"  --(\[no\])?{flag}: ", line) for line in lines), flag
    quick = any(line.startswith("  --[no]quick: ") for line in lines)
    assert quick == ("define_quick" in text)
    names = {line.split()[0] for line in lines if re.match("  [a-z]", line)}
    assert {str(file.relative_to(ROOT)) for file in CONFIG_FILES} <= names
    assert "configs/sweeps/annealing.py" in names
    assert set(ESTIMATORS) <= names


def test_gsm_is_another_name_and_help_on_a_config_explains_its_fields():
    lines = lines_of("gsm", "train", DIGITS, "--help")
    assert lines[0].startswith("Train one model: ``python -m experiments.train --config=")
    assert any(line.startswith("  --workdir: Folder of the run; default: ") for line in lines)
    at = lines.index("  --config.num_steps=5000")
    assert lines[at + 1].strip() == "training steps, each an update by one minibatch"
    at = lines.index("  --config.model.hidden_sizes=()")
    assert lines[at + 1].strip() == "of the encoder, mirrored in the decoder; () is linear"
    assert [line for line in lines if line.startswith("slope: ")]


def test_gsm_lists_its_commands_and_names_the_nearest_one(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["gsm"])
    gsm_command.main()
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.startswith("  ")} == set(COMMANDS)
    monkeypatch.setattr(sys, "argv", ["gsm", "--version"])
    gsm_command.main()
    assert capsys.readouterr().out == f"gsm {gsm.__version__}\n"
    monkeypatch.setattr(sys, "argv", ["gsm", "trian"])
    with pytest.raises(SystemExit, match=r"^gsm: error: no command 'trian'; did you mean train\?$"):
        gsm_command.main()


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m experiments.report --help | head -1",
        shell=True, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("Write the paper's tables")
    assert not done.stderr


def test_list_is_printed_alone(capsys, accepted):
    assert here("--list") == 0
    out = capsys.readouterr().out
    assert out.startswith("Configs (--config=FILE:DATASET):\n  configs/bern_sbn.py ")
    assert "\n  rloo " in out
    assert "Options" not in out
    assert not accepted


# --- what the fields mean --------------------------------------------------------------------


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda file: file.stem)
def test_every_field_of_every_config_is_explained(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = configuration.load(str(file))
    names = [name for name, _ in configuration.fields(config)]
    groups = {name.rpartition(".")[0] for name in names} - {""}
    known = explain.meanings(config, str(file))
    assert [name for name in (*names, *groups) if len(known.get(name, "")) < 4] == []


def test_a_comment_belongs_to_the_field_beside_it_or_below():
    source = """
def get_config():  # no field
    # The cost,
    # in nats.
    config.model = model = ConfigDict()
    model.size = 3  # of the cost
    # Above it; # and more.
    model.power = power(  # within
        2,
    )  # and behind it
    config.bare = 1
    config.bare = 2  # the second

    # of nothing
"""
    assert explain.comments(source) == {
        "model": "The cost, in nats.",
        "model.size": "of the cost",
        "model.power": "Above it; # and more. and behind it",
        "bare": "the second",
    }


def test_a_task_of_the_user_s_is_explained_by_its_own_comments(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_mine.py").write_text(
        "from configs import defaults\n"
        "def default_config(dataset):\n"
        "    config = defaults.common('tasks_of_mine')\n"
        "    config.speed = 2.0  # of light, m/s\n"
        "    config.seed = 3  # not of the defaults\n"
        "    return config\n"
        "get_config = default_config\n"
        "def check(config, checks): ...\n"
        "def build(config, dataset): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = explain.fields_of(f"{tmp_path / 'tasks_of_mine.py'}:digits")
    assert "  --config.speed=2.0\n      of light, m/s\n" in text
    assert "  --config.seed=3\n      of initialisation, batches and noise; " in text


@pytest.mark.parametrize(
    ("text", "expected"),
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
def test_a_config_file_with_a_fault_is_named(text, expected, tmp_path, accepted):
    file = tmp_path / "mine.py"
    file.write_text(text)
    message = refused(f"--config={file}")
    assert str(file) in message
    assert expected in message
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 745. GiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4000000000 bytes"),
    ],
)
def test_a_full_memory_is_one_line(error, monkeypatch):
    monkeypatch.setattr(loop, "train", mock.Mock(side_effect=error))
    message = refused(DIGITS)
    assert message.startswith(f"error: the memory is full ({error}). What was saved is kept")


def test_other_errors_of_xla_are_not_taken_for_a_full_memory(monkeypatch):
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    monkeypatch.setattr(loop, "train", mock.Mock(side_effect=error))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        here(DIGITS)
