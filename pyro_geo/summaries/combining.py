r"""One posterior of several: of shards of the data, of refits, or of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_shape
from pyro_geo.citations import cites
from pyro_geo.density import Layout
from pyro_geo.errors import NotPositiveDefiniteError
from pyro_geo.geometry.frechet import bures_barycenter, mahalanobis_median
from pyro_geo.geometry.matrices import Cholesky, Diagonal, PositiveDefinite
from pyro_geo.geometry.whitening import whitened
from pyro_geo.infer.fits.draws import in_order, read_any
from pyro_geo.infer.fits.layouts import check_alike
from pyro_geo.infer.fits.precisions import factored
from pyro_geo.ops.random import draw_rows
from pyro_geo.summaries.gaussian import GaussianPosterior, aligned_prior

__all__ = ["combine", "consensus"]

_CITED = {"product": ("consensus",), "barycenter": ("barycenter",)}
_HOWS = ("product", "barycenter", "mixture", "median")


def combine(
    posteriors: Sequence[GaussianPosterior],
    *,
    how: Literal["product", "barycenter", "mixture", "median"],
    prior: GaussianPosterior | None = None,
    weights: Sequence[float] | Tensor | None = None,
    on_indefinite: Literal["raise", "clip"] = "raise",
) -> GaussianPosterior:
    r"""Combine posteriors of the same parameters into one.

    What the posteriors are says how; there is no default.

    - `"product"`: of independent data, such as the patients of several hospitals. With
      the prior :math:`N(\mu_0, \Lambda_0^{-1})` that all of them used,

      .. math:: \Lambda = \Lambda_0 + \sum_k w_k (\Lambda_k - \Lambda_0), \qquad
                \Lambda m = \Lambda_0 \mu_0
                + \sum_k w_k (\Lambda_k \mu_k - \Lambda_0 \mu_0)

      which is the posterior of all data where likelihoods are normal. Without `prior`
      nothing is divided out: for fits whose prior was already raised to 1/K.
    - `"barycenter"`: repeated fits of the same data. Mean of the means, and the
      2-Wasserstein mean of the covariances.
    - `"mixture"`: posteriors of which one is right, by the mean and covariance of their
      mixture. It is never narrower than the barycentre.
    - `"median"`: repeated fits some of which may be wrong: the point of least total
      Mahalanobis distance, and the mean precision with the weights that it has there.
      A minority has a bounded effect.

    Args:
        posteriors: over the same sites, in any order of them.
        how: as above.
        prior: that each of the posteriors contains, for a product.
        weights: positive; for a product powers of the evidence (1 each if None), else
            shares (equal ones if None).
        on_indefinite: for a product whose precision is not positive definite, as
            estimates can make it: `"raise"`, or `"clip"` the evidence of each
            posterior, :math:`\Lambda_k - \Lambda_0`, at zero in units of the prior: a
            log-concave likelihood cannot remove precision. Nothing changes where
            nothing is clipped.

    Returns:
        The posterior, its sites in the order of the first one. An indefinite product
        is a :class:`~pyro_geo.errors.NotPositiveDefiniteError`, sites that differ are
        a :class:`~pyro_geo.errors.LayoutMismatchError`.

    References:
        Scott et al. (2016), Bayes and big data: the consensus Monte Carlo algorithm;
        Álvarez-Esteban et al. (2016), A fixed-point approach to barycenters in
        Wasserstein space. Clipping and the median in several metrics are derived.

    Example:
        >>> from pyro_geo.density import Layout
        >>> layout = Layout.from_supports(
        ...     {"x": (torch.Size(), torch.distributions.constraints.real)}
        ... )
        >>> prior, one, two = (
        ...     GaussianPosterior(torch.tensor([m]), Diagonal(s.reshape(1)), layout)
        ...     for m, s in zip((0.0, 1.0, 2.0), torch.tensor([1.0, 2.0, 2.0]))
        ... )
        >>> both = combine([one, two], how="product", prior=prior)
        >>> round(both.loc.item(), 4), round(both.precision.dense().item(), 4)
        (1.7143, 7.0)
    """
    check_choice("how", how, _HOWS)
    check_choice("on_indefinite", on_indefinite, ("raise", "clip"))
    posteriors, layout = _aligned(posteriors)
    product = how == "product"
    check(prior is None or product, "prior", "a posterior", f"None with how={how!r}")
    prior = aligned_prior(prior, layout)
    share = _weights(weights, len(posteriors), normalised=not product)
    share = share.to(posteriors[0].loc.device)
    notes = list(dict.fromkeys(note for p in posteriors for note in p.notes))
    cited = dict.fromkeys(key for p in posteriors for key in p.citations)
    cited |= dict.fromkeys(_CITED.get(how, ()))
    if prior is not None:
        if on_indefinite == "clip":
            loc, precision = _clipped(posteriors, prior, share)
        else:
            loc, precision = _product(posteriors, prior, share)
        notes += [note for note in prior.notes if note not in notes]
        cited |= dict.fromkeys(prior.citations)
    elif product:
        loc, precision = _product(posteriors, None, share)
    elif how == "barycenter":
        return _barycenter(posteriors, share, layout, notes, tuple(cited))
    elif how == "mixture":
        return _mixture(posteriors, share, layout, notes, tuple(cited))
    else:
        loc, precision = _median(posteriors, share)
    return GaussianPosterior(loc, precision, layout, notes, tuple(cited))


def _aligned(
    posteriors: Sequence[GaussianPosterior],
) -> tuple[list[GaussianPosterior], Layout]:
    expected = "a sequence of at least one GaussianPosterior"
    if isinstance(posteriors, GaussianPosterior) or isinstance(posteriors, Mapping):
        check(False, "posteriors", type(posteriors).__name__, expected)
    found = list(posteriors)
    kinds = [type(p).__name__ for p in found]
    good = bool(found) and all(isinstance(p, GaussianPosterior) for p in found)
    check(good, "posteriors", kinds, expected)
    layout = found[0].layout
    return [p.aligned(layout, f"posterior {k}") for k, p in enumerate(found)], layout


def _weights(weights: Any, count: int, *, normalised: bool) -> Tensor:
    if weights is None:
        share = torch.ones(count, dtype=torch.float64)
    else:
        share = torch.as_tensor(weights, dtype=torch.float64)
        check_shape("weights", share.shape, (count,))
        good = bool(((share > 0) & share.isfinite()).all())
        check(good, "weights", share.tolist(), "positive numbers")
    return share / share.sum() if normalised else share


def _all_diagonal(posteriors: Sequence[GaussianPosterior]) -> bool:
    return all(isinstance(p.precision, Diagonal) for p in posteriors)


def _matrix(posterior: GaussianPosterior, diagonal: bool) -> Tensor:
    precision: Any = posterior.precision
    return precision.scale.square() if diagonal else precision.dense()


# -- product --------------------------------------------------------------------------


def _product(
    posteriors: Sequence[GaussianPosterior],
    prior: GaussianPosterior | None,
    share: Tensor,
) -> tuple[Tensor, PositiveDefinite]:
    terms = [(float(w), p) for w, p in zip(share, posteriors, strict=True)]
    if prior is not None:
        terms.append((1 - float(share.sum()), prior))
    diagonal = _all_diagonal([p for _, p in terms])
    # around the first mean, not around zero: digits are kept where means are large
    origin = posteriors[0].loc
    pull = torch.zeros_like(origin)
    total = torch.zeros_like(_matrix(posteriors[0], diagonal))
    for weight, p in terms:
        total += weight * _matrix(p, diagonal)
        pull += weight * p.precision.matvec(p.loc - origin)
    if diagonal:
        if not bool((total > 0).all()):
            raise NotPositiveDefiniteError(
                "a product of posteriors is not positive definite",
                found=f"smallest eigenvalue {float(total.min()):.3g}",
                expected="all eigenvalues above zero",
                todo="Check that each contains this prior, or pass "
                "on_indefinite='clip'.",
            )
        return origin + pull / total, Diagonal(total.sqrt())
    precision = factored(0.5 * (total + total.T), "a product of posteriors")
    return origin + precision.solve(pull), precision


def _clipped(
    posteriors: Sequence[GaussianPosterior], prior: GaussianPosterior, share: Tensor
) -> tuple[Tensor, PositiveDefinite]:
    """Add the evidence of each posterior where it is not negative."""
    # with the prior's precision C C', evidence is C V E V' C', and E > 0 is kept
    if _all_diagonal([*posteriors, prior]):
        start = _matrix(prior, True)
        total, pull = start.clone(), torch.zeros_like(start)
        for weight, p in zip(share, posteriors, strict=True):
            own = _matrix(p, True)
            kept = own > start
            total += weight * (own - start).clamp(min=0)
            pull += weight * torch.where(kept, own * (p.loc - prior.loc), 0.0)
        return prior.loc + pull / total, Diagonal(total.sqrt())
    root = factored(prior.precision.dense(), "the precision of the prior").root
    eye = torch.eye(len(root), dtype=root.dtype, device=root.device)
    total, pull = eye.clone(), torch.zeros_like(prior.loc)
    for weight, p in zip(share, posteriors, strict=True):
        own = whitened(p.precision.dense(), root)
        values, vectors = torch.linalg.eigh(own - eye)
        kept = vectors[:, values > 0]
        total += weight * (vectors * values.clamp(min=0)) @ vectors.T
        # Lambda_k (mu_k - mu_0), projected on the directions that are kept
        apart = p.precision.matvec(p.loc - prior.loc)
        white = torch.linalg.solve_triangular(root, apart[:, None], upper=False)
        pull += weight * (kept @ (kept.T @ white))[:, 0]
    inner = factored(total)
    step = torch.linalg.solve_triangular(
        root.T, inner.solve(pull)[:, None], upper=True
    )[:, 0]
    return prior.loc + step, Cholesky(root @ inner.root)


# -- centres --------------------------------------------------------------------------


def _barycenter(
    posteriors: Sequence[GaussianPosterior], share: Tensor, *facts: Any
) -> GaussianPosterior:
    loc = share @ torch.stack([p.loc for p in posteriors])
    if _all_diagonal(posteriors):  # covariances that commute
        scale = share @ torch.stack([p.scale for p in posteriors])
        return GaussianPosterior(loc, Diagonal(scale.reciprocal()), *facts)
    covariances = torch.stack([p.covariance for p in posteriors])
    center = bures_barycenter(covariances, share)
    return GaussianPosterior.from_moments(loc, center, *facts)


def _mixture(
    posteriors: Sequence[GaussianPosterior], share: Tensor, *facts: Any
) -> GaussianPosterior:
    locs = torch.stack([p.loc for p in posteriors])
    loc = share @ locs
    apart = locs - loc
    if _all_diagonal(posteriors) and not bool(apart.any()):
        variances = share @ torch.stack([p.scale.square() for p in posteriors])
        return GaussianPosterior.from_moments(loc, variances, *facts)
    covariances = torch.stack([p.covariance for p in posteriors])
    inside = torch.einsum("k,kij->ij", share, covariances)
    between = (share[:, None] * apart).T @ apart
    return GaussianPosterior.from_moments(loc, inside + between, *facts)


def _median(
    posteriors: Sequence[GaussianPosterior], share: Tensor
) -> tuple[Tensor, PositiveDefinite]:
    diagonal = _all_diagonal(posteriors)
    locs = torch.stack([p.loc for p in posteriors])
    precisions = torch.stack([_matrix(p, diagonal) for p in posteriors])
    loc, share = mahalanobis_median(locs, precisions, share)
    total = torch.tensordot(share, precisions, 1)
    return loc, Diagonal(total.sqrt()) if diagonal else factored(total)


# -- draws ----------------------------------------------------------------------------


@cites("consensus")
def consensus(
    draws: Sequence[Any],
    sites: Any = None,
    *,
    weights: Literal["precision", "diagonal", "uniform"] = "precision",
) -> dict[str, Tensor]:
    r"""Average draws of several posteriors, draw by draw, in unconstrained space.

    .. math:: \theta_s = \Bigl(\sum_k W_k\Bigr)^{-1} \sum_k W_k \theta_{k,s}

    For normal posteriors of independent data whose priors were raised to 1/K these are
    draws of the posterior of all data. Nothing is divided: with whole priors take
    moments, and :func:`combine` them. Draws keep some of the skewness that moments
    lose.

    Args:
        draws: results of samplers, mappings from site to `(draws, *shape)`, or ArviZ
            data. Longer ones are cut to the length of the shortest, and draws with
            weights are resampled.
        sites: for draws by name and ArviZ data, as in
            :meth:`GaussianPosterior.from_samples`.
        weights: :math:`W_k` is the inverse of the sample covariance, its diagonal
            alone, or the same for all.

    Returns:
        Site to `(draws, *shape)`, in torch's default type.

    References:
        Scott et al. (2016), Bayes and big data: the consensus Monte Carlo algorithm.

    Example:
        >>> from torch.distributions import constraints
        >>> shards = [{"x": torch.randn(2_000)}, {"x": 3.0 + torch.randn(2_000)}]
        >>> together = consensus(shards, {"x": constraints.real})
        >>> bool((together["x"].mean() - 1.5).abs() < 0.3)
        True
    """
    check_choice("weights", weights, ("precision", "diagonal", "uniform"))
    check(len(draws) > 0, "draws", "none", "at least one")
    found = [read_any(one, sites) for one in draws]
    layout = found[0].layout
    rows, matrices = [], []
    for k, one in enumerate(found):
        check_alike(layout, one.layout, f"draws {k}")
        q = in_order(one, layout)
        if one.log_weights is not None:
            generator = torch.Generator().manual_seed(k)
            q = q[draw_rows(one.weights, len(q), generator)]
        rows.append(q)
        if weights == "uniform":
            matrices.append(q.new_ones(layout.dim))
        elif weights == "diagonal":
            matrices.append(q.var(0).reciprocal())
        else:
            own = one._replace(q=q.unsqueeze(0), layout=layout, log_weights=None)
            matrices.append(own.moments(one.effective_size(), None)[1].dense())
    length = min(map(len, rows))
    if weights == "precision":
        pull = sum(q[:length] @ w for q, w in zip(rows, matrices, strict=True))
        mean = factored(torch.stack(matrices).sum(0)).solve(torch.as_tensor(pull))
    else:
        pull = sum(q[:length] * w for q, w in zip(rows, matrices, strict=True))
        mean = torch.as_tensor(pull) / torch.stack(matrices).sum(0)
    dtype = torch.get_default_dtype()
    return {name: x.to(dtype) for name, x in layout.constrain(mean).items()}
