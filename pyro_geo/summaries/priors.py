r"""A normal posterior as the prior of the next model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import identity_transform

from pyro_geo.density import Layout, Site
from pyro_geo.errors import LayoutMismatchError
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer.fits.layouts import same_map
from pyro_geo.infer.fits.precisions import factored

if TYPE_CHECKING:
    from pyro_geo.summaries.gaussian import GaussianPosterior

__all__ = ["GaussianPrior", "SitePrior"]

_SINGLE = torch.Size()


class GaussianPrior:
    r"""Replaces the priors of named sites in a model by one joint normal distribution.

    Calling it with a model gives a model. There the sites of the posterior have, in
    place of the distributions that the model names, the joint density

    .. math:: \log N(q; \mu, \Lambda^{-1})
              - \sum_{\text{sites}} \log\left|\frac{\partial z}{\partial q}\right|

    All correlations are kept, within and across sites. Each site stays a latent site
    with its own name, support and plates: it is drawn given the sites before it in the
    model, and the product of these conditional densities is the joint one, whatever
    the order. So samplers, guides, `Predictive` and results see the model they know,
    and its posterior is combined or passed on as before.

    Other sites keep their priors. A site of the posterior that the model does not have
    is a :class:`~pyro_geo.errors.LayoutMismatchError`: leave it out with
    :meth:`GaussianPosterior.marginal`, which integrates over it.

    Args:
        posterior: the distribution.

    Attributes:
        layout: its sites.

    Example:
        >>> import pyro
        >>> from torch.distributions import constraints
        >>> from pyro_geo.summaries import GaussianPosterior
        >>> supports = {"rate": (torch.Size(), constraints.positive)}
        >>> posterior = GaussianPosterior(
        ...     torch.tensor([3.0]),
        ...     Diagonal(torch.tensor([100.0])),
        ...     Layout.from_supports(supports),
        ... )
        >>> def model():
        ...     return pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        >>> round(posterior.as_prior()(model)().log().item(), 1)
        3.0
    """

    def __init__(self, posterior: GaussianPosterior) -> None:
        self.layout: Layout = posterior.layout
        self._loc = posterior.loc
        self._covariance: Tensor | None = None
        self._scale: Tensor | None = None
        if isinstance(posterior.precision, Diagonal):
            self._scale = posterior.scale
        else:
            self._covariance = posterior.covariance
        self._rows: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self._parts: dict[tuple[tuple[str, ...], torch.dtype], Part] = {}
        self._checked: set[str] = set()

    def __repr__(self) -> str:
        """Name the sites."""
        return f"{type(self).__name__}({', '.join(self.layout.sites)})"

    def __call__(self, model: Callable[..., Any]) -> Callable[..., Any]:
        """Replace priors in a model.

        Args:
            model: a Pyro model, plates and `PyroModule` included.

        Returns:
            The model with this prior.
        """

        # the attributes of a module are not those of a function
        @functools.wraps(model, updated=())
        def informed(*args: Any, **kwargs: Any) -> Any:
            with _Replace(self):
                return model(*args, **kwargs)

        if not hasattr(model, "__name__"):
            informed.__name__ = type(model).__name__
        return informed

    def part(self, order: tuple[str, ...]) -> Part:
        """Make the last site's distribution given those before it.

        Args:
            order: sites as the model draws them, up to this one.

        Returns:
            Its numbers, in torch's default type.
        """
        key = order, torch.get_default_dtype()
        if key not in self._parts:
            below, root = self._factor(order)
            eye = torch.eye(len(root), dtype=root.dtype, device=root.device)
            inverse = torch.linalg.solve_triangular(root, eye, upper=False)
            loc = self._loc[self.layout.sites[order[-1]].slice]
            numbers = (loc, below, root, inverse, inverse.diagonal().log())
            self._parts[key] = Part(*(x.to(key[1]) for x in numbers))
        return self._parts[key]

    def _factor(self, order: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Rows of the Cholesky factor of the covariance, sites in this order.

        Returns:
            Columns of the sites before, and the triangle of the last one.
        """
        if order in self._rows:
            return self._rows[order]
        *before, name = order
        rows = self.layout.sites[name].slice
        if self._covariance is None:
            assert self._scale is not None
            root = self._scale[rows].diag()
            sizes = (self.layout.sites[n].size for n in before)
            found = root.new_zeros(len(root), sum(sizes)), root
        else:
            columns = torch.cat(
                [torch.zeros(0, dtype=torch.long)]
                + [torch.arange(s.start, s.stop) for s in map(self._site, before)]
            )
            above = self._triangle(tuple(before))
            cross = self._covariance[rows][:, columns]
            below = torch.linalg.solve_triangular(above, cross.T, upper=False).T
            rest = self._covariance[rows, rows] - below @ below.T
            found = below, factored(0.5 * (rest + rest.T), "a covariance").root
        self._rows[order] = found
        return found

    def _triangle(self, order: tuple[str, ...]) -> Tensor:
        """The factor of the sites in this order, `(size, size)`."""
        size = sum(self._site(name).size for name in order)
        full = self._loc.new_zeros(size, size)
        start = 0
        for k in range(len(order)):
            below, root = self._factor(order[: k + 1])
            stop = start + len(root)
            full[start:stop, :start] = below
            full[start:stop, start:stop] = root
            start = stop
        return full

    def _site(self, name: str) -> Site:
        return self.layout.sites[name]

    def check_site(self, name: str, fn: Any) -> None:
        """Refuse a site of another shape or support than that of the posterior.

        Args:
            name: of the site.
            fn: distribution that the model gives it.

        Raises:
            LayoutMismatchError: it does not fit.
        """
        site = self._site(name)
        shape = tuple(fn.batch_shape + fn.event_shape)
        expected = tuple(site.constrained_shape)
        if shape[max(len(shape) - len(expected), 0) :] != expected:
            raise LayoutMismatchError(
                "a site of the model has another shape than in the posterior",
                where=f"site {name!r}",
                found=shape,
                expected=expected,
                todo="Leave it out with marginal(sites), or give it this shape.",
            )
        if name in self._checked:
            return
        transform = biject_to(fn.support)
        if not same_map(transform, site.transform, site):
            raise LayoutMismatchError(
                "a site of the model has another support than in the posterior",
                where=f"site {name!r}",
                found=str(fn.support),
                expected=f"that of {site.transform}",
                todo="Give the site the support that it had in the fit.",
            )
        self._checked.add(name)


