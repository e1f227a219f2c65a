"""The house stays as it was drawn: who may import whom, and what may be named where."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each room of gsm with the rooms below it that it may import, and the libraries beside the
# standard one.
FLOORS = {
    "augmentation": (set(), {"jax", "jaxtyping"}),
    "xla": (set(), {"jax", "jaxlib"}),
    "distributions": (set(), {"jax", "jaxtyping"}),
    "estimators": ({"distributions"}, {"jax", "jaxtyping"}),
    "learned": ({"estimators", "models"}, {"jax", "jaxtyping", "optax"}),
    "convolutions": (set(), {"jax", "jaxtyping"}),
    "diagnostics": (set(), {"jax", "jaxtyping", "numpy"}),
    "models": ({"convolutions", "distributions"}, {"flax", "jax", "jaxtyping"}),
    "objectives": ({"distributions", "estimators", "models"}, {"jax", "jaxtyping"}),
    "schedules": (set(), {"jax", "jaxtyping"}),
    "training": (set(), {"jax", "jaxtyping", "optax"}),
    "evaluation": ({"distributions"}, {"jax", "jaxtyping"}),
    "data": (set(), {"numpy", "tensorflow_datasets", "sklearn", "scipy", "PIL"}),
}


def imports(path):
    """Dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_room_has_its_floor():
    rooms = {path.stem for path in (ROOT / "gsm").glob("*.py")} - {"__init__"}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_down_only(room):
    below, libraries = FLOORS[room]
    for name in imports(ROOT / "gsm" / f"{room}.py"):
        top, _, rest = name.partition(".")
        if top == "gsm":
            assert rest.split(".")[0] in below, f"{room} may not import {name}"
        else:
            assert top in libraries | set(sys.stdlib_module_names), f"{room} may not import {name}"


@pytest.mark.parametrize("path", (ROOT / "experiments").glob("*.py"), ids=lambda p: p.stem)
def test_commands_meet_the_estimators_only_through_tasks(path):
    if path.stem in ("tasks", "config", "variance", "toy", "temperature"):
        return  # the last three are about estimators
    touched = {name for name in imports(path) if name.startswith("gsm")}
    assert not {n for n in touched if "estimators" in n or "objectives" in n or "models" in n}


def test_figures_and_run_folders_stand_alone():
    drawing = list((ROOT / "experiments" / "figures").glob("*.py"))
    assert drawing
    for name in set().union(*map(imports, drawing)):
        alone = name.split(".")[0] not in ("jax", "gsm", "experiments")
        assert alone or name.startswith("experiments.figures."), name
    rundir = imports(ROOT / "experiments" / "rundir.py")
    assert not {name for name in rundir if name.split(".")[0] in ("gsm", "experiments", "configs")}


def test_importing_gsm_imports_neither_tensorflow_nor_anything_slow():
    rooms = "; ".join(f"import gsm.{room}" for room in FLOORS)
    slow = ("tensorflow", "tensorflow_datasets", "sklearn", "scipy.io", "matplotlib", "orbax")
    code = f"{rooms}; import sys; print([m for m in {slow} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.strip()
    assert found in ("[]", "['orbax']"), found  # flax itself imports orbax


def _text_files():
    for folder in ("gsm", "experiments", "configs", "scripts", "results", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".json", ".csv", ".txt"):
                yield path
    yield from ROOT.glob("*.md")
    yield from ROOT.glob("*.t*")


def test_no_file_names_a_folder_of_this_machine():
    for path in _text_files():
        text = path.read_text()
        assert f"{Path.home()}/" not in text, path
        assert f"{ROOT}/" not in text, path


def test_constraints_pin_every_dependency_and_name_no_host():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    pinned = {re.split(r"[=\[ ;]", line)[0].lower() for line in text.splitlines() if line}
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in project["dependencies"] + extras["test"] + extras["tb"]:
        name = re.split(r"[<>=\[ ;]", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"constraints.txt lacks {name}"
