"""The recursion of a filter over time, in operations of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.filtering.hgf.expansions import Coupling, expand
from pyro_geo.filtering.hgf.moment import project
from pyro_geo.filtering.hgf.parameters import HGFInputs, HGFParameters, Kind, Update
from pyro_geo.filtering.hgf.volatility import message

__all__ = ["PROBABILITY", "exponent", "scan"]

PROBABILITY = 1e-6
"""Least probability of a binary input, as in the toolboxes."""


def exponent(gamma: Tensor) -> Tensor:
    """Exponentiate a log-volatility, up to what leaves room for squares of it."""
    return torch.exp(gamma.clamp(max=300.0 if gamma.dtype == torch.float64 else 40.0))


class _Levels(NamedTuple):
    """Parameters of each level, and what is the same in every step."""

    omega: Sequence[Tensor]
    coupling: Sequence[Coupling]
    drift: Sequence[Tensor]
    autoconnection: Sequence[Tensor]
    value_coupling: Sequence[Tensor] | None
    input_precision: Tensor


class _Belief(NamedTuple):
    """Beliefs of all levels after a step, or before it with `gamma`."""

    mean: list[Tensor]
    variance: list[Tensor]
    precision: list[Tensor]
    gamma: list[Tensor]  # log-volatility of each level, empty after a step


def _predict(levels: _Levels, belief: _Belief, t: Tensor, log_t: Tensor) -> _Belief:
    top = len(levels.omega) - 1
    mean = [
        torch.addcmul(rate * old, t, drift)
        for rate, old, drift in zip(
            levels.autoconnection, belief.mean, levels.drift, strict=True
        )
    ]
    gamma = [log_t + omega for omega in levels.omega]
    for j in range(top - 1, -1, -1):
        if levels.value_coupling is not None:
            mean[j] = torch.addcmul(mean[j], t * levels.value_coupling[j], mean[j + 1])
        gamma[j] = torch.addcmul(gamma[j], levels.coupling[j].kappa, mean[j + 1])
    variance = [
        old + exponent(g) for old, g in zip(belief.variance, gamma, strict=True)
    ]
    return _Belief(mean, variance, [v.reciprocal() for v in variance], gamma)


def _observe(
    hat: _Belief, u: Tensor, seen: Tensor, kind: Kind, input_precision: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the change of the lowest mean, and the precision after it."""
    if kind == "continuous":
        gain = seen * input_precision  # 0 leaves the prediction as it is
        precision = hat.precision[0] + gain
        return gain / precision * (u - hat.mean[0]), precision
    p = torch.sigmoid(hat.mean[0]).clamp(PROBABILITY, 1 - PROBABILITY)
    precision = torch.addcmul(hat.precision[0], seen, p * (1 - p))
    return seen * (u - p) / precision, precision


