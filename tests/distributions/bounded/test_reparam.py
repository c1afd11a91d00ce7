"""Reparametrisations: the same law, from a site whose support is fixed."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide.initialization import InitMessenger, init_to_value

from pyro_geo import Target
from pyro_geo.distributions import (
    BallReparam,
    BoundedFlat,
    BoundedMultivariateNormal,
    BoundedNormal,
    RadialGaussianReparam,
)
from pyro_geo.errors import ConfigurationError, UnsupportedError, UnsupportedModelError

DOUBLE = torch.float64
WAYS = [BallReparam, RadialGaussianReparam]
TRIL = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=DOUBLE)
LOC = torch.tensor([3.0, -1.0], dtype=DOUBLE)
FIVE = torch.eye(5, dtype=DOUBLE)
LAWS = {
    "normal": BoundedNormal(LOC[0], 2.0, mass=0.9),
    "wide": BoundedNormal(LOC[0], 2.0, mass=0.999999, kappa=0.5),
    "plane": BoundedMultivariateNormal(LOC, TRIL, mass=0.8),
    "five": BoundedMultivariateNormal(FIVE[0], FIVE, radius=1.0),
    "field": BoundedMultivariateNormal(FIVE[0], FIVE, mass=0.99, kappa=1.5),
    "flat": BoundedFlat(LOC, TRIL, radius=1.5, kappa=0.5),
    "batch": BoundedMultivariateNormal(
        LOC, TRIL, radius=torch.tensor([[0.5], [3.0]], dtype=DOUBLE)
    ),
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(DOUBLE)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("way", WAYS)
def test_the_law_of_the_site_is_pushed_forward_exactly(name, way):
    fn = LAWS[name]
    site = way()
    auxiliary = site.auxiliary(fn)
    z = auxiliary.sample((8,))
    x = site.forward(fn, z)
    assert bool(fn.support.check(x).all())
    torch.testing.assert_close(site.inverse(fn, x), z, rtol=1e-8, atol=1e-10)
    # log p(x) + log |dx / dz| = log p(z), for the normal one N(z; 0, I) exactly
    one = fn.expand((8, *fn.batch_shape))
    jacobian = torch.autograd.functional.jacobian(lambda z: site.forward(fn, z), z)
    size = z.numel() // max(1, fn.event_shape.numel())
    d = fn.event_shape.numel()
    square = jacobian.reshape(size, d, size, d)
    blocks = torch.stack([square[i, :, i] for i in range(size)])
    log_jacobian = blocks.slogdet().logabsdet.reshape(one.batch_shape)
    found = one.log_prob(x) + log_jacobian
    torch.testing.assert_close(found, auxiliary.log_prob(z), rtol=0, atol=1e-10)
    if way is RadialGaussianReparam:
        square = z.square().sum(-1) if fn.event_shape else z.square()
        normal = -0.5 * square - 0.5 * d * math.log(2 * math.pi)
        torch.testing.assert_close(found, normal, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["normal", "plane", "five", "field"])
def test_it_is_smooth_through_the_centre(name):
    fn, site = LAWS[name], RadialGaussianReparam()
    direction = torch.ones(fn.event_shape) / math.sqrt(max(fn.event_shape.numel(), 1))
    slopes = [
        (site.forward(fn, s * direction) - fn.mean).norm() / s
        for s in (1e-9, 0.9e-6, 1.1e-6, 1e-4)
    ]
    for slope in slopes[1:]:
        torch.testing.assert_close(slope, slopes[0], rtol=1e-7, atol=0)
    zero = torch.zeros_like(direction, requires_grad=True)
    (grad,) = torch.autograd.grad(site.forward(fn, zero).sum(), zero)
    assert bool(grad.isfinite().all())
    torch.testing.assert_close(site.forward(fn, zero), fn.mean)


@pytest.mark.parametrize("way", WAYS)
def test_it_has_derivatives_to_all_parameters(way):
    site = way()

    def value(loc, tril, radius, z):
        fn = BoundedMultivariateNormal(loc, tril, radius=radius, validate_args=False)
        return site.forward(fn, z), site.auxiliary(fn).log_prob(0.3 * z)

    inputs = [LOC, TRIL, torch.tensor(1.3), torch.tensor([0.4, -0.7])]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs, atol=1e-4)


def moving(y=None):
    """A model in which centre, scale and radius of balls are latent."""
    r = pyro.sample("r", dist.Gamma(4.0, 2.0))
    tril = r[..., None, None] * torch.eye(3)
    x = pyro.sample("x", BoundedMultivariateNormal(torch.zeros(3), tril, radius=r))
    with pyro.plate("group", 2):
        w = pyro.sample("w", BoundedNormal(x[..., 0], r, radius=2.0))
        pyro.sample("y", dist.Normal(w, 0.5), obs=y)


def test_a_support_that_depends_on_a_latent_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match="BallReparam") as caught:
        Target.from_model(moving, torch.zeros(2))
    assert "RadialGaussianReparam" in str(caught.value)


@pytest.mark.parametrize(
    "way", [BallReparam, pytest.param(RadialGaussianReparam, marks=pytest.mark.slow)]
)
def test_a_target_samples_it_and_gives_the_site_back(way):
    names = ("x", "w")
    model = poutine.reparam(moving, {name: way() for name in names})
    target = Target.from_model(model, torch.zeros(2))
    suffix = way.suffix
    assert set(target.layout.sites) == {"r", *(f"{n}_{suffix}" for n in names)}
    assert set(target.reparametrised) == set(names)
    q = torch.randn(3, target.dim)
    value, grad = target.value_and_grad(q)
    h = 1e-6
    for k in (0, target.dim - 1):
        step = h * torch.eye(target.dim)[k]
        above, below = (target.value_and_grad(q + s)[0] for s in (step, -step))
        slope = (above - below) / (2 * h)
        torch.testing.assert_close(grad[:, k], slope, rtol=1e-6, atol=1e-7)
    # the same density as that of the model as it is written, times the Jacobian
    sites = target.constrain(q) | target.deterministics(q)
    for chain in range(3):
        values = {n: sites[n][chain] for n in ("r", *names)}
        written: Any = poutine.trace(poutine.condition(moving, values))
        trace = written.get_trace(torch.zeros(2))
        found = trace.log_prob_sum()
        moved: Any = poutine.condition(
            model, {n: v[chain] for n, v in sites.items() if n not in names}
        )
        moved = poutine.trace(moved).get_trace(torch.zeros(2))
        volume = 0.0
        for name in names:
            site, fn = way(), trace.nodes[name]["fn"]
            fn = getattr(fn, "base_dist", fn)
            z = moved.nodes[f"{name}_{suffix}"]["value"]
            jacobian = torch.autograd.functional.jacobian(
                lambda z, site=site, fn=fn: site.forward(fn, z), z
            )
            volume = volume + jacobian.slogdet().logabsdet
        expected = moved.log_prob_sum()
        torch.testing.assert_close(found + volume, expected, rtol=0, atol=1e-9)
    assert bool(value.isfinite().all())


def test_a_target_traces_the_normal_one():
    def model():
        r = pyro.sample("r", dist.Gamma(4.0, 2.0))
        pyro.sample("w", BoundedNormal(r, 1.0, radius=r))

    moved = poutine.reparam(model, {"w": RadialGaussianReparam()})
    target = Target.from_model(moved)
    q = torch.randn(3, 2)
    # the prior of the latent is N(0, 1), whatever the ball is
    origin = q * torch.tensor([1.0, 0.0])
    both = target.log_prob(torch.cat([q, origin]))
    gap = both[:3] - both[3:] + 0.5 * q[:, 1].square()
    torch.testing.assert_close(gap, torch.zeros(3), rtol=0, atol=1e-12)
    assert target.deterministics(q)["w"].shape == (3,)


@pytest.mark.parametrize("way", WAYS)
def test_pyro_predicts_from_what_comes_back(way):
    model = poutine.reparam(moving, {name: way() for name in ("x", "w")})
    drawn = Predictive(model, num_samples=5)()
    assert {"x", "w", f"x_{way.suffix}"} <= set(drawn)
    again = Predictive(model, {k: v for k, v in drawn.items() if k != "y"})()
    torch.testing.assert_close(again["y"].shape, drawn["y"].shape)


def test_starts_may_be_given_for_the_site_itself():
    model = poutine.reparam(moving, {name: BallReparam() for name in ("x", "w")})
    start = {"x": torch.tensor([0.1, 0.2, 0.0])}
    messenger: Any = InitMessenger(init_to_value(values=start))
    trace: Any = poutine.trace(messenger(model)).get_trace()
    torch.testing.assert_close(trace.nodes["x"]["value"], start["x"])


def test_observed_sites_and_other_laws_are_refused():
    fn = LAWS["normal"]
    observed = poutine.reparam(
        lambda: pyro.sample("x", fn, obs=LOC[0]), {"x": BallReparam()}
    )
    with pytest.raises(UnsupportedError, match="'x'"):
        observed()
    other = poutine.reparam(
        lambda: pyro.sample("x", dist.Normal(0.0, 1.0)), {"x": BallReparam()}
    )
    with pytest.raises(ConfigurationError, match="Normal"):
        other()
