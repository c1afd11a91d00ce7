"""Guides of every kind, against a normaliser in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, autoguide
from pyro.infer.autoguide import AutoGuideList
from scipy import stats
from torch import Tensor

from pyro_geo.errors import ConfigurationError
from pyro_geo.infer import GibbsModel, GibbsPosterior, WeightedPosterior

DOUBLE = torch.float64
PRIOR_SD, DRAWS = 1.5, 400
Guide = Callable[..., Any]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(DOUBLE)  # what Pyro's guides make their parameters of
    yield
    torch.set_default_dtype(torch.float32)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


X = random(20, 3)
Y = X @ torch.tensor([1.0, -0.5, 0.3], dtype=DOUBLE) + random(20, seed=1)


def model(x: Tensor) -> Tensor:
    """A regression of two sites, one of them in a plate."""
    a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=DOUBLE), PRIOR_SD))
    with pyro.plate("inputs", 2):
        b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=DOUBLE), PRIOR_SD))
    return x[:, 0] * a + x[:, 1:] @ b


def squared(prediction: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (prediction - y) ** 2


GIBBS = GibbsModel(model, squared)
PRECISION = torch.eye(3, dtype=DOUBLE) / PRIOR_SD**2 + X.mT @ X
COVARIANCE = torch.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.mT @ Y
LOG_Z = float(
    -3 * math.log(PRIOR_SD)
    - 0.5 * torch.logdet(PRECISION)
    - 0.5 * (Y @ Y - MEAN @ PRECISION @ MEAN)
)
SD = 1.3 * COVARIANCE.diagonal().sqrt()  # a little wide, so that weights are bounded


def weigh(guide: Guide, num: int = DRAWS, seed: int = 3) -> WeightedPosterior:
    return GibbsPosterior(
        GIBBS,
        betas=[1.0],
        method="importance",
        guide=guide,
        num_particles=num,
        seed=seed,
        progress_bar=False,
    ).run(X, Y)


def latent(shift: Any = 0.0) -> None:
    """The latent sites, wide normals around the posterior mean, moved."""
    pyro.sample("a", dist.Normal(MEAN[0] + shift, SD[0]))
    with pyro.plate("inputs", 2):
        pyro.sample("b", dist.Normal(MEAN[1:] + shift, SD[1:]))


def auxiliary(name: str, fn: Any) -> Tensor:
    return pyro.sample(name, fn, infer={"is_auxiliary": True})


def normals(size: int = 20) -> Any:
    return dist.Normal(torch.zeros(size, dtype=DOUBLE), 1.0).to_event(1)


def plain(args: Any, targets: Any) -> None:
    latent()


def unused(args: Any, targets: Any) -> None:
    auxiliary("u", normals())
    pyro.deterministic("doubled", 2 * auxiliary("v", normals(2)))
    latent()


def mixture(args: Any, targets: Any) -> None:
    k = auxiliary("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
    latent(torch.tensor([-0.2, 0.0, 0.1], dtype=DOUBLE)[k])


def branching(args: Any, targets: Any) -> None:
    """A mixture that is written with if."""
    k = auxiliary("k", dist.Bernoulli(0.4))
    latent(0.1 if k > 0 else -0.1)


def two_levels(args: Any, targets: Any) -> None:
    """Discrete sites in a row, and one that nothing depends on."""
    k = auxiliary("k", dist.Bernoulli(0.4))
    with pyro.plate("two", 2):
        j = auxiliary("j", dist.Bernoulli(0.2 + 0.5 * k))
    auxiliary("u", dist.Normal(k, 1.0))
    latent(0.1 * (j.sum() - k))


def unused_choice(args: Any, targets: Any) -> None:
    auxiliary("k", dist.Categorical(torch.ones(5)))
    latent()


def correlated(args: Any, targets: Any) -> None:
    """Sites that depend on one another, but on no auxiliary site."""
    a = pyro.sample("a", dist.Normal(MEAN[0], SD[0]))
    loc = MEAN[1:] + COVARIANCE[1:, 0] / COVARIANCE[0, 0] * (a - MEAN[0])
    pyro.sample("b", dist.Normal(loc, SD[1:]).to_event(1))


OWN: dict[str, Guide] = {
    f.__name__: f
    for f in (
        plain,
        unused,
        mixture,
        branching,
        two_levels,
        unused_choice,
        correlated,
    )
}


def z_of(found: WeightedPosterior) -> float:
    ratios = (found.log_weights + math.log(DRAWS) - LOG_Z).exp()
    return float((ratios.mean() - 1) / (ratios.std() / DRAWS**0.5))


# false alarms: 1 in 10,000 over at most 20 guides
LIMIT = stats.norm.isf(0.5e-4 / 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_the_normaliser_of_a_guide_of_ones_own(name: str) -> None:
    state = torch.get_rng_state()
    found = weigh(OWN[name])
    assert torch.equal(state, torch.get_rng_state())
    assert found.khat < 0.7
    assert abs(z_of(found)) < LIMIT


def density_as_of_all_sites(found: WeightedPosterior, guide: Guide) -> Tensor:
    """The twin: logarithms of the weights with the auxiliary sites counted."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        logs = []
        for _ in range(DRAWS):
            trace = poutine.trace(guide).get_trace(X, Y)
            trace.compute_log_prob()
            nodes: Any = trace.nodes
            sites = {n: nodes[n]["value"] for n in ("a", "b")}
            q = found.target.unconstrain(sites)
            logs.append(found.target.log_prob(q[None])[0] - trace.log_prob_sum())
    return torch.stack(logs).double() - math.log(DRAWS)


