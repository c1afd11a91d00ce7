"""Without faults the tracker is a filter that everybody knows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_geo.filtering.tracker.dynamics import Cruise, Level, NearConstantVelocity
from pyro_geo.filtering.tracker.measurements import Position, RangeBearing
from pyro_geo.filtering.tracker.runs import Runs
from tests.filtering.tracker.imm_reference import Mixture, imm_step, merge

F64 = torch.float64
STEPS, TRACKS = 40, 3


def reports(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw walks of three tracks, with irregular times between the reports."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(STEPS, 2, TRACKS, dtype=F64, generator=generator).cumsum(0) * 5
    dt = torch.rand(STEPS, TRACKS, dtype=F64, generator=generator) + 0.2
    return y, dt


def test_faults_off_equals_an_imm_written_out_in_numpy():
    q, sd = np.array([0.5, 60.0]), 7.0
    motions = [NearConstantVelocity(v, speed_sd=sd) for v in q]
    R = torch.tensor([[4.0, 0.5], [0.5, 2.0]], dtype=F64)
    runs = Runs(motions, Position(2), R, hold=0.9)
    params = runs.parameters()
    y, dt = reports()
    here = torch.ones(TRACKS, dtype=torch.bool)
    belief = runs.init(params, y[0], here)
    H = np.eye(2, 4)
    switch = np.array([[0.9, 0.1], [0.1, 0.9]])
    start = np.zeros((4, 4))
    start[:2, :2], start[2:, 2:] = R.numpy(), sd**2 * np.eye(2)
    mirrors = [
        Mixture(
            np.array([0.5, 0.5]),
            np.tile(np.r_[y[0, :, track].numpy(), 0.0, 0.0], (2, 1)),
            np.tile(start, (2, 1, 1)),
        )
        for track in range(TRACKS)
    ]
    for step in range(1, STEPS):
        belief, info = runs.step(params, belief, y[step], here, dt[step])
        for track in range(TRACKS):
            mirrors[track], evidence = imm_step(
                mirrors[track],
                switch,
                q,
                float(dt[step, track]),
                y[step, :, track].numpy(),
                H,
                R.numpy(),
            )
            mean, cov = merge(*mirrors[track])
            np.testing.assert_allclose(info.mean[:, track], mean, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(info.cov[..., track], cov, rtol=1e-9, atol=1e-9)
            assert info.log_evidence[track] == pytest.approx(evidence, abs=1e-9)
            np.testing.assert_allclose(
                info.dynamics_prob[:, track], mirrors[track].weight, atol=1e-9
            )


def kalman(F: Tensor, Q: Tensor, m: Tensor, P: Tensor, y: Tensor, H: Tensor, R: Tensor):
    m, P = F @ m, F @ P @ F.T + Q
    S = H @ P @ H.T + R
    K = P @ H.T @ torch.linalg.inv(S)
    law = torch.distributions.MultivariateNormal(H @ m, S)
    keep = torch.eye(len(m), dtype=F64) - K @ H
    return m + K @ (y - H @ m), keep @ P @ keep.T + K @ R @ K.T, law.log_prob(y)


@pytest.mark.parametrize(
    ("motion", "exact"),
    [
        (NearConstantVelocity(0.7), 1e-12),
        # two velocities that are told apart slowly: both filters lose a digit
        (Cruise(0.3, 4.0, 5.0, speed_sd=10.0), 1e-11),
    ],
)
def test_one_dynamics_without_faults_equals_kalman(motion, exact):
    R = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=F64)
    runs = Runs([motion], Position(2), R)
    params = runs.parameters()
    y, dt = reports(1)
    here = torch.ones(TRACKS, dtype=torch.bool)
    belief = runs.init(params, y[0], here)
    info = runs.describe(belief)
    n, orders = 2 * motion.orders, motion.orders
    H = torch.eye(2, n, dtype=F64)
    means = list(info.mean.T)
    covs = [info.cov[..., track] for track in range(TRACKS)]
    values = [torch.tensor(v, dtype=F64) for v in motion.values]
    for step in range(1, STEPS):
        belief, info = runs.step(params, belief, y[step], here, dt[step])
        for track in range(TRACKS):
            lapse = dt[step, track]
            rows, noise = motion.transition(lapse, values), motion.noise(lapse, values)
            axes = torch.eye(2, dtype=F64)
            Q = torch.tensor(
                [
                    [float(noise[min(a, b)][max(a, b)]) for b in range(orders)]
                    for a in range(orders)
                ],
                dtype=F64,
            )
            F = torch.kron(
                torch.tensor([[float(x) for x in r] for r in rows], dtype=F64), axes
            )
            means[track], covs[track], evidence = kalman(
                F,
                torch.kron(Q, axes),
                means[track],
                covs[track],
                y[step, :, track],
                H,
                R,
            )
            torch.testing.assert_close(
                info.mean[:, track], means[track], rtol=exact, atol=exact
            )
            torch.testing.assert_close(
                info.cov[..., track], covs[track], rtol=10 * exact, atol=10 * exact
            )
            assert float(info.log_evidence[track] - evidence) == pytest.approx(
                0.0, abs=10 * exact
            )


def test_joint_update_of_two_numbers_equals_brute_force_over_a_grid():
    R = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=F64)
    runs = Runs([Level(1.0, axes=2)], Position(2), R)
    params = runs.parameters()
    here = torch.ones(1, dtype=torch.bool)
    belief = runs.init(params, torch.zeros(2, 1, dtype=F64), here)
    y = torch.tensor([[0.8], [-0.3]], dtype=F64)
    _, info = runs.step(params, belief, y, here, torch.ones(1, dtype=F64))
    line = torch.linspace(-9, 9, 721, dtype=F64)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    prior = torch.distributions.MultivariateNormal(
        torch.zeros(2, dtype=F64), R + torch.eye(2, dtype=F64)
    )
    like = torch.distributions.MultivariateNormal(y[:, 0], R)
    weight = (prior.log_prob(grid) + like.log_prob(grid)).exp()
    cell = float(line[1] - line[0]) ** 2
    evidence = weight.sum() * cell
    mean = (weight[..., None] * grid).sum((0, 1)) * cell / evidence
    gap = grid - mean
    cov = torch.einsum("xy,xyi,xyj->ij", weight, gap, gap) * cell / evidence
    torch.testing.assert_close(info.mean[:, 0], mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(info.cov[..., 0], cov, rtol=1e-8, atol=1e-8)
    assert float(info.log_evidence) == pytest.approx(float(evidence.log()), abs=1e-8)


def test_sigma_points_and_tangent_agree_where_the_sensor_is_nearly_linear():
    R = torch.diag(torch.tensor([0.01, 1e-6], dtype=F64))
    motion = [NearConstantVelocity(0.01, speed_sd=0.1)]
    here = torch.ones(1, dtype=torch.bool)
    found = []
    for rule in ("ekf", "ukf"):
        runs = Runs(motion, RangeBearing(), R, linearisation=rule)
        params = runs.parameters()
        belief = runs.init(params, torch.tensor([[1000.0], [3.1]], dtype=F64), here)
        y = torch.tensor([[1000.2], [3.1002]], dtype=F64)
        _, info = runs.step(params, belief, y, here, torch.ones(1, dtype=F64))
        found.append(info)
    torch.testing.assert_close(found[0].mean, found[1].mean, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found[0].cov, found[1].cov, rtol=1e-3, atol=1e-4)


def test_sigma_points_foresee_the_mean_of_a_square_exactly():
    from pyro_geo.filtering.tracker.measurements import Measurement
    from pyro_geo.filtering.tracker.update import ukf

    class Square(Measurement):
        def predict(self, x):
            return x[0].square()

        def locate(self, y):
            return y.sqrt()

    mean, cov = torch.tensor([[2.0]], dtype=F64), torch.tensor([[[0.3]]], dtype=F64)
    seen = ukf(Square(1), (mean,), (cov,))
    # of x^2: mean m^2 + C, covariance with x 2 m C, variance 4 m^2 C + 2 C^2
    assert seen.prediction.item() == pytest.approx(4.3, abs=1e-12)
    assert seen.cross[0].item() == pytest.approx(1.2, abs=1e-12)
    assert seen.cov.item() == pytest.approx(4.8 + 0.18, abs=1e-12)


def test_a_bearing_across_the_cut_is_a_small_step():
    R = torch.diag(torch.tensor([1.0, 1e-4], dtype=F64))
    runs = Runs([NearConstantVelocity(0.1)], RangeBearing(), R)
    params = runs.parameters()
    here = torch.ones(1, dtype=torch.bool)
    belief = runs.init(params, torch.tensor([[50.0], [3.14]], dtype=F64), here)
    y = torch.tensor([[50.0], [-3.14]], dtype=F64)
    _, info = runs.step(params, belief, y, here, torch.ones(1, dtype=F64))
    assert float(info.nis) < 1.0
    assert float(info.mean[0]) == pytest.approx(-50.0, abs=0.5)


def test_known_slopes_are_those_that_are_taken_automatically():
    from pyro_geo.filtering.tracker.measurements import derivatives

    sensor = RangeBearing((1.0, -2.0))
    x = torch.tensor([[3.0, -4.0, 0.5], [7.0, 0.2, -9.0]], dtype=F64)
    taken = derivatives(sensor.predict, (x,))[0]
    torch.testing.assert_close(sensor.slope((x,))[0], taken)
    y = sensor.predict((x,))
    torch.testing.assert_close(sensor.locate(y), x)
    back = derivatives(lambda z: sensor.locate(z[0]), (y,))[0]
    torch.testing.assert_close(sensor.locate_slope(y), back)
    eye = torch.einsum("ijk,jlk->ilk", taken, back)
    torch.testing.assert_close(eye, torch.eye(2, dtype=F64)[..., None].expand(2, 2, 3))
