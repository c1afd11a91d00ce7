"""The stages of a Gibbs posterior in a store, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pyro_geo.density import Target
from pyro_geo.engine.commits import StoredRecord
from pyro_geo.engine.sites import RecordedSites
from pyro_geo.infer.gibbs.path import Stage
from pyro_geo.io.names import STAGE_DIMS
from pyro_geo.io.store import STAGE_STATS, STAGES, RunStore, Variable
from pyro_geo.results.weights import equal_rows

__all__ = ["StageRecord"]

_STATS = ("log_weights", "loss", "acceptance_rate", "beta", "equal_rows")
_DOUBLE = np.dtype(np.float64)


class StageRecord(StoredRecord):
    """The finished stages, in a store with the axes particle and stage.

    In memory they are part of the state of the run. With each stage the store keeps
    the particles that stand for it where draws of equal weight are asked for,
    `equal_rows`: whoever opens the store needs no random numbers.

    Args:
        target: the density.
        num_particles: of the run.
        seed: of the run, which chooses those particles.
    """

    unit = "stage"

    def __init__(self, target: Target, num_particles: int, seed: int) -> None:
        super().__init__()
        self.target = target
        self.num_particles, self.seed = num_particles, seed
        self._recorded: RecordedSites | None = None

    @property
    def _sites(self) -> RecordedSites:
        # made where there is a store: it evaluates the model
        if self._recorded is None:
            self._recorded = RecordedSites(self.target)
        return self._recorded

    def layout(self) -> dict[str, Any]:
        """Variables, counts, chunks and header of a store."""
        latent = [
            Variable(STAGES, v.name, v.shape, v.dtype)
            for v in self._sites.variables()
            if v.group == "posterior"
        ]
        stats = [Variable(STAGE_STATS, name, (), _DOUBLE) for name in _STATS]
        return {
            "variables": [*latent, *stats],
            "num_chains": self.num_particles,
            "num_draws": 0,  # the pilot will say how many stages there are
            "chunk": (self.num_particles, 1),
            "header": {"chain_name": "particle"},
            "sample_dims": STAGE_DIMS,
        }

    def load(self, store: RunStore) -> None:
        """Write to a store from now on; its stages are in the state of the run.

        Args:
            store: of the same run.
        """
        self.begin(store)
        self.num_draws = store.num_draws

    def plan(self, num_stages: int) -> None:
        """Make room for the stages that are kept.

        Args:
            num_stages: how many.
        """
        if self.commits is not None:
            self.commits.plan(num_stages)

    def add(self, stages: Sequence[Stage]) -> None:
        """Write the stages that are new; the next commit counts them.

        Args:
            stages: all that are kept so far.
        """
        if self.commits is not None:
            for index in range(self.num_draws, len(stages)):
                self.commits.write(self._values(stages[index]), 0, index)
        self.num_draws = len(stages)

    def _values(self, stage: Stage) -> dict[str, Any]:
        stats = {
            "log_weights": stage.log_weights,
            "loss": stage.loss,
            "acceptance_rate": stage.acceptance,
            "beta": torch.full_like(stage.loss, stage.beta),
            "equal_rows": equal_rows(stage.log_weights, self.seed),
        }
        return {
            STAGES: self._sites(stage.q[:, None]),
            STAGE_STATS: {name: value[:, None] for name, value in stats.items()},
        }
