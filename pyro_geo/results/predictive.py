"""A model run at many draws with its data left out: prior and replicated data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_geo._compat.pyro import Subsample
from pyro_geo._compat.torch import (
    dirichlet_of_beta,
    draw_dirichlet,
    is_batchedtensor,
    pytree,
)
from pyro_geo.density import Target
from pyro_geo.density.ladder import fallback_note
from pyro_geo.density.model import ModelDensity, evaluation_mode
from pyro_geo.density.structure import base_distribution, is_deterministic, random_sites
from pyro_geo.errors import (
    FallbackWarning,
    PyroGeoError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.ops.chunks import Sites, map_chunks, rows_that_fit
from pyro_geo.ops.random import private_randomness, substream
from pyro_geo.results.lane_randomness import LaneRandomness

__all__ = ["PredictiveModel", "Replicator"]


# -- handlers -----------------------------------------------------------------------


class _Unobserve(Messenger):
    """Take the data away, so that observed sites are drawn."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] or _is_computed(msg):
            return
        shape = torch.as_tensor(msg["value"]).shape
        batch = shape[: max(0, len(shape) - len(msg["fn"].event_shape))]
        wanted = torch.broadcast_shapes(batch, msg["fn"].batch_shape)
        if wanted != msg["fn"].batch_shape:  # one distribution for many data
            msg["fn"] = msg["fn"].expand(wanted)
        msg["is_observed"], msg["value"], msg["done"] = False, None, False


class _Draw(Messenger):
    """Draw the sites without a value, by samplers that can be mapped where possible."""

    def __init__(self, values: Sites) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            _check_shape(msg)
        if msg["value"] is not None or isinstance(msg["fn"], Subsample):
            return
        try:
            msg["value"] = _sample(msg["fn"])
        except NotImplementedError as reason:
            raise UnsupportedError(
                "a site cannot be drawn",
                where=f"site {msg['name']!r}",
                found=f"{type(msg['fn']).__name__}: {reason}",
                expected="a distribution that can be sampled",
                todo="Give it a proper distribution, or do without these draws.",
            ) from reason
        msg["done"] = True


def _sample(fn: Any) -> Tensor:
    fn = base_distribution(fn)
    # their own samplers keep a derivative that vmap has no rule for
    if isinstance(fn, torch.distributions.Dirichlet):
        return draw_dirichlet(fn.concentration)
    if isinstance(fn, torch.distributions.Beta):
        return draw_dirichlet(dirichlet_of_beta(fn).concentration)[..., 0]
    return fn.sample()


def _is_computed(site: Mapping[str, Any]) -> bool:
    """Say whether a site is computed, not drawn: deterministic ones and factors."""
    return is_deterministic(site) or isinstance(site["fn"], dist.Unit)


def _check_shape(site: Mapping[str, Any]) -> None:
    """Refuse arguments under which a fitted site has another shape."""
    fn, value = site["fn"], site["value"]
    if (shape := fn.batch_shape + fn.event_shape) != value.shape:
        raise ShapeError(
            "a latent site belongs to the data it was fitted to",
            where=f"site {site['name']!r}",
            found=f"shape {tuple(shape)} under the new arguments",
            expected=f"shape {tuple(value.shape)}",
            todo="Pass arguments that leave the latent sites as they were.",
        )


def _check_lanes(sites: Mapping[str, Any]) -> None:
    """Refuse randomness outside vmap, which would be the same in every lane."""
    for name, site in sites.items():
        base = base_distribution(site["fn"])
        drawn = not (site["is_observed"] or isinstance(base, dist.Delta))
        if drawn and not is_batchedtensor(site["value"]):
            raise RuntimeError(f"site {name!r} draws the same value for every lane")


# -- the model with its data left out -------------------------------------------------


