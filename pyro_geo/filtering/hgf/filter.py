"""The hierarchical Gaussian filter as one function of a series and its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from pyro_geo.filtering.hgf.checks import Numbers
from pyro_geo.filtering.hgf.parameters import Kind, Predictive, Update
from pyro_geo.filtering.hgf.run import (
    Backend,
    OnInvalid,
    prepare,
    run_surprise,
    run_trajectory,
)
from pyro_geo.filtering.hgf.trajectory import HGFState, HGFTrajectory

__all__ = ["hgf_filter", "hgf_surprise"]


def hgf_filter(
    u: Numbers,
    omega: Numbers,
    kappa: Numbers | None = None,
    mu0: Numbers | None = None,
    pi0: Numbers | None = None,
    input_precision: Numbers | None = None,
    *,
    kind: Kind = "continuous",
    update: Update = "unbounded",
    time_step: Numbers | None = None,
    drift: Numbers | None = None,
    autoconnection: Numbers | None = None,
    value_coupling: Numbers | None = None,
    observed: Sequence[bool] | Tensor | None = None,
    nan_policy: Literal["raise", "missing"] = "raise",
    predictive: Predictive = "input",
    init_state: HGFState | None = None,
    backend: Backend = "auto",
    on_invalid: OnInvalid = "raise",
    normalise: bool = True,
    num_classes: int | None = None,
    validate: bool = True,
) -> HGFTrajectory:
    r"""Filter series whose rate of change is itself hidden, and changes.

    The state of level `j` walks at a rate that level `j + 1` sets,

    .. math::
        x_j \sim \mathrm N\big(\lambda_j x_j' + t (\rho_j + \psi_j x_{j+1}),
        \; t \exp(\kappa_j x_{j+1} + \omega_j)\big), \qquad
        u \sim \mathrm N(x_1, 1/\pi_u) \text{ or }
        \mathrm{Bernoulli}(\operatorname{sigmoid} x_1)

    and one pass over the series gives a normal belief of each level after each input.
    The default update of the upper levels cannot fail: see
    :func:`~pyro_geo.filtering.volatility_update`. All batch axes broadcast; that of the
    inputs is not copied for each set of parameters. As in the literature the variance
    of a prediction is :math:`1/\pi' + \Omega` also where :math:`\lambda \ne 1`.

    Couplings and scales of the levels above the first are not all identified: of
    :math:`\kappa_j`, :math:`\omega_{j+1}` and the initial beliefs of level `j + 1` fix
    one, :math:`\kappa_j = 1` as a rule.

    Args:
        u: inputs, `(*batch, T)`; 0 or 1 if binary, class numbers if categorical.
        omega: tonic log-volatility :math:`\omega`, `(*batch, L)`; a number is for all
            levels.
        kappa: volatility coupling :math:`\kappa`, `(*batch, L - 1)`.
        mu0: mean before the first input, `(*batch, L)`.
        pi0: precision before the first input, `(*batch, L)`.
        input_precision: :math:`\pi_u` of continuous input, `(*batch,)`.
        kind: of input: "continuous", "binary" or "categorical". A categorical one is K
            binary chains on whether the input was of each class; the axis before the
            levels is then that of the classes, of size K or 1, and a parameter with
            one axis is for all of them.
        update: "unbounded"; "classic", "ehgf" and "ehgf_pyhgf" of the literature;
            "moment", the exact projection; or "collapsed", which integrates the lower
            of two levels out of continuous input before it updates the upper one and
            is an assumed-density filter with evidence of its own rather than a model
            of how people learn.
        time_step: time since the step before, `(*batch, T)`; default 1.
        drift: :math:`\rho`, `(*batch, L)`; default 0.
        autoconnection: :math:`\lambda`, `(*batch, L)`; default 1.
        value_coupling: :math:`\psi`, `(*batch, L - 1)`; default 0.
        observed: which inputs there are, `(*batch, T)`; default all. Where there is
            none, beliefs only widen.
        nan_policy: "missing" takes NaN as not observed, "raise" refuses it.
        predictive: "input" for the density of the input itself; "state" for the one
            that other toolboxes use, without the input's own noise.
        init_state: `final_state` of the steps before, instead of `mu0` and `pi0`.
        backend: "numba" for compiled loops on the processor, differentiable once,
            "torch" for any device and any number of derivatives, "auto" for the
            first where it serves.
        on_invalid: what to do where "classic" or "ehgf_pyhgf" has failed: "raise", or
            mark what follows as "nan", or give it a surprise of infinity, hence a
            log-probability of minus infinity, with gradients of 0 ("-inf", for use
            within inference; parameters that are NaN, infinite or no precisions are
            answered in the same way if they are not validated). In a trace "raise"
            marks too.
        normalise: whether the predicted probabilities of classes are made to add up to
            1; otherwise the surprise is the sum of those of K binary inputs.
        num_classes: K of categorical input, if no parameter has an axis for it.
        validate: whether values are checked, where they may be looked at. Shapes are
            always checked.

    Returns:
        Beliefs, predictions, surprise and prediction errors of every step.

    References:
        Robust volatility updates for Hierarchical Gaussian Filtering, arXiv 2605.00966;
        The generalized Hierarchical Gaussian Filter, arXiv 2305.10937; Mathys et al.
        (2011), A Bayesian foundation for individual learning under uncertainty. The
        collapsed mode, the density of the input and the normalised classes are derived
        here.

    Example:
        >>> import torch
        >>> u = torch.tensor([0.1, -0.2, 0.3, 4.0, 4.2, 3.9], dtype=torch.float64)
        >>> path = hgf_filter(
        ...     u,
        ...     omega=[-3.0, -2.0],
        ...     kappa=[1.0],
        ...     mu0=[0.0, 0.0],
        ...     pi0=[1.0, 1.0],
        ...     input_precision=10.0,
        ... )
        >>> path.mu.shape, path.surprise.argmax().item()
        (torch.Size([6, 2]), 3)
    """
    call = prepare(
        u,
        omega,
        kappa,
        mu0,
        pi0,
        input_precision,
        kind=kind,
        update=update,
        time_step=time_step,
        drift=drift,
        autoconnection=autoconnection,
        value_coupling=value_coupling,
        observed=observed,
        nan_policy=nan_policy,
        predictive=predictive,
        init_state=init_state,
        backend=backend,
        on_invalid=on_invalid,
        normalise=normalise,
        num_classes=num_classes,
        validate=validate,
    )
    return run_trajectory(call)


def hgf_surprise(
    u: Numbers,
    omega: Numbers,
    kappa: Numbers | None = None,
    mu0: Numbers | None = None,
    pi0: Numbers | None = None,
    input_precision: Numbers | None = None,
    *,
    kind: Kind = "continuous",
    update: Update = "unbounded",
    time_step: Numbers | None = None,
    drift: Numbers | None = None,
    autoconnection: Numbers | None = None,
    value_coupling: Numbers | None = None,
    observed: Sequence[bool] | Tensor | None = None,
    nan_policy: Literal["raise", "missing"] = "raise",
    predictive: Predictive = "input",
    init_state: HGFState | None = None,
    backend: Backend = "auto",
    on_invalid: OnInvalid = "raise",
    normalise: bool = True,
    num_classes: int | None = None,
    validate: bool = True,
) -> Tensor:
    r"""Filter series for the surprise alone, minus the log-density of each input.

    Its sum over time is minus the log-likelihood of the parameters. The compiled
    backend computes it in one pass, without storing the beliefs.

    Args:
        u: inputs, as for :func:`hgf_filter`, and so are all other arguments.
        omega: tonic log-volatility, `(*batch, L)`.
        kappa: volatility coupling, `(*batch, L - 1)`.
        mu0: mean before the first input, `(*batch, L)`.
        pi0: precision before the first input, `(*batch, L)`.
        input_precision: of continuous input, `(*batch,)`.
        kind: of input.
        update: of the upper levels.
        time_step: time since the step before, `(*batch, T)`.
        drift: of the levels, `(*batch, L)`.
        autoconnection: of the levels, `(*batch, L)`.
        value_coupling: between the levels, `(*batch, L - 1)`.
        observed: which inputs there are, `(*batch, T)`.
        nan_policy: what NaN means.
        predictive: density of the input or of the state.
        init_state: `final_state` of the steps before.
        backend: "auto", "torch" or "numba".
        on_invalid: what to do where an update has failed.
        normalise: whether probabilities of classes add up to 1.
        num_classes: number of classes.
        validate: whether values are checked.

    Returns:
        Surprise in nats, 0 where nothing is observed, `(*batch, T)`.

    References:
        Robust volatility updates for Hierarchical Gaussian Filtering, arXiv 2605.00966.

    Example:
        >>> import torch
        >>> u = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
        >>> omega = torch.tensor([-2.0, -4.0], requires_grad=True)
        >>> loss = hgf_surprise(u, omega, 1.0, 0.0, 1.0, kind="binary").sum()
        >>> loss.backward()
        >>> omega.grad.shape
        torch.Size([2])
    """
    call = prepare(
        u,
        omega,
        kappa,
        mu0,
        pi0,
        input_precision,
        kind=kind,
        update=update,
        time_step=time_step,
        drift=drift,
        autoconnection=autoconnection,
        value_coupling=value_coupling,
        observed=observed,
        nan_policy=nan_policy,
        predictive=predictive,
        init_state=init_state,
        backend=backend,
        on_invalid=on_invalid,
        normalise=normalise,
        num_classes=num_classes,
        validate=validate,
    )
    return run_surprise(call)
