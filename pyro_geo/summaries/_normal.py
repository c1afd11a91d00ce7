"""A normal distribution over the unconstrained values of several sites."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions.transforms import identity_transform

from pyro_geo._showing import notebook
from pyro_geo.checks import check, check_choice, check_count, check_number, check_shape
from pyro_geo.density import Layout
from pyro_geo.errors import NonFiniteParameterError
from pyro_geo.geometry.matrices import Diagonal, PositiveDefinite
from pyro_geo.infer.fits import layouts, precisions

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo.io.reports import Curves

__all__ = ["SiteNormal"]

_CHAINS = 4  # draws are independent: so many chains of them agree


class SiteNormal:
    """What a :class:`~pyro_geo.summaries.GaussianPosterior` is, without its makers."""

    def __init__(
        self,
        loc: Tensor,
        precision: PositiveDefinite,
        layout: Layout,
        notes: Sequence[str] = (),
        citations: Sequence[str] = (),
    ) -> None:
        self.loc = loc.detach().double()
        check_shape("loc", loc.shape, (layout.dim,))
        self.precision = precisions.as_precision(precision, layout.dim)
        self.layout = layout
        self.notes = tuple(notes)
        self.citations = tuple(citations)
        for name, site in layout.sites.items():
            _check_finite(self.loc[site.slice], "mean", f"site {name!r}")
        _check_finite(self.precision.logdet(), "precision", "argument precision")

    @classmethod
    def from_moments(
        cls,
        loc: Tensor,
        covariance: Tensor,
        layout: Layout,
        notes: Sequence[str] = (),
        citations: Sequence[str] = (),
    ) -> Self:
        """Make one from a mean and a covariance.

        Args:
            loc: mean, `(dim,)`.
            covariance: `(dim, dim)`, or variances, `(dim,)`.
            layout: sites with their transforms.
            notes: warnings that belong to it.
            citations: keys of the works behind it.

        Returns:
            The posterior. A covariance that is not positive definite is a
            :class:`~pyro_geo.errors.NotPositiveDefiniteError`.
        """
        covariance = covariance.detach().double()
        _check_finite(covariance, "covariance", "argument covariance")
        if covariance.dim() == 1:
            precision = precisions.as_precision(covariance.reciprocal(), layout.dim)
        else:
            check_shape("covariance", covariance.shape, (layout.dim, layout.dim))
            precision = precisions.from_covariance(0.5 * (covariance + covariance.T))
        return cls(loc, precision, layout, notes, citations)

    # -- what it is -----------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.layout.dim

    @property
    def covariance(self) -> Tensor:
        """Covariance of the coordinates, `(dim, dim)`."""
        return precisions.covariance_of(self.precision)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of each coordinate, `(dim,)`."""
        return precisions.variances_of(self.precision).sqrt()

    def __repr__(self) -> str:
        """Name the sites with their shapes, and the form of the precision."""
        shapes = [
            f"{name} {tuple(site.constrained_shape)}"
            for name, site in self.layout.sites.items()
        ]
        shown = ", ".join(shapes[:6] + [f"{len(shapes) - 6} more"] * (len(shapes) > 6))
        form = type(self.precision).__name__
        return f"{type(self).__name__}({shown}; dim {self.dim}, {form} precision)"

    def _repr_html_(self) -> str:
        """Show means and standard deviations in a notebook."""
        table = self.summary("unconstrained").filter(items=["mean", "sd"])
        return notebook(repr(self), table, self.notes)

    # -- draws and densities --------------------------------------------------------

    def sample(
        self,
        shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Draw constrained values.

        Args:
            shape: of the draws.
            generator: randomness; torch's global one when left out.

        Returns:
            Site to `(*shape, *site_shape)`, in torch's default type.
        """
        size = (*shape, self.dim)
        noise = torch.randn(size, generator=generator, dtype=torch.float64)
        q = self.loc + self.precision.sample_inverse(noise.to(self.loc))
        dtype = torch.get_default_dtype()
        return {n: value.to(dtype) for n, value in self.layout.constrain(q).items()}

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        r"""Density of constrained values, with the Jacobians of the transforms.

        .. math:: \log N(q; \mu, \Lambda^{-1})
                  - \log\left|\frac{\partial z}{\partial q}\right|

        Args:
            values: site to `(..., *site_shape)`.

        Returns:
            The logarithm, `(...)`.
        """
        doubled = {name: torch.as_tensor(x).double() for name, x in values.items()}
        q = self.layout.unconstrain(doubled)
        density = self.log_density(q)
        for name, value in self.layout.unflatten(q).items():
            transform: Any = self.layout.sites[name].transform
            if transform is not identity_transform:
                constrained = transform(value)
                jacobian = transform.log_abs_det_jacobian(value, constrained)
                total: Any = sum_rightmost(jacobian, jacobian.dim() - density.dim())
                density = density - total
        return density

    def log_density(self, q: Tensor) -> Tensor:
        """Density of unconstrained positions, `(..., dim)`, as `(...)`."""
        q = q.double()
        constant = 0.5 * (self.precision.logdet() - self.dim * math.log(2 * math.pi))
        return constant - 0.5 * self.precision.norm(q - self.loc).square()

    def kl_divergence(self, other: SiteNormal) -> float:
        r"""Divergence from this posterior to another, in nats.

        .. math:: \tfrac12 \bigl[\operatorname{tr}(\Lambda_o \Sigma)
                  + (\mu - \mu_o)^\top \Lambda_o (\mu - \mu_o) - d
                  + \log |\Lambda| - \log |\Lambda_o|\bigr]

        Args:
            other: over the same sites, in any order.

        Returns:
            The divergence.

        Example:
            >>> from pyro_geo.summaries import GaussianPosterior
            >>> layout = Layout.from_supports(
            ...     {"x": (torch.Size(), torch.distributions.constraints.real)}
            ... )
            >>> one, two = (
            ...     GaussianPosterior(loc, Diagonal(torch.ones(1)), layout)
            ...     for loc in (torch.zeros(1), torch.full((1,), 2.0))
            ... )
            >>> one.kl_divergence(two)
            2.0
        """
        other = other.aligned(self.layout, "argument other")
        return precisions.kl_divergence(
            self.loc, self.precision, other.loc, other.precision
        )

    # -- other posteriors -----------------------------------------------------------

    def aligned(self, layout: Layout, where: str = "argument layout") -> Self:
        """Put the sites in the order of a layout.

        Args:
            layout: with the same sites.
            where: the posterior comes from, for the message of an error.

        Returns:
            The same distribution. Other sites, shapes or transforms are a
            :class:`~pyro_geo.errors.LayoutMismatchError`.
        """
        if layout is self.layout:
            return self
        layouts.check_alike(layout, self.layout, where)
        index = layouts.index_of(layout, self.layout).to(self.loc.device)
        precision = precisions.reordered(self.precision, index)
        return type(self)(
            self.loc[index], precision, layout, self.notes, self.citations
        )

    def marginal(self, sites: str | Sequence[str]) -> Self:
        """Leave out all other sites.

        Args:
            sites: name, or names in the order wanted.

        Returns:
            Their joint distribution.
        """
        names = [sites] if isinstance(sites, str) else list(sites)
        check(bool(names), "sites", names, "at least one name")
        layout, index = layouts.part_of(self.layout, names)
        index = index.to(self.loc.device)
        if isinstance(self.precision, Diagonal):
            precision = Diagonal(self.precision.scale[index])
        else:
            precision = precisions.from_covariance(self.covariance[index][:, index])
        return type(self)(
            self.loc[index], precision, layout, self.notes, self.citations
        )

    # -- tables and ArviZ -----------------------------------------------------------

    def summary(
        self,
        space: Literal["constrained", "unconstrained"] = "constrained",
        *,
        prob: float = 0.9,
        num_draws: int = 4000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Tabulate means, standard deviations and intervals.

        The mean of a constrained value is not the transform of an unconstrained mean,
        so draws are made for them; unconstrained numbers are exact.

        Args:
            space: which values.
            prob: probability of the interval between two quantiles.
            num_draws: in constrained space.
            seed: of the draws.

        Returns:
            One row for each scalar: `mean`, `sd`, `median` and the two quantiles.
        """
        from pyro_geo.summaries._tables import drawn_table, exact_table

        check_choice("space", space, ("constrained", "unconstrained"))
        check_number("prob", prob, 0.0, 1.0, strict=True)
        check_count("num_draws", num_draws, 2)
        if space == "unconstrained":
            return exact_table(self, prob)
        return drawn_table(self, prob, num_draws, seed)

    def to_arviz(self, num_draws: int = 4000, seed: int = 0) -> Any:
        """Hand draws to ArviZ.

        Args:
            num_draws: at least so many, as four chains of independent draws.
            seed: of the draws.

        Returns:
            `InferenceData` with ArviZ 0.23, a `DataTree` with 1.x, with the group
            posterior.
        """
        from pyro_geo.io.arviz import to_arviz
        from pyro_geo.ops.arrays import to_numpy

        check_count("num_draws", num_draws, 1)
        generator = torch.Generator().manual_seed(seed)
        draws = self.sample((_CHAINS, -(-num_draws // _CHAINS)), generator=generator)
        return to_arviz(
            {"posterior": {name: to_numpy(x) for name, x in draws.items()}},
            dims={n: s.dims for n, s in self.layout.sites.items() if s.dims},
            attrs={"summary": repr(self), "seed": seed},
        )

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        title: str | None = None,
        tables: Mapping[str, Any] | None = None,
        curves: Sequence[Curves] = (),
        num_draws: int = 4000,
        seed: int = 0,
    ) -> Path:
        """Write a report of its draws in one HTML file.

        Args:
            path: the file.
            title: heading of the page; named after the sites if None.
            tables: further tables by caption, such as that of
                :func:`~pyro_geo.summaries.conflict`.
            curves: further pictures, such as :func:`~pyro_geo.summaries.overlays`.
            num_draws: as in :meth:`to_arviz`.
            seed: of the draws.

        Returns:
            The path.
        """
        from pyro_geo.citations import citation
        from pyro_geo.io.reports import page_title, write_report

        return write_report(
            self.to_arviz(num_draws, seed),
            path,
            title=title
            or page_title("Gaussian posterior", sites=list(self.layout.sites)),
            facts={"summary": repr(self), "seed": seed},
            citation=citation(self),
            notes=self.notes,
            tables=tables,
            curves=curves,
        )


def _check_finite(values: Tensor, what: str, where: str) -> None:
    if bool(values.isfinite().all()):
        return
    raise NonFiniteParameterError(
        f"the {what} of a posterior is not finite",
        where=where,
        found=values[~values.isfinite()].flatten()[0].item(),
        expected="finite numbers",
        todo="Look at the fit it comes from: it has diverged.",
    )
