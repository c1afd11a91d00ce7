"""Whether a loss falls from a point, although Newton's method sees no way down."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.noise import SequentialNoise
from pyro_geo.geometry.curvature import Hessian
from pyro_geo.geometry.lanczos import lanczos, num_steps

__all__ = ["way_down"]

_REACH = 4.0  # standard deviations of the pull: no draw is further away
_HALVINGS = 16
_EXPLAINED = 3.0  # as in pyro_geo.optim.saddles


def way_down(
    target: Target,
    centre: Tensor,
    pull: float,
    loss: Callable[[Tensor], Tensor],
    predicted: float,
    noise: SequentialNoise,
) -> float:
    """Measure how far a loss falls along the direction that curves down most.

    Args:
        target: tempered density with a quadratic pull towards the point.
        centre: the point, `(dim,)`.
        pull: strength of the pull.
        loss: what counts, at positions `(n, dim)`, tempered as the target.
        predicted: decrease that a Newton step predicts. What it explains is no way
            down: off the floor of a bent valley a loss curves down along the valley.
        noise: the start of Lanczos' method.

    Returns:
        The largest decrease met while the loss falls all the way; 0 where it does not
        curve down, or no more than the predicted decrease explains.

    Example:
        >>> from pyro_geo.density import Localisation
        >>> target = Target.from_potential(
        ...     lambda q: (q[0] ** 2 - 1) ** 2 + q[1] ** 2, 2, dtype=torch.float64
        ... )
        >>> zero = torch.zeros(2).double()
        >>> tempered = target.tempered(1.0, prior=Localisation(zero, 1.0))
        >>> def loss(q):
        ...     return -target.log_likelihood(q)
        >>> gain = way_down(tempered, zero, 1.0, loss, 0.0, SequentialNoise(0))
        >>> 0.9 < gain <= 1.0
        True
    """
    hessian = Hessian(target.with_rung("mapped"), centre[None])
    start = noise.normal(1, len(centre), dtype=torch.float64).to(centre)
    # the loss alone: without the pull's own curvature
    ritz = lanczos(
        lambda v: hessian.matvec(v) - pull * v, start, num_steps(len(centre))
    )
    if not bool(ritz.values[0, 0] < -ritz.rounding[0]):
        return 0.0
    steps = _REACH * pull**-0.5 * 0.5 ** torch.arange(_HALVINGS, -1, -1)
    ways = torch.stack([steps, -steps]).to(centre)  # (2, steps), from short to long
    points = centre + ways[..., None] * ritz.vectors[0, 0]
    losses = loss(torch.cat([centre[None], points.flatten(0, 1)]))
    fall = losses[0] - losses[1:].reshape(ways.shape)
    before = torch.cat([torch.zeros_like(fall[:, :1]), fall[:, :-1]], 1)
    all_the_way = (fall >= before).cumprod(1).bool()
    gain = float(torch.where(all_the_way, fall, 0.0).max())
    return gain if gain > _EXPLAINED * predicted else 0.0