@pytest.mark.parametrize("name", ["unused", "mixture"])
def test_counting_auxiliary_sites_is_told_from_the_normaliser(name: str) -> None:
    found = weigh(OWN[name], 2)
    logs = density_as_of_all_sites(found, OWN[name]) + math.log(DRAWS) - LOG_Z
    # ratios of mean one have a mean logarithm of at most zero, by Jensen's inequality
    error = DRAWS**-0.5
    zs = ((logs.exp().mean() - 1) / logs.exp().std(), logs.mean() / logs.std())
    assert max(float(z) / error for z in zs) > LIMIT


def part_of_ones_own(args: Any, targets: Any) -> dict[str, Tensor]:
    return {"b": pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))}


def made(kind: str) -> Guide:
    """A guide of Pyro's, moved near the posterior."""
    target = GIBBS.pyro_model(1.0)

    def named(*names: str) -> Any:
        return poutine.block(target, expose=[*names, "gibbs"])

    gaussian: Any = autoguide.AutoGaussian  # its metaclass picks what it makes
    guides: dict[str, Callable[[], Any]] = {
        "AutoNormal": lambda: autoguide.AutoNormal(target),
        "AutoDiagonalNormal": lambda: autoguide.AutoDiagonalNormal(target),
        "AutoMultivariateNormal": lambda: autoguide.AutoMultivariateNormal(target),
        "AutoLowRankMultivariateNormal": lambda: (
            autoguide.AutoLowRankMultivariateNormal(target, rank=1)
        ),
        "AutoIAFNormal": lambda: autoguide.AutoIAFNormal(target, hidden_dim=[4]),
        "AutoStructured": lambda: autoguide.AutoStructured(
            target, conditionals="mvn", dependencies="linear"
        ),
        "AutoGaussian": lambda: gaussian(target),
    }
    if kind == "AutoGuideList":
        both = AutoGuideList(target)
        both.append(autoguide.AutoNormal(named("a")))
        both.append(autoguide.AutoDiagonalNormal(named("b")))
        return both
    if kind == "AutoGuideList of a function":
        both = AutoGuideList(target)
        part: Any = autoguide.AutoDiagonalNormal(named("a"))
        part(X, Y)
        with torch.no_grad():
            part.loc.copy_(MEAN[:1])
            part.scale.copy_(SD[:1])
        both.append(part)
        both.append(part_of_ones_own)
        return both
    if kind == "AutoLaplaceApproximation":
        return trained(
            autoguide.AutoLaplaceApproximation(target)
        ).laplace_approximation(X, Y)
    return trained(guides[kind]())


