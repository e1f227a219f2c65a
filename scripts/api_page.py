"""Write ``docs/api.md`` from the public names of ``gsm`` and their documentation.

    python -m scripts.api_page
    python -m scripts.api_page --check

``--check`` writes nothing and fails where the committed page differs.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import app, flags

import gsm

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"

_MODULES = {
    "estimators": "samplers, operators and objectives of several samples",
    "registry": "estimators by name, minibatches",
    "distributions": "mathematics on logits",
    "schedules": "temperature, slope and learning rate as functions of the step",
    "learned": "baselines and control variates for a training loop",
    "diagnostics": "bias, variance, cosine and cost",
    "testing": "exact answers by enumeration, and the laws",
    "xla": "sums that XLA computes wrong on a CPU",
}
_LONGEST = 90  # characters of a signature in a heading


def members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public functions and classes that a module defines, in the order of its file."""
    found = {
        name: value
        for name, value in vars(module).items()
        # Callable: jitted functions, and those with a rule of differentiation, are objects.
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__doc__", None)
        and getattr(value, "__module__", None) == module.__name__
    }
    return iter(found.items())


def sentence(value: Any) -> str:
    """The first sentence of the documentation, as Markdown."""
    first = (inspect.getdoc(value) or "").partition("\n\n")[0]
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(first.split())).replace("``", "`")


def call(name: str, value: Any) -> str:
    """The name with its parameters and their defaults, without types; of errors, the name."""
    if inspect.isclass(value) and issubclass(value, Exception):
        return name
    parts, starred = [], False
    for parameter in inspect.signature(value).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            starred = True
            parts.append("*")
        starred = starred or parameter.kind is parameter.VAR_POSITIONAL
        text = str(parameter.replace(annotation=parameter.empty))
        if parameter.default is not parameter.empty and len(repr(parameter.default)) > 20:
            text = f"{parameter.name}=..."
        parts.append(text)
    text = f"{name}({', '.join(parts)})"
    return text if len(text) <= _LONGEST else f"{name}(...)"


def page() -> str:
    """The whole page."""
    lines = [
        "# Public names",
        "",
        "`import gsm` gives the names marked *; the others are reached through their module, as in",
        "`gsm.distributions.entropy`. `help(gsm.rloo)` has arguments with shapes, errors, source,",
        "cost and an example. This page is written by `python -m scripts.api_page`.",
    ]
    for name, content in _MODULES.items():
        module = importlib.import_module(f"gsm.{name}")
        lines += ["", f"## gsm.{name}: {content}", "", "| name | |", "|---|---|"]
        for member, value in members(module):
            star = " *" if getattr(gsm, member, None) is value and member in gsm.__all__ else ""
            text = sentence(value).replace("|", "\\|")
            lines.append(f"| `{call(member, value)}`{star} | {text} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    del argv
    text = page()
    if not _CHECK.value:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        sys.exit(f"error: {PAGE.relative_to(ROOT)} is not fresh; run python -m scripts.api_page")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    _CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail where the page is not fresh.")
    app.run(main)
