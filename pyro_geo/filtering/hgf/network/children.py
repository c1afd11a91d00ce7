r"""Belief of a state that sets the variances of several others.

The variational energy is the sum of one term for each child,

.. math::
    I(x) = \sum_c \Bigl[-\tfrac12 \log(\alpha_c + e^{y_c(x)})
        - \tfrac12 \frac{\beta_c}{\alpha_c + e^{y_c(x)}}\Bigr]
        - \tfrac12 \hat\pi (x - \hat\mu)^2,
    \qquad y_c(x) = \log t + \kappa_c x + \omega_c.

Children that reported nothing, and those with a coupling of zero, have no term.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo.filtering.hgf.parameters import Update
from pyro_geo.ops.special import wright_omega

__all__ = ["Children", "children_energy", "children_update"]

_FAR = 1e4  # prior deviations that an expansion may move
_CAP = 80.0  # exp of it, 5e34, decides every comparison and fits single precision
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(16)


class Children(NamedTuple):
    r"""What the children of one state report, each `(n, *batch)`.

    Attributes:
        alpha: :math:`\alpha`, variance of the child's belief before the step.
        beta: :math:`\beta`, variance of its new belief and the square of its move.
        kappa: :math:`\kappa`, volatility coupling.
        offset: :math:`\log t + \omega`, with what other parents add to it.
        reported: whether anything was observed of it, bool.
    """

    alpha: Tensor
    beta: Tensor
    kappa: Tensor
    offset: Tensor
    reported: Tensor


class _Terms(NamedTuple):
    """The energy at some points and what expansions need of it."""

    energy: Tensor
    slope: Tensor
    precision: Tensor  # minus the second derivative
    concave: Tensor  # that without the terms that may be negative


def children_energy(
    x: Tensor, children: Children, mu_hat: Tensor, pi_hat: Tensor
) -> Tensor:
    """Evaluate the variational energy of a state with several children.

    Args:
        x: values of the state, `(..., *batch)`.
        children: what they report, `(n, *batch)`.
        mu_hat: predicted mean, `(*batch,)`.
        pi_hat: predicted precision, `(*batch,)`.

    Returns:
        The energy up to a constant, `(..., *batch)`.

    Example:
        >>> one = torch.ones(2)  # two children alike
        >>> children = Children(one, one, one, 0 * one, one > 0)
        >>> children_energy(torch.zeros(()), children, torch.zeros(()), torch.ones(()))
        tensor(-1.1931)
    """
    points = x.dim() - mu_hat.dim()
    flat = x.reshape(-1, *x.shape[points:])
    found = _terms(flat, _safe(children), mu_hat, pi_hat).energy
    return found.reshape(x.shape[:points] + found.shape[1:])


def children_update(
    kind: Update, children: Children, mu_hat: Tensor, pi_hat: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Update the belief of a state by the moves of the states whose variance it sets.

    The kind "unbounded" weighs `n + 1` expansions of the energy `I`: one at the
    prediction with the concave part of the curvature, and one at the point
    :math:`x^*_c` where each child alone would put the mode as its :math:`\alpha`
    vanishes. Each takes one step of Newton on the whole of `I`; the weights are
    :math:`\mathrm{softmax}\, I(m)`, and the result has the mean and variance of the
    mixture. The order of the children makes no difference. With one child this is
    :func:`~pyro_geo.filtering.hgf.volatility.volatility_update`.

    Args:
        kind: of the update; "moment" projects the energy itself by quadrature at the
            same expansions, the others are sums of what one child adds.
        children: what they report.
        mu_hat: mean that the state is predicted to have, `(*batch,)`, messages of
            value children included.
        pi_hat: its precision.

    Returns:
        Mean and precision, `(*batch,)`; the kinds "classic" and "ehgf_pyhgf" may give
        a precision that is not positive.

    References:
        The generalized Hierarchical Gaussian Filter (arXiv 2305.10937) for the sums;
        Robust volatility updates for Hierarchical Gaussian Filtering
        (arXiv 2605.00966) for one child; several children by the unbounded rule:
        derived.

    Example:
        >>> one = torch.ones(2)
        >>> children = Children(0.1 * one, 9 * one, one, 0 * one, one > 0)
        >>> mean, precision = children_update(
        ...     "unbounded", children, torch.zeros(()), torch.ones(())
        ... )
        >>> round(mean.item(), 3), round(precision.item(), 3)
        (1.296, 3.751)
    """
    safe = _safe(children)
    if kind == "unbounded":
        m, p, weight = _expansions(safe, mu_hat, pi_hat)
        mean, precision = _match(m, 1 / p, weight)
    elif kind == "moment":
        mean, precision = _project(safe, mu_hat, pi_hat)
    else:
        mean, precision = _one_step(kind, safe, mu_hat, pi_hat)
    informed = safe.reported.any(0)
    return torch.where(informed, mean, mu_hat), torch.where(informed, precision, pi_hat)


def _safe(children: Children) -> Children:
    """Give children without a term harmless numbers, so that gradients stay finite."""
    used = children.reported & (children.kappa != 0)
    one = children.kappa.new_ones(())
    return Children(
        torch.where(used, children.alpha, one),
        torch.where(used, children.beta, one),
        torch.where(used, children.kappa, one),
        torch.where(used, children.offset, 0 * one),
        used,
    )


