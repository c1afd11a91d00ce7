r"""Gaussian posteriors as tasks of a merge: a fitted guide carries its own metric.

For the best normal approximation of a posterior,
:math:`\Sigma_k^{-1} = E_{q_k}[\nabla^2 U_k]`: its precision is the curvature of minus
the log-density, averaged where the posterior is. No data are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.gaussian import GaussianPosterior
from pyro_geo.summaries.merge._tasks import of_each, task_names
from pyro_geo.summaries.merge.metrics import TaskMetric
from pyro_geo.summaries.merge.subspaces import build_subspace

__all__ = ["PosteriorTasks", "posterior_tasks"]


class PosteriorTasks(NamedTuple):
    """The first four arguments of :func:`~pyro_geo.summaries.merge.frechet_merge`.

    Attributes:
        base: zero, site to unconstrained value.
        models: posterior to its mean, site to unconstrained value.
        metrics: posterior to its precision.
        subspace: of all coordinates.
    """

    base: dict[str, Tensor]
    models: dict[str, dict[str, Tensor]]
    metrics: dict[str, TaskMetric]
    subspace: Subspace


def posterior_tasks(
    posteriors: Mapping[str, GaussianPosterior] | Sequence[GaussianPosterior],
) -> PosteriorTasks:
    r"""Prepare normal posteriors for a merge in all coordinates.

    The merge is then :math:`(\sum_k w_k \Lambda_k)^{-1} \sum_k w_k \Lambda_k \mu_k`,
    with equal weights the mean of the product of the posteriors without a prior; use
    :func:`~pyro_geo.summaries.combine` for a posterior with its covariance, and to
    divide by a prior that all of them contain.

    Args:
        posteriors: of one model, by name or in order; sites may be in any order.

    Returns:
        Arguments of a merge. Sites that differ are a
        :class:`~pyro_geo.errors.LayoutMismatchError`.

    Example:
        >>> from torch.distributions import constraints
        >>> from pyro_geo.density import Layout
        >>> from pyro_geo.summaries.merge import frechet_merge
        >>> layout = Layout.from_supports({"w": (torch.Size([2]), constraints.real)})
        >>> fits = [
        ...     GaussianPosterior(torch.zeros(2), Diagonal(torch.ones(2)), layout),
        ...     GaussianPosterior(torch.ones(2), Diagonal(3 * torch.ones(2)), layout),
        ... ]
        >>> merged = frechet_merge(*posterior_tasks(fits))
        >>> [round(x, 6) for x in merged.state_dict["w"].tolist()]
        [0.9, 0.9]
    """
    names = task_names(posteriors)
    each = of_each(posteriors, names, "posteriors")
    layout = each[names[0]].layout
    each = {
        name: posterior.aligned(layout, f"posterior {name!r}")
        for name, posterior in each.items()
    }
    models = {name: layout.unflatten(fit.loc) for name, fit in each.items()}
    base = {name: torch.zeros_like(x) for name, x in models[names[0]].items()}
    subspace = build_subspace(base, models, "full")
    metrics = {name: _metric(fit, subspace) for name, fit in each.items()}
    return PosteriorTasks(base, models, metrics, subspace)


def _metric(fit: GaussianPosterior, subspace: Subspace) -> TaskMetric:
    precision = fit.precision
    diagonal = isinstance(precision, Diagonal)
    matrix = precision.scale.square() if diagonal else precision.dense()
    return TaskMetric(
        matrix,
        fit.loc,
        cross=torch.zeros_like(fit.loc),
        residual=0.0,
        kept=1.0,
        count=1.0,
        per="sum",
        kind="posterior",
        likelihood="normal posterior",
        end=fit.loc,
        signature=subspace.signature(),
    )