class PredictiveModel(NamedTuple):
    """A model to predict with that is not the one of the density.

    Attributes:
        model: a Pyro model with the same latent sites.
        args: its arguments in the run.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]


class Replicator:
    """Draws from a target's model with its data taken away.

    The global random states stay as they were; draws depend on the seed alone.

    Args:
        target: density of a Pyro model.
        seed: any integer; its lowest 64 bits count.
        predictive: what :meth:`posterior` runs; the target's own model if None.

    Raises:
        UnsupportedError: the target was not made from a Pyro model.
    """

    def __init__(
        self, target: Target, seed: int, predictive: PredictiveModel | None = None
    ) -> None:
        if not isinstance(target.density, ModelDensity):
            raise UnsupportedError(
                "there is no model to draw from",
                where="prior and predictive draws",
                found=type(target.density).__name__,
                expected="a target made from a Pyro model",
                todo="Sample a model, or do without these draws.",
            )
        self.target = target
        self.density: ModelDensity = target.density
        self.seed = seed
        self.predictive = predictive
        self.notes: list[str] = []

    def prior(self, num_draws: int) -> tuple[Sites, Sites]:
        """Draw all sites from the prior.

        Args:
            num_draws: how many times.

        Returns:
            Latent and deterministic sites, and observed sites, `(draws, *shape)` each.
        """
        target, model = self.target, self.density.model
        arguments = self.density.arguments(target.data)
        sites = self._many(model, {}, num_draws, arguments, 0)
        q = torch.zeros(1, target.dim, dtype=target.dtype, device=target.device)
        unseen = [*target.layout.sites, *target.deterministics(q)]
        return (
            {name: sites[name] for name in unseen},
            {name: sites[name] for name in target.observed},
        )

    def posterior(
        self, q: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Sites:
        """Draw all sites of the model but its latent ones, at each draw.

        Args:
            q: draws, `(draws, dim)`.
            args: arguments of the model; none for those of the target.
            kwargs: keyword arguments likewise.

        Returns:
            Observed, deterministic and summed-out sites, `(draws, *shape)` each. A
            latent site that has another shape under the new arguments raises
            :class:`~pyro_geo.errors.ShapeError`.
        """
        arguments = self._cast((args, kwargs))
        model = self.density.model
        if self.predictive is not None:
            model = self.predictive.model
        if not args and not kwargs:
            arguments = self.density.arguments(self.target.data)
            if self.predictive is not None:
                arguments = (self.predictive.args, {})
        return self._many(model, self.target.constrain(q), len(q), arguments, 1)

    def _cast(self, arguments: Any) -> Any:
        def leaf(x: Any) -> Any:
            floating = isinstance(x, Tensor) and x.is_floating_point()
            return x.detach().to(self.density.dtype) if floating else x

        return pytree.tree_map(leaf, arguments)

    def _many(
        self,
        model: Callable[..., Any],
        values: Sites,
        total: int,
        arguments: Any,
        purpose: int,
    ) -> Sites:
        """Run a model `total` times, in chunks, each with a seed of its own."""
        run = _Run(model, self.density.dtype, *arguments)

        def drawn(first: int, last: int, mapped: bool, stream: int) -> Sites:
            part = {name: value[first:last] for name, value in values.items()}
            with torch.no_grad(), private_randomness(self._stream(purpose, stream)):
                return (run.mapped if mapped else run.one_by_one)(part, last - first)

        with torch.no_grad(), private_randomness(self._stream(purpose, 0)):
            start = {name: value[0] for name, value in values.items()}
            size = rows_that_fit(lambda: run(start))
        mapped = total > 1 and self._maps(lambda: drawn(0, 2, True, 0), run)

        def chunk(index: Tensor) -> Sites:
            first = int(index[0])
            return drawn(first, first + len(index), mapped, 1 + first // size)

        return map_chunks(chunk, torch.arange(total), size)

    def _maps(self, probe: Callable[[], Sites], run: _Run) -> bool:
        """Try two draws at once; warn where draws have to be made one at a time."""
        if self.target.ceiling == "sequential":
            return False  # the target has warned of it
        try:
            drawn = probe()
            if not any(bool(drawn[name].isnan().any()) for name in run.drawn):
                return True
            raise RuntimeError("NaN among the values drawn")
        except Exception as reason:  # a model may raise anything under vmap
            note = fallback_note(
                "the model cannot be run at many draws at once",
                reason,
                expected="samplers that work under torch.func.vmap",
                to="draws are made one at a time",
            )
            self.notes.append(note)
            warnings.warn(note, FallbackWarning, stacklevel=6)
            return False

    def _stream(self, purpose: int, index: int) -> int:
        """Seed of one chunk."""
        return substream(self.seed, purpose, index)


class _Run:
    """A model at fixed arguments, to be run with some of its sites set."""

    def __init__(
        self,
        model: Callable[..., Any],
        dtype: torch.dtype,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.model, self.dtype = model, dtype
        self.args, self.kwargs = args, kwargs
        self.drawn: list[str] = []  # sites that the last run has drawn and returned

    def __call__(self, values: Sites, *, lanes: bool = False) -> Sites:
        model = poutine.condition(_Unobserve()(self.model), data=values)
        tracer = poutine.trace(_Draw(values)(model))
        with (
            evaluation_mode(self.dtype),
            LaneRandomness() if lanes else nullcontext(),
        ):
            try:
                trace = tracer.get_trace(*self.args, **self.kwargs)
            except PyroGeoError as error:  # Pyro appended the trace so far
                raise type(error)(str(error).splitlines()[0]) from error
        sites = random_sites(trace)
        if lanes:
            _check_lanes(sites)
        self.drawn = [name for name, site in sites.items() if not site["is_observed"]]
        return {
            name: site["value"]
            for name, site in sites.items()
            if name not in values and not isinstance(site["fn"], dist.Unit)
        }

    def mapped(self, values: Sites, count: int) -> Sites:
        """Run at `count` draws at once."""
        return torch.func.vmap(
            lambda _, values: self(values, lanes=True), randomness="different"
        )(torch.arange(count), values)

    def one_by_one(self, values: Sites, count: int) -> Sites:
        """Run at `count` draws one after another."""
        rows = [self({n: v[i] for n, v in values.items()}) for i in range(count)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
