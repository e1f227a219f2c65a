"""``--help`` and ``--list``: what a command does, what it can be given, what the fields mean.

Commands that only read files import this module too, so jax is imported only where an answer needs
it.
"""

import ast
import inspect
import io
import os
import shutil
import sys
import textwrap
import tokenize
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags

HELP = ("--help", "-help", "-h", "-?", "--helpshort")
LIST = "--list"


def answer(argv: Sequence[str], config: str = "") -> str | None:
    """What a command line asks for in place of the command; None if it asks for nothing.

    Args:
      argv: the command line.
      config: the config file that it names, with its argument, whose fields are then explained.

    Raises:
      ConfigError: the config cannot be loaded.
    """
    if LIST in argv:
        return listing()
    if not set(HELP) & set(argv):
        return None
    about = (sys.modules["__main__"].__doc__ or "").strip()
    options = flags.FLAGS.main_module_help().strip().partition("\n")[2]  # without the file's name
    always = "  --help: This text; with --config=FILE, every field of the configuration."
    always += f"\n  {LIST}: Configs, datasets, sweeps and estimators, as below."
    parts = (about, f"Options:\n{options}\n{always}", fields_of(config) if config else listing())
    return "\n\n".join(parts)


def print_and_exit(text: str) -> NoReturn:
    """Print an answer, to a reader such as ``head`` that may not read it all, and exit."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is flushed once more
    sys.exit(0)


# --- what there is ---------------------------------------------------------------------------


def config_files() -> list[Path]:
    """The config files of the working folder."""
    files = sorted(Path("configs").glob("*.py"))
    return [file for file in files if "def get_config" in file.read_text()]


def sweep_files() -> list[Path]:
    """The sweep files of the working folder."""
    return sorted(Path("configs/sweeps").glob("[!_]*.py"))


def listing() -> str:
    """What can be named on a command line, a line for each."""
    from experiments.data import DATASETS
    from gsm.registry import ESTIMATORS

    estimators = [(name, f"{entry.choose} ({entry.source})") for name, entry in ESTIMATORS.items()]
    return "\n\n".join(
        [
            _table("Configs (--config=FILE:DATASET)", map(_titled, config_files())),
            f"Datasets: {', '.join(DATASETS)}",
            _table("Sweeps (--sweep=FILE:DATASET)", map(_titled, sweep_files())),
            _table("Estimators (--config.estimator=NAME)", estimators),
        ]
    )


def _titled(file: Path) -> tuple[str, str]:
    """A Python file and the first line of its docstring."""
    return str(file), (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([f"{title}:", *(f"  {name:{width}}  {text}" for name, text in rows)])


# --- what the fields mean --------------------------------------------------------------------


def fields_of(named: str) -> str:
    """Every field of a configuration: its default, and the comment where it is defined.

    Args:
      named: the config file, with its argument.

    Raises:
      ConfigError: the config cannot be loaded.
    """
    from experiments.running import config as configuration
    from experiments.tasks.checks import fields

    config = configuration.load(named)
    known = meanings(config, named.partition(":")[0])
    width = max(40, min(100, shutil.get_terminal_size((100, 24)).columns))
    lines = [f"Fields of {named}, with their defaults (--config.FIELD=VALUE):"]
    order = {name: place for place, name in enumerate(known)}
    group = ""
    # Those of no group first; each in the order of the files.
    for name, value in sorted(
        fields(config),
        key=lambda field: ("." in field[0], field[0].partition(".")[0], order.get(field[0], 0)),
    ):
        if (of_field := name.rpartition(".")[0]) != group:
            group = of_field
            lines += ["", *textwrap.wrap(f"{group}: {known.get(group, '')}".strip(" :"), width)]
        shown = ",".join(map(str, value)) or "()" if isinstance(value, tuple) else value
        lines.append(f"  --config.{name}={shown}")
        lines += textwrap.wrap(
            known.get(name, ""), width, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def meanings(config, config_file: str) -> dict[str, str]:
    """Meanings of fields and groups of fields by their dotted names.

    They are the comments of ``configs/defaults.py``, of the task's module and of the config file;
    what the first of them explains the others only change.
    """
    from configs import defaults
    from experiments import tasks

    task = inspect.getsourcefile(tasks.find(config.task))
    found: dict[str, str] = {}
    for file in (inspect.getsourcefile(defaults), task, config_file):
        if file is not None:
            found |= {k: v for k, v in comments(Path(file).read_text()).items() if k not in found}
    return found


def comments(source: str) -> dict[str, str]:
    """The comments on fields that Python code assigns, by the fields' dotted names.

    ``config.model.size = 1`` and ``model.size = 1`` both assign ``model.size``: the variable of a
    group has the group's name. The comment is the one behind the value, or the lines above.
    """
    alone: dict[int, str] = {}  # comments by their line
    behind: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            kind = alone if token.line.lstrip().startswith("#") else behind
            kind[token.start[0]] = token.string.lstrip("# ")
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign):
            continue
        first = node.lineno
        while first - 1 in alone:
            first -= 1
        parts = [alone[line] for line in range(first, node.lineno)]
        parts += [behind[node.end_lineno]] if node.end_lineno in behind else []
        for target in node.targets:
            if isinstance(target, ast.Attribute) and parts:
                found.setdefault(ast.unparse(target).removeprefix("config."), " ".join(parts))
    return found
