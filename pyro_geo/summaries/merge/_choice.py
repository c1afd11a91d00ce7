"""Where a refinement begins and when it ends, chosen on inputs that are held back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check
from pyro_geo.geometry.subspace import Subspace
from pyro_geo.summaries.merge import _refine
from pyro_geo.summaries.merge._merging import (
    Merge,
    Metrics,
    Settings,
    Solution,
    divergence_on,
)
from pyro_geo.summaries.merge._networks import Network, cast
from pyro_geo.summaries.merge._tasks import StateDict, Tasks, read_further
from pyro_geo.summaries.merge.subspaces import build_subspace

__all__ = ["Choice", "Data", "Problem", "Run", "Start", "Starts", "read_starts"]

OWN = ("base", "mean", "solution")
_PATIENCE = 2  # steps in a row by which the divergence on held-back inputs rises

Start = StateDict | Callable[[dict[str, Tensor]], StateDict]
Starts = Mapping[str, Start] | Sequence[Start]


class Choice(NamedTuple):
    """What inputs that were held back have decided.

    Attributes:
        start: name of the start; `"base"`, `"mean"` and `"solution"` are always there.
        steps: of the refinement.
        starts: start to the mean divergence of the tasks there, in nats.
        path: mean divergence at the chosen start and after each step.
        kl: task to divergence where the path was left.
        direction: start whose directions the subspace has; None without any.
    """

    start: str
    steps: int
    starts: dict[str, float]
    path: list[float]
    kl: dict[str, float]
    direction: str | None


class Data(NamedTuple):
    """Networks with their inputs.

    Attributes:
        networks: task to network.
        inputs: task to inputs in their own type, for starts that are made from them.
    """

    networks: dict[str, Network]
    inputs: dict[str, Tensor]

    def split(self, share: float) -> tuple[Data, Data]:
        """Hold a share of each task's inputs back, at equal distances.

        Args:
            share: held back, below 1.

        Returns:
            The others, and those held back.
        """
        rows = {task: _held(task, len(x), share) for task, x in self.inputs.items()}
        return self._rows({task: ~held for task, held in rows.items()}), self._rows(
            rows
        )

    def _rows(self, rows: Mapping[str, Tensor]) -> Data:
        networks = {
            task: network._replace(inputs=network.inputs[rows[task]])
            for task, network in self.networks.items()
        }
        return Data(networks, {task: x[rows[task]] for task, x in self.inputs.items()})


class Run(NamedTuple):
    """One refinement.

    Attributes:
        merge: it is of.
        found: solution in the metrics.
        coords: coordinates at the end.
        history: objective at the start and after each step.
        choice: what the inputs that judged have decided; None without such inputs.
    """

    merge: Merge
    found: Solution
    coords: Tensor
    history: list[float]
    choice: Choice | None


class Problem(NamedTuple):
    """What does not depend on the inputs.

    Attributes:
        base: as given, with all tensors.
        tasks: to merge.
        share: of the tasks, in the type that is computed with.
        subspace: where to merge; built around the best start if None.
        metrics: of the tasks; measured if None.
        starts: name to parameters, or to a function of inputs that makes them.
        settings: of the metrics.
        steps: of the refinement, at most.
        shared: whether the tensor of a name is merged.
    """

    base: StateDict
    tasks: Tasks
    share: Tensor
    subspace: Subspace | None
    metrics: Metrics | None
    starts: dict[str, Start]
    settings: Settings
    steps: int
    shared: Callable[[str], bool] | None

    def divergence(self, data: Data) -> _refine.Divergence:
        """Evaluate the tasks' own models on their inputs."""
        return divergence_on(data.networks, self.tasks, self.share)

    def merge(
        self, divergence: _refine.Divergence, direction: StateDict | None = None
    ) -> Merge:
        """Set up a merge, in a subspace with the direction of a start.

        Args:
            divergence: on the inputs to merge on.
            direction: parameters whose difference from the base is in the subspace,
                where there is none yet.

        Returns:
            The merge.
        """
        subspace = self.subspace
        if subspace is None:
            extra = () if direction is None else (direction,)
            subspace = build_subspace(
                self.tasks.base, self.tasks.models, extra=extra, weights=self.share
            )
        return Merge(self.tasks, subspace, divergence, self.settings)

    def plain(self, data: Data) -> Run:
        """Solve in the metrics, without a refinement."""
        merge = self.merge(self.divergence(data))
        found = merge.solved(self.metrics)
        return Run(merge, found, found.mean.coords, [], None)

    def run(self, data: Data, judge: Data | None, chosen: Choice | None = None) -> Run:
        """Refine from the best start.

        Args:
            data: to refine on.
            judge: decides on the start and the number of steps; None for a
                refinement that the data alone decide on.
            chosen: start and number of steps, where they are known already.

        Returns:
            The run.
        """
        states = self._made(data, chosen)
        own = self.divergence(data)
        judging = own if judge is None else self.divergence(judge)
        values: dict[str, float] = {}
        direction = None
        if states and self.subspace is None and self.metrics is None:
            if chosen is None:
                values = {name: self._value(x, judging) for name, x in states.items()}
                direction = _least(values)
            else:
                direction = chosen.direction
            assert direction is not None
            states = {direction: states[direction]}
        merge = self.merge(own, states.get(direction) if direction else None)
        found = merge.solved(self.metrics)
        points = {
            "base": torch.zeros_like(found.mean.flat),
            "mean": found.mean.flat,
            "solution": found.mean.coords,
            **{name: merge.subspace.coords(state) for name, state in states.items()},
        }
        judged = _refine.Objective(merge.subspace, judging)
        if chosen is None:
            inside = {name: judged.value(z) for name, z in points.items()}
            values |= inside
            start, steps = _least(inside), self.steps
        else:
            start, steps = chosen.start, chosen.steps
        path, held = [], []
        for z, value in _refine.refine(merge.objective, points[start], steps):
            path.append((z, value))
            held.append(judged.value(z) if judge is not None else value)
            if judge is not None and _risen(held):
                break
        best = len(path) - 1 if judge is None else held.index(min(held))
        z = path[best][0]
        history = [value for _, value in path[: best + 1]]
        choice = None
        if judge is not None:
            choice = Choice(start, best, values, held, judged.by_task(z), direction)
        return Run(merge, found, z, history, choice)

    def _made(self, data: Data, chosen: Choice | None) -> dict[str, dict[str, Tensor]]:
        """Merged tensors of the starts that are needed, checked against the base."""
        wanted = list(self.starts)
        if chosen is not None:
            wanted = [x for x in wanted if x in (chosen.start, chosen.direction)]
        made: dict[str, StateDict] = {}
        for name in wanted:
            start = self.starts[name]
            state = start(dict(data.inputs)) if callable(start) else start
            made[f"start {name}"] = state
        read = read_further(self.base, made, shared=self.shared)
        return dict(zip(wanted, read.values(), strict=True))

    def _value(self, merged: StateDict, divergence: _refine.Divergence) -> float:
        """Mean divergence of tensors as a whole."""
        return divergence.mean({n: cast(x, self.share) for n, x in merged.items()})


