"""One call that deletes data from any fit: it chooses, says why, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoDelta, AutoGuide
from torch import Tensor

from pyro_geo.errors import UncertifiedError, UnsupportedError
from pyro_geo.results import PosteriorDraws
from pyro_geo.unlearning._choices import (
    Call,
    is_process,
    plan_draws,
    plan_exact,
    plan_guide,
    plan_point,
)
from pyro_geo.unlearning.conjugate import NormalInverseGamma
from pyro_geo.unlearning.plans import DeletionPlan, Forgotten
from pyro_geo.unlearning.treatments import Treatment

__all__ = ["forget", "plan_forget"]


def plan_forget(
    fit: Any,
    *args: Any,
    forget: Any,
    model: Callable[..., Any] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    optimizer: Any = None,
    prior_precision: float = 0.0,
    certify: tuple[float, float] | None = None,
    convex: bool = False,
    treatment: Treatment | None = None,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> DeletionPlan:
    """Choose how to delete data from a fit, and say what each way would cost.

    Nothing is deleted yet: the curvature of the forgotten data is looked at, and one
    gradient is timed. The arguments are those of :func:`forget`.

    Args:
        fit: see :func:`forget`.
        *args: see there.
        forget: see there.
        model: see there.
        loss: see there.
        optimizer: see there.
        prior_precision: see there.
        certify: see there.
        convex: see there.
        treatment: see there.
        method: see there.
        options: see there.
        seed: see there.
        **kwargs: see there.

    Returns:
        The plan; `.explain()` says it in words and `.run()` deletes.

    Raises:
        UncertifiedError: a certificate is asked for where none can be given.
        UnsupportedError: the fit is of no kind that is known.

    Example:
        >>> x, y = torch.eye(3), torch.ones(3, 1)
        >>> line = torch.nn.Linear(3, 1, bias=False)
        >>> _ = line.weight.data.fill_(1.0)
        >>> squares = lambda f, y: 0.5 * (f - y).square().sum(-1)
        >>> plan_forget(line, x, y, forget=[2], loss=squares).method
        'newton'
    """
    call = Call(
        fit,
        forget,
        model,
        args,
        kwargs,
        loss,
        optimizer,
        prior_precision,
        certify,
        convex,
        treatment,
        method,
        dict(options or {}),
        seed,
    )
    network = isinstance(fit, torch.nn.Module) and not isinstance(fit, AutoGuide)
    if isinstance(fit, AutoDelta) or (network and loss is not None):
        return plan_point(call)
    if certify is not None:
        raise UncertifiedError(
            "no certificate can be given for such a fit",
            where="argument certify",
            found=type(fit).__name__,
            expected="a module with its loss, or an AutoDelta with convex=True",
            todo="Leave certify out, or certify a point estimate.",
        )
    if isinstance(fit, AutoGuide):
        return plan_guide(call)
    if isinstance(fit, torch.distributions.Distribution | NormalInverseGamma):
        return plan_exact(call, "conjugate_delete", "the family is conjugate")
    if is_process(fit):
        return plan_exact(call, "gp_delete", "a Gaussian process is normal")
    if isinstance(fit, PosteriorDraws) or model is not None:
        return plan_draws(call)
    raise UnsupportedError(
        "nothing is known to delete data from",
        where="argument fit",
        found=type(fit).__name__,
        expected="a guide, draws, a module with loss=, a conjugate distribution or a "
        "Gaussian process",
        todo="Pass draws by site with model=, or a module with loss=.",
    )


def forget(
    fit: Any,
    *args: Any,
    forget: Any,
    model: Callable[..., Any] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    optimizer: Any = None,
    prior_precision: float = 0.0,
    certify: tuple[float, float] | None = None,
    convex: bool = False,
    treatment: Treatment | None = None,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> Forgotten:
    r"""Delete data from a fit, by the way that suits it.

    - A result of ours, of Pyro's MCMC, ArviZ data, or draws by site:
      :func:`~pyro_geo.unlearning.delete_draws`, from the rung that the predicted tail
      of the weights asks for.
    - A normal guide: :func:`~pyro_geo.unlearning.delete_sites`, with SVI from a
      leverage of 1/2 on.
    - `AutoDelta` or a module: :func:`~pyro_geo.unlearning.delete_point` by Newton's
      method at a minimum, otherwise training on the retained data.
    - The same with `certify`: :func:`~pyro_geo.unlearning.certified_newton` where
      `convex` is said, otherwise :func:`~pyro_geo.unlearning.certified_finetune`.
    - A conjugate distribution: :func:`~pyro_geo.unlearning.conjugate_delete`. A
      Gaussian process: :func:`~pyro_geo.unlearning.gp_delete`.

    :func:`plan_forget` makes the same choice and runs nothing. The fit is left as it
    is.

    Args:
        fit: see above.
        *args: arguments of the model with all data; inputs and targets of a module.
        forget: rows that go, as :func:`~pyro_geo.unlearning.delete_draws` takes them;
            the data themselves for a conjugate distribution.
        model: the model, for guides, for `pyro.infer.MCMC`, ArviZ data and draws.
        loss: `loss(outputs, targets)` of a module, one value for each datum.
        optimizer: that trained a module; it is copied, and its memory treated.
        prior_precision: of a normal prior on the parameters of a module.
        certify: epsilon and delta of a certificate.
        convex: whether the loss of a point estimate is convex, as you know it.
        treatment: of the memory of `optimizer`; :class:`~pyro_geo.unlearning.Reset` if
            None.
        method: of the table of the plan, in place of the choice.
        options: of the method that is chosen.
        seed: of everything random.
        **kwargs: keyword arguments of the model.

    Returns:
        The new fit, with the plan and everything that was measured.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 2.0]])
        >>> y = torch.tensor([[1.0], [2.0], [3.0], [9.0]])
        >>> line = torch.nn.Linear(2, 1, bias=False)
        >>> _ = line.weight.data.copy_(torch.linalg.lstsq(x, y).solution.T)
        >>> squares = lambda f, y: 0.5 * (f - y).square().sum(-1)
        >>> less = forget(line, x, y, forget=[3], loss=squares)
        >>> less.method, [round(w, 3) for w in less.fit.weight[0].tolist()]
        ('newton', [1.0, 2.0])
    """
    return plan_forget(
        fit,
        *args,
        forget=forget,
        model=model,
        loss=loss,
        optimizer=optimizer,
        prior_precision=prior_precision,
        certify=certify,
        convex=convex,
        treatment=treatment,
        method=method,
        options=options,
        seed=seed,
        **kwargs,
    ).run()
