"""Malformed input, drawn by hypothesis: everything that a user types or hands over.

Each kind of input is a :class:`Kind`: a strategy that draws what is wrong, and a function that
does with it what the commands do. What is accepted must be right: equal to what was asked for, or
to what was there before the damage.
"""

import functools
import gzip
import io
import json
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import hypothesis
import jax
import numpy as np
from hypothesis import strategies as st
from jax import random as jax_random

from experiments import data, train
from experiments.data import datasets
from experiments.running import config as configuration
from experiments.running import loop, training
from experiments.storage.records import PLACES, Run, read_run
from experiments.sweeping import points
from experiments.tasks import vae
from experiments.tasks.checks import fields
from gsm import learned, schedules
from gsm.registry import ESTIMATORS
from tests.experiments import runs
from tests.experiments.data import test_datasets as small_data
from tests.faults import outcomes
from tests.faults.damages import DAMAGES
from tests.faults.outcomes import Case

_CONFIGS = (
    "cat_vae.py:digits", "bern_vae.py:digits", "cat_sbn.py:digits", "semisup.py:digits",
    "small_vae.py:digits", "polynomial.py",
)  # fmt: skip


class Kind(NamedTuple):
    """One kind of input."""

    strategy: st.SearchStrategy
    attempt: Callable[[Any], object]
    """Returns what is wrong with an input that was accepted, nothing if it is right."""


def campaign(kind: str, number: int, folder: Path) -> Iterator[Case]:
    """Draw inputs of a kind, always the same ones, and say what becomes of each."""
    cases: list[Case] = []
    strategy, attempt = KINDS[kind]

    @hypothesis.settings(
        max_examples=number, database=None, deadline=None, derandomize=True,
        phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def each(drawn: Any) -> None:
        outcome, detail = outcomes.judge(lambda: attempt(drawn))
        shown = "" if outcome in outcomes.WANTED else f" from {drawn!r:.300}"
        cases.append(Case("malformed input", kind, outcome, f"{detail}{shown}"))

    with _prepared(folder):
        each()
    yield from cases


@contextmanager
def _prepared(folder: Path) -> Iterator[None]:
    """No data folder but ours, no network, and each data set loaded once."""
    patches = (
        mock.patch.dict("os.environ", {"TFDS_DATA_DIR": str(folder / "tfds"), "GSM_DATA_DIR": ""}),
        mock.patch.object(datasets, "_why_unreachable", return_value="no network here"),
        mock.patch.object(tempfile, "tempdir", str(folder)),
    )
    for config in _CONFIGS:
        _fields_of(config)
    with patches[0], patches[1], patches[2]:
        yield


# --- command lines and configurations --------------------------------------------------------

_WILD_NUMBERS = (
    "0", "-0", "-1", "1", "2", "007", "1e3", "1_000", "0x10", "1.5", ".5", "-0.0", "nan", "inf",
    "-inf", "1e-46", "1e-300", "1e39", "1e400", str(2**31), str(2**32), str(2**63), "9" * 30,
    "9" * 5000, "٣", "½", " 1", "1 ", "+1", "--1", "1,2", "1,", ",", "()", "[]", "(1,)", "1;2",
)  # fmt: skip
_WILD_TEXTS = (
    "", " ", "None", "null", "true", "False", "yes", "t", "0", "adam", "sgd", "rloo",
    "gumbel_softmax", "ADAM", "vimco", "iwae", "nll", "best", "../..", "/dev/null", "~", "a\nb",
    "a\0b", "é", "\udcff", "'", '"', "{}", "%s", "${HOME}", "x" * 10_000, "exponential", "linear",
    "network", "fixed", "none",
)  # fmt: skip
_TEXTS = st.one_of(
    st.sampled_from(_WILD_NUMBERS),
    st.sampled_from(_WILD_TEXTS),
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=12),
)


@functools.cache
def _fields_of(config: str) -> dict[str, Any]:
    return dict(fields(configuration.load(f"{runs.ROOT}/configs/{config}")))


