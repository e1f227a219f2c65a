"""Examples of README.md and docs/: Python blocks run, commands name what exists.

The blocks of a page run in order, in one namespace, as a reader would type them. A block that
begins with a comment ``# name.py`` is that file, which later blocks import.
"""

import ast
import doctest
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

import gsm
from experiments import data
from experiments.running import config as configuration
from experiments.tasks.checks import fields

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:python -m|gsm) [a-z][^`]+)`")


class Block(NamedTuple):
    """A fenced block of a page."""

    code: str
    line: int
    """Line of the page that it starts after, from 1."""


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of one language."""
    text = page.read_text()
    return [
        Block(match[2], text.count("\n", 0, match.start()) + 1)
        for match in _BLOCK.finditer(text)
        if match[1] == language
    ]


# --- Python ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A working folder on the path, with results/ alone; what a page registers there is undone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.syspath_prepend(tmp_path)
    registries = (gsm.ESTIMATORS, gsm.schedules.SCHEDULES, data.DATASETS)
    before = [set(registry) for registry in registries]
    yield tmp_path
    for registry, names in zip(registries, before, strict=True):
        for name in set(registry) - names:
            del registry[name]
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def run(page: Path, block: Block, names: dict) -> None:
    """Run a block as a doctest where it has prompts, else as a script."""
    if ">>> " not in block.code:
        exec(compile(block.code, f"{page.name}:{block.line}", "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.code, {}, page.name, str(page), block.line)
    test.globs = names
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
        test, out=report.append, clear_globs=False
    )
    assert not report, "".join(report)


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name) for page in PAGES if blocks(page, "python")]
)
def test_python_examples_run(page, folder):
    names = {"__name__": "example"}
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):  # as a user
        for block in blocks(page, "python"):
            if file := re.match(r"# (\w+\.py)\n", block.code):
                (folder / file[1]).write_text(block.code)
            else:
                run(page, block, names)


# --- commands --------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """Pages' names and command lines, those of bash blocks and ``python -m`` in running text."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.code.replace("\\\n", " ").splitlines():
                yield from ((page.name, part.strip()) for part in line.split("&&"))
        for match in _INLINE.finditer(_BLOCK.sub("", page.read_text())):
            yield page.name, match[1]


COMMANDS = sorted(set(commands()))


def flags_of(module: str) -> set[str]:
    """Names of the flags that a command's file defines, read without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"no module {module}"
    assert spec.origin is not None, f"{module} is a package"
    names = {"verbosity", "help", "list"}
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if re.match("DEFINE_", node.func.attr):
                names.add(ast.literal_eval(node.args[0]))
            elif node.func.attr == "define_config":
                names.add("config")
    return names


def check_option(module: str, option: str, config: str) -> None:
    """Fail where a flag, a config file or a field of a configuration does not exist."""
    name, _, value = option.removeprefix("--").partition("=")
    if name.startswith("config."):
        known = dict(fields(configuration.load(config)))
        assert name.removeprefix("config.") in known, f"{config} has no field {name}"
        return
    assert name in flags_of(module), f"{module} has no flag --{name}"
    if name in ("config", "sweep"):
        assert (ROOT / value.partition(":")[0]).is_file(), f"no file {value}"


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_name_what_exists(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)
    if words[0].endswith("gsm"):
        words = ["python", "-m", f"experiments.{words[1]}", *words[2:]]
    if "-m" in words and words[0].endswith(("python", "python3")):
        module, *options = words[words.index("-m") + 1 :]
        if module in ("venv", "pytest"):
            return
        config = next((o.partition("=")[2] for o in options if o.startswith("--config=")), "")
        for option in options:
            if option.startswith("--") and not re.search(r"[A-Z]{3}|\.\.\.", option):
                check_option(module, option, config)
    elif words[:2] and words[0].endswith("pip"):
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for named in re.findall(r"\[(\w+)\]", command):
            assert named in extras["optional-dependencies"], f"no extra {named}"


def test_commands_are_found():
    modules = {command.split("-m ")[1].split()[0] for _, command in COMMANDS if " -m " in command}
    assert {"experiments.train", "experiments.sweep", "experiments.report"} <= modules


# --- links and versions ----------------------------------------------------------------------


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_to_files(page):
    text = _BLOCK.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if not re.match("https?:", target):
            assert (page.parent / target).exists(), f"{page.name}: no file {target}"


def test_versions_agree():
    citation = re.search(r'^version: "?([\w.]+)', (ROOT / "CITATION.cff").read_text(), re.M)
    changelog = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert citation[1] == changelog[1] == gsm.__version__
