"""The classical certificate of a trained guide, from its divergence and its draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check_count, check_number
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.certificates.audit import audit
from pyro_geo.infer.certificates.certificate import ALWAYS, Certificate
from pyro_geo.infer.certificates.divergence import divergence
from pyro_geo.infer.certificates.ledger import Ledger
from pyro_geo.infer.certificates.origins import check_duplicates
from pyro_geo.infer.certificates.prior_split import pair_of
from pyro_geo.infer.gibbs.codebook import check_loss_range
from pyro_geo.infer.gibbs.guides import draw_guide
from pyro_geo.infer.gibbs.model import GibbsModel
from pyro_geo.infer.gibbs.rows import Examples
from pyro_geo.ops.random import private_randomness

__all__ = ["certify_guide"]


def certify_guide(
    model: GibbsModel,
    guide: Callable[..., Any],
    risk: Callable[..., Tensor],
    data: tuple[Any, ...],
    *,
    num_draws: int = 1_000,
    delta: float = 0.05,
    share: float = 0.1,
    seed: int = 0,
    duplicates_drawn_independently: bool = False,
    ledger: Ledger | None = None,
) -> Certificate:
    r"""Bound the risk of a randomised predictor whose weights a guide draws.

    .. math:: \mathrm{kl}^{-1}\Bigl(\mathrm{kl}^{-1}\bigl(\hat r,
              \tfrac{\log(2/\delta_1)}{m}\bigr), \tfrac{1}{n}\bigl[
              \mathrm{KL}(q \| \pi) + \log\tfrac{\xi(n)}{\delta_2}\bigr]\Bigr)

    from `m` draws of the guide. The divergence must have a closed form, as for
    independent sites with priors of the same family, or for Pyro's normal guides with
    normal priors on the reals. A mixture by discrete auxiliary sites has a bound in its
    place, the mean of its parts. For any other guide weigh its draws by
    `GibbsPosterior(model, method="importance", guide=guide)`, which is often tighter
    as well.

    Args:
        model: prior and predictor.
        guide: trained on `model.pyro_model(beta)`.
        risk: what is certified, with values in [0, 1].
        data: `(args, targets)`, each a tuple or one tensor.
        num_draws: `m`.
        delta: probability that the bound may fail with.
        share: part of `delta` for the error of the draws, between 0 and 1.
        seed: of the draws; the global random state is left alone.
        duplicates_drawn_independently: state that equal rows are independent draws.
        ledger: counts the certificates made on these examples.

    Returns:
        The certificate. What :func:`~pyro_geo.infer.certificates.certify` refuses of
        prior, prediction and rows is refused here too. Without a divergence in closed
        form it raises :class:`~pyro_geo.errors.UnsupportedError`.

    References:
        Dziugaite & Roy (2017), Computing nonvacuous generalization bounds, 1703.11008;
        Perez-Ortiz et al. (2021), Tighter risk certificates for neural networks,
        2007.12911.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.infer import GibbsModel
        >>> double = {"dtype": torch.float64}
        >>> def model(x):
        ...     zero = torch.zeros(2, **double)
        ...     w = pyro.sample("w", dist.Normal(zero, 1.0).to_event(1))
        ...     return x @ w
        >>> def guide(args, targets):
        ...     loc = torch.tensor([1.0, 0.0], **double)
        ...     pyro.sample("w", dist.Normal(loc, 0.3).to_event(1))
        >>> gibbs = GibbsModel(model, lambda f, y: torch.sigmoid(-f * y))
        >>> x = torch.randn(200, 2, **double)
        >>> wrong = lambda f, y: (f * y <= 0).to(f)
        >>> certificate = certify_guide(gibbs, guide, wrong, (x, x[:, 0].sign()))
        >>> certificate.empirical_risk < certificate.value < 0.5
        True
    """
    check_count("num_draws", num_draws)
    check_number("share", share, 0.0, 1.0, strict=True)
    arguments = pair_of(data)
    certified = model.with_loss(risk)
    target = certified.target(*arguments, dtype=torch.float64)
    drawn = draw_guide(guide, arguments, target, num_draws, seed)
    with torch.no_grad(), private_randomness(seed):
        k = divergence(model, drawn, target, arguments)
    sites = target.constrain(drawn.q[:2])
    values = [{n: v[i] for n, v in sites.items()} for i in range(len(drawn.q[:2]))]
    left = audit(model, values, arguments, risk, torch.float64).assumptions
    if (examples := Examples.of(*arguments)) is not None:
        rows = examples.rows()
        left += check_duplicates(rows, duplicates_drawn_independently)
    looks = 1 if ledger is None else ledger.look(arguments)
    whole, delta = delta, delta / looks
    # (draws, n); drawing exactly from the guide needs no weights
    losses = certified.losses(target, drawn.q)
    check_loss_range(losses.amin(1), losses.amax(1), 0.0, 1.0)
    n, mean = losses.shape[1], float(losses.mean())
    # first from m draws to the guide's empirical risk, then from that to its true risk
    inner = bounds.kl_inverse(mean, math.log(2 / (share * delta)) / num_draws)
    value = float(bounds.seeger(inner, k, n, (1 - share) * delta))
    return Certificate(
        value=value,
        lower=None,
        empirical_risk=mean,
        complexity=k,
        n=n,
        delta=whole,
        looks=looks,
        bound=f"kl, {num_draws} draws of a guide",
        assumptions=("The loss lies in [0, 1], always.", *ALWAYS, *left),
        predictor="gibbs",
        status="finite_sample",
        vacuous=value >= 1.0,
    )
