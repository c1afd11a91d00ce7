"""The certificate of an ensemble of particles, from a codebook and a loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.errors import (
    ConfigurationError,
    PrecisionWarning,
    PriorDependsOnDataError,
)
from pyro_geo.infer.certificates import bounds
from pyro_geo.infer.certificates.certificate import ALWAYS, Certificate, Predictor
from pyro_geo.infer.certificates.examine import examine, leaves
from pyro_geo.infer.certificates.holdout import certify_holdout
from pyro_geo.infer.certificates.ledger import Ledger
from pyro_geo.infer.certificates.prior_split import PriorSplit, check_disjoint
from pyro_geo.infer.certificates.rules import (
    Bound,
    Candidates,
    Rule,
    check_claims,
    evaluate,
    rule_of,
)
from pyro_geo.infer.gibbs.codebook import Codebook, Losses

__all__ = ["certify"]

# Candidates for the tilt of the ensemble, and rounds that refine the best one.
_TILTS = torch.logspace(-3, 3, 61, dtype=torch.float64)
_ROUNDS, _POINTS = 3, 21


def certify(
    codebook: Codebook,
    risk: Callable[..., Tensor] | None = None,
    data: tuple[Any, ...] | None = None,
    *,
    losses: Tensor | None = None,
    bound: Bound = "kl",
    predictor: Predictor = "retilted",
    delta: float = 0.05,
    loss_range: tuple[float, float] = (0.0, 1.0),
    clip: bool = False,
    hedge: Tensor | None = None,
    looks: int = 1,
    ledger: Ledger | None = None,
    prior_index: Sequence[int] | Tensor | None = None,
    certify_index: Sequence[int] | Tensor | None = None,
    reserved: PriorSplit | None = None,
    duplicates_drawn_independently: bool = False,
    fixed_before_data: bool = False,
    **parameters: Any,
) -> Certificate:
    r"""Bound the true risk of an ensemble of particles, or of one of them.

    With probability `1 - delta` over the data and the sampler, for all weights
    :math:`\rho` at once,

    .. math:: \rho(R) \le B\bigl(\rho(R_n), K(\rho)\bigr), \qquad
              K(\rho) = \sum_i \rho_i \log(\rho_i / p_i),

    however badly the sampler has mixed. The `"retilted"` ensemble weighs particles by
    :math:`p_i e^{-c n r_i}` with the `c` of the best bound; `"single"` is the one
    particle of the best bound; `"gibbs"` keeps the weights of the last temperature.

    What can be checked is checked before: that a run made the particles, on these
    examples; that the prior is the same with other examples; that each row is predicted
    from that row alone; that no tensor of the model is one of the data. What cannot be
    checked stands among the certificate's `assumptions`, which `print` numbers.

    Args:
        codebook: the particles and their prior weights.
        risk: what is certified, `risk(prediction, *targets)`, one value for each
            example.
        data: `(args, targets)` to certify on, each a tuple or one tensor.
        losses: instead of `risk` and `data`, the risk of each particle at each
            example, `(particles, n)`.
        bound: name of the bound; see the module `bounds`.
        predictor: what is deployed.
        delta: probability that the bound may fail with, all looks together.
        loss_range: smallest and largest loss, for bounds that assume a range.
        clip: certify the loss clamped to its range.
        hedge: a predictor that has not seen these data: its position `(dim,)`, or with
            `losses` its losses `(n,)`. Its risk is bounded by its mean loss alone. Both
            bounds have half of `delta`, and the smaller one is returned.
        looks: number of certificates planned on these data.
        ledger: counts the certificates, instead of `looks`.
        prior_index: rows of the data that the prior was made from.
        certify_index: rows certified on, none of which may be a row of the prior.
        reserved: the division by `split_prior` whose second part these examples are,
            where the particles were fitted on the first.
        duplicates_drawn_independently: state that equal rows are independent draws, as
            where there are few different inputs, and no copies.
        fixed_before_data: state that a codebook by hand is a finite set of hypotheses
            which was fixed, with its weights, before the data were seen.
        **parameters: what a bound must know of the loss, such as `variance`; and its
            free number (`beta`, `eta` or `omega`), one or a grid, fixed before the data
            are seen.

    Returns:
        The certificate. Particles that the theorem does not cover are a
        :class:`~pyro_geo.errors.NotProperlyWeightedError`, a loss out of range is a
        :class:`~pyro_geo.errors.LossRangeError`, a free number out of range a
        :class:`~pyro_geo.errors.BetaRangeError`. A prior that knows the examples, or
        examples that repeat or were chosen, are a
        :class:`~pyro_geo.errors.PriorDependsOnDataError`, and a prediction that depends
        on its batch is a :class:`~pyro_geo.errors.ModelError`.

    References:
        "PAC-Bayes Bounds for Gibbs Posteriors via Singular Learning Theory", arXiv
        2604.17219, for Gibbs posteriors; Maurer (2004), cs/0411099, for the bound.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> hypotheses = torch.rand(50, 1, generator=generator)
        >>> book = Codebook(hypotheses, torch.full((50,), 1 / 50).log())
        >>> x = torch.rand(200, generator=generator)
        >>> wrong = ((x > hypotheses) != (x > 0.3)).double()
        >>> certificate = certify(book, losses=wrong, fixed_before_data=True)
        >>> certificate.empirical_risk < certificate.value < 0.1
        True
    """
    _check(codebook, risk, data, losses, prior_index, certify_index)
    known = examine(
        codebook,
        risk,
        data,
        losses,
        reserved=reserved,
        duplicates_drawn_independently=duplicates_drawn_independently,
        fixed_before_data=fixed_before_data,
    )
    ranged = {"upper": loss_range[1]} if bound == "unexpected_bernstein" else {}
    rule = rule_of(bound, parameters)
    parameters = {**parameters, **ranged}
    if ledger is not None:
        by_content = losses if data is None else data
        looks = ledger.look(by_content if known.rows is None else known.rows)
    check_count("looks", looks)
    share = delta / looks  # a union bound over the looks
    half = share / 2 if hedge is not None else share  # the hedge has the other half
    check_number("delta", half, 0.0, 1.0, strict=True)
    limits = loss_range if rule.in_range else None
    moments = _moments(codebook, risk, data, losses, limits, clip)
    known.compare(moments, clip)
    free = rule.free if rule.free in parameters else None
    fixed = () if free is None else (f"The value of {free} was fixed beforehand.",)
    clipped = (f"The loss certified is the one given, clamped to {limits}.",)
    low, span, most = 0.0, 1.0, math.inf
    if bound in ("kl", "catoni"):  # these two need losses in [0, 1]
        low, span, most = loss_range[0], loss_range[1] - loss_range[0], 1.0
    elif rule.in_range:
        most = loss_range[1]
    # Moments of (loss - low) / span. The bounds that use the square do not shift.
    scaled = Losses((moments.mean - low) / span, moments.square / span**2, moments.n)
    log_rho = _choose(codebook, scaled, predictor, rule, half, parameters)
    chosen = _candidates(codebook, scaled, log_rho[None])
    check_claims(parameters, moments, codebook.alive, chosen)
    value = float(evaluate(rule, chosen, scaled.n, half, parameters)[0])
    lower = None
    if bound == "kl":  # the same event bounds the risk from below
        c = (
            bounds.radius(chosen.complexity, half) + bounds.log_xi(scaled.n)
        ) / scaled.n
        lower = low + span * float(bounds.kl_inverse(chosen.risk, c, "lower")[0])
    certificate = Certificate(
        value=low + span * min(value, most),
        lower=lower,
        empirical_risk=low + span * float(chosen.risk[0]),
        complexity=float(chosen.complexity[0]),
        n=scaled.n,
        delta=half * looks,
        looks=looks,
        bound=bound,
        assumptions=(
            rule.assumption,
            *ALWAYS,
            *(clipped if clip and limits else ()),
            *fixed,
            *known.assumptions,
        ),
        predictor=predictor,
        status=codebook.status,
        vacuous=value >= most,
        log_rho=log_rho,
        codebook=codebook,
    )
    if hedge is None:
        return certificate
    # a predictor that was chosen without these data has no complexity
    if data is not None:
        _check_hedge(codebook, hedge)
    row = hedge if data is None else _losses_at(codebook, risk, data, hedge)
    other = certify_holdout(row, delta=half, loss_range=loss_range)
    other = replace(other, delta=half * looks, looks=looks)
    return replace(Certificate.union([certificate, other]), looks=looks)


def _check(
    codebook: Codebook,
    risk: Callable[..., Tensor] | None,
    data: tuple[Any, ...] | None,
    losses: Tensor | None,
    prior_index: Sequence[int] | Tensor | None,
    certify_index: Sequence[int] | Tensor | None,
) -> None:
    expected = "a Codebook: posterior.codebook() of a GibbsPosterior that was run"
    good = isinstance(codebook, Codebook)
    check(good, "codebook", type(codebook).__name__, expected)
    arguments = {"risk": risk, "data": data, "losses": losses}
    passed = [name for name, value in arguments.items() if value is not None]
    one_way = (losses is None) != (risk is None or data is None)
    check(one_way, "risk, data and losses", passed, "risk and data, or losses alone")
    if prior_index is not None and certify_index is not None:
        check_disjoint(prior_index, certify_index)
    if codebook.target is not None and codebook.target.dtype != torch.float64:
        warnings.warn(
            PrecisionWarning(
                "weights were computed in single precision",
                where="argument codebook",
                found=codebook.target.dtype,
                expected=torch.float64,
                todo="Run the posterior in double precision: rounding errors of the "
                "weights enter the certificate.",
            ),
            stacklevel=3,
        )


def _moments(
    codebook: Codebook,
    risk: Callable[..., Tensor] | None,
    data: tuple[Any, ...] | None,
    losses: Tensor | None,
    limits: tuple[float, float] | None,
    clip: bool,
) -> Losses:
    if losses is not None:
        return codebook.losses_from(losses, limits, clip=clip)
    assert risk is not None
    assert data is not None
    args, targets = data
    return codebook.losses(risk, args, targets, limits, clip=clip)


def _check_hedge(codebook: Codebook, hedge: Tensor) -> None:
    """Refuse a particle of the run as a predictor that has not seen the data."""
    fitted = [leaf for _, leaf in leaves(codebook) if leaf.origin is not None]
    close = any(bool((leaf.q == hedge.to(leaf.q)).all(1).any()) for leaf in fitted)
    expected = "the position of a predictor that has not seen these data"
    found = "the position of a particle that was fitted on them"
    check(not close, "hedge", found, expected, error=PriorDependsOnDataError)


def _losses_at(
    codebook: Codebook,
    risk: Callable[..., Tensor] | None,
    data: tuple[Any, ...],
    q: Tensor,
) -> Tensor:
    """Losses of one position, `(n,)`."""
    book = codebook
    while book.parts:  # any part of a mixture can evaluate the loss
        book = book.parts[0]
    assert book.model is not None
    assert book.target is not None
    assert risk is not None
    model = book.model.with_loss(risk)
    target = model.target(*data, dtype=book.target.dtype)
    return model.losses(target, q[None].to(target.dtype))[0]


def _choose(
    codebook: Codebook,
    losses: Losses,
    predictor: Predictor,
    rule: Rule,
    delta: float,
    parameters: dict[str, Any],
) -> Tensor:
    """Weights of the ensemble to deploy, chosen for its bound."""
    if predictor == "gibbs":
        if codebook.log_weights is None:
            raise ConfigurationError(
                "this codebook has no weights of its own",
                where="argument predictor",
                found="'gibbs'",
                expected="the codebook of one Gibbs posterior",
                todo="Use 'retilted', whose bound is never larger.",
            )
        return codebook.log_weights
    if predictor == "single":
        # K = log(1 / p_i) of a particle that has all the weight
        single = Candidates(losses.mean, losses.square, -codebook.log_p)
        values = evaluate(rule, single, losses.n, delta, parameters)
        # one particle as an ensemble: all its weight on one row
        values = torch.where(codebook.alive, values, math.inf)
        log_rho = torch.full_like(codebook.log_p, -math.inf)
        log_rho[values.argmin()] = 0.0
        return log_rho
    check_choice("predictor", predictor, ("retilted", "gibbs", "single"))
    # The bound holds for all weights at once, so that the tilt may be chosen by the
    # data: search a grid, then finer grids around its best point.
    tilts = _TILTS.to(losses.mean.device)
    best, value = codebook.log_p, math.inf
    for _ in range(_ROUNDS):
        log_rho = codebook.retilted(tilts[:, None] * losses.n * losses.mean)
        ensembles = _candidates(codebook, losses, log_rho)
        values = evaluate(rule, ensembles, losses.n, delta, parameters)
        i = int(values.argmin())
        if float(values[i]) < value:
            best, value = log_rho[i], float(values[i])
        # the next grid lies between the neighbours of the best tilt
        low, high = tilts[max(i - 1, 0)], tilts[min(i + 1, len(tilts) - 1)]
        tilts = torch.logspace(
            math.log10(low),
            math.log10(high),
            _POINTS,
            dtype=torch.float64,
            device=tilts.device,
        )
    return best


def _candidates(codebook: Codebook, losses: Losses, log_rho: Tensor) -> Candidates:
    share = log_rho.exp()
    return Candidates(share @ losses.mean, share @ losses.square, codebook.kl(log_rho))
