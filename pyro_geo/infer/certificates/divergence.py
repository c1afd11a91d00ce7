"""The divergence of a guide from the prior, exact or from above."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from pyro_geo.density import Target
from pyro_geo.density.layout import Site
from pyro_geo.density.structure import random_sites
from pyro_geo.errors import UnsupportedError
from pyro_geo.infer.gibbs.guides import GuideDraws
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.taint import dependence

__all__ = ["divergence"]

Traced = dict[str, Any]


def divergence(
    model: GibbsModel,
    drawn: GuideDraws,
    target: Target,
    arguments: tuple[Any, Any],
) -> float:
    r"""Bound the divergence of a guide from the prior of a model, in nats.

    It is exact where no discrete auxiliary site is summed out. A mixture has no closed
    form; as the divergence is convex,

    .. math:: \mathrm{KL}\Bigl(\sum_a q(a)\, q_a \,\Big\|\, \pi\Bigr)
              \le \sum_a q(a)\, \mathrm{KL}(q_a \| \pi).

    Args:
        model: prior and predictor.
        drawn: draws of the guide.
        target: of the model.
        arguments: of both.

    Returns:
        The divergence. Without a closed form it is an
        :class:`~pyro_geo.errors.UnsupportedError`.
    """
    program, layout = drawn.program, target.layout
    latent = list(layout.sites)
    first = drawn.sites[0]
    values = {n: first.latent[n]["value"].to(target.dtype) for n in latent}
    prior_program = model.pyro_model(1.0)
    priors = random_sites(
        poutine.trace(poutine.condition(prior_program, data=values)).get_trace(
            *arguments
        )
    )
    # a divergence in closed form is that of distributions which draw nothing else
    found = dependence(prior_program, arguments, latent, values)
    own = [name for name in latent if name not in program.automatic]
    among = dependence(program.guide, program.arguments, own)
    for one in (found.on(latent, latent), among.on(own, own)):
        if one is not None:
            _refuse(f"site {one!r}, which may depend on another latent site")
    total = _automatic(drawn, layout.sites, priors)
    for assignment in program.assignments:
        sites = program.at(assignment)
        chance = sum(
            (_score(sites[name]) for name in program.summed), torch.zeros(())
        ).exp()
        parts = sum(_closed_form(name, sites[name]["fn"], priors[name]) for name in own)
        total += float(chance) * parts if float(chance) > 0 else 0.0
    return total


def _score(site: Any) -> Tensor:
    return site["fn"].log_prob(site["value"]).sum().double()


def _closed_form(name: str, fn: Any, prior: Any) -> float:
    """Divergence of one site."""
    try:
        return float(kl_divergence(_flat(fn), _flat(prior["fn"])).sum())
    except NotImplementedError:
        _refuse(f"{type(fn).__name__} and {type(prior['fn']).__name__} at {name!r}")


def _flat(fn: Any) -> Any:
    """Take an event of independent scalars apart."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


# -- Pyro's automatic guides: normal on the reals -------------------------------------


def _automatic(drawn: GuideDraws, sites: Any, priors: Traced) -> float:
    """Divergence of the parts that are automatic guides, each a normal distribution."""
    automatic, run, total = drawn.program.automatic, drawn.sites[0], 0.0
    left = [name for name in run.latent if name in automatic]
    for name, site in run.auxiliary.items():
        if name not in automatic:
            continue
        # the latent sites hold the auxiliary numbers one after the other
        numbers, mine = site["value"].flatten(), []
        while left and sum(sites[n].size for n in mine) < numbers.numel():
            mine.append(left.pop(0))
        moved = [run.latent[n]["value"].flatten() for n in mine]
        if not mine or not torch.equal(numbers, torch.cat(moved)):
            _refuse(f"{name!r}, which is mapped to {mine} by more than a reordering")
        for one in mine:
            _check_real(sites[one])
        total += _normal(site["fn"], [priors[n]["fn"] for n in mine], mine)
    if left:
        _refuse(f"an automatic guide at {left[0]!r}")
    return total


def _check_real(site: Site) -> None:
    """Refuse a constrained site: its prior is not normal on the reals."""
    probe = torch.linspace(-2.0, 3.0, max(site.size, 7), dtype=torch.float64)
    probe = probe[: site.size].reshape(site.shape)
    mapped: Any = site.transform(probe)
    if mapped.shape != probe.shape or not torch.equal(mapped, probe):
        _refuse(f"an automatic guide at the constrained site {site.name!r}")


def _normal(fn: Any, priors: list[Any], names: list[str]) -> float:
    """Divergence of a normal distribution from independent normal ones."""
    own = _flat(fn)
    if not isinstance(own, Normal) and not hasattr(own, "covariance_matrix"):
        _refuse(f"{type(own).__name__}, not normal, over {names}")
    means, variances = [], []
    for name, prior in zip(names, priors, strict=True):
        base = _flat(prior)
        if not isinstance(base, Normal):
            _refuse(f"the prior {type(base).__name__} at {name!r}")
        means.append(base.loc.flatten())
        variances.append(base.scale.square().flatten())
    mean, variance = torch.cat(means).double(), torch.cat(variances).double()
    if isinstance(own, Normal):
        q = Normal(own.loc.flatten().double(), own.scale.flatten().double())
        return float(kl_divergence(q, Normal(mean, variance.sqrt())).sum())
    covariance = own.covariance_matrix.double()
    q = MultivariateNormal(own.mean.double(), covariance)
    return float(kl_divergence(q, MultivariateNormal(mean, variance.diag())))


def _refuse(found: str) -> NoReturn:
    raise UnsupportedError(
        "the guide's divergence is not known in closed form",
        where="argument guide",
        found=found,
        expected="independent sites, of one family in guide and prior, or a normal "
        "guide of Pyro's with normal priors",
        todo="Weigh its draws: GibbsPosterior(model, method='importance', ...).",
    )
