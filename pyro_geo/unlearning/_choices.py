"""Which way to delete suits a fit, and running it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.density import Target
from pyro_geo.errors import UncertifiedError, UnsupportedError
from pyro_geo.evaluation.moment_matching import khat_limit
from pyro_geo.geometry.laplace import MAX_DENSE_DIM
from pyro_geo.infer.fits.draws import in_order, read_any
from pyro_geo.results import PosteriorDraws
from pyro_geo.unlearning._costs import (
    Option,
    draws_options,
    guide_options,
    point_options,
    time_gradient,
)
from pyro_geo.unlearning._fresh import copied_optimizer
from pyro_geo.unlearning._objective import Objective
from pyro_geo.unlearning._point_fits import (
    place,
    point_target,
    read_masks,
    retained_data,
)
from pyro_geo.unlearning.certified_convex import certified_newton
from pyro_geo.unlearning.certified_networks import certified_finetune
from pyro_geo.unlearning.draws import delete_draws
from pyro_geo.unlearning.plans import DeletionPlan, Forgotten
from pyro_geo.unlearning.points import delete_point
from pyro_geo.unlearning.sites import delete_sites
from pyro_geo.unlearning.tails import leverage as leverage_of
from pyro_geo.unlearning.training import train_on, with_prior
from pyro_geo.unlearning.treatments import Reset, Treatment

__all__ = ["Call", "is_process", "plan_draws", "plan_exact", "plan_guide", "plan_point"]

_STATIONARY = 1e-3  # gradient of all data per root of their number


@dataclass(frozen=True)
class Call:
    """Arguments of a call, for the run later."""

    fit: Any
    forget: Any
    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Any
    optimizer: Any
    prior_precision: float
    certify: tuple[float, float] | None
    convex: bool
    treatment: Treatment | None
    method: str | None
    options: dict[str, Any]
    seed: int


def _taken(call: Call, chosen: str, options: list[Option]) -> tuple[str, str]:
    """The method, with the reason; one that was asked for replaces the choice."""
    if call.method is None:
        why = next(o.reason for o in options if o.method == chosen)
        return chosen, why
    names = [o.method for o in options]
    check(call.method in names, "method", call.method, f"one of {names}")
    return call.method, "asked for"


def plan_draws(call: Call) -> DeletionPlan:
    _check_no_network(call)
    fit, target = call.fit, None
    if isinstance(fit, PosteriorDraws):
        target = fit.target
        q = fit.positions.flatten(0, -2)
    else:
        assert call.model is not None
        target = Target.from_model(
            call.model, *call.args, dtype=torch.float64, **call.kwargs
        )
        q = in_order(read_any(fit, target), target.layout)
    own = None if isinstance(fit, PosteriorDraws) else target
    found = leverage_of(fit, call.forget, target=own, seed=call.seed)
    khat = found.khat(len(q), seed=call.seed) if found.leverage < 1 else float("inf")
    cost = time_gradient(target, q[0].to(target.device))
    options, first = draws_options(
        found.leverage, khat, khat_limit(len(q)), len(q), cost
    )
    method, reason = _taken(call, first, options)

    def run(plan: DeletionPlan) -> Forgotten:
        start: Any = plan.method
        result = delete_draws(
            fit, call.forget, target=own, start=start, seed=call.seed, **call.options
        )
        return Forgotten(result, str(result.attributes["rung"]), plan, result)

    return DeletionPlan(method, reason, tuple(options), found.leverage, khat, run)


def plan_guide(call: Call) -> DeletionPlan:
    _check_no_network(call)
    check(call.model is not None, "model", None, "the model of the guide")
    assert call.model is not None
    target = Target.from_model(
        call.model, *call.args, dtype=torch.float64, **call.kwargs
    )
    found = leverage_of(
        call.fit, call.forget, *call.args, target=target, seed=call.seed, **call.kwargs
    )
    cost = time_gradient(target, torch.zeros(target.dim).to(target.device))
    total = sum(v[0].numel() for v in _pointwise(target).values())
    options, chosen = guide_options(
        found.leverage, target.dim, found.num_data / total, cost
    )
    method, reason = _taken(call, chosen, options)

    def run(plan: DeletionPlan) -> Forgotten:
        if plan.method == "refit":
            found.check()  # says what a leverage of one and more means
            _refit_yourself("guide")
        polish = 200 if plan.method.endswith("polish") else 0
        result = delete_sites(
            call.model,
            call.fit,
            *call.args,
            forget=call.forget,  # pyright: ignore[reportArgumentType]
            **{"polish": polish, "seed": call.seed, **call.options},
            **call.kwargs,
        )
        return Forgotten(result.guide, plan.method, plan, result)

    khat = found.leverage
    return DeletionPlan(method, reason, tuple(options), found.leverage, khat, run)


def plan_point(call: Call) -> DeletionPlan:
    fit, delta = call.fit, isinstance(call.fit, AutoDelta)
    params = fit if delta else None
    model, data, target = _guided(call) if delta else _networked(call)
    q = place(target, model, params)
    objective = Objective(target, read_masks(call.forget, target), jacobian=not delta)
    gradient = float(objective.value_and_grad("all", q)[1].norm())
    epochs = int(call.options.get("num_epochs", 10))
    options, chosen = point_options(
        dim=target.dim,
        stationary=gradient <= _STATIONARY * objective.count("all") ** 0.5,
        certify=call.certify,
        convex=call.convex,
        epochs=epochs,
        dense=target.dim <= MAX_DENSE_DIM,
        seconds=time_gradient(target, q),
    )
    if call.certify is not None and delta and not call.convex:
        raise UncertifiedError(
            "no certificate can be given for such a fit",
            where="argument certify",
            found="an AutoDelta whose loss is not said to be convex",
            expected="convex=True, if it is",
            todo="Pass convex=True only where minus the log-likelihood is convex.",
        )
    method, reason = _taken(call, chosen, options)
    _check_certifies(call, method)

    def run(plan: DeletionPlan) -> Forgotten:
        return _run_point(plan, call, model, params, data)

    nan = float("nan")
    return DeletionPlan(method, reason, tuple(options), nan, nan, run)


def plan_exact(call: Call, name: str, why: str) -> DeletionPlan:
    _check_no_network(call)
    check(not call.args, "args", f"{len(call.args)} of them", "the data as forget=")
    named = name == "conjugate_delete"  # what is known beside the data
    check(named or not call.kwargs, "kwargs", sorted(call.kwargs), "none")
    options = (Option(name, True, f"exact: {why}", 0.0, 0.0),)

    def run(plan: DeletionPlan) -> Forgotten:
        import pyro_geo.unlearning as unlearning

        result = getattr(unlearning, name)(
            call.fit, call.forget, **{**call.kwargs, **call.options}
        )
        return Forgotten(getattr(result, "model", result), name, plan, result)

    _, reason = _taken(call, name, list(options))
    nan = float("nan")
    return DeletionPlan(name, reason, options, nan, nan, run)


def _guided(call: Call) -> tuple[Target, None, Target]:
    """Model, data and density of an `AutoDelta`; the density holds its data."""
    check(call.model is not None, "model", None, "the model of the guide")
    assert call.model is not None
    _check_no_network(call)
    target = Target.from_model(
        call.model, *call.args, dtype=torch.float64, compile=False, **call.kwargs
    )
    return target, None, target


def _check_no_network(call: Call) -> None:
    """Refuse options that say something of modules alone."""
    named = {"loss": call.loss, "optimizer": call.optimizer}
    named |= {"treatment": call.treatment}
    named |= {"prior_precision": call.prior_precision or None}
    kind = type(call.fit).__name__
    for name, value in named.items():
        check(value is None, name, type(value).__name__, f"none, for {kind}")


def _networked(call: Call) -> tuple[Any, tuple[Any, ...], Target]:
    """Module, data and density of a module."""
    expected = "inputs and targets by position, the targets last"
    check(not call.kwargs, "kwargs", sorted(call.kwargs), expected)
    # a certificate asks for a memory that is made anew
    treats = call.optimizer is not None and call.certify is None
    expected = "None without optimizer or with certify"
    check(treats or call.treatment is None, "treatment", call.treatment, expected)
    target = point_target(call.fit, call.args, call.loss, call.prior_precision)
    return call.fit, call.args, target


def _check_certifies(call: Call, method: str) -> None:
    """Refuse a method that was asked for and does not give what was asked for."""
    certified = method.startswith("certified")
    if call.certify is not None and not certified and method != "refit":
        raise UncertifiedError(
            "this method gives no certificate",
            where="argument method",
            found=f"{method!r} with certify={call.certify}",
            expected="'certified_newton' or 'certified_finetune'",
            todo="Leave method out, or leave certify out.",
        )
    check(not certified or call.certify is not None, "certify", None, "epsilon, delta")


def _run_point(
    plan: DeletionPlan, call: Call, model: Any, params: Any, data: Any
) -> Forgotten:
    if plan.method == "refit":
        _refit_yourself("training")
    if plan.method.startswith("certified"):
        return _certified(plan, call, model, params, data)
    if call.optimizer is not None and plan.method == "finetune":
        return _retrained(plan, call, data)
    method: Any = plan.method
    point = delete_point(
        model,
        params,
        data,
        call.forget,
        method=method,
        loss=call.loss,
        prior_precision=call.prior_precision,
        **call.options,
    )
    if call.optimizer is None:
        return Forgotten(point.fit, plan.method, plan, point)
    module: Any = point.fit
    optimizer = _copied(call.optimizer, model, module)
    treatment = Reset() if call.treatment is None else call.treatment
    row = treatment.start(optimizer)
    return Forgotten(module, plan.method, plan, point, optimizer, row)


def _certified(
    plan: DeletionPlan, call: Call, model: Any, params: Any, data: Any
) -> Forgotten:
    assert call.certify is not None
    epsilon, delta = call.certify
    shared: dict[str, Any] = {"loss": call.loss, "seed": call.seed}
    shared |= {"prior_precision": call.prior_precision, **call.options}
    shared |= {"epsilon": epsilon, "delta": delta}
    if plan.method == "certified_newton":
        result = certified_newton(
            model,
            params,
            data,
            call.forget,
            convex=call.convex,
            optimizer=call.optimizer,
            **shared,
        )
    else:
        result = certified_finetune(model, call.optimizer, data, call.forget, **shared)
    return Forgotten(
        result.fit,
        plan.method,
        plan,
        result,
        result.optimizer,
        None,
        result.certificate,
    )


def _retrained(plan: DeletionPlan, call: Call, data: Any) -> Forgotten:
    """Treat the memory, and go on with the optimiser on the retained data."""
    module = copy.deepcopy(call.fit)
    optimizer = _copied(call.optimizer, call.fit, module)
    treatment = Reset() if call.treatment is None else call.treatment
    row = treatment.start(optimizer)
    target = point_target(call.fit, data, call.loss, call.prior_precision)
    retained = retained_data(data, read_masks(call.forget, target))
    loss = with_prior(call.loss, module, call.prior_precision, len(retained[0]))
    options = {"num_epochs": 10, "batch_size": 64} | call.options
    train_on(module, optimizer, retained, loss, treatment, seed=call.seed, **options)
    return Forgotten(module, plan.method, plan, None, optimizer, row)


def _copied(optimizer: Any, old: torch.nn.Module, new: torch.nn.Module) -> Any:
    return copied_optimizer(
        optimizer, dict(old.named_parameters()), dict(new.named_parameters())
    )


def _refit_yourself(what: str) -> NoReturn:
    raise UnsupportedError(
        f"a new {what} is left to you",
        where="argument method",
        found="refit",
        expected="another way, or the fit of the retained data by your own program",
        todo="Fit the retained data as you fitted all of them.",
    )


def _pointwise(target: Target) -> dict[str, Tensor]:
    q = torch.full((1, target.dim), 0.1, dtype=target.dtype, device=target.device)
    with torch.no_grad():
        return target.pointwise_log_likelihood(q)


def is_process(fit: Any) -> bool:
    names = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(fit).__mro__}
    return bool(names & {"gpytorch.ExactGP", "pyro_geo.ExactGPTD"})
