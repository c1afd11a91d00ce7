"""The bounded field of a separation: a weighted entmax, solved by bisection."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number, check_shape
from pyro_geo.errors import UnboundedFieldError

__all__ = ["FieldWeights", "field_weights"]

_HALVINGS = 80
_TINY = 1e-300
_POLISH = 2  # Newton steps: the second makes second derivatives right too


class FieldWeights(NamedTuple):
    """A bounded measure on weighted points.

    Attributes:
        prob: its weights, which sum to one; exactly zero outside the droplet.
        phi: the field, its density with respect to the base weights.
        lam: the cut: points with `info < lam` are inside; without the axis of points.
    """

    prob: Tensor
    phi: Tensor
    lam: Tensor


def field_weights(
    info: Tensor,
    beta: float | Tensor = 1.0,
    nu: float = 2.0,
    log_base: Tensor | None = None,
    dim: int = -1,
) -> FieldWeights:
    r"""Weights that minimise the field action on a set of points.

    .. math::
        F[\phi] = \sum_i w_i \phi_i I_i
        + \frac{1}{\beta} \frac{\sum_i w_i \phi_i^\nu - 1}{\nu (\nu - 1)},
        \qquad \sum_i w_i \phi_i = 1

    For `nu` above one the solution is :math:`\phi_i = [\beta (\nu - 1)
    (\lambda - I_i)]_+^{1/(\nu - 1)}`: points of more information than
    :math:`\lambda` weigh exactly nothing. At one it is the exponential tilt
    :math:`\phi_i \propto e^{-\beta I_i}`, which cuts nothing. In terms of the droplet
    :math:`\phi = (1 - I/c)_+^\kappa / Z` of a bounded measure, :math:`\nu = 1 +
    1/\kappa` and :math:`\beta = \kappa Z^{-1/\kappa} / c`.

    The weights can be differentiated twice in `info`, `beta` and `log_base`.

    Args:
        info: information of each point in nats, any shape; `inf` is never inside.
        beta: inverse strength of the pull to the base weights, above 0; a tensor
            broadcasts against `info` without its axis `dim`.
        nu: order of the action, at least 1.
        log_base: logarithm of the base weights :math:`w_i`, of any common factor;
            equal weights if None.
        dim: axis of the points.

    Returns:
        Weights, field and cut. With constant `info` the weights are the base weights
        to the bit.

    Raises:
        UnboundedFieldError: `nu` is below one. A `beta` that is not positive is a
            :class:`~pyro_geo.errors.ConfigurationError`.

    References:
        Derived after Rodriguez (2026), Robust sequential tracking via bounded
        information geometry and non-parametric field actions, arXiv 2603.13613.
        Peters, Niculae & Martins (2019), Sparse sequence-to-sequence models, arXiv
        1905.05702, for equal weights.

    Example:
        >>> field_weights(torch.tensor([0.0, 0.5, 9.0])).prob
        tensor([0.5833, 0.4167, 0.0000])
    """
    if not nu >= 1:
        raise UnboundedFieldError(
            "the order of the field action cuts no tail",
            where="argument nu",
            found=nu,
            expected="at least 1; above 1 for compact support",
            todo="Pass nu=2 for a linear droplet, or nu=1 for an exponential tilt.",
        )
    check_number("nu", nu, 1.0)
    if not isinstance(beta, Tensor):
        check_number("beta", beta, strict=True)
    check_shape("info", info.shape, "at least one axis", good=info.dim() > 0)
    check(-info.dim() <= dim < info.dim(), "dim", dim, f"an axis of {info.dim()}")
    inside = info.movedim(dim, -1).double()
    log_w = torch.zeros_like(inside) if log_base is None else log_base.double()
    if log_base is not None:
        check_shape("log_base", log_base.shape, info.shape)
        log_w = log_w.movedim(dim, -1)
    weights, log_w = log_w.softmax(-1), log_w.log_softmax(-1)
    strength = torch.as_tensor(beta, dtype=torch.float64, device=info.device)[..., None]
    solve = _tilted if nu == 1 else _bounded
    prob, phi, lam = solve(inside, strength, nu, log_w)
    # rounding of the sum would show where nothing distinguishes the points
    flat = (inside.isfinite() & (inside == inside[..., :1])).all(-1, keepdim=True)
    one = phi - phi.detach() + 1
    prob, phi = (
        torch.where(flat, prob - prob.detach() + weights, prob),
        torch.where(flat, one, phi),
    )
    return FieldWeights(
        prob.to(info).movedim(-1, dim), phi.to(info).movedim(-1, dim), lam.to(info)
    )


def _tilted(info: Tensor, beta: Tensor, nu: float, log_w: Tensor) -> FieldWeights:
    log_prob = (log_w - beta * info).log_softmax(-1)
    lam = torch.full_like(info[..., 0], math.inf)
    return FieldWeights(log_prob.exp(), (log_prob - log_w).exp(), lam)


def _bounded(info: Tensor, beta: Tensor, nu: float, log_w: Tensor) -> FieldWeights:
    there, finite = log_w > -math.inf, info.isfinite()
    first = torch.where(there & finite, info, math.inf).detach()
    least, argmin = first.min(-1, keepdim=True)
    # what is infinite is kept out of every derivative
    gap = torch.where(finite, info, least) - least
    log_w = torch.where(there, log_w, 0.0)
    from_peak = _Peak(gap, finite, beta * (nu - 1), nu)
    # the field where the information is least is between 1 and 1 / its weight,
    # however extreme beta and nu
    highest = -log_w.detach().gather(-1, argmin)
    peak = _bisect(from_peak, log_w, there, torch.zeros_like(least), highest)
    solution: _Peak | _Edge = from_peak
    unknown = peak
    if nu >= 2:
        # The field falls steeply to its edge: rounding of the cut would show there. So
        # the field of the outermost point inside is the unknown.
        solution = _Edge.of(from_peak, peak)
        top = torch.exp(peak)
        unknown = _bisect(solution, log_w, there, torch.zeros_like(top), top)
    unknown = unknown.detach()
    for _ in range(_POLISH):
        log_phi, log_slope = solution(unknown)
        mass = _masses(log_w, log_phi, there)
        slope = _masses(log_w, log_slope, there & (log_phi > -math.inf)).sum(-1, True)
        unknown = unknown - (mass.sum(-1, keepdim=True) - 1) / slope
    log_phi, _ = solution(unknown)
    mass = _masses(log_w, log_phi, there)
    total = mass.sum(-1, keepdim=True)
    good = log_phi > -math.inf
    phi = torch.where(good, torch.where(good, log_phi, 0.0).exp(), 0.0) / total
    lam = least + solution.cut(unknown)
    return FieldWeights(mass / total, phi, lam[..., 0])


class _Peak(NamedTuple):
    """The field as a function of its logarithm where the information is least."""

    gap: Tensor  # information above the least
    finite: Tensor
    steep: Tensor  # beta (nu - 1)
    nu: float

    def __call__(self, peak: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the field, and of its slope in the unknown."""
        drop = self.steep * self.gap * torch.exp(-peak * (self.nu - 1))
        good = self.finite & (drop < 1)
        rest = torch.log1p(-torch.where(good, drop, 0.0))
        log_phi = peak + rest / (self.nu - 1)
        return torch.where(good, log_phi, -math.inf), log_phi - rest

    def cut(self, peak: Tensor) -> Tensor:
        """Information at the cut, above the least."""
        return torch.exp(peak * (self.nu - 1)) / self.steep


