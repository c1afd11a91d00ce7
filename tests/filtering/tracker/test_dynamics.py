"""Motions: their matrices against integrals and matrix exponentials."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from pyro_geo.errors import ConfigurationError
from pyro_geo.filtering.tracker.dynamics import Cruise, Level, NearConstantVelocity

F64 = torch.float64


def van_loan(A: np.ndarray, D: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
    """Discretise dx = A x dt + dw, cov of w D dt, by one matrix exponential."""
    n = len(A)
    both = linalg.expm(np.block([[-A, D], [np.zeros((n, n)), A.T]]) * dt)
    F = both[n:, n:].T
    return F, F @ both[:n, n:]


CASES = [
    (NearConstantVelocity(0.7), [[0, 1], [0, 0]], np.diag([0.0, 0.7])),
    (
        Cruise(0.02, 40.0, 30.0),
        [[0, 1, 1], [0, 0, 0], [0, 0, -1 / 30]],
        np.diag([0.0, 0.02, 2 * 1600 / 30]),
    ),
    (Level(0.3), [[0]], np.diag([0.3])),
]


@pytest.mark.parametrize(("motion", "A", "D"), CASES)
@pytest.mark.parametrize("dt", [0.01, 0.9, 3.5, 60.0])
def test_matrices_are_those_of_the_equation_in_continuous_time(motion, A, D, dt):
    F, Q = van_loan(np.array(A, float), D, dt)
    values = [torch.tensor(v, dtype=F64) for v in motion.values]
    lapse = torch.tensor(dt, dtype=F64)
    rows, noise = motion.transition(lapse, values), motion.noise(lapse, values)
    for a in range(motion.orders):
        for b in range(motion.orders):
            assert float(rows[a][b]) == pytest.approx(F[a, b], rel=1e-9, abs=1e-12)
            entry = float(noise[min(a, b)][max(a, b)])
            assert entry == pytest.approx(Q[a, b], rel=1e-6, abs=1e-10)


def test_the_excursion_keeps_its_digits_in_single_precision():
    motion = Cruise(1e-2, 40.0, 300.0)
    for dt in (0.1, 1.0, 29.0, 31.0, 500.0):
        found = []
        for dtype in (torch.float32, F64):
            values = [torch.tensor(v, dtype=dtype) for v in motion.values]
            noise = motion.noise(torch.tensor(dt, dtype=dtype), values)
            found.append([float(noise[a][b]) for a, b in ((0, 0), (0, 2), (2, 2))])
        np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_blind_reach_grows_like_the_root_of_the_time():
    motion = Cruise(1e-9, 40.0, 300.0)
    values = [torch.tensor(v, dtype=F64) for v in motion.values]
    ends = [
        float(motion.noise(torch.tensor(t, dtype=F64), values)[0][0])
        for t in (3e4, 3e5)
    ]
    assert float(ends[1] / ends[0]) == pytest.approx(10.0, rel=0.06)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NearConstantVelocity(0.0),
        lambda: NearConstantVelocity(1.0, axes=0),
        lambda: Cruise(tau=-1.0),
        lambda: Level(float("nan")),
    ],
)
def test_a_motion_without_sense_is_refused(make):
    with pytest.raises(ConfigurationError):
        make()
