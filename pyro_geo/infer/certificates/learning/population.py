"""The published bound on the population risk, which holds but has unknown terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.errors import BetaRangeError
from pyro_geo.infer.certificates.certificate import Certificate

__all__ = ["population_bound"]


def population_bound(
    phi: Callable[[float], float],
    omega: float,
    lipschitz: float,
    n: int,
    delta: float = 0.05,
    *,
    form: Literal["sharp", "published"] = "sharp",
) -> Certificate:
    r"""Bound a Gibbs posterior's mean excess risk by the prior's mass near the best.

    .. math:: \Phi(t) = -\log \int e^{-t R(\theta, \theta^*)} d\pi(\theta)
              \le \lambda \log t - (m - 1) \log\log t + O(1)

    The published form is

    .. math:: \frac{2}{(1 - \omega L/2)\, \omega n} \Bigl[
              \Phi\bigl((1 + \omega L/2)\, \omega n / 2\bigr) + \log(2/\delta) \Bigr]

    and the sharp form, which needs no second divergence and is never larger,

    .. math:: \frac{1}{(1 - \omega L/2)\, \omega n} \Bigl[
              \Phi\bigl((1 + \omega L/2)\, \omega n\bigr) + 2 \log(2/\delta) \Bigr].

    Both depend on the unknown best parameter :math:`\theta^*`. They say what risk to
    expect, and certify nothing.

    Raises :class:`~pyro_geo.errors.BetaRangeError` where `omega * lipschitz` is not
    below 2.

    Args:
        phi: the function :math:`\Phi`, by quadrature or by an annealed run.
        omega: inverse temperature of one example.
        lipschitz: constant `L` of the loss's moment condition.
        n: number of examples.
        delta: probability that the bound may fail with.
        form: `"sharp"` or `"published"`.

    Returns:
        The bound, of status `"oracle"`.

    References:
        Wang & Yang (2026), PAC-Bayes bounds for Gibbs posteriors via singular learning
        theory, 2604.17219.

    Example:
        >>> bound = population_bound(lambda t: 0.5 * math.log(1 + t), 1.0, 0.5, 1000)
        >>> round(bound.value, 4), bound.status
        (0.0146, 'oracle')
    """
    product = omega * lipschitz
    check(
        0 < product < 2,
        "omega * lipschitz",
        product,
        "a number between 0 and 2",
        error=BetaRangeError,
    )
    check_choice("form", form, ("sharp", "published"))
    check_number("delta", delta, 0.0, 1.0, strict=True)
    check_count("n", n)
    low, high = 1 - omega * lipschitz / 2, (1 + omega * lipschitz / 2) * omega * n
    if form == "sharp":
        complexity = phi(high)
        value = (complexity + 2 * math.log(2 / delta)) / (low * omega * n)
    else:
        complexity = phi(high / 2)
        value = 2 * (complexity + math.log(2 / delta)) / (low * omega * n)
    return Certificate(
        value=value,
        lower=None,
        empirical_risk=math.nan,
        complexity=complexity,
        n=n,
        delta=delta,
        looks=1,
        bound=f"population, {form}",
        assumptions=(
            "The prior's mass near the best parameter is known.",
            "The excess loss satisfies the moment condition with the constant given.",
        ),
        predictor="gibbs",
        status="oracle",
        vacuous=False,
    )
