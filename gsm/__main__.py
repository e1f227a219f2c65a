"""``gsm train --config=...``: the commands of the experiments, as ``python -m experiments.train``.

The commands are part of the repository, not of the library. ``gsm --help`` lists them; ``gsm NAME``
becomes the process of ``python -m experiments.NAME``.
"""

import ast
import difflib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

_NEEDED = ("absl", "flax", "matplotlib", "ml_collections", "orbax", "tqdm")


def commands() -> dict[str, str]:
    """The commands and what they do, where the experiments are; exits with one line elsewhere."""
    sys.path.insert(0, os.getcwd())  # as python -m does
    package = importlib.util.find_spec("experiments")
    # Another package may have the name.
    places = [Path(place) for place in (package and package.submodule_search_locations) or ()]
    files = [file for place in places for file in sorted(place.glob("[a-z]*.py"))]
    if "train" not in [file.stem for file in files]:
        sys.exit(
            "gsm: error: the commands are not part of the library: get the source repository, and "
            'call gsm there, or install from it with pip install -e ".[experiments]"'
        )
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        sys.exit(
            f"gsm: error: the commands need {', '.join(missing)}: "
            'pip install -e ".[experiments]" in the source repository'
        )
    about = {file.stem: ast.get_docstring(ast.parse(file.read_text())) or "" for file in files}
    return {name: text.partition("\n")[0].partition(": ``")[0] for name, text in about.items()}


def main() -> None:
    """Run the command that the first argument names."""
    name, *options = sys.argv[1:] or ["--help"]
    if name == "--version":
        print(f"gsm {importlib.metadata.version('gsm-jax')}")
        return
    known = commands()
    if name in ("--help", "-h", "help"):
        width = max(map(len, known))
        print("usage: gsm COMMAND [--help] [--list] [options]\n")
        print("\n".join(f"  {name:{width}}  {text}" for name, text in known.items()))
        return
    if name == "--list":
        name, options = "train", [name]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"they are: {', '.join(known)}"
        sys.exit(f"gsm: error: no command {name!r}; {hint}")
    command = [sys.executable, "-m", f"experiments.{name}", *options]
    sys.stdout.flush()
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
