"""Motions and sensors that a user writes, beside those that are there."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_geo.errors import ConfigurationError
from pyro_geo.filtering.tracker.dynamics import Dynamics, NearConstantVelocity
from pyro_geo.filtering.tracker.measurements import Measurement, Position
from pyro_geo.filtering.tracker.runs import Runs
from pyro_geo.filtering.tracker.sensors import Biased, Random, SensorMode
from tests.filtering.tracker.scenes import F64, faults, follow, stacked, walk


class Never(SensorMode):
    """A fault that gives no report at all."""

    def log_density(self, report):
        return torch.full_like(report.residual[0], -math.inf)


class Own(NearConstantVelocity):
    """The same motion under another name: its tables are stacked, not shared."""


class Coupled(Dynamics):
    """Constant velocity in the plane, each number of the state an order of its own."""

    def __init__(self, q: float, speed_sd: float) -> None:
        super().__init__(4, 1, (q,), (speed_sd, speed_sd, speed_sd), None)

    def transition(self, dt, q):
        return (
            (1.0, 0.0, dt, 0.0),
            (0.0, 1.0, 0.0, dt),
            (0.0, 0.0, 1.0, 0.0),
            (0.0, 0.0, 0.0, 1.0),
        )

    def noise(self, dt, q):
        a, b, c = q[0] * dt**3 / 3, q[0] * dt**2 / 2, q[0] * dt
        return (
            (a, 0.0, b, 0.0),
            (0.0, a, 0.0, b),
            (0.0, 0.0, c, 0.0),
            (0.0, 0.0, 0.0, c),
        )


class Both(Measurement):
    """The position, from the first two orders."""

    def __init__(self) -> None:
        super().__init__(2, (0, 1))

    def predict(self, x):
        return torch.cat(list(x))

    def locate(self, y):
        return y[:1]


class Doppler(Measurement):
    """Range, bearing and range rate: three numbers of two orders."""

    def __init__(self) -> None:
        super().__init__(3, (0, 1))

    def predict(self, x):
        place, speed = x
        far = place.square().sum(0).sqrt()
        rate = (place * speed).sum(0) / far
        return torch.stack([far, torch.atan2(place[1], place[0]), rate])

    def locate(self, y):
        return torch.stack([y[0] * torch.cos(y[1]), y[0] * torch.sin(y[1])])


class Distance(Measurement):
    """One number of two axes."""

    def predict(self, x):
        return x[0].square().sum(0, keepdim=True).sqrt()

    def locate(self, y):
        return torch.cat([y, torch.zeros_like(y)])


R = 4.0 * torch.eye(2, dtype=F64)


def test_motions_of_two_classes_are_mixed_as_two_of_one():
    y, _ = walk(15, 2)
    ours = [NearConstantVelocity(v, speed_sd=20.0) for v in (0.1, 5.0)]
    mixed = [ours[0], Own(5.0, speed_sd=20.0)]
    found = [
        follow(Runs(m, Position(2), R, faults=faults()), y)[1] for m in (ours, mixed)
    ]
    torch.testing.assert_close(
        stacked(found[0], "mean"), stacked(found[1], "mean"), rtol=1e-12, atol=1e-12
    )


def test_a_state_of_single_numbers_is_tracked_as_one_of_vectors():
    y, _ = walk(15, 2)
    _, ours = follow(Runs([NearConstantVelocity(0.3, speed_sd=9.0)], Position(2), R), y)
    runs = Runs([Coupled(0.3, 9.0)], Both(), R)
    # the second number of the place starts with the speed's spread, as an order does
    params = runs.parameters()
    here, dt = torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=F64)
    belief = runs.init(params, y[0], here)
    mean = (belief.mean[0], y[0, 1:, None, None], *belief.mean[2:])
    cov = list(belief.cov)
    cov[4] = torch.full_like(cov[4], 4.0)
    belief = belief._replace(mean=mean, cov=tuple(cov))
    for row, expected in zip(y[1:], ours[1:], strict=True):
        belief, info = runs.step(params, belief, row, here, dt)
        torch.testing.assert_close(info.mean, expected.mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(info.cov, expected.cov, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", ["ekf", "ukf"])
def test_three_numbers_of_two_orders_follow_a_target(rule):
    sensor = Doppler()
    time = torch.arange(60, dtype=F64)
    place = torch.stack([50.0 + 3.0 * time, 80.0 - 1.0 * time])
    speed = torch.stack([torch.full_like(time, 3.0), torch.full_like(time, -1.0)])
    sd = torch.tensor([1.0, 0.01, 0.2], dtype=F64)
    noise = torch.randn(60, 3, 1, dtype=F64, generator=torch.Generator().manual_seed(1))
    y = sensor.predict([place, speed]).T[:, :, None] + noise * sd[:, None]
    y[30:36, 0] += 40.0
    runs = Runs(
        [NearConstantVelocity(0.01, speed_sd=5.0)],
        sensor,
        torch.diag(sd**2),
        faults=[Random(), Biased((60.0, 0.02, 0.4))],
        linearisation=rule,
    )
    belief, told = follow(runs, y)
    assert belief.bias[2][0].shape == (2, 3, 2, 1, 1)  # type: ignore[index]
    away = stacked(told, "mean")[10:, :2, 0] - place.T[10:]
    assert away.norm(dim=1).max() < 5.0
    assert stacked(told, "p_nominal")[31:36].max() < 0.1
    assert stacked(told, "p_nominal")[45:].min() > 0.9


def test_one_number_of_two_axes_has_a_bias_of_one_number():
    y = 100.0 + torch.arange(20, dtype=F64)[:, None, None].expand(20, 1, 2)
    runs = Runs(
        [NearConstantVelocity(0.01, speed_sd=2.0)],
        Distance(1),
        torch.eye(1, dtype=F64),
        faults=[Random(30.0), Biased(30.0)],
    )
    belief, told = follow(runs, y)
    far = stacked(told, "mean")[-1, :2].norm(dim=0)
    torch.testing.assert_close(far, y[-1, 0], atol=1.0, rtol=0)
    assert belief.bias[0].shape == (1, 2, 1, 2)  # type: ignore[union-attr]


def test_a_fault_that_is_zero_everywhere_is_refused():
    motion = [NearConstantVelocity(0.01)]
    with pytest.raises(ConfigurationError, match="argument faults"):
        Runs(motion, Position(2), R, faults=[Random(5.0), Never()])
