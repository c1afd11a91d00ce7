"""Certified deletion from convex fits, by Newton's method and a little noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_geo.checks import check_count, check_number
from pyro_geo.density import Target
from pyro_geo.geometry.curvature import LikelihoodHessian
from pyro_geo.ops.random import substream
from pyro_geo.unlearning._fresh import Optimizers, fresh_optimizer
from pyro_geo.unlearning._objective import Objective
from pyro_geo.unlearning._point_fits import place, point_target, put_back, read_masks
from pyro_geo.unlearning._solves import solver
from pyro_geo.unlearning._uncertified import SHARED, uncertified
from pyro_geo.unlearning.certificates import CertifiedDeletion, DeletionCertificate
from pyro_geo.unlearning.noise import gaussian_separation
from pyro_geo.unlearning.points import backtracked

__all__ = ["certified_newton"]

_POSITIONS = 8  # at which convexity is looked for


def certified_newton(
    model: Callable[..., Any] | Target,
    params: Any,
    data: tuple[Any, ...] | Mapping[str, Any] | None,
    forget: Any,
    *,
    epsilon: float,
    delta: float,
    convex: bool,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    prior_precision: float = 0.0,
    tolerance: float = 1e-6,
    max_steps: int = 50,
    optimizer: Optimizers | None = None,
    seed: int = 0,
) -> CertifiedDeletion:
    r"""Delete data from a convex fit by Newton's method, and hide what is left.

    Where :math:`L_R` is strongly convex with constant :math:`\lambda`, that of the
    normal prior, parameters with a small gradient are close to its minimum,

    .. math:: \|\theta' - \theta_R\| \le \|\nabla L_R(\theta')\| / \lambda
              \le \tau / \lambda .

    Newton's steps, shortened until the loss falls, are repeated until the gradient is
    at most the tolerance :math:`\tau`, and normal noise for a distance of
    :math:`2 \tau / \lambda` is added. The tolerance is fixed beforehand, so that the
    noise says nothing of the forgotten data. With generalised linear models and normal
    priors the noise is far below the posterior's spread.

    That the loss is convex cannot be seen from a program, so that you have to say so.
    What can be looked at is: the prior's curvature must be the same everywhere, and
    that of the likelihood must be negative nowhere at random positions around the
    result. Where it is not, there is no certificate.

    Args:
        model: a Pyro model, a module with `loss`, or a target.
        params: where the fit is, as in :func:`~pyro_geo.unlearning.delete_point`.
        data: as in :func:`~pyro_geo.unlearning.delete_point`.
        forget: rows to forget.
        epsilon: of the certificate.
        delta: of the certificate.
        convex: whether minus the log-likelihood is convex in the parameters, as you
            know it; generalised linear models with their canonical link are.
        loss: of a module, one value for each datum.
        prior_precision: of a normal prior on the parameters of a module.
        tolerance: norm of the gradient in sum form, :math:`\tau`; at least 1e-9.
        max_steps: Newton steps at most.
        optimizer: made anew without a memory, where one is given.
        seed: of the noise; keep it secret.

    Returns:
        The fit and its certificate. A loss that is not convex or has no normal prior,
        and a minimum that was not reached, raise
        :class:`~pyro_geo.errors.UncertifiedError`.

    References:
        Guo et al. (2020), Certified data removal from machine learning models,
        1911.03030, for the bound by the gradient; Balle and Wang (2018), 1805.06530,
        for the noise; Guo and Cao (2026), A robust certified machine unlearning method
        under distribution shift, 2601.06967, for repeated Newton steps of limited
        length.

    Example:
        >>> x = torch.tensor([[-1.0], [0.5], [1.0], [2.0]])
        >>> y = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
        >>> logits = torch.nn.Linear(1, 1)
        >>> entropy = torch.nn.BCEWithLogitsLoss(reduction="none")
        >>> result = certified_newton(
        ...     logits,
        ...     None,
        ...     (x, y),
        ...     [2],
        ...     loss=entropy,
        ...     prior_precision=1.0,
        ...     epsilon=1.0,
        ...     delta=1e-5,
        ...     convex=True,
        ... )
        >>> result.certificate.settings["noise"] < 1e-5
        True
    """
    check_number("tolerance", tolerance, 1e-9)
    check_count("max_steps", max_steps)
    if not convex:
        uncertified("a loss that is not convex", "a convex loss, and convex=True")
    target = point_target(model, data, loss, prior_precision)
    old = place(target, model, params)
    jacobian = not isinstance(params, AutoDelta)
    masks = read_masks(forget, target)
    objective = Objective(target, masks, "hessian", jacobian=jacobian)
    strength = _strong_convexity(objective, old, seed)
    _check_convex(objective, old, seed)
    q = _minimum(objective, old, tolerance, max_steps)
    _check_convex(objective, q, seed)
    allowed = gaussian_separation(epsilon, delta)
    scale = 2 * tolerance / strength / allowed
    generator = torch.Generator().manual_seed(substream(seed, 1))
    normal = torch.randn(len(q), generator=generator, dtype=torch.float64)
    new = q + scale * normal.to(q)
    retained = objective.loss("retained")
    losses = [float(retained(x)) for x in (old, q, new)]
    fit = put_back(target, model, params, new)
    made = None
    if isinstance(model, torch.nn.Module) and optimizer is not None:
        made = fresh_optimizer(
            optimizer, dict(model.named_parameters()), dict(fit.named_parameters())
        )
    certificate = DeletionCertificate(
        epsilon=epsilon,
        delta=delta,
        separation=allowed,
        mechanism="Newton steps to the minimum of the retained loss, and normal noise",
        covers=("parameters",)
        if made is None
        else ("parameters", "optimiser's memory (empty)"),
        assumptions=(
            *SHARED,
            "Minus the log-likelihood of the retained data is convex in the "
            "unconstrained parameters. Whoever asked for the deletion said so; it was "
            f"found true at {_POSITIONS} positions around the result.",
            "The prior's curvature is the same everywhere, as that of a normal prior; "
            f"it was found so at {_POSITIONS} positions.",
        ),
        settings={
            "gradient": tolerance,
            "strong convexity": strength,
            "noise": scale,
        },
    )
    citations = "certified_removal", "gaussian_mechanism"
    return CertifiedDeletion(
        fit, made, certificate, (losses[0], losses[1], losses[2]), citations
    )


def _strong_convexity(objective: Objective, q: Tensor, seed: int) -> float:
    """Smallest curvature of the prior, which must be the same everywhere."""
    first = LikelihoodHessian(objective.prior, q).dense()
    for other in _around(q, seed, 10.0):
        matrix = LikelihoodHessian(objective.prior, other).dense()
        if not torch.allclose(matrix, first, rtol=1e-8, atol=1e-10):
            uncertified("a prior whose curvature varies", "a normal prior", "the prior")
    least = float(torch.linalg.eigvalsh(first)[0])
    if not least > 0:
        uncertified(
            f"a prior whose smallest curvature is {least:.3g}",
            "a normal prior on every parameter",
            "the prior",
        )
    return least


def _minimum(
    objective: Objective, q: Tensor, tolerance: float, max_steps: int
) -> Tensor:
    size = math.inf
    for _ in range(max_steps + 1):
        gradient = objective.value_and_grad("retained", q)[1]
        size = float(gradient.norm())
        if size <= tolerance:
            return q
        solve, _ = solver(objective.matrix("retained", q), len(q), "retained data")
        q, _ = backtracked(objective, q, -solve(gradient[None])[0])
    uncertified(f"a gradient of norm {size:.3g}", f"at most {tolerance:g}", "the fit")


def _check_convex(objective: Objective, q: Tensor, seed: int) -> None:
    for other in (q, *_around(q, seed, 1.0)):
        likelihood = objective.matrix("retained", other).likelihood.dense()
        values = torch.linalg.eigvalsh(likelihood)
        if float(values[0]) < -1e-9 * max(1.0, float(values.abs().max())):
            uncertified(
                f"a likelihood with a curvature of {float(values[0]):.3g}",
                "one that curves up nowhere",
                "the likelihood",
            )


def _around(q: Tensor, seed: int, size: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(substream(seed, 2))
    noise = torch.randn(_POSITIONS, len(q), generator=generator, dtype=torch.float64)
    return [q + size * step.to(q) for step in noise]
