"""Every group of every kind of model goes to NetCDF, or to a store, and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import Tensor

from pyro_geo._compat.arviz import major_version
from pyro_geo.infer import MCMC, GibbsModel, GibbsPosterior
from pyro_geo.io.arviz import get_group, import_arviz, true_names
from pyro_geo.io.store import open_run
from pyro_geo.testing.contracts import Case
from pyro_geo.testing.hmc import FixedHMC
from tests import cases

ZERO = torch.zeros(())


def lkj():
    with pyro.plate("p", 2):
        pyro.sample("L", dist.LKJCholesky(3, 1.0))
    pyro.sample("R", dist.LKJ(3, 1.0))


def events():
    with pyro.plate("p", 2):
        pyro.sample("simplex", dist.Dirichlet(torch.ones(3)))
        pyro.sample("interval", dist.Beta(2.0, 2.0))
        pyro.sample("scale", dist.LogNormal(ZERO, 1.0))
    base: Any = dist.Normal(torch.zeros(3), 1.0)
    ranks = dist.TransformedDistribution(
        base.to_event(1), [dist.transforms.OrderedTransform()]
    )
    pyro.sample("ranks", ranks)


def empty():
    pyro.sample("x", dist.Normal(ZERO, 1.0))
    pyro.sample("none", dist.Normal(torch.zeros(0), 1.0).to_event(1))
    pyro.sample("nothing", dist.LogNormal(torch.zeros(3, 0), 1.0).to_event(2))


def kinds():
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.deterministic("positive", x > 0)
    pyro.deterministic("rounded", x.round().to(torch.int32))
    pyro.deterministic("half", x.to(torch.bfloat16))
    pyro.deterministic("double", x.double())
    pyro.deterministic("complex", torch.complex(x, -x).conj())


def mixture():
    y = torch.tensor([0.5, 1.0, 1.5])
    mean = pyro.sample("mean", dist.Normal(ZERO, 1.0))
    with pyro.plate("rows", 3):
        kind = pyro.sample("kind", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(mean + kind, 1.0), obs=y)


NAMES = [
    "a/b",
    "a.b",
    "draw",
    "draw_",
    "chain",
    "lp",
    "diverging",
    "zarr.json",
    "a\\b",
    "a_b",
    "CON",
    "con",
    ".hidden",
    ".",
    "..",
    "",
    "__x",
    "a\x00b",
    "\udc80",
    "x" * 300,
    "x" * 299 + "y",
    "\u00e9",
    "e\u0301",
    "plate_dim_0",
    "n\nn",
    " ",
    "end.",
    "log_weights",
    "particle",
    "c",
]


def names():
    for i, name in enumerate(NAMES):
        shape = torch.full((2,) if name in ("lp", "draw", "\udc80") else (), 100.0 * i)
        pyro.sample(name, dist.Normal(shape, 1.0).to_event(shape.dim()))
    with pyro.plate("log_likelihood", 2), pyro.plate("of/three", 3):
        pyro.sample("plate", dist.Normal(ZERO, 1.0))
    with pyro.plate("x_dim_0", 5):
        pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("rows/1", 2):
        pyro.sample("y/obs", dist.Normal(ZERO, 1.0), obs=torch.tensor([0.5, 1.0]))
    with pyro.plate("w_dim_0", 5):
        pyro.sample("v", dist.LogNormal(ZERO, 1.0))


class Kind(NamedTuple):
    """A model, its arguments, options of its run and of `to_arviz`."""

    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    run: dict[str, Any] = {}
    groups: dict[str, Any] = {}


ALL = {"prior": 7, "posterior_predictive": True}
QUICK = ("lkj", "empty")  # the others are slow
KINDS = {
    "lkj": Kind(lkj),
    "events": Kind(events, groups={"prior": 5}),
    "empty": Kind(empty),
    "kinds": Kind(kinds),
    "mixture": Kind(mixture),
    "names": Kind(names, groups=ALL),
    "thinned": Kind(lkj, run={"thin": 2}),
    "chosen": Kind(names, run={"keep": ["a/b", "lp", "zarr.json", "x"]}),
}


def groups_of(idata: Any) -> Iterator[tuple[str, xr.Dataset]]:
    found = list(idata.children) if major_version() >= 1 else list(idata.groups())
    for name in found:
        group = get_group(idata, name)
        assert group is not None
        yield name, group


def same(ours: Any, theirs: Any, facts: bool = True) -> None:
    """Values, axes, labels and attributes are equal in every group."""
    first, second = dict(groups_of(ours)), dict(groups_of(theirs))
    assert set(first) == set(second)
    for name, group in first.items():
        xr.testing.assert_equal(group, second[name])
        for site, array in group.variables.items():
            assert array.dims == second[name][site].dims
            assert array.dtype == second[name][site].dtype
        if facts:
            assert group.attrs == second[name].attrs


def to_file(idata: Any, path: Path) -> Any:
    idata.to_netcdf(str(path))
    back = import_arviz().from_netcdf(str(path))
    same(idata, back)
    return back


def check(ours: Any, folder: Path, store: Path) -> None:
    """Hold memory, NetCDF and the store against each other."""
    to_file(ours, folder / "memory.nc")
    opened = open_run(store)
    stored = dict(groups_of(opened))
    for name, group in groups_of(ours):
        if name in stored:
            xr.testing.assert_equal(group, stored[name])
            assert true_names(group.attrs) == true_names(stored[name].attrs)
    to_file(opened, folder / "store.nc")
    copy = folder / "copy.zarr"
    tree = xr.DataTree.from_dict(dict(groups_of(opened)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's, of consolidated metadata
        tree.to_zarr(copy)
    again = xr.open_datatree(copy, engine="zarr")
    for name, group in groups_of(opened):
        xr.testing.assert_identical(group, again.children[name].to_dataset())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Names that cannot be stored")
@pytest.mark.filterwarnings("ignore:.*likelihood.*:UserWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in KINDS
    ],
)
def test_every_group_comes_back(tmp_path, name):
    kind, store = KINDS[name], tmp_path / "run.zarr"
    settings = {"warmup_steps": 2, "num_chains": 2, "seed": 1, "progress_bar": False}
    kernel = FixedHMC(kind.model, step_size=0.01, num_steps=1)
    fit = MCMC(kernel, 6, store=store, compile=False, **settings, **kind.run)
    fit.run(*kind.args)
    chosen = kind.run.get("keep") is not None
    options = {"log_likelihood": False} if chosen else kind.groups
    idata = arviz_of(fit, chosen, options)
    check(idata, tmp_path, store)
    drawn = fit.get_samples(group_by_chain=True)
    assert len(fit.summary()) == sum(x[0, 0].numel() for x in drawn.values())
    posterior = get_group(idata, "posterior")
    assert posterior is not None
    true = true_names(posterior.attrs)
    for site, value in drawn.items():
        found = [n for n in posterior.data_vars if true.get(str(n), n) == site]
        assert len(found) == 1
        np.testing.assert_array_equal(posterior[found[0]].values, value)


def case_comes_back(case: Case, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    fit = case.run(store=store)
    check(fit.to_arviz(prior=7, posterior_predictive=True), tmp_path, store)


FAST = [
    pytest.param(
        case,
        id=case.name,
        marks=[] if case.name.startswith("fixed_hmc-effects") else pytest.mark.slow,
    )
    for case in cases.FAST
]


@pytest.mark.parametrize("case", FAST)
def test_every_group_of_a_case_comes_back(case, tmp_path):
    case_comes_back(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.SLOW, ids=lambda case: case.name)
def test_every_group_of_every_case_comes_back(case, tmp_path):
    case_comes_back(case, tmp_path)


def arviz_of(fit: MCMC, chosen: bool, options: dict[str, Any]) -> Any:
    """All groups; the store's own where the draws cannot be put together again."""
    if not chosen:
        return fit.to_arviz(**options)
    return open_run(str(fit.store))


