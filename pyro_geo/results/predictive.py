"""A model run at many draws with its data left out: prior and replicated data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.density import Target
from pyro_geo.density.functions import same_function
from pyro_geo.density.ladder import fallback_note
from pyro_geo.density.model import ModelDensity, evaluation_mode
from pyro_geo.density.structure import random_sites
from pyro_geo.errors import (
    FallbackWarning,
    PyroGeoError,
    UnsupportedError,
)
from pyro_geo.ops.chunks import Sites, map_chunks, rows_that_fit
from pyro_geo.ops.random import private_randomness, substream
from pyro_geo.results._handlers import Draw, Keep, Unobserve, check_lanes
from pyro_geo.results.lane_randomness import LaneRandomness

__all__ = ["PredictiveModel", "Replicator"]

_DISCRETE = 2  # stream of the seed; 0 and 1 are those of prior and posterior draws


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
        self._beside_data: list[str] = []  # discrete sites in a plate with data

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
        """Draw all sites of the model but its continuous latents, at each draw.

        Discrete latents are drawn from their posterior given the draw and the data of
        the run. Under other arguments a discrete site of the same shape keeps these
        values, and one of another shape is drawn as the model says.

        Args:
            q: draws, `(draws, dim)`.
            args: arguments of the model; none for those of the target.
            kwargs: keyword arguments likewise.

        Returns:
            Observed, deterministic and summed-out sites, `(draws, *shape)` each. A
            latent site that has another shape under the new arguments raises
            :class:`~pyro_geo.errors.ShapeError`.

        Warns:
            FallbackWarning: other arguments have as many rows as the data of the run,
                whose discrete values they get.
        """
        arguments = self._cast((args, kwargs))
        model = self.density.model
        if self.predictive is not None:
            model = self.predictive.model
        if not args and not kwargs:
            arguments = self.density.arguments(self.target.data)
            if self.predictive is not None:
                arguments = (self.predictive.args, {})
        values, discrete = self.target.constrain(q), self._discrete(q)
        drawn = self._many(model, values, len(q), arguments, 1, discrete)
        if discrete and self._belong_to_others(arguments):
            self._warn_of_rows()
        return drawn

    def _discrete(self, q: Tensor) -> Sites:
        """Draw the summed-out sites from their posterior at each draw."""
        target = self.target
        if not self.density.enumerated:
            return {}
        generator = torch.Generator().manual_seed(substream(self.seed, _DISCRETE))
        shape = (len(q), target.num_discrete)
        noise = torch.rand(shape, dtype=target.dtype, generator=generator)

        def chunk(rows: Tensor) -> Sites:
            return target.sample_discrete(q[rows], noise[rows])

        return map_chunks(chunk, torch.arange(len(q)))

    def _belong_to_others(self, arguments: Any) -> bool:
        """Whether arguments are other data than those of the run; None is left out."""
        args, kwargs = self.density.arguments(self.target.data)
        known = [*args, *kwargs.values()]
        return any(
            not any(same_function(old, new) for old in known)
            for new in (*arguments[0], *arguments[1].values())
            if new is not None
        )

    def _warn_of_rows(self) -> None:
        """Say which discrete sites keep the values of the run's rows."""
        if not self._beside_data:
            return
        warning = FallbackWarning(
            "discrete sites keep their values in the data of the run",
            where=f"posterior_predictive, site {self._beside_data[0]!r}",
            found="other arguments with as many rows",
            expected="another number of rows, if they are not those of the run",
            todo="Pass the new rows in two calls to draw their discrete sites afresh.",
        )
        self.notes.append(str(warning))
        warnings.warn(warning, stacklevel=4)

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
        discrete: Sites | None = None,
    ) -> Sites:
        """Run a model `total` times, in chunks, each with a seed of its own."""
        discrete = discrete or {}
        run = _Run(model, self.density.dtype, frozenset(discrete), *arguments)
        values = {**values, **discrete}

        def drawn(first: int, last: int, mapped: bool, stream: int) -> Sites:
            part = {name: value[first:last] for name, value in values.items()}
            with torch.no_grad(), private_randomness(self._stream(purpose, stream)):
                return (run.mapped if mapped else run.one_by_one)(part, last - first)

        with torch.no_grad(), private_randomness(self._stream(purpose, 0)):
            start = {name: value[0] for name, value in values.items()}
            size = rows_that_fit(lambda: run(start))
        self._beside_data = run.beside(self.target.observed)
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
        discrete: frozenset[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.model, self.dtype, self.discrete = model, dtype, discrete
        self.args, self.kwargs = args, kwargs
        self.drawn: list[str] = []  # sites that the last run has drawn and returned
        self.kept: list[str] = []  # discrete sites that had their values given
        self.plates: dict[str, frozenset[str]] = {}  # of each site

    def __call__(self, values: Sites, *, lanes: bool = False) -> Sites:
        keep = Keep({n: v for n, v in values.items() if n in self.discrete})
        values = {n: v for n, v in values.items() if n not in self.discrete}
        model = poutine.condition(Unobserve()(self.model), data=values)
        tracer = poutine.trace(Draw(values)(keep(model)))
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
            check_lanes(sites)
        self.drawn = [name for name, site in sites.items() if not site["is_observed"]]
        self.kept = keep.kept
        self.plates = {
            name: frozenset(f.name for f in site["cond_indep_stack"] if f.vectorized)
            for name, site in sites.items()
        }
        return {
            name: site["value"]
            for name, site in sites.items()
            if name not in values and not isinstance(site["fn"], dist.Unit)
        }

    def beside(self, data: Iterable[str]) -> list[str]:
        """Discrete sites with given values that share a plate with data."""
        rows = frozenset().union(*(self.plates.get(name, ()) for name in data))
        return [name for name in self.kept if self.plates[name] & rows]

    def mapped(self, values: Sites, count: int) -> Sites:
        """Run at `count` draws at once."""
        return torch.func.vmap(
            lambda _, values: self(values, lanes=True), randomness="different"
        )(torch.arange(count), values)

    def one_by_one(self, values: Sites, count: int) -> Sites:
        """Run at `count` draws one after another."""
        rows = [self({n: v[i] for n, v in values.items()}) for i in range(count)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
