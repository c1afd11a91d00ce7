r"""Newton polish of points of a plain loss, saddles told from minima."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.checks import check, check_number
from pyro_geo.ops.derivatives import hvp as batched_hvp
from pyro_geo.ops.derivatives import value_and_grad as batched_value_and_grad
from pyro_geo.ops.lanes import dot
from pyro_geo.optim.saddles import leave_saddles
from pyro_geo.optim.trust_region import (
    CONVERGED,
    DIVERGING,
    FIRST_RADIUS,
    SADDLE,
    polish,
)

__all__ = ["PolishResult", "polish_minima"]

_DIRECTIONS = 8  # followed where a point is flat


class PolishResult(NamedTuple):
    """Polished points and how far they may be trusted.

    Attributes:
        theta: polished points, `(n, dim)`.
        loss: loss there, `(n,)` as are all below.
        loss_before: loss at the starts.
        grad_norm: norm of the gradient.
        predicted_decrease: decrease that was predicted for the last Newton step, in
            units of the loss; one more step would win less.
        displacement: distance from the start.
        n_iter: Newton steps tried.
        n_evals: evaluations, each a value with gradient or a Hessian-vector product.
        converged: whether the predicted decrease is within the tolerance, and no way
            down was found along a direction of negative curvature.
        saddle: whether such a way was found, and no minimum from there.
        diverging: whether the loss or its derivatives stopped being finite.
    """

    theta: Tensor
    loss: Tensor
    loss_before: Tensor
    grad_norm: Tensor
    predicted_decrease: Tensor
    displacement: Tensor
    n_iter: Tensor
    n_evals: Tensor
    converged: Tensor
    saddle: Tensor
    diverging: Tensor


@renamed(tol="tolerance", max_iter="max_steps")
def polish_minima(
    loss: Callable[[Tensor], Tensor],
    theta: Tensor,
    *,
    tolerance: float = 1e-2,
    max_steps: int = 25,
    batched: bool = False,
    generator: torch.Generator | None = None,
) -> PolishResult:
    """Carry points close to minima of a loss down to them.

    Use it on the end points of a flow, or on trained parameters. With noisy data the
    Hessian at a minimum of a network's loss is often not positive, and no method gets
    the gradient to zero; the predicted decrease is then what is left to win.

    A point that has come to a saddle is moved down the direction of negative
    curvature and polished again; where that leads to no minimum it is marked
    (:func:`~pyro_geo.optim.saddles.leave_saddles` says how it is looked for). With
    `max_steps=0` points are judged where they are.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where `theta` has neither
    one nor two axes.

    Args:
        loss: function of one point, `(dim,)` to `()`; or of all, if `batched`.
        theta: starts, `(n, dim)` or `(dim,)`.
        tolerance: predicted decrease at which to stop, in units of the loss.
        max_steps: Newton steps allowed.
        batched: the loss maps `(n, dim)` to `(n,)`, rows independent of each other.
        generator: randomness of the search for negative curvature; one of seed 0 if
            None.

    Returns:
        The polished points; a leading axis `n` of 1 for a single start.

    References:
        Steihaug (1983), The conjugate gradient method and trust regions in large
        scale optimization.

    Example:
        >>> hyperbola = lambda x: (x[0] * x[1] - 1) ** 2
        >>> start = torch.tensor([[2.0, 0.6]], dtype=torch.float64)
        >>> result = polish_minima(hyperbola, start, tolerance=1e-18)
        >>> bool(result.loss < 1e-18), result.converged.tolist()
        (True, [True])
    """
    check(theta.dim() in (1, 2), "theta", tuple(theta.shape), "(dim,) or (n, dim)")
    check_number("tolerance", tolerance)
    check_number("max_steps", max_steps)
    start = torch.atleast_2d(theta).detach()
    lanes = loss if batched else torch.func.vmap(loss)
    before = lanes(start).detach()

    def value_and_grad(q: Tensor) -> tuple[Tensor, Tensor]:
        return batched_value_and_grad(lanes, q)

    def hvp(q: Tensor, v: Tensor) -> Tensor:
        return batched_hvp(lanes, q, v)

    state = polish(value_and_grad, hvp, start, tolerance=tolerance, max_steps=max_steps)
    active = state.status == CONVERGED
    if not max_steps:
        # without a slope Newton's method may still see a way down: the curvature's
        active |= dot(state.grad, state.grad).sqrt() * FIRST_RADIUS <= tolerance
    noise = torch.Generator().manual_seed(0) if generator is None else generator
    state = leave_saddles(
        value_and_grad,
        hvp,
        state,
        torch.randn(start.shape, generator=noise, dtype=torch.float64).to(start),
        tolerance=tolerance,
        max_steps=max_steps,
        active=active,
        directions=_DIRECTIONS,
    )
    return PolishResult(
        theta=state.q,
        loss=state.loss,
        loss_before=before,
        grad_norm=dot(state.grad, state.grad).sqrt(),
        predicted_decrease=state.predicted,
        displacement=(state.q - start).square().sum(-1).sqrt(),
        n_iter=state.n_iter,
        n_evals=state.n_evals,
        converged=state.status == CONVERGED,
        saddle=state.status == SADDLE,
        diverging=state.status == DIVERGING,
    )