def _change(
    belief: _Belief, hat: _Belief, j: int, change: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the terms `r` and `e` of the energy of the parent of level `j`."""
    log_alpha = torch.log(belief.variance[j])
    log_beta = torch.log(torch.addcmul(variance, change, change))
    return hat.gamma[j] - log_alpha, log_beta - log_alpha


def _fold(
    levels: _Levels, hat: _Belief, j: int, change: Tensor, seen: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Take the message of level `j - 1` to its value parent, exactly."""
    assert levels.value_coupling is not None
    weight = t * levels.value_coupling[j - 1]
    gain = seen * weight * hat.precision[j - 1]
    precision = torch.addcmul(hat.precision[j], gain, weight)
    return gain * change / precision, precision


def _collapsed(
    levels: _Levels, belief: _Belief, hat: _Belief, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Update the upper of two levels with the lower one integrated out."""
    r, e = collapsed_terms(
        belief.variance[0], hat.gamma[0], u - hat.mean[0], levels.input_precision
    )
    pi_hat, coupling = hat.precision[1], levels.coupling[0]
    expansions = expand(r, e, pi_hat, coupling)
    offset, variance, _ = project(r, e, pi_hat, coupling, expansions, prior=True)
    variance = torch.where(coupling.absent, hat.variance[1], variance)
    return torch.where(coupling.absent, 0.0, offset), variance


def collapsed_terms(
    variance: Tensor, gamma: Tensor, error: Tensor, input_precision: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `r` and `e` of the energy of the upper level given the input itself."""
    log_alpha = torch.log(variance + input_precision.reciprocal())
    least = torch.finfo(error.dtype).tiny
    log_beta = torch.log((error * error).clamp(min=least))
    return gamma - log_alpha, log_beta - log_alpha


def scan(
    parameters: HGFParameters,
    inputs: HGFInputs,
    *,
    kind: Kind,
    update: Update,
    value_coupled: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""Filter a series and return the beliefs after each input.

    A pure function of tensors, differentiable any number of times, whose trace has no
    branches: it runs under `torch.func` transforms, `make_fx`, and on any device. Where
    an update that may fail has failed, mean and precision of that level, of those above
    and of all later steps are NaN with derivatives of 0; inside, the belief stays at
    its prediction, so that the derivatives of nothing else are lost.

    Args:
        parameters: of the levels, batch shape `(*batch,)`.
        inputs: of the series; `(*batch, T)`, where the batch shapes broadcast.
        kind: of input.
        update: of the levels above the first.
        value_coupled: False where `value_coupling` is known to be 0, which then costs
            nothing.

    Returns:
        Posterior means and precisions, `(*batch, T, L)`.

    References:
        The generalized Hierarchical Gaussian Filter, arXiv 2305.10937; Robust
        volatility updates for Hierarchical Gaussian Filtering, arXiv 2605.00966.

    Example:
        >>> one = torch.ones(1)
        >>> levels = HGFParameters(
        ...     -one, one[:0], 0 * one, one, 0 * one, one, one[:0], torch.tensor(1.0)
        ... )
        >>> steps = torch.ones(3)
        >>> inputs = HGFInputs(torch.tensor([1.0, 0.0, 2.0]), steps.bool(), steps)
        >>> mu, pi = scan(levels, inputs, kind="continuous", update="unbounded")
        >>> mu.shape, pi.shape
        (torch.Size([3, 1]), torch.Size([3, 1]))
    """
    count = parameters.omega.shape[-1]
    levels = _Levels(
        parameters.omega.unbind(-1),
        [Coupling.of(kappa) for kappa in parameters.kappa.unbind(-1)],
        parameters.drift.unbind(-1),
        parameters.autoconnection.unbind(-1),
        parameters.value_coupling.unbind(-1) if value_coupled else None,
        parameters.input_precision,
    )
    dtype = parameters.omega.dtype
    pi0 = parameters.pi0.unbind(-1)
    belief = _Belief(
        list(parameters.mu0.unbind(-1)), [x.reciprocal() for x in pi0], list(pi0), []
    )
    seens = inputs.observed.to(dtype)
    steps = zip(
        inputs.u.unbind(-1),
        inputs.observed.unbind(-1),
        seens.unbind(-1),
        inputs.time_step.unbind(-1),
        torch.log(inputs.time_step).unbind(-1),
        strict=True,
    )
    means: list[list[Tensor]] = [[] for _ in range(count)]
    precisions: list[list[Tensor]] = [[] for _ in range(count)]
    alive: Tensor | None = None
    for u, observed, seen, t, log_t in steps:
        hat = _predict(levels, belief, t, log_t)
        change, precision = _observe(hat, u, seen, kind, levels.input_precision)
        after = _Belief(
            [hat.mean[0] + change], [precision.reciprocal()], [precision], []
        )
        shown = [alive]
        for j in range(1, count):
            if update == "collapsed":
                offset, variance = _collapsed(levels, belief, hat, u)
                offset = offset * seen
                precision, good = variance.reciprocal(), None
            else:
                r, e = _change(belief, hat, j - 1, change, after.variance[-1])
                coupling, pi_hat, shift = levels.coupling[j - 1], hat.precision[j], None
                if value_coupled:
                    shift, pi_hat = _fold(levels, hat, j, change, seen, t)
                    r = torch.addcmul(r, coupling.kappa, shift)
                (offset, variance, precision), good = message(
                    update, r, e, pi_hat, coupling
                )
                offset = offset * seen if shift is None else shift + offset * seen
            if good is not None:
                good = good | ~observed
                alive = good if alive is None else alive & good
            shown.append(alive)
            change = offset
            after.mean.append(hat.mean[j] + change)
            after.variance.append(torch.where(observed, variance, hat.variance[j]))
            after.precision.append(torch.where(observed, precision, hat.precision[j]))
        for j, ok in enumerate(shown):
            mean, precision = after.mean[j], after.precision[j]
            if ok is not None:
                mean = torch.where(ok, mean, torch.nan)
                precision = torch.where(ok, precision, torch.nan)
            means[j].append(mean)
            precisions[j].append(precision)
        belief = after if alive is None else _revived(after, alive)
    return _stacked(means, inputs, parameters), _stacked(precisions, inputs, parameters)


def _revived(belief: _Belief, alive: Tensor) -> _Belief:
    """Let what has failed go on from constants: nothing can overflow any more."""
    return belief._replace(
        mean=[torch.where(alive, x, 0.0) for x in belief.mean],
        variance=[torch.where(alive, x, 1.0) for x in belief.variance],
        precision=[torch.where(alive, x, 1.0) for x in belief.precision],
    )


def _stacked(
    values: list[list[Tensor]], inputs: HGFInputs, parameters: HGFParameters
) -> Tensor:
    batch = torch.broadcast_shapes(
        *(x.shape[:-1] for x in inputs), parameters.omega.shape[:-1]
    )
    rows = [[x if x.shape == batch else x.expand(batch) for x in row] for row in values]
    return torch.stack([torch.stack(row, -1) for row in rows], -1)
