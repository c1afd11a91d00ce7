"""Selective projection of a finished fit: what its docstring says holds exactly."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError, LayoutMismatchError, ShapeError
from pyro_geo.results import MemoryDraws, PosteriorDraws
from pyro_geo.summaries import prior_moments, selective_projection

SD = 2.0


def model(a, b):
    first = pyro.sample("first", dist.Normal(torch.zeros(3), SD).to_event(1))
    second = pyro.sample("second", dist.Normal(torch.zeros(2), SD).to_event(1))
    pyro.sample("a", dist.Normal(first, 1.0).to_event(1), obs=a)
    pyro.sample("b", dist.Normal(second, 1.0).to_event(1), obs=b)


def target_at(a, b):
    with pyro.validation_enabled(False):
        data = torch.full((3,), a), torch.full((2,), b)
        return Target.from_model(model, *data, dtype=torch.float64, compile=False)


PRIOR = prior_moments(model, torch.zeros(3), torch.zeros(2))
# the data ask for less of the first site and for more of the second one
TARGET = target_at(0.0, 9.0)
DRAWS = torch.tensor([[5.0, 4.0, 6.0, 5.0, 5.0], [7.0, 6.0, 6.0, 5.0, 7.0]]).double()


def radius(q, site):
    return float((q.mean(0)[TARGET.layout.sites[site].slice] / SD).norm())


def test_a_site_that_disagrees_returns_to_the_trusted_radius():
    found = selective_projection(DRAWS, TARGET, PRIOR)
    moved = found.move(DRAWS)
    assert radius(moved, "first") == pytest.approx(3**0.5, abs=1e-12)
    second = TARGET.layout.sites["second"].slice
    assert torch.equal(moved[:, second], DRAWS[:, second])
    first = TARGET.layout.sites["first"].slice
    before, after = DRAWS.mean(0)[first], moved.mean(0)[first]
    torch.testing.assert_close(after / after.norm(), before / before.norm())
    torch.testing.assert_close(moved.var(0), DRAWS.var(0))
    assert found.decisions.share.sel(site="second").item() == 0


@given(st.floats(0.0, 8.0), st.floats(0.0, 4.0), st.integers(0, 2**31))
def test_neither_the_radius_nor_the_loss_rises(strength, trust, seed):
    generator = torch.Generator().manual_seed(seed)
    q = 4 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    found = selective_projection(q, TARGET, PRIOR, spd=strength, trust=trust)
    moved = found.move(q)
    for site in ("first", "second"):
        assert radius(moved, site) <= radius(q, site) + 1e-12
    before, after = (-TARGET.log_likelihood(x).mean() for x in (q, moved))
    assert after <= before + 1e-9
    assert found.decisions.attrs["loss_after"] == pytest.approx(float(after))


def test_without_strength_nothing_moves():
    found = selective_projection(DRAWS, TARGET, PRIOR, spd=0.0)
    assert torch.equal(found.move(DRAWS), DRAWS)


def test_a_mode_on_its_own_data_stays():
    own = target_at(3.0, -2.0)
    shrunk = SD**2 / (SD**2 + 1)  # conjugate: the mode lies between prior and data
    mode = torch.tensor([[3.0, 3.0, 3.0, -2.0, -2.0]]).double() * shrunk
    found = selective_projection(mode, own, PRIOR, trust=0.0)
    assert torch.equal(found.move(mode), mode)
    assert (found.decisions.dot < 0).all()


def test_an_earlier_fit_says_how_far_a_site_may_be():
    start = {"first": torch.tensor([2.0, 0.0, 0.0]), "second": torch.zeros(2)}
    found = selective_projection(DRAWS, TARGET, PRIOR, start=start)
    assert radius(found.move(DRAWS), "first") == pytest.approx(1.0)
    with pytest.raises(ConfigurationError, match="trust"):
        selective_projection(DRAWS, TARGET, PRIOR, start=start, trust=1.0)


def test_plain_values_anchor_without_a_metric():
    zeros = {"first": torch.zeros(3), "second": torch.zeros(2)}
    found = selective_projection(DRAWS, TARGET, zeros)
    assert radius(found.move(DRAWS), "first") == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, AutoMultivariateNormal])
def test_a_guide_is_moved_in_place(kind, double_precision):
    a, b = torch.full((3,), 5.0), torch.full((2,), 5.0)
    values = {"first": a, "second": b}
    guide = kind(model, init_loc_fn=lambda site: values[site["name"]])
    guide(a, b)
    found = selective_projection(guide, TARGET, PRIOR)
    before = {name: p.detach().clone() for name, p in guide.named_parameters()}
    found.move_guide(guide)
    median = guide.median()
    assert float((median["first"] / SD).norm()) == pytest.approx(3**0.5)
    torch.testing.assert_close(median["second"], b)
    for name, p in guide.named_parameters():
        assert ("scale" in name) <= torch.equal(p, before[name])


def test_a_result_keeps_its_weights():
    q = DRAWS.expand(3, 2, 5).clone()
    weights = torch.tensor([[0.0, -1.0]]).expand(3, 2).double()
    fit = PosteriorDraws(TARGET, MemoryDraws(TARGET, q), log_weights=weights)
    found = selective_projection(fit, TARGET, PRIOR, num_draws=200)
    moved = found.move_draws(fit)
    assert torch.equal(moved.positions, found.move(q))
    torch.testing.assert_close(moved.log_weights, fit.log_weights)


def test_what_is_refused():
    with pytest.raises(ShapeError):
        selective_projection(DRAWS[:, :3], TARGET, PRIOR)
    with pytest.raises(LayoutMismatchError, match="second"):
        selective_projection(DRAWS, TARGET, {"first": torch.zeros(3)})
    with pytest.raises(ConfigurationError, match="spd"):
        selective_projection(DRAWS, TARGET, PRIOR, spd=-1.0)
