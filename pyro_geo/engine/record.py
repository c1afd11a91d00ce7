"""The draws of a run: in memory, in a store, or in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine.commits import StoreCommits, StoredRecord
from pyro_geo.engine.sites import RecordedSites
from pyro_geo.errors import UnsupportedError
from pyro_geo.io.store import RunStore
from pyro_geo.ops.arrays import same_values
from pyro_geo.ops.chunks import Sites

__all__ = ["DrawRecord"]

_STATS, _POSTERIOR = "sample_stats", "posterior"
_UNCONSTRAINED = "unconstrained_posterior"
_ALL = slice(None)
_CHECKED = 4  # draws of each chain whose density is computed again


class DrawRecord(StoredRecord):
    """Draws of all chains, added block by block.

    Blocks stay in memory until they pass a limit and a store has them.

    Args:
        target: the density.
        statistics: names of the statistics of a draw.
        num_chains: chains of the run.
        thin: every how many draws one is kept.
        keep: sites to keep, all of them if None.
        limit: bytes of draws held in memory where there is a store.

    Example:
        >>> target = Target.from_potential(lambda q: (q * q).sum(), 2)
        >>> record = DrawRecord(target, ["lp"], 3)
        >>> record.add(range(3), 0, torch.zeros(3, 5, 2), {"lp": torch.zeros(3, 5)})
        >>> record.close_round(5)
        >>> record.num_draws, record.positions().shape, record.sites(["q"])["q"].shape
        (5, torch.Size([3, 5, 2]), torch.Size([3, 5, 2]))
    """

    def __init__(
        self,
        target: Target,
        statistics: Sequence[str],
        num_chains: int,
        *,
        thin: int = 1,
        keep: Sequence[str] | None = None,
        limit: int = 1 << 30,
    ) -> None:
        super().__init__()
        self.target = target
        self.statistics = tuple(statistics)
        self.num_chains = num_chains
        self.thin, self.limit = thin, limit
        self.keep = keep
        self._recorded: RecordedSites | None = None
        self._rounds: list[dict[str, Tensor]] | None = []  # None: in the store alone
        # of the round under way, by first chain: blocks arrive in any order
        self._parts: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0

    @property
    def recorded(self) -> RecordedSites:
        """The sites that are kept."""
        if self._recorded is None:
            self._recorded = RecordedSites(self.target, self.keep)
        return self._recorded

    @property
    def in_store_alone(self) -> bool:
        """Whether the draws were too many to stay in memory too."""
        return self._rounds is None

    @property
    def folder(self) -> Path | None:
        """The store that alone holds the draws; None where they are in memory."""
        return self.store.path if self.in_store_alone and self.store else None

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Sites that are tabulated, each with its shape at one draw."""
        if self.keep is not None:
            return self.recorded.shapes
        sites = self.target.layout.sites
        return {name: site.constrained_shape for name, site in sites.items()}

    @property
    def computed(self) -> list[str]:
        """Deterministic sites that are kept."""
        return self.recorded.computed

    # -- adding draws -----------------------------------------------------------------

    def add(
        self, chains: Sequence[int], first: int, q: Tensor, stats: Mapping[str, Tensor]
    ) -> None:
        """Add a block of a group of chains; the next closed round counts it.

        Args:
            chains: which ones, side by side.
            first: index of the block's first draw, before thinning.
            q: positions, `(chains, draws, dim)`.
            stats: name to `(chains, draws)`.
        """
        q, stats = self._thinned(first, q, stats)
        if not q.shape[1]:
            return
        if self.commits is not None:
            self._store_block(self.commits, chains[0], first // self.thin, q, stats)
        if self._rounds is None:
            return
        part = {f"stat {name}": value for name, value in stats.items()}
        part |= {"q": q} if self.keep is None else self.recorded(q)
        self._bytes += sum(x.numel() * x.element_size() for x in part.values())
        self._parts[chains[0]] = part
        if self.commits is not None and self._bytes > self.limit:
            self.commits.flush()
            if not self.commits.failed:
                self._rounds, self._parts = None, {}

    def differs(
        self, chains: Sequence[int], first: int, q: Tensor, stats: Mapping[str, Tensor]
    ) -> str | None:
        """Compare a block with what the record has of it already.

        Args:
            chains: which ones, side by side.
            first: index of the block's first draw, before thinning.
            q: positions, `(chains, draws, dim)`.
            stats: name to `(chains, draws)`.

        Returns:
            The name of something whose bits differ; None where all are the same.
        """
        q, stats = self._thinned(first, q, stats)
        draws = slice(first // self.thin, self.num_draws)
        count = draws.stop - draws.start
        if not count:
            return None
        if self._rounds is None:
            kept = {f"stat {n}": x for n, x in self._stored_stats(draws).items()}
            if self.keep is None:
                kept["q"] = self._stored_positions(draws)
        else:
            held = self._joined(list(self._rounds[0])) if self._rounds else {}
            kept = {name: value[:, draws] for name, value in held.items()}
        again = {f"stat {name}": value for name, value in stats.items()}
        if self.keep is None:
            again["q"] = q
        rows = slice(chains[0], chains[-1] + 1)
        for name, value in again.items():
            if name in kept and not same_values(kept[name][rows], value[:, :count]):
                return name.removeprefix("stat ")
        return None

    def close_round(self, draws: int, first: int | None = None) -> None:
        """Count the blocks that were added since the last call.

        Args:
            draws: of each chain that are finished, before thinning.
            first: of the blocks, where they take the place of a part of one; they
                follow the last draw if None.
        """
        if first is not None and self._rounds:
            names = list(self._rounds[0])
            kept = slice(first // self.thin)
            self._rounds = [{n: x[:, kept] for n, x in self._joined(names).items()}]
        self.num_draws = draws // self.thin
        if self._rounds is not None and self._parts:
            parts = [self._parts[chain] for chain in sorted(self._parts)]
            self._rounds.append(
                {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            )
        self._parts = {}

    def drop_round(self) -> None:
        """Forget the blocks of a round that was cut short."""
        self._parts = {}

    # -- the store --------------------------------------------------------------------

    def load(self, store: RunStore) -> None:
        """Take over the draws of a store, and write to it from now on.

        Args:
            store: of the same sites and statistics.
        """
        self.begin(store)
        self.num_draws = store.num_draws
        if not self.num_draws:
            return
        size = store.bytes_per_draw * self.num_draws
        if size > self.limit:
            self._rounds = None
            return
        names = [*self.recorded.latent, *self.recorded.computed]
        values = (
            {"q": self._stored_positions()}
            if self.keep is None
            else self._stored(_POSTERIOR, names)
        )
        stats = self._stored_stats()
        self._rounds = [{**values, **{f"stat {n}": v for n, v in stats.items()}}]
        self._bytes = size

    def stored_densities(self) -> tuple[Tensor, Tensor] | None:
        """Positions of a few stored draws, `(draws, dim)`, and their log-density."""
        count = self.num_draws
        if not count or self.keep is not None or "lp" not in self.statistics:
            return None
        step = max(1, count // _CHECKED)
        draws = slice((count - 1) % step, None, step)  # the last one is among them
        lp = self._stored(_STATS, ["lp"], draws)["lp"]
        return self._stored_positions(draws).flatten(0, 1), lp.flatten()

    # -- asking for draws -------------------------------------------------------------

    def positions(self) -> Tensor:
        """Put together the unconstrained draws.

        Returns:
            Positions, `(chains, draws, dim)`.

        Raises:
            UnsupportedError: sites were left out.
        """
        if self.keep is not None:
            raise UnsupportedError(
                "positions were not kept",
                where="argument keep of the run",
                found=f"sites {list(self.keep)}",
                expected="all latent sites",
                todo="Run without keep for what needs all of them.",
            )
        if self.in_store_alone:
            return self._stored_positions()
        return self._joined(["q"])["q"]

    def sites(self, names: Sequence[str]) -> Sites:
        """Constrained draws of chosen sites, latent or deterministic.

        Args:
            names: of sites that were kept.

        Returns:
            Site to `(chains, draws, *shape)`.
        """
        if self.in_store_alone:
            return self._stored(_POSTERIOR, names)
        if self.keep is None:
            return self.recorded(self.positions(), names)
        return self._joined(names)

    def stats(self) -> dict[str, Tensor]:
        """Statistics of the draws, name to `(chains, draws)`."""
        if self.in_store_alone:
            return self._stored_stats()
        values = self._joined([f"stat {name}" for name in self.statistics])
        return {name: values[f"stat {name}"] for name in self.statistics}

    # -- inside -----------------------------------------------------------------------

    def _joined(self, names: Sequence[str]) -> dict[str, Tensor]:
        assert self._rounds is not None
        if len(self._rounds) > 1:  # once, not at every question
            self._rounds = [
                {n: torch.cat([r[n] for r in self._rounds], 1) for n in self._rounds[0]}
            ]
        return {name: self._rounds[0][name] for name in names}

    def _thinned(
        self, first: int, q: Tensor, stats: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Those draws of a block that are kept, and the declared statistics."""
        stats = {name: stats[name] for name in self.statistics}
        if self.thin == 1:
            return q, stats
        rows = slice(-(first + 1) % self.thin, None, self.thin)
        kept = {name: value[:, rows] for name, value in stats.items()}
        return q[:, rows].contiguous(), kept

    def _store_block(
        self,
        commits: StoreCommits,
        chain: int,
        draw: int,
        q: Tensor,
        stats: Mapping[str, Tensor],
    ) -> None:
        if commits.failed:
            return
        if not commits.store.has(_STATS):
            commits.add_statistics({name: x.dtype for name, x in stats.items()})
        groups = {
            _POSTERIOR: self.recorded(q),
            _UNCONSTRAINED: self.recorded.unconstrained(q),
            _STATS: stats,
        }
        commits.write(groups, chain, draw)

    def _stored(
        self, group: str, names: Sequence[str], draws: slice = _ALL
    ) -> dict[str, Tensor]:
        assert self.commits is not None
        values = self.commits.read(group, names, draws)
        device = self.target.device
        return {name: torch.from_numpy(values[name]).to(device) for name in names}

    def _stored_stats(self, draws: slice = _ALL) -> dict[str, Tensor]:
        return self._stored(_STATS, self.statistics, draws)

    def _stored_positions(self, draws: slice = _ALL) -> Tensor:
        sample = torch.zeros(1, self.target.dim, device=self.target.device)
        transformed = list(self.recorded.unconstrained(sample))
        plain = [name for name in self.recorded.latent if name not in transformed]
        return self.recorded.positions(
            self._stored(_POSTERIOR, plain, draws)
            | self._stored(_UNCONSTRAINED, transformed, draws)
        )
