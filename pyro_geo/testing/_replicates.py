"""Many data sets of one model at once: each chain has its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from pyro import poutine
from pyro.distributions import Unit
from torch import Tensor

from pyro_geo._compat.torch import pytree
from pyro_geo.checks import check, check_shape
from pyro_geo.density import Target, Terms
from pyro_geo.density.batched import Compile
from pyro_geo.density.model import ModelDensity, evaluation_mode
from pyro_geo.density.protocol import Data, cast
from pyro_geo.density.sites import without_deterministics
from pyro_geo.density.structure import random_sites
from pyro_geo.errors import (
    UnsupportedModelError,
)
from pyro_geo.ops.random import private_randomness

__all__ = ["ReplicateTarget", "Simulator", "log_likelihood"]

Values = dict[str, Tensor]

_CHUNK = 50  # draws of all replicates at once, for memory


class ReplicateTarget(Target):
    """A posterior whose chains are replicates, each given its own data.

    Chain `i` has row `i` of the data, so positions must have as many rows as there are
    replicates. A kernel needs no change, because chains do not depend on each other.

    Args:
        density: of one position and one data set; data come last among its tensors.
        data: tensors; the last of them have a leading axis of replicates.
        names: of the observed sites those belong to.
        dtype: floating type.
        compile: see :class:`~pyro_geo.density.Target`.
    """

    def __init__(
        self,
        density: ModelDensity,
        data: Data,
        names: Sequence[str],
        *,
        dtype: torch.dtype | None = None,
        compile: Compile = "auto",
    ) -> None:
        self.names = tuple(names)
        self.shared = len(data) - len(names)
        super().__init__(density, data, dtype=dtype, compile=compile)

    @property
    def num_replicates(self) -> int:
        """How many data sets there are."""
        return len(self.data[-1])

    @property
    def default_strategy(self) -> Any:
        """Starts that do not depend on the data."""
        return "uniform"

    @property
    def observed(self) -> Values:
        """Nothing: no observed value is common to the chains."""
        return {}

    def rows(self, indices: Sequence[int]) -> Self:
        """Return the target of some of the replicates."""
        own = tuple(x[list(indices)] for x in self.data[self.shared :])
        return self.bind(self.data[: self.shared] + own)

    def with_observed(self, observed: Mapping[str, Tensor]) -> Self:
        """Return the same target on other data, site to `(replicates, *shape)`."""
        own = cast([observed[name] for name in self.names], self.dtype)
        return self.bind(self.data[: self.shared] + own)

    def terms(self, q: Tensor) -> Terms:
        """Log-prior and log-likelihood of each chain at its own data, `(chains,)`."""
        terms = self.density.terms
        return Terms(*self._each(lambda one, data: tuple(terms(one, data)), q))

    def pointwise_log_likelihood(self, q: Tensor) -> Values:
        """Log-likelihood of each datum, site to `(chains, *site.shape)`."""
        return self._each(self.density.pointwise, q)

    def deterministics(self, q: Tensor) -> Values:
        """Values of the model's deterministic sites, site to `(chains, *shape)`."""
        density: Any = self.density
        return self._each(density.deterministics, q)

    def _each(self, fn: Callable[[Tensor, Data], Any], q: Tensor) -> Any:
        """Map over the chains and their data together."""
        self._check(q)
        check_shape(
            "q", q.shape, f"{self.num_replicates} rows", len(q) == self.num_replicates
        )
        common, own = self.data[: self.shared], self.data[self.shared :]
        return self.map(lambda one, *rest: fn(one, (*common, *rest)), q, *own)

    def _try_mapping(self) -> None:
        """Try with two replicates what all of them will do."""
        pair = self.rows([0, -1])
        super(ReplicateTarget, pair)._try_mapping()
        self._highest = pair._highest


def log_likelihood(target: ReplicateTarget, q: Tensor) -> Tensor:
    """Log-likelihood of many draws of every replicate, in one call where possible.

    Args:
        target: the posteriors.
        q: positions, `(replicates, draws, dim)`.

    Returns:
        `(replicates, draws)`.
    """
    with torch.no_grad():
        if target.ceiling == "sequential":
            return torch.stack([target.log_likelihood(x) for x in q.unbind(1)], 1)
        over_draws = torch.func.vmap(
            target.log_likelihood, in_dims=1, out_dims=1, chunk_size=_CHUNK
        )
        return over_draws(q)