def squared(prediction: Tensor, y: Tensor) -> Tensor:
    return (prediction - y) ** 2


def weighted(x: Tensor) -> Tensor:
    with pyro.plate("stage", 2):
        w = pyro.sample("log_weights", dist.Normal(torch.zeros(2), 1.0))
    scale = pyro.sample("a/b", dist.LogNormal(ZERO, 1.0))
    pyro.sample("particle", dist.LKJCholesky(2, 1.0))
    return x * w.sum() * scale


@pytest.mark.filterwarnings("ignore:Names that cannot be stored")
@pytest.mark.filterwarnings("ignore:.*:pyro_geo.errors.PyroGeoWarning")
@pytest.mark.slow
def test_stages_and_particles_come_back(tmp_path):
    store = tmp_path / "run.zarr"
    sampler = GibbsPosterior(
        GibbsModel(weighted, squared),
        betas=[0.1, 1.0],
        num_particles=16,
        seed=1,
        store=store,
        progress_bar=False,
    )
    found = sampler.run(torch.ones(3), torch.ones(3))
    idata = found.to_arviz(log_likelihood=False)
    check(idata, tmp_path, store)
    particles = get_group(open_run(store), "particles")
    assert particles is not None
    assert set(particles.data_vars) >= {"log_weights", "log_weights_", "a.b"}
    drawn = found.get_samples(resample=False)
    for name, true in (("log_weights_", "log_weights"), ("a.b", "a/b")):
        np.testing.assert_array_equal(particles[name].values[:, 0], drawn[true])
    # what resume takes over is the same again
    again = sampler.resume(torch.ones(3), torch.ones(3))
    same(idata, again.to_arviz(log_likelihood=False), facts=False)
