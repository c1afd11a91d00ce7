r"""Whether posteriors can be of one parameter, before they are combined."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import chi2
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.summaries.gaussian import GaussianPosterior, aligned_prior

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["conflict"]

_CONFLICT = 1e-3  # tail below which a permutation is looked for
_EXPLAINED = 1e-2  # tail above which it explains the conflict
_LOST = 1e-10  # share of the variance below which a direction holds no evidence


def conflict(
    posteriors: Sequence[GaussianPosterior] | Mapping[str, GaussianPosterior],
    *,
    prior: GaussianPosterior | None = None,
) -> pd.DataFrame:
    r"""Test every pair of posteriors for agreement.

    .. math:: D_{ij} = (\mu_i - \mu_j)^\top V_{ij}^{-1} (\mu_i - \mu_j),
              \qquad V_{ij} = \Sigma_i + \Sigma_j

    has a chi-squared distribution with `d` degrees of freedom where both estimate the
    same parameters without a prior. A prior that both contain draws them together, and
    the test would miss conflicts. With `prior`, :math:`V_{ij} = \Sigma_i + \Sigma_j
    - \Sigma_i \Lambda_0 \Sigma_j - \Sigma_j \Lambda_0 \Sigma_i`, the variance of the
    difference of two posterior means under the model, for which the distribution is
    exact again.

    A small tail probability has several causes: a shard unlike the others, a fit that
    has not converged, or components that are numbered differently. For the last one
    the entries along a leading axis are matched by their means; where a permutation
    resolves the conflict it is shown. It is a hint: nothing is permuted for you.

    Args:
        posteriors: a sequence, or a mapping from name.
        prior: that each of them contains.

    Returns:
        One row for each pair: `first`, `second`, `statistic`, `dof`, `p_value`, the
        site that disagrees most with its own `site_p_value`, and `permutation`, empty
        where there is none. Attribute `p_value`: the smallest, times the number of
        pairs.

    References:
        Derived; with a prior it is the check of Presanis et al. (2013), Conflict
        diagnostics in directed acyclic graphs, for normal posteriors.

    Example:
        >>> from pyro_geo.density import Layout
        >>> layout = Layout.from_supports(
        ...     {"x": (torch.Size(), torch.distributions.constraints.real)}
        ... )
        >>> one, two = (
        ...     GaussianPosterior(torch.tensor([m]), Diagonal(torch.ones(1)), layout)
        ...     for m in (0.0, 4.0)
        ... )
        >>> table = conflict([one, two])
        >>> round(table["statistic"].item(), 4), round(table["p_value"].item(), 4)
        (8.0, 0.0047)
    """
    import pandas as pd

    names, found = _named(posteriors)
    layout = found[0].layout
    aligned = [
        p.aligned(layout, f"posterior {n}") for n, p in zip(names, found, strict=True)
    ]
    start = aligned_prior(prior, layout)
    rows = []
    for i, j in itertools.combinations(range(len(aligned)), 2):
        rows.append(
            {
                "first": names[i],
                "second": names[j],
                **_pair(aligned[i], aligned[j], start),
            }
        )
    table = pd.DataFrame(rows)
    least = min(row["p_value"] for row in rows)
    table.attrs["p_value"] = min(1.0, least * len(rows))
    table.attrs["citations"] = ("conflict",)
    return table


def _named(posteriors: Any) -> tuple[list[Any], list[GaussianPosterior]]:
    if isinstance(posteriors, Mapping):
        names, found = list(posteriors), list(posteriors.values())
    else:
        found = list(posteriors)
        names = list(range(len(found)))
    good = len(found) > 1 and all(isinstance(p, GaussianPosterior) for p in found)
    kinds = [type(p).__name__ for p in found]
    check(good, "posteriors", kinds, "at least two GaussianPosterior")
    return names, found


def _pair(
    one: GaussianPosterior, two: GaussianPosterior, prior: GaussianPosterior | None
) -> dict[str, Any]:
    apart = one.loc - two.loc
    variance = _variance(one, two, prior)
    unit = one.scale.square() + two.scale.square()
    statistic, dof = _distance(apart, variance, unit)
    tail = float(chi2.sf(statistic, dof))
    tails = {}
    for name, site in one.layout.sites.items():
        rows = site.slice
        block = variance[rows] if variance.dim() == 1 else variance[rows, rows]
        tails[name] = float(chi2.sf(*_distance(apart[rows], block, unit[rows])))
    worst = min(tails, key=lambda name: tails[name])
    hint = _relabelling(one, two, prior) if tail < _CONFLICT else ""
    return {
        "statistic": statistic,
        "dof": dof,
        "p_value": tail,
        "site": worst,
        "site_p_value": tails[worst],
        "permutation": hint,
    }


def _variance(
    one: GaussianPosterior, two: GaussianPosterior, prior: GaussianPosterior | None
) -> Tensor:
    """Variance of the difference of the means; a vector where it is diagonal."""
    matrices = [p.precision for p in (one, two, prior) if p is not None]
    if all(isinstance(m, Diagonal) for m in matrices):
        a, b = one.scale.square(), two.scale.square()
        if prior is None:
            return a + b
        return a + b - 2 * a * b / prior.scale.square()
    return _dense_variance(one.covariance, two.covariance, prior)


def _dense_variance(a: Tensor, b: Tensor, prior: GaussianPosterior | None) -> Tensor:
    if prior is None:
        return a + b
    shared = prior.precision.matvec(a) @ b
    return a + b - shared - shared.T


def _distance(apart: Tensor, variance: Tensor, unit: Tensor) -> tuple[float, int]:
    """Squared distance along the directions of which there is evidence.

    Args:
        apart: difference of the means, `(size,)`.
        variance: its variance, `(size, size)`, or the diagonal of that.
        unit: sum of both variances, `(size,)`: entries may have different units.

    Returns:
        The distance, and the number of such directions.
    """
    along = apart / unit.sqrt()
    if variance.dim() == 1:
        values = variance / unit
    else:
        scaled = variance / unit.sqrt() / unit.sqrt()[:, None]
        values, vectors = torch.linalg.eigh(0.5 * (scaled + scaled.T))
        along = vectors.T @ along
    kept = values > _LOST
    return float((along[kept] ** 2 / values[kept]).sum()), max(int(kept.sum()), 1)


# -- components in another order ------------------------------------------------------


def _relabelling(
    one: GaussianPosterior, two: GaussianPosterior, prior: GaussianPosterior | None
) -> str:
    """Look for an order of components that resolves a conflict."""
    for label, names in _axes(one):
        order = _matched(one, two, names)
        if order is None:
            continue
        index = torch.arange(one.dim)
        plain = torch.zeros(one.dim, dtype=torch.bool)
        for name, site in one.layout.sites.items():
            if name in names:
                own = index[site.slice].reshape(len(order), -1)
                index[site.slice] = own[order].reshape(-1)
            # entries of a simplex, say, cannot be permuted in unconstrained space
            plain[site.slice] = site.shape == site.constrained_shape
        turned = two.covariance[index][:, index]
        variance = _dense_variance(one.covariance, turned, prior)[plain][:, plain]
        apart = (one.loc - two.loc[index])[plain]
        unit = (one.scale.square() + turned.diagonal())[plain]
        if float(chi2.sf(*_distance(apart, variance, unit))) > _EXPLAINED:
            return f"{label}: {tuple(order)}"
    return ""


def _axes(posterior: GaussianPosterior) -> Iterator[tuple[str, list[str]]]:
    """Name the leading axes that sites have, and the sites on each."""
    found: dict[str, list[str]] = {}
    for name, site in posterior.layout.sites.items():
        plain = site.shape == site.constrained_shape
        if plain and site.shape and site.shape[0] > 1:
            axis = site.dims[0] if site.dims else f"entries of {name}"
            found.setdefault(axis, []).append(name)
    yield from found.items()


def _matched(
    one: GaussianPosterior, two: GaussianPosterior, names: list[str]
) -> list[int] | None:
    """Match the entries of an axis by their means; None for the order as it is."""
    size = one.layout.sites[names[0]].shape[0]
    cost = one.loc.new_zeros(size, size)
    for name in names:
        rows = one.layout.sites[name].slice
        a, b = (p.loc[rows].reshape(size, -1) for p in (one, two))
        u, v = (p.scale[rows].reshape(size, -1) ** 2 for p in (one, two))
        cost += ((a[:, None] - b[None]) ** 2 / (u[:, None] + v[None])).sum(-1)
    _, order = linear_sum_assignment(to_numpy(cost))
    order = [int(k) for k in order]
    return None if order == list(range(size)) else order
