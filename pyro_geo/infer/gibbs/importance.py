"""Particles from a guide, weighed by how much the prior thinks of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pyro_geo.density import Target
from pyro_geo.infer.gibbs.guides import draw_guide
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import Stage, check_alive
from pyro_geo.ops.weights import ess

__all__ = ["weigh_guide"]


def weigh_guide(
    mover: ParticleMover,
    target: Target,
    guide: Callable[..., Any],
    arguments: tuple[Any, Any],
    beta: float,
    num_particles: int,
    seed: int,
) -> Stage:
    r"""Draw from a guide and weigh by importance.

    .. math:: v_i = \frac{\pi(\theta_i)\, e^{-T(\theta_i)}}{N q(\theta_i)}

    Any guide with a density is good, see :func:`~pyro_geo.infer.gibbs.guides.
    draw_guide`: one that misses a part of the prior only makes the certificate looser.

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
    q, log_q = draw_guide(guide, arguments, target, num_particles, seed)[:2]
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
