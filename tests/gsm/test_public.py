"""What ``import gsm`` gives: names, documentation, examples that run, and nothing that is heavy."""

import doctest
import importlib
import importlib.metadata
import importlib.resources
import inspect
import pydoc
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import gsm

ROOMS = (
    "diagnostics", "distributions", "estimators", "learned", "registry", "schedules", "testing",
)  # fmt: skip
FUNCTIONS = sorted(name for name in gsm.__all__ if inspect.isfunction(getattr(gsm, name)))


def test_all_names_are_there_once_and_in_order():
    assert list(gsm.__all__) == sorted(set(gsm.__all__))
    public = {name for name in vars(gsm) if not name.startswith("_")}
    assert public - set(gsm.__all__) <= {"estimators", "registry"}
    assert set(gsm.__all__) <= public
    assert set(gsm.ESTIMATORS) <= set(gsm.__all__)
    for name in ("distributions", "diagnostics", "schedules", "learned", "testing"):
        assert inspect.ismodule(getattr(gsm, name))


def test_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+", gsm.__version__)


def test_the_package_says_that_it_is_typed():
    assert importlib.resources.files(gsm).joinpath("py.typed").is_file()


def imported(code):
    """Top-level names of the modules that a fresh process has after the code."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_gsm_imports_its_four_dependencies_and_nothing_else():
    everything = imported("import gsm")
    foundation = imported("import jax, jaxlib, numpy, jaxtyping, optax, jax._src.xla_bridge")
    beside = everything - foundation - set(sys.stdlib_module_names) - {"gsm"}
    assert not beside
    assert not everything & {"flax", "ml_collections", "matplotlib", "orbax", "experiments"}


# --- documentation


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_is_about_the_function_and_has_its_signature(name):
    function = getattr(gsm, name)
    text = pydoc.plain(pydoc.render_doc(function))
    assert text.splitlines()[2].startswith(f"{name}(")
    documented = inspect.getdoc(function)
    for parameter in inspect.signature(function).parameters:
        assert parameter in ("self",) or re.search(rf"^ +{parameter}\b.*:", documented, re.M), (
            f"{name} does not document {parameter}"
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documentation_has_shapes_source_and_an_example(name):
    documented = inspect.getdoc(getattr(gsm, name))
    first = documented.splitlines()[0]
    assert first[0].isupper()
    assert first.endswith(".")
    for section in ("Args:", "Returns:", "Source:", "Example:", ">>> "):
        assert section in documented, f"{name}: no {section}"


@pytest.mark.parametrize("name", gsm.ESTIMATORS)
def test_documentation_of_an_estimator_has_cost_and_errors(name):
    documented = inspect.getdoc(getattr(gsm, name))
    for section in ("Cost:", "Raises:", "[n, k]" if name == "exact" else "logits"):
        assert section in documented, f"{name}: no {section}"


def test_help_of_rloo_is_about_rloo():
    text = pydoc.plain(pydoc.render_doc(gsm.rloo))
    assert re.search(r"rloo\(\s*key:", text)  # Python 3.13 has a line for each argument
    assert "num_samples: int = 4" in text
    assert "Kool et al. 2019" in text
    assert list(inspect.signature(gsm.rloo).parameters) == ["key", "logits", "f", "num_samples"]


@pytest.mark.parametrize("room", ["gsm", *ROOMS])
def test_examples_run(room):
    module = gsm if room == "gsm" else importlib.import_module(f"gsm.{room}")
    names = vars(module) | {"gsm": gsm, "jax": jax, "jnp": jnp}
    runner, examples = doctest.DocTestRunner(), 0
    for test in doctest.DocTestFinder(exclude_empty=False).find(module, globs=names):
        report = []
        with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):  # as a user
            runner.run(test, out=report.append)
        assert runner.failures == 0, "".join(report)
        examples += len(test.examples)
    assert examples


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_function_and_class_of_a_room_has_an_example(room):
    module = importlib.import_module(f"gsm.{room}")
    for name, value in vars(module).items():
        is_own = getattr(value, "__module__", None) == module.__name__
        if callable(value) and not name.startswith("_") and is_own:
            documented = value.__doc__ or ""
            assert ">>> " in documented or "Example: at :func:" in documented, (
                f"gsm.{room}.{name} has no example"
            )


# --- the registry


def test_an_entry_printed_says_source_bias_cost_learned_parts_and_citation():
    text = str(gsm.ESTIMATORS["rloo"])
    assert text.startswith("rloo (aliases: loorf, vargrad, multi_sample_reinforce)\n")
    for line in (
        r"source: +Kool et al\. 2019",
        r"bias: +unbiased for every f",
        r"evaluations of f: +m \(m = num_samples\), no derivative",
        r"parameters: +num_samples=4",
        r"learned parts: +none",
        r"@inproceedings\{kool2019buy,",
    ):
        assert re.search(rf"^ +{line}", text, re.M), line
    nvil = str(gsm.ESTIMATORS["nvil"])
    assert re.search(r"learned parts: +baseline, network, variance", nvil)
    assert re.search(r"parameters: +baseline \(required\), variance=1\.0", nvil)


@pytest.mark.parametrize("name", gsm.ESTIMATORS)
def test_every_entry_has_a_name_a_source_and_a_citation(name):
    entry = gsm.ESTIMATORS[name]
    assert entry.name == name
    assert entry.function is getattr(gsm, name)
    assert entry.source
    assert entry.choose
    if name != "exact":
        assert re.match(r"@\w+\{\w+,\n", entry.citation)
        assert entry.citation.count("{") == entry.citation.count("}")
        surname = re.split(r" & | et al| \d", entry.source)[0]
        assert surname.split()[-1].lower() in entry.citation.lower()
        assert re.search(r"year += \{(\d{4})\}", entry.citation)[1] in entry.source


@pytest.mark.parametrize(
    ("alias", "name"),
    {
        "reinforce": "score_function", "concrete": "gumbel_softmax", "gsm": "gumbel_softmax",
        "st": "straight_through", "ste": "straight_through", "stgs": "st_gumbel_softmax",
        "loorf": "rloo", "vargrad": "rloo", "multi_sample_reinforce": "rloo", "u2g": "disarm",
        "zgr": "reinmax", "grmck": "gumbel_rao", "gst": "gapped_straight_through",
        "marginalisation": "exact", "enumeration": "exact",
        "rao_blackwellised": "local_expectation",
    }.items(),
)  # fmt: skip
def test_aliases_find_their_entry_and_are_not_counted(alias, name):
    assert gsm.ESTIMATORS[alias] is gsm.ESTIMATORS[name]
    assert alias in gsm.ESTIMATORS
    assert gsm.ESTIMATORS.get(alias) is gsm.ESTIMATORS[name]
    assert alias not in list(gsm.ESTIMATORS)
    assert len(gsm.ESTIMATORS) == len(set(gsm.ESTIMATORS.keys()))


def test_no_alias_is_a_name_or_another_alias():
    aliases = [alias for entry in gsm.ESTIMATORS.values() for alias in entry.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(gsm.ESTIMATORS)


def test_an_unknown_name_is_told_near_ones():
    with pytest.raises(
        KeyError, match="unknown estimator 'gumbel_sotfmax'; did you mean gumbel_so"
    ):
        gsm.ESTIMATORS["gumbel_sotfmax"]
    with pytest.raises(KeyError, match="unknown estimator 'xyz'; there are exact, score_function"):
        gsm.ESTIMATORS["xyz"]
    assert "xyz" not in gsm.ESTIMATORS
    assert gsm.ESTIMATORS.get("xyz") is None


def test_an_entry_of_ones_own_joins_and_leaves():
    def mine(key, logits, f, temperature=2.0):
        return f(gsm.gumbel_softmax(key, logits, temperature))

    entry = gsm.Entry(mine, source="own", unbiased="none", choose="a test", aliases=("my",))
    gsm.ESTIMATORS["mine"] = entry
    try:
        assert gsm.ESTIMATORS["my"] is entry
        assert entry.reads == ("temperature",)
        key, logits = jax.random.key(0), jnp.zeros((2, 3))
        expected = jnp.sum(gsm.gumbel_softmax(key, logits, 0.5)[:, 0])
        given = gsm.Hyperparams(temperature=0.5, slope=3.0)  # a slope is not for this one
        with jax.debug_key_reuse(False):
            assert entry(key, logits, lambda z: jnp.sum(z[:, 0]), given) == expected
        assert "citation" not in str(entry)
    finally:
        del gsm.ESTIMATORS["mine"]
    assert "my" not in gsm.ESTIMATORS
