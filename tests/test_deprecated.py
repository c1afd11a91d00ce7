"""Calls of 0.1 give what they gave, and warn once of what to write instead."""

import ast
import importlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoLaplaceApproximation

import pyro_geo
from pyro_geo import Target
from pyro_geo.errors import (
    ConfigurationError,
    NonStationaryWarning,
    PyroGeoDeprecationWarning,
)
from pyro_geo.evaluation.baselines import (
    deep_ensemble,
    fan_in_starts,
    linearised_laplace,
    map_estimate,
    sghmc,
)
from pyro_geo.filtering import BoundedTracker, Level, RangeBearing
from pyro_geo.filtering.tracker.dynamics import Cruise
from pyro_geo.filtering.tracker.runs import Runs
from pyro_geo.infer import DIMS, polish_minima, robust_init, sample_minima
from pyro_geo.infer.certificates import Certificate
from pyro_geo.infer.certificates.learning import llc
from pyro_geo.infer.mcmc.dims.anchors import Anchors
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.polishing import (
    is_sloping,
    leave_saddles_lanes,
    maybe_saddles,
    polish_lanes,
)
from pyro_geo.optim.conjugate_gradients import conjugate_gradients
from pyro_geo.optim.descent import lbfgs
from pyro_geo.optim.saddles import leave_saddles
from pyro_geo.optim.trust_region import polish
from pyro_geo.planning import ExactValues, OfflinePlanner, Prior
from pyro_geo.planning.mpc.draws import pool_of
from pyro_geo.results import MemoryDraws, PosteriorDraws
from pyro_geo.summaries.finetuning import finetune
from pyro_geo.testing.gates import check_ledger
from pyro_geo.unlearning.sites import delete_sites
from pyro_geo.unlearning.tails import Leverage

ROOT = Path(pyro_geo.__file__).parent
BOWL = Target.from_potential(lambda q: (q * q - 1).square().sum(), 2)
VALLEY = Target.from_potential(lambda q: (q[0] * q[1] - 1) ** 2, 2)
Q = torch.tensor([[2.0, 0.6], [0.3, -0.2]])
Y = torch.tensor([1.0, 1.1, 0.9, 1.0, 1.05, 9.0, 9.1, 9.0])
SHARES = Y.double() / 30


def model(y):
    mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def guide():
    pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))


def well(q):
    """Minima at 1 and -1 and a saddle between them, in each direction."""
    return (q * q - 1).square().sum(-1), 4 * q * (q * q - 1)


def curvature(q, v):
    return (12 * q * q - 4) * v


STATE = polish(well, curvature, torch.zeros(2, 2))
ANCHORS = Anchors(Q, *[torch.tensor([0.1, 3.0])] * 3, *[torch.zeros(2).bool()] * 2)
LINES = {"active": torch.tensor([True, True])}
NOISE = torch.tensor([[1.0, 0.2], [0.5, -1.0]])


def site_deletion(**options):
    fitted = AutoLaplaceApproximation(model)
    fitted(Y[:3])
    fitted.loc.data.fill_(0.75)  # the mode: 3 / 4
    found = delete_sites(model, fitted, Y[:3], forget=[2], polish=2, **options)
    return found.loc, found.covariance


def fine_tuned(**options):
    data = (torch.zeros(4),), (torch.ones(4),)
    return finetune(model, *data, {"later": data[1]}, num_steps=1, **options).table


def tracked(**options):
    tracker = BoundedTracker(Level(0.01, axes=2), RangeBearing(), 1.0, **options)
    return tracker.given_options["linearisation"], tracker.runs.plan.sigma_points


def draws_of_minima(**options):
    options |= {
        "anchors": torch.ones(1, 2),
        "velocity": "isotropic",
        "progress_bar": False,
    }
    fit = sample_minima(VALLEY, num_samples=2, seed=1, compile=False, **options)
    return fit.positions


class Renamed(NamedTuple):
    """A call that takes the argument by either name."""

    call: Callable[..., Any]
    new: dict[str, Any]
    old_names: tuple[str, ...]


BOTH = {"tolerance": 1e-6, "max_steps": 3}
OLD = "tol", "max_iter"
POLISH = {"polish_tolerance": 1e-3, "polish_max_steps": 7}
OLD_POLISH = "polish_tol", "polish_max_iter"
TWO_LANES = BOWL, Objective("joint"), Q, 2

