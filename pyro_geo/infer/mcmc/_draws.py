"""Finished draws and what can be asked of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo.errors import ModelError, explain
from pyro_geo.target import Target

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PosteriorDraws"]

_CHUNK = 256  # positions whose data likelihoods are computed at once


class PosteriorDraws:
    """Accessors of a result: samples, diagnostics, summary, ArviZ and report.

    A subclass fills `_target`, `_q` `(chains, draws, dim)` and `_stats`
    (name to `(chains, draws)`).
    """

    _target: Target | None = None
    _q: Tensor | None = None
    _stats: Mapping[str, Tensor]
    _notes: list[str]
    _chain_name: str = "chain"

    @property
    def target(self) -> Target:
        """Density that was sampled."""
        self._positions()
        assert self._target is not None
        return self._target

    @property
    def positions(self) -> Tensor:
        """Draws in unconstrained space, `(chains, draws, dim)`."""
        return self._positions()

    @property
    def stats(self) -> dict[str, Tensor]:
        """Statistics of every draw, name to `(chains, draws)`."""
        self._positions()
        return dict(self._stats)

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
            Site to `(chains * draws, *shape)`, or `(chains, draws, *shape)`.
        """
        q = self._positions()
        if num_samples is not None:
            of = q.shape[1] if group_by_chain else q.shape[0] * q.shape[1]
            pick = torch.randint(of, (num_samples,))
            q = q[:, pick] if group_by_chain else q.flatten(0, 1)[pick]
        elif not group_by_chain:
            q = q.flatten(0, 1)
        return self.target.constrain(q)

    def diagnostics(self) -> dict[str, Any]:
        """Return effective sizes, R-hat and the divergent draws.

        Returns:
            For each site a dictionary with `n_eff` and `r_hat` shaped like the site;
            under `"divergences"` the draw indices by chain, as Pyro gives them.
        """
        columns = {"n_eff": "ess_bulk", "r_hat": "r_hat"}
        table = self.summary()
        result: dict[str, Any] = {}
        row = 0  # rows come site by site, each in C order
        for name, value in self.get_samples(group_by_chain=True).items():
            shape = value.shape[2:]
            rows = slice(row, row + shape.numel())
            result[name] = OrderedDict(
                (key, _column(table, column)[rows].reshape(shape))
                for key, column in columns.items()
            )
            row = rows.stop
        diverging = self._stats.get("diverging")
        if diverging is not None:
            result["divergences"] = {
                f"chain {i}": row.nonzero().flatten().tolist()
                for i, row in enumerate(diverging)
            }
        return result

    def summary(self, prob: float = 0.9) -> pd.DataFrame:
        """Return ArviZ's table of means, intervals, effective sizes and R-hat.

        Args:
            prob: probability of the interval.

        Returns:
            One row per scalar.
        """
        from pyro_geo.io._names import storable
        from pyro_geo.io.arviz import summary

        idata = self.to_arviz(log_likelihood=False)
        names = [storable(name) for name in self.target.layout.sites]
        return summary(idata, var_names=names, interval=prob)

    def to_arviz(self, log_likelihood: bool = True) -> Any:
        """Hand the draws to ArviZ.

        Args:
            log_likelihood: also the likelihood of each datum at each draw, which
                costs one evaluation of the model per draw.

        Returns:
            `InferenceData` with ArviZ 0.23, a `DataTree` with 1.x: posterior (with
            deterministic sites), sample_stats, log_likelihood, observed_data; axes
            named by plates.
        """
        from pyro_geo.io.arviz import to_arviz

        q, target = self._positions(), self.target
        groups: dict[str, dict[str, np.ndarray]] = {
            "posterior": _arrays(
                {**target.constrain(q), **self._each(target.deterministics)}
            ),
            "sample_stats": _arrays(self._stats),
        }
        if log_likelihood:
            groups["log_likelihood"] = _arrays(
                self._each(target.pointwise_log_likelihood)
            )
        groups["observed_data"] = _arrays(target.observed)
        return to_arviz(
            {name: group for name, group in groups.items() if group},
            dims=target.dims,
            coords=target.coords,
            attrs=self._attributes(),
        )

    def report(self, path: str | Path, tables: Mapping[str, Any] | None = None) -> Path:
        """Write a report in one HTML file.

        Args:
            path: where to.
            tables: further tables to show, title to data frame.

        Returns:
            The path.
        """
        from pyro_geo.io.report import write_report

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
            chain_name=self._chain_name,
        )

    def _attributes(self) -> dict[str, str | int | float]:
        raise NotImplementedError

    def _positions(self) -> Tensor:
        if self._q is None:
            raise ModelError(
                explain(
                    "there are no draws",
                    where=type(self).__name__,
                    found="no finished block",
                    expected="a run",
                    todo="call run first",
                )
            )
        return self._q

    def _each(self, fn: Any) -> dict[str, Tensor]:
        """Map a function of positions over all draws in chunks."""
        q = self._positions()
        flat = q.flatten(0, 1)
        parts: Iterator[dict[str, Tensor]] = (fn(part) for part in flat.split(_CHUNK))
        with torch.no_grad():
            collected = list(parts)
        return {
            name: torch.cat([part[name] for part in collected]).unflatten(
                0, q.shape[:2]
            )
            for name in collected[0]
        }


def _column(table: pd.DataFrame, name: str) -> Tensor:
    return torch.from_numpy(np.array(table[name], dtype=float))


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}
