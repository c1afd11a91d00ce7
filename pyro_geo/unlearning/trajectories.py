"""How memories change while training goes on, for ArviZ and for pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyro_geo._compat.arviz import to_container
from pyro_geo.checks import check, check_number
from pyro_geo.geometry.distances import airm
from pyro_geo.geometry.matrices import PositiveDefinite
from pyro_geo.geometry.spectra import floored
from pyro_geo.unlearning.memory import memory_of
from pyro_geo.unlearning.treatments import Row, Treatment

if TYPE_CHECKING:
    import xarray as xr

    from pyro_geo._compat.arviz import ArvizData

__all__ = ["Trajectory", "Volatility", "trajectories", "trajectories_to_arviz"]


class Volatility(NamedTuple):
    """How much a memory moves from one step to the next.

    Attributes:
        sd: standard deviation of the distances of neighbouring steps.
        realised: sum of their squares.
    """

    sd: float
    realised: float


class Trajectory:
    """Follow the memory of one optimiser after a deletion.

    Args:
        treatment: what is done to it.
        rel: floor of the matrices whose distances are taken.

    Attributes:
        treatment: what is done to it.
        rows: what the memory was like at each step that was followed.
        moves: distance from the memory at the step before, for each but the first.

    Example:
        >>> import torch
        >>> from pyro_geo.unlearning.treatments import Decay
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.Adagrad([weight], 0.1)
        >>> trajectory = Trajectory(Decay(0.5))
        >>> trajectory.start(optimizer)
        >>> for step in range(1, 4):
        ...     weight.grad = torch.ones(2)
        ...     optimizer.step()
        ...     trajectory.after_step(optimizer, step)
        >>> [round(row.metrics["trace"], 6) for row in trajectory.rows]
        [0.0, 1.0, 1.5, 1.75]
    """

    def __init__(self, treatment: Treatment, rel: float = 1e-3) -> None:
        check_number("rel", rel, strict=True)
        self.treatment, self.rel = treatment, rel
        self.rows: list[Row] = []
        self.moves: list[float] = []
        self._before: PositiveDefinite | None = None

    def start(self, optimizer: Any) -> None:
        """Treat at the deletion, and look.

        Args:
            optimizer: changed in place.
        """
        self._look(optimizer, self.treatment.start(optimizer))

    def after_step(self, optimizer: Any, step: int) -> None:
        """Treat after a step of training if it is time, and look.

        Args:
            optimizer: changed in place.
            step: steps since the deletion.
        """
        row = self.treatment.after_step(optimizer, step)
        if row is None:
            row = self.treatment.row(optimizer, step)
        self._look(optimizer, row)

    def volatility(self) -> Volatility:
        """Tell how much the memory has moved.

        Returns:
            Spread and sum of squares of the moves; zeros for fewer than two.
        """
        if len(self.moves) < 2:
            return Volatility(0.0, float(np.square(self.moves).sum()))
        moves = np.asarray(self.moves)
        return Volatility(float(moves.std(ddof=1)), float(np.square(moves).sum()))

    def _look(self, optimizer: Any, row: Row) -> None:
        memory = floored(memory_of(optimizer), self.rel)
        if self._before is not None:
            move = airm(self._before, memory)
            self.moves.append(move)
            row = row._replace(metrics={**row.metrics, "move": move})
        self._before = memory
        self.rows.append(row)


def trajectories(rows: Iterable[Row]) -> xr.Dataset:
    """Put rows of several treatments into one array.

    Args:
        rows: in any order; a later one replaces an earlier one of its treatment and
            step.

    Returns:
        `value` over `treatment`, `step` and `metric`; NaN where there is no row.

    Example:
        >>> found = trajectories([Row("Reset()", 0, {"trace": 1.0})])
        >>> dict(found.sizes)
        {'treatment': 1, 'step': 1, 'metric': 1}
    """
    import xarray as xr

    rows = list(rows)
    check(len(rows) > 0, "rows", "none", "at least one")
    names = list(dict.fromkeys(row.treatment for row in rows))
    steps = sorted({row.step for row in rows})
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    value = np.full((len(names), len(steps), len(metrics)), np.nan)
    for row in rows:
        place = value[names.index(row.treatment), steps.index(row.step)]
        for name, number in row.metrics.items():
            place[metrics.index(name)] = number
    dims = ("treatment", "step", "metric")
    coords = dict(zip(dims, (names, steps, metrics), strict=True))
    return xr.Dataset({"value": (dims, value)}, coords=coords)


def trajectories_to_arviz(rows: Sequence[Row]) -> ArvizData:
    """Put rows of several treatments into the container of the installed ArviZ.

    Args:
        rows: such as those of :class:`Trajectory`.

    Returns:
        A group `unlearning`, see :func:`trajectories`.
    """
    return to_container({"unlearning": trajectories(rows)})
