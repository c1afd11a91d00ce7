r"""The normal distribution whose precision is the expected Hessian under itself."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import ConvergenceWarning
from pyro_geo.geometry.curvature import Hessian
from pyro_geo.geometry.laplace import laplace
from pyro_geo.infer.fits.guides import Moments
from pyro_geo.infer.fits.precisions import factored
from pyro_geo.ops.random import normal_points
from pyro_geo.optim.descent import lbfgs

__all__ = ["expected_hessian"]

_CITED = ("expected_hessian",)
_STEPS = 100
_CLOSE = 1e-5  # change of the mean and of the precision, in its own units
_DESCENT = 500
_ENTRIES = 1 << 21  # of Hessians in memory at once


def expected_hessian(
    target: Target, start: Tensor | None, num_points: int, seed: int
) -> Moments:
    """Find the fixed point of the expected Hessian and the expected gradient.

    Args:
        target: the density.
        start: a position near the mode, `(dim,)`; None to look for it.
        num_points: of the average, in pairs.
        seed: of the points.

    Returns:
        The moments.

    Warns:
        ConvergenceWarning: the iteration was cut off.
    """
    noise = normal_points(target.dim, num_points, seed).to(target.device)
    loc = _mode(target, start, seed)
    precision = laplace(target, loc, curvature="hessian", flat="size").precision
    loc = loc.double()
    root = factored(precision.dense().double())
    change, damping = torch.inf, 1.0
    for _ in range(_STEPS):
        q = (loc + root.sample_inverse(noise)).to(target.dtype)
        slope, hessian = _averages(target, q)
        new = factored(
            (1 - damping) * root.dense() + damping * hessian, "an expected Hessian"
        )
        step = -damping * new.solve(slope)
        moved = float(new.norm(step))
        whitened = new.root_solve(new.root_solve(root.dense()).T)
        turned = float((whitened - torch.eye(len(loc)).to(loc)).norm())
        loc, root = loc + step, new
        if max(moved, turned) > change:
            damping = max(0.5 * damping, 0.1)  # it goes back and forth
        change = max(moved, turned)
        if change <= _CLOSE * damping:
            return Moments(loc, root, target.layout, (), _CITED)
    note = f"The fit was cut off at a change of {change:.2g}."
    warnings.warn(
        ConvergenceWarning(
            "the expected Hessian has not converged",
            where="GaussianPosterior.from_target",
            found=f"a change of {change:.2g} after {_STEPS} steps",
            expected=f"at most {_CLOSE:g}",
            todo="Pass more num_points, or a start nearer the mode.",
        ),
        stacklevel=3,
    )
    return Moments(loc, root, target.layout, (note,), _CITED)


def _averages(target: Target, q: Tensor) -> tuple[Tensor, Tensor]:
    """Average the gradient and the Hessian of minus the log-density."""
    slope = -target.value_and_grad(q)[1].double().mean(0)
    total = torch.zeros(target.dim, target.dim, dtype=torch.float64, device=q.device)
    for part in q.split(max(1, _ENTRIES // target.dim**2)):
        total += Hessian(target, part).dense().double().sum(0)
    return slope, total / len(q)


def _mode(target: Target, start: Tensor | None, seed: int) -> Tensor:
    if start is not None:
        return start.to(target.dtype)
    generator = torch.Generator().manual_seed(seed)
    q = target.initial(1, target.default_strategy, generator)

    def loss(q: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = target.value_and_grad(q)
        return -value, -slope

    return lbfgs(loss, q, _DESCENT)[0].detach()
