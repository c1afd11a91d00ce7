"""Broken twins: wrappers that put one known fault into a sound kernel.

A test that no broken twin fails tests nothing. Each wrapper here makes exactly one
mistake that people do make, and :data:`TWINS` names the gate that must reject it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor

from pyro_geo.density import Target, Terms
from pyro_geo.ops.derivatives import BatchedLoss, value_and_grad
from pyro_geo.testing._twins_hgf import classic_as_unbounded
from pyro_geo.testing._twins_hmc import (
    AdaptsForever,
    ErasesModes,
    KeptMomentum,
    ReusedNoise,
    SharedNoise,
    always_accept,
    early_turn,
    flipped_acceptance,
    heavy_momentum,
    missing_half_kick,
    stale_gradient,
    stale_potential,
    stuck_chain,
    without_kinetic_energy,
)
from pyro_geo.testing.hmc import FixedHMC

__all__ = [
    "TWINS",
    "AdaptsForever",
    "ErasesModes",
    "KeptMomentum",
    "ReusedNoise",
    "SharedNoise",
    "Twin",
    "always_accept",
    "classic_as_unbounded",
    "early_turn",
    "flip_gradient",
    "flipped_acceptance",
    "heavy_momentum",
    "ignore_christoffel_term",
    "missing_half_kick",
    "stale_gradient",
    "stale_potential",
    "stuck_chain",
    "transposed_root",
    "twice_the_likelihood",
    "without_friction_work",
    "without_jacobian",
    "without_kinetic_energy",
    "without_likelihood",
]

State = TypeVar("State")


class Twin(NamedTuple):
    """A broken twin and the gate that must reject it.

    Attributes:
        make: puts the fault in.
        gate: name of the gate.
        kind: what `make` takes and returns: `"kernel"`, a model or target and the
            options of :class:`~pyro_geo.testing.hmc.FixedHMC` to a kernel; `"sampler"`,
            a model or target and the options of :class:`~pyro_geo.infer.HMC` to a
            kernel that warms up; `"target"`,
            a target to a target; `"root"`, a root of a covariance to the one used;
            `"loss"`, a batched loss to a batched loss; `"step"`, a step of a
            dissipative flow to such a step; `"filter"`, a filter of series to one.
    """

    make: Callable[..., Any]
    gate: str
    kind: Literal["kernel", "sampler", "target", "root", "loss", "step", "filter"]


# -- densities ----------------------------------------------------------------------


def without_jacobian(target: Target) -> Target:
    """Leave the log-Jacobians of the constrained sites out of a density.

    Args:
        target: with at least one constrained site.

    Returns:
        The broken target.

    Example:
        >>> import torch
        >>> from pyro_geo.testing.targets import GammaTarget
        >>> target = GammaTarget(shape=2.0)
        >>> q = torch.tensor([[0.5]])
        >>> (target.log_prob(q) - without_jacobian(target).log_prob(q)).item()
        0.5
    """

    def broken(terms: Terms, q: Tensor) -> Terms:
        _, log_jacobian = target.layout.constrain_with_jacobian(q)
        return terms._replace(log_prior=terms.log_prior - log_jacobian)

    return _with_terms(target, broken)


def twice_the_likelihood(target: Target) -> Target:
    """Count the data twice, as when a site is scored in the guide and in the model."""
    return _with_terms(
        target, lambda terms, q: terms._replace(log_likelihood=2 * terms.log_likelihood)
    )


def without_likelihood(target: Target) -> Target:
    """Forget the data: the posterior is the prior, calibrated in every parameter."""
    return _with_terms(
        target, lambda terms, q: terms._replace(log_likelihood=0 * terms.log_likelihood)
    )


class _Broken:
    """A density whose terms are changed."""

    def __init__(self, density: Any, change: Callable[[Terms, Tensor], Terms]) -> None:
        self._density = density
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._density, name)

    def terms(self, q: Tensor, data: tuple[Tensor, ...]) -> Terms:
        return self._change(self._density.terms(q, data), q)


def _with_terms(target: Target, change: Callable[[Terms, Tensor], Terms]) -> Target:
    broken = copy.copy(target)
    # a graph of the sound density must not serve for the broken one
    broken._lifted, broken._bound, broken._notes = {}, {}, []
    broken._tempered = {}
    density: Any = _Broken(target.density, change)
    broken.density = density
    return broken


def transposed_root(root: Tensor) -> Tensor:
    """Take the root of a covariance the wrong way round.

    Args:
        root: `root @ root.mT` is the covariance, `(dim, dim)`.

    Returns:
        Its transpose, which gives draws the right total variance and nothing else.
    """
    return root.mT


# -- flows --------------------------------------------------------------------------


def flip_gradient(loss: BatchedLoss) -> BatchedLoss:
    """Give a loss the right value and a gradient of the wrong sign.

    Args:
        loss: batched loss, `(lanes, dim) -> (lanes,)`.

    Returns:
        The broken loss; particles climb it.

    Example:
        >>> import torch
        >>> broken = flip_gradient(lambda q: q.square().sum(-1))
        >>> value_and_grad(broken, torch.ones(1, 1))
        (tensor([1.]), tensor([[-2.]]))
    """

    def broken(q: Tensor) -> Tensor:
        value = loss(q)
        return 2 * value.detach() - value

    return broken


def ignore_christoffel_term(loss: BatchedLoss) -> BatchedLoss:
    """Give a loss the right value and gradient, and no second derivatives.

    On a curved surface the particles then forget that the surface bends.

    Args:
        loss: batched loss, `(lanes, dim) -> (lanes,)`.

    Returns:
        The broken loss; its Hessian-vector products vanish.

    Example:
        >>> import torch
        >>> from pyro_geo.ops.derivatives import hvp
        >>> broken = ignore_christoffel_term(lambda q: q.square().sum(-1))
        >>> one = torch.ones(1, 1)
        >>> value_and_grad(broken, one)[1], hvp(broken, one, one)
        (tensor([[2.]]), tensor([[0.]]))
    """

    def broken(q: Tensor) -> Tensor:
        value, grad = value_and_grad(loss, q)
        return value + ((q - q.detach()) * grad).sum(-1)

    return broken


def without_friction_work(step: Callable[[State], State]) -> Callable[[State], State]:
    """Leave the friction work of a flow's step out of the energy ledger.

    Args:
        step: of the splitting integrator, as `dissipative_flow(..., lift=...)` has it.

    Returns:
        The broken step.
    """

    def broken(state: Any) -> Any:
        new: Any = step(state)
        return new._replace(dissipated=state.dissipated)

    return broken


# -- the registry -------------------------------------------------------------------


def _hmc(transition: Callable[..., Any], gate: str) -> Twin:
    return Twin(partial(FixedHMC, transition=transition), gate, "kernel")


TWINS: dict[str, Twin] = {
    "flipped gradient": Twin(flip_gradient, "check_ledger", "loss"),
    "no Christoffel term": Twin(ignore_christoffel_term, "check_ledger", "loss"),
    "no friction work": Twin(without_friction_work, "check_ledger", "step"),
    "transposed root": Twin(transposed_root, "check_covariance", "root"),
    "always accept": _hmc(always_accept, "check_gaussian"),
    "reused noise": Twin(ReusedNoise, "check_gaussian", "kernel"),
    "shared noise": Twin(SharedNoise, "check_exact", "kernel"),
    "flipped acceptance": _hmc(flipped_acceptance, "check_exact"),
    "no kinetic energy": _hmc(without_kinetic_energy, "check_exact"),
    "stale gradient": _hmc(stale_gradient, "check_exact"),
    "stale potential": _hmc(stale_potential, "check_exact"),
    "heavy momentum": _hmc(heavy_momentum, "check_exact"),
    "missing half kick": _hmc(missing_half_kick, "check_exact"),
    "early turn": _hmc(early_turn, "check_posterior"),
    "stuck chain": _hmc(stuck_chain, "check_posterior"),
    "kept momentum": Twin(KeptMomentum, "check_posterior", "kernel"),
    "adapts forever": Twin(AdaptsForever, "check_posterior", "kernel"),
    "erased modes": Twin(ErasesModes, "check_shares", "sampler"),
    "no Jacobian": Twin(without_jacobian, "check_geweke", "target"),
    "twice the likelihood": Twin(twice_the_likelihood, "check_sbc", "target"),
    "no likelihood": Twin(without_likelihood, "check_sbc", "target"),
    "classic as unbounded": Twin(classic_as_unbounded, "check_posterior", "filter"),
}
"""Every twin by name, with its maker and the gate that must reject it."""
