"""Unadjusted Langevin paths, weighed by what they cost to walk back."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine import SequentialNoise
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import AnnealingPlan, Balance, Stage, Walk, check_alive
from pyro_geo.ops.weights import ess

__all__ = ["walk"]


def walk(
    mover: ParticleMover, plan: AnnealingPlan, path: Walk, noise: SequentialNoise
) -> Iterator[Walk]:
    r"""Follow the plan by Langevin steps that nothing rejects.

    With :math:`f` the normal density of a step and :math:`b` that of the step back,
    both at the temperature of the step,

    .. math:: \log v = \log\pi(\theta_K) - T(\theta_K) - \log\pi(\theta_0)
              + \sum_k \bigl[\log b(\theta_{k-1} | \theta_k)
              - \log f(\theta_k | \theta_{k-1})\bigr] - \log N

    is a proper weight at every stage, whatever the step size. The longer the path, the
    more the weights vary: prefer moves that are corrected wherever all data can be
    evaluated.

    Args:
        mover: of the model.
        plan: temperatures, step sizes and scales; a stage makes as many steps as its
            moves have leapfrog steps.
        path: where it is.
        noise: random numbers.

    Yields:
        Where it is after each stage.

    References:
        Nilmeier et al. (2011), Nonequilibrium candidate Monte Carlo, for the weights;
        Wu, Kohler & Noe (2020), Stochastic normalizing flows, 2002.06707.
    """
    q = path.q
    # the weights of a path need its start and the work of all steps so far
    if path.balance is None:
        start = mover.log_prior(q)
        work = torch.zeros_like(start)
        dead = torch.zeros(len(q), dtype=torch.bool, device=q.device)
    else:
        start, work, dead = path.balance
    count = plan.moves * plan.num_leapfrog
    for index in range(path.done, len(plan.betas)):
        beta, step_size = plan.betas[index], plan.step_sizes[index]
        scale = plan.scales[index]
        target = mover.target.tempered(beta)
        # half of what HMC uses: no rejection corrects a step that is too long
        width = 0.5 * step_size * scale
        drift = _drift(target, q, width)
        for _ in range(count):
            kick = noise.normal(*q.shape, dtype=q.dtype).to(q.device)
            new = q + drift + width * kick
            # the noise that the step back would need, from the new drift
            back = _drift(target, new, width)
            returned = (q - new - back) / width
            # log-density of the step back minus that of the step; norms cancel
            change = 0.5 * (kick.square() - returned.square()).sum(1)
            work = work + change.double()
            q, drift = new, back
        loss, log_prior = mover.loss(q), mover.log_prior(q)
        # the weight of the docstring: target at the end over prior at the start, times
        # the work of all steps
        log_weights = log_prior - beta * loss - start + work - math.log(len(q))
        # The comparison catches not-a-number as well. A particle is dropped for good,
        # even if its path comes back to a finite loss.
        bad = ~(log_weights < math.inf) | ~loss.isfinite()
        killed = int((bad & ~dead).sum())
        dead = dead | bad
        log_weights = torch.where(dead, -math.inf, log_weights)
        check_alive(log_weights, f"beta {beta:.3g}")
        rate = torch.ones_like(loss)  # every step is taken
        effective = float(ess(log_weights))
        stage = Stage(beta, q, log_weights, loss, rate, effective, False, killed)
        yield Walk(q, index + 1, stage, Balance(start, work, dead))


def _drift(target: Target, q: Tensor, width: Tensor) -> Tensor:
    """Half a squared step along the gradient, in units of the scales."""
    return 0.5 * width.square() * target.value_and_grad(q)[1]