@st.composite
def _command_lines(draw: st.DrawFn) -> tuple[list[str], str, dict[str, str]]:
    """A command line, its config, and what its overrides say: the last text of each field."""
    config = draw(st.sampled_from(_CONFIGS))
    names = list(_fields_of(config))
    said: dict[str, str] = {}
    options = [f"--config=configs/{config}"]
    for _ in range(draw(st.integers(1, 4))):
        form = draw(st.integers(0, 11))
        name = draw(st.sampled_from(names))
        value = draw(_plausible(_fields_of(config)[name]))
        plausible = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        text = draw(st.one_of(st.just(plausible), _TEXTS))
        if form <= 6:
            options.append(f"{draw(st.sampled_from(('-', '--')))}config.{name}={text}")
            said[name] = text
        elif form == 7:
            options += [f"--config.{name}", text]
            said[name] = text
        elif form == 8:
            options.append(f"--{draw(st.sampled_from(('', 'no')))}config.{name}")
            said[name] = "?"
        elif form == 9:  # a name that is nearly right
            place = draw(st.integers(0, len(name)))
            options.append(
                f"--config.{name[:place]}{draw(st.text(max_size=2))}{name[place:]}={text}"
            )
            said[name] = "?"
        elif form == 10:
            options.append(draw(st.sampled_from((
                "--config", "--config=", "--config=configs/cat_vae.py:digits", "--config=/dev/null",
                "--config=configs", "--config=configs/none.py", "--config=README.md", "--config.",
                "--config.=1", "--config..=1", "--config.model=1", "--config.model.=1", "--workdir",
                "--workdir=", "--verbosity=x", "--verbosity=1", "--flagfile=/none", "--undefok=x",
                "--flagfile=README.md", "--seed=1", "--", "-", "---", "=", "config.seed=1", "--no",
                "--config=configs/cat_vae.py:nothing", "--config=configs/cat_vae.py:digits:digits",
                "--config[seed]=1", "--config.seed[0]=1", "--config.learned.hidden_sizes[0]=1",
                "--config.learned.hidden_sizes=1,2", "--config.__class__=1", "--config.seed.real=1",
            ))))  # fmt: skip
            said["*"] = "?"
        else:
            options.insert(draw(st.integers(0, len(options))), text)
            said["*"] = "?"
    return options, config, said


def _type(drawn: tuple[list[str], str, dict[str, str]]) -> str | None:
    options, config, said = drawn
    accepted: list[Any] = []

    def record(config: Any, workdir: Path) -> dict:
        accepted.append(config)
        return {}

    with mock.patch.object(loop, "train", record), mock.patch("builtins.print"):
        status = runs.here(train.main, *options)
    if not accepted:
        _exit(status)
        return "nothing was run, and nothing was said"
    if "?" in said.values():  # read in a way of its own; what must hold is that nothing broke
        return None
    found = dict(fields(accepted[0]))
    wrong = []
    for name, default in _fields_of(config).items():
        expected = _literal(said[name], default) if name in said else default
        if name in said and isinstance(default, tuple):
            continue
        if found[name] != expected or type(found[name]) is not type(expected):
            wrong.append(f"{name} is {found[name]!r:.60}, not {expected!r:.60}")
    return "; ".join(wrong)


def _literal(text: str, default: Any) -> Any:
    if isinstance(default, bool):
        return text.lower() in ("true", "t", "1")
    return type(default)(text)


