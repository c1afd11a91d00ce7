"""The stages of a Gibbs posterior in a store, and the way back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_geo._process import Seconds, uninterrupted
from pyro_geo.density import Target
from pyro_geo.engine.identity import check_run, check_values
from pyro_geo.engine.sites import RecordedSites
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.errors import CheckpointError
from pyro_geo.infer.gibbs.moves import ParticleMover
from pyro_geo.infer.gibbs.path import AnnealingPlan, Pilot, Stage, Walk
from pyro_geo.io.names import STAGE_DIMS, plain_facts
from pyro_geo.io.store import STAGE_STATS, STAGES, RunStore, Variable
from pyro_geo.results.weights import equal_rows

__all__ = ["GibbsState", "StageStore"]

_STATS = ("log_weights", "loss", "acceptance_rate", "beta", "equal_rows")
_DOUBLE = np.dtype(np.float64)


class GibbsState(NamedTuple):
    """Where a run is between two stages, of the pilot's or of its own.

    Attributes:
        pilot: the pilot.
        plan: what the run does; None until the pilot is back.
        walk: where the run is; None until it starts.
        stages: those that are kept.
        generator: state of the random numbers under way; None before the first.
        pilot_seconds: of the pilot, with the preparations.
        seconds: of everything, in all sittings.
    """

    pilot: Pilot | None = None
    plan: AnnealingPlan | None = None
    walk: Walk | None = None
    stages: tuple[Stage, ...] = ()
    generator: Tensor | None = None
    pilot_seconds: Seconds = Seconds()
    seconds: Seconds = Seconds()


class StageStore:
    """Commit each stage to a store with the axes particle and stage.

    With each stage go the particles that stand for it where draws of equal weight are
    asked for, `equal_rows`: whoever opens the store needs no random numbers.

    Args:
        mover: of the model, at the data.
        identity: tells this run from others.
        num_particles: of the run.
        path: the folder; None keeps nothing.
    """

    def __init__(
        self,
        mover: ParticleMover,
        identity: dict[str, Any],
        num_particles: int,
        path: str | os.PathLike[str] | None,
    ) -> None:
        self._mover, self._path = mover, path
        self._identity = identity
        self._num_particles = num_particles
        self._book = StateCodec(GibbsState)
        self._store: RunStore | None = None
        self._sites: RecordedSites | None = None

    def create(self, state: GibbsState, facts: dict[str, Any]) -> None:
        """Begin a store.

        Args:
            state: to begin from.
            facts: attributes of the draws.
        """
        if self._path is None:
            return
        target = self._mover.target
        sites = RecordedSites(target)
        latent = [
            Variable(STAGES, v.name, v.shape, v.dtype)
            for v in sites.variables()
            if v.group == "posterior"
        ]
        stats = [Variable(STAGE_STATS, name, (), _DOUBLE) for name in _STATS]
        self._store = RunStore.create(
            self._path,
            [*latent, *stats],
            num_chains=self._num_particles,
            num_draws=0,
            chunk=(self._num_particles, 1),
            state=self._book.snapshot(state, 0),
            data={n: v.detach().cpu().numpy() for n, v in target.observed.items()},
            dims=target.dims,
            coords=target.coords,
            header={
                **self._identity,
                "chain_name": "particle",
                "torch_version": torch.__version__,
            },
            facts=plain_facts(facts),
            sample_dims=STAGE_DIMS,
        )
        self._sites = sites

    def open(self, path: str | os.PathLike[str], density: Target) -> GibbsState:
        """Go on from a store, if it is of the same run.

        Args:
            path: the folder.
            density: of the posterior, compared with the stored one.

        Returns:
            The state of the last commit.
        """
        self._store = store = RunStore.open(path)
        where, target = f"store {store.path}", self._mover.target
        check_run(where, store.header, self._identity, density)
        doc, arrays = store.load()
        state: GibbsState = self._book.restore(doc, arrays, target.device)
        if state.stages:
            last = state.stages[-1]
            loss = self._mover.loss(last.q).cpu().numpy()
            check_values(where, "loss", target, loss, last.loss.tolist())
        self._sites = RecordedSites(target)
        return state

    def plan(self, num_stages: int) -> None:
        """Make room for the stages that are kept.

        Args:
            num_stages: how many. A folder that cannot be written is a
                :class:`~pyro_geo.errors.CheckpointError`.
        """
        if self._store is None:
            return
        with _told(self._store):
            self._store.plan(num_stages)

    def commit(
        self,
        state: GibbsState,
        facts: Callable[[], dict[str, Any]],
        finished: bool = False,
    ) -> None:
        """Let a stage count.

        Args:
            state: with all stages that are kept.
            facts: gives attributes of the draws.
            finished: whether the run is complete.
        """
        store = self._store
        if store is None:
            return
        with _told(store), uninterrupted():
            for index in range(store.num_draws, len(state.stages)):
                self._write(store, index, state.stages[index])
            store.commit(
                len(state.stages),
                self._book.snapshot(state, store.commits),
                facts=plain_facts(facts()),
                finished=finished,
            )

    def close(self) -> None:
        """Let others write."""
        if self._store is not None:
            self._store.close()

    def _write(self, store: RunStore, index: int, stage: Stage) -> None:
        assert self._sites is not None
        rows = equal_rows(stage.log_weights, self._identity["seed"])
        stats = {
            "log_weights": stage.log_weights,
            "loss": stage.loss,
            "acceptance_rate": stage.acceptance,
            "beta": torch.full_like(stage.loss, stage.beta),
            "equal_rows": rows,
        }
        groups = {
            STAGES: self._sites(stage.q[:, None]),
            STAGE_STATS: {name: value[:, None] for name, value in stats.items()},
        }
        for group, values in groups.items():
            for name, value in values.items():
                array = value.detach().cpu().numpy()
                store.write(group, name, 0, index, array)


@contextmanager
def _told(store: RunStore) -> Iterator[None]:
    """Say what to do where the disk is full."""
    try:
        yield
    except OSError as reason:
        raise CheckpointError(
            "the store cannot be written any more",
            where=f"store {store.path}",
            found=f"{type(reason).__name__}: {reason}",
            expected="a folder with room",
            todo=f"The store is good up to stage {store.num_draws}; free some space "
            "and call resume. The posterior so far is the sampler's `posterior`.",
        ) from reason
