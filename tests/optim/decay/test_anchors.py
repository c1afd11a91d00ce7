"""Anchors by name, of a pretrained network, of a prior and of a guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.optim import PyroOptim

from pyro_geo.errors import (
    AnchorAliasError,
    AnchorMismatchError,
    ConfigurationError,
    UnsupportedError,
)
from pyro_geo.optim import SPD, spd
from pyro_geo.optim.decay import (
    anchors_from_guide,
    anchors_from_prior,
    parameter_groups,
)
from pyro_geo.optim.decay.sites import prior_moments

X = torch.linspace(-1, 1, 12)[:, None] ** torch.arange(3)


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(3, 4)
        self.head = torch.nn.Linear(4, 2)


def network():
    return Network()


def is_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def model(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.tensor([0.0, 1.0, 2.0]), 3.0).to_event(1))
    s = pyro.sample("s", dist.LogNormal(torch.tensor(-1.0), 0.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, s), obs=y)


Y = X @ torch.tensor([0.5, -1.0, 0.3])


# -- networks -------------------------------------------------------------------------


def test_a_pretrained_module_anchors_by_name():
    net, pretrained = network(), network()
    one = SPD(net.named_parameters(), anchor=pretrained)
    other = SPD(net.named_parameters(), anchor=pretrained.state_dict())
    for name, param in pretrained.named_parameters():
        is_close(one.anchors()[name], param.detach())
        is_close(other.anchors()[name], param.detach())


@pytest.mark.parametrize("missing", ["free", "init"])
def test_a_new_head_is_free_or_anchored_where_it_is(missing):
    net = network()
    body = {n: torch.zeros_like(p) for n, p in net.named_parameters() if "body" in n}
    optimizer = SPD(net.named_parameters(), anchor=body, missing=missing)
    found = optimizer.anchors()
    assert ("head.weight" in found) == (missing == "init")
    if missing == "init":
        is_close(found["head.weight"], net.head.weight.detach())
    with pytest.raises(AnchorMismatchError, match=r"head\.weight"):
        SPD(net.named_parameters(), anchor=body)


def test_a_free_head_moves_as_with_the_base():
    nets = [network() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    groups = parameter_groups(nets[0], {"head.*": {"anchor": "free", "lr": 0.1}})
    optimizers = [
        SPD(groups, torch.optim.SGD, lr=0.5, momentum=0.9),
        torch.optim.SGD(
            [
                {"params": nets[1].head.parameters(), "lr": 0.1},
                {"params": nets[1].body.parameters()},
            ],
            lr=0.5,
            momentum=0.9,
        ),
    ]
    for _ in range(10):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            # the head's gradients do not depend on the body
            (net.head.weight.square().sum() + net.body(X).square().sum()).backward()
            optimizer.step()
    assert torch.equal(nets[0].head.weight, nets[1].head.weight)
    assert not torch.equal(nets[0].body.weight, nets[1].body.weight)


def test_groups_by_name():
    net = network()
    net.body.bias.requires_grad_(False)
    groups = parameter_groups(net, {"*.bias": {"lr": 1.0}, "head.*": {"lr": 2.0}})
    names = [[name for name, _ in group["params"]] for group in groups]
    assert names == [["head.bias"], ["head.weight"], ["body.weight"]]
    with pytest.raises(ConfigurationError, match="matches no parameter"):
        parameter_groups(net, {"tail.*": {}})


def test_anchors_that_do_not_fit():
    net = network()
    params = list(net.parameters())
    with pytest.raises(AnchorMismatchError, match="number of anchors"):
        SPD(params, anchor=[torch.zeros(4, 3)])
    with pytest.raises(AnchorMismatchError, match="number 0"):
        SPD(params[:1], anchor=[torch.zeros(3, 4)])
    with pytest.raises(AnchorMismatchError, match="not finite"):
        SPD(params[1:2], anchor=[torch.full((4,), torch.nan)])
    with pytest.raises(AnchorMismatchError, match="named_parameters"):
        SPD(params, anchor=network())
    with pytest.raises(AnchorMismatchError, match="names"):
        SPD(net.named_parameters(), anchor={"a": torch.zeros(1)}, missing="free")
    optimizer = SPD(params[:1])
    with pytest.raises(AnchorMismatchError):
        optimizer.add_param_group({"params": params[1:], "anchor": []})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("share", [lambda p: p, lambda p: p.data, lambda p: p.view(-1)])
def test_an_anchor_in_the_memory_of_its_parameter_is_refused(share):
    param = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(AnchorAliasError, match="same storage"):
        SPD([param], anchor=[share(param)])
    net = network()
    with pytest.raises(AnchorAliasError):
        SPD(net.named_parameters(), anchor=net)


# -- priors and guides ----------------------------------------------------------------

FLAT = [AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal]


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, *FLAT])
def test_prior_means_stand_where_the_guide_has_its_locations(kind):
    guide = kind(model)
    anchors = anchors_from_prior(model, guide, X, Y)
    flat = torch.cat([value.reshape(-1) for value in anchors.values()])
    torch.testing.assert_close(flat, torch.tensor([0.0, 1.0, 2.0, -1.0]))
    assert set(anchors) <= set(pyro.get_param_store().keys())
    start = anchors_from_guide(guide)
    assert start.keys() == anchors.keys()
    assert all(start[name].shape == anchors[name].shape for name in start)


def test_guides_of_several_parts():
    guide = AutoGuideList(model)
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["w"])))
    guide.append(AutoDelta(pyro.poutine.block(model, expose=["s"])))
    anchors = anchors_from_prior(model, guide, X, Y)
    assert list(anchors) == ["AutoGuideList.0.locs.w", "AutoGuideList.1.s"]
    assert anchors["AutoGuideList.1.s"].item() == -1.0


def test_a_guide_whose_locations_are_not_known():
    with pytest.raises(UnsupportedError, match="AutoIAFNormal"):
        anchors_from_prior(model, AutoIAFNormal(model), X, Y)


def test_a_model_that_is_not_the_guide_s():
    def other():
        pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))

    with pytest.raises(AnchorMismatchError, match="sites"):
        anchors_from_prior(lambda *_: other(), AutoNormal(model), X, Y)


def test_priors_that_depend_on_each_other_are_averaged():
    def nested():
        mean = pyro.sample("mean", dist.Normal(torch.tensor(2.0), 1.0))
        pyro.sample("value", dist.Normal(mean, 2.0))
        pyro.sample("share", dist.Beta(torch.tensor(1.0), 1.0))
        pyro.sample("kind", dist.Bernoulli(torch.tensor(0.5)))

    state = torch.get_rng_state()
    found = prior_moments(nested, num_draws=2000)
    assert torch.equal(state, torch.get_rng_state())
    assert [found[name].normal for name in found] == [True, False, False]
    error = 4 * 5**0.5 / 2000**0.5  # a false alarm in sixteen thousand
    assert abs(float(found["value"].mean) - 2) < error
    # a uniform share is logistic in unconstrained space, of variance pi^2 / 3
    assert float(found["share"].sd) == pytest.approx(torch.pi / 3**0.5, rel=0.1)


def fit(optimizer, guide, num_steps=30):
    svi = SVI(model, guide, optimizer, Trace_ELBO())
    pyro.set_rng_seed(3)
    for _ in range(num_steps):
        svi.step(X, Y)
    return {n: p.detach().clone() for n, p in guide.named_parameters()}


def test_without_strength_svi_goes_as_with_adam():
    runs = []
    for free in (True, False):
        pyro.clear_param_store()
        guide = AutoNormal(model)
        anchors = anchors_from_prior(model, guide, X, Y)
        adam = PyroOptim(torch.optim.Adam, {"lr": 0.05, "fused": True})
        ours = spd({"lr": 0.05}, anchors=anchors, spd=0.0)
        runs.append(fit(ours if free else adam, guide))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_scales_stay_free_in_svi():
    guide = AutoNormal(model)
    anchors = anchors_from_prior(model, guide, X, Y)
    optimizer = spd(lambda name: {"lr": 0.05}, anchors=anchors, spd=1.0)
    fit(optimizer, guide)
    store = pyro.get_param_store()
    held = {store.param_name(p): o.deviation() for p, o in optimizer.optim_objs.items()}
    assert {name for name, rows in held.items() if rows} == set(anchors)
    assert sum(rows[0]["decay_rate"] for rows in held.values() if rows) > 0


def test_an_svi_state_is_saved_and_goes_on(tmp_path):
    runs = []
    for stop in (True, False):
        pyro.clear_param_store()
        guide = AutoNormal(model)
        anchors = anchors_from_prior(model, guide, X, Y)
        optimizer = spd({"lr": 0.05}, anchors=anchors)
        fit(optimizer, guide, 10)
        if stop:
            optimizer.save(str(tmp_path / "state.pt"))
            optimizer = spd({"lr": 0.05}, anchors=anchors)
            optimizer.load(str(tmp_path / "state.pt"))
        runs.append(fit(optimizer, guide, 10))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
