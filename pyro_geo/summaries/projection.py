"""Selective projection decay of a finished fit, as one step towards what is trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from pyro_geo.checks import check, check_count, check_number, check_shape
from pyro_geo.density import Layout, Target
from pyro_geo.errors import LayoutMismatchError
from pyro_geo.infer.fits.draws import read_mcmc
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.ops.derivatives import value_and_grad
from pyro_geo.ops.random import draw_rows, private_randomness
from pyro_geo.optim.decay.rule import deviation_ratio, share_of
from pyro_geo.optim.decay.sites import location_parameters
from pyro_geo.results import MemoryDraws, PosteriorDraws
from pyro_geo.summaries._fits import SiteFit, read_fit

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Projection", "selective_projection"]

_HALVINGS = 30


class Projection(NamedTuple):
    """Where a fit is moved to.

    Attributes:
        decisions: over `site`: `dot` (inner product of the gradient of the loss and the
            displacement), `before` and `after` (the two radii of the rule), `ratio`,
            `share` (of the displacement that is taken off). Attributes `spd` (what is
            left of it after halving), `loss_before` and `loss_after`.
        shift: what is added to a flat unconstrained position, `(dim,)`.
        layout: of the positions.
    """

    citations = ("spd",)

    decisions: xr.Dataset
    shift: Tensor
    layout: Layout

    def move(self, q: Tensor) -> Tensor:
        """Move flat unconstrained positions, `(..., dim)`."""
        return q + self.shift.to(q)

    def move_draws(self, posterior: PosteriorDraws) -> PosteriorDraws:
        """Move all draws alike: their spread and their weights stay.

        Args:
            posterior: the draws.

        Returns:
            A new result. It holds no draws of the posterior of any model.
        """
        q = self.move(posterior.positions)
        weights = posterior.log_weights
        draws = MemoryDraws(posterior.target, q)
        return PosteriorDraws(
            posterior.target,
            draws,
            log_weights=None if weights is None else weights.reshape(q.shape[:2]),
            chain_name=posterior.chain_name,
            notes=["Draws were moved by selective projection."],
            citations=(*posterior.citations, *self.citations),
        )

    @torch.no_grad()
    def move_guide(self, guide: AutoGuide) -> None:
        """Move the locations of a guide in place; its scales stay.

        Args:
            guide: of the kinds of :func:`~pyro_geo.optim.decay.anchors_from_guide`.
        """
        parts = self.layout.unflatten(self.shift)
        for _, param, sites in location_parameters(guide):
            step = torch.cat([parts[name].reshape(-1) for name in sites])
            param += step.reshape(param.shape).to(param)


def selective_projection(
    fitted: Any,
    target: Target,
    anchor: Any,
    *,
    spd: float = 1.0,
    trust: float | None = None,
    start: Any = None,
    num_draws: int = 64,
    seed: int = 0,
) -> Projection:
    r"""Move the sites of a fit towards a prior, or another posterior, where data ask.

    One step of selective projection decay, with the whole fit as the base step. For
    each site with mean `mu`, anchor `a` and the mean gradient `g` of the negative log-
    likelihood over the fit:

    .. math:: \mu \leftarrow \mu - \min(\lambda r, 1) (\mu - a), \qquad
              r = \max\Bigl(0, \frac{\|\mu - a\| - \gamma}{\|\mu - a\|}\Bigr)
              \text{ if } \langle g, \mu - a \rangle > 0, \text{ else } 0

    Norms are in the anchor's standard deviations where it has any. The radius `gamma`
    that a site may keep is `trust` standard deviations for each entry, or the distance
    of an earlier fit from the anchor.

    This use is derived, and no posterior comes of it. What holds exactly: `spd=0`
    changes nothing; with `spd=1` a site that is moved comes to lie on its ray at the
    radius `gamma`; a site is never moved away from its anchor, and one whose
    gradient agrees with its displacement stays as it is. The loss of the data in
    `target`, averaged over the draws used, does not rise: the strength is halved
    until that holds. On the data of the fit itself the gradients of a mode under a
    normal prior agree with every displacement from its mean, so nothing moves: use
    other data, such as those of a task that must not be forgotten.

    Args:
        fitted: a guide, a result with draws, or flat unconstrained draws, `(n, dim)`.
        target: model and data whose likelihood decides.
        anchor: moments of a prior, an earlier fit, or a mapping by site.
        spd: strength.
        trust: radius that is kept, in standard deviations of the anchor; 1 when neither
            it nor `start` is given, or 0 where the anchor has no deviations.
        start: an earlier fit whose distance from the anchor is kept instead.
        num_draws: draws of the fit that gradient and loss are averaged over.
        seed: of these draws.

    Returns:
        The decisions and the shift.

    Raises:
        LayoutMismatchError: the anchor lacks a site of the model.

    References:
        Derived from equation 1 of Tian, Huang and Kira (2024), Rethinking Weight Decay
        for Robust Fine-Tuning of Foundation Models, arXiv 2411.01713.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> target = Target.from_model(model, torch.tensor(0.0), compile=False)
        >>> draws = torch.tensor([[3.0], [5.0]])  # of a fit to other data
        >>> from pyro_geo.summaries import prior_moments
        >>> found = selective_projection(
        ...     draws, target, prior_moments(model, torch.tensor(0.0))
        ... )
        >>> found.move(draws)
        tensor([[0.],
                [2.]])
    """
    import xarray as xr

    check_number("spd", spd)
    check_number("trust", trust)
    check_count("num_draws", num_draws)
    both = "only one of trust and start"
    check(trust is None or start is None, "trust", trust, both)
    layout = target.layout
    q, mean = _draws_of(fitted, target, num_draws, seed)
    sites = read_fit(anchor).sites
    if missing := [name for name in layout.sites if name not in sites]:
        raise LayoutMismatchError(
            "the anchor lacks a site",
            where=f"site {missing[0]!r}",
            found=list(sites),
            expected=list(layout.sites),
            todo="Pass prior_moments of the same model, or a fit of it.",
        )
    loss, slope = value_and_grad(lambda x: -target.log_likelihood(x), q)
    g = slope.double().mean(0)
    begun = None if start is None else read_fit(start).sites
    columns = {name: [] for name in ("dot", "before", "after")}
    moved = torch.zeros_like(mean)
    for name, site in layout.sites.items():
        own = sites[name]
        check_shape(f"anchor, site {name!r}", own.mean.shape, (site.size,))
        d = mean[site.slice] - own.mean
        moved[site.slice] = d
        columns["dot"].append(torch.dot(g[site.slice], d))
        columns["after"].append(_radius(d, own))
        kept = None if begun is None else begun[name].mean - own.mean
        columns["before"].append(_kept(kept, own, trust))
    dot, before, after = (torch.stack(column) for column in columns.values())
    ratio = deviation_ratio(dot, before, after)
    own_sizes = torch.tensor(
        [site.size for site in layout.sites.values()], device=moved.device
    )

    def shift(strength: float) -> Tensor:
        share = share_of(ratio, torch.full_like(ratio, strength))
        return -share.repeat_interleave(own_sizes) * moved

    old = float(loss.double().mean())
    spd, new = _not_rising(
        lambda s: _loss(target, q + shift(s).to(q)), spd, old, bool((ratio > 0).any())
    )
    share = share_of(ratio, torch.full_like(ratio, spd))
    rows = {"dot": dot, "before": before, "after": after, "ratio": ratio}
    decisions = xr.Dataset(
        {name: ("site", to_numpy(x)) for name, x in {**rows, "share": share}.items()},
        coords={"site": list(layout.sites)},
        attrs={"spd": spd, "loss_before": old, "loss_after": new},
    )
    return Projection(decisions, shift(spd), layout)


def _loss(target: Target, q: Tensor) -> float:
    with torch.no_grad():
        return float(-target.log_likelihood(q).double().mean())


def _not_rising(
    loss: Callable[[float], float], spd: float, old: float, moves: bool
) -> tuple[float, float]:
    """Halve the strength until the loss does not rise."""
    for _ in range(_HALVINGS if moves and spd > 0 else 0):
        new = loss(spd)
        if new <= old:
            return spd, new
        spd /= 2
    return (0.0 if moves else spd), old


def _radius(d: Tensor, anchor: SiteFit) -> Tensor:
    return (
        d.norm() if anchor.variance is None else (d**2 / anchor.variance).sum().sqrt()
    )


def _kept(start: Tensor | None, anchor: SiteFit, trust: float | None) -> Tensor:
    """Radius that a site may keep."""
    if start is not None:
        return _radius(start, anchor)
    if trust is None:
        trust = 0.0 if anchor.variance is None else 1.0
    return anchor.mean.new_tensor(
        trust * anchor.mean.numel() ** 0.5, dtype=torch.float64
    )


def _draws_of(
    fitted: Any, target: Target, num_draws: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draw flat positions of a fit, and give its mean, `(dim,)`."""
    layout, generator = target.layout, torch.Generator().manual_seed(seed)
    if isinstance(fitted, Tensor):
        good = fitted.dim() == 2 and fitted.shape[-1] == layout.dim
        check_shape("fitted", fitted.shape, f"(n, {layout.dim})", good)
        rows = torch.randperm(len(fitted), generator=generator)[:num_draws]
        return fitted[rows].to(target.dtype), fitted.double().mean(0)
    sites = read_fit(fitted).sites
    mean = torch.cat([sites[name].mean for name in layout.sites])
    if isinstance(fitted, PosteriorDraws):
        draws = read_mcmc(fitted)
        rows = draw_rows(draws.weights, num_draws, generator)
        return draws.rows[rows].to(target.dtype), mean
    with torch.no_grad(), private_randomness(seed):
        runs = [fitted() for _ in range(num_draws)]
    values = {
        name: torch.stack([run[name] for run in runs]).to(target.dtype)
        for name in layout.sites
    }
    return target.unconstrain(values), mean
