"""DiMS inside `pyro.infer.MCMC`, one chain at a time."""

import pickle
from typing import Any

import pyro
import pyro.infer
import pytest
import torch

from pyro_geo._compat.arviz import import_arviz
from pyro_geo.density import Target
from pyro_geo.errors import AnchorNotConvergedWarning
from pyro_geo.infer import DIMS
from tests.cases import numbers
from tests.infer.mcmc.dims.pyro_models import plane

X, Y = numbers(6).abs() + 0.5, numbers(6, seed=1)
BEST = (X @ Y) / (X @ X)
# shared, so that most tests trace nothing
TARGET = Target.from_model(plane, X, Y, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)  # put back by the fixture of all tests


def kernel(model: Any = TARGET, **options) -> Any:
    return DIMS(model, **({"alpha": 0.0, "anchor_steps": 300} | options))


def run(kernel, num_samples=20, **options):
    options = {"warmup_steps": 0, "disable_progbar": True} | options
    mcmc = pyro.infer.MCMC(kernel, num_samples=num_samples, **options)
    mcmc.run(X, Y)
    return mcmc


def check_draws(samples, count):
    assert samples["w"].shape == (count, 2)
    assert samples["scale"].shape == (count,)
    assert bool((samples["scale"] > 0).all())
    assert bool((samples["w"].sum(-1) - BEST).abs().max() < 0.1)
    assert float((samples["w"][:, 0] - samples["w"][:, 1]).std()) > 0.2


@pytest.fixture(scope="module")
def one_chain():
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    found = run(kernel(plane))
    torch.set_default_dtype(torch.float32)
    return found


def test_one_chain(one_chain):
    check_draws(one_chain.get_samples(), 20)
    assert one_chain.diagnostics()["divergences"] == {"chain 0": []}
    assert one_chain.diagnostics()["converged"]["chain 0"] == 1.0


@pytest.mark.slow
def test_arviz_converts_it(one_chain):
    az = import_arviz()
    if int(az.__version__.split(".")[0]) >= 1:
        pytest.skip("ArviZ 1.x has no converter for Pyro")
    idata = az.from_pyro(one_chain)
    assert idata["posterior"]["w"].shape == (1, 20, 2)
    assert not bool(idata["sample_stats"]["diverging"].any())


def test_predictive_uses_the_draws(one_chain):
    found = pyro.infer.Predictive(plane, one_chain.get_samples())(X, None)
    assert found["y"].shape == (20, 6)


@pytest.mark.slow
def test_randomness_comes_from_the_global_generator():
    runs = []
    for seed in (1, 1, 2):
        pyro.set_rng_seed(seed)
        runs.append(run(kernel(), 5).get_samples()["w"])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.slow
def test_two_chains_one_after_the_other(monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 1)
    with pytest.warns(UserWarning, match="sequentially"):  # Pyro counts the cores
        mcmc = run(kernel(), 10, num_chains=2)
    samples = mcmc.get_samples(group_by_chain=True)
    assert samples["w"].shape == (2, 10, 2)
    check_draws(mcmc.get_samples(), 20)
    assert not torch.equal(samples["w"][0], samples["w"][1])
    assert set(mcmc.diagnostics()["divergences"]) == {"chain 0", "chain 1"}


@pytest.mark.slow
def test_two_chains_in_processes(monkeypatch):
    # Pyro uses processes only where chains are fewer than cores
    monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: 8)
    mcmc = run(kernel(plane), 6, num_chains=2, mp_context="spawn")
    samples = mcmc.get_samples(group_by_chain=True)
    assert samples["w"].shape == (2, 6, 2)
    check_draws(mcmc.get_samples(), 12)
    assert set(mcmc.diagnostics()["divergences"]) == {"chain 0", "chain 1"}


def test_warm_up_returns_the_parameters_unchanged():
    dims = kernel()
    dims.setup(3, X, Y)
    params = dims.initial_params
    for _ in range(3):
        assert dims.sample(params) is params
    assert dims.diagnostics() == {"divergences": []}
    assert dims.logging() == {}
    first = dims.sample(params)
    assert set(first) == {"w", "scale"}
    assert set(dims.logging()) == {"loss"}
    assert not torch.equal(first["w"], params["w"])


@pytest.mark.slow
def test_draws_are_served_from_blocks(monkeypatch):
    monkeypatch.setattr(DIMS, "draws_ahead", 4)
    dims = kernel()
    dims.setup(0, X, Y)
    params = dims.initial_params
    draws = torch.stack([dims.sample(params)["w"] for _ in range(10)])
    assert len(dims._chain.blocks) == 3
    assert len(draws.unique(dim=0)) == 10
    stored = torch.cat([block.q[0] for block in dims._chain.blocks])[:10]
    assert torch.equal(draws, stored[:, TARGET.layout.sites["w"].slice])


def test_starts_are_taken_before_setup():
    start = {"w": torch.tensor([2.0, -1.0]), "scale": torch.tensor(0.7)}
    dims = kernel(anchor_steps=0, polish_max_steps=0)
    dims.initial_params = start
    dims.setup(0, X, Y)
    known = dims.initial_params
    assert known is not None
    assert {name: x.tolist() for name, x in known.items()} == {
        name: x.tolist() for name, x in start.items()
    }
    dims.sample(start)
    anchors = dims._chain.state.anchors.q[0]
    assert torch.equal(anchors, TARGET.layout.flatten(start))
    with pytest.warns(AnchorNotConvergedWarning):
        dims.diagnostics()


def test_it_may_be_cleaned_up_twice_and_used_again():
    dims = kernel()
    dims.setup(0, X, Y)
    dims.sample(dims.initial_params)
    dims.cleanup()
    dims.cleanup()
    assert dims.transforms is not None
    assert dims.initial_params is None
    assert dims.diagnostics() == {"divergences": []}
    check_draws(run(dims).get_samples(), 20)


@pytest.mark.slow
def test_it_pickles_in_the_middle_of_a_run():
    dims = kernel()
    dims.setup(0, X, Y)
    dims.sample(dims.initial_params)
    copy = pickle.loads(pickle.dumps(dims))
    assert copy._chain is None
    assert copy.transforms is None
    assert set(copy.initial_params) == {"w", "scale"}
    assert len(dims._chain.blocks) == 1
    check_draws(run(copy).get_samples(), 20)


def test_transforms_take_draws_back():
    dims = kernel()
    dims.setup(0, X, Y)
    z = dims.sample(dims.initial_params)
    scale = dims.transforms["scale"].inv(z["scale"])
    assert float(scale.log()) == pytest.approx(float(z["scale"]))
