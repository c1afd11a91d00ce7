"""One vocabulary for the whole library, held by inspection of everything public.

The rules stand in CONTRIBUTING. What is left out of one stands here with its reason.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import pyro_geo
from pyro_geo import errors

ROOT = Path(pyro_geo.__file__).parent

# A word that is not used, and the one that is. Statistics and fields of results may
# begin with `n_`, as ArviZ's `n_steps` does.
INSTEAD = {
    "max_iter": "max_steps",
    "tol": "tolerance",
    "rng": "seed or generator",
    "rng_key": "seed or generator",
    "random_state": "seed or generator",
    "num_warmup": "warmup_steps",
    "burnin": "warmup_steps",
    "n_chains": "num_chains",
    "n_samples": "num_samples",
    "n_draws": "num_draws",
    "num_anchors": "num_chains",
    "checkpoint_dir": "store",
    "num_workers": "n_jobs",
    "verbose": "progress_bar",
    "progress": "progress_bar",
    "center": "centre",
    "localization": "localisation",
    "linearization": "linearisation",
    "normalize": "normalise",
    "eps": "epsilon",
    "hdi_prob": "prob",
    "inits": "initial_params",
    "init_params": "initial_params",
}
# Object and word, with the reason.
SAID_OTHERWISE = {
    ("Subspace", "center"): "a field of stored metrics, read back by name",
    ("PublishedSPD", "eps"): "an optimiser of torch's, in torch's words",
}
# Torch's word, for its optimisers and copies of them alone.
TORCH_OPTIMISERS = {"EigenONS", "PublishedSPD", "SPD"}
METHODS_NOT_USED = {"to_inference_data", "to_inferencedata", "samples", "plot"}
# Built-in exceptions that a caller may meet. Everything else is a PyroGeoError.
BUILT_IN = {
    "AttributeError": "a name that a module does not have",
    "KeyboardInterrupt": "handed on to who pressed the keys",
    "NotImplementedError": "Pyro's sign that a distribution has no such method",
    "AssertionError": "gates and contracts of pyro_geo.testing, read by pytest",
}
# Caught in the module that raises them, or turned into another error there.
CAUGHT_WITHIN = {
    "density/ladder.py",
    "io/store/_metadata.py",
    "io/store/_npz.py",
    "results/_handlers.py",
    "results/predictive.py",
    "unlearning/conjugate.py",
    "testing/_resume.py",
}


class Public(NamedTuple):
    """A class or a function, by the shortest path that exports it."""

    path: str
    value: Any


def public_modules() -> list[ModuleType]:
    """Every module whose name and whose packages' names are public."""
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found.append(import_module(".".join(parts)))
    return found


def exported(packages_only: bool) -> dict[str, Public]:
    """What the modules export, each object once."""
    found: dict[int, Public] = {}
    for module in sorted(public_modules(), key=lambda one: len(one.__name__)):
        if packages_only and not hasattr(module, "__path__"):
            continue
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            own = str(getattr(value, "__module__", "")).startswith("pyro_geo")
            if own and (inspect.isclass(value) or inspect.isroutine(value)):
                found.setdefault(id(value), Public(f"{module.__name__}.{name}", value))
    return {one.path: one for one in found.values()}


def is_record(value: Any) -> bool:
    """Whether a class holds fields that functions fill, and computes nothing."""
    return inspect.isclass(value) and (
        issubclass(value, tuple)
        or dataclasses.is_dataclass(value)
        or getattr(value, "_is_protocol", False)
        or inspect.isabstract(value)
    )


def callables(one: Public) -> Iterator[tuple[str, Callable[..., Any]]]:
    """A function, or the constructor and the public methods of a class."""
    if not inspect.isclass(one.value):
        yield one.path, one.value
        return
    if not is_record(one.value):
        yield one.path, one.value
    for name, value in vars(one.value).items():
        value = getattr(value, "__func__", value)
        if inspect.isfunction(value) and not name.startswith("_"):
            yield f"{one.path}.{name}", value


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # classes that C code makes
        return []


PUBLIC = exported(packages_only=False)
SURFACE = exported(packages_only=True)
CALLS = [call for one in PUBLIC.values() for call in callables(one)]
SURFACE_CALLS = [call for one in SURFACE.values() for call in callables(one)]


def test_the_survey_sees_the_library():
    for name in ("infer.MCMC", "infer.HMC", "Target", "unlearning.forget"):
        assert f"pyro_geo.{name}" in SURFACE
    assert len(CALLS) > 1000


def test_a_thing_has_one_word():
    wrong = [
        f"{path}({one.name}): {INSTEAD[one.name]}"
        for path, function in CALLS
        for one in parameters(function)
        if one.name in INSTEAD
        and not any(
            f".{owner}" in path for owner, word in SAID_OTHERWISE if word == one.name
        )
    ]
    assert not wrong


def test_counts_begin_with_num():
    # n is the number of examples in bounds; n_jobs is joblib's word, n_steps ArviZ's
    wrong = [
        f"{path}({one.name})"
        for path, function in CALLS
        for one in parameters(function)
        if re.match(r"n_(?!jobs$|steps$)", one.name) and path not in RESULT_MAKERS
    ]
    assert not wrong


RESULT_MAKERS = {
    # they take the fields of the result
    "pyro_geo.optim.CEMResult",
    "pyro_geo.optim.cem.record.Record.result",
}


def test_only_torch_optimisers_say_lr():
    said = {
        path
        for path, function in CALLS
        for one in parameters(function)
        if one.name == "lr"
    }
    assert {path.split(".")[-1] for path in said} <= TORCH_OPTIMISERS