def _terms(x: Tensor, children: Children, mu_hat: Tensor, pi_hat: Tensor) -> _Terms:
    """Sum the terms of the children at points `(points, *batch)`."""
    alpha, beta, kappa, offset, used = children
    log_alpha = torch.log(alpha)
    y = kappa * x.unsqueeze(1) + offset  # (points, n, *batch)
    log_sum = torch.logaddexp(log_alpha, y)
    ratio = torch.exp((torch.log(beta) - log_sum).clamp(max=_CAP))
    delta = ratio - 1
    w, rest = torch.sigmoid(y - log_alpha), torch.sigmoid(log_alpha - y)
    half = 0.5 * used.to(x.dtype)
    square = half * kappa * kappa * w
    away = x - mu_hat
    return _Terms(
        energy=-(half * (log_sum + ratio)).sum(1) - 0.5 * pi_hat * away * away,
        slope=(half * kappa * w * delta).sum(1) - pi_hat * away,
        precision=pi_hat + (square * (w + (w - rest) * delta)).sum(1),
        concave=pi_hat + (square * rest).sum(1),
    )


def _alone(children: Children, mu_hat: Tensor, pi_hat: Tensor) -> Tensor:
    """Find the mode that each child alone has as its `alpha` vanishes."""
    _, beta, kappa, offset, _ = children
    half_variance = 0.5 / pi_hat
    shift = kappa * kappa * half_variance
    z = torch.log(beta) + torch.log(half_variance) + 2 * torch.log(kappa.abs())
    z = z + shift - (kappa * mu_hat + offset)
    return mu_hat + (wright_omega(z) - shift) / kappa


def _expansions(
    children: Children, mu_hat: Tensor, pi_hat: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Give means, precisions and weights of the expansions, `(1 + n, *batch)`."""
    centre = mu_hat.expand(children.kappa.shape[1:])
    x = torch.cat([centre.unsqueeze(0), _alone(children, mu_hat, pi_hat)])
    terms = _terms(x, children, mu_hat, pi_hat)
    good = (terms.precision > 0).index_fill(0, torch.zeros(1, dtype=torch.long), False)
    precision = torch.where(good, terms.precision, terms.concave)
    step = terms.slope / precision
    # so far out a weight is zero; the limit keeps zero times it a number
    limit = _FAR / pi_hat.sqrt()
    mean = x + torch.minimum(torch.maximum(step, -limit), limit)
    score = _terms(mean, children, mu_hat, pi_hat).energy
    unused = torch.cat([torch.zeros_like(children.reported[:1]), ~children.reported])
    return mean, precision, torch.softmax(score.masked_fill(unused, -math.inf), 0)


def _match(mean: Tensor, variance: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean and precision of a mixture, `(points, *batch)`."""
    # differences from the heaviest keep their digits where another one is far away
    main = mean.gather(0, weight.argmax(0, keepdim=True))
    centre = main.squeeze(0) + (weight * (mean - main)).sum(0)
    total = (weight * (variance + (mean - centre).square())).sum(0)
    return centre, 1 / total


def _project(
    children: Children, mu_hat: Tensor, pi_hat: Tensor
) -> tuple[Tensor, Tensor]:
    """Match the moments of exp I by importance quadrature around the expansions."""
    mean, precision, weight = _expansions(children, mu_hat, pi_hat)
    used = torch.cat([torch.ones_like(children.reported[:1]), children.reported])
    share = 0.5 * weight + 0.5 * used / used.sum(0)
    node = mean.new_tensor(_NODES).reshape(-1, 1, *[1] * (mean.dim() - 1))
    x = mean + node / precision.sqrt()  # (nodes, 1 + n, *batch)
    log_node = mean.new_tensor(np.log(_NODE_WEIGHTS)).reshape(node.shape)
    points = x.flatten(0, 1)
    density = -0.5 * precision * (points.unsqueeze(1) - mean).square()
    log_share = torch.log(torch.where(used, share, 1)).masked_fill(~used, -math.inf)
    density = torch.logsumexp(density + 0.5 * torch.log(precision) + log_share, 1)
    energy = _terms(points, children, mu_hat, pi_hat).energy
    log_weight = (log_share + log_node).flatten(0, 1) + energy - density
    found = torch.softmax(log_weight, 0)
    return _match(points, torch.zeros_like(points), found)


def _one_step(
    kind: Update, children: Children, mu_hat: Tensor, pi_hat: Tensor
) -> tuple[Tensor, Tensor]:
    """Expand at the prediction, or at the point that its slope leads to."""
    at = mu_hat.expand(children.kappa.shape[1:]).unsqueeze(0)
    here = _Terms(*(value[0] for value in _terms(at, children, mu_hat, pi_hat)))
    if kind == "classic":
        divisor = torch.where(here.precision > 0, here.precision, pi_hat)
        return mu_hat + here.slope / divisor, here.precision
    mean = mu_hat + here.slope / pi_hat
    if kind == "ehgf_pyhgf":
        return mean, here.precision
    there = _terms(mean.unsqueeze(0), children, mu_hat, pi_hat).precision[0]
    return mean, torch.maximum(there, pi_hat)
