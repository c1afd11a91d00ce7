"""All that follows from the beliefs of a filter, for every step at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo._showing import fields_html, fields_line
from pyro_geo.filtering.hgf.expansions import Coupling, expand
from pyro_geo.filtering.hgf.moment import project
from pyro_geo.filtering.hgf.parameters import (
    HGFInputs,
    HGFParameters,
    Kind,
    Predictive,
    Update,
)
from pyro_geo.filtering.hgf.scan import PROBABILITY, collapsed_terms, exponent

__all__ = ["HGFState", "HGFTrajectory", "surprise", "trajectory"]


class HGFState(NamedTuple):
    """Beliefs of all levels after the last step, from which a filter can go on.

    Attributes:
        mu: means, `(*batch, L)`.
        pi: precisions, `(*batch, L)`.
    """

    mu: Tensor
    pi: Tensor


class HGFTrajectory(NamedTuple):
    r"""Beliefs of a filter at each step. With categorical input a batch axis is added.

    Attributes:
        mu: posterior means, `(*batch, T, L)`; `(*batch, K, T, L)` with K classes.
        pi: posterior precisions, as `mu`.
        muhat: predicted means, as `mu`.
        pihat: predicted precisions, as `mu`.
        surprise: minus the log-density of each input given those before it, 0 where
            none is observed, `(*batch, T)`.
        pred: prediction of the input: its mean, its probability of being 1,
            `(*batch, T)`, or the probabilities of all classes, `(*batch, T, K)`.
        pe_value: input minus prediction, 0 where none is observed, `(*batch, T)`; of
            each chain, `(*batch, K, T)`, with classes.
        pe_volatility: how much larger a level's change was than predicted,
            :math:`\beta / (\alpha + \Omega) - 1`, for the levels below the highest,
            `(*batch, T, L - 1)`.
        final_state: beliefs after the last step.
    """

    mu: Tensor
    pi: Tensor
    muhat: Tensor
    pihat: Tensor
    surprise: Tensor
    pred: Tensor
    pe_value: Tensor
    pe_volatility: Tensor
    final_state: HGFState

    def __repr__(self) -> str:
        """Name the fields with their shapes."""
        return fields_line(self)

    def _repr_html_(self) -> str:
        """Show the shapes in a notebook."""
        return fields_html(self)


class _Steps(NamedTuple):
    """Beliefs before and predictions of each step; `good` where they are beliefs."""

    mu: Tensor
    variance: Tensor
    muhat: Tensor
    before: Tensor  # variance before the step
    gamma: Tensor  # log-volatility of each level
    good: Tensor


def _predictions(
    parameters: HGFParameters, inputs: HGFInputs, mu: Tensor, pi: Tensor
) -> _Steps:
    good = pi > 0
    # before anything is computed of it, as 0 times the gradient of NaN is NaN
    mu, pi = torch.where(good, mu, 0.0), torch.where(good, pi, 1.0)
    start = (*mu.shape[:-2], 1, mu.shape[-1])
    first_mu = parameters.mu0.unsqueeze(-2).expand(start)
    first_variance = parameters.pi0.reciprocal().unsqueeze(-2).expand(start)
    old = torch.cat([first_mu, mu[..., :-1, :]], -2)
    variance = pi.reciprocal()
    before = torch.cat([first_variance, variance[..., :-1, :]], -2)
    t = inputs.time_step.unsqueeze(-1)
    drift, rate, omega, kappa, value = (
        x.unsqueeze(-2)
        for x in (
            parameters.drift,
            parameters.autoconnection,
            parameters.omega,
            parameters.kappa,
            parameters.value_coupling,
        )
    )
    own = rate * old + t * drift
    levels = [own[..., -1]]
    for j in range(own.shape[-1] - 2, -1, -1):
        levels.append(own[..., j] + t[..., 0] * value[..., j] * levels[-1])
    muhat = torch.stack(levels[::-1], -1)
    gamma = torch.log(t) + omega
    coupled = gamma[..., :-1] + kappa * muhat[..., 1:]
    top = gamma[..., -1:].expand(*coupled.shape[:-1], 1)
    return _Steps(mu, variance, muhat, before, torch.cat([coupled, top], -1), good)


def _collapsed_surprise(
    parameters: HGFParameters, inputs: HGFInputs, steps: _Steps, error: Tensor
) -> Tensor:
    """Return the normaliser of the upper belief, the lower level integrated out."""
    precision = parameters.input_precision.unsqueeze(-1)
    before, gamma = steps.before[..., 0], steps.gamma[..., 0]
    r, e = collapsed_terms(before, gamma, error, precision)
    pi_hat = (steps.before[..., 1] + exponent(steps.gamma[..., 1])).reciprocal()
    coupling = Coupling.of(parameters.kappa[..., 0].unsqueeze(-1))
    expansions = expand(r, e, pi_hat, coupling)
    log_z = project(r, e, pi_hat, coupling, expansions, prior=True)[2]
    log_alpha = torch.log(before + precision.reciprocal())
    log_prior = 0.5 * torch.log(pi_hat / (2 * math.pi))
    return 0.5 * (log_alpha + math.log(2 * math.pi)) - log_z - log_prior


def _surprise(
    parameters: HGFParameters,
    inputs: HGFInputs,
    steps: _Steps,
    kind: Kind,
    update: Update,
    predictive: Predictive,
    normalise: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the surprise, the prediction of the input and its error."""
    observed, muhat = inputs.observed, steps.muhat[..., 0]
    if kind == "continuous":
        error = torch.where(observed, inputs.u - muhat, 0.0)
        if update == "collapsed":
            value = _collapsed_surprise(parameters, inputs, steps, error)
        else:
            own = steps.before[..., 0]
            if predictive == "input":
                own = own + parameters.input_precision.reciprocal().unsqueeze(-1)
            scale = torch.logaddexp(torch.log(own), steps.gamma[..., 0])
            # not the square of the error first, which may overflow
            distance = error * torch.exp(-0.5 * scale)
            value = 0.5 * (math.log(2 * math.pi) + scale + distance * distance)
        good = steps.good.all(-1)
        return torch.where(good & observed, value, _or_nan(good)), muhat, error
    sign = 2 * inputs.u - 1
    p, likelihood = (
        torch.sigmoid(x).clamp(PROBABILITY, 1 - PROBABILITY)
        for x in (muhat, sign * muhat)
    )
    error = torch.where(observed, inputs.u - p, 0.0)
    good = steps.good.all(-1)
    if kind == "binary":
        value = -torch.log(likelihood)
    else:
        total = p.sum(-2)
        if normalise:
            value = torch.log(total) - (inputs.u * torch.log(p)).sum(-2)
        else:
            value = -torch.log(likelihood).sum(-2)
        p = (p / total.unsqueeze(-2)).transpose(-1, -2)
        good, observed = good.all(-2), observed[..., 0, :]
    return torch.where(good & observed, value, _or_nan(good)), p, error


