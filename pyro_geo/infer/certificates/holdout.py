"""Bounds without a codebook: from a held-out set, and from estimates alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.certificates.certificate import Certificate
from pyro_geo.infer.gibbs.codebook import check_loss_range

__all__ = ["certify_holdout", "certify_plugin"]


def certify_holdout(
    losses: Tensor,
    *,
    delta: float = 0.05,
    loss_range: tuple[float, float] = (0.0, 1.0),
) -> Certificate:
    r"""Bound the risk of one predictor by its losses on data that it has not seen.

    Losses of 0 and 1 get the exact bound of Clopper and Pearson, others Chernoff's
    :math:`\mathrm{kl}(r \| R) \le \log(1/\delta) / n`. With a few hundred examples
    these are hard to beat, but the predictor cannot learn from those held out.

    Raises :class:`~pyro_geo.errors.ShapeError` where there is not one loss for each
    example.

    Args:
        losses: `(n,)`.
        delta: probability that the bound may fail with.
        loss_range: smallest and largest loss.

    Returns:
        The certificate. Losses out of range are a
        :class:`~pyro_geo.errors.LossRangeError`.

    Example:
        >>> wrong = torch.cat([torch.ones(3), torch.zeros(197)])
        >>> round(certify_holdout(wrong).value, 4)
        0.0383
    """
    good = losses.dim() == 1 and len(losses) > 0
    check_shape("losses", losses.shape, "(n,), one loss for each example", good)
    low, high = loss_range
    values = losses.double()
    check_loss_range(values.amin()[None], values.amax()[None], low, high)
    scaled = (values - low) / (high - low)  # to [0, 1], where the bounds hold
    n, mean = len(values), float(scaled.mean())
    # losses of 0 and 1 have an exact binomial bound
    counts = bool(((scaled == 0) | (scaled == 1)).all())
    if counts:
        value = bounds.clopper_pearson(int(scaled.sum()), n, delta)
    else:
        value = float(bounds.kl_inverse(mean, bounds.radius(0.0, delta) / n))
    return Certificate(
        value=low + (high - low) * value,
        lower=None,
        empirical_risk=low + (high - low) * mean,
        complexity=0.0,
        n=n,
        delta=delta,
        looks=1,
        bound="Clopper-Pearson" if counts else "Chernoff",
        assumptions=(
            "The predictor was made without the certifying examples.",
            "The examples are independent draws from one distribution.",
        ),
        predictor="holdout",
        status="finite_sample",
        vacuous=value >= 1.0,
    )


def certify_plugin(
    losses: Tensor, complexity: float, *, delta: float = 0.05
) -> Certificate:
    """Put draws and an estimated divergence into the bound, without a guarantee.

    This is the figure that MCMC draws and thermodynamic integration give. If chains are
    stuck it can lie far below the true risk: on random labels it was 0.054 for a true
    risk of 0.5.

    Raises :class:`~pyro_geo.errors.ShapeError` where `losses` has not two axes.

    Args:
        losses: of each draw at each example, in [0, 1], `(draws, n)`.
        complexity: estimate of the divergence from the prior, in nats.
        delta: probability in the formula.

    Returns:
        A figure of status `"heuristic"`.

    Example:
        >>> figure = certify_plugin(torch.zeros(5, 100), complexity=3.0)
        >>> figure.status, round(figure.value, 3)
        ('heuristic', 0.082)
    """
    check_shape("losses", losses.shape, "(draws, n)", losses.dim() == 2)
    values = losses.double()
    check_loss_range(values.amin(1), values.amax(1), 0.0, 1.0)
    mean, n = float(values.mean()), values.shape[1]
    value = float(bounds.seeger(mean, complexity, n, delta))
    return Certificate(
        value=value,
        lower=None,
        empirical_risk=mean,
        complexity=complexity,
        n=n,
        delta=delta,
        looks=1,
        bound="kl",
        assumptions=(
            "The draws are from the posterior and the estimate of its divergence is "
            "exact, neither of which anything here has checked.",
        ),
        predictor="gibbs",
        status="heuristic",
        vacuous=value >= 1.0,
        log_rho=torch.full((len(values),), -math.log(len(values))).double(),
    )