class Simulator:
    """Draws from a model's joint distribution, and the posteriors that go with them.

    Args:
        model: a Pyro model.
        args: its arguments. What they observe is simulated all the same.
        observed: names of the sites that are data; those the arguments observe if None.
        dtype: floating type, torch's default if None.

    Raises:
        ConfigurationError: no site is data, or a name is none of the model's.
        UnsupportedModelError: a factor or a scaled site, which cannot be simulated.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: Sequence[Any] = (),
        *,
        observed: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.dtype = dtype or torch.get_default_dtype()
        self.args = tuple(
            pytree.tree_map(
                lambda x: cast([x], self.dtype)[0] if isinstance(x, Tensor) else x,
                tuple(args),
            )
        )
        self.observed = self._data_sites(observed)

    def joint(self, count: int, seed: int) -> tuple[Values, Values]:
        """Draw parameters from the prior, and data given them.

        Args:
            count: how many of both.
            seed: of the draws; global random states stay as they were.

        Returns:
            Latent and observed values, site to `(count, *shape)`.
        """
        values = self._run([{}] * count, seed)
        latents = {n: x for n, x in values.items() if n not in self.observed}
        return latents, {n: values[n] for n in self.observed}

    def data(self, latents: Values, seed: int) -> Values:
        """Draw data given parameters, one set for each row.

        Args:
            latents: site to `(count, *shape)`.
            seed: of the draws.

        Returns:
            Observed values, site to `(count, *shape)`.
        """
        count = len(next(iter(latents.values())))
        rows = [{name: x[i] for name, x in latents.items()} for i in range(count)]
        values = self._run(rows, seed)
        return {name: values[name] for name in self.observed}

    def target(self, observed: Values, compile: Compile = "auto") -> ReplicateTarget:
        """Make the posteriors of some data sets, a chain for each.

        Args:
            observed: site to `(replicates, *shape)`.
            compile: see :class:`~pyro_geo.density.Target`.

        Returns:
            Their common target.
        """
        one = {name: x[0] for name, x in observed.items()}
        density = ModelDensity(
            _Conditioned(self.model), (*self.args, one), {}, self.dtype
        )
        return ReplicateTarget(
            density,
            cast(density.rebind(*self.args, observed), self.dtype),
            list(observed),
            dtype=self.dtype,
            compile=compile,
        )

    def _run(self, rows: Sequence[Values], seed: int) -> Values:
        """Run the model once per row, its latent sites set where the row has them."""
        runs = []
        model = poutine.uncondition(self.model)
        with torch.no_grad(), private_randomness(seed), evaluation_mode(self.dtype):
            for row in rows:
                conditioned = poutine.condition(model, data=row) if row else model
                trace = poutine.trace(conditioned).get_trace(*self.args)
                runs.append({n: s["value"] for n, s in _sites(trace).items()})
        return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}

    def _data_sites(self, named: Sequence[str] | None) -> tuple[str, ...]:
        with torch.no_grad(), private_randomness(0), evaluation_mode(self.dtype):
            sites = _sites(poutine.trace(self.model).get_trace(*self.args))
        for name, site in sites.items():
            factor = isinstance(site["fn"], Unit)
            if factor or not _is_one(site["scale"]):
                raise UnsupportedModelError(
                    "the model cannot be simulated",
                    f"site {name!r}",
                    "a factor" if factor else "a scaled log-probability",
                    "sites whose draws have the density they count with",
                    "Write the density as a sample statement.",
                )
        observed = [name for name, site in sites.items() if site["is_observed"]]
        names = tuple(observed if named is None else named)
        good = bool(names) and set(names) < set(sites)
        check(good, "observed", list(names), f"some, but not all, of {sorted(sites)}")
        return names


class _Conditioned:
    """A model whose last argument holds its observed values; it pickles."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model

    def __call__(self, *args: Any) -> Any:
        *rest, observed = args
        return poutine.condition(self.model, data=observed)(*rest)


def _sites(trace: poutine.Trace) -> dict[str, Any]:
    """Sample statements that are neither deterministic nor subsampled plates."""
    return dict(without_deterministics(random_sites(trace)))


def _is_one(scale: float | Tensor) -> bool:
    return bool((torch.as_tensor(scale) == 1).all())
