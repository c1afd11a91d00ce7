"""The deviation report against closed forms, on guides, modules, draws and priors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoMultivariateNormal,
    AutoNormal,
)

from pyro_geo import citation
from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError, LayoutMismatchError, UnsupportedError
from pyro_geo.optim import SPD, spd
from pyro_geo.optim.decay import anchors_from_prior
from pyro_geo.results import MemoryDraws, PosteriorDraws
from pyro_geo.summaries import (
    GaussianPosterior,
    Projection,
    deviation_page,
    deviation_report,
    prior_moments,
)

F64 = torch.float64
MEAN, SD = torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([2.0, 0.5], dtype=F64)

pytestmark = pytest.mark.usefixtures("double_precision")


def model(y=None):
    w = pyro.sample("w", dist.Normal(MEAN, SD).to_event(1))
    s = pyro.sample("s", dist.LogNormal(torch.tensor(0.3), 0.7))
    pyro.sample("y", dist.Normal(w.sum(), s), obs=y)


def place(guide, loc, scale):
    """Put an AutoNormal where it is wanted."""
    guide(torch.tensor(1.0))
    for name, value in loc.items():
        getattr(guide.locs, name).data.copy_(value)
        unconstrained = getattr(guide.scales, f"{name}_unconstrained")
        unconstrained.data.copy_(scale[name].expm1().log())  # inverse of softplus
    return guide


def test_the_prior_itself_has_no_deviation():
    loc = {"w": MEAN, "s": torch.tensor(0.3)}
    guide = place(AutoNormal(model), loc, {"w": SD, "s": torch.tensor(0.7)})
    report = deviation_report(guide, prior=prior_moments(model))
    assert report.normal.all()
    for name in ("l2", "prior_sd", "kl"):
        assert report[name].values == pytest.approx([0.0, 0.0], abs=1e-12)
    assert report["shrink"].values == pytest.approx([1.0, 1.0], abs=1e-12)
    assert report.attrs["kl_joint"] == pytest.approx(0.0, abs=1e-12)


def test_a_report_cites_the_decay():
    report = deviation_report({"w": MEAN}, {"w": MEAN + 1})
    assert "2411.01713" in citation(report)
    assert "2411.01713" in citation(Projection)


def test_numbers_of_a_moved_guide():
    moved = {"w": MEAN + torch.tensor([2.0, -1.0]), "s": torch.tensor(1.0)}
    narrow = {"w": 0.5 * SD, "s": torch.tensor(0.7)}
    guide = place(AutoNormal(model), moved, narrow)
    report = deviation_report(guide, prior=prior_moments(model)).sel(site="w")
    assert report.l2.item() == pytest.approx(5**0.5)
    assert report.relative.item() == pytest.approx((5 / 1.25) ** 0.5)
    # one standard deviation and two
    assert report.prior_sd.item() == pytest.approx((5 / 2) ** 0.5)
    assert report.shrink.item() == pytest.approx(0.5)
    normal = torch.distributions.Normal
    pairs = normal(moved["w"], narrow["w"]), normal(MEAN, SD)
    expected = torch.distributions.kl_divergence(*pairs).sum()
    assert report.kl.item() == pytest.approx(float(expected), abs=1e-12)


def test_a_joint_guide_knows_what_its_sites_share():
    guide = AutoMultivariateNormal(model)
    guide(torch.tensor(1.0))
    with torch.no_grad():
        lower = torch.tensor([[1.0, 0, 0], [0.6, 1.0, 0], [-0.4, 0.3, 1.0]])
        setattr(guide, "scale_tril", lower)  # noqa: B010  a PyroParam
    posterior = guide.get_posterior()
    report = deviation_report(guide, prior=prior_moments(model))
    prior = torch.distributions.MultivariateNormal(
        torch.cat([MEAN, torch.tensor([0.3])]),
        torch.cat([SD, torch.tensor([0.7])]).square().diag(),
    )
    with torch.no_grad():
        exact = float(torch.distributions.kl_divergence(posterior, prior))
    assert report.attrs["kl_joint"] == pytest.approx(exact, abs=1e-9)
    assert report.kl.sum().item() < exact


def test_an_earlier_fit_may_be_the_prior():
    earlier = AutoDiagonalNormal(model, init_scale=0.3)
    later = AutoNormal(model, init_scale=0.3)
    for guide in (earlier, later):
        guide(torch.tensor(1.0))
    with torch.no_grad():
        for name, site in (("w", slice(0, 2)), ("s", 2)):
            getattr(later.locs, name).copy_(earlier.loc[site] + 0.6)
    report = deviation_report(later, prior=earlier)
    assert report.prior_sd.values == pytest.approx([2.0, 2.0])
    assert report.kl.values == pytest.approx([4.0, 2.0])


def test_points_and_parts():
    guide = AutoGuideList(model)
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["w"])))
    guide.append(AutoDelta(pyro.poutine.block(model, expose=["s"])))
    guide(torch.tensor(1.0))
    report = deviation_report(guide, prior=prior_moments(model))
    assert report.site.values.tolist() == ["w", "s"]
    assert report.kl.isnull().values.tolist() == [False, True]
    assert math.isnan(report.attrs["kl_joint"])


def test_draws_are_matched_by_their_moments():
    target = Target.from_model(model, torch.tensor(1.0), compile=False)
    q = torch.randn(4, 500, 3) * 0.5 + 1.0
    names = list(target.layout.sites)
    weights = torch.randn(4, 500)
    fit = PosteriorDraws(target, MemoryDraws(target, q), log_weights=weights)
    report = deviation_report(fit, prior=prior_moments(model))
    w = torch.softmax(weights.flatten(), 0)
    rows = q.reshape(-1, 3)[:, target.layout.sites["w"].slice]
    mean = w @ rows
    found = report.sel(site="w")
    assert names == report.site.values.tolist()
    assert found.l2.item() == pytest.approx(float((mean - MEAN).norm()))
    spread = (w @ (rows - mean) ** 2).sqrt() / SD
    assert found["shrink"].item() == pytest.approx(float(spread.mean()))
    assert not report.normal.any()


def test_a_normal_posterior_is_measured_like_its_guide():
    guide = AutoMultivariateNormal(model, init_scale=0.4)
    guide(torch.tensor(1.0))
    with torch.no_grad():
        lower = torch.tensor([[1.0, 0, 0], [0.5, 1.0, 0], [0.0, 0.3, 1.0]])
        setattr(guide, "scale_tril", lower)  # noqa: B010  a PyroParam
    prior = prior_moments(model)
    report = deviation_report(guide, prior=prior)
    posterior = GaussianPosterior.from_guide(guide)
    other = deviation_report(posterior, prior=prior).sel(site=report.site)
    for name in ("l2", "prior_sd", "kl", "shrink"):
        assert other[name].values == pytest.approx(report[name].values, rel=1e-12)
    joint = report.attrs["kl_joint"]
    assert other.attrs["kl_joint"] == pytest.approx(joint, rel=1e-12)


def test_a_module_is_measured_from_its_pretrained_self():
    net, pretrained = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    optimizer = SPD(net.named_parameters(), anchor=pretrained, lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.ones(1, 2)).square().sum().backward()
        optimizer.step()
    report = deviation_report(net, optimizer=optimizer)
    again = deviation_report(net, pretrained, optimizer=optimizer)
    assert report.equals(again)
    assert report.site.values.tolist() == ["weight", "bias"]
    gap = (net.weight - pretrained.weight).norm()
    assert report.l2.values[0] == pytest.approx(float(gap.detach()))
    assert report.prior_sd.isnull().all()
    assert (report.path_length.values > 0).all()


def test_statistics_of_svi_stand_beside_their_sites():
    guide = AutoNormal(model)
    y = torch.tensor(4.0)
    anchors = anchors_from_prior(model, guide, y)
    optimizer = spd({"lr": 0.1}, anchors=anchors)
    svi = SVI(model, guide, optimizer, Trace_ELBO())
    for _ in range(20):
        svi.step(y)
    report = deviation_report(guide, prior=prior_moments(model, y), optimizer=optimizer)
    assert report.decay_rate.notnull().all()
    assert (report.conflict_rate >= report.decay_rate).all()
    starts = deviation_report(guide, optimizer=optimizer)
    assert starts.l2.equals(report.l2)


def test_what_cannot_be_reported():
    guide = AutoNormal(model)
    guide(torch.tensor(1.0))
    with pytest.raises(ConfigurationError, match="nothing to measure"):
        deviation_report(guide)
    with pytest.raises(LayoutMismatchError, match="'s'"):
        deviation_report(guide, {"w": torch.zeros(2)})
    with pytest.raises(LayoutMismatchError, match="'w'"):
        deviation_report(guide, {"w": torch.zeros(3), "s": torch.zeros(())})
    with pytest.raises(UnsupportedError, match="int"):
        deviation_report(3)


def test_a_page_holds_the_table_and_the_bars(tmp_path):
    report = deviation_report(
        {"first": torch.ones(2), "second": torch.tensor([3.0])},
        {"first": torch.zeros(2), "second": torch.tensor([1.0])},
    )
    page = deviation_page(report, tmp_path / "page.html", facts={"seed": "1"})
    text = page.read_text()
    assert text.count("<img") == 1
    assert "distance in unconstrained space: first 1.414; second 2." in text
    assert ">l2<" in text
    assert ">kl<" not in text  # it has no number
    assert "no draws" not in text
