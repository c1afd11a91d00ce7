"""Draws of samplers in unconstrained space, and their moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pyro.infer.mcmc.api import AbstractMCMC
from torch import Tensor

from pyro_geo.checks import check, check_choice, check_count, check_number, check_shape
from pyro_geo.citations import cited_by
from pyro_geo.density import Layout
from pyro_geo.engine.models import layout_of_values
from pyro_geo.errors import (
    LayoutMismatchError,
    MissingExtraError,
    NonFiniteParameterError,
    SampleSizeError,
    UnsupportedError,
)
from pyro_geo.geometry.matrices import Cholesky, PositiveDefinite
from pyro_geo.infer.fits.guides import Moments
from pyro_geo.infer.fits.layouts import as_layout, part_of
from pyro_geo.infer.fits.precisions import from_covariance
from pyro_geo.io.arviz import get_group, summary, to_arviz, true_names
from pyro_geo.ops.arrays import to_numpy
from pyro_geo.results import PosteriorDraws

__all__ = [
    "FlatDraws",
    "in_order",
    "read_any",
    "read_arviz",
    "read_mcmc",
    "read_samples",
]


class FlatDraws(NamedTuple):
    """Draws in unconstrained space.

    Attributes:
        q: `(chains, draws, dim)`, in double precision.
        layout: of the coordinates.
        log_weights: `(chains * draws,)`; None where all are equal.
        ess: effective number, where the sampler knows it.
        citations: keys of the works behind them.
    """

    q: Tensor
    layout: Layout
    log_weights: Tensor | None = None
    ess: float | None = None
    citations: tuple[str, ...] = ()

    @property
    def rows(self) -> Tensor:
        """All draws, `(chains * draws, dim)`."""
        return self.q.flatten(0, 1)

    @property
    def weights(self) -> Tensor:
        """Normalised weights, `(chains * draws,)`."""
        if self.log_weights is None:
            return torch.full_like(self.rows[:, 0], 1 / len(self.rows))
        return self.log_weights.double().softmax(0)

    @property
    def centred(self) -> tuple[Tensor, Tensor]:
        """Mean, `(dim,)`, and what each draw differs from it by."""
        mean = self.weights @ self.rows
        return mean, self.rows - mean

    def moments(
        self, ess: float | None, shrinkage: Literal["ledoit_wolf", "oas"] | None
    ) -> tuple[Tensor, PositiveDefinite]:
        """Match mean and precision.

        Args:
            ess: effective number of draws; None to estimate it.
            shrinkage: of the correlations, in place of the correction of the bias.

        Returns:
            Mean and precision.

        Raises:
            SampleSizeError: there are too few draws.
        """
        check_number("ess", ess, strict=True)
        check_choice("shrinkage", shrinkage, (None, "ledoit_wolf", "oas"))
        weights, (loc, centred) = self.weights, self.centred
        if shrinkage is not None:
            weighted = self.log_weights is not None
            expected = "None beside weights"
            check(not weighted, "shrinkage", shrinkage, expected)
            return loc, from_covariance(_shrunk(centred, shrinkage))
        size = self.effective_size() if ess is None else min(ess, len(centred))
        if not size > loc.numel() + 2:
            raise SampleSizeError(
                "too few draws for a precision",
                found=f"{size:.1f} effective draws of {len(centred)}",
                expected=f"more than {loc.numel() + 2}, the coordinates plus 2",
                todo="Draw more, or pass shrinkage='ledoit_wolf'.",
            )
        spread = (weights[:, None] * centred).T @ centred
        covariance = spread / (1 - weights.square().sum())
        root = from_covariance(covariance).root
        # the inverse of a sample covariance is too large on average
        return loc, Cholesky(root * ((size - loc.numel() - 2) / (size - 1)) ** 0.5)

    def summarised(
        self, ess: float | None, shrinkage: Literal["ledoit_wolf", "oas"] | None
    ) -> Moments:
        """Match mean and precision, as :meth:`moments`, and name the works behind."""
        cited = self.citations if shrinkage is None else (*self.citations, shrinkage)
        return Moments(*self.moments(ess, shrinkage), self.layout, (), cited)

    def effective_size(self) -> float:
        """Effective number of draws: the smallest over coordinates, or by weights."""
        if self.ess is not None:
            return self.ess
        if self.log_weights is not None:
            return float(1 / self.weights.square().sum())
        if self.q.shape[1] < 4:  # ArviZ needs four
            return float(len(self.rows))
        table = summary(to_arviz({"posterior": {"q": to_numpy(self.q)}}))
        least = float(np.min(table["ess_bulk"].to_numpy()))
        return min(least, float(len(self.rows)))


def read_mcmc(mcmc: Any) -> FlatDraws:
    """Read a result.

    Args:
        mcmc: of ours, or Pyro's.

    Returns:
        Its draws.

    Raises:
        UnsupportedError: it is neither.
    """
    if isinstance(mcmc, PosteriorDraws):
        q = mcmc.positions.double()
        if q.dim() > 3:
            q = q.flatten(1, -2)
        weighted = mcmc.log_weights is not None
        ess = mcmc.ess if weighted else None
        layout = mcmc.target.layout
        return _checked(FlatDraws(q, layout, mcmc.log_weights, ess, cited_by(mcmc)))
    if isinstance(mcmc, AbstractMCMC):
        run: Any = mcmc
        samples = run.get_samples(group_by_chain=True)
        transforms = getattr(mcmc, "transforms", None) or {}
        found = {name: samples[name] for name in sorted(samples)}
        layout = layout_of_values({n: x[0, 0] for n, x in found.items()}, transforms)
        return _checked(FlatDraws(_flat(layout, found), layout))
    raise UnsupportedError(
        "this holds no draws that are known here",
        where="argument mcmc",
        found=type(mcmc).__name__,
        expected="a result of pyro_geo or a pyro.infer.MCMC after its run",
        todo="Pass draws by name to GaussianPosterior.from_samples.",
    )


def read_samples(
    samples: Mapping[str, Any],
    sites: Any,
    log_weights: Tensor | None = None,
    num_chains: int = 1,
) -> FlatDraws:
    """Read draws by name.

    Args:
        samples: site to `(draws, *shape)`.
        sites: target, layout, or supports or transforms by site.
        log_weights: `(draws,)`.
        num_chains: chains that the draws consist of.

    Returns:
        The draws.
    """
    check_count("num_chains", num_chains)
    layout = as_layout(sites, samples, 1)
    q = _flat(layout, samples)
    check_shape("samples", q.shape, "(draws, *shape) by site", q.dim() == 2)
    length, remainder = divmod(len(q), num_chains)
    good = length > 0 and remainder == 0
    check(good, "num_chains", num_chains, f"a divisor of {len(q)} draws")
    if log_weights is not None:
        check_shape("log_weights", log_weights.shape, (len(q),))
    q = q.unflatten(0, (num_chains, length))
    return _checked(FlatDraws(q, layout, log_weights))


def read_arviz(idata: Any, sites: Any) -> FlatDraws:
    """Read the posterior of ArviZ data.

    Args:
        idata: `InferenceData` or `DataTree`.
        sites: target, layout, or supports or transforms by site.

    Returns:
        The draws.

    Raises:
        SampleSizeError: there is no posterior.
    """
    posterior = get_group(idata, "posterior")
    if posterior is None:
        raise SampleSizeError(
            "there are no draws",
            where="argument idata",
            found="no group posterior",
            expected="a group posterior",
            todo="Pass the result of to_arviz().",
        )
    names = true_names(posterior.attrs)
    values = {
        names.get(str(name), str(name)): torch.as_tensor(
            np.array(array.transpose("chain", "draw", ...))  # a copy is writable
        )
        for name, array in posterior.data_vars.items()
    }
    layout = as_layout(sites, values, 2)
    return _checked(FlatDraws(_flat(layout, values), layout))


def read_any(draws: Any, sites: Any) -> FlatDraws:
    """Read a result, draws by name, or ArviZ data, whichever it is."""
    if isinstance(draws, PosteriorDraws | AbstractMCMC):
        return read_mcmc(draws)
    expected = "the model's target or layout, or supports by site"
    check(sites is not None, "sites", sites, expected)
    if isinstance(draws, Mapping) and all(
        isinstance(x, Tensor) for x in draws.values()
    ):
        return read_samples(draws, sites)
    return read_arviz(draws, sites)


def _flat(layout: Layout, values: Mapping[str, Any]) -> Tensor:
    """Unconstrain the sites of a layout; what else there is is left out."""
    if missing := [name for name in layout.sites if name not in values]:
        raise LayoutMismatchError(
            "a site has no draws",
            where=f"site {missing[0]!r}",
            found=sorted(values),
            expected=list(layout.sites),
            todo="Pass draws of every latent site, or the layout of fewer sites.",
        )
    doubled = {n: torch.as_tensor(values[n]).detach().double() for n in layout.sites}
    return layout.unconstrain(doubled)


def _checked(draws: FlatDraws) -> FlatDraws:
    bad = ~draws.rows.isfinite().all(0)
    if not bool(bad.any()):
        return draws
    name = next(n for n, s in draws.layout.sites.items() if bool(bad[s.slice].any()))
    rows = int((~draws.rows.isfinite()).any(-1).sum())
    raise NonFiniteParameterError(
        "draws are not finite in unconstrained space",
        where=f"site {name!r}",
        found=f"{rows} of {len(draws.rows)} draws",
        expected="finite numbers inside the support",
        todo="Leave these draws out, or sample in double precision.",
    )


def in_order(draws: FlatDraws, layout: Layout) -> Tensor:
    """Draws in the order of a layout, `(chains * draws, dim)`."""
    return draws.rows[:, part_of(draws.layout, layout.sites)[1]]


def _shrunk(centred: Tensor, kind: str) -> Tensor:
    """Shrink a covariance towards that of independent coordinates."""
    try:
        from sklearn import covariance
    except ImportError as reason:
        raise MissingExtraError(
            "shrinkage needs scikit-learn",
            where="argument shrinkage",
            found="no such package",
            expected="scikit-learn",
            todo="Install pyro_geo[demo].",
        ) from reason
    # towards a multiple of the identity, so in units of the standard deviations
    scale = centred.square().mean(0).sqrt()
    if len(centred) < 2 or not bool((scale > 0).all()):
        raise SampleSizeError(
            "draws that do not vary have no precision",
            found=f"{len(centred)} draws, standard deviation {float(scale.min()):.3g}",
            expected="at least two that differ",
            todo="Draw more.",
        )
    fits = {"ledoit_wolf": covariance.ledoit_wolf, "oas": covariance.oas}
    matrix, _ = fits[kind](to_numpy(centred / scale), assume_centered=True)
    return torch.as_tensor(matrix) * scale[:, None] * scale
