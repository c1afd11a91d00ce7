r"""Deletion of data from point estimates: Newton's method, influence and baselines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_geo._showing import Shown
from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.density import Target
from pyro_geo.errors import NonStationaryWarning
from pyro_geo.geometry.laplace import MAX_DENSE_DIM
from pyro_geo.geometry.matrices import PositiveDefinite
from pyro_geo.ops.derivatives import value_and_grad
from pyro_geo.optim.descent import adam, adam_step
from pyro_geo.unlearning._objective import Kind, Matrix, Objective
from pyro_geo.unlearning._point_fits import place, point_target, put_back, read_masks
from pyro_geo.unlearning._solves import (
    Product,
    factor_of,
    leverage_by_products,
    leverage_of,
    refuse_leverage,
    solver,
    woodbury,
)

__all__ = ["Method", "PointDeletion", "delete_point"]

Method = Literal["newton", "woodbury", "influence", "ascent", "finetune"]

_METHODS = ("newton", "woodbury", "influence", "ascent", "finetune")
_HALVINGS = 30
_STATIONARY = 1e-3  # gradient of all data per root of their number


@dataclass(frozen=True, repr=False)
class PointDeletion(Shown):
    """Parameters after a deletion, and what is known of them.

    Attributes:
        fit: the module or guide that was given, or the values of the sites, with new
            parameters; what was given is left as it was.
        values: parameter or site to its new value.
        q: the new values as one position, `(dim,)`.
        method: how they were found.
        curvature: matrix that was used, `"gauss_newton"` or `"hessian"`.
        leverage: largest share of the curvature that the forgotten data brought; NaN
            for methods without a curvature.
        gradient_before: norm of the gradient of the loss of all data at the old
            parameters; 0 at a minimum.
        gradient_retained: norms of the gradient of the retained loss, at the old and at
            the new parameters.
        loss_retained: retained loss at the old and at the new parameters.
        halvings: how often steps were halved until the loss fell.
        num_steps: steps made.
    """

    fit: Any
    values: dict[str, Tensor]
    q: Tensor
    method: Method
    curvature: str
    leverage: float
    gradient_before: float
    gradient_retained: tuple[float, float]
    loss_retained: tuple[float, float]
    halvings: int
    num_steps: int

    def _shown_facts(self) -> dict[str, object]:
        before, after = self.gradient_retained
        return {
            "fit": type(self.fit).__name__,
            "method": self.method,
            "steps": self.num_steps,
            "leverage": self.leverage,
            "gradient before": before,
            "after": after,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, without the parameters."""
        return {
            "method": self.method,
            "curvature": self.curvature,
            "leverage": self.leverage,
            "gradient_before": self.gradient_before,
            "gradient_retained": list(self.gradient_retained),
            "loss_retained": list(self.loss_retained),
            "halvings": self.halvings,
            "num_steps": self.num_steps,
        }


