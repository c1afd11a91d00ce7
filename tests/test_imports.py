"""Which way imports run, and where private interfaces may be used.

`lint-imports` holds the layers too; here they are checked without the tool. What it
cannot express stands here alone: nothing imports a private module across the border of
a package, and only `_compat` uses what another library keeps private.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import NamedTuple

import pytest

import pyro_geo

PACKAGE = Path(pyro_geo.__file__).parent
LIBRARIES = ("torch", "pyro", "arviz", "zarr", "gpytorch", "linear_operator", "xarray")

# Pyro calls these methods of a handler: overriding them is how one is written.
HANDLER_METHODS = {"_pyro_sample", "_pyro_post_sample"}
# The interface of every named tuple; the underscore keeps it apart from the fields.
NAMED_TUPLE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}
# Names of sites and axes that users see, ours and BoTorch's.
SITE_NAMES = {"_dim_", "_kernel_inv_length_sq", "_unconstrained"}


class Import(NamedTuple):
    """One import in one module: the module it is in, and what is imported."""

    source: str
    line: int
    name: str


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports_of(source: str, tree: ast.AST) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(source, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute"
            for alias in node.names:
                yield Import(source, node.lineno, f"{node.module}.{alias.name}")


IMPORTS = [found for name, tree in TREES.items() for found in imports_of(name, tree)]
OURS = [found for found in IMPORTS if found.name.startswith("pyro_geo.")]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


# -- layers ---------------------------------------------------------------------------


def contracts() -> list[dict]:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    return project["tool"]["importlinter"]["contracts"]


def layers(contract: dict) -> list[set[str]]:
    """The modules of each layer, from the highest to the lowest."""
    return [set(re.split(r"[\s:|()]+", text)) - {""} for text in contract["layers"]]


def against(contract: dict, found: list[Import]) -> list[Import]:
    """Imports that run from a lower layer to a higher one, or inside an `|`."""
    (container,) = contract["containers"]
    level = {
        f"{container}.{name}": (height, " | " in text)
        for height, (names, text) in enumerate(
            zip(reversed(layers(contract)), reversed(contract["layers"]), strict=True)
        )
        for name in names
    }

    def home(name: str) -> str | None:
        depth = container.count(".") + 2
        return next(
            (x for x in [".".join(name.split(".")[:depth])] if x in level), None
        )

    wrong = []
    for one in found:
        low, high = home(one.source), home(one.name)
        if low is None or high is None or low == high:
            continue
        apart = level[low][1] and level[low][0] == level[high][0]
        if level[low][0] < level[high][0] or apart:
            wrong.append(one)
    ignored = contract.get("ignore_imports", ())
    return [
        one
        for one in wrong
        if not any(
            one.name.startswith(target) and one.source == source
            for source, target in (text.split(" -> ") for text in ignored)
        )
    ]


def test_every_package_stands_in_one_layer():
    first = contracts()[0]
    names = [name for layer in layers(first) for name in layer]
    assert len(names) == len(set(names))
    there = {name.split(".")[1] for name in MODULES if "." in name}
    assert there <= {*names, *first["exhaustive_ignores"]}


@pytest.mark.parametrize(
    "contract",
    [c for c in contracts() if c["type"] == "layers"],
    ids=lambda contract: contract["containers"][0],
)
def test_imports_run_from_higher_layers_to_lower_ones(contract):
    assert against(contract, OURS) == []


@pytest.mark.parametrize(
    ("source", "name", "wrong"),
    [
        ("pyro_geo.ops.lanes", "pyro_geo.density.Target", True),
        ("pyro_geo.density.target", "pyro_geo.ops.lanes.dot", False),
        ("pyro_geo.infer.gibbs.path", "pyro_geo.infer.mcmc.runner.MCMC", True),
        ("pyro_geo.infer.mcmc.runner", "pyro_geo.infer.gibbs.path", True),
        ("pyro_geo.infer.certificates.exact", "pyro_geo.infer.gibbs.path", False),
        ("pyro_geo.infer.gibbs.path", "pyro_geo.infer.certificates.exact", True),
        ("pyro_geo.gp.saas", "pyro_geo.infer.mcmc.runner", False),
    ],
)
def test_an_import_against_the_layers_is_found(source, name, wrong):
    one = Import(source, 1, name)
    found = [x for c in contracts() if c["type"] == "layers" for x in against(c, [one])]
    assert bool(found) == wrong


def test_independent_modules_do_not_import_each_other():
    for contract in contracts():
        if contract["type"] != "independence":
            continue
        for one in OURS:
            homes = {m for m in contract["modules"] if one.source.startswith(m + ".")}
            others = [m for m in contract["modules"] if m not in homes]
            assert not (homes and one.name.startswith(tuple(others))), one


# -- private modules of ours ----------------------------------------------------------


def crosses(one: Import) -> bool:
    """Whether an import reaches a private module, or name, of another package.

    A private module belongs to the package it lies in, a private name to its module.
    """
    parts = one.name.split(".")
    for k, part in enumerate(parts):
        if is_private(part):
            owner = ".".join(parts[:k])
            if not f"{one.source}.".startswith(f"{owner}."):
                return True
    return False


def test_private_modules_stay_inside_their_package():
    assert [one for one in OURS if crosses(one)] == []


@pytest.mark.parametrize(
    ("source", "name", "wrong"),
    [
        ("pyro_geo.infer.mcmc.runner", "pyro_geo.engine._tasks.Plan", True),
        ("pyro_geo.engine.schedule", "pyro_geo.engine._tasks.Plan", False),
        ("pyro_geo.engine", "pyro_geo.engine._tasks.Plan", False),
        ("pyro_geo.ops.lanes", "pyro_geo._compat.torch.pytree", False),
        ("pyro_geo.engine.schedule", "pyro_geo.engine.noise._key", True),
    ],
)
def test_a_private_import_across_a_border_is_found(source, name, wrong):
    assert crosses(Import(source, 1, name)) == wrong


# -- private interfaces of others -----------------------------------------------------


def defined_by_us() -> set[str]:
    """Every private name that the package itself defines, outside `_compat`."""
    names: set[str] = set()
    for module, tree in TREES.items():
        if module.startswith("pyro_geo._compat"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, ast.keyword | ast.arg) and node.arg:
                names.add(node.arg)
    return names | {part for name in MODULES for part in name.split(".")}


KNOWN = defined_by_us() | HANDLER_METHODS | NAMED_TUPLE | SITE_NAMES


def private_uses(source: str, tree: ast.AST) -> list[tuple[str, int, str]]:
    """What a module uses that another library keeps private.

    Imports of private modules and names; attributes that the package does not define;
    and texts that look like one, such as keys of Pyro's messages.
    """
    found = [
        (source, one.line, one.name)
        for one in imports_of(source, tree)
        if one.name.split(".")[0] in LIBRARIES
        and any(is_private(part) for part in one.name.split("."))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value if re.fullmatch(r"_[a-zA-Z]\w*", node.value) else ""
        else:
            continue
        if is_private(name) and name not in KNOWN:
            found.append((source, node.lineno, name))
    return found


@pytest.mark.parametrize(
    "module", [m for m in MODULES if not m.startswith("pyro_geo._compat")]
)
def test_only_compat_uses_what_other_libraries_keep_private(module):
    assert private_uses(module, TREES[module]) == []


@pytest.mark.parametrize(
    "code",
    [
        "from torch.utils import _pytree",
        "import torch._inductor.config",
        "from pyro.poutine.subsample_messenger import _Subsample",
        "import torch\ntorch._C._functorch.is_batchedtensor(1)",
        "x = site['infer'].get('_enumerate_dim')",
        "getattr(fn, '_validate_args', False)",
        "import torch\ntorch.ops.aten._sample_dirichlet(a)",
    ],
)
def test_a_private_use_is_found(code):
    assert private_uses("here", ast.parse(code))


# -- names that are imported when asked for -------------------------------------------


def lazy_packages() -> list[str]:
    """Packages whose names are imported when they are first asked for."""
    return [
        module_of(path)
        for path in sorted(PACKAGE.rglob("__init__.py"))
        if "= importer(" in path.read_text()
    ]


@pytest.mark.parametrize("name", lazy_packages())
def test_no_module_takes_the_name_of_a_lazy_function(name):
    # importing a module makes it an attribute of its package, which comes first
    package = import_module(name)
    modules = {module.name for module in iter_modules(package.__path__)}
    assert modules & set(package.__all__) == set()
