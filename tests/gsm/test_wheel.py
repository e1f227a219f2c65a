"""The wheel, as somebody installs it: it holds gsm alone, and runs without the extra."""

import email
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gsm

ROOT = Path(__file__).parent.parent.parent
DEPENDENCIES = {"jax", "jaxlib", "jaxtyping", "numpy", "optax"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built without network, from the working tree."""
    pytest.importorskip("hatchling", reason="the test extra has hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def without_extras(name):
    """Names of distributions that a plain installation of this one brings, itself among them."""
    found, left = set(), {name}
    while left:
        name = left.pop()
        found.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": ""}):
                left |= {requirement.name.lower()} - found
    return found


@pytest.fixture(scope="module")
def bare_python(wheel, tmp_path_factory):
    """Python of an environment with the wheel and its dependencies, links to those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", scheme="venv", vars=paths))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for name in set().union(*map(without_extras, DEPENDENCIES)):
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files if file.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
    return Path(sysconfig.get_path("scripts", scheme="venv", vars=paths)) / "python"


def run(python, code, folder):
    done = subprocess.run(
        [str(python), "-I", "-W", "error", "-c", code], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_gsm_alone_and_says_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"gsm_jax-{gsm.__version__}.dist-info"
        metadata = email.message_from_string(archive.read(f"{info}/METADATA").decode())
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert {name.partition("/")[0] for name in names} == {"gsm", info}
    files = {path.name for path in (ROOT / "gsm").iterdir() if path.suffix in (".py", ".typed")}
    assert {name.partition("/")[2] for name in names if name.startswith("gsm/")} == files
    assert "py.typed" in files
    assert metadata["Name"] == "gsm-jax"
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] or metadata["Author-email"]
    assert metadata.get_all("Classifier")
    assert metadata.get_all("Project-URL")
    assert entry_points == "[console_scripts]\ngsm = gsm.__main__:main\n"
    needed = {
        re.match(r"[\w-]+", line)[0]
        for line in metadata.get_all("Requires-Dist")
        if "extra ==" not in line
    }
    assert needed == DEPENDENCIES


def test_the_installed_wheel_runs_the_readme_s_example_without_the_extra(bare_python, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    examples = [block for block in blocks if re.search(r"^import gsm|>>> import gsm", block, re.M)]
    assert examples, "the README has no example that begins with import gsm"
    for example in examples:
        if ">>> " in example:
            text = f"import doctest, sys\nexample = {example!r}\n" + (
                "test = doctest.DocTestParser().get_doctest(example, {}, 'README', None, 0)\n"
                "sys.exit(doctest.DocTestRunner().run(test).failed)"
            )
        else:
            text = example
        run(bare_python, text, tmp_path)


def test_the_bare_environment_is_bare_and_gsm_is_the_wheel_s(bare_python, tmp_path):
    missing = (
        "flax",
        "ml_collections",
        "orbax",
        "matplotlib",
        "tensorflow_datasets",
        "experiments",
    )
    code = (
        "import importlib.util, gsm, jax\n"
        f"print([name for name in {missing} if importlib.util.find_spec(name)])\n"
        "print(gsm.__version__, gsm.__file__)\n"
        "parts = gsm.learned.learned_parts(gsm.ESTIMATORS['nvil'], 3, (2, 2))\n"
        "print(sorted(parts.init(jax.random.key(0))))"
    )
    found, where, parts = run(bare_python, code, tmp_path).splitlines()
    assert found == "[]"
    assert where.startswith(gsm.__version__)
    assert str(ROOT) not in where
    assert parts == "['baseline_network', 'moments']"


def test_the_commands_of_the_bare_wheel_say_where_they_are(bare_python, tmp_path):
    command = [str(bare_python), "-m", "gsm", "train", "--config=configs/cat_vae.py"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for folder, told in (
        (tmp_path, "the commands are not part of the library: get the source repository"),
        (ROOT, "the commands need flax, matplotlib, ml_collections, orbax, tqdm: pip install"),
    ):
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
        assert done.returncode == 1
        assert done.stderr.startswith(f"gsm: error: {told}")
        assert done.stderr.count("\n") == 1