def trained(guide: Any) -> Any:
    guide(X, Y)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    elbo = Trace_ELBO()
    for _ in range(80):
        optimizer.zero_grad()
        elbo.differentiable_loss(GIBBS.pyro_model(1.0), guide, X, Y).backward()
        optimizer.step()
    return guide


AUTOMATIC = (
    "AutoNormal",
    "AutoDiagonalNormal",
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
    "AutoLaplaceApproximation",
    "AutoIAFNormal",
    "AutoStructured",
    "AutoGaussian",
    "AutoGuideList",
    "AutoGuideList of a function",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", AUTOMATIC)
def test_the_normaliser_of_an_automatic_guide(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pyro.clear_param_store()
        guide = made(kind)
        if kind == "AutoGuideList":
            guide = trained(guide)
        found = weigh(guide)
    assert abs(z_of(found)) < LIMIT


# -- what has no density --------------------------------------------------------------


def mapped(args: Any, targets: Any) -> None:
    """A map of an auxiliary site, whose Jacobian nobody knows."""
    u = auxiliary("u", normals(3))
    pyro.sample("a", dist.Delta(MEAN[0] + SD[0] * u[0]))
    pyro.sample("b", dist.Delta(MEAN[1:] + SD[1:] * u[1:]).to_event(1))


def continuous_mixture(args: Any, targets: Any) -> None:
    latent(0.1 * auxiliary("u", dist.Normal(0.0, 1.0)))


def copied_out(args: Any, targets: Any) -> None:
    latent(0.1 * float(auxiliary("u", dist.Normal(0.0, 1.0))))


def written_into(args: Any, targets: Any) -> None:
    shift = torch.zeros((), dtype=DOUBLE)
    shift.copy_(auxiliary("u", dist.Normal(0.0, 0.1)))
    latent(shift)


def copied_by_torch(args: Any, targets: Any) -> None:
    u = auxiliary("u", dist.Normal(torch.tensor(0.0, dtype=DOUBLE), 0.1))
    latent(torch.from_numpy(u.detach().numpy().copy()))


def partial_point(args: Any, targets: Any) -> None:
    pyro.sample("a", dist.Delta(MEAN[0]))
    pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))


def point_behind_a_map(args: Any, targets: Any) -> None:
    twice = dist.transforms.AffineTransform(0.0, 2.0)
    pyro.sample("a", dist.TransformedDistribution(dist.Delta(MEAN[0] / 2), [twice]))
    pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))


def missing(args: Any, targets: Any) -> None:
    pyro.sample("a", dist.Normal(MEAN[0], SD[0]))


def one_more(args: Any, targets: Any) -> None:
    latent()
    pyro.sample("c", dist.Normal(0.0, 1.0))


def observing(args: Any, targets: Any) -> None:
    pyro.sample("a", dist.Normal(MEAN[0], SD[0]), obs=MEAN[0])
    pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))


def with_factor(args: Any, targets: Any) -> None:
    latent()
    pyro.factor("f", torch.tensor(-3.0))


def masked_inside(args: Any, targets: Any) -> None:
    pyro.sample("a", dist.Normal(MEAN[0], SD[0]).mask(False))
    pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))


def subsampled(args: Any, targets: Any) -> None:
    pyro.sample("a", dist.Normal(MEAN[0], SD[0]))
    with pyro.plate("inputs", 2, subsample_size=1):
        pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))


def folded(args: Any, targets: Any) -> None:
    """Half of a normal, scored by one of the two points mapped there."""
    fold = dist.transforms.AbsTransform()
    pyro.sample("a", dist.TransformedDistribution(dist.Normal(MEAN[0], SD[0]), [fold]))
    pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))


