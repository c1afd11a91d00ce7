"""Posteriors beside each other: divergences from a reference, and densities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions.transforms import IndependentTransform

from pyro_geo.checks import check, check_count
from pyro_geo.io.reports import Curves
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.summaries._tables import row_names
from pyro_geo.summaries.gaussian import GaussianPosterior

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare", "overlays"]

_POINTS = 201
_WIDE = 4.0  # standard deviations on each side of a curve


def compare(
    reference: GaussianPosterior, posteriors: Mapping[str, GaussianPosterior]
) -> pd.DataFrame:
    """Measure how far posteriors are from a reference.

    Args:
        reference: such as the posterior of all data.
        posteriors: by name.

    Returns:
        One row for each: `kl` is the divergence from the reference to it, in nats;
        `mean_error` the root mean square error of the means in standard deviations of
        the reference; `sd_ratio` the geometric mean of the ratios of the standard
        deviations, below 1 for one that is too sure.

    Example:
        >>> from pyro_geo.density import Layout
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> layout = Layout.from_supports(
        ...     {"x": (torch.Size(), torch.distributions.constraints.real)}
        ... )
        >>> one = GaussianPosterior(torch.zeros(1), Diagonal(torch.ones(1)), layout)
        >>> two = GaussianPosterior(torch.ones(1), Diagonal(torch.ones(1)), layout)
        >>> compare(one, {"moved": two}).loc["moved"].tolist()
        [0.5, 1.0, 1.0]
    """
    import pandas as pd

    rows = {}
    for name, posterior in posteriors.items():
        other = posterior.aligned(reference.layout, f"posterior {name}")
        apart = (other.loc - reference.loc) / reference.scale
        ratio = (other.scale / reference.scale).log().mean().exp()
        rows[name] = {
            "kl": reference.kl_divergence(other),
            "mean_error": float(apart.square().mean().sqrt()),
            "sd_ratio": float(ratio),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def overlays(
    posteriors: Mapping[str, GaussianPosterior], *, most: int = 8
) -> list[Curves]:
    """Draw the densities of single scalars over each other, for a report.

    Densities are those of the values that the model sees where a transform acts on
    each entry alone, and of unconstrained coordinates elsewhere (a simplex, say).

    Args:
        posteriors: by name, over the same sites.
        most: scalars at most: of each site in turn those that differ most.

    Returns:
        One picture for each scalar.

    Example:
        >>> from pyro_geo.summaries import GaussianPosterior
        >>> support = {"mean": torch.distributions.constraints.real}
        >>> near = GaussianPosterior.from_samples({"mean": torch.randn(99)}, support)
        >>> far = GaussianPosterior.from_samples({"mean": torch.randn(99) + 2}, support)
        >>> len(overlays({"near": near, "far": far}))
        1
    """
    check(len(posteriors) > 0, "posteriors", "none", "at least one")
    check_count("most", most)
    names = list(posteriors)
    first = posteriors[names[0]]
    aligned = {
        name: p.aligned(first.layout, f"posterior {name}")
        for name, p in posteriors.items()
    }
    locs = torch.stack([p.loc for p in aligned.values()])
    scales = torch.stack([p.scale for p in aligned.values()])
    spread = (locs.amax(0) - locs.amin(0)) / scales.mean(0)
    queues = []
    for site in first.layout.sites.values():
        order = site.start + spread[site.slice].argsort(descending=True)
        queues.append([(site, int(k)) for k in order])
    longest = max(map(len, queues))
    turns = [q[k] for k in range(longest) for q in queues if k < len(q)]
    return [
        _picture(site, k, names, locs[:, k], scales[:, k]) for site, k in turns[:most]
    ]


def _picture(site: Any, k: int, names: list[str], loc: Tensor, scale: Tensor) -> Curves:
    low, high = (loc - _WIDE * scale).min(), (loc + _WIDE * scale).max()
    q = torch.linspace(float(low), float(high), _POINTS, dtype=torch.float64)
    density = torch.distributions.Normal(loc[:, None], scale[:, None]).log_prob(q).exp()
    transform = site.transform
    while isinstance(transform, IndependentTransform):  # an event of several entries
        transform = transform.base_transform
    plain = site.shape == site.constrained_shape
    alone = plain and transform.domain.event_dim == 0
    x = q
    if alone:
        # all entries at once: bounds may differ from one to the next
        at = q.reshape(-1, *(1 for _ in site.shape)).expand(_POINTS, *site.shape)
        value: Any = transform(at)
        x = value.reshape(_POINTS, -1)[:, k - site.start]
        logs = transform.log_abs_det_jacobian(at, value).expand_as(at)
        logs = logs.reshape(_POINTS, -1)[:, k - site.start]
        density = density * (-logs).exp()
    shape = tuple(site.shape)
    label = list(row_names(site.name, shape))[k - site.start]
    label = label if alone else f"{label}, unconstrained"
    lines = {
        name: to_numpy(row).tolist() for name, row in zip(names, density, strict=True)
    }
    return Curves(
        f"Posteriors of {label}.", to_numpy(x).tolist(), lines, label, "density"
    )