def delete_point(
    model: Callable[..., Any] | Target,
    params: Any,
    data: tuple[Any, ...] | Mapping[str, Any] | None,
    forget: Any,
    *,
    method: Method = "newton",
    damping: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    prior_precision: float = 0.0,
    curvature: Kind = "auto",
    precision: PositiveDefinite | None = None,
    num_steps: int | None = None,
    learning_rate: float | None = None,
    jacobian: bool | None = None,
) -> PointDeletion:
    r"""Delete data from a point estimate without a new fit.

    With :math:`L_R` the loss of the retained data and the prior, in sum form:

    .. math::
        \text{newton: } \theta' = \theta - H_R^{-1} \nabla L_R(\theta), \quad
        \text{woodbury: } \theta' = \theta + H_R^{-1} g_F, \quad
        \text{influence: } \theta' = \theta + H_D^{-1} g_F

    with :math:`g_F` the gradient of the forgotten data. Newton's step is exact for a
    quadratic loss. `"woodbury"` finds :math:`H_R^{-1}` from the curvature of all data
    and the forgotten ones alone; at a minimum of all data it is Newton's step. The
    error of `"influence"` grows like the leverage. Gradient `"ascent"` on the forgotten
    data and `"finetune"` on the retained ones are baselines, by Adam. Steps are halved
    until the retained loss falls.

    Where the model is not convex, nothing says that the result is close to a new fit.
    The norm of the gradient on the retained data is returned always; it is no
    certificate. See :func:`~pyro_geo.unlearning.certified_newton` for one.

    Args:
        model: a Pyro model; a module, with `loss`; or a target made from either.
        params: where the fit is: an `AutoDelta` guide, a dictionary of values by site
            or parameter, a flat position `(dim,)`, or None for the parameters of the
            module.
        data: arguments of the model (a dictionary for keywords), or inputs and targets
            of the module; None where `model` is a target.
        forget: rows to forget, as indices or as a mask, or a dictionary from a plate
            or an observed site to them.
        method: see above.
        damping: added to the diagonal of the curvature.
        loss: `loss(outputs, targets)` of a module, in nats and one for each datum.
        prior_precision: of a normal prior on the parameters of a module.
        curvature: `"gauss_newton"`, `"hessian"`, or `"auto"` for the first where the
            model has it.
        precision: curvature of all data, kept from the fit, for `"woodbury"` and
            `"influence"`; computed if None.
        num_steps: repetitions, 1 for the first three methods, and 100 steps of Adam
            else.
        learning_rate: of Adam, 0.01 if None.
        jacobian: whether the fit is a mode of the density of unconstrained values, as
            those of `find_modes`, or of constrained ones (False), as those of
            `AutoDelta`; if None that of `AutoDelta` for such a guide only.

    Returns:
        The new parameters. Forgotten data with a leverage of 1 or more raise
        :class:`~pyro_geo.errors.LeverageError`, parameters without a positive
        curvature :class:`~pyro_geo.errors.NotPositiveDefiniteError`, an impossible
        forget set :class:`~pyro_geo.errors.ForgetSetError`.

    Warns:
        NonStationaryWarning: the parameters are not at a minimum.

    References:
        Cook and Weisberg (1982), Residuals and influence in regression; Guo et al.
        (2020), Certified data removal from machine learning models, 1911.03030;
        WIN-U, 2604.13438, for the retain-free form.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 2.0]])
        >>> y = torch.tensor([[1.0], [2.0], [3.0], [9.0]])
        >>> line = torch.nn.Linear(2, 1, bias=False)
        >>> _ = line.weight.data.copy_(torch.linalg.lstsq(x, y).solution.T)
        >>> squares = lambda f, y: 0.5 * (f - y).square().sum(-1)
        >>> result = delete_point(line, None, (x, y), [3], loss=squares)
        >>> [round(w, 4) for w in result.values["weight"].flatten().tolist()]
        [1.0, 2.0]
    """
    check_choice("method", method, _METHODS)
    check_choice("curvature", curvature, ("auto", "gauss_newton", "hessian"))
    check_number("damping", damping)
    check_count("num_steps", num_steps)
    check_number("learning_rate", learning_rate, strict=True)
    uses = method in ("woodbury", "influence")
    check(precision is None or uses, "precision", method, "woodbury or influence")
    target = point_target(model, data, loss, prior_precision)
    q = place(target, model, params)
    masks = read_masks(forget, target)
    if jacobian is None:
        jacobian = not isinstance(params, AutoDelta)
    objective = Objective(target, masks, curvature, damping, jacobian=jacobian)
    _, whole = objective.value_and_grad("all", q)
    before, left = objective.value_and_grad("retained", q)
    _check_stationary(float(whole.norm()), objective.count("all"))
    if method in ("ascent", "finetune"):
        steps = 100 if num_steps is None else num_steps
        rate = 0.01 if learning_rate is None else learning_rate
        new, leverage, halvings = _descend(objective, q, method, steps, rate)
    else:
        steps = 1 if num_steps is None else num_steps
        new, leverage, halvings = _newton(objective, q, method, steps, precision)
    after, gradient = objective.value_and_grad("retained", new)
    return PointDeletion(
        fit=put_back(target, model, params, new),
        values=target.constrain(new),
        q=new,
        method=method,
        curvature=objective.kind,
        leverage=leverage,
        gradient_before=float(whole.norm()),
        gradient_retained=(float(left.norm()), float(gradient.norm())),
        loss_retained=(float(before), float(after)),
        halvings=halvings,
        num_steps=steps,
    )