def of_a_discrete(args: Any, targets: Any) -> None:
    pyro.sample("a", dist.Poisson(torch.tensor(1.0, dtype=DOUBLE)))
    pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))


def hidden_noise(args: Any, targets: Any) -> None:
    latent(0.1 * torch.randn((), dtype=DOUBLE))


def reads_data(args: Any, targets: Any) -> None:
    latent(0.1 * targets.mean())


def sometimes(args: Any, targets: Any) -> None:
    latent()
    if auxiliary("k", dist.Bernoulli(0.5)):
        auxiliary("j", dist.Normal(0.0, 1.0))


def too_many_values(args: Any, targets: Any) -> None:
    with pyro.plate("many", 30):
        k = auxiliary("k", dist.Bernoulli(0.5))
    latent(0.01 * k.sum())


def wrong_shape(args: Any, targets: Any) -> None:
    pyro.sample("a", dist.Normal(MEAN[:1], SD[:1]))
    pyro.sample("b", dist.Normal(MEAN[1:], SD[1:]).to_event(1))


REFUSED: dict[str, tuple[Guide, str]] = {
    "a map of one's own": (mapped, "'a'.*Delta"),
    "continuous mixture": (continuous_mixture, "'u'.*'a' may depend on 'u'"),
    "copied by float": (copied_out, "'u'.*may depend on 'u'"),
    "written into a tensor": (written_into, "'u'.*may depend on 'u'"),
    "copied by numpy": (copied_by_torch, "'u'.*may depend on 'u'"),
    "point mass beside densities": (partial_point, "'a'.*Delta"),
    "point mass behind a map": (point_behind_a_map, "site 'a' is a point mass"),
    "site missing": (missing, "misses.*'b'"),
    "site too many": (one_more, "'c'.*is_auxiliary"),
    "observed": (observing, "observes.*'a'"),
    "factor": (with_factor, "factor.*'f'"),
    "masked by poutine": (poutine.mask(plain, mask=False), "masks.*'a'"),
    "masked distribution": (masked_inside, "'a' is a masked"),
    "scaled": (poutine.scale(plain, scale=0.5), "scales.*'a'"),
    "subsampled": (subsampled, "subsamples.*plate 'inputs'"),
    "not one to one": (folded, "'a' is put through a map"),
    "discrete": (of_a_discrete, "'a' is discrete"),
    "randomness outside sites": (hidden_noise, "'a'.*two densities"),
    "depends on data": (reads_data, "other data.*'a'.*Bind"),
    "changing sites": (sometimes, "change between runs.*'j'"),
    "too many values": (too_many_values, "'k'.*joint values"),
    "another shape": (wrong_shape, r"'a'.*\(1,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_guides_without_a_density_are_refused_by_site(name: str) -> None:
    guide, message = REFUSED[name]
    with pytest.raises(ConfigurationError, match=f"(?s){message}"):
        weigh(guide, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: autoguide.AutoDelta(m), "'a'.*point mass|point mass.*'a'"),
        (lambda m: autoguide.AutoLaplaceApproximation(m), "a point mass"),
        (lambda m: autoguide.AutoStructured(m, conditionals="delta"), "'a'|'b'"),
        (
            lambda m: autoguide.AutoStructured(
                m, conditionals={"a": "delta", "b": "mvn"}
            ),
            "'a'.*2 random numbers for 3",
        ),
    ],
)
def test_automatic_guides_left_at_a_point_are_refused(make: Any, message: str) -> None:
    with torch.random.fork_rng():
        guide = make(GIBBS.pyro_model(1.0))
        guide(X, Y)
        with pytest.raises(ConfigurationError, match=f"(?s){message}"):
            weigh(guide, 16)


def test_a_guide_bound_to_the_data_is_taken() -> None:
    found = weigh(lambda *_: reads_data(X, Y))
    assert abs(z_of(found)) < LIMIT
