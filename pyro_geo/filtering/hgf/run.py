"""A checked call of the filter, and the backend that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo._compat.torch import is_concrete
from pyro_geo.checks import check, check_choice
from pyro_geo.errors import (
    HGFDomainError,
    HGFNegativePrecisionError,
    HGFShapeError,
    UnsupportedError,
)
from pyro_geo.filtering.hgf.checks import (
    Numbers,
    common_type,
    hgf_inputs,
    hgf_parameters,
)
from pyro_geo.filtering.hgf.parameters import (
    HGFInputs,
    HGFParameters,
    Kind,
    Predictive,
    Update,
)
from pyro_geo.filtering.hgf.ranges import check_numbers, place_of, without_unsound
from pyro_geo.filtering.hgf.scan import scan
from pyro_geo.filtering.hgf.trajectory import (
    HGFState,
    HGFTrajectory,
    surprise,
    trajectory,
)
from pyro_geo.filtering.hgf.volatility import FALLIBLE, UPDATES

__all__ = [
    "Backend",
    "Call",
    "OnInvalid",
    "compiles",
    "prepare",
    "run_scan",
    "run_surprise",
    "run_total",
    "run_trajectory",
    "settled",
]

Backend = Literal["auto", "torch", "numba"]
OnInvalid = Literal["raise", "nan", "-inf"]


class Call(NamedTuple):
    """A checked call of the filter."""

    parameters: HGFParameters
    inputs: HGFInputs
    kind: Kind
    update: Update
    predictive: Predictive
    normalise: bool
    compiled: bool
    value_coupled: bool
    on_invalid: OnInvalid
    unsound: Tensor | None  # series whose values no filter can run on

    @property
    def chains(self) -> Kind:
        """Kind of the chains: those of classes are binary."""
        return "binary" if self.kind == "categorical" else self.kind

    @property
    def fused(self) -> bool:
        """Whether the surprise is found in the pass over the series itself."""
        own = self.kind == "categorical" or self.update == "collapsed"
        return self.compiled and not own


def prepare(
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
    nan_policy: str = "raise",
    predictive: Predictive = "input",
    init_state: HGFState | None = None,
    backend: Backend = "auto",
    on_invalid: OnInvalid = "raise",
    normalise: bool = True,
    num_classes: int | None = None,
    validate: bool = True,
) -> Call:
    """Check the arguments of :func:`~pyro_geo.filtering.hgf_filter`, and their batch.

    Returns:
        What is to be run.
    """
    check_choice("update", update, (*UPDATES, "collapsed"))
    check_choice("predictive", predictive, ("input", "state"))
    check_choice("backend", backend, ("auto", "torch", "numba"))
    check_choice("on_invalid", on_invalid, ("raise", "nan", "-inf"))
    own = (omega, kappa, mu0, pi0, input_precision)
    more = (drift, autoconnection, value_coupling, *(init_state or ()))
    dtype, device = common_type(u, *own, *more, time_step)
    parameters = hgf_parameters(
        *own,
        kind=kind,
        drift=drift,
        autoconnection=autoconnection,
        value_coupling=value_coupling,
        num_classes=num_classes,
        init_state=init_state,
        dtype=dtype,
        device=device,
        validate=validate,
    )
    inputs = hgf_inputs(
        u,
        kind=kind,
        observed=observed,
        time_step=time_step,
        nan_policy=nan_policy,
        num_classes=parameters.omega.shape[-2] if kind == "categorical" else None,
        dtype=dtype,
        device=device,
        validate=validate,
    )
    if validate and on_invalid == "raise":
        check_numbers(parameters, kind)
    _check_batch(parameters, inputs)
    if update == "collapsed":
        good = kind == "continuous" and parameters.omega.shape[-1] == 2
        check(good, "update", update, "continuous input and 2 levels for 'collapsed'")
    compiled = compiles(parameters, inputs, kind, update, backend)
    unsound = None
    if on_invalid == "-inf":
        parameters, inputs, unsound = without_unsound(parameters, inputs, kind)
    return Call(
        parameters,
        inputs,
        kind,
        update,
        predictive,
        normalise,
        compiled,
        value_coupling is not None,
        on_invalid,
        unsound,
    )


def _check_batch(parameters: HGFParameters, inputs: HGFInputs) -> None:
    batch, series = parameters.omega.shape[:-1], inputs.u.shape[:-1]
    try:
        torch.broadcast_shapes(batch, series)
    except RuntimeError:
        raise HGFShapeError(
            "inputs and parameters do not go together",
            where="argument u",
            found=f"batch {tuple(series)} of inputs, {tuple(batch)} of parameters",
            expected="batch shapes that broadcast",
            todo="Several sets of parameters for one series need a batch axis of u, "
            "of size 1.",
        ) from None


def compiles(
    parameters: HGFParameters,
    inputs: HGFInputs,
    kind: Kind,
    update: Update,
    backend: Backend,
) -> bool:
    """Tell whether the compiled backend runs a filter.

    Args:
        parameters: of the levels.
        inputs: of the series.
        kind: of input.
        update: of the levels above the first.
        backend: that was asked for; "numba" where it cannot run raises
            :class:`~pyro_geo.errors.UnsupportedError`.

    Returns:
        Whether it does.

    Raises:
        UnsupportedError: "numba" was asked for and cannot run.
    """
    if backend == "torch":
        return False
    from pyro_geo.filtering.hgf.compiled.operator import supports

    chains: Kind = "binary" if kind == "categorical" else kind
    answer = supports(parameters, inputs, kind=chains, update=update)
    if backend == "numba" and answer is not True:
        raise UnsupportedError(
            "the compiled backend does not have this",
            where="argument backend",
            found=answer,
            expected="processor tensors of one floating type, and an update it has",
            todo="Use backend='auto' or 'torch'.",
        )
    return answer is True


def run_scan(call: Call) -> tuple[Tensor, Tensor]:
    """Filter with the backend of the call.

    Args:
        call: to run.

    Returns:
        Posterior means and precisions, `(*batch, T, L)`.
    """
    if call.compiled:
        from pyro_geo.filtering.hgf.compiled.operator import compiled_scan

        return compiled_scan(
            call.parameters,
            call.inputs,
            kind=call.chains,
            update=call.update,
            value_coupled=call.value_coupled,
        )
    return scan(
        call.parameters,
        call.inputs,
        kind=call.chains,
        update=call.update,
        value_coupled=call.value_coupled,
    )


def run_trajectory(call: Call) -> HGFTrajectory:
    """Filter with the backend of the call, and derive all that follows from beliefs.

    Args:
        call: to run.

    Returns:
        Beliefs, predictions, surprise and prediction errors of every step.
    """
    mu, pi = run_scan(call)
    _refuse_failure(call, mu, pi)
    path = trajectory(
        call.parameters,
        call.inputs,
        mu,
        pi,
        kind=call.kind,
        predictive=call.predictive,
        update=call.update,
        normalise=call.normalise,
    )
    return path._replace(surprise=settled(path.surprise, call.unsound))


def run_surprise(call: Call) -> Tensor:
    """Find the surprise with the backend of the call, in one pass where it can.

    Args:
        call: to run.

    Returns:
        Surprise, `(*batch, T)`.
    """
    if call.fused:
        from pyro_geo.filtering.hgf.compiled.operator import compiled_surprise

        value = compiled_surprise(
            call.parameters,
            call.inputs,
            kind=call.chains,
            update=call.update,
            predictive=call.predictive,
            value_coupled=call.value_coupled,
        )
        _refuse_nan(call, value)
        return settled(value, call.unsound)
    mu, pi = run_scan(call)
    _refuse_failure(call, mu, pi)
    value = surprise(
        call.parameters,
        call.inputs,
        mu,
        pi,
        kind=call.kind,
        predictive=call.predictive,
        update=call.update,
        normalise=call.normalise,
    )
    return settled(value, call.unsound)


def run_total(call: Call, signs: Tensor | None = None) -> Tensor:
    """Sum the surprise over the series, with its gradient in the same pass if it can.

    Args:
        call: to run.
        signs: of choices, for a fused call of binary inputs; see
            :func:`~pyro_geo.filtering.hgf.compiled.operator.compiled_total`.

    Returns:
        Minus the log-likelihood of each series, `(*batch,)`.
    """
    if not call.fused:
        return run_surprise(call).sum(-1)
    from pyro_geo.filtering.hgf.compiled.operator import compiled_total

    value = compiled_total(
        call.parameters,
        call.inputs,
        kind=call.chains,
        update=call.update,
        predictive=call.predictive,
        value_coupled=call.value_coupled,
        signs=signs,
    )
    _refuse_nan(call, value)
    if call.unsound is None:
        return value
    return torch.where(value.isnan() | call.unsound, torch.inf, value)


def _refuse_nan(call: Call, value: Tensor) -> None:
    """Filter once more if an update has failed, to say where."""
    if call.on_invalid == "raise" and is_concrete(value) and value.isnan().any():
        with torch.no_grad():
            _refuse_failure(call, *run_scan(call))


def _refuse_failure(call: Call, mu: Tensor, pi: Tensor) -> None:
    """Refuse failed beliefs, if the call says so and values may be looked at.

    Args:
        call: that gave the beliefs.
        mu: posterior means, `(*batch, T, L)`.
        pi: posterior precisions, `(*batch, T, L)`.

    Raises:
        HGFNegativePrecisionError: an update that may fail has failed.
        HGFDomainError: a number has overflowed.
    """
    if call.on_invalid != "raise" or not is_concrete(mu, pi):
        return
    bad = ~(pi > 0)
    if not bool(bad.any()):
        return
    # the lowest level that has failed in the first bad step of the first bad series
    names = ("subject", "class", "trial", "level")
    if call.kind != "categorical":
        names = ("subject", "trial", "level")
    place = place_of(bad, names)
    if call.update not in FALLIBLE:
        raise HGFDomainError(
            "a belief is not finite",
            where=place,
            found=f"mean {mu[bad][0].item()}, precision {pi[bad][0].item()}",
            expected="numbers that the floating type can hold",
            todo="Bring inputs to a scale near 1, or use double precision.",
        )
    raise HGFNegativePrecisionError(
        "a belief has no positive precision",
        where=place,
        found=f"update {call.update!r}",
        expected="a positive precision at every level of every step",
        todo="Use update='unbounded', which cannot fail; within inference "
        "on_invalid='-inf' rejects such parameters.",
    )


def settled(surprise: Tensor, unsound: Tensor | None) -> Tensor:
    """Turn the NaN of series whose update has failed into what was asked for.

    Args:
        surprise: of each step, NaN from the failure on, `(*batch, T)`.
        unsound: series whose values no filter can run on, `(*batch,)`; None where NaN
            is to stay, that is without `on_invalid="-inf"`.

    Returns:
        The surprise, infinite where it was NaN and for all steps of unsound series; the
        whole of such a series has a gradient of 0.
    """
    if unsound is None:
        return surprise
    bad = surprise.isnan() | unsound.unsqueeze(-1)
    kept = torch.where(bad, torch.inf, surprise.detach())
    return torch.where(bad.any(-1, keepdim=True), kept, surprise)
