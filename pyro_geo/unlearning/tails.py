r"""What a deletion asks of weights, known before anything is run.

The leverage of a forget set is the largest share of what is known of a direction that
goes with it,

.. math:: h = \lambda_{\max}(\Lambda^{-1/2} K \Lambda^{-1/2}), \qquad
          K = -E \nabla^2 \log p(F \mid \theta),

for a posterior of precision :math:`\Lambda`. For normal posteriors it is the shape of
the Pareto tail of the weights :math:`1 / p(F \mid \theta)`: they have a mean if
:math:`h < 1`, and a variance if :math:`h < 1/2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_geo._deprecated import positional
from pyro_geo.checks import check, check_count
from pyro_geo.density import Target
from pyro_geo.errors import LeverageError
from pyro_geo.geometry.laplace import Laplace
from pyro_geo.geometry.matrices import PositiveDefinite
from pyro_geo.geometry.whitening import whitened
from pyro_geo.infer.fits.draws import in_order, read_any
from pyro_geo.infer.fits.guides import read_guide
from pyro_geo.infer.fits.layouts import part_of
from pyro_geo.infer.fits.precisions import factored, from_covariance
from pyro_geo.ops.random import normal_points
from pyro_geo.ops.weights import khat as tail_of
from pyro_geo.results import PosteriorDraws
from pyro_geo.unlearning._curvature import Kind, averages
from pyro_geo.unlearning._forget_set import read_forget
from pyro_geo.unlearning._parts import Parts

__all__ = ["Leverage", "leverage", "predict_khat"]

_REPLICATES = 4  # sets of draws of the normal posterior, to predict a tail from
_MOST_NUMBERS = 1 << 24  # of such a set


@dataclass(frozen=True)
class Leverage:
    """How much of what is known goes with a forget set.

    Attributes:
        leverage: the largest share, of any direction; a deletion needs less than 1.
        shares: of all directions, ascending, `(dim,)`.
        slope: of the log-likelihood that goes, in units of the posterior, `(dim,)`.
        num_data: that go.
    """

    leverage: float
    shares: Tensor
    slope: Tensor
    num_data: int

    @positional("seed")
    def khat(self, num_draws: int | None = None, *, seed: int = 0) -> float:
        r"""Predict the shape of the tail of the weights of a deletion.

        With infinitely many draws it is the leverage. With some thousands the tail
        that is seen begins where the weights are not yet Pareto's, so that it depends
        on all directions: the normal posterior is drawn from, and its weights
        :math:`-a^\top \delta + \tfrac12 \delta^\top K \delta` are looked at.

        Args:
            num_draws: that the weights will have; None for infinitely many.
            seed: of the draws.

        Returns:
            The shape.

        Example:
            >>> Leverage(0.4, torch.tensor([0.4]), torch.zeros(1), 1).khat()
            0.4
        """
        check_count("num_draws", num_draws, 30)
        if num_draws is None:
            return self.leverage
        generator = torch.Generator().manual_seed(seed)
        size = min(num_draws, max(30, _MOST_NUMBERS // len(self.shares)))
        found = []
        for _ in range(_REPLICATES):
            shape = size, len(self.shares)
            z = torch.randn(shape, generator=generator, dtype=torch.float64)
            weights = 0.5 * (z.square() @ self.shares.cpu()) - z @ self.slope.cpu()
            found.append(tail_of(weights))
        return sum(found) / len(found)

    def check(self) -> None:
        """Refuse a deletion of more information than there is.

        Raises:
            LeverageError: the leverage is at least 1.
        """
        if not self.leverage < 1:
            raise LeverageError(
                "the data to forget hold more information than the fit",
                where="argument forget",
                found=f"leverage {self.leverage:.3g}",
                expected="less than 1",
                todo="Check that these data were in the fit and that it has converged, "
                "or refit without them.",
            )


def leverage(
    fit: Any,
    forget: Any,
    *args: Any,
    target: Target | None = None,
    num_points: int = 256,
    curvature: Kind = "auto",
    seed: int = 0,
    **kwargs: Any,
) -> Leverage:
    """Measure how much of what is known goes with a forget set.

    Args:
        fit: a result of ours; or a guide of Pyro that is normal in unconstrained
            space, a :class:`~pyro_geo.geometry.laplace.Laplace`, ArviZ data, a
            `pyro.infer.MCMC` or draws by site, with `target`.
        forget: what goes, as :func:`~pyro_geo.unlearning.delete_draws` takes it.
        *args: arguments of the model, for a guide that has not been called yet.
        target: density of the model at all its data; that of a result if None.
        num_points: to average the curvature over.
        curvature: `"auto"` takes the Hessian up to 512 coordinates, and Gauss-Newton
            matrices beyond.
        seed: of the points.
        **kwargs: keyword arguments of the model.

    Returns:
        The leverage, and what the tail of weights is predicted from.

    References:
        Derived; Vehtari et al. (2024), 1507.02646, for the meaning of the shape.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.results import MemoryDraws
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> target = Target.from_model(model, torch.zeros(3))
        >>> generator = torch.Generator().manual_seed(0)
        >>> q = 0.5 * torch.randn(1, 4000, 1, generator=generator)
        >>> fit = PosteriorDraws(target, MemoryDraws(target, q))
        >>> round(leverage(fit, [2]).leverage, 2)  # one part in four of the precision
        0.25
    """
    check_count("num_points", num_points)
    loc, precision, target = _normal_of(fit, target, args, kwargs)
    parts = Parts(target, read_forget(forget, target))
    return measured(parts, loc, precision, num_points, curvature, seed)[0]


def predict_khat(
    fit: Any, forget: Any, *, num_draws: int | None = None, **options: Any
) -> float:
    """Predict the shape of the tail of deletion weights, before any draw is weighed.

    Args:
        fit: as :func:`leverage` takes it.
        forget: what goes.
        num_draws: that the weights will have; None for infinitely many, whose shape
            is the leverage.
        **options: of :func:`leverage`.

    Returns:
        The shape.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.results import MemoryDraws
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> target = Target.from_model(model, torch.zeros(3))
        >>> generator = torch.Generator().manual_seed(0)
        >>> q = 0.5 * torch.randn(1, 4000, 1, generator=generator)
        >>> fit = PosteriorDraws(target, MemoryDraws(target, q))
        >>> predict_khat(fit, [2]) < predict_khat(fit, [1, 2]) < 0.7
        True
    """
    return leverage(fit, forget, **options).khat(num_draws)


def measured(
    parts: Parts,
    loc: Tensor,
    precision: PositiveDefinite,
    num_points: int,
    curvature: Kind,
    seed: int,
) -> tuple[Leverage, Tensor, Tensor]:
    """Average gradient and curvature under a normal distribution.

    Args:
        parts: the density.
        loc: mean, `(dim,)`.
        precision: of the distribution.
        num_points: of the average.
        curvature: kind of it.
        seed: of the points.

    Returns:
        The leverage, the gradient `(dim,)` and the curvature `(dim, dim)`.
    """
    noise = normal_points(len(loc), num_points, seed).to(loc)
    q = loc + precision.sample_inverse(noise)
    parts.forgotten_at(q)
    slope, curved = averages(parts, q, curvature)
    root = factored(precision.dense().double()).root
    shares, turn = torch.linalg.eigh(whitened(curved, root))
    white = torch.linalg.solve_triangular(root, slope[:, None], upper=False)[:, 0]
    found = Leverage(float(shares[-1]), shares, turn.mT @ white, parts.forget.num_data)
    return found, slope, curved


def _normal_of(
    fit: Any, target: Target | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, PositiveDefinite, Target]:
    """Mean and precision of a fit in the order of the target."""
    from pyro.infer.autoguide import AutoGuide

    if isinstance(fit, PosteriorDraws):
        target = fit.target
    expected = "the density of the model at all its data, by Target.from_model"
    check(target is not None, "target", None, expected)
    assert target is not None
    if isinstance(fit, AutoGuide):
        moments = read_guide(fit, args, kwargs, None)
        index = part_of(moments.layout, target.layout.sites)[1]
        precision = factored(moments.precision.dense()[index][:, index])
        return moments.loc[index], precision, target
    if isinstance(fit, Laplace):
        return fit.mean.double(), factored(fit.precision.dense().double()), target
    flat = read_any(fit, target)
    q, weights = in_order(flat, target.layout).double(), flat.weights
    loc = weights @ q
    spread = (weights[:, None] * (q - loc)).mT @ (q - loc)
    return loc, from_covariance(spread), target