def read_starts(starts: Starts) -> dict[str, Start]:
    """Name the starts, and check what they are.

    Args:
        starts: by name, or in order.

    Returns:
        Name to start.
    """
    if isinstance(starts, Mapping):
        named = dict(starts)
    else:
        named = {f"start {number}": start for number, start in enumerate(starts)}
    for name, start in named.items():
        good = callable(start) or isinstance(start, Mapping)
        kind = type(start).__name__
        check(good, f"start {name!r}", kind, "a state dict, or a function of inputs")
    taken = [name for name in OWN if name in named]
    check(not taken, "starts", taken, f"other names than {OWN}")
    return named


def _held(task: str, count: int, share: float) -> Tensor:
    """Whether each input is held back, `(count,)`."""
    todo = "at least two inputs to hold one back, or held_out=0"
    check(count > 1, f"inputs of task {task!r}", count, todo)
    held = min(max(1, round(share * count)), count - 1)  # one stays at least
    places = ((torch.arange(held) + 0.5) * count / held).long()
    found = torch.zeros(count, dtype=torch.bool)
    found[places] = True
    return found


def _least(values: Mapping[str, float]) -> str:
    return min(values, key=values.__getitem__)


def _risen(values: Sequence[float]) -> bool:
    """Whether the last values have risen one after the other."""
    last = values[-_PATIENCE - 1 :]
    pairs = zip(last, last[1:], strict=False)
    return len(last) > _PATIENCE and all(b > a for a, b in pairs)
