"""Finished draws and what can be asked of them."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    FallbackWarning,
    ModelError,
    UnsupportedError,
)
from pyro_geo.io.names import storable
from pyro_geo.ops.chunks import Sites, map_chunks
from pyro_geo.results.predictive import Replicator

if TYPE_CHECKING:
    import pandas as pd

    from pyro_geo.io.reports import Curves

__all__ = ["PosteriorDraws", "no_draws", "whole"]

Groups = dict[str, dict[str, np.ndarray]]


def no_draws(where: str) -> ModelError:
    """The error of asking for draws before there are any.

    Args:
        where: who was asked.

    Returns:
        The error.
    """
    return ModelError(
        "there are no draws",
        where=where,
        found="no finished block",
        expected="a run",
        todo="call run first",
    )


def whole(x: Tensor) -> Tensor:
    """All draws, as they are."""
    return x


def _flat(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


class PosteriorDraws:
    """Accessors of a result: samples, diagnostics, summary, ArviZ and report.

    A subclass fills `_target`, `_q` `(chains, draws, dim)` and `_stats`
    (name to `(chains, draws)`), or says where these come from.
    """

    _target: Target | None = None
    _q: Tensor | None = None
    _stats: Mapping[str, Tensor] = {}
    _notes: list[str]
    _chain_name: str = "chain"
    superchains: int | None = None
    """Number of groups of consecutive chains that started at one point, or None."""

    @property
    def target(self) -> Target:
        """Density that was sampled."""
        if self._target is None or not self._has_draws():
            raise no_draws(type(self).__name__)
        return self._target

    @property
    def positions(self) -> Tensor:
        """Draws in unconstrained space, `(chains, draws, dim)`."""
        return self._positions()

    @property
    def stats(self) -> dict[str, Tensor]:
        """Statistics of every draw, name to `(chains, draws)`."""
        return dict(self._statistics())

    @property
    def notes(self) -> list[str]:
        """What the run had to say: warnings and steps down the ladder."""
        return list(dict.fromkeys(self._notes))

    def get_samples(
        self, num_samples: int | None = None, group_by_chain: bool = False
    ) -> dict[str, Tensor]:
        """Return draws in the space the model sees.

        Args:
            num_samples: draw this many at random, with replacement, instead of all;
                uses torch's global generator, as Pyro does.
            group_by_chain: keep the chains apart.

        Returns:
            Site to `(chains * draws, *shape)`, or `(chains, draws, *shape)`. Where a
            run kept some sites only, these.
        """
        chains, draws = self._size()
        if num_samples is None:
            return self._sites(whole if group_by_chain else _flat)
        pick = torch.randint(
            draws if group_by_chain else chains * draws, (num_samples,)
        )
        if group_by_chain:
            return self._sites(lambda x: x[:, pick])
        return self._sites(lambda x: x.flatten(0, 1)[pick])

    def diagnostics(self) -> dict[str, Any]:
        """Return effective sizes, R-hat and what went wrong by chain.

        Returns:
            For each site a dictionary with `n_eff` and `r_hat` (and `nested_r_hat`
            where chains form superchains) shaped like the site. Under `"divergences"`
            the divergent draws and under `"acceptance rate"` the mean rate of each
            chain, as Pyro gives them, where the kernel has such statistics.
        """
        columns = {"n_eff": "ess_bulk", "r_hat": "r_hat"}
        table = self.summary()
        if "nested_r_hat" in table:
            columns["nested_r_hat"] = "nested_r_hat"
        result: dict[str, Any] = {}
        row = 0  # rows come site by site, each in C order
        for name, shape in self._shapes().items():
            rows = slice(row, row + shape.numel())
            result[name] = OrderedDict(
                (key, _column(table, column)[rows].reshape(shape))
                for key, column in columns.items()
            )
            row = rows.stop
        stats = self._statistics()
        if "diverging" in stats:
            result["divergences"] = {
                f"chain {i}": row.nonzero().flatten().tolist()
                for i, row in enumerate(stats["diverging"])
            }
        if "acceptance_rate" in stats:
            means = stats["acceptance_rate"].double().mean(1)
            result["acceptance rate"] = {
                f"chain {i}": mean for i, mean in enumerate(means.tolist())
            }
        return result

    def summary(self, prob: float = 0.9) -> pd.DataFrame:
        """Return ArviZ's table of means, intervals, effective sizes and R-hat.

        Args:
            prob: probability of the interval.

        Returns:
            One row per scalar. Where chains form superchains, with a column
            `nested_r_hat`: R-hat of many short chains
            (:func:`~pyro_geo.io.arviz.nested_r_hat`).
        """
        from pyro_geo.io.arviz import summary, to_arviz

        if (stored := self._opened()) is not None:
            names = [storable(name) for name in self._shapes()]
            return summary(stored, var_names=names, interval=prob)
        idata = to_arviz(
            {"posterior": _arrays(self._sites())},
            dims=self.target.dims,
            coords=self.target.coords,
            attrs=self._grouping(),
        )
        return summary(idata, interval=prob)

    def posterior_predictive(
        self, *args: Any, seed: int | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Draw new data from the model, once at each draw of its latent sites.

        Observed sites are drawn as if they were not observed, at the arguments of the
        run or at others, such as new covariates. It is what `pyro.infer.Predictive`
        does, for all draws at once where the model's samplers can be mapped, and with
        randomness of its own: torch's generators are left alone.

        Args:
            *args: arguments of the model; those of the run if there are none.
            seed: what the draws are a function of; the run's own if None.
            **kwargs: keyword arguments of the model.

        Returns:
            Observed and deterministic sites (and discrete ones that were summed out),
            site to `(chains, draws, *shape)`. Without a Pyro model it raises
            :class:`~pyro_geo.errors.UnsupportedError`; where a latent site would
            change its shape, :class:`~pyro_geo.errors.ShapeError`.

        Warns:
            FallbackWarning: a sampler cannot be mapped, so draws are made one at a
                time.

        Example:
            >>> import pyro, pyro.distributions as dist
            >>> from pyro_geo.infer import DIMS, MCMC
            >>> def model(x, y):
            ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
            ...     with pyro.plate("data", len(x)):
            ...         pyro.sample("y", dist.Normal(x @ w, 0.1), obs=y)
            >>> x, y = torch.eye(3)[:2], torch.tensor([1.0, -1.0])
            >>> fit = MCMC(DIMS(model), num_samples=8, seed=1, progress_bar=False)
            >>> fit.run(x, y).posterior_predictive()["y"].shape
            torch.Size([1, 8, 2])
            >>> fit.posterior_predictive(torch.eye(3), None)["y"].shape
            torch.Size([1, 8, 3])
        """
        replicator = Replicator(self.target, self._seed(seed))
        return self._replicate(replicator, args, kwargs)

    def to_arviz(
        self,
        log_likelihood: bool = True,
        *,
        prior: int = 0,
        posterior_predictive: bool = False,
        seed: int | None = None,
    ) -> Any:
        """Hand the draws to ArviZ.

        Args:
            log_likelihood: also the likelihood of each datum at each draw, which
                costs one evaluation of the model per draw.
            prior: also this many draws of the model's sites and data from the prior.
            posterior_predictive: also data drawn from the model at each draw
                (:meth:`posterior_predictive`).
            seed: what prior and predictive draws are a function of; the run's own if
                None.

        Returns:
            `InferenceData` with ArviZ 0.23, a `DataTree` with 1.x: posterior (with
            deterministic sites), sample_stats, log_likelihood, posterior_predictive,
            prior, prior_predictive, observed_data; axes named by plates. Prior and
            predictive draws of what is not a Pyro model, and predictive ones of a
            model without data, raise :class:`~pyro_geo.errors.UnsupportedError`. Draws
            that live in the store alone are opened there and not loaded.

        Raises:
            ConfigurationError: `prior` is not a count.
            UnsupportedError: predictive draws at draws that live in the store alone.

        Warns:
            FallbackWarning: the likelihood is left out, because draws live in the
                store alone or sites were not kept.
        """
        from pyro_geo.io.arviz import to_arviz

        if not isinstance(prior, int) or prior < 0:
            raise ConfigurationError(
                "count out of range",
                where="argument prior",
                found=repr(prior),
                expected="an integer, 0 for no draws",
                todo="Pass the number of prior draws, 1000 say.",
            )
        if (stored := self._opened()) is not None:
            if prior or posterior_predictive:
                raise UnsupportedError(
                    "the draws are too many for predictive ones",
                    where="argument memory_limit of the run",
                    found=f"draws in {self._place()} alone",
                    expected="draws in memory",
                    todo="Resume with a larger memory_limit, or thin.",
                )
            if log_likelihood:
                warnings.warn(
                    f"The likelihood of each datum is left out: the draws are in "
                    f"{self._place()} alone and are not loaded.",
                    FallbackWarning,
                    stacklevel=2,
                )
            return stored
        target = self.target
        groups: Groups = {
            "posterior": _arrays(self._sites(computed=True)),
            "sample_stats": _arrays(self._statistics()),
        }
        if log_likelihood:
            groups["log_likelihood"] = self._pointwise()
        if posterior_predictive:
            groups["posterior_predictive"] = self._replicated_data(seed)
        if prior:
            replicator = Replicator(target, self._seed(seed))
            for name, sites in zip(
                ("prior", "prior_predictive"), replicator.prior(prior), strict=True
            ):
                groups[name] = _arrays({n: v.unsqueeze(0) for n, v in sites.items()})
            self._note(replicator.notes)
        groups["observed_data"] = _arrays(target.observed)
        drawn = bool(prior or posterior_predictive)
        return to_arviz(
            {name: group for name, group in groups.items() if group},
            dims=target.dims,
            coords=target.coords,
            attrs={
                **self._attributes(),
                **self._grouping(),
                **({"predictive_seed": self._seed(seed)} if drawn else {}),
            },
        )

    def _pointwise(self) -> dict[str, np.ndarray]:
        """Log-likelihood of each datum; nothing where data share a discrete site."""
        try:
            return _arrays(self._each(self.target.pointwise_log_likelihood))
        except UnsupportedError as reason:
            warnings.warn(str(reason), FallbackWarning, stacklevel=3)
            return {}

    def report(
        self,
        path: str | Path,
        tables: Mapping[str, Any] | None = None,
        curves: Sequence[Curves] = (),
    ) -> Path:
        """Write a report in one HTML file.

        Args:
            path: where to.
            tables: further tables to show, title to data frame.
            curves: further pictures of lines.

        Returns:
            The path.
        """
        from pyro_geo.io.reports import write_report

        attributes = self._attributes()
        for name in ("notes", "citation"):  # notes are shown apart, BibTeX is too long
            attributes.pop(name, None)
        return write_report(
            self.to_arviz(log_likelihood=False),
            path,
            title=f"{attributes['kernel']} on {attributes['model']}",
            facts={name: str(value) for name, value in attributes.items()},
            notes=self.notes,
            tables=dict(tables or {}),
            curves=curves,
            chain_name=self._chain_name,
        )

    def _attributes(self) -> dict[str, str | int | float]:
        raise NotImplementedError

    # -- where the draws are --------------------------------------------------------

    def _has_draws(self) -> bool:
        return self._q is not None

    def _size(self) -> tuple[int, int]:
        """Chains and draws of each."""
        q = self._positions()
        return q.shape[0], q.shape[1]

    def _positions(self) -> Tensor:
        if self._q is None:
            raise no_draws(type(self).__name__)
        return self._q

    def _statistics(self) -> Mapping[str, Tensor]:
        self._positions()
        return self._stats

    def _sites(
        self, choose: Callable[[Tensor], Tensor] = whole, computed: bool = False
    ) -> Sites:
        """Values that the model sees at chosen draws.

        Args:
            choose: the draws, from a tensor `(chains, draws, ...)`.
            computed: deterministic sites too.

        Returns:
            Site to the chosen draws.
        """
        q, target = self._positions(), self.target
        sites = target.constrain(choose(q))
        return {**sites, **self._each(target.deterministics)} if computed else sites

    def _shapes(self) -> dict[str, torch.Size]:
        """Sites that are tabulated."""
        sites = self.target.layout.sites
        return {name: site.constrained_shape for name, site in sites.items()}

    def _opened(self) -> Any | None:
        """ArviZ data of draws that are in a store alone, not loaded."""
        return None

    def _place(self) -> str:
        return ""

    # -- what is made of them -------------------------------------------------------

    def _seed(self, seed: int | None) -> int:
        """Take the run's own seed for predictive draws where none is given."""
        return int(getattr(self, "run_seed", 0) if seed is None else seed)

    def _grouping(self) -> dict[str, int]:
        return {} if self.superchains is None else {"superchains": self.superchains}

    def _note(self, notes: Sequence[str]) -> None:
        self._notes = [*self._notes, *notes]

    def _replicate(
        self, replicator: Replicator, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Tensor]:
        q = self._positions()
        sites = replicator.posterior(q.flatten(0, 1), args, kwargs)
        self._note(replicator.notes)
        return {name: value.unflatten(0, q.shape[:2]) for name, value in sites.items()}

    def _replicated_data(self, seed: int | None) -> dict[str, np.ndarray]:
        """Draw the observed sites at each draw, for ArviZ."""
        replicator = Replicator(self.target, self._seed(seed))
        observed = self.target.observed
        if not observed:
            raise UnsupportedError(
                "the model has no data to draw",
                where="argument posterior_predictive",
                found=f"sites {sorted(self.target.dims)}",
                expected="a sample statement with obs",
                todo="Leave posterior_predictive out.",
            )
        sites = self._replicate(replicator, (), {})
        return _arrays({name: sites[name] for name in observed})

    def _each(self, fn: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Map a batched function of positions over all draws."""
        q = self._positions()
        return {
            name: value.unflatten(0, q.shape[:2])
            for name, value in map_chunks(fn, q.flatten(0, 1)).items()
        }


def _column(table: pd.DataFrame, name: str) -> Tensor:
    return torch.from_numpy(np.array(table[name], dtype=float))


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}