RENAMED = {
    "Anchors.level": Renamed(
        lambda **o: ANCHORS.level(**o), {"polish_tolerance": 0.1}, ("polish_tol",)
    ),
    "Anchors.warnings": Renamed(
        lambda **o: [str(text) for text in ANCHORS.warnings(**o)],
        {"polish_tolerance": 0.1},
        ("polish_tol",),
    ),
    "BoundedTracker.__init__": Renamed(
        tracked, {"linearisation": "ukf"}, ("linearization",)
    ),
    "DIMS.__init__": Renamed(lambda **o: DIMS(BOWL, **o).options, POLISH, OLD_POLISH),
    "DIMSOptions": Renamed(DIMSOptions, POLISH, OLD_POLISH),
    "Runs.__init__": Renamed(
        lambda **o: (
            Runs(
                [Level(0.1, axes=2)], RangeBearing(), torch.eye(2), **o
            ).plan.sigma_points
        ),
        {"linearisation": "ukf"},
        ("linearization",),
    ),
    "check_ledger": Renamed(
        lambda **o: check_ledger(
            cast(Any, SimpleNamespace(energy_error=Y, finished=Y > 0)), **o
        ),
        {"tolerance": 10.0},
        ("tol",),
    ),
    "conjugate_gradients": Renamed(
        lambda **o: conjugate_gradients(lambda v: Q[:1].abs() * v, Q, **o),
        {"tolerance": 1e-3, "max_steps": 1},
        OLD,
    ),
    "delete_sites": Renamed(site_deletion, {"learning_rate": 0.1}, ("lr",)),
    "finetune": Renamed(fine_tuned, {"learning_rate": 0.1}, ("lr",)),
    "is_sloping": Renamed(
        lambda **o: is_sloping(*TWO_LANES[:3], Q, 2, **o), {"tolerance": 0.5}, ("tol",)
    ),
    "lbfgs": Renamed(lambda **o: lbfgs(well, Q, 50, **o), {"tolerance": 0.1}, ("tol",)),
    "leave_saddles": Renamed(
        lambda **o: leave_saddles(well, curvature, STATE, NOISE, **LINES, **o),
        BOTH,
        OLD,
    ),
    "leave_saddles_lanes": Renamed(
        lambda **o: leave_saddles_lanes(*TWO_LANES[:2], STATE, NOISE, 2, **LINES, **o),
        BOTH,
        OLD,
    ),
    "llc": Renamed(
        lambda **o: (
            llc(
                BOWL,
                torch.ones(2),
                n=9,
                num_chains=4,
                warmup_steps=20,
                num_samples=20,
                seed=0,
                **o,
            ).value
        ),
        {"localisation": 30.0},
        ("localization",),
    ),
    "maybe_saddles": Renamed(
        lambda **o: maybe_saddles(STATE, **o), {"tolerance": 0.5}, ("tol",)
    ),
    "polish": Renamed(lambda **o: polish(well, curvature, Q, **o), BOTH, OLD),
    "polish_lanes": Renamed(lambda **o: polish_lanes(*TWO_LANES, **o), BOTH, OLD),
    "polish_minima": Renamed(
        lambda **o: polish_minima(lambda q: well(q)[0], Q, **o), BOTH, OLD
    ),
    "robust_init": Renamed(
        lambda **o: robust_init(model, Y, seed=1, **o).values,
        {"num_subsets": 7},
        ("n_subsets",),
    ),
    "sample_minima": Renamed(draws_of_minima, POLISH, OLD_POLISH),
}

FIT = {"seed": 3, "num_steps": 4, "learning_rate": 0.1}
SEED = {"seed": 3}
PLANNER = OfflinePlanner(
    Prior({"push": dist.Normal(0.0, 1.0)}),
    None,
    ExactValues(lambda theta, s: theta[:, None, :] * s[:, None]),
    num_draws=8,
)
FIGURES: dict[str, Any] = dict.fromkeys(Certificate.__dataclass_fields__, 0.5)
ENSEMBLE = Certificate(
    **FIGURES
    | {"log_rho": torch.zeros(8).log_softmax(0), "codebook": SimpleNamespace(q=Y)}
)
WEIGHTED = PosteriorDraws(
    BOWL, MemoryDraws(BOWL, torch.randn(1, 50, 2)), log_weights=torch.randn(1, 50)
)


def laplace(*late, **by_name):
    target = Target.from_model(model, Y)
    found = linearised_laplace(target, torch.zeros(1), target, 5, *late, **by_name)
    return found["y"].log_prob(Y)


def resumed(*late, **by_name):
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        PLANNER.run(store=store, progress_bar=False, seed=3)
        return PLANNER.resume(store, *late, progress_bar=False, **by_name).theta


