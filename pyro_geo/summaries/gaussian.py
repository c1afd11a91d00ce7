r"""A posterior summarised by one normal distribution in unconstrained space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count, check_shape
from pyro_geo.density import Layout, Target
from pyro_geo.summaries._normal import SiteNormal

if TYPE_CHECKING:
    from pyro_geo.summaries.priors import GaussianPrior

__all__ = ["GaussianPosterior", "aligned_prior"]

Shrinkage = Literal["ledoit_wolf", "oas"]


class GaussianPosterior(SiteNormal):
    r"""A normal distribution over the unconstrained values of all sites.

    .. math:: q \sim N(\mu, \Lambda^{-1}), \qquad z = T(q)

    with `T` the transforms of the layout. It is what posteriors of one model are
    combined as (:func:`~pyro_geo.summaries.combine`), and a prior for the next fit
    (:meth:`as_prior`). A posterior with several modes has no such summary.

    Everything is computed in double precision; values come back in torch's default
    type.

    Args:
        loc: mean, `(dim,)`.
        precision: inverse covariance.
        layout: sites with their transforms.
        notes: warnings that belong to it, one sentence each.
        citations: keys of the works behind it, for :func:`pyro_geo.citation`.

    Attributes:
        loc: as given, in double precision.
        precision: as given.
        layout: as given.
        notes: as given.
        citations: as given.

    A number that is NaN or infinite is a
    :class:`~pyro_geo.errors.NonFiniteParameterError`.

    Example:
        >>> from torch.distributions import constraints
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> supports = {"scale": (torch.Size(), constraints.positive)}
        >>> posterior = GaussianPosterior(
        ...     torch.zeros(1), Diagonal(torch.ones(1)), Layout.from_supports(supports)
        ... )
        >>> posterior.sample((3,))["scale"].shape, posterior.dim
        (torch.Size([3]), 1)
        >>> round(posterior.log_prob({"scale": torch.tensor(1.0)}).item(), 4)
        -0.9189
    """

    @classmethod
    def from_guide(
        cls, guide: Any, *args: Any, metric: Any = None, **kwargs: Any
    ) -> Self:
        """Take over a fitted automatic guide that is normal in unconstrained space.

        For `AutoNormal`, `AutoDiagonalNormal`, `AutoMultivariateNormal` and
        `AutoLowRankMultivariateNormal` this is exact, whatever order the guide keeps
        its sites in. `AutoLaplaceApproximation` gets the Hessian at its location, for
        which it needs the data. The parts of an `AutoGuideList` are independent.

        Args:
            guide: the guide, after training.
            *args: arguments of the model, for `AutoLaplaceApproximation`.
            metric: precision at the point of an `AutoDelta`, sites in the order of
                their names: a positive-definite matrix, a tensor `(dim, dim)`, or the
                entries of a diagonal.
            **kwargs: keyword arguments of the model.

        Returns:
            The posterior. An `AutoDelta` without a metric is a
            :class:`~pyro_geo.errors.MissingCurvatureError`; another guide, such as
            one that computes its parameters from data, and sites in a subsampled
            plate are an :class:`~pyro_geo.errors.UnsupportedError`.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> from pyro.infer.autoguide import AutoNormal
            >>> pyro.clear_param_store()
            >>> def model():
            ...     pyro.sample("rate", dist.LogNormal(0.0, 1.0))
            >>> guide = AutoNormal(model, init_scale=0.5)
            >>> _ = guide()
            >>> GaussianPosterior.from_guide(guide).covariance
            tensor([[0.2500]], dtype=torch.float64)
        """
        from pyro_geo.infer.fits.guides import read_guide

        return cls(*read_guide(guide, args, kwargs, metric))

    @classmethod
    def from_target(
        cls,
        target: Target,
        *,
        start: Tensor | None = None,
        num_points: int = 256,
        seed: int = 0,
    ) -> Self:
        r"""Fit the normal distribution closest to a density, without training a guide.

        The minimiser of :math:`KL(q \,\|\, p)` over normal distributions satisfies

        .. math:: E_q[\nabla U] = 0, \qquad \Lambda = E_q[\nabla^2 U]

        with :math:`U = -\log p`: its precision is the expected Hessian, where a
        Laplace approximation takes the Hessian at one point. Averages are over fixed
        quasi-random points. Needs a density that is log-concave around its mode, and
        `num_points * dim` Hessian products a step: for some hundred coordinates.

        Args:
            target: the density.
            start: a position near the mode, `(dim,)`; looked for if None.
            num_points: of the averages; with at least four times the dimension a
                normal density is fitted exactly.
            seed: of the points.

        Returns:
            The posterior. An expected Hessian that is indefinite is a
            :class:`~pyro_geo.errors.NotPositiveDefiniteError`.

        Warns:
            ConvergenceWarning: the iteration was cut off.

        References:
            Opper and Archambeau (2009), The variational Gaussian approximation
            revisited.

        Example:
            >>> target = Target.from_potential(lambda q: 2 * (q - 1).square().sum(), 2)
            >>> posterior = GaussianPosterior.from_target(target, num_points=16)
            >>> [round(x, 4) for x in posterior.loc.tolist()]
            [1.0, 1.0]
        """
        from pyro_geo.summaries._expected import expected_hessian

        check_count("num_points", num_points, 2)
        if start is not None:
            check_shape("start", start.shape, (target.dim,))
        return cls(*expected_hessian(target, start, num_points, seed))

    @classmethod
    def from_mcmc(
        cls, mcmc: Any, *, ess: float | None = None, shrinkage: Shrinkage | None = None
    ) -> Self:
        """Match the moments of a sampler's draws in unconstrained space.

        Args:
            mcmc: any result of ours with draws (`MCMC`, or a `GibbsPosterior`, whose
                weights count), or a `pyro.infer.MCMC` after its run.
            ess: effective number of draws; by default the smallest over coordinates,
                or that of the weights.
            shrinkage: see :meth:`from_samples`.

        Returns:
            The posterior.
        """
        from pyro_geo.infer.fits.draws import read_mcmc

        draws = read_mcmc(mcmc)
        return cls(*draws.summarised(ess, shrinkage))

    @classmethod
    def from_samples(
        cls,
        samples: Mapping[str, Tensor],
        sites: Target | Layout | Mapping[str, Any],
        *,
        log_weights: Tensor | None = None,
        num_chains: int = 1,
        ess: float | None = None,
        shrinkage: Shrinkage | None = None,
    ) -> Self:
        r"""Match the moments of draws by name in unconstrained space.

        The inverse of a sample covariance `S` is too large on average. With `d`
        coordinates and an effective number `n` of draws, what is used is

        .. math:: \Lambda = \frac{n - d - 2}{n - 1} S^{-1}

        which has no bias for independent normal draws.

        Args:
            samples: constrained draws, site to `(draws, *shape)`; further sites are
                left out.
            sites: the model's target or layout, or a mapping from site to its support
                or to the map from unconstrained to constrained values.
            log_weights: logarithms of weights, `(draws,)`.
            num_chains: chains that the draws consist of, one after the other.
            ess: effective number of draws; by default the smallest over coordinates,
                or that of the weights.
            shrinkage: `"ledoit_wolf"` or `"oas"` shrinks the correlations instead,
                for few draws; needs scikit-learn.

        Returns:
            The posterior. Fewer than `d + 3` effective draws without shrinkage are a
            :class:`~pyro_geo.errors.SampleSizeError`.

        References:
            Anderson (2003), An Introduction to Multivariate Statistical Analysis,
            section 7.7.2; Ledoit and Wolf (2004), A well-conditioned estimator for
            large-dimensional covariance matrices; Chen, Wiesel, Eldar and Hero (2010),
            Shrinkage algorithms for MMSE covariance estimation.

        Example:
            >>> from torch.distributions import constraints
            >>> draws = {"scale": torch.randn(500).exp()}
            >>> posterior = GaussianPosterior.from_samples(
            ...     draws, {"scale": constraints.positive}
            ... )
            >>> posterior.covariance.shape
            torch.Size([1, 1])
        """
        from pyro_geo.infer.fits.draws import read_samples

        draws = read_samples(samples, sites, log_weights, num_chains)
        return cls(*draws.summarised(ess, shrinkage))

    @classmethod
    def from_arviz(
        cls,
        idata: Any,
        sites: Target | Layout | Mapping[str, Any],
        *,
        ess: float | None = None,
        shrinkage: Shrinkage | None = None,
    ) -> Self:
        """Match the moments of the posterior in ArviZ data.

        Args:
            idata: an `InferenceData` or a `DataTree`.
            sites: as in :meth:`from_samples`; names choose the variables.
            ess: effective number of draws.
            shrinkage: see :meth:`from_samples`.

        Returns:
            The posterior.
        """
        from pyro_geo.infer.fits.draws import read_arviz

        draws = read_arviz(idata, sites)
        return cls(*draws.summarised(ess, shrinkage))

    @classmethod
    def from_module(cls, module: torch.nn.Module, metric: Any) -> Self:
        """Take the parameters of a module as the mean.

        Args:
            module: any module.
            metric: precision over its named parameters, one after the other: a
                positive-definite matrix, a tensor `(dim, dim)`, or the entries of a
                diagonal.

        Returns:
            The posterior. No metric is a
            :class:`~pyro_geo.errors.MissingCurvatureError`.

        Example:
            >>> module = torch.nn.Linear(2, 1)
            >>> GaussianPosterior.from_module(module, torch.ones(3))
            GaussianPosterior(weight (1, 2), bias (1,); dim 3, Diagonal precision)
        """
        from pyro_geo.infer.fits.guides import read_module

        return cls(*read_module(module, metric))

    @classmethod
    def from_prior(
        cls,
        model: Any,
        *args: Any,
        num_draws: int = 4000,
        seed: int = 0,
        **kwargs: Any,
    ) -> Self:
        """Take the prior of a model, which combining posteriors has to divide by.

        Exact where the prior is normal in unconstrained space, as normal and
        log-normal sites are, also where one is the mean of another. Moments of prior
        draws are matched elsewhere.

        Args:
            model: a Pyro model.
            *args: its arguments.
            num_draws: of the prior, where they are needed.
            seed: of these draws.
            **kwargs: its keyword arguments.

        Returns:
            The prior.

        Warns:
            FallbackWarning: moments were matched.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> def model():
            ...     pyro.sample("rate", dist.LogNormal(1.0, 2.0))
            >>> prior = GaussianPosterior.from_prior(model)
            >>> round(prior.loc.item(), 6), round(prior.covariance.item(), 6)
            (1.0, 4.0)
        """
        from pyro_geo.summaries._model_priors import read_prior

        check_count("num_draws", num_draws, 2)
        return cls(*read_prior(model, args, kwargs, num_draws, seed))

    def as_prior(self) -> GaussianPrior:
        """Make it the prior of the next model.

        Returns:
            What a model is given to, `posterior.as_prior()(model)`: a model whose
            sites of the same names have this joint distribution as their prior, see
            :class:`~pyro_geo.summaries.GaussianPrior`.
        """
        from pyro_geo.summaries.priors import GaussianPrior

        return GaussianPrior(self)


def aligned_prior(
    prior: GaussianPosterior | None, layout: Layout
) -> GaussianPosterior | None:
    """Read a prior that goes with posteriors.

    Args:
        prior: as passed; None for none.
        layout: of the posteriors.

    Returns:
        The prior in this layout. Anything else, such as a model, is a
        :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> from torch.distributions import constraints
        >>> from pyro_geo.geometry.matrices import Diagonal
        >>> layout = Layout.from_supports({"x": ((), constraints.real)})
        >>> prior = GaussianPosterior(torch.zeros(1), Diagonal(torch.ones(1)), layout)
        >>> aligned_prior(None, layout), aligned_prior(prior, layout).loc.item()
        (None, 0.0)
    """
    expected = "a GaussianPosterior, of GaussianPosterior.from_prior(model, ...) say"
    good = prior is None or isinstance(prior, GaussianPosterior)
    check(good, "prior", type(prior).__name__, expected)
    return None if prior is None else prior.aligned(layout, "argument prior")
