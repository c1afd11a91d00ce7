"""Small trackers and reports that the tests of the tracker share, lanes last."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_geo.filtering.tracker.belief import Belief, Parameters, StepInfo
from pyro_geo.filtering.tracker.dynamics import NearConstantVelocity
from pyro_geo.filtering.tracker.measurements import Position
from pyro_geo.filtering.tracker.runs import Runs
from pyro_geo.filtering.tracker.sensors import Biased, Random, SensorMode, Stuck

F64 = torch.float64
NOISE = 2.0


def faults() -> tuple[SensorMode, ...]:
    return (Random(60.0), Biased(60.0), Stuck())


def tracker(modes: Sequence[SensorMode] | None = None, **options: object) -> Runs:
    """Make a tracker of a point in the plane, noise 2, two dynamics."""
    motions = [NearConstantVelocity(v, speed_sd=20.0) for v in (0.1, 5.0)]
    R = NOISE**2 * torch.eye(2, dtype=F64)
    chosen = faults() if modes is None else modes
    return Runs(motions, Position(2), R, faults=chosen, **options)  # type: ignore[arg-type]


def walk(steps: int, tracks: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw tracks of constant velocity: reports and truth, `(steps, 2, tracks)`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=F64, generator=generator)

    velocity = 5.0 * normal(2, tracks)
    time = torch.arange(steps, dtype=F64)[:, None, None]
    truth = 100.0 * normal(2, tracks) + velocity * time
    return truth + NOISE * normal(steps, 2, tracks), truth


def follow(
    runs: Runs,
    y: Tensor,
    params: Parameters | None = None,
    dt: Tensor | None = None,
    observed: Tensor | None = None,
) -> tuple[Belief, list[StepInfo]]:
    """Filter every row, the first one as the start of the tracks."""
    params = runs.parameters(y.dtype) if params is None else params
    tracks = y.shape[2]
    ones = torch.ones(tracks, dtype=y.dtype)
    here = torch.ones(len(y), tracks, dtype=torch.bool)
    here = here if observed is None else observed
    belief = runs.init(params, y[0], torch.zeros(tracks, dtype=torch.bool))
    told = []
    for row, use in zip(y, here, strict=True):
        belief, info = runs.step(params, belief, row, use, ones if dt is None else dt)
        told.append(info)
    return belief, told


def stacked(told: list[StepInfo], name: str) -> Tensor:
    """Stack one field over time."""
    return torch.stack([getattr(info, name) for info in told])
