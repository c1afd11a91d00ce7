"""Options of the optimisers, and what they return."""

import pickle

import pytest
import torch
from torch import Tensor

from pyro_geo.citations import citation
from pyro_geo.errors import ConfigurationError, EliteCollapseWarning, ElitesError
from pyro_geo.optim.cem import CEM, CEMGMM, DecentCEM


def bowl(x: Tensor) -> Tensor:
    return (x - 1).square().sum(-1)


BOX = {"lower": torch.full((2,), -4.0), "upper": 4.0}


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"pop_size": 0}, ConfigurationError, "pop_size"),
        ({"elite_frac": 0.0}, ElitesError, "elite_frac"),
        ({"elite_frac": 1.1}, ElitesError, "elite_frac"),
        ({"alpha": 1.0}, ConfigurationError, "alpha"),
        ({"min_var": -1.0}, ConfigurationError, "min_var"),
        ({"max_iters": 0}, ConfigurationError, "max_iters"),
        ({"trunc": 0.0}, ConfigurationError, "trunc"),
        ({"score": "median"}, ConfigurationError, "score"),
        ({"polish": 0}, ConfigurationError, "polish"),
        ({"polish": 5, "score": "elite_mean"}, ConfigurationError, "polish"),
        ({"population": 5}, ConfigurationError, "no option 'population'"),
    ],
)
def test_options_out_of_range_are_named(options, error, name):
    with pytest.raises(error, match=name):
        CEM(**options)


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"num_instances": 0}, ConfigurationError, "num_instances"),
        ({"layout": "even"}, ConfigurationError, "layout"),
        ({"init": "white"}, ConfigurationError, "init"),
        ({"init": "coloured"}, ConfigurationError, "horizon"),
        ({"horizon": 3}, ConfigurationError, "horizon"),
        ({"pop_size": 5, "layout": "uniform"}, ElitesError, "pop_size"),
        ({"pop_size": 15}, ElitesError, "pop_size"),
    ],
)
def test_options_of_many_searches_are_named(options, error, name):
    with pytest.raises(error, match=name):
        DecentCEM(**options)


def test_a_horizon_divides_the_dimensions():
    search = DecentCEM(4, init="coloured", horizon=3)
    with pytest.raises(ConfigurationError, match="horizon"):
        search.minimize(bowl, **BOX)


def test_given_starts_have_a_shape():
    with pytest.raises(ConfigurationError, match="init"):
        DecentCEM(4, init=torch.zeros(3, 2)).minimize(bowl, **BOX)
    means = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    search = DecentCEM(3, init=means, pop_size=90, layout="uniform")
    assert torch.equal(search.start(**BOX).result().means, means)


def test_a_mixture_has_no_centres_to_score():
    with pytest.raises(ConfigurationError, match="score"):
        CEMGMM(3, score="mean")
    with pytest.raises(ConfigurationError, match="kappa"):
        CEMGMM(3, kappa=-1.0)


def test_normal_draws_need_an_open_space():
    with pytest.raises(ConfigurationError, match="trunc"):
        CEM(trunc=float("inf")).minimize(bowl, **BOX)


def test_one_elite_warns_at_construction():
    with pytest.warns(EliteCollapseWarning, match=r"populations of \[10\]") as caught:
        DecentCEM(10, layout="uniform", pop_size=100)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("search", [CEM(), DecentCEM(5), CEMGMM(3)])
def test_results_pickle_convert_and_are_cited(search):
    found = search.minimize(bowl, **BOX, batch_shape=(2, 3))
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.x, found.x)
    assert "evaluations" in repr(found)
    assert pickle.loads(pickle.dumps(search)).shares == search.shares
    tree = found.to_arviz()
    history = tree["optimization"]["best_fun"]
    assert history.dims == ("iteration", "problem_0", "problem_1", "instance")
    assert history.shape == tuple(found.history.shape)
    assert "zhang2022decentcem" in citation(found)
    assert ("okada2019vimpc" in citation(search)) == isinstance(search, CEMGMM)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_follow_the_bounds(dtype):
    box = {"lower": torch.full((2,), -4.0, dtype=dtype), "upper": 4}
    for search in (CEM(), DecentCEM(5), CEMGMM(3)):
        found = search.minimize(bowl, **box)
        assert found.x.dtype == found.fun.dtype == found.history.dtype == dtype
        assert float(found.fun) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_in_the_box(dtype):
    lower = torch.tensor([-4.0, 0.5], dtype=dtype)

    def inside(x: Tensor) -> Tensor:
        assert x.dtype == dtype
        assert bool(((x >= lower) & (x <= 4)).all())
        return bowl(x)

    found = CEM(min_var=1e-2).minimize(inside, lower=lower, upper=4)
    assert float(found.fun) < 0.1
