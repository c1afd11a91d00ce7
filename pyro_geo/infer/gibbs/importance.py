"""Particles from a guide, weighed by how much the prior thinks of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine

from pyro_geo.density import Target
from pyro_geo.density.structure import base_distribution, random_sites
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import Stage, check_alive
from pyro_geo.ops.random import private_randomness
from pyro_geo.ops.weights import ess

__all__ = ["weigh_guide"]


def weigh_guide(
    mover: ParticleMover,
    target: Target,
    guide: Callable[..., Any],
    arguments: tuple[Any, ...],
    beta: float,
    num_particles: int,
    seed: int,
) -> Stage:
    r"""Draw from a guide and weigh by importance.

    .. math:: v_i = \frac{\pi(\theta_i)\, e^{-T(\theta_i)}}{N q(\theta_i)}

    Any guide with a density is good: one that misses a part of the prior only makes
    the certificate looser.

    Args:
        mover: evaluates the loss.
        target: of the Gibbs model.
        guide: a trained guide of `model.pyro_model(beta)`.
        arguments: what it is called with.
        beta: inverse temperature.
        num_particles: draws.
        seed: of the draws; the global random state is left alone.

    Returns:
        The particles at that temperature.
    """
    rows, logs = [], []
    with torch.no_grad(), private_randomness(seed):
        # one at a time: a guide may be any program, and need not be vectorised
        for _ in range(num_particles):
            sites = random_sites(poutine.trace(guide).get_trace(*arguments))
            _check(sites, target)
            # Pyro's automatic guides draw a site of their own and put the latent ones
            # at a function of it; the density of all their sites is that of the latents
            values = {name: sites[name]["value"] for name in target.layout.sites}
            rows.append(target.unconstrain(values))
            logs.append(
                sum(s["fn"].log_prob(s["value"]).sum().double() for s in sites.values())
            )
    q, log_q = torch.stack(rows), torch.stack([torch.as_tensor(x) for x in logs])
    # The guide's density is that of constrained values, the target's prior that of
    # unconstrained ones; without its log-Jacobian it is the prior of the model.
    jacobian = target.map(lambda one: target.layout.constrain_with_jacobian(one)[1], q)
    log_prior = (target.log_prior(q) - jacobian).detach().double()
    loss = mover.loss(q)
    log_weights = log_prior - log_q - beta * loss - math.log(num_particles)
    # a draw outside the prior's support, or without a finite loss, weighs nothing
    log_weights = torch.where(log_weights.isfinite(), log_weights, -math.inf)
    check_alive(log_weights, "importance draws")
    rate = torch.ones_like(loss)
    killed = int((~loss.isfinite()).sum())
    effective = float(ess(log_weights))
    return Stage(beta, q, log_weights, loss, rate, effective, False, killed)


def _check(sites: dict[str, Any], target: Target) -> None:
    """Refuse a guide that has no density, or other sites."""
    # a point mass has no density to divide by
    missing = [name for name in target.layout.sites if name not in sites]
    bases = [base_distribution(site["fn"]) for site in sites.values()]
    free = [base for base in bases if not isinstance(base, dist.Delta)]
    if missing or not free:
        raise ConfigurationError(
            "the guide has no density of the latent sites",
            where="argument guide",
            found=f"sites {sorted(sites)}, {len(free)} of them random",
            expected=f"a density of {sorted(target.layout.sites)}",
            todo="Train AutoMultivariateNormal, say; a point mass has none.",
        )
