"""Kernel, mean and noise that suit the data, free of their scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import GreaterThan, Positive
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.means import ConstantMean, Mean
from torch import Tensor
from torch.nn import Module, Parameter

from pyro_geo.checks import check
from pyro_geo.errors import NotPositiveDefiniteError
from pyro_geo.gp._transitions import Noise, Transitions
from pyro_geo.gp.td._likelihood import TDLikelihood
from pyro_geo.gp.td._matern import Matern52
from pyro_geo.ops.arrays import to_numpy

__all__ = [
    "check_transitions",
    "default_kernel",
    "default_likelihood",
    "default_mean",
    "learned",
    "maximise",
]

_exp: Any = torch.exp  # GPyTorch's annotation knows the softplus alone
_LEAST = {torch.float64: 1e-6, torch.float32: 1e-4}


class NoiseAbove(GreaterThan):
    """A least noise for each member of a batch, above which a logarithm is learned.

    Args:
        least: the noise, `(*batch, 1)`.
    """

    def __init__(self, least: Tensor) -> None:
        super().__init__(least, transform=_exp, inv_transform=torch.log)

    def __repr__(self) -> str:
        # GPyTorch's own fails on several numbers
        return f"NoiseAbove({float(self.lower_bound.min()):.3g})"


def check_transitions(transitions: object) -> None:
    """Refuse nodes or rewards that stand in place of transitions."""
    expected = "Transitions(x, x_next, reward, discount)"
    good = isinstance(transitions, Transitions)
    check(good, "transitions", type(transitions).__name__, expected)


def default_kernel(transitions: Transitions) -> Kernel:
    """Make a scaled Matern-5/2 kernel with a lengthscale for each column.

    Its parameters are logarithms. Learning then takes the same steps whatever units
    rewards and nodes come in.

    Args:
        transitions: whose scale to take.

    Returns:
        The kernel, with the batch shape of the transitions.
    """
    batch = transitions.batch_shape
    base = Matern52(
        nu=2.5,
        ard_num_dims=transitions.dim,
        batch_shape=batch,
        lengthscale_constraint=_positive(),
    )
    kernel = ScaleKernel(base, batch_shape=batch, outputscale_constraint=_positive())
    kernel.to(transitions.x)
    spread = transitions.x.std(-2, keepdim=True, correction=0)
    base.lengthscale = torch.where(spread > 0, spread, 1.0)
    horizon = 1 - transitions.discount.amax(-1).clamp(max=0.99)
    # values of rewards that are alike for some time vary more than the rewards
    kernel.outputscale = reward_variance(transitions) / horizon
    return kernel


def default_mean(transitions: Transitions) -> Mean:
    """Make a constant mean, at the least-squares fit of the rewards."""
    mean = ConstantMean(batch_shape=transitions.batch_shape).to(transitions.x)
    factor = 1 - transitions.discount
    weight = factor.square().sum(-1).clamp(min=1e-12)
    mean.constant.data = (factor * transitions.reward).sum(-1) / weight
    return mean


def default_likelihood(transitions: Transitions, noise: Noise) -> TDLikelihood:
    """Make noise of a hundredth of the rewards' variance, to begin with."""
    check_transitions(transitions)
    variance = reward_variance(transitions).unsqueeze(-1)
    least = _LEAST.get(transitions.x.dtype, 1e-4) * variance
    likelihood = TDLikelihood(
        noise,
        transitions,
        noise_constraint=NoiseAbove(least),
        batch_shape=transitions.batch_shape,
    ).to(transitions.x)
    likelihood.noise = 1e-2 * variance
    return likelihood


def reward_variance(transitions: Transitions) -> Tensor:
    """Variance of the rewards, `(*batch,)`; of rewards that are all equal, a square."""
    reward = transitions.reward
    found = reward.var(-1, correction=0)
    square = reward.square().mean(-1)
    found = torch.where(found > 1e-12 * square, found, square)
    return torch.where(found > 0, found, 1.0)


def learned(
    module: Module, transitions: Transitions
) -> tuple[list[Parameter], list[float]]:
    """Find the parameters that have a derivative, and a unit of each.

    Those that are values, the constant mean say, come in the unit of the rewards; the
    others are logarithms, or of order one.

    Args:
        module: that has the parameters.
        transitions: whose rewards have the unit.

    Returns:
        Parameters and units.
    """
    scale = float(reward_variance(transitions).mean().sqrt())
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    units = [scale if name.endswith("constant") else 1.0 for name, _ in named]
    return [parameter for _, parameter in named], units


def maximise(
    module: Module,
    objective: Callable[[], Tensor],
    transitions: Transitions,
    num_steps: int,
) -> None:
    """Raise an objective over the parameters of a module, by L-BFGS.

    Args:
        module: those of its parameters that have a derivative are changed.
        objective: a number.
        transitions: that give the units, see :func:`learned`.
        num_steps: at most so many iterations.
    """
    from scipy.optimize import minimize

    parameters, units = learned(module, transitions)
    if not parameters or not num_steps:
        return
    seen: list[float] = []

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        _write(parameters, units, flat)
        try:
            value = -objective()
        except NotPositiveDefiniteError:
            if not seen:
                raise
            return max(seen) + 1e6, np.zeros_like(flat)  # too far: a shorter step
        seen.append(float(value.detach()))
        grads = torch.autograd.grad(value, parameters, allow_unused=True)
        slopes = [
            (torch.zeros_like(p) if g is None else g).reshape(-1).double() * unit
            for p, g, unit in zip(parameters, grads, units, strict=True)
        ]
        return seen[-1], to_numpy(torch.cat(slopes))

    start = [
        p.detach().reshape(-1).double() / unit
        for p, unit in zip(parameters, units, strict=True)
    ]
    options = {"maxiter": num_steps}
    found: Any = minimize(
        loss,
        to_numpy(torch.cat(start)),
        jac=True,
        method="L-BFGS-B",
        options=options,
    )
    _write(parameters, units, found.x)


def _write(parameters: list[Parameter], units: list[float], flat: np.ndarray) -> None:
    place = 0
    for parameter, unit in zip(parameters, units, strict=True):
        part = torch.from_numpy(flat[place : place + parameter.numel()].copy())
        parameter.data.copy_((unit * part).view_as(parameter))
        place += parameter.numel()


def _positive() -> Positive:
    return Positive(transform=_exp, inv_transform=torch.log)