def _check_stationary(gradient: float, count: int) -> None:
    limit = _STATIONARY * count**0.5
    if not gradient <= limit:
        warnings.warn(
            NonStationaryWarning(
                "the fit is not at a minimum, so that part of the step is training",
                where="argument params",
                found=f"a gradient of norm {gradient:.3g} on all data",
                expected=f"at most {limit:.3g}",
                todo="Train longer, with a full-batch optimiser at the end.",
            ),
            stacklevel=3,
        )


def _newton(
    objective: Objective,
    q: Tensor,
    method: Method,
    num_steps: int,
    precision: PositiveDefinite | None,
) -> tuple[Tensor, float, int]:
    """Step with a curvature; return the position, the leverage and the halvings."""
    solve, leverage = _solve_of(objective, q, method, precision)
    halvings = 0
    for step in range(num_steps):
        if step and method == "newton":  # the others keep their first matrix
            solve, _ = solver(objective.matrix("retained", q), len(q), "retained data")
        if step or method == "newton":
            slope = -objective.value_and_grad("retained", q)[1]
        else:
            slope = objective.value_and_grad("forgotten", q)[1]
        q, halved = backtracked(objective, q, solve(slope[None])[0])
        halvings += halved
    return q, leverage, halvings


def _solve_of(
    objective: Objective, q: Tensor, method: Method, precision: PositiveDefinite | None
) -> tuple[Product, float]:
    """Make the solve of a method, and find the leverage."""
    dim = len(q)
    gone: Matrix = objective.matrix("forgotten", q)
    dense_gone = gone.dense() if dim <= MAX_DENSE_DIM else None
    if precision is None:
        whole = objective.matrix("all", q)
        solve, dense = solver(whole, dim, "all data")
        product: Product = whole.matvec
    else:
        solve, product = precision.solve, precision.matvec
        dense = precision.dense() if dense_gone is not None else None
    if method == "woodbury":
        return woodbury(factor_of(gone if dense_gone is None else dense_gone), solve)
    if dense is None or dense_gone is None:
        leverage = leverage_by_products(gone, product, solve)
    else:
        leverage = leverage_of(dense_gone, dense)
    if leverage >= 1 - 1e-12:
        refuse_leverage(leverage)
    if method == "newton":
        solve, _ = solver(objective.matrix("retained", q), dim, "retained data")
    return solve, leverage


def backtracked(objective: Objective, q: Tensor, step: Tensor) -> tuple[Tensor, int]:
    """Halve a step until the retained loss falls; stay where it never does.

    Args:
        objective: the losses.
        q: position, `(dim,)`.
        step: from it, `(dim,)`.

    Returns:
        The new position, and how often the step was halved.
    """
    loss = objective.loss("retained")
    with torch.no_grad():
        before = loss(q)
        rounding = 64 * torch.finfo(q.dtype).eps * before.abs()
        for halvings in range(_HALVINGS):
            new = q + step
            if bool(loss(new) <= before + rounding):
                return new, halvings
            step = step / 2
    return q, _HALVINGS


def _descend(
    objective: Objective, q: Tensor, method: Method, num_steps: int, rate: float
) -> tuple[Tensor, float, int]:
    part = "forgotten" if method == "ascent" else "retained"
    sign = -1.0 if method == "ascent" else 1.0
    loss = objective.loss(part)

    def fn(rows: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_grad(lambda x: sign * loss(x[0])[None], rows)

    result = adam(partial(adam_step, fn), q[None], num_steps, rate)
    return result.last[0], float("nan"), 0
