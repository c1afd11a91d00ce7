"""How a level learns from the change of the one below it."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_geo.checks import check_choice
from pyro_geo.filtering.hgf.expansions import Coupling, curvatures, expand, slope
from pyro_geo.filtering.hgf.moment import project

__all__ = ["FALLIBLE", "UPDATES", "message", "variational_energy", "volatility_update"]

UPDATES = ("unbounded", "classic", "ehgf", "ehgf_pyhgf", "moment")
"""Updates of a volatility parent."""

FALLIBLE = ("classic", "ehgf_pyhgf")
"""Updates that may leave a precision that is not positive."""

Belief = tuple[Tensor, Tensor, Tensor]  # offset of the mean, variance, precision


def _unbounded(r: Tensor, e: Tensor, pi_hat: Tensor, coupling: Coupling) -> Belief:
    first, precision_1, second, precision_2, gain = expand(r, e, pi_hat, coupling)
    b, a = torch.sigmoid(gain), torch.sigmoid(-gain)
    gap = second - first
    # from the nearer end, so that nothing cancels where the other one is far away
    offset = torch.where(
        gain > 0, torch.addcmul(second, a, gap, value=-1), torch.addcmul(first, b, gap)
    )
    variance_1 = precision_1.reciprocal()
    variance = torch.addcdiv(a * variance_1, b, precision_2)
    variance = torch.addcmul(variance, a * gap, b * gap)
    variance = torch.where(coupling.absent, variance_1, variance)
    offset = torch.where(coupling.absent, first, offset)
    return offset, variance, variance.reciprocal()


def _ehgf(r: Tensor, e: Tensor, pi_hat: Tensor, coupling: Coupling) -> Belief:
    offset = coupling.half * slope(r, e)[2] / pi_hat
    weight, _, surplus = slope(torch.addcmul(r, coupling.kappa, offset), e)
    zero = torch.zeros_like(pi_hat)
    bend = curvatures(weight, surplus, zero, coupling.half_square)
    precision = pi_hat + bend.clamp(min=0.0)
    return offset, precision.reciprocal(), precision


def _moment(r: Tensor, e: Tensor, pi_hat: Tensor, coupling: Coupling) -> Belief:
    expansions = expand(r, e, pi_hat, coupling)
    offset, variance, _ = project(r, e, pi_hat, coupling, expansions)
    # exact where there is no coupling, not only to rounding
    offset = torch.where(coupling.absent, expansions.first, offset)
    variance = torch.where(coupling.absent, pi_hat.reciprocal(), variance)
    return offset, variance, variance.reciprocal()


def _step(
    update: str, r: Tensor, e: Tensor, pi_hat: Tensor, coupling: Coupling
) -> tuple[Tensor, Tensor, Tensor]:
    """Return numerator and denominator of the step, and a precision of any sign."""
    weight, _, surplus = slope(r, e)
    precision = curvatures(weight, surplus, pi_hat, coupling.half_square)
    divisor = precision if update == "classic" else pi_hat
    return coupling.half * surplus, divisor, precision


_SOUND = {"unbounded": _unbounded, "ehgf": _ehgf, "moment": _moment}


def message(
    update: str, r: Tensor, e: Tensor, pi_hat: Tensor, coupling: Coupling
) -> tuple[Belief, Tensor | None]:
    """Update a parent, and say where the update has not failed.

    Args:
        update: kind of update.
        r: logarithm of the predicted volatility over the child's variance.
        e: logarithm of the child's squared change over its variance.
        pi_hat: predicted precision of the parent.
        coupling: of the child to the parent.

    Returns:
        Offset of the mean from the prediction, variance and precision, those of the
        prediction itself where the update has failed; and where it has not failed,
        None for an update that cannot.
    """
    if update in _SOUND:
        return _SOUND[update](r, e, pi_hat, coupling), None
    step, divisor, precision = _step(update, r, e, pi_hat, coupling)
    good = precision > 0
    # before the division, as a gradient of infinity is never 0
    precision = torch.where(good, precision, pi_hat)
    offset = torch.where(good, step / torch.where(good, divisor, 1.0), 0.0)
    return (offset, precision.reciprocal(), precision), good


def _tensors(*values: float | Tensor) -> list[Tensor]:
    given = [x.dtype for x in values if isinstance(x, Tensor) and x.is_floating_point()]
    dtype = torch.float64
    if given:
        dtype = given[0]
        for other in given[1:]:
            dtype = torch.promote_types(dtype, other)
    return [torch.as_tensor(x, dtype=dtype) for x in values]


def variational_energy(
    x: float | Tensor,
    alpha: float | Tensor,
    beta: float | Tensor,
    kappa: float | Tensor,
    omega: float | Tensor,
    t: float | Tensor,
    mu_hat: float | Tensor,
    pi_hat: float | Tensor,
) -> Tensor:
    r"""Log-density of a volatility parent given its child's change, to a constant.

    .. math::
        I(x) = -\tfrac12 \log(\alpha + e^{y}) - \tfrac12 \frac{\beta}{\alpha + e^{y}}
        - \tfrac12 \hat\pi (x - \hat\mu)^2, \qquad y = \log t + \kappa x + \omega

    Its normalised exponential is what :func:`volatility_update` approximates by a
    normal distribution. All arguments broadcast.

    Args:
        x: value of the parent.
        alpha: variance of the child before the step, above 0.
        beta: variance of the child after it plus the square of its mean's change.
        kappa: coupling of the child to the parent.
        omega: tonic log-volatility of the child.
        t: elapsed time, above 0.
        mu_hat: predicted mean of the parent.
        pi_hat: its predicted precision, above 0.

    Returns:
        The energy in nats.

    References:
        Robust volatility updates for Hierarchical Gaussian Filtering, arXiv 2605.00966.

    Example:
        >>> x = torch.tensor([-1.0, 0.0, 5.0])
        >>> variational_energy(x, 0.1, 4.0, 1.0, 0.0, 1.0, 0.0, 0.5)
        tensor([-4.1448, -1.8658, -8.7638])
    """
    x, alpha, beta, kappa, omega, t, mu_hat, pi_hat = _tensors(
        x, alpha, beta, kappa, omega, t, mu_hat, pi_hat
    )
    total = torch.logaddexp(torch.log(alpha), torch.log(t) + kappa * x + omega)
    change = torch.exp(torch.log(beta) - total)
    return -0.5 * (total + change + pi_hat * (x - mu_hat) ** 2)


def volatility_update(
    kind: str,
    alpha: float | Tensor,
    beta: float | Tensor,
    kappa: float | Tensor,
    omega: float | Tensor,
    t: float | Tensor,
    mu_hat: float | Tensor,
    pi_hat: float | Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Fit a normal distribution to the belief of a volatility parent.

    The belief is the normalised exponential of :func:`variational_energy`. `unbounded`
    blends an expansion of the energy at the prediction with one near its mode as it
    would be for :math:`\alpha \to 0`, by how high the energy is at each: its precision
    is always positive, and values and gradients are finite wherever the arguments are.
    `moment` has the exact mean and variance, by quadrature. The others are the
    literature's: `classic` expands at the prediction alone, `ehgf` takes the step of
    the mean with the predicted precision and the precision at the new mean, and
    `ehgf_pyhgf` the precision of `classic`.

    Args:
        kind: "unbounded", "classic", "ehgf", "ehgf_pyhgf" or "moment".
        alpha: variance of the child before the step, above 0; all arguments broadcast.
        beta: variance of the child after it plus the square of its mean's change,
            above 0.
        kappa: coupling of the child to the parent; without it, 0, the prediction stays.
        omega: tonic log-volatility of the child.
        t: elapsed time, above 0.
        mu_hat: predicted mean of the parent.
        pi_hat: its predicted precision, above 0.

    Returns:
        Mean and precision. Those of `classic` and `ehgf_pyhgf` are as the formulas
        give them: a precision that is not positive is no belief.

    References:
        Robust volatility updates for Hierarchical Gaussian Filtering, arXiv 2605.00966;
        Mathys et al. (2014), Uncertainty in perception and the Hierarchical Gaussian
        Filter; the projection by quadrature is derived here.

    Example:
        >>> for kind in ("unbounded", "classic", "moment"):
        ...     mean, precision = volatility_update(kind, 0.005, 1, 1, 0, 1, -4.0, 0.5)
        ...     print(kind, round(mean.item(), 3), round(precision.item(), 3))
        unbounded -1.332 2.225
        classic -2.388 10.205
        moment -1.175 2.087
    """
    check_choice("kind", kind, UPDATES)
    alpha, beta, kappa, omega, t, mu_hat, pi_hat = _tensors(
        alpha, beta, kappa, omega, t, mu_hat, pi_hat
    )
    log_alpha = torch.log(alpha)
    r = torch.log(t) + kappa * mu_hat + omega - log_alpha
    e = torch.log(beta) - log_alpha
    coupling = Coupling.of(kappa)
    if kind in FALLIBLE:
        step, divisor, precision = _step(kind, r, e, pi_hat, coupling)
        return torch.broadcast_tensors(mu_hat + step / divisor, precision)  # type: ignore[return-value]
    (offset, _, precision), _ = message(kind, r, e, pi_hat, coupling)
    mean, precision = torch.broadcast_tensors(mu_hat + offset, precision)
    return mean, precision