class Part(NamedTuple):
    """One site given those before it, in terms of their standard normal numbers.

    Attributes:
        loc: its own mean, `(size,)`.
        below: factor of the numbers of the sites before, `(size, earlier)`.
        root: factor of its own numbers, `(size, size)`.
        inverse: inverse of the root.
        log_inverse: logarithm of the diagonal of the inverse, `(size,)`.
    """

    loc: Tensor
    below: Tensor
    root: Tensor
    inverse: Tensor
    log_inverse: Tensor


class SitePrior(dist.TorchDistribution):
    """One site given the sites before it, transformed to its support.

    Its log-density is split over the plates: the density of each entry is that given
    the entries before it, and the sum is the joint one.

    Args:
        part: of the joint distribution.
        mean: given the sites before, `(*lead, size)`.
        site: shapes and transform.
        support: of the values.
        event_dim: axes of one value.
        lead: axes left of the site's own, such as those of particles.
    """

    has_rsample = True

    def __init__(
        self,
        part: Part,
        mean: Tensor,
        site: Site,
        support: Any,
        event_dim: int,
        lead: torch.Size,
    ) -> None:
        self._part, self._mean, self._site = part, mean, site
        self._support, self._lead = support, lead
        own = len(site.constrained_shape) - event_dim
        self._own = own
        batch = torch.Size(lead + site.constrained_shape[:own])
        super().__init__(batch, site.constrained_shape[own:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """None: it is made from a posterior, which has been checked."""
        return {}

    @property
    def support(self) -> Any:
        """Where the values lie."""
        return self._support

    def expand(self, batch_shape: Any, _instance: Any = None) -> SitePrior:
        """Repeat over axes left of the site's own, as plates around a model ask."""
        batch_shape = torch.Size(batch_shape)
        lead = batch_shape[: len(batch_shape) - self._own]
        assert lead + self.batch_shape[len(self._lead) :] == batch_shape
        event = len(self.event_shape)
        return SitePrior(
            self._part, self._mean, self._site, self._support, event, torch.Size(lead)
        )

    def rsample(self, sample_shape: Any = _SINGLE) -> Tensor:
        """Draw values, `(*sample_shape, *batch_shape, *event_shape)`."""
        shape = torch.Size(sample_shape) + self._lead
        noise = torch.randn(
            shape + self._part.loc.shape,
            dtype=self._mean.dtype,
            device=self._mean.device,
        )
        q = self._mean + noise @ self._part.root.mT
        transform: Any = self._site.transform
        return transform(q.reshape(shape + self._site.shape))

    def whiten(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Turn values into standard normal numbers and unconstrained values.

        Args:
            value: `(..., *constrained_shape)`.

        Returns:
            Numbers, `(..., size)`, and values, `(..., *shape)`.
        """
        transform: Any = self._site.transform
        free = transform.inv(value).to(self._mean.dtype)
        lead = free.shape[: free.dim() - len(self._site.shape)]
        q = free.reshape(lead + self._part.loc.shape)
        return (q - self._mean) @ self._part.inverse.mT, free

    def log_prob(self, value: Tensor) -> Tensor:
        """Density of values given the sites before, `batch_shape`."""
        noise, free = self.whiten(value)
        logs = self._part.log_inverse - 0.5 * noise.square()
        logs = logs - 0.5 * math.log(2 * math.pi)
        rest = len(self._site.shape) - self._own
        logs = logs.reshape(noise.shape[:-1] + self._site.shape)
        total: Any = sum_rightmost(logs, rest)
        transform: Any = self._site.transform
        if transform is not identity_transform:
            jacobian = transform.log_abs_det_jacobian(free, value)
            own = value.dim() - len(self.event_shape)
            total = total - sum_rightmost(jacobian, jacobian.dim() - own)
        shape = torch.broadcast_shapes(total.shape, self.batch_shape)
        return total.expand(shape)


class _Replace(Messenger):
    """Replaces the distributions of the sites in one run of a model."""

    def __init__(self, prior: GaussianPrior) -> None:
        super().__init__()
        self.prior = prior
        self.seen: dict[str, Tensor] = {}
        self.used: dict[str, SitePrior] = {}

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> Any:
        result = super().__exit__(exc_type, exc_value, traceback)
        missing = [name for name in self.prior.layout.sites if name not in self.seen]
        if exc_type is None and missing:
            raise LayoutMismatchError(
                "the model does not have a site of its prior",
                where=f"site {missing[0]!r}",
                found=f"sites {sorted(self.seen)}",
                expected=f"all of {list(self.prior.layout.sites)}",
                todo="Leave it out of the prior: posterior.marginal(sites).as_prior().",
            )
        return result

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.prior.layout.sites:
            return
        fn, site = msg["fn"], self.prior.layout.sites[name]
        self.prior.check_site(name, fn)
        own = len(site.constrained_shape) - fn.event_dim
        part = self.prior.part((*self.seen, name))
        mean, lead = part.loc, torch.Size()
        if self.seen:
            # leading axes count from the right, past those that this site has itself
            widest = torch.broadcast_shapes(*(x.shape[:-1] for x in self.seen.values()))
            while widest[:1] == (1,):  # plates of the sites alone
                widest = widest[1:]
            noise = [
                x.reshape(x.shape[max(x.dim() - 1 - len(widest), 0) :]).expand(
                    widest + x.shape[-1:]
                )
                for x in self.seen.values()
            ]
            lead = widest[: max(len(widest) - own, 0)]
            earlier = torch.cat(noise, -1).reshape((*lead, -1))
            mean = mean + earlier @ part.below.mT
        new = SitePrior(part, mean, site, fn.support, fn.event_dim, lead)
        self.used[name] = new
        msg["fn"] = new

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.used and name not in self.seen:
            noise, _ = self.used[name].whiten(msg["value"])
            site = self.prior.layout.sites[name]
            own = len(site.constrained_shape) - len(self.used[name].event_shape)
            lead = noise.shape[:-1]
            self.seen[name] = noise.reshape(lead + (1,) * own + noise.shape[-1:])
