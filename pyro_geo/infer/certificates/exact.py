"""The certificate of the Gibbs posterior itself, through its free energy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyro_geo.checks import check_number
from pyro_geo.errors import BetaRangeError, NotProperlyWeightedError
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.certificates.certificate import ALWAYS, Certificate
from pyro_geo.infer.certificates.examine import examine
from pyro_geo.infer.certificates.ledger import Ledger
from pyro_geo.infer.gibbs.codebook import check_loss_range

if TYPE_CHECKING:
    from pyro_geo.infer.gibbs.posterior import WeightedPosterior

__all__ = ["certify_exact"]


def certify_exact(
    posterior: WeightedPosterior,
    *,
    delta: float = 0.05,
    share: float = 0.5,
    duplicates_drawn_independently: bool = False,
    ledger: Ledger | None = None,
) -> Certificate:
    r"""Bound the risk of the exact Gibbs posterior, not of the particles.

    .. math:: \frac{1 - \exp\bigl(-(F + \log(1/\delta_1)) / n\bigr)}{1 - e^{-\beta}},
              \qquad F \le -\log \hat Z + \log(1/\delta_2)

    This is Catoni's bound for a certified loss that is also the loss of the Gibbs
    posterior. Risk and complexity then enter through one number, the free energy `F`.
    The second inequality is Markov's, for an unbiased estimate of the normaliser.
    Particles follow the exact posterior only in the limit of many of them, so that
    predictions are better certified by :func:`~pyro_geo.infer.certificates.certify`.

    Args:
        posterior: at one of the temperatures that were declared as `betas`. Which of
            them may have been chosen by looking: each has its part of `delta`.
        delta: probability that the bound may fail with.
        share: part of `delta` for the estimate of the normaliser.
        duplicates_drawn_independently: state that equal rows are independent draws.
        ledger: counts the certificates made on these examples.

    Returns:
        The certificate. A loss outside [0, 1] is a
        :class:`~pyro_geo.errors.LossRangeError`; what :func:`certify` refuses is
        refused here too.

    Raises:
        NotProperlyWeightedError: the particles give no estimate of the normaliser.
        BetaRangeError: the pilot chose the temperature.

    References:
        Catoni (2007), PAC-Bayesian supervised classification, 0712.0248.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from pyro_geo.infer import GibbsModel, GibbsPosterior
        >>> def model(x):
        ...     w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     return x @ w
        >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
        >>> gibbs = GibbsModel(model, lambda f, y: torch.sigmoid(-f * y))
        >>> run = GibbsPosterior(
        ...     gibbs, betas=[2.0], num_particles=64, seed=1, progress_bar=False
        ... )
        >>> certificate = certify_exact(run.run(x, x[:, 0].sign()))
        >>> 0.0 < certificate.value < 1.0
        True
    """
    if posterior.status != "finite_sample":
        raise NotProperlyWeightedError(
            "these particles give no estimate of the normaliser",
            where="argument posterior",
            found=f"status {posterior.status!r}",
            expected="an annealed run, or importance draws",
            todo="Run GibbsPosterior.",
        )
    origin, beta = posterior.origin, posterior.beta
    assert origin is not None
    if beta not in origin.betas:
        raise BetaRangeError(
            "the temperature was chosen by the data",
            where="argument posterior",
            found=f"beta {beta:.6g}, which the pilot chose",
            expected=f"one of the betas declared, {list(origin.betas)}",
            todo="Declare it: GibbsPosterior(model, betas=[...]).",
        )
    known = examine(
        posterior.codebook("final"),
        posterior.model.loss,
        posterior.model.inputs(posterior.target),
        None,
        reserved=None,
        duplicates_drawn_independently=duplicates_drawn_independently,
        fixed_before_data=False,
    )
    looks = 1 if ledger is None or known.rows is None else ledger.look(known.rows)
    check_number("delta", delta, 0.0, 1.0, strict=True)
    check_number("share", share, 0.0, 1.0, strict=True)
    whole, delta = delta, delta / looks / len(origin.betas)
    alive = posterior.log_weights > -math.inf
    losses = posterior.model.losses(
        posterior.target, posterior.positions.flatten(0, 1)[alive]
    )
    check_loss_range(losses.amin(1), losses.amax(1), 0.0, 1.0)
    n = losses.shape[1]
    # F <= -log Z + log(1/delta_2) by Markov's inequality for the unbiased estimate of Z
    free_energy = -posterior.log_z - math.log(share * delta)
    radius = bounds.radius(free_energy, (1 - share) * delta)
    # both signs of 1 - e^-x cancel in the ratio of the formula
    value = float(math.expm1(-float(radius) / n) / math.expm1(-beta))
    # the bound holds for the exact posterior; its risk is only estimated here
    weights = posterior.log_weights[alive].softmax(0)
    return Certificate(
        value=min(value, 1.0),
        lower=None,
        empirical_risk=float(weights @ losses.mean(1)),
        complexity=free_energy,
        n=n,
        delta=whole,
        looks=looks,
        bound="catoni, free energy",
        assumptions=(
            "The loss of the Gibbs posterior lies in [0, 1] and is the one certified.",
            "The temperatures declared were fixed before the data were seen.",
            *ALWAYS,
            *known.assumptions,
        ),
        predictor="gibbs",
        status="finite_sample",
        vacuous=value >= 1.0,
    )
