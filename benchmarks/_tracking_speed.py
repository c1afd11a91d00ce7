"""Microseconds a step and track: ours, and the packages of peers, warm, one thread.

The target and its sensor are those of the LiDAR. Packages without a batch are given one
track; what a track costs them does not depend on how many there are.
"""

import datetime
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from _bench import Row, interleaved
from _tracking_common import OURS, rows
from _tracking_ours import lidar_tracker, plain_tracker
from _tracking_packages import motion, package, stonesoup_parts
from _tracking_rules import Array
from _tracking_scenes import DT, REPORT, SIGMA, lidar, polar

from pyro_geo.density import Rung
from pyro_geo.filtering.tracker.blocks import lift_step

Q = (0.5, 60.0)
START = np.diag([4.0, 4.0, 100.0, 100.0])


class Runner(NamedTuple):
    """Something to time.

    Attributes:
        run: does the work once.
        steps: steps times tracks in a run.
        compiling: seconds that the first run took longer than the second.
    """

    run: Callable[[], object]
    steps: int
    compiling: float


def warm(run: Callable[[], object], steps: int) -> Runner:
    """Run twice, for what compiling costs."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return Runner(run, steps, max(0.0, times[0] - times[1]))


def reports(tracks: int, steps: int) -> tuple[Array, Array, Array]:
    """Times, reports and states at the first report, of repeated LiDAR targets."""
    scene = lidar("clean", REPORT)
    lane = np.arange(tracks) % len(REPORT)
    return scene.t[:steps], scene.y[lane, :steps], scene.truth[lane, 0]


def ours(tracks: int, steps: int, rung: Rung, plain: bool = False) -> Runner:
    """Steps of our tracker, or of the filter that it is without faults."""
    t, y, _ = reports(tracks, steps)
    tracker = plain_tracker(Q[0]) if plain else lidar_tracker()
    runs, params = tracker.runs, tracker.parameters_now()
    lanes = torch.as_tensor(y).permute(1, 2, 0).contiguous()
    seen = torch.ones(tracks, dtype=torch.bool)
    dt = torch.full((tracks,), DT)
    with torch.no_grad():
        first = runs.init(params, lanes[0], seen)
        examples = (params, first, lanes[0], seen, dt)
        start = time.perf_counter()
        step = lift_step(runs, torch.float64).specialise((), *examples, rung=rung)
        compiling = time.perf_counter() - start

    def run() -> object:
        belief, told = first, []
        for report in lanes:
            belief, info = step(params, belief, report, seen, dt)
            told.append(info)
        return told

    run()
    return Runner(run, steps * tracks, compiling)


def ours_filter(tracks: int, steps: int, rung: Rung, plain: bool = False) -> Runner:
    """The same as a user calls it, with a result of named axes."""
    t, y, _ = reports(tracks, steps)
    tracker = plain_tracker(Q[0]) if plain else lidar_tracker()
    times, seen = torch.as_tensor(t), torch.as_tensor(y)

    def run() -> object:
        compiled = rung == "compiled"
        return tracker.filter(seen, times, progress_bar=False, compile=compiled)

    return warm(run, tracks * steps)


def ukf(q: float, state: Array) -> Any:
    """Unscented filter of filterpy."""
    kalman = package("filterpy.kalman")
    F, Q = motion(DT, q)
    points = kalman.MerweScaledSigmaPoints(4, alpha=0.1, beta=2.0, kappa=-1.0)
    one = kalman.UnscentedKalmanFilter(4, 2, DT, polar, lambda x, dt: F @ x, points)
    one.x, one.P, one.Q, one.R = state.copy(), START.copy(), Q, np.diag(SIGMA**2)
    return one


def filterpy_ukf(tracks: int, steps: int, rung: Rung) -> Runner:
    """One unscented filter."""
    _, y, first = reports(1, steps)

    def run() -> None:
        one = ukf(Q[0], first[0])
        for report in y[0]:
            one.predict()
            one.update(report)

    return warm(run, steps)


def filterpy_imm(tracks: int, steps: int, rung: Rung) -> Runner:
    """Two unscented filters in an IMM."""
    kalman = package("filterpy.kalman")
    _, y, first = reports(1, steps)
    chain = np.array([[0.95, 0.05], [0.05, 0.95]])

    def run() -> None:
        imm = kalman.IMMEstimator([ukf(q, first[0]) for q in Q], [0.5, 0.5], chain)
        for report in y[0]:
            imm.predict()
            imm.update(report)

    return warm(run, steps)


def stonesoup_pda(tracks: int, steps: int, rung: Rung) -> Runner:
    """An extended filter with probabilistic data association."""
    judging = package("stonesoup.hypothesiser.probability")
    sensors = package("stonesoup.models.measurement.nonlinear")
    detection = package("stonesoup.types.detection")
    states = package("stonesoup.types.state")
    history = package("stonesoup.types.track")
    updaters = package("stonesoup.updater.kalman")
    fusing = package("stonesoup.updater.probability")
    _, y, first = reports(1, steps)
    _, predictor, _ = stonesoup_parts(DT, 1.0, Q[0])
    noise = np.diag(SIGMA[::-1] ** 2)
    measure = sensors.CartesianToBearingRange(4, (0, 2), noise)
    judge = judging.PDAHypothesiser(
        predictor, updaters.ExtendedKalmanUpdater(measure), 1e-3, 0.9
    )
    fuse = fusing.PDAUpdater(measure)
    begin = datetime.datetime(2000, 1, 1)
    times = [begin + datetime.timedelta(seconds=DT * k) for k in range(steps)]
    seen = [
        detection.Detection(r[::-1, None], timestamp=s, measurement_model=measure)
        for r, s in zip(y[0], times, strict=True)
    ]

    def run() -> None:
        state = first[0][[0, 2, 1, 3]][:, None]
        track = history.Track([states.GaussianState(state, START, begin)])
        for k in range(1, steps):
            hypotheses = judge.hypothesise(track, {seen[k]}, times[k])
            track.append(fuse.update(hypotheses))

    return warm(run, steps)


def pyro_ekf(tracks: int, steps: int, rung: Rung) -> Runner:
    """Pyro's `EKFState`, on positions: it has no range and bearing."""
    from pyro.contrib.tracking.dynamic_models import NcvContinuous
    from pyro.contrib.tracking.extended_kalman_filter import EKFState
    from pyro.contrib.tracking.measurements import PositionMeasurement

    _, y, first = reports(1, steps)
    place = y[0, :, :1] * np.stack([np.cos(y[0, :, 1]), np.sin(y[0, :, 1])], -1)
    seen, R = torch.as_tensor(place), torch.eye(2, dtype=torch.float64)
    model = NcvContinuous(4, torch.tensor(Q[0] / DT, dtype=torch.float64))

    def run() -> None:
        begin = (torch.as_tensor(first[0]), torch.as_tensor(START))
        state = EKFState(model, *begin, time=0.0)
        for report in seen:
            state = state.predict(DT)
            state, _ = state.update(PositionMeasurement(report, R, time=state.time))

    with torch.no_grad():
        return warm(torch.no_grad()(run), steps)