POSITIONAL: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Certificate.sample": (lambda *a, **k: ENSEMBLE.sample(4, *a, **k), SEED),
    "Cruise.__init__": (
        lambda *a, **k: vars(Cruise(0.1, 40.0, 300.0, *a, **k)),
        {"axes": 3},
    ),
    "Leverage.khat": (
        lambda *a, **k: Leverage(0.4, SHARES, SHARES, 1).khat(400, *a, **k),
        SEED,
    ),
    "OfflinePlanner.resume": (resumed, SEED),
    "OfflinePlanner.run": (
        lambda *a, **k: PLANNER.run(*a, progress_bar=False, **k).theta,
        SEED,
    ),
    "OfflinePlanner.solve": (
        lambda *a, **k: PLANNER.solve(torch.ones(2, 1), *a, **k).theta,
        SEED,
    ),
    "Samples.resample": (lambda *a, **k: WEIGHTED.resample(20, *a, **k), SEED),
    "deep_ensemble": (lambda *a, **k: deep_ensemble(BOWL, 2, *a, **k), FIT),
    "fan_in_starts": (lambda *a, **k: fan_in_starts(BOWL, 2, *a, **k), SEED),
    "linearised_laplace": (laplace, {"seed": 3, "mixing": "draws"}),
    "map_estimate": (lambda *a, **k: map_estimate(BOWL, 2, *a, **k), FIT),
    "pool_of": (
        lambda *a, **k: pool_of(guide, *a, **k)().values,
        SEED,
    ),
    "sghmc": (lambda *a, **k: sghmc(BOWL, 2, 9, *a, step_size=0.1, **k), SEED),
}


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, tuple | list):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif hasattr(one, "equals"):  # a table
        assert one.equals(other)
    else:
        assert one == other


def warned(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, list]:
    """The result of a call, and its warnings of ours; any other is an error."""
    pyro.clear_param_store()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", PyroGeoDeprecationWarning)
        result = call(*args, **kwargs)
    return result, found


@pytest.mark.parametrize("name", RENAMED)
def test_an_old_name_gives_the_same_and_warns_once(name):
    call, new, old_names = RENAMED[name]
    expected, found = warned(call, **new)
    assert not found
    old = dict(zip(old_names, new.values(), strict=True))
    result, found = warned(call, **old)
    assert_same(result, expected)
    (one,) = found
    assert one.filename == __file__
    assert f"found {', '.join(old_names)}, expected {', '.join(new)}" in str(
        one.message
    )
    assert "0.3" in str(one.message)
    with pytest.raises(ConfigurationError, match="in the old way and in the new one"):
        call(**old, **new)


@pytest.mark.parametrize("name", POSITIONAL)
def test_by_position_gives_the_same_and_warns_once(name):
    call, by_name = POSITIONAL[name]
    expected, found = warned(call, **by_name)
    assert not found
    result, found = warned(call, *by_name.values())
    assert_same(result, expected)
    (one,) = found
    assert one.filename == __file__
    assert f"expected {', '.join(f'{word}=' for word in by_name)}. " in str(one.message)
    with pytest.raises(ConfigurationError, match="in the old way and in the new one"):
        call(*by_name.values(), **by_name)
    with pytest.raises(TypeError, match="positional argument"):
        call(*by_name.values(), None)


def test_some_of_them_by_position_and_some_by_name():
    expected = map_estimate(BOWL, 2, seed=3, num_steps=4, learning_rate=0.1)
    old: Any = map_estimate
    result, (one,) = warned(old, BOWL, 2, 3, num_steps=4, learning_rate=0.1)
    assert torch.equal(result, expected)
    assert "expected seed=. " in str(one.message)


def test_other_warnings_still_name_the_line_of_the_call():
    pyro.clear_param_store()
    fitted = AutoLaplaceApproximation(model)
    fitted(Y[:3])  # not at the mode
    with pytest.warns(NonStationaryWarning) as found:
        delete_sites(model, fitted, Y[:3], forget=[2])
    assert found[0].filename == __file__


@pytest.mark.parametrize("old", OLD_POLISH)
def test_a_field_is_read_under_its_old_name(old):
    new = dict(zip(OLD_POLISH, POLISH, strict=True))[old]
    options = DIMSOptions(**cast(Any, POLISH))
    value, (one,) = warned(lambda: getattr(options, old))
    assert value == getattr(options, new)
    assert one.filename == __file__
    assert f"expected {new}" in str(one.message)


@pytest.mark.parametrize("name", ["RobustInit", "robust_init"])
def test_a_module_that_moved_is_imported_under_its_old_name(name):
    module = importlib.import_module("pyro_geo.infer.robust_init")
    value, (one,) = warned(lambda: getattr(module, name))
    assert value is getattr(pyro_geo.infer, name)
    assert "expected pyro_geo.infer. " in str(one.message)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = module.other
    assert pyro_geo.infer.robust_init is robust_init


def decorated() -> set[str]:
    """Every function, method and class of the package that takes an old call."""
    found = set()

    def look(node: ast.AST, owner: str) -> None:
        for one in ast.iter_child_nodes(node):
            if isinstance(one, ast.FunctionDef | ast.ClassDef):
                path = f"{owner}{one.name}"
                calls = [d for d in one.decorator_list if isinstance(d, ast.Call)]
                if {ast.unparse(d.func) for d in calls} & {"renamed", "positional"}:
                    found.add(path)
                look(one, f"{path}.")

    for file in ROOT.rglob("*.py"):
        text = file.read_text()
        if "_deprecated import" in text:
            look(ast.parse(text), "")
    return found


def test_every_old_call_is_tested_here():
    assert decorated() == {*RENAMED, *POSITIONAL} - {"sample_minima"}