class _Edge(NamedTuple):
    """The field as a function of its value at the outermost point inside."""

    inner: Tensor  # field of each point to the power nu - 1, if the edge had none
    inside: Tensor
    log_steep: Tensor
    outermost: Tensor  # its information above the least
    nu: float

    @classmethod
    def of(cls, field: _Peak, peak: Tensor) -> _Edge:
        inside = field(peak)[0] > -math.inf
        depth = torch.where(inside, field.gap, -math.inf)
        outermost = field.gap.gather(-1, depth.detach().argmax(-1, keepdim=True))
        inner = field.steep * torch.where(inside, outermost - field.gap, 0.0)
        return cls(inner, inside, field.steep.log(), outermost, field.nu)

    def __call__(self, edge: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the field, and of its slope in the unknown."""
        log_edge = edge.clamp(min=_TINY).log()
        power = self.nu - 1
        own = power * log_edge
        # the logarithm of a sum, exact and smooth where a term is zero
        ratio = self.inner * torch.exp(-own)
        small = ratio <= 1
        by_edge = own + torch.log1p(torch.where(small, ratio, 0.0))
        inner = torch.where(small, 1.0, self.inner)
        by_inner = inner.log() + torch.log1p(torch.where(small, 0.0, own.exp() / inner))
        log_phi = torch.where(small, by_edge, by_inner) / power
        slope = (self.nu - 2) * (log_edge - log_phi)
        return torch.where(self.inside, log_phi, -math.inf), slope

    def cut(self, edge: Tensor) -> Tensor:
        """Information at the cut, above the least."""
        log_edge = edge.clamp(min=_TINY).log()
        return self.outermost + torch.exp((self.nu - 1) * log_edge - self.log_steep)


def _masses(log_w: Tensor, log_phi: Tensor, there: Tensor) -> Tensor:
    good = there & (log_phi > -math.inf)
    return torch.where(good, (log_w + torch.where(good, log_phi, 0.0)).exp(), 0.0)


@torch.no_grad()
def _bisect(
    field: _Peak | _Edge, log_w: Tensor, there: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Find where the masses sum to one, from above."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        above = _masses(log_w, field(middle)[0], there).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high