def _exit(status: object) -> None:
    raise SystemExit(status)


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(_WILD_TEXTS),
    st.sampled_from((10**400, 2**31, 2**32 - 1, 0, 1, 2, 3, 0.5, 1e-3)),
    st.lists(st.integers(-2, 600), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


_CHOICES = (
    *ESTIMATORS, *training.OPTIMIZERS, *learned.BASELINES, *schedules.SCHEDULES,
    *data.BINARIZATIONS, *vae.KL_FORMS, "elbo", "iwae", "vimco", "nll", "accuracy", "last", "best",
    "digits", "zero_one", "plus_minus_one",
)  # fmt: skip


def _plausible(value: Any) -> st.SearchStrategy:
    """Values of the same type, as somebody might try them."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.sampled_from((0, 1, 2, 3, 5, 7, 50, 1_000, 2**31 - 1, -1))
    if isinstance(value, float):
        return st.sampled_from((0.0, 1e-3, 0.1, 0.5, 0.999, 1.0, 2.0, 100.0, 1e-30, 1e30, -0.5))
    if isinstance(value, str):
        return st.sampled_from(_CHOICES)
    return st.lists(st.sampled_from((1, 2, 5, 50, 0)), max_size=3).map(tuple)


@st.composite
def _changed_fields(draw: st.DrawFn) -> dict[str, Any]:
    """The flat fields of a config.json, some of them changed, missing or new."""
    values = dict(_fields_of(draw(st.sampled_from(_CONFIGS))))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(list(values)))
        how = draw(st.integers(0, 9))
        if how >= 3:
            values[name] = draw(_plausible(values[name]))
        elif how == 0:
            del values[name]
        elif how == 1:
            values[draw(st.one_of(st.text(max_size=6), st.just(f"{name}.x"), st.just("")))] = draw(
                _VALUES
            )
        else:
            values[name] = draw(_VALUES)
    return values


def _configure(values: dict[str, Any]) -> str | None:
    """Check a configuration, build its experiment, and trace a step of its training."""
    config = configuration.from_fields(values)
    found = dict(fields(config))
    wrong = [
        f"{name} is {found.get(name)!r:.60}, not {value!r:.60}"
        for name, value in values.items()
        if not isinstance(value, dict)
        and found.get(name) != (tuple(value) if isinstance(value, list) else value)
    ]
    json.dumps(configuration.identity(config))
    _trace(config)
    return "; ".join(wrong)


def _trace(config: Any) -> None:
    """Everything of training but the computation: shapes and types of one step."""
    with _loaded_once():
        experiment = loop.build(config, loop.load_dataset(config))
    loop.check_memory(experiment)
    key = jax.eval_shape(lambda: jax_random.key(0))
    state = jax.eval_shape(functools.partial(training.init_state, experiment.program), key)
    interval = functools.partial(training.run_interval, experiment.program, 1)
    jax.eval_shape(interval, experiment.task.train, experiment.settings, state)


_load = functools.cache(data.load)


@contextmanager
def _loaded_once() -> Iterator[None]:
    with mock.patch.object(data, "load", _load):
        yield


# --- sweep files -----------------------------------------------------------------------------


class _Code(NamedTuple):
    """Python that stands in a sweep file as it is."""

    text: str

    def __repr__(self) -> str:
        return self.text


_CODE = ("PerRun(1.0)", "PerRun(None)", "object()", "1 / 0", "undefined", "lambda: 1")
_POINT_VALUES = st.one_of(_VALUES, st.sampled_from([_Code(text) for text in _CODE]))
_PILOTS = ("()",) * 12 + ("('seed',)", "('nothing',)", "'seed'", "3", "None", "(3,)")
_BODIES = ("return POINTS",) * 8 + (
    "return iter(POINTS)", "return None", "return 3", "return POINTS[0]", "yield from POINTS",
    "raise KeyError('x')", "return POINTS[99]", "import nothing_of_that_name", "return 'ab'",
)  # fmt: skip


@st.composite
def _sweep_files(draw: st.DrawFn) -> str:
    listed: list[Any] = []
    for _ in range(draw(st.integers(0, 3))):
        config = draw(st.sampled_from(_CONFIGS))
        names = [*_fields_of(config), "model", "nothing", "model.nothing"]
        point: dict[Any, Any] = {"config": f"configs/{config}"}
        for _ in range(draw(st.integers(0, 2))):
            name = draw(st.sampled_from(names))
            likely = _plausible(_fields_of(config).get(name, 0))
            point[name] = draw(st.one_of(likely, likely, _POINT_VALUES))
        how = draw(st.integers(0, 12))
        if how == 0:
            del point["config"]
        elif how == 1:
            point["config"] = draw(_VALUES)
        elif how == 2:
            point[draw(st.sampled_from((None, 3, "", ("seed",))))] = 1
        listed.append(draw(_VALUES) if how == 3 else point)
    body, pilot = draw(st.sampled_from(_BODIES)), draw(st.sampled_from(_PILOTS))
    text = (
        "from configs.sweeps import PerRun, grid\nfrom math import inf, nan\n"
        f"PILOT = {pilot}\n\ndef get_sweep(argument=''):\n    POINTS = {listed!r}\n    {body}\n"
    )
    if draw(st.integers(0, 9)) == 0:
        damage = DAMAGES[draw(st.sampled_from([name for name in DAMAGES if name != "deleted"]))]
        chance = draw(st.builds(random.Random, st.integers(0, 99)))
        text = damage(text.encode(), chance).decode(errors="replace")
    return text


def _sweep(text: str) -> str | None:
    with tempfile.NamedTemporaryFile(suffix=".py") as file:
        file.write(text.encode(errors="surrogatepass"))
        file.flush()
        sweep = points.load_sweep(file.name, 7)
    points.swept(sweep.points)
    for point in sweep.points:
        points.pilot_key(sweep, point)
        if point.field("num_steps") != 7:
            return f"num_steps is {point.field('num_steps')!r}"
    points.runs(sweep.points)
    list(points.jobs(sweep.points, 4))
    return None


# --- files of images and of data sets --------------------------------------------------------

_DIGITS = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)


def _idx(images: np.ndarray) -> bytes:
    return struct.pack(f">4B{images.ndim}I", 0, 0, 8, images.ndim, *images.shape) + images.tobytes()


def _npy(images: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, images)
    return file.getvalue()


def _png(images: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(images).save(file, "PNG")
    return file.getvalue()


_IMAGES = {
    "IDX": (_idx(_DIGITS), _idx(_DIGITS[0]), gzip.compress(_idx(_DIGITS), mtime=0)),
    ".npy": (
        _npy(_DIGITS), _npy(_DIGITS.reshape(3, -1)), _npy(_DIGITS / 255), _npy(_DIGITS > 127),
        _npy(_DIGITS.astype(np.float16) / 256), _npy(_DIGITS.astype(np.int64)), _npy(_DIGITS * 1j),
        _npy(np.asfortranarray(_DIGITS)), _npy(_DIGITS.astype("U3")), _npy(_DIGITS[:0]),
    ),
    "PNG": (
        _png(_DIGITS[0]), _png(_DIGITS[0].astype(np.uint16) * 257), _png(_DIGITS[0] > 127),
        _png(np.stack([_DIGITS[0]] * 3, axis=-1)),
    ),
}  # fmt: skip
_CHECKED = (b"\x89PNG", b"\x1f\x8b")
"""Beginnings of formats with checksums: damage to the content cannot go unnoticed."""


class Damaged(NamedTuple):
    """The content of a file, before and after."""

    before: bytes
    damage: str
    after: bytes


@st.composite
def _damaged(draw: st.DrawFn, contents: tuple[bytes, ...]) -> Damaged:
    before = draw(st.sampled_from(contents))
    kinds = [name for name in DAMAGES if name != "deleted"] + [
        "none",
        "header",
        "header",
        "noise after",
    ]
    kind = draw(st.sampled_from(kinds))
    chance = draw(st.builds(random.Random, st.integers(0, 2**32)))
    if kind in DAMAGES:
        after = DAMAGES[kind](before, chance)
    elif kind == "header":  # sizes are there
        place, size = chance.randrange(128), chance.choice((1, 2, 4, 8))
        piece = chance.choice((b"\xff" * size, bytes(size), chance.randbytes(size)))
        after = before[:place] + piece + before[place + size :]
    else:
        after = before + (chance.randbytes(9) if kind == "noise after" else b"")
    return Damaged(before, kind, after or b"")


def _read_images(drawn: Damaged) -> str | None:
    def read(content: bytes) -> np.ndarray:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            return data.read_images(Path(file.name), (28, 28))

    images = read(drawn.after)
    if images.dtype != np.float32 or images.ndim != 2 or images.shape[1] != 784 or not len(images):
        return f"{images.dtype} of shape {images.shape}"
    if not ((images >= 0) & (images <= 1)).all():
        return "pixels beyond 0 to 1"
    if drawn.before.startswith(_CHECKED) and not np.array_equal(images, read(drawn.before)):
        return "other pixels than before the damage"
    return None


@functools.cache
def _splits() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {
        split: generator.integers(0, 2, (size, 784), dtype=np.uint8)
        for split, size in small_data.TINY_SIZES.items()
    }


@functools.cache
def _binary_files(form: str) -> tuple[bytes, ...]:
    """The training file of the fixed binarisation, in each way in which it may be written."""
    import scipy.io

    images = _splits()["train"]
    if form == ".amat":
        return (small_data.amat_bytes(images),)
    files = []
    for options in ({}, {"do_compression": True}, {"format": "4"}):
        file = io.BytesIO()
        scipy.io.savemat(file, {"other": np.ones((1, 1)), "X": images.astype(float)}, **options)
        files.append(file.getvalue())
    return tuple(files)


def _load_binary(form: str, drawn: Damaged) -> str | None:
    splits = _splits()
    write = {".amat": small_data.write_amat, ".mat": small_data.write_mat}[form]
    name = {".amat": "binarized_mnist_train.amat", ".mat": "train.mat"}[form]
    digests = {split: small_data.sha256(images.tobytes()) for split, images in splits.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(datasets.SPLIT_SIZES, small_data.TINY_SIZES),
        mock.patch.dict(datasets.BINARIZED_MNIST_SHA256, digests),
    ):
        place = Path(folder, "binarized_mnist")
        write(place, splits)
        (place / name).write_bytes(drawn.after)
        found = data.load("binarized_mnist", folder)
    right = np.array_equal(found.train.images, splits["train"])
    return None if right else "other pixels than before the damage"


def _load_mnist(drawn: Damaged) -> str | None:
    files = small_data.tiny_files()
    infos = {name: small_data.url_info(content, name) for name, content in files.items()}
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(datasets.SPLIT_SIZES, small_data.TINY_SIZES),
        mock.patch.object(datasets, "_url_infos", return_value=infos),
    ):
        damaged = next(name for name, content in files.items() if content == drawn.before)
        small_data.write_files(Path(folder, "mnist"), files | {damaged: drawn.after})
        found = data.load("mnist", folder)
        small_data.write_files(Path(folder, "mnist"), files)
        expected = data.load("mnist", folder)
    right = all(map(np.array_equal, found.train, expected.train)) and all(
        map(np.array_equal, found.test, expected.test)
    )
    return None if right else "other pixels than before the damage"


# --- records ---------------------------------------------------------------------------------


@st.composite
def _records(draw: st.DrawFn) -> tuple[str, str, int]:
    names = ("config.json", "result.json", "metrics.jsonl", "provenance.json")
    return (
        draw(st.sampled_from(names)),
        draw(st.sampled_from(list(DAMAGES))),
        draw(st.integers(0, 2**32)),
    )


@functools.cache
def _record_folder(folder: str) -> Path:
    """A finished run."""
    workdir = Path(folder, "finished")
    config = configuration.load(f"{runs.ROOT}/configs/polynomial.py")
    config.num_steps = config.eval_every = 20
    config.log_every = 5
    loop.train(configuration.check(config), workdir)
    return workdir


def _what_counts(run: Run) -> dict[str, Any]:
    """All that a run's numbers depend on, or are."""
    config = {name: value for name, value in run.config.items() if name not in PLACES}
    return {"config": config, "result": run.result, "rows": run.rows}


def _read_record(drawn: tuple[str, str, int]) -> str | None:
    name, damage, seed = drawn
    source = _record_folder(tempfile.gettempdir())
    expected = read_run(source)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for path in source.iterdir():
            if path.is_file():
                (copy / path.name).write_bytes(path.read_bytes())
        after = DAMAGES[damage]((copy / name).read_bytes(), random.Random(seed))
        (copy / name).unlink()
        if after is not None:
            (copy / name).write_bytes(after)
        found = read_run(copy)
    wrong = [
        name for name, part in _what_counts(found).items() if part != _what_counts(expected)[name]
    ]
    return f"another {', '.join(wrong)} than before the damage" if wrong else None


KINDS: dict[str, Kind] = {
    "command line": Kind(_command_lines(), _type),
    "configuration": Kind(_changed_fields(), _configure),
    "sweep file": Kind(_sweep_files(), _sweep),
    **{f"{form} image": Kind(_damaged(files), _read_images) for form, files in _IMAGES.items()},
    ".amat data set": Kind(
        st.deferred(lambda: _damaged(_binary_files(".amat"))),
        functools.partial(_load_binary, ".amat"),
    ),
    ".mat data set": Kind(
        st.deferred(lambda: _damaged(_binary_files(".mat"))),
        functools.partial(_load_binary, ".mat"),
    ),
    "IDX data set": Kind(
        st.deferred(lambda: _damaged(tuple(small_data.tiny_files().values()))), _load_mnist
    ),
    "record of a run": Kind(_records(), _read_record),
}
