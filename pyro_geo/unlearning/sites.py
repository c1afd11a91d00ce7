r"""Deletion from guides: the Gaussian sites of the data are taken out.

At a converged normal guide every datum has a site, the natural parameters that its
likelihood adds. Taking out those of the forget set leaves

.. math:: \Lambda' = \Lambda - K, \qquad \mu' = \mu - \Lambda'^{-1} a,

with :math:`a = E_q \nabla \log p(F \mid \theta)` and
:math:`K = -E_q \nabla^2 \log p(F \mid \theta)`. The prior stays.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam  # type: ignore[attr-defined]
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo._showing import Shown
from pyro_geo.checks import check_count, check_number
from pyro_geo.density import Layout, Target
from pyro_geo.errors import (
    NonStationaryWarning,
    UnsupportedError,
)
from pyro_geo.geometry.matrices import Cholesky, Diagonal, PositiveDefinite
from pyro_geo.infer.fits.guides import read_guide
from pyro_geo.infer.fits.layouts import part_of
from pyro_geo.infer.fits.precisions import (
    covariance_of,
    factored,
    from_covariance,
    variances_of,
)
from pyro_geo.ops.random import normal_points, private_randomness
from pyro_geo.unlearning._curvature import Kind
from pyro_geo.unlearning._eubo import Eubo, Family, Normal, change_of
from pyro_geo.unlearning._forget_set import read_forget
from pyro_geo.unlearning._guide_writing import is_diagonal, new_guide, own_parameters
from pyro_geo.unlearning._parts import Parts
from pyro_geo.unlearning.tails import Leverage, measured

__all__ = ["SiteDeletion", "delete_sites"]

_FAR = 0.1  # mean gradient of a converged guide, in its own units, by coordinate


@dataclass(frozen=True, repr=False)
class SiteDeletion(Shown):
    """A guide without some of its data.

    Attributes:
        guide: new guide of the model at the data that stay; of the kind of the old one
            where that is `AutoNormal` or `AutoDiagonalNormal`, otherwise an
            `AutoMultivariateNormal`.
        loc: its mean in unconstrained space, `(dim,)`.
        precision: its precision.
        layout: sites of the coordinates.
        target: density of the data that stay.
        leverage: share of the information that went, and the tail of weights it
            predicts.
        steps: made.
        change: made by the last step, in standard deviations.
    """

    guide: Any
    loc: Tensor
    precision: PositiveDefinite
    layout: Layout
    target: Target
    leverage: Leverage
    steps: int
    change: float
    notes: tuple[str, ...] = field(default=())

    def _shown_facts(self) -> dict[str, object]:
        sites = ", ".join(self.layout.sites)
        return {"sites": sites, "steps": self.steps, "last change": self.change}

    def _shown_notes(self) -> tuple[str, ...]:
        return self.notes

    @property
    def covariance(self) -> Tensor:
        """Covariance in unconstrained space, `(dim, dim)`."""
        return covariance_of(self.precision)


@renamed(lr="learning_rate")
def delete_sites(
    model: Callable[..., Any],
    guide: Any,
    *args: Any,
    forget: Any,
    steps: int = 1,
    step_size: float = 1.0,
    cutoff: float = 1e-3,
    num_samples: int = 256,
    curvature: Kind = "auto",
    polish: int = 0,
    learning_rate: float = 0.01,
    seed: int = 0,
    **kwargs: Any,
) -> SiteDeletion:
    r"""Delete data from a guide that is normal in unconstrained space.

    One step is exact for Gaussian likelihoods, and the same as one unit step of
    natural gradient of the retained ELBO from a converged guide. More steps,

    .. math:: \lambda \leftarrow (1 - r) \lambda
              + r \, (\lambda_0 - \mathrm{site}_F(\lambda)),

    go to the normal distribution that minimises
    :math:`E_q \log p(F \mid \theta) + KL(q \| q_0)`, the EUBO, with the likelihood
    counted where 99.9 % of the guide's mass is. A guide with independent
    coordinates stays one: the step is then that of its own family.

    Args:
        model: the model.
        guide: trained on all data; it is left as it is.
        *args: arguments of the model, with all data.
        forget: what goes, as :func:`~pyro_geo.unlearning.delete_draws` takes it.
        steps: at most; an iteration ends where nothing changes.
        step_size: `r`, at most 1; of several steps one is halved until the EUBO falls.
        cutoff: mass of the guide, far out, where several steps do not count the
            likelihood; with 0 they count it everywhere, and can run away.
        num_samples: points to average over.
        curvature: `"auto"` takes the Hessian up to 512 coordinates, and Gauss-Newton
            matrices beyond.
        polish: steps of SVI on the data that stay, from there.
        learning_rate: of these.
        seed: of everything random.
        **kwargs: keyword arguments of the model.

    Returns:
        The new guide, with the leverage. Guides that are not normal raise
        :class:`~pyro_geo.errors.UnsupportedError`, points of `AutoDelta`
        :class:`~pyro_geo.errors.MissingCurvatureError`, and a leverage of 1 and more
        :class:`~pyro_geo.errors.LeverageError`: such data were not in the fit.

    Warns:
        NonStationaryWarning: the guide has not converged on the data given.

    References:
        Khan & Lin (2017), Conjugate-computation variational inference, 1703.04265;
        Nguyen, Low & Jaillet (2020), Variational Bayesian unlearning, 2010.12883, for
        the EUBO; the removal is derived.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro.infer.autoguide import AutoLaplaceApproximation
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> y = torch.tensor([0.0, 0.5, 1.0])
        >>> guide = AutoLaplaceApproximation(model)
        >>> _ = guide(y)
        >>> _ = guide.loc.data.fill_(0.375)  # the mode: 1.5 / 4
        >>> less = delete_sites(model, guide, y, forget=[2])
        >>> [round(x, 3) for x in (less.loc.item(), less.covariance.item())]
        [0.167, 0.333]
    """
    check_count("steps", steps)
    check_count("num_samples", num_samples, 2)
    check_count("polish", polish, 0)
    check_number("cutoff", cutoff, 0.0, 1.0)
    check_number("step_size", step_size, 0.0, 1.0 + 1e-12, strict=True)
    moments = read_guide(guide, args, kwargs, None)
    target = Target.from_model(model, *args, dtype=torch.float64, **kwargs)
    index = part_of(moments.layout, target.layout.sites)[1].to(moments.loc.device)
    loc = moments.loc[index]
    precision = _in_order(moments.precision, index)
    parts = Parts(target, read_forget(forget, target))
    found, slope, curved = measured(parts, loc, precision, num_samples, curvature, seed)
    found.check()
    _check_converged(target, loc, precision, num_samples, seed)
    start = Normal(loc, precision)
    family = Family(is_diagonal(guide))
    if steps == 1:
        state, done = family.step(start, start, slope, curved, step_size), 1
        change = change_of(start, state)
    else:
        noise = normal_points(len(loc), num_samples, seed).to(loc)
        search = Eubo(parts, family, start, noise, curvature, cutoff)
        state, done, change = search.run(steps, step_size)
    return _finished(
        parts,
        state,
        guide,
        model,
        (args, kwargs),
        found,
        (done, change),
        polish,
        learning_rate,
        seed,
    )


def _in_order(precision: PositiveDefinite, index: Tensor) -> PositiveDefinite:
    if isinstance(precision, Diagonal):
        return Diagonal(precision.scale.double()[index])
    return factored(precision.dense().double()[index][:, index])


def _check_converged(
    target: Target, loc: Tensor, precision: PositiveDefinite, count: int, seed: int
) -> None:
    """Warn of a guide under which the log-density has a mean gradient."""
    noise = normal_points(len(loc), count, seed).to(loc)
    grad = target.value_and_grad(loc + precision.sample_inverse(noise))[1].mean(0)
    size = float((grad * variances_of(precision).sqrt()).square().mean().sqrt())
    if not size <= _FAR:
        warnings.warn(
            NonStationaryWarning(
                "the guide has not converged, which taking out sites supposes",
                where="delete_sites",
                found=f"a mean gradient of {size:.2g} in units of the guide",
                expected=f"at most {_FAR:g}",
                todo="Train it further, or check that these are its data; polish= "
                "trains the new one.",
            ),
            stacklevel=4,
        )


def _finished(
    parts: Parts,
    state: Normal,
    guide: Any,
    model: Any,
    whole: tuple[tuple[Any, ...], dict[str, Any]],
    found: Leverage,
    counts: tuple[int, float],
    polish: int,
    learning_rate: float,
    seed: int,
) -> SiteDeletion:
    """Drop latents that go with the data, and make the guide."""
    loc, precision, stays = state.loc, state.precision, parts.stays
    if parts.apart is not None:
        index = parts.apart.index
        if len(index) < len(loc):
            precision = _marginal(precision, index)
        loc = loc[index]
        args, kwargs = parts.forget.split(*whole)[0]
        notes = ()
    else:
        args, kwargs = whole
        notes = ("The arguments of the model could not be split by rows.",)
        if polish:
            _cannot_polish()
    made = new_guide(guide, model, args, kwargs, stays.layout, loc, precision)
    if polish:
        _polish(model, made, args, kwargs, polish, learning_rate, seed)
        moments = read_guide(made, args, kwargs, None)
        order = part_of(moments.layout, stays.layout.sites)[1]
        loc, precision = moments.loc[order], _in_order(moments.precision, order)
    return SiteDeletion(
        made, loc, precision, stays.layout, stays, found, *counts, notes=notes
    )


def _cannot_polish() -> NoReturn:
    raise UnsupportedError(
        "SVI needs the data that stay",
        where="argument polish",
        found="a model whose arguments cannot be split by rows",
        expected="data as arguments of the model",
        todo="Leave polish at 0 and train the new guide.",
    )


def _marginal(precision: PositiveDefinite, index: Tensor) -> PositiveDefinite:
    if isinstance(precision, Diagonal):
        return Diagonal(precision.scale[index])
    found: Cholesky = from_covariance(covariance_of(precision)[index][:, index])
    return found


def _polish(
    model: Any,
    guide: Any,
    args: Any,
    kwargs: Any,
    steps: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Train the new guide on the data that stay, outside the caller's store."""
    with own_parameters(), private_randomness(seed):
        optimiser = ClippedAdam({"lr": learning_rate, "lrd": 0.1 ** (1 / steps)})
        svi = SVI(model, guide, optimiser, Trace_ELBO(num_particles=8))
        for _ in range(steps):
            svi.step(*args, **kwargs)
