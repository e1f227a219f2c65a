"""The structure of the project: who may import whom, and what may be named where."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each module of gsm with the modules below it that it may import.
FLOORS = {
    "__main__": set(),  # starts the commands of the experiments, without importing them
    "xla": set(),
    "distributions": set(),
    "schedules": {"distributions"},
    "estimators": {"distributions"},
    "registry": {"distributions", "estimators"},
    "learned": {"registry"},
    "testing": {"distributions", "estimators", "registry"},
    "diagnostics": {"distributions", "estimators", "registry"},
}
# Each room of the experiments with the rooms that it may import.
ROOMS = {
    "storage": set(),
    "data": set(),
    "figures": set(),
    "reporting": {"storage", "figures"},
    "tasks": {"data"},
    "running": {"storage", "data", "tasks", "figures"},
    "sweeping": {"storage", "data", "tasks", "running", "figures", "reporting"},
}
LIGHT = ("storage", "data", "figures", "reporting")
"""Rooms that import neither jax nor gsm: files and pictures are handled without them."""

# Names of packages that differ from what is imported.
PACKAGES = {
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
}
OPTIONAL = {
    "torch",
    "ray",
    "tensorboardX",
    "optuna",
}  # imported where they are used, with a message
OF_EXAMPLES = {"numpyro", "distrax"}  # each of one example, which says so


def imports(path):
    """Dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def of_project(path, package):
    """The second part of what a file imports of a package: "running" of experiments.running.x."""
    names = (name.split(".") for name in imports(path))
    return {parts[1] for parts in names if parts[0] == package and len(parts) > 1}


def test_every_room_is_known():
    modules = {path.stem for path in (ROOT / "gsm").glob("*.py")} - {"__init__"}
    assert modules == set(FLOORS)
    rooms = {path.parent.name for path in (ROOT / "experiments").glob("*/__init__.py")}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("module", FLOORS)
def test_imports_of_the_library_go_down_only(module):
    path = ROOT / "gsm" / f"{module}.py"
    assert of_project(path, "gsm") <= FLOORS[module]
    libraries = {name.split(".")[0] for name in imports(path)} - {"gsm"}
    allowed = {"jax", "jaxlib", "jaxtyping", "numpy", "optax", *sys.stdlib_module_names}
    if module == "diagnostics":
        allowed |= {"matplotlib"}  # inside plot
    assert libraries <= allowed


@pytest.mark.parametrize("room", ROOMS)
def test_imports_of_the_experiments_go_down_only(room):
    for path in (ROOT / "experiments" / room).glob("*.py"):
        assert of_project(path, "experiments") <= ROOMS[room] | {room}, path
        if room in LIGHT:
            tops = {name.split(".")[0] for name in imports(path)}
            assert not tops & {"gsm", "configs", "flax"}, path
            allowed = path.name == "provenance.py"  # asks for the device when it is called
            assert allowed or "jax" not in tops, path


def test_examples_need_the_library_alone():
    for path in (ROOT / "examples").glob("*.py"):
        assert not of_project(path, "experiments"), path


def test_importing_gsm_imports_nothing_of_the_experiments():
    loaded = ("flax", "ml_collections", "matplotlib", "orbax", "tensorflow_datasets", "experiments")
    code = f"import gsm, sys; print([m for m in {loaded} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert found.stdout.strip() == "[]"


def requirements(lines):
    return {re.split(r"[<>=\[ ;]", line)[0].lower().replace("_", "-") for line in lines}


def test_what_is_imported_is_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    hard = requirements(project["dependencies"])
    extra = requirements(project["optional-dependencies"]["experiments"])
    own = {"gsm", "experiments", "configs", "scripts", "tests", *sys.stdlib_module_names}
    for folder in ("experiments", "configs", "scripts", "examples"):
        optional = OPTIONAL if folder != "examples" else OF_EXAMPLES
        for path in (ROOT / folder).rglob("*.py"):
            for name in {name.split(".")[0] for name in imports(path)} - own - optional:
                package = PACKAGES.get(name, name).replace("_", "-")
                if name != "requests":  # of tensorflow-datasets
                    assert package in hard | extra, f"{path} imports {name}"


def test_constraints_pin_every_dependency_and_name_no_host():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    pinned = requirements(line for line in text.splitlines() if line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = project["dependencies"] + extras["experiments"] + extras["test"] + extras["tb"]
    assert requirements(named) - {"gsm-jax"} <= pinned


def _text_files():
    folders = ("gsm", "experiments", "configs", "examples", "scripts", "results", "tests", "docs")
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".json", ".csv", ".txt", ".html"):
                yield path
    yield from ROOT.glob("*.md")
    yield from ROOT.glob("*.t*")


def test_no_file_names_a_folder_of_this_machine():
    for path in _text_files():
        text = path.read_text()
        assert f"{Path.home()}/" not in text, path
        assert f"{ROOT}/" not in text, path
