"""Plain methods to compare results with: MAP, ensemble, Langevin, Laplace.

Each is the textbook version, on a :class:`~pyro_geo.density.Target`, with all starts,
members or chains as rows of one tensor. Positions come back flat and unconstrained;
`target.constrain` gives the sites.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pyro_geo._deprecated import positional
from pyro_geo.checks import check_count, check_number, check_shape
from pyro_geo.density import Target
from pyro_geo.evaluation.linearised import linearised_laplace
from pyro_geo.geometry.curvature import Hessian
from pyro_geo.ops.derivatives import value_and_grad
from pyro_geo.optim.descent import adam, adam_step, lbfgs

__all__ = [
    "deep_ensemble",
    "fan_in_starts",
    "linearised_laplace",
    "map_estimate",
    "sghmc",
]


@positional("seed")
def fan_in_starts(target: Target, num_starts: int, *, seed: int = 0) -> Tensor:
    r"""Draw starts as neural networks do: each weight matrix scaled by its inputs.

    .. math:: W_{ij} \sim N(0, 1/n_\mathrm{in}), \qquad b \sim N(0, 1/n_\mathrm{in})

    A site with two or more axes counts as a weight matrix whose last but one axis is
    the inputs, a site with fewer as the bias of the matrix before it; what comes before
    any matrix is standard normal.

    Args:
        target: the density.
        num_starts: how many.
        seed: of the starts; the global random state stays untouched.

    Returns:
        Positions, `(num_starts, dim)`.

    References:
        LeCun, Bottou, Orr and Mueller (1998), Efficient backprop, section 4.6.

    Example:
        >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
        >>> fan_in_starts(target, 3).shape
        torch.Size([3, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    scale = torch.ones(target.dim, dtype=target.dtype)
    fan_in = 1
    sites = target.layout.sites
    in_order = [name for name in target.dims if name in sites]  # of the model
    for site in [sites[name] for name in in_order or sites]:
        if len(site.shape) >= 2:
            fan_in = site.shape[-2]
        scale[site.slice] = fan_in**-0.5
    shape = (num_starts, target.dim)
    return scale * torch.randn(shape, generator=generator, dtype=target.dtype)


@positional("seed", "num_steps", "learning_rate")
def map_estimate(
    target: Target,
    num_starts: int = 1,
    *,
    seed: int = 0,
    num_steps: int = 2_000,
    learning_rate: float = 0.02,
    polish_steps: int = 200,
    initial: Tensor | None = None,
) -> Tensor:
    r"""Find maxima of the joint density in unconstrained space, all starts at once.

    .. math:: \hat q = \arg\max_q \, \log p(y \mid z(q)) + \log p(z(q))
              + \log|\partial z/\partial q|

    Adam with a falling step, then L-BFGS with a line search for each start. A density
    without a maximum has no MAP, and the result then depends on the number of steps.

    Args:
        target: the density.
        num_starts: how many.
        seed: of the starts; the global random state stays untouched.
        num_steps: steps of Adam.
        learning_rate: first step of Adam.
        polish_steps: most steps of L-BFGS, 0 for none.
        initial: starts, `(num_starts, dim)`, in place of uniform ones on
            (-2, 2); for networks see :func:`fan_in_starts`.

    Returns:
        The maxima, `(num_starts, dim)`, in the order of their starts.

    Example:
        >>> target = Target.from_potential(lambda q: (q - 3).square().sum(), 2)
        >>> map_estimate(target, num_steps=50).round(decimals=3).tolist()
        [[3.0, 3.0]]
    """
    check_count("num_starts", num_starts)
    check_count("num_steps", num_steps, 0)
    check_count("polish_steps", polish_steps, 0)
    check_number("learning_rate", learning_rate, strict=True)
    q = _starts(target, num_starts, seed, initial)
    loss = _loss(target)
    result = adam(partial(adam_step, loss), q, num_steps, learning_rate)
    return lbfgs(loss, result.last, polish_steps)


@positional("seed", "num_steps", "learning_rate")
def deep_ensemble(
    target: Target,
    num_members: int = 8,
    *,
    seed: int = 0,
    num_steps: int = 2_000,
    learning_rate: float = 0.02,
    initial: Tensor | None = None,
) -> Tensor:
    """Train the same network from several random starts.

    Members differ by their start alone; the loss is minus the joint density, so the
    prior is the weight decay. Give members equal weight and mix their predictions.

    Args:
        target: the density.
        num_members: how many.
        seed: of the starts; the global random state stays untouched.
        num_steps: steps of Adam.
        learning_rate: first step of Adam.
        initial: starts, `(num_members, dim)`, in place of uniform ones on
            (-2, 2); for networks see :func:`fan_in_starts`.

    Returns:
        The members, `(num_members, dim)`.

    References:
        Lakshminarayanan, Pritzel and Blundell (2017), Simple and scalable predictive
        uncertainty estimation using deep ensembles, without adversarial training.

    Example:
        >>> target = Target.from_potential(lambda q: (q * q - 1).square().sum(), 1)
        >>> members = deep_ensemble(target, 4, num_steps=50)
        >>> members.abs().round(decimals=3).flatten().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    return map_estimate(
        target,
        num_members,
        seed=seed,
        num_steps=num_steps,
        learning_rate=learning_rate,
        initial=initial,
    )


@positional("seed")
def sghmc(
    target: Target,
    num_chains: int,
    num_steps: int = 3_000,
    *,
    seed: int = 0,
    num_draws: int = 1,
    step_size: float | None = None,
    friction: float = 1.0,
    initial: Tensor | None = None,
) -> Tensor:
    r"""Follow underdamped Langevin dynamics on the full data, without rejection.

    .. math:: dq = p \, dt, \qquad
              dp = \nabla \log p(q) \, dt - \gamma p \, dt + \sqrt{2 \gamma} \, dW

    The limit of stochastic-gradient HMC for a gradient without noise. The step is
    the splitting kick, drift, friction and noise, drift, kick: for a normal density its
    positions have the exact covariance at any stable step size, for others they keep a
    bias of the order of the squared step.

    Args:
        target: the density.
        num_chains: how many, independent of each other.
        num_steps: steps of each chain.
        seed: of starts and noise; the global random state stays untouched.
        num_draws: draws returned of each chain, evenly spaced over its second half.
        step_size: of one step; left out, a third of the inverse square root of the
            largest curvature at the chain's start.
        friction: gamma, an inverse time.
        initial: starts, `(num_chains, dim)`; left out, a short run of
            :func:`map_estimate` from random places.

    Returns:
        Draws, `(num_chains, num_draws, dim)`; NaN or infinite in chains that diverged.

    References:
        Chen, Fox and Guestrin (2014), Stochastic gradient Hamiltonian Monte Carlo,
        equation 9; Leimkuhler and Matthews (2013), Rational construction of stochastic
        numerical methods for molecular sampling, method BAOAB.

    Example:
        >>> target = Target.from_potential(lambda q: 0.5 * (q * q).sum(), 2)
        >>> sghmc(target, 3, 20, num_draws=2, step_size=0.5).shape
        torch.Size([3, 2, 2])
    """
    check_count("num_chains", num_chains)
    check_count("num_draws", num_draws)
    check_count("num_steps", num_steps, 2 * num_draws)
    check_number("friction", friction, strict=True)
    if initial is None:
        initial = map_estimate(
            target, num_chains, seed=seed, num_steps=500, polish_steps=0
        )
    q = _starts(target, num_chains, seed, initial)
    generator = torch.Generator().manual_seed(seed)
    if step_size is None:
        size = _stable_step(target, q, generator)
    else:
        check_number("step_size", step_size, strict=True)
        size = torch.full((num_chains, 1), step_size, dtype=target.dtype)
    # the exact solution of dp = -gamma p dt + sqrt(2 gamma) dW over one step
    decay = torch.exp(-friction * size)
    step = target.lift("baselines.sghmc", _langevin_step, "sghmc")
    _, g = target.value_and_grad(q)
    p = torch.randn(q.shape, generator=generator, dtype=q.dtype)
    # draws at equal distances, counted back from the last step
    keep = {num_steps - i * (num_steps // (2 * num_draws)) for i in range(num_draws)}
    draws = []
    for t in range(1, num_steps + 1):
        noise = torch.randn(q.shape, generator=generator, dtype=q.dtype)
        q, p, g = step(target.data, q, p, g, noise, size, decay, rung=target.rung)
        if t in keep:
            draws.append(q)
    return torch.stack(draws, 1)


def _langevin_step(
    target: Target,
    q: Tensor,
    p: Tensor,
    g: Tensor,
    noise: Tensor,
    size: Tensor,
    decay: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make one step of the splitting kick, drift, friction and noise, drift, kick."""
    p = p + 0.5 * size * g  # B
    q = q + 0.5 * size * p  # A
    # O: the variance 1 - decay^2 leaves a standard normal momentum as it is
    p = decay * p + (1.0 - decay**2).sqrt() * noise
    q = q + 0.5 * size * p
    _, g = value_and_grad(target.log_prob, q)
    return q, p + 0.5 * size * g, g


def _stable_step(target: Target, q: Tensor, generator: torch.Generator) -> Tensor:
    """Choose a step by the largest curvature at each start, `(chains, 1)`."""
    # the power method; curvature c allows leapfrog steps up to 2 / sqrt(c)
    v = torch.randn(q.shape, generator=generator, dtype=q.dtype)
    hessian = Hessian(target, q)
    for _ in range(20):
        v = hessian.matvec(v / v.norm(dim=-1, keepdim=True))
    curvature = v.norm(dim=-1, keepdim=True)
    return 1.0 / (3.0 * curvature.clamp(min=1e-8).sqrt())


def _loss(target: Target) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def loss(q: Tensor) -> tuple[Tensor, Tensor]:
        value, g = target.value_and_grad(q)
        return -value, -g

    return loss


def _starts(target: Target, count: int, seed: int, initial: Tensor | None) -> Tensor:
    if initial is None:
        generator = torch.Generator().manual_seed(seed)
        return target.initial(count, "uniform", generator)
    check_shape("initial", initial.shape, (count, target.dim))
    return initial.detach().to(target.dtype)
