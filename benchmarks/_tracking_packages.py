"""Peers' own packages on reports of positions: means of all steps, `(time, 2)`.

Every function filters reports `y`, `(time, 2)`, that come every `dt` seconds with
deviation `sigma`, by near-constant velocity of intensity `q`. The state starts at the
first report. A package that is missing raises an ImportError when it is called.
"""

import datetime
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _tracking_bank import STAY
from _tracking_rules import Array

Peer = Callable[[Array, float, float, float], Array]
SPEED = 250.0  # deviation of the velocity at the start
STUDENT, HUBER, INFLATE = 3.0, 1.5, 4.0
CLUTTER = 5.0  # nats below the highest density of the noise
DETECTION = 0.9


def package(name: str) -> Any:
    """Import a package that may be missing."""
    return importlib.import_module(name)


def motion(dt: float, q: float) -> tuple[Array, Array]:
    """Matrix and noise of near-constant velocity, for x, y, vx, vy."""
    F, Q = np.eye(4), np.zeros((4, 4))
    for i in (0, 1):
        F[i, i + 2] = dt
        Q[i, i], Q[i + 2, i + 2] = q * dt**3 / 3, q * dt
        Q[i, i + 2] = Q[i + 2, i] = q * dt**2 / 2
    return F, Q


def begin(y: Array, sigma: float) -> tuple[Array, Array]:
    """Moments at the first report."""
    return np.array([*y, 0.0, 0.0]), np.diag([sigma**2] * 2 + [SPEED**2] * 2)


def filterpy_imm(y: Array, dt: float, sigma: float, q: float) -> Array:
    """Filter by an IMM of filterpy with intensities `q` and 100 `q`."""
    kalman = package("filterpy.kalman")
    filters = []
    for each in (q, 100.0 * q):
        one = kalman.KalmanFilter(dim_x=4, dim_z=2)
        one.x, one.P = begin(y[0], sigma)
        one.F, one.Q = motion(dt, each)
        one.H, one.R = np.eye(2, 4), sigma**2 * np.eye(2)
        filters.append(one)
    chain = np.array([[STAY, 1 - STAY], [1 - STAY, STAY]])
    imm = kalman.IMMEstimator(filters, [0.5, 0.5], chain)
    means = [y[0]]
    for report in y[1:]:
        imm.predict()
        imm.update(report)
        means.append(imm.x[:2].copy())
    return np.array(means)


def pyrecest_rule(name: str, **options: float) -> Peer:
    """Make a filter by one of the robust updates of pyrecest."""

    def run(y: Array, dt: float, sigma: float, q: float) -> Array:
        filters = package("pyrecest.filters")
        mean, cov = begin(y[0], sigma)
        one = filters.KalmanFilter((mean, cov))
        F, Q = motion(dt, q)
        means = [y[0]]
        for report in y[1:]:
            one.predict_linear(F, Q)
            one.update_linear_robust(
                report,
                np.eye(2, 4),
                sigma**2 * np.eye(2),
                robust_update=name,
                **options,
            )
            means.append(np.array(one.get_point_estimate())[:2])
        return np.array(means)

    return run


def pyro_ekf(y: Array, dt: float, sigma: float, q: float) -> Array:
    """Filter by Pyro's `EKFState`."""
    from pyro.contrib.tracking.dynamic_models import NcvContinuous
    from pyro.contrib.tracking.extended_kalman_filter import EKFState
    from pyro.contrib.tracking.measurements import PositionMeasurement

    mean, cov = map(torch.as_tensor, begin(y[0], sigma))
    # Pyro multiplies the intensity by the time between reports
    model = NcvContinuous(4, torch.tensor(q / dt, dtype=torch.float64))
    state = EKFState(model, mean, cov, time=0.0)
    R = sigma**2 * torch.eye(2, dtype=torch.float64)
    means = [y[0]]
    for report in y[1:]:
        state = state.predict(dt)
        seen = PositionMeasurement(torch.as_tensor(report), R, time=state.time)
        state, _ = state.update(seen)
        means.append(state.mean[:2].detach().numpy())
    return np.array(means)


def stonesoup_parts(dt: float, sigma: float, q: float) -> tuple[Any, Any, Any]:
    """Motion, measurement and updater of Stone Soup; x, vx, y, vy there."""
    sensors = package("stonesoup.models.measurement.linear")
    motions = package("stonesoup.models.transition.linear")
    predictors = package("stonesoup.predictor.kalman")
    updaters = package("stonesoup.updater.kalman")
    axis = motions.ConstantVelocity(q)
    move = motions.CombinedLinearGaussianTransitionModel([axis, axis])
    measure = sensors.LinearGaussian(4, (0, 2), sigma**2 * np.eye(2))
    return (
        measure,
        predictors.ExtendedKalmanPredictor(move),
        updaters.ExtendedKalmanUpdater(measure),
    )


def stonesoup_pda(y: Array, dt: float, sigma: float, q: float) -> Array:
    """Filter by probabilistic data association of Stone Soup."""
    judging = package("stonesoup.hypothesiser.probability")
    detection = package("stonesoup.types.detection")
    states = package("stonesoup.types.state")
    history = package("stonesoup.types.track")
    fusing = package("stonesoup.updater.probability")
    measure, predictor, updater = stonesoup_parts(dt, sigma, q)
    density = np.exp(-CLUTTER) / (2 * np.pi * sigma**2)
    judge = judging.PDAHypothesiser(
        predictor,
        updater,
        clutter_spatial_density=density,
        prob_detect=DETECTION,
        prob_gate=1.0,
        include_all=True,
    )
    fuse = fusing.PDAUpdater(measure)
    order = [0, 2, 1, 3]
    mean, cov = begin(y[0], sigma)
    now = datetime.datetime(2000, 1, 1)
    state = states.GaussianState(mean[order][:, None], cov[np.ix_(order, order)], now)
    track, means = history.Track([state]), [y[0]]
    for report in y[1:]:
        now += datetime.timedelta(seconds=dt)
        seen = detection.Detection(
            report[:, None], timestamp=now, measurement_model=measure
        )
        track.append(fuse.update(judge.hypothesise(track, {seen}, now)))
        means.append(np.asarray(track.mean[[0, 2]], float).ravel())
    return np.array(means)


PEERS: dict[str, tuple[Peer, str, bool, float]] = {
    "filterpy IMM": (filterpy_imm, "Kalman", True, 0.0),
    "pyrecest Student-t": (
        pyrecest_rule("student-t", student_t_dof=STUDENT),
        "Student-t",
        False,
        STUDENT,
    ),
    "pyrecest Huber": (
        pyrecest_rule("huber", huber_threshold=HUBER),
        "Huber",
        False,
        HUBER,
    ),
    "pyrecest NIS-inflate": (
        pyrecest_rule("nis-inflate", gate_threshold=INFLATE),
        "NIS-inflate",
        False,
        INFLATE,
    ),
    "Pyro EKFState": (pyro_ekf, "Kalman", False, 0.0),
    "stonesoup PDA": (stonesoup_pda, "PDA", False, CLUTTER),
}
