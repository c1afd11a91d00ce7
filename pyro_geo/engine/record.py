"""The draws of a run: in memory, in a store, or in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.engine._kept import KeptSites, numpy_dtype
from pyro_geo.errors import CheckpointError, UnsupportedError
from pyro_geo.io.store import RunStore, Snapshot, Variable, Writer
from pyro_geo.ops.chunks import Sites
from pyro_geo.results.draws import MemoryDraws

__all__ = ["DrawRecord"]

_STATS, _POSTERIOR = "sample_stats", "posterior"
_UNCONSTRAINED = "unconstrained_posterior"
_ALL = slice(None)
_CHECKED = 4  # draws of each chain whose density is computed again


class DrawRecord:
    """Draws of all chains, added block by block.

    Blocks stay in memory until they pass a limit and a store has them.

    Args:
        target: the density.
        stats: names of the statistics of a draw.
        thin: every how many draws one is kept.
        keep: sites to keep, all of them if None.
        limit: bytes of draws held in memory where there is a store.
    """

    def __init__(
        self,
        target: Target,
        stats: Sequence[str],
        *,
        thin: int = 1,
        keep: Sequence[str] | None = None,
        limit: int = 1 << 30,
    ) -> None:
        self.target = target
        self.stat_names = tuple(stats)
        self.thin, self.limit = thin, limit
        self.keep = keep
        self.store: RunStore | None = None
        self.next_commit = 0
        """Number of the next commit, counting those under way."""
        self._writer = Writer()
        self.num_draws = 0  # kept of each chain, in finished rounds
        self._kept: KeptSites | None = None
        self._rounds: list[dict[str, Tensor]] | None = []  # None: in the store alone
        # of the round under way, by first chain: blocks arrive in any order
        self._parts: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0

    @property
    def kept(self) -> KeptSites:
        """The sites that are kept."""
        if self._kept is None:
            self._kept = KeptSites(self.target, self.keep)
        return self._kept

    @property
    def spilled(self) -> bool:
        """Whether draws live in the store alone."""
        return self._rounds is None

    @property
    def num_chains(self) -> int:
        """Chains of the run."""
        if self._rounds:
            return next(iter(self._rounds[0].values())).shape[0]
        return self.store.num_chains if self.store is not None else 0

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Sites that are tabulated, each with its shape at one draw."""
        if self.keep is not None:
            return self.kept.shapes
        sites = self.target.layout.sites
        return {name: site.constrained_shape for name, site in sites.items()}

    @property
    def computed(self) -> list[str]:
        """Deterministic sites that are kept."""
        return self.kept.computed

    @property
    def folder(self) -> Path | None:
        """The store that alone holds the draws; None where they are in memory."""
        return self.store.path if self.spilled and self.store is not None else None

    def add_statistics(self, types: dict[str, torch.dtype]) -> None:
        """Make room for statistics in the store, once their types are known.

        Args:
            types: of each statistic.
        """
        if self.store is None or self._writer.failure is not None:
            return
        variables = [
            Variable(_STATS, name, (), numpy_dtype(torch.empty(0, dtype=dtype)))
            for name, dtype in types.items()
        ]
        self._writer.submit(self.store.add, variables)
        self._writer.flush()

    # -- adding -----------------------------------------------------------------------

    def add(
        self, chains: Sequence[int], first: int, q: Tensor, stats: dict[str, Tensor]
    ) -> None:
        """Add a block of some chains; it counts once the round of all is committed.

        Args:
            chains: which ones, side by side.
            first: index of the block's first draw, before thinning.
            q: positions, `(chains, draws, dim)`.
            stats: name to `(chains, draws)`.
        """
        if self.thin > 1:
            rows = slice(-(first + 1) % self.thin, None, self.thin)
            q = q[:, rows].contiguous()
            stats = {name: value[:, rows] for name, value in stats.items()}
            if not q.shape[1]:
                return
        part = {f"stat {name}": stats[name] for name in self.stat_names}
        if self.store is not None and self._writer.failure is None:
            self._write(self.store, chains[0], first // self.thin, q, stats)
        if self._rounds is None:
            return
        part |= {"q": q} if self.keep is None else self.kept(q)
        self._bytes += sum(x.numel() * x.element_size() for x in part.values())
        self._parts[chains[0]] = part
        if self.store is not None and self._bytes > self.limit:
            self._writer.flush()
            if self._writer.failure is None:
                self._rounds, self._parts = None, {}

    def close_round(self, draws: int) -> None:
        """Count the blocks that were added since the last call.

        Args:
            draws: of each chain that are finished, before thinning.
        """
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

    def commit(
        self,
        state: Snapshot,
        facts: dict[str, Any],
        *,
        finished: bool = False,
        wait: bool = False,
    ) -> None:
        """Let the store count what was added, as soon as the disk allows.

        One that fails later is told of at the next.

        Args:
            state: where the chains are.
            facts: attributes that changed.
            finished: whether the run is complete.
            wait: for the disk.

        Raises:
            CheckpointError: the store cannot be written.
        """
        assert self.store is not None
        self._writer.submit(
            self.store.commit, self.num_draws, state, facts=facts, finished=finished
        )
        self.next_commit += 1
        if wait:
            self._writer.flush()
        if (failure := self._writer.failure) is not None:
            self._writer.flush()
            raise CheckpointError(
                "the store cannot be written any more",
                where=f"store {self.store.path}",
                found=f"{type(failure).__name__}: {failure}",
                expected="a folder with room",
                todo=f"The store is good up to draw {self.store.num_draws}; free "
                "some space and call resume.",
            ) from failure

    def close(self) -> None:
        """Wait for the disk."""
        self._writer.close()

    def begin(self, store: RunStore) -> None:
        """Write to a store from now on.

        Args:
            store: of the same sites and statistics.
        """
        self.store, self.next_commit = store, store.commits

    def load(self, store: RunStore) -> None:
        """Take over the draws of a store.

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
        names = [*self.kept.latent, *self.kept.computed]
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
        if not count or self.keep is not None or "lp" not in self.stat_names:
            return None
        step = max(1, count // _CHECKED)
        draws = slice((count - 1) % step, None, step)  # the last one is among them
        lp = self._stored(_STATS, ["lp"], draws)["lp"]
        return self._stored_positions(draws).flatten(0, 1), lp.flatten()

    # -- asking -----------------------------------------------------------------------

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
        return self._stored_positions() if self.spilled else self._joined(["q"])["q"]

    def sites(self, names: Sequence[str]) -> Sites:
        """Draws of chosen sites.

        Args:
            names: of sites that were kept.

        Returns:
            Site to `(chains, draws, *shape)`.
        """
        if self.spilled:
            return self._stored(_POSTERIOR, names)
        if self.keep is not None:
            return self._joined(names)
        return MemoryDraws(self.target, self.positions()).sites(names)

    def stats(self) -> dict[str, Tensor]:
        """Statistics of the draws, name to `(chains, draws)`."""
        if self.spilled:
            return self._stored_stats()
        found = self._joined([f"stat {name}" for name in self.stat_names])
        return {name: found[f"stat {name}"] for name in self.stat_names}

    # -- inside -----------------------------------------------------------------------

    def _joined(self, names: Sequence[str]) -> dict[str, Tensor]:
        assert self._rounds is not None
        if len(self._rounds) > 1:  # once, not at every question
            self._rounds = [
                {n: torch.cat([r[n] for r in self._rounds], 1) for n in self._rounds[0]}
            ]
        return {name: self._rounds[0][name] for name in names}

    def _write(
        self,
        store: RunStore,
        chain: int,
        draw: int,
        q: Tensor,
        stats: dict[str, Tensor],
    ) -> None:
        groups = {
            _POSTERIOR: self.kept(q),
            _UNCONSTRAINED: self.kept.unconstrained(q),
            _STATS: {name: stats[name] for name in self.stat_names},
        }
        for group, values in groups.items():
            for name, value in values.items():
                array = value.detach().cpu().numpy()
                where = group, name, chain, draw
                self._writer.submit(store.write, *where, array, size=array.nbytes)

    def _stored(self, group: str, names: Sequence[str], draws: slice = _ALL) -> Sites:
        assert self.store is not None
        self._writer.flush()  # what is under way counts too
        found = self.store.read(group, names, draws)
        return {
            name: torch.from_numpy(found[name]).to(self.target.device) for name in names
        }

    def _stored_stats(self) -> dict[str, Tensor]:
        return self._stored(_STATS, self.stat_names)

    def _stored_positions(self, draws: slice = _ALL) -> Tensor:
        sample = torch.zeros(1, self.target.dim, device=self.target.device)
        changed = list(self.kept.unconstrained(sample))
        same = [name for name in self.kept.latent if name not in changed]
        return self.kept.positions(
            self._stored(_POSTERIOR, same, draws)
            | self._stored(_UNCONSTRAINED, changed, draws)
        )
