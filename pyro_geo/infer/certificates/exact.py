"""The certificate of the Gibbs posterior itself, through its free energy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyro_geo.errors import NotProperlyWeightedError
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.certificates.certificate import Certificate
from pyro_geo.infer.gibbs.codebook import check_range

if TYPE_CHECKING:
    from pyro_geo.infer.gibbs.posterior import WeightedPosterior

__all__ = ["certify_exact"]


def certify_exact(
    posterior: WeightedPosterior, *, delta: float = 0.05, share: float = 0.5
) -> Certificate:
    r"""Bound the risk of the exact Gibbs posterior, not of the particles.

    .. math:: \frac{1 - \exp\bigl(-(F + \log(1/\delta_1)) / n\bigr)}{1 - e^{-\beta}},
              \qquad F \le -\log \hat Z + \log(1/\delta_2)

    Catoni's bound, where the loss that tilts is the loss that is certified: complexity
    and risk are then one number, the free energy. The second inequality is Markov's,
    for an unbiased estimate of the normaliser. Particles are drawn from it only in the
    limit: what is deployed is better certified by
    :func:`~pyro_geo.infer.certificates.certify`.

    Args:
        posterior: at a temperature fixed before the data.
        delta: probability that the bound may fail with.
        share: of delta that goes to the estimate of the normaliser.

    Returns:
        The certificate. A tilt outside [0, 1] is a
        :class:`~pyro_geo.errors.LossRangeError`.

    Raises:
        NotProperlyWeightedError: the particles estimate no normaliser.

    References:
        Catoni (2007), PAC-Bayesian supervised classification, 0712.0248.
    """
    if posterior.status != "finite_sample":
        raise NotProperlyWeightedError(
            "these particles estimate no normaliser",
            where="argument posterior",
            found=f"status {posterior.status!r}",
            expected="an annealed run, or importance draws",
            todo="Run GibbsPosterior.",
        )
    alive = posterior.log_weights > -math.inf
    losses = posterior.model.losses(
        posterior.target, posterior.positions.flatten(0, 1)[alive]
    )
    check_range(losses.amin(1), losses.amax(1), 0.0, 1.0)
    n, beta = losses.shape[1], posterior.beta
    free_energy = -posterior.log_z - math.log(share * delta)
    radius = bounds.radius(free_energy, (1 - share) * delta)
    value = float(math.expm1(-float(radius) / n) / math.expm1(-beta))
    weights = posterior.log_weights[alive].softmax(0)
    return Certificate(
        value=min(value, 1.0),
        lower=None,
        empirical_risk=float(weights @ losses.mean(1)),
        complexity=free_energy,
        n=n,
        delta=delta,
        looks=1,
        bound="catoni, free energy",
        assumptions=(
            "The loss that tilts lies in [0, 1] and is the one certified.",
            "The temperature was fixed before the data.",
            "The examples are independent draws from one distribution.",
        ),
        predictor="gibbs",
        status="finite_sample",
        vacuous=value >= 1.0,
    )
