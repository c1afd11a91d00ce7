"""The classical certificate of a trained guide, from its divergence and its draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_geo.checks import check_count, check_number
from pyro_geo.density import Target
from pyro_geo.density.structure import base_distribution, random_sites
from pyro_geo.errors import UnsupportedError
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.certificates.certificate import Certificate
from pyro_geo.infer.gibbs.codebook import check_loss_range
from pyro_geo.infer.gibbs.model import GibbsModel, as_tuple
from pyro_geo.ops.random import private_randomness

__all__ = ["certify_guide"]

Traced = dict[str, Any]


def certify_guide(
    model: GibbsModel,
    guide: Callable[..., Any],
    risk: Callable[..., Tensor],
    data: tuple[Any, Any],
    *,
    num_draws: int = 1_000,
    delta: float = 0.05,
    share: float = 0.1,
    seed: int = 0,
) -> Certificate:
    r"""Bound the risk of a randomised predictor whose weights a guide draws.

    .. math:: \mathrm{kl}^{-1}\Bigl(\mathrm{kl}^{-1}\bigl(\hat r,
              \tfrac{\log(2/\delta_1)}{m}\bigr), \tfrac{1}{n}\bigl[
              \mathrm{KL}(q \| \pi) + \log\tfrac{\xi(n)}{\delta_2}\bigr]\Bigr)

    from `m` draws of the guide. The divergence of each site must have a closed form,
    as for a mean-field guide on real sites with priors of the same family. For any
    other guide weigh its draws by `GibbsPosterior(model, method="importance",
    guide=guide)`, which is often tighter as well.

    Args:
        model: prior and predictor.
        guide: trained on `model.pyro_model(beta)`.
        risk: what is certified, with values in [0, 1].
        data: `(args, targets)`, each a tuple or one tensor.
        num_draws: `m`.
        delta: probability that the bound may fail with.
        share: part of `delta` for the error of the draws, between 0 and 1.
        seed: of the draws; the global random state is left alone.

    Returns:
        The certificate. Without a divergence in closed form it raises
        :class:`~pyro_geo.errors.UnsupportedError`.

    References:
        Dziugaite & Roy (2017), Computing nonvacuous generalization bounds, 1703.11008;
        Perez-Ortiz et al. (2021), Tighter risk certificates for neural networks,
        2007.12911.
    """
    check_count("num_draws", num_draws)
    check_number("share", share, 0.0, 1.0, strict=True)
    arguments = as_tuple(data[0]), as_tuple(data[1])
    certified = model.with_loss(risk)
    target = certified.target(*arguments, dtype=torch.float64)
    rows, divergences = [], []
    with torch.no_grad(), private_randomness(seed):
        for i in range(num_draws):  # a guide draws one set of weights in each run
            sites = random_sites(poutine.trace(guide).get_trace(*arguments))
            values = {name: sites[name]["value"] for name in target.layout.sites}
            rows.append(target.unconstrain(values))
            if i < 2:  # two draws show whether sites depend on one another
                divergences.append(_divergence(model, sites, target, values, arguments))
    # independent sites have one divergence, whatever values were drawn
    if abs(divergences[0] - divergences[-1]) > 1e-9 * (1 + abs(divergences[0])):
        _refuse("sites whose distributions depend on one another")
    # (draws, n); drawing exactly from the guide needs no weights
    losses = certified.losses(target, torch.stack(rows))
    check_loss_range(losses.amin(1), losses.amax(1), 0.0, 1.0)
    n, mean = losses.shape[1], float(losses.mean())
    # first from m draws to the guide's empirical risk, then from that to its true risk
    drawn = bounds.kl_inverse(mean, math.log(2 / (share * delta)) / num_draws)
    k = divergences[0]
    value = float(bounds.seeger(drawn, k, n, (1 - share) * delta))
    return Certificate(
        value=value,
        lower=None,
        empirical_risk=mean,
        complexity=k,
        n=n,
        delta=delta,
        looks=1,
        bound=f"kl, {num_draws} draws of a guide",
        assumptions=(
            "The loss lies in [0, 1], always.",
            "The examples are independent draws from one distribution.",
            "The prior was chosen without the certifying data.",
        ),
        predictor="gibbs",
        status="finite_sample",
        vacuous=value >= 1.0,
    )


def _divergence(
    model: GibbsModel,
    sites: Traced,
    target: Target,
    values: dict[str, Tensor],
    arguments: tuple[Any, Any],
) -> float:
    """Sum the divergences of the sites, in nats."""
    conditioned = poutine.condition(model.pyro_model(1.0), data=values)
    priors = random_sites(poutine.trace(conditioned).get_trace(*arguments))
    total = 0.0
    for name, site in target.layout.sites.items():
        fn, prior = sites[name]["fn"], priors[name]["fn"]
        # AutoNormal samples an auxiliary site; the latent site is a point mass at it
        if isinstance(base_distribution(fn), dist.Delta):
            # an identity map keeps the divergence; any other needs its Jacobian
            one = torch.ones(1)
            constrained: Any = site.transform(one)
            real = torch.equal(constrained, one)
            fn = sites.get(f"{name}_unconstrained", {}).get("fn") if real else None
        try:
            total += float(kl_divergence(_flat(fn), _flat(prior)).sum())
        except (NotImplementedError, AttributeError):
            _refuse(f"{type(fn).__name__} and {type(prior).__name__} at {name!r}")
    return total


def _flat(fn: Any) -> Any:
    """Take an event of independent scalars apart."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


def _refuse(found: str) -> None:
    raise UnsupportedError(
        "the guide's divergence is not known in closed form",
        where="argument guide",
        found=found,
        expected="independent sites, of one family in guide and prior",
        todo="Weigh its draws: GibbsPosterior(model, method='importance', ...).",
    )
