"""A bank of filters over lanes: one model of motion or several (IMM), one robust rule.

The tracks, and the settings that are compared, are lanes of one batch.
"""

from typing import NamedTuple, Protocol

import numpy as np
from _tracking_rules import RULES, Innovation, inverse, quadratic
from _tracking_scenes import Array, Flags, polar


class Sensor(Protocol):
    """How reports come from positions.

    Attributes:
        speed: deviation of the velocity that a track starts with.
    """

    speed: float

    def predict(self, position: Array) -> Array:
        """Report of positions `(*batch, 2)`."""
        ...

    def slope(self, position: Array) -> Array:
        """Derivative of the report, `(*batch, 2, 2)`."""
        ...

    def place(self, y: Array) -> Array:
        """Position of a report."""
        ...


class Polar:
    """Range and bearing from the origin."""

    speed = 10.0

    def predict(self, position: Array) -> Array:
        """Report of positions `(*batch, 2)`."""
        return polar(position)

    def slope(self, position: Array) -> Array:
        """Derivative of the report, `(*batch, 2, 2)`."""
        x, y = position[..., 0], position[..., 1]
        r = np.hypot(x, y)
        rows = [np.stack([x / r, y / r], -1), np.stack([-y / r**2, x / r**2], -1)]
        return np.stack(rows, -2)

    def place(self, y: Array) -> Array:
        """Position of a report."""
        return y[..., :1] * np.stack([np.cos(y[..., 1]), np.sin(y[..., 1])], -1)