def test_a_seed_is_a_number_and_a_generator_is_torchs():
    wrong = []
    for path, function in CALLS:
        for one in parameters(function):
            said = str(one.annotation)
            if one.name == "seed":
                # 0, or None for one from torch's own generator
                good = one.default in (one.empty, 0, None) and "int" in said
            elif one.name == "generator":
                good = one.default in (one.empty, None) and "Generator" in said
            else:
                continue
            if not good:
                wrong.append(f"{path}({one})")
    assert not wrong


def test_a_seed_with_a_default_is_passed_by_name():
    wrong = [
        f"{path}({one})"
        for path, function in CALLS
        for one in parameters(function)
        if one.name == "seed"
        and one.default is not one.empty
        and one.kind is not one.KEYWORD_ONLY
        and not path.startswith("pyro_geo.testing")
        and not is_record(function)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("word", "default"), [("progress_bar", True), ("prob", 0.9), ("thin", 1)]
)
def test_a_word_has_one_default(word, default):
    wrong = [
        f"{path}({one})"
        for path, function in SURFACE_CALLS
        for one in parameters(function)
        if one.name == word and one.default not in (one.empty, None, default)
    ]
    assert not wrong


def test_options_after_the_third_are_passed_by_name():
    # mathematical arguments have an order; so have the fields of a record
    wrong = [
        f"{path}({', '.join(names)})"
        for path, function in SURFACE_CALLS
        if not path.startswith(ORDERED)
        and len(
            names := [
                one.name
                for one in parameters(function)
                if one.kind is one.POSITIONAL_OR_KEYWORD
                and one.default is not one.empty
            ]
        )
        > 3
    ]
    assert not wrong


ORDERED = (
    "pyro_geo.filtering.hgf_filter",  # omega, kappa, mu0, pi0: of the equations
    "pyro_geo.filtering.hgf_surprise",
)


def test_no_flag_changes_a_return_type():
    wrong = []
    for path, function in SURFACE_CALLS:
        flags = [
            one.name for one in parameters(function) if str(one.annotation) == "bool"
        ]
        returned = str(getattr(function, "__annotations__", {}).get("return", ""))
        several = (
            returned.count("|") - returned.count("| None") - returned.count("None |")
        )
        if flags and not inspect.isclass(function) and several > 0:
            wrong.append(f"{path}({', '.join(flags)}) -> {returned}")
    assert not wrong


def test_methods_have_the_names_of_the_first_table():
    wrong = [
        f"{one.path}.{name}"
        for one in PUBLIC.values()
        if inspect.isclass(one.value)
        for name in METHODS_NOT_USED & set(vars(one.value))
        if inspect.isfunction(vars(one.value)[name])
    ]
    assert not wrong


def raised() -> Iterator[tuple[str, str]]:
    """File and name of every exception that the package raises by name."""
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func).split(".")[-1]
                yield file.relative_to(ROOT).as_posix(), name


def test_what_is_raised_is_an_error_of_ours_or_a_documented_built_in():
    known = set(errors.__all__) | set(BUILT_IN)
    wrong = [
        f"{file}: {name}"
        for file, name in raised()
        if name[0].isupper() and name not in known and file not in CAUGHT_WITHIN
    ]
    assert not wrong


def test_every_error_is_under_one_root_and_takes_the_four_parts():
    for name in errors.__all__:
        value = getattr(errors, name)
        if inspect.isclass(value) and issubclass(value, Exception):
            assert issubclass(value, errors.PyroGeoError | errors.PyroGeoWarning)
            text = str(value("what", "where", found=1, expected=2, todo="Do this."))
            assert all(part in text for part in ("what", "where", "1", "2", "Do this."))


# Classes that a call returns; the example stands at the call.
SHOWN_AT_THEIR_CALL = {
    "pyro_geo.filtering.Track": "BoundedTracker.filter",
    "pyro_geo.filtering.hgf.network.NetworkDistribution": "HGFNetwork.distribution",
    "pyro_geo.infer.RobustInit": "robust_init",
    "pyro_geo.infer.WeightedPosterior": "GibbsPosterior",
    "pyro_geo.optim.cem.Search": "DecentCEM.start",
    "pyro_geo.planning.OfflineLibrary": "OfflinePlanner",
    "pyro_geo.results.Weights": "GibbsPosterior",
    "pyro_geo.summaries.merge.Checkpoint": "open_checkpoint",
    "pyro_geo.unlearning.Treatment": "the base of Reset, Shrink and others",
    "pyro_geo.io.store.arrange_series": "Series.to_arviz",
}


def test_every_public_callable_shows_an_example():
    wrong = []
    for path, (_, value) in SURFACE.items():
        described = [value, *(vars(value).values() if inspect.isclass(value) else ())]
        shown = any(">>>" in (inspect.getdoc(one) or "") for one in described)
        needed = not is_record(value) and bool(parameters(value))
        if needed and not shown and path not in SHOWN_AT_THEIR_CALL:
            wrong.append(path)
    assert not wrong


def test_arguments_and_returns_are_documented():
    wrong = []
    for path, function in SURFACE_CALLS:
        names = [
            one.name
            for one in parameters(function)
            if one.name not in ("self", "cls") and not one.name.startswith("_")
        ]
        text = inspect.getdoc(function) or ""
        if not text:
            wrong.append(f"{path}: no docstring")
        elif inspect.isfunction(function) and names and "\n" in text:
            if "Args:" not in text:
                wrong.append(f"{path}: no Args")
            wrong += [
                f"{path}: {name}"
                for name in names
                if not re.search(rf"^\s*\**{name}:", text, re.M)
            ]
    assert not wrong
