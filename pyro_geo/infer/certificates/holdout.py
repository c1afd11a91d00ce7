"""Bounds without a codebook: from a held-out set, and from estimates alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check_shape
from pyro_geo.errors import ConfigurationError
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.certificates.certificate import ALWAYS, Certificate
from pyro_geo.infer.certificates.held_out import held_out
from pyro_geo.infer.certificates.ledger import Ledger
from pyro_geo.infer.gibbs.codebook import check_loss_range

__all__ = ["certify_holdout", "certify_plugin"]


def certify_holdout(
    losses: Tensor | None = None,
    *,
    predictor: Any = None,
    risk: Callable[..., Tensor] | None = None,
    data: tuple[Any, ...] | None = None,
    delta: float = 0.05,
    loss_range: tuple[float, float] = (0.0, 1.0),
    duplicates_drawn_independently: bool = False,
    ledger: Ledger | None = None,
) -> Certificate:
    r"""Bound the risk of one predictor by its losses on data that it has not seen.

    Losses of 0 and 1 get the exact bound of Clopper and Pearson, others Chernoff's
    :math:`\mathrm{kl}(r \| R) \le \log(1/\delta) / n`. With a few hundred examples
    these are hard to beat, but the predictor cannot learn from those held out.

    Pass what predicts and the data, and what can be checked is: that the predictor is
    no result of a run on these examples, holds none of them and predicts row by row.

    Raises :class:`~pyro_geo.errors.ShapeError` where there is not one loss for each
    example.

    Args:
        losses: `(n,)`; or leave them out and pass the three below.
        predictor: a posterior, a codebook or a certificate of this package, or a
            function of the arguments that returns predictions. It may be passed beside
            `losses`, to be checked.
        risk: what is certified, `risk(prediction, *targets)`.
        data: `(args, targets)` to certify on, each a tuple or one tensor.
        delta: probability that the bound may fail with.
        loss_range: smallest and largest loss.
        duplicates_drawn_independently: state that equal rows are independent draws.
        ledger: counts the certificates made on these examples.

    Returns:
        The certificate. Losses out of range are a
        :class:`~pyro_geo.errors.LossRangeError`, a predictor that was fitted on these
        examples a :class:`~pyro_geo.errors.PriorDependsOnDataError`.

    Raises:
        ConfigurationError: there are neither losses nor what they follow from.

    Example:
        >>> wrong = torch.cat([torch.ones(3), torch.zeros(197)])
        >>> round(certify_holdout(wrong).value, 4)
        0.0383
    """
    known = held_out(predictor, risk, data, duplicates_drawn_independently)
    losses = known.losses if losses is None else losses
    if losses is None:
        raise ConfigurationError(
            "there are no losses",
            where="argument losses",
            found="None, and not all of predictor, risk and data",
            expected="losses of each example, or predictor, risk and data",
            todo="Pass certify_holdout(predictor=..., risk=..., data=(x, y)).",
        )
    good = losses.dim() == 1 and len(losses) > 0
    check_shape("losses", losses.shape, "(n,), one loss for each example", good)
    looks = 1 if ledger is None else ledger.look(losses if data is None else data)
    whole, delta = delta, delta / looks
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
        delta=whole,
        looks=looks,
        bound="Clopper-Pearson" if counts else "Chernoff",
        assumptions=(
            "The predictor was made without the certifying examples.",
            *ALWAYS,
            *known.assumptions,
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