class Plane:
    """The position itself, in a plane.

    Args:
        speed: deviation of the velocity that a track starts with.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed

    def predict(self, position: Array) -> Array:
        """Report of positions `(*batch, 2)`."""
        return position

    def slope(self, position: Array) -> Array:
        """Derivative of the report, `(*batch, 2, 2)`."""
        return np.broadcast_to(np.eye(2), (*position.shape, 2))

    def place(self, y: Array) -> Array:
        """Position of a report."""
        return y


class Setting(NamedTuple):
    """Settings of lanes.

    Attributes:
        q: intensity of the acceleration of each model of motion, `(lanes, D)`.
        sigma: deviations of the noise, `(lanes, 2)`.
        level: of the rule, `(lanes,)`.
        patience: rejected reports in a row before a restart, `(lanes,)`.
    """

    q: Array
    sigma: Array
    level: Array
    patience: Array


class Track(NamedTuple):
    """Positions that a filter found.

    Attributes:
        mean: `(lanes, time, 2)`.
        cov: `(lanes, time, 2, 2)`.
    """

    mean: Array
    cov: Array


STAY = 0.95  # probability that the model of motion stays for a report


class State(NamedTuple):
    """Moments of each model of motion, and its probability."""

    x: Array  # (lanes, D, 4): position, velocity
    P: Array  # (lanes, D, 4, 4)
    mu: Array  # (lanes, D)


def outer(a: Array) -> Array:
    """Product of vectors with themselves."""
    return a[..., :, None] * a[..., None, :]


def merged(w: Array, x: Array, P: Array) -> tuple[Array, Array]:
    """Moments of a mixture over the axis before that of the state."""
    mean = (w[..., None] * x).sum(-2)
    spread = P + outer(x - mean[..., None, :])
    return mean, (w[..., None, None] * spread).sum(-3)


def start(y: Array, sensor: Sensor, setting: Setting) -> State:
    """Start at reports `(lanes, 2)`, at rest but for a wide velocity."""
    place = sensor.place(y)
    lanes, D = setting.q.shape
    x = np.concatenate([place, np.zeros_like(place)], -1)
    back = inverse(sensor.slope(place))
    P = np.zeros((lanes, 4, 4))
    P[:, :2, :2] = back @ outer_noise(setting) @ back.swapaxes(-1, -2)
    P[:, 2, 2] = P[:, 3, 3] = sensor.speed**2
    repeat = (lanes, D)
    return State(
        np.broadcast_to(x[:, None], (*repeat, 4)),
        np.broadcast_to(P[:, None], (*repeat, 4, 4)),
        np.full(repeat, 1.0 / D),
    )


def outer_noise(setting: Setting) -> Array:
    """Covariance of the noise of lanes."""
    return setting.sigma[..., None] ** 2 * np.eye(2)


def predict(state: State, dt: Array, setting: Setting) -> State:
    """Mix the models (IMM), and move each by near-constant velocity."""
    x, P, mu = state
    D = mu.shape[1]
    if D > 1:
        chain = STAY * np.eye(D) + (1 - STAY) / (D - 1) * (1 - np.eye(D))
        joint = mu[:, :, None] * chain  # from, to
        mu = joint.sum(1)
        share = (joint / mu[:, None]).swapaxes(1, 2)
        x, P = merged(share, x[:, None], P[:, None])
    F = np.zeros((len(dt), 1, 4, 4)) + np.eye(4)
    F[:, 0, 0, 2] = F[:, 0, 1, 3] = dt
    Q = np.zeros((*mu.shape, 4, 4))
    step = dt[:, None]
    for i in (0, 1):
        Q[..., i, i] = setting.q * step**3 / 3
        Q[..., i, i + 2] = Q[..., i + 2, i] = setting.q * step**2 / 2
        Q[..., i + 2, i + 2] = setting.q * step
    return State((F @ x[..., None])[..., 0], F @ P @ F.swapaxes(-1, -2) + Q, mu)


def update(
    state: State, y: Array, sensor: Sensor, rule: str, setting: Setting
) -> tuple[State, Array]:
    """Hold a report against every model by the rule; lanes without one keep still.

    Returns:
        The state, and how much of the update each lane made.
    """
    x, P, mu = state
    R = outer_noise(setting)[:, None]
    place = x[..., :2]
    H = sensor.slope(place)
    nu = y[:, None] - sensor.predict(place)
    seen = np.asarray(~np.isnan(y).any(-1))
    nu = np.where(seen[:, None, None], nu, 0.0)
    HPH = H @ P[..., :2, :2] @ H.swapaxes(-1, -2)
    centre, spread = merged(mu, nu, HPH + R)
    found = Innovation(
        nu,
        HPH + R,
        HPH,
        np.broadcast_to(R, HPH.shape),
        quadratic(spread, centre)[:, None],
        quadratic(R[:, 0], centre)[:, None],
    )
    verdict = RULES[rule](found, setting.level[:, None])
    share = np.broadcast_to(verdict.share * seen[:, None], mu.shape)
    S = HPH + verdict.scale[..., None, None] * R
    PH = P[..., :2] @ H.swapaxes(-1, -2)
    K = PH @ inverse(S)
    move = (K @ nu[..., None])[..., 0]
    part = share[..., None, None]
    P = P - part * (K @ PH.swapaxes(-1, -2)) + part * (1 - part) * outer(move)
    log_mu = np.log(mu + 1e-300) + verdict.evidence * seen[:, None]
    weight = np.exp(log_mu - log_mu.max(1, keepdims=True))
    P = 0.5 * (P + P.swapaxes(-1, -2))
    weight = weight / weight.sum(1, keepdims=True)
    return State(x + share[..., None] * move, P, weight), share.max(1)


def run(y: Array, t: Array, sensor: Sensor, rule: str, setting: Setting) -> Track:
    """Filter reports by one rule, alone or inside an IMM.

    Args:
        y: reports, `(lanes, time, 2)`, NaN where there is none.
        t: seconds, `(time,)` or `(lanes, time)`.
        sensor: how reports come from positions.
        rule: one of `RULES`.
        setting: of every lane; more than one `q` makes an IMM.

    Returns:
        Positions; NaN before the first report.
    """
    lanes, steps = y.shape[:2]
    dt = np.diff(np.broadcast_to(t, (lanes, steps)), prepend=np.nan)
    state = start(np.zeros((lanes, 2)) + 1.0, sensor, setting)
    begun, refused = np.zeros(lanes, bool), np.zeros(lanes)
    means = np.full((lanes, steps, 2), np.nan)
    covs = np.full((lanes, steps, 2, 2), np.nan)
    with np.errstate(all="ignore"):
        for k in range(steps):
            seen = ~np.isnan(y[:, k]).any(-1)
            ahead = predict(state, np.where(begun, dt[:, k], 0.0), setting)
            state, share = update(ahead, y[:, k], sensor, rule, setting)
            refused = np.where(seen, np.where(share > 0.5, 0.0, refused + 1), refused)
            fresh = seen & (~begun | (refused > setting.patience))
            if fresh.any():
                new = start(y[:, k], sensor, setting)
                state = State(*map(select, [fresh] * 3, new, state))
            begun, refused = begun | seen, np.where(fresh, 0.0, refused)
            mean, cov = merged(state.mu, state.x, state.P)
            means[begun, k], covs[begun, k] = mean[begun, :2], cov[begun, :2, :2]
    return Track(means, covs)


def select(where: Flags, new: Array, old: Array) -> Array:
    """Take some lanes from one array, the rest from another."""
    return np.where(where.reshape(-1, *[1] * (new.ndim - 1)), new, old)
