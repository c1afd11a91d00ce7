"""A Pyro model and its data as a log-density of one flat position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_geo._compat.pyro import is_marked_deterministic
from pyro_geo.density._arguments import Arguments
from pyro_geo.density._enumeration import Enumerate, Joint
from pyro_geo.density._modes import DensityMode, default_dtype
from pyro_geo.density._observed import bad_parameter, check_observed
from pyro_geo.density._patches import mappable_pyro
from pyro_geo.density._steps import datum_log_prob, step_axes
from pyro_geo.density.dtypes import as_type
from pyro_geo.density.layout import Layout
from pyro_geo.density.protocol import Data, Observation, Terms, cast
from pyro_geo.density.sites import (
    SiteStart,
    equal,
    log_prob_of,
    unvalidated,
    without_deterministics,
)
from pyro_geo.density.structure import (
    batch_dims,
    check_same_layout,
    check_same_values,
    dims_of,
    enumerable_sites,
    first_line,
    is_deterministic,
    layout_of,
    random_sites,
)
from pyro_geo.errors import (
    ModelError,
    PyroGeoError,
    UnsupportedError,
    UnsupportedModelError,
)
from pyro_geo.ops.random import private_randomness

__all__ = ["ModelDensity"]


@contextmanager
def evaluation_mode(dtype: torch.dtype, q: Tensor | None = None) -> Iterator[None]:
    """Run a model without validation and in `dtype`, so that chains fail alone.

    Args:
        dtype: floating type of the run.
        q: see :class:`~pyro_geo.density._modes.DensityMode`.
    """
    with (
        default_dtype(dtype),
        pyro.validation_enabled(False),
        mappable_pyro(),
        DensityMode(q),
    ):
        yield


class ModelDensity:
    """Density of a Pyro model's latent sites, given by name, at fixed arguments.

    Discrete latents with finitely many values are summed out: together with the data
    they make the likelihood.
    """

    own_memory = False

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        dtype: torch.dtype,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self._arguments = Arguments(args, kwargs)
        # Pyro looks at values where its validation is on; we do so once
        self._supports = is_validation_enabled()
        data = cast(self._arguments.tensors(args, kwargs), dtype)
        # two traces from different seeds show what depends on the values of latents
        first, second = self.prior_trace(data, 0), self.prior_trace(data, 1)
        check_observed(random_sites(first), supports=self._supports)
        self.layout: Layout = layout_of(first)
        self.enumerated = enumerable_sites(first)
        check_same_layout(self.layout, layout_of(second))
        check_same_values(self.enumerated, enumerable_sites(second))
        self.latents = frozenset(self.layout.sites)
        sites = random_sites(first)
        self.has_data = any(x["is_observed"] for _, x in without_deterministics(sites))
        frames = [
            frame
            for site in sites.values()
            for frame in site["cond_indep_stack"]
            if frame.vectorized
        ]
        self.coords = {frame.name: range(frame.size) for frame in frames}
        steps = step_axes(sites, {frame.name: frame.size for frame in frames})
        self.dims = {n: dims_of(n, site, steps.get(n)) for n, site in sites.items()}
        # plates take axes from the right; enumeration gets those left of all plates
        self._first_free_dim = min((frame.dim for frame in frames), default=0) - 1
        # under enumeration a deterministic site with another shape has several values
        self._fixed_shapes = {
            name: site["value"].shape
            for name, site in sites.items()
            if is_deterministic(site)
        }
        # latents as the user wrote them, which a reparametrisation computes from others
        names = self._fixed_shapes
        self.reparametrised = tuple(
            name for name in names if not is_marked_deterministic(sites[name])
        )
        self._check_deterministic(data)

    def prior_trace(
        self,
        data: Data,
        seed: int,
        init_fn: Callable[..., Any] | None = None,
    ) -> poutine.Trace:
        """Trace the model once, drawing from its priors or with `init_fn`."""
        args, kwargs = self.arguments(data)
        # This handler is the innermost one: it gives improper sites a value before a
        # strategy tries to sample them.
        model = SiteStart(seed)(self.model)
        if init_fn is not None:
            model = InitMessenger(init_fn)(model)
        with torch.no_grad(), private_randomness(seed), evaluation_mode(self.dtype):
            return poutine.trace(model).get_trace(*args, **kwargs)

    def rebind(self, *args: Any, **kwargs: Any) -> Data:
        """Take the tensors out of new arguments; the others must be the old ones."""
        return self._arguments.tensors(args, kwargs)

    def check_data(self, data: Data) -> None:
        """Refuse new data that change the sites, their shapes or their supports."""
        trace, when = self.prior_trace(data, 0), "with the data"
        check_observed(random_sites(trace), supports=self._supports)
        check_same_layout(self.layout, layout_of(trace), when)
        check_same_values(self.enumerated, enumerable_sites(trace), when)

    def terms(self, q: Tensor, data: Data) -> Terms:
        """Log-prior (with log-Jacobians) and log-likelihood of `q`, `(dim,)`."""
        with self._mode(q):
            values, log_prior = self.layout.constrain_with_jacobian(q)
            if self.enumerated:
                log_prior, log_likelihood = self._joint(values, data).terms(log_prior)
            else:
                log_likelihood = q.new_zeros(())
                for name, log_prob in self._site_log_probs(values, data).items():
                    if name in self.latents:
                        log_prior = log_prior + log_prob
                    else:
                        log_likelihood = log_likelihood + log_prob
        return Terms(log_prior.to(self.dtype), log_likelihood.to(self.dtype))

    def site_log_probs(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Log-probability of each site at `q`, scaled and masked, no Jacobians.

        Sites that follow a discrete one have that of its likeliest value.

        Returns:
            Name to a scalar.
        """
        with self._mode(q):
            values = self.layout.constrain(q)
            if self.enumerated:
                return self._joint(values, data).site_log_probs()
            return self._site_log_probs(values, data)

    def bad_parameter(self, name: str, q: Tensor, data: Data) -> str:
        """Name a parameter of a site that is out of its range at `q`, if one is."""
        with self._mode(q):
            sites = self._conditioned(self.layout.constrain(q), data)[1]
        return bad_parameter(sites[name]["fn"])

    def pointwise(
        self, q: Tensor, data: Data, *, steps: bool = False
    ) -> dict[str, Tensor]:
        """Log-likelihood of each datum, or of data that share a discrete latent.

        Args:
            q: position, `(dim,)`.
            data: tensors of the arguments.
            steps: whether the steps of a sequence are data of their own.

        Returns:
            Observed site, or sites joined by plus signs, to values; masked data count
            zero.
        """
        with self._mode(q):
            values = self.layout.constrain(q)
            if self.enumerated:
                pointwise = self._joint(values, data, scaled=False).pointwise(steps)
            else:
                pointwise = {
                    name: datum_log_prob(name, site, steps)
                    for name, site in self._observed_sites(values, data)
                }
        return {name: value.to(self.dtype) for name, value in pointwise.items()}

    def pointwise_dims(self, q: Tensor, data: Data) -> dict[str, tuple[str, ...]]:
        """Names of the axes of :meth:`pointwise`: plates, or else ArviZ's own."""
        with self._mode(q):
            values = self.layout.constrain(q)
            if self.enumerated:
                units = self._joint(values, data, scaled=False).units()
                return {name: unit.dims for name, unit in units.items()}
            return {
                name: batch_dims(
                    name, log_prob_of(name, site).shape, site["cond_indep_stack"]
                )
                for name, site in self._observed_sites(values, data)
            }

    def sample_discrete(
        self, q: Tensor, data: Data, uniforms: Tensor | None
    ) -> dict[str, Tensor]:
        """Values of all discrete latents together, given `q` and the data.

        Args:
            q: a position, `(dim,)`.
            data: the tensors of the arguments.
            uniforms: on (0, 1), `(num_discrete,)`; None for the likeliest values.

        Returns:
            Site to value.
        """
        if not self.enumerated:
            return {}
        with self._mode(q):
            values = self.layout.constrain(q)
            return self._joint(values, data, scaled=False).draw(uniforms)

    def observations(self, q: Tensor, data: Data) -> dict[str, Observation]:
        """Distribution, value, scale and mask of every observed site at `q`."""
        if self.enumerated:
            raise UnsupportedError(
                "observed sites have no one distribution where discrete latents "
                "are summed out",
                where=f"site {next(iter(self.enumerated))!r}",
                found="one distribution for each of its values",
                expected="a model with continuous latents only",
                todo="Use a method that asks for the log-likelihood alone, or "
                "write the sum as a mixture distribution.",
            )
        with self._mode(q):
            return {
                name: Observation(
                    *(site[key] for key in ("fn", "value", "scale", "mask"))
                )
                for name, site in self._observed_sites(self.layout.constrain(q), data)
            }

    def observed_values(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Values of the observed sites; empty ones belong to factors."""
        with self._mode(q):
            sites = self._observed_sites(self.layout.constrain(q), data)
            return {name: site["value"] for name, site in sites}

    def deterministics(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Values of the `pyro.deterministic` sites at `q`.

        Those that depend on a discrete latent have several values at `q` and are left
        out.

        Returns:
            Name to value.
        """
        with self._mode(q):
            sites = self._conditioned(self.layout.constrain(q), data)[1]
        return {
            name: as_type(sites[name]["value"], self.dtype)
            for name, shape in self._fixed_shapes.items()
            if name in sites and sites[name]["value"].shape == shape
        }

    def _mode(self, q: Tensor) -> AbstractContextManager[None]:
        return evaluation_mode(self.dtype, q if self.own_memory else None)

    def _conditioned(
        self, values: Mapping[str, Tensor], data: Data
    ) -> tuple[poutine.Trace, dict[str, Any]]:
        """Run the model with its latents at constrained values.

        Discrete latents have all their values at once.

        Returns:
            The trace and its random sites.

        Raises:
            ModelError: a latent site is missing or new.
        """
        args, kwargs = self.arguments(data)
        model: Any = self.model
        if self.enumerated:
            model = Enumerate(self._first_free_dim)(model)
        # condition marks the latents as observed: the layout tells them from data
        model = poutine.condition(model, data=dict(values))
        trace = poutine.trace(model).get_trace(*args, **kwargs)
        sites = random_sites(trace)
        known = self.latents | set(self.enumerated)
        # a sample statement that nothing conditions would draw random numbers
        stray = [
            name
            for name, site in sites.items()
            if name not in known and not site["is_observed"]
        ]
        if stray or not known <= set(sites):
            name = (stray or sorted(known - set(sites)))[0]
            raise ModelError(
                "the model's latent sites changed between runs",
                where=f"site {name!r}",
                found="a site whose presence depends on the values of others",
                expected=f"always {sorted(known)}",
                todo="Write the choice with torch.where or a mask instead of if.",
            )
        for site in sites.values():
            site["fn"] = unvalidated(site["fn"])
            site["value"] = as_type(site["value"], self.dtype)
        return trace, sites

    def _joint(
        self, values: Mapping[str, Tensor], data: Data, scaled: bool = True
    ) -> Joint:
        trace, sites = self._conditioned(values, data)
        return Joint(trace, without_deterministics(sites), self.latents, scaled=scaled)

    def arguments(self, data: Data) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the model's arguments with these tensors in their places."""
        return self._arguments.at(data)

    def _site_log_probs(
        self, values: Mapping[str, Tensor], data: Data
    ) -> dict[str, Tensor]:
        return {
            name: scale_and_mask(
                log_prob_of(name, site), site["scale"], site["mask"]
            ).sum()
            for name, site in without_deterministics(self._conditioned(values, data)[1])
        }

    def _observed_sites(
        self, values: Mapping[str, Tensor], data: Data
    ) -> Iterator[tuple[str, Any]]:
        for name, site in without_deterministics(self._conditioned(values, data)[1]):
            if name not in self.latents and site["is_observed"]:
                yield name, site

    def _check_deterministic(self, data: Data) -> None:
        """Refuse a model that draws random numbers outside its sample statements."""
        device = data[0].device if data else None
        q = torch.full((self.layout.dim,), 0.1, dtype=self.dtype, device=device)
        # no seed is reset between the two: random operations of the model differ
        with torch.no_grad(), private_randomness(2):
            first = self._first_log_probs(q, data)
            second = self.site_log_probs(q, data)
        for name in sorted(set(first) | set(second)):
            pair = first.get(name), second.get(name)
            if not equal(*pair):
                raise UnsupportedModelError(
                    "the model draws random numbers of its own",
                    where=f"site {name!r}",
                    found="two log-probabilities at one position",
                    expected="a density that depends on the latent sites alone",
                    todo="Move the random operation into a sample statement.",
                )

    def _first_log_probs(self, q: Tensor, data: Data) -> dict[str, Tensor]:
        """Run the model as all evaluations will; explain errors of enumeration."""
        if not self.enumerated:
            return self.site_log_probs(q, data)
        try:
            self.terms(q, data)
            return self.site_log_probs(q, data)
        except PyroGeoError:
            raise
        except Exception as reason:  # a model may raise anything under enumeration
            name = next(iter(self.enumerated))
            raise UnsupportedModelError(
                "the model does not run with its discrete latents enumerated",
                where=f"site {name!r}",
                found=f"{type(reason).__name__}: {first_line(reason)}",
                expected="a model that takes all their values at once, each on "
                "an axis of its own left of all plates",
                todo="Declare plates, index with Vindex, write choices with "
                "torch.where and chains with pyro.markov; or sum out by hand.",
            ) from reason