def jax() -> Any:
    """Import JAX with one thread and double precision."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("XLA_FLAGS", flags)
    lib = package("jax")
    lib.config.update("jax_enable_x64", True)
    return lib


def dynamax_ekf(tracks: int, steps: int, rung: Rung) -> Runner:
    """The extended filter of dynamax, mapped over tracks and compiled."""
    lib = jax()
    jnp = package("jax.numpy")
    ssm = package("dynamax.nonlinear_gaussian_ssm")
    _, y, first = reports(tracks, steps)
    F, noise = motion(DT, Q[0])
    fields = ["filtered_means", "filtered_covariances"]

    def report(x: Any) -> Any:
        return jnp.stack([jnp.hypot(x[0], x[1]), jnp.arctan2(x[1], x[0])])

    def one(state: Any, seen: Any) -> Any:
        model = ssm.ParamsNLGSSM(
            state, START, lambda x: F @ x, noise, report, np.diag(SIGMA**2)
        )
        found = ssm.extended_kalman_filter(model, seen, output_fields=fields)
        return found.filtered_means, found.filtered_covariances

    run = lib.jit(lib.vmap(one))
    state, seen = lib.device_put(first), lib.device_put(y)
    return warm(lambda: lib.block_until_ready(run(state, seen)), tracks * steps)


def cuthbert_kf(tracks: int, steps: int, rung: Rung) -> Runner:
    """The square-root Kalman filter of cuthbert, on positions, mapped and compiled."""
    lib = jax()
    cuthbert = package("cuthbert")
    jnp = package("jax.numpy")
    kalman = package("cuthbert.gaussian.kalman")
    _, y, first = reports(tracks, steps)
    F, noise = motion(DT, Q[0])
    root, H = np.linalg.cholesky(noise), np.eye(2, 4)
    place = y[..., :1] * np.stack([np.cos(y[..., 1]), np.sin(y[..., 1])], -1)

    def one(state: Any, seen: Any) -> Any:
        found = kalman.build_filter(
            state,
            jnp.sqrt(START),
            lambda i: (jnp.asarray(F), jnp.zeros(4), jnp.asarray(root)),
            lambda i: (jnp.asarray(H), jnp.zeros(2), jnp.eye(2), seen[i]),
        )
        states = cuthbert.filter(found, jnp.arange(steps), found.init_prepare())
        return states.mean, states.chol_cov

    run = lib.jit(lib.vmap(one))
    state, seen = lib.device_put(first), lib.device_put(place)
    return warm(lambda: lib.block_until_ready(run(state, seen)), tracks * steps)


Make = Callable[[int, int, Rung], Runner]
MANY = 256
PLAIN = f"{OURS} without faults"
TIMED: dict[str, tuple[Make, int]] = {
    f"{OURS}, 256 tracks": (ours, MANY),
    f"{OURS}, one track": (ours, 1),
    f"{PLAIN}, 256 tracks": (lambda *args: ours(*args, plain=True), MANY),
    f"{OURS}.filter, 256 tracks": (ours_filter, MANY),
    f"{OURS}.filter, one track": (ours_filter, 1),
    f"{PLAIN}.filter, 256 tracks": (lambda *args: ours_filter(*args, plain=True), MANY),
    "dynamax EKF, 256 tracks": (dynamax_ekf, MANY),
    "cuthbert square-root Kalman filter, 256 tracks": (cuthbert_kf, MANY),
    "filterpy IMM of two UKF": (filterpy_imm, 1),
    "filterpy UKF": (filterpy_ukf, 1),
    "stonesoup EKF with PDA": (stonesoup_pda, 1),
    "Pyro EKFState": (pyro_ekf, 1),
}


def measure(quick: bool) -> Iterator[list[Row]]:
    """Time all, interleaved.

    Args:
        quick: few steps and repetitions.

    Yields:
        The rows of all.
    """
    steps, rung = (4, "traced") if quick else (300, "compiled")
    made: dict[str, Runner] = {}
    new: list[Row] = []
    for name, (make, tracks) in TIMED.items():
        try:
            made[name] = make(tracks, steps, rung)
        except ImportError:
            new += rows("speed", name, {"time a step and track": "not installed"}, {})
    times = interleaved(
        {name: one.run for name, one in made.items()},
        repetitions=2 if quick else 7,
        seconds=0.0 if quick else 0.2,
    )
    units = {"processor": "us", "wall": "us", "compiling": "s"}
    for name, one in made.items():
        values = {
            "processor": 1e6 * times[name].cpu / one.steps,
            "wall": 1e6 * times[name].wall / one.steps,
            "compiling": one.compiling,
        }
        new += rows("speed", name, values, units)
    yield new
