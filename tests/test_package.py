"""The package as installed: light import, lazy names, version, citations."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

import pyro_geo
from pyro_geo.citations import cites
from pyro_geo.errors import ConfigurationError

HEAVY = ("torch", "pyro", "arviz", "gpytorch", "matplotlib", "numpy")
ROOT = Path(pyro_geo.__file__).parent


def fresh(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_import_loads_nothing_heavy():
    code = f"""
import sys, pyro_geo, pyro_geo.errors, pyro_geo.citations
assert "Target" in dir(pyro_geo)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert fresh(code) == "[]"


# What a sampler does without until it is asked for a table, a picture or processes.
LATER = ("arviz", "filelock", "gpytorch", "joblib", "matplotlib", "numba", "pandas")
LATER += ("scipy", "xarray", "zarr")


def test_importing_a_sampler_loads_torch_pyro_and_little_else():
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
import torch, pyro
before = set(sys.modules)
from pyro_geo.infer import HMC, MCMC
print([name for name in {LATER!r} if name in set(sys.modules) - before])
"""
    assert fresh(code) == "[]"


def test_lazy_names_are_importable_and_listed():
    for name in pyro_geo.__all__:
        assert name in dir(pyro_geo)
        assert getattr(pyro_geo, name) is getattr(pyro_geo, name)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pyro_geo.nothing


def test_version_is_that_of_the_distribution():
    assert version("pyro_geo") == pyro_geo.__version__
    record = (ROOT.parent / "CITATION.cff").read_text()
    assert f"\nversion: {pyro_geo.__version__}\n" in record
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", pyro_geo.__version__)


def test_the_archive_of_sources_has_the_package_and_the_galleries():
    tool = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]
    included = tool["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert {"pyro_geo", "models", "inference"} <= set(included)
    assert not {"tests", "docs", "benchmarks"} & set(included)
    assert all((ROOT.parent / name).exists() for name in included)


def test_package_is_typed():
    assert (ROOT / "py.typed").is_file()


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_files_stay_small_and_public_modules_say_what_is_public(path):
    text = path.read_text()
    assert text.count("\n") <= 500
    if not path.name.startswith("_"):
        assert re.search(r"^__all__ = ", text, re.MULTILINE)


class Kernel:
    citations = ("dims",)


class Result:
    kernel = Kernel()


@pytest.mark.parametrize("obj", [Kernel, Kernel(), Result()])
def test_citation_names_the_methods_used_and_the_libraries(obj):
    text = pyro_geo.citation(obj)
    assert "2605.15459" in text
    assert re.findall(r"^@article\{(\w+),", text, re.MULTILINE) == [
        "jacobsen2026dims",
        "bingham2019pyro",
        "kumar2019arviz",
    ]
    assert text.count("{") == text.count("}")


class Table:
    attrs = {"citations": ("dims",)}  # noqa: RUF012  as in pandas and xarray


@cites("dims")
def follows():
    return {}


@pytest.mark.parametrize("obj", [Table(), follows])
def test_tables_and_functions_name_their_works(obj):
    assert "jacobsen2026dims" in pyro_geo.citation(obj)


def test_citation_of_nothing_is_that_of_the_libraries():
    assert "jacobsen2026dims" not in pyro_geo.citation()


def test_citation_of_an_unknown_key_is_named():
    class Other:
        citations = "unheard_of"

    with pytest.raises(ConfigurationError, match=r"Other.*unheard_of"):
        pyro_geo.citation(Other())


def test_extras_that_messages_name_can_be_installed():
    extras = metadata("pyro_geo").get_all("Provides-Extra") or []
    for file in ROOT.rglob("*.py"):
        for name in re.findall(r"pyro_geo\[([a-z_]+)\]", file.read_text()):
            assert name in extras, (file.name, name)
