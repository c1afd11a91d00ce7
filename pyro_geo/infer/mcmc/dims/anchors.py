"""Anchors: the trained solutions that particles leave from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.density import Target
from pyro_geo.errors import (
    AnchorNotConvergedWarning,
    NonFiniteLossError,
    PyroGeoWarning,
    UnboundedMinimumWarning,
)
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.polishing import (
    leave_saddles_lanes,
    maybe_saddles,
    polish_lanes,
)
from pyro_geo.ops.derivatives import value_and_grad
from pyro_geo.ops.lanes import map_lanes
from pyro_geo.optim.descent import adam, adam_step
from pyro_geo.optim.trust_region import SADDLE, PolishState, rounding_of

__all__ = ["Anchors", "examine_anchors", "train_anchors"]

_CHUNK = 250  # steps between two looks at the loss
_RAY = 8  # points evaluated on the way to three times the norm
_PATIENCE = 4  # Newton steps of an anchor, in units of those of a draw
_SHARPEN = 5  # further steps after convergence: each squares the remaining error
_TRAINED = 10.0  # predicted decrease allowed at an anchor, in units of the tolerance
_DIRECTIONS = 8  # followed down from an anchor where the loss is flat


class Anchors(NamedTuple):
    """Trained positions, `(chains, dim)`, and what is known about them.

    Attributes:
        q: positions, `(chains, dim)`.
        loss: loss there, `(chains,)`.
        grad: gradient there, `(chains, dim)`.
        predicted: decrease of the loss predicted for one more Newton step, `(chains,)`.
        unbounded: loss still falls while the norm doubles, boolean, `(chains,)`.
        saddle: at a saddle from which no minimum was found, boolean, `(chains,)`.
    """

    q: Tensor
    loss: Tensor
    grad: Tensor
    predicted: Tensor
    unbounded: Tensor
    saddle: Tensor

    @renamed(polish_tol="polish_tolerance")
    def level(self, polish_tolerance: float) -> Tensor:
        """Loss of the anchors that are minima, `(chains,)`; NaN at the others."""
        minimal = self.predicted <= _TRAINED * polish_tolerance
        minimal &= ~self.unbounded & ~self.saddle
        return torch.where(minimal, self.loss, torch.nan)

    @renamed(polish_tol="polish_tolerance")
    def warnings(self, polish_tolerance: float) -> list[PyroGeoWarning]:
        """Say which anchors are no minima."""
        tolerance = _TRAINED * polish_tolerance
        warnings: list[PyroGeoWarning] = []
        if bool(self.unbounded.any()):
            warnings.append(
                UnboundedMinimumWarning(
                    "the loss still falls while the parameters double in size",
                    where=f"anchors {_rows(self.unbounded)}",
                    found=f"loss {float(self.loss[self.unbounded][0]):.6g}",
                    expected="a loss that takes its minimum",
                    todo="Add a prior (prior_weight, or loss='joint' with a proper "
                    "one), smooth labels, or reparametrise.",
                )
            )
        if bool(self.saddle.any()):
            warnings.append(
                AnchorNotConvergedWarning(
                    "anchors are saddles of the loss, not minima",
                    where=f"anchors {_rows(self.saddle)}",
                    found=f"{int(self.saddle.sum())} of {len(self.saddle)} where the "
                    "loss falls along a direction of negative curvature",
                    expected="none",
                    todo="Start the training elsewhere (init_strategy='uniform'), or "
                    "pass trained anchors.",
                )
            )
        unfinished = ~(self.predicted <= tolerance) & ~self.unbounded & ~self.saddle
        if bool(unfinished.any()):
            worst = float(self.predicted[unfinished].nan_to_num(math.inf).max())
            warnings.append(
                AnchorNotConvergedWarning(
                    "anchors are not at a minimum",
                    where=f"anchors {_rows(unfinished)}",
                    found=f"a predicted decrease of {worst:.3g} nat",
                    expected=f"at most {tolerance:.3g}",
                    todo="Raise anchor_steps, or pass trained anchors.",
                )
            )
        return warnings


def train_anchors(
    target: Target,
    objective: Objective,
    start: Tensor,
    options: DIMSOptions,
    num_lanes: int,
    chains: Sequence[int] | None = None,
    normals: Tensor | None = None,
) -> Anchors:
    """Train anchors: Adam while the loss falls, then the Newton polish.

    One that ends at a saddle, as a symmetric start may, is moved down from there and
    polished again. Anchors are trained a fixed number at a time, so that an anchor does
    not depend on how many others there are.

    Args:
        target: the density.
        objective: the loss on it.
        start: starts, `(chains, dim)`.
        options: `anchor_steps`, `anchor_step_size` and the polish's numbers.
        num_lanes: anchors trained side by side.
        chains: what errors call the rows, their number if None.
        normals: normal numbers for the search for saddles, `(chains, dim)`; fixed ones
            if None.

    Returns:
        The anchors. One whose loss or gradient is not finite is a
        :class:`~pyro_geo.errors.NonFiniteLossError`.

    References:
        Kingma & Ba (2015), Adam: a method for stochastic optimization, 1412.6980.
    """

    def train(rows: Tensor) -> tuple[Tensor, Tensor]:
        return _adam(target, objective, rows, options)

    trained, halfway = map_lanes(train, start, num_lanes)
    tolerance = min(options.polish_tolerance, 1e-3)
    state = polish_lanes(
        target,
        objective,
        trained,
        num_lanes,
        tolerance=tolerance,
        max_steps=_PATIENCE * options.polish_max_steps,
    )
    _check_finite(state, chains)
    state = leave_saddles_lanes(
        target,
        objective,
        state,
        normals,
        num_lanes,
        tolerance=tolerance,
        max_steps=_PATIENCE * options.polish_max_steps,
        active=state.predicted <= tolerance,
        directions=_DIRECTIONS,
    )
    saddle = state.status == SADDLE
    converged = state.predicted <= tolerance
    # a few more steps, down to rounding: draws are compared with the anchor's loss
    sharp = polish_lanes(
        target,
        objective,
        state.q,
        num_lanes,
        tolerance=min(tolerance, torch.finfo(state.q.dtype).eps ** 0.5),
        max_steps=_SHARPEN,
    )
    lower = sharp.loss <= state.loss + rounding_of(state.loss)
    better = converged & lower & (sharp.predicted <= tolerance)
    row = better.unsqueeze(-1)
    q = torch.where(row, sharp.q, state.q)
    loss = torch.where(better, sharp.loss, state.loss)
    grad = torch.where(row, sharp.grad, state.grad)
    predicted = torch.where(better, sharp.predicted, state.predicted)

    def loss_at(x: Tensor) -> Tensor:
        return map_lanes(
            lambda rows: objective.value_and_grad(target, rows)[0], x, num_lanes
        )

    # a loss without a minimum keeps falling in the direction that training took
    unbounded = _falls_along_ray(loss_at, q, loss, q - halfway)
    unbounded |= _falls_along_axis(loss_at, q, loss, q - trained)
    return Anchors(q, loss, grad, predicted, unbounded, saddle & ~unbounded)


def examine_anchors(
    target: Target,
    objective: Objective,
    q: Tensor,
    options: DIMSOptions,
    num_lanes: int,
    chains: Sequence[int] | None = None,
    normals: Tensor | None = None,
) -> Anchors:
    """Evaluate anchors: loss, gradient, predicted decrease, and which are saddles.

    Args:
        target: the density.
        objective: the loss on it.
        q: positions, `(chains, dim)`.
        options: the polish's numbers.
        num_lanes: anchors evaluated side by side.
        chains: what errors call the rows, their number if None.
        normals: normal numbers for the search for saddles, `(chains, dim)`; fixed ones
            if None.

    Returns:
        The anchors, where they were. One whose loss or gradient is not finite is a
        :class:`~pyro_geo.errors.NonFiniteLossError`.
    """
    tolerance = min(options.polish_tolerance, 1e-3)
    state = polish_lanes(
        target, objective, q, num_lanes, tolerance=tolerance, max_steps=0
    )
    _check_finite(state, chains)
    state = leave_saddles_lanes(
        target,
        objective,
        state,
        normals,
        num_lanes,
        tolerance=tolerance,
        max_steps=0,
        active=maybe_saddles(state, _TRAINED * options.polish_tolerance),
        directions=_DIRECTIONS,
    )
    bounded = torch.zeros_like(state.loss, dtype=torch.bool)
    saddle = state.status == SADDLE
    return Anchors(state.q, state.loss, state.grad, state.predicted, bounded, saddle)


def _check_finite(state: PolishState, chains: Sequence[int] | None) -> None:
    finite = state.loss.isfinite() & state.grad.isfinite().all(-1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise NonFiniteLossError(
            "an anchor has no finite loss",
            where=f"anchor {row if chains is None else chains[row]}",
            found=f"loss {float(state.loss[row])}, "
            f"gradient of norm {float(state.grad[row].norm())}",
            expected="a finite loss and gradient",
            todo="Pass another anchor, or check the data.",
        )


def _adam(
    target: Target, objective: Objective, q: Tensor, options: DIMSOptions
) -> tuple[Tensor, Tensor]:
    """Run Adam until the loss stops falling; return the best and halfway positions.

    A row whose loss has stopped falling is frozen, so that none depends on the others.

    Returns:
        Both, `(lanes, dim)` each.
    """
    lifted = target.lift(
        (*objective.key, "adam"),
        lambda target, *state: adam_step(
            lambda x: value_and_grad(objective.on(target), x), *state
        ),
        "a step of Adam",
    )
    one, zero = q.new_ones(()), torch.zeros_like(q)
    laned = (True, True, True, False, False)
    step = lifted.specialise(
        target.data, q, zero, zero, one, one, rung="traced", laned=laned
    )
    steps, size = options.anchor_steps, options.anchor_step_size
    result = adam(step, q, steps, size, check_every=_CHUNK)
    return result.best, result.halfway


def _falls_along_ray(
    loss_at: Callable[[Tensor], Tensor], q: Tensor, loss: Tensor, direction: Tensor
) -> Tensor:
    """Follow the last direction of training until the norm has tripled.

    A minimum at infinity, as separable data have, shows as a loss that never rises on
    the way and ends lower by more than its rounding.

    Returns:
        Whether it does, boolean, `(chains,)`.
    """
    length = direction.norm(dim=-1, keepdim=True)
    reach = q.norm(dim=-1, keepdim=True)
    unit = direction / length.clamp(min=torch.finfo(q.dtype).tiny)
    # a direction of almost no length is rounding, and shows nothing
    falls = (length > 1e-3 * (1 + reach)).squeeze(-1)
    last = loss
    for k in range(1, _RAY + 1):
        value = loss_at(q + (k / _RAY) * 2 * reach * unit)
        falls &= value <= last
        last = value
    return falls & (last < loss - rounding_of(loss))


def _falls_along_axis(
    loss_at: Callable[[Tensor], Tensor], q: Tensor, loss: Tensor, path: Tensor
) -> Tensor:
    """Follow the axis on which the Newton steps went furthest, by one unit.

    A density without a mode, as that of a scale that shrinks together with what it
    scales, has a valley that is too bent for a straight ray and too narrow for Newton
    steps: the polish stops on its wall and sees no decrease there, although the loss
    falls by several nats along the valley's axis.

    Returns:
        Whether at least one nat is left, boolean, `(chains,)`.
    """
    axis = path.abs().argmax(-1, keepdim=True)
    far = path.gather(-1, axis)
    falls = (far.abs() >= 1).squeeze(-1)
    last = loss
    for k in (0.5, 1.0):
        value = loss_at(q.scatter_add(-1, axis, k * far.sign()))
        falls &= value < last - 0.5
        last = value
    return falls


def _rows(mask: Tensor) -> str:
    rows = mask.nonzero().flatten().tolist()
    return ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
