"""Point estimates: where their parameters are, and copies with new ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.density import Target
from pyro_geo.density.module import ModuleDensity
from pyro_geo.errors import ForgetSetError, LayoutMismatchError, UnsupportedError
from pyro_geo.unlearning._forget_set import read_forget

__all__ = ["place", "point_target", "put_back", "read_masks", "retained_data"]


def point_target(
    model: Callable[..., Any] | Target,
    data: tuple[Any, ...] | Mapping[str, Any] | None,
    loss: Callable[[Tensor, Tensor], Tensor] | None,
    prior_precision: float,
) -> Target:
    """Make the density of a model or a module at its data, in double precision.

    Args:
        model: a Pyro model, a module, or a target.
        data: its arguments; None for a target.
        loss: of a module; None for a model.
        prior_precision: of a module's parameters.

    Returns:
        The target.
    """
    if isinstance(model, Target):
        check(data is None, "data", type(data).__name__, "None, the target has them")
        return model
    check(
        isinstance(data, tuple | list | Mapping),
        "data",
        type(data).__name__,
        "a tuple of arguments, or a dictionary of keyword arguments",
    )
    named = isinstance(data, Mapping)
    args, kwargs = ((), dict(data)) if named else (tuple(data or ()), {})
    double = torch.float64
    if loss is None:
        return Target.from_model(model, *args, dtype=double, compile=False, **kwargs)
    check(
        isinstance(model, torch.nn.Module),
        "model",
        type(model).__name__,
        "a module where loss is given",
    )
    assert isinstance(model, torch.nn.Module)
    # names would not say which of the data are the targets
    check(not named, "data", sorted(kwargs), "a tuple, inputs first and targets last")
    return Target.from_module(
        copy.deepcopy(model).eval(),
        loss,
        args,
        prior_precision=prior_precision,
        dtype=double,
        compile=False,
    )


def place(target: Target, model: Any, params: Any) -> Tensor:
    """Find the position of a fit, `(dim,)`.

    Args:
        target: its density.
        model: the model, whose parameters count where `params` is None.
        params: guide, values by name, or a position.

    Returns:
        The position, detached, of the target's type.

    Raises:
        LayoutMismatchError: the guide has other sites than the model.
        UnsupportedError: it is no point estimate.
    """
    with torch.no_grad():
        if isinstance(params, Tensor):
            check_shape("params", params.shape, (target.dim,))
            return params.detach().to(target.device, target.dtype).clone()
        if params is None:
            check(
                isinstance(model, torch.nn.Module)
                and isinstance(target.density, ModuleDensity),
                "params",
                None,
                "values by site, or a guide, where the model is no module",
            )
            values = dict(model.named_parameters())
        elif isinstance(params, AutoDelta):
            values = params.median()
            if set(values) != set(target.layout.sites):
                raise LayoutMismatchError(
                    "the guide has other sites than the model",
                    where="argument params",
                    found=sorted(values),
                    expected=sorted(target.layout.sites),
                    todo="Pass the guide of this model.",
                )
        elif isinstance(params, Mapping):
            values = dict(params)
        else:
            raise UnsupportedError(
                "nothing to read a point from",
                where="argument params",
                found=type(params).__name__,
                expected="an AutoDelta guide, a dictionary by site, or a position",
                todo="Use forget(...) for a guide with a spread, or for draws.",
            )
        double = {
            n: torch.as_tensor(v).detach().to(target.device, target.dtype)
            for n, v in values.items()
        }
        return target.unconstrain(double)


def put_back(target: Target, model: Any, params: Any, q: Tensor) -> Any:
    """Return what was given with new parameters; it is copied.

    Args:
        target: the density.
        model: the model or module.
        params: as it was given.
        q: new position, `(dim,)`.

    Returns:
        A module, a guide, a dictionary or a position, of the types that were given.
    """
    with torch.no_grad():
        if isinstance(params, Tensor):
            return q.to(params)
        values = target.constrain(q)
        if params is None:
            module = copy.deepcopy(model)
            for name, parameter in module.named_parameters():
                parameter.copy_(values[name])
            return module
        if isinstance(params, AutoDelta):
            guide = copy.deepcopy(params)
            for name in values:
                owner, leaf = guide, name
                for part in name.split(".")[:-1]:
                    owner, leaf = getattr(owner, part), name.rsplit(".", 1)[1]
                # Pyro puts a plain tensor in the place of the constrained parameter
                setattr(owner, leaf, _like(values[name], getattr(owner, leaf)))
            return guide
        return {n: _like(values[n], torch.as_tensor(old)) for n, old in params.items()}


def read_masks(forget: Any, target: Target) -> dict[str, Tensor]:
    """Read which data go, as masks shaped like the log-likelihoods of the data.

    Args:
        forget: see :func:`~pyro_geo.unlearning.delete_point`.
        target: the density of all data.

    Returns:
        Name to mask.
    """
    module = isinstance(target.density, ModuleDensity)
    if module and not isinstance(forget, Mapping) and not hasattr(forget, "masks"):
        forget = {"loss": forget}
    return dict(read_forget(forget, target).masks)


def retained_data(
    data: tuple[Tensor, ...], masks: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Take the rows that stay out of the data of a module.

    Args:
        data: inputs, and the targets last.
        masks: what goes, as :func:`read_masks` gives it for a module.

    Returns:
        The same tensors without the rows that go.

    Raises:
        ForgetSetError: of some row only a part goes, so that neither leaving it in nor
            leaving it out forgets just that.
    """
    (mask,) = masks.values()
    values = mask.reshape(len(mask), -1)
    gone = values.all(1)
    cut = (values.any(1) & ~gone).nonzero().flatten()
    if len(cut):
        raise ForgetSetError(
            "a part of a row cannot be left out of training",
            where="argument forget",
            found=f"rows {cut[:5].tolist()} of which some values stay",
            expected="whole rows",
            todo="Forget all values of these rows, or use delete_point by Newton's "
            "method, which weighs each value.",
        )
    for x in data:
        rows = len(x) if x.dim() else 0
        check(rows == len(mask), "data", f"{rows} rows", f"{len(mask)}, one per loss")
    return tuple(x[~gone.to(x.device)] for x in data)


def _like(value: Tensor, old: Tensor) -> Tensor:
    return value.detach().to(old.device, old.dtype).reshape(old.shape)
