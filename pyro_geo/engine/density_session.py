"""A run on a density, which a store tells from any other by its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_geo._process import Seconds
from pyro_geo.density import Target
from pyro_geo.engine.commits import StoredRecord
from pyro_geo.engine.densities import at_draws, at_probes, check_known
from pyro_geo.engine.identity import Likeness, check_run, describe_model
from pyro_geo.engine.progress import Clock
from pyro_geo.engine.session import Session
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.errors import CheckpointError
from pyro_geo.io.store import RunStore
from pyro_geo.ops.arrays import to_numpy

__all__ = ["DensitySession"]


class DensitySession(Session):
    """The session of a run on a density.

    A store keeps the density where no draw is needed, and at the draws looked at last:
    whoever goes on compares its own with these.

    Args:
        target: the density.
        record: takes what is finished.
        codec: encodes the state.
        state: before the first step.
        clock: takes the time by phase.
    """

    def __init__(
        self,
        target: Target,
        record: StoredRecord,
        codec: StateCodec,
        state: Any,
        clock: Clock,
    ) -> None:
        super().__init__(record, codec, state, clock)
        self._target = target

    def log_prob(self, target: Target, q: Tensor) -> Tensor:
        """Log-density as the run has it, `(draws,)` at `q` of `(draws, dim)`."""
        return target.log_prob(q)

    def subject_notes(self) -> list[str]:
        """Notes of the density."""
        return self._target.notes

    @property
    def build_seconds(self) -> Seconds:
        """Time that tracing and compiling the density have taken."""
        return self._target.build_seconds

    @property
    def device(self) -> torch.device:
        """Device of the density."""
        return self._target.device

    def _contents(self) -> dict[str, Any]:
        target = self._target
        return {
            "data": {name: to_numpy(v) for name, v in target.observed.items()},
            "dims": target.dims,
            "coords": target.coords,
        }

    def _described(self) -> dict[str, Any]:
        self._known["probes"] = at_probes(self._target, self.log_prob)
        return {"model": describe_model(self._target)}

    def _recognise(
        self, where: str, header: Mapping[str, Any], identity: dict[str, Any]
    ) -> Likeness | None:
        return check_run(where, header, identity, self._target)

    def _confirm(self, store: RunStore, likeness: Likeness | None) -> None:
        where = f"store {store.path}"
        assert likeness is not None
        if "probes" not in self._known:
            raise CheckpointError(
                "the store is damaged",
                where=f"{where}, its state",
                found=f"values {sorted(self._known)}",
                expected="values of the density",
                todo="Begin anew; the draws can be read.",
            )
        for known in self._known.values():
            check_known(where, self._target, known, self.log_prob, likeness)

    def _look_at(self, draws: Tensor, number: int) -> None:
        """Evaluate the density at some draws, for whoever resumes the run.

        Args:
            draws: positions, `(draws, dim)`.
            number: of the piece that has brought them; less and less of them are
                looked at.
        """
        if self.record.commits is None or number & (number - 1):
            return
        with self._clock.phase("storing"):
            self._known["draws"] = at_draws(self._target, self.log_prob, draws)