def _or_nan(good: Tensor) -> Tensor:
    return torch.where(good, 0.0, torch.nan)


def surprise(
    parameters: HGFParameters,
    inputs: HGFInputs,
    mu: Tensor,
    pi: Tensor,
    *,
    kind: Kind,
    predictive: Predictive = "input",
    update: Update = "unbounded",
    normalise: bool = True,
) -> Tensor:
    """Return the surprise of :func:`trajectory` alone, `(*batch, T)`."""
    steps = _predictions(parameters, inputs, mu, pi)
    return _surprise(parameters, inputs, steps, kind, update, predictive, normalise)[0]


def trajectory(
    parameters: HGFParameters,
    inputs: HGFInputs,
    mu: Tensor,
    pi: Tensor,
    *,
    kind: Kind,
    predictive: Predictive = "input",
    update: Update = "unbounded",
    normalise: bool = True,
) -> HGFTrajectory:
    r"""Derive predictions, surprise and errors from the beliefs after each input.

    A belief that is NaN, as of an update that has failed, is NaN in all that follows
    from it, with derivatives of 0.

    Args:
        parameters: of the levels; of K chains, `(*batch, K, L)`, for classes.
        inputs: of the series; one row for each of K classes, `(*batch, K, T)`.
        mu: posterior means, `(*batch, T, L)`.
        pi: posterior precisions, `(*batch, T, L)`.
        kind: of input.
        predictive: "input" for the density of the input,
            :math:`N(u; \hat\mu_1, 1/\hat\pi_1 + 1/\pi_u)`; "state" leaves out
            :math:`1/\pi_u` as other toolboxes do.
        update: that was used; the surprise of "collapsed" is its own normaliser.
        normalise: whether the predicted probabilities of classes are made to add up
            to 1, otherwise the surprise is the sum of those of K binary inputs.

    Returns:
        The trajectory.

    References:
        The generalized Hierarchical Gaussian Filter, arXiv 2305.10937; the density of
        the input and the normalised classes are derived here.
    """
    steps = _predictions(parameters, inputs, mu, pi)
    value, pred, error = _surprise(
        parameters, inputs, steps, kind, update, predictive, normalise
    )
    variance_hat = steps.before + exponent(steps.gamma)
    change = steps.variance + (steps.mu - steps.muhat) ** 2
    excess = (change / variance_hat - 1)[..., :-1]
    excess = torch.where(inputs.observed.unsqueeze(-1), excess, 0.0)
    good = steps.good.all(-1, keepdim=True)
    # a prediction is one while all beliefs before it are
    known = torch.cat([torch.ones_like(good[..., :1, :]), good[..., :-1, :]], -2)
    known_level = known[..., 0]
    if kind == "categorical":
        known_pred = known_level.all(-2).unsqueeze(-1)
    else:
        known_pred = known_level
    return HGFTrajectory(
        mu,
        pi,
        torch.where(known, steps.muhat, torch.nan),
        torch.where(known, variance_hat.reciprocal(), torch.nan),
        value,
        torch.where(known_pred, pred, torch.nan),
        torch.where(known_level, error, torch.nan),
        torch.where(good, excess, torch.nan),
        HGFState(mu[..., -1, :], pi[..., -1, :]),
    )
