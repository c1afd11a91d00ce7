"""Hold the robust rules over lanes against the package that each is taken from."""

from collections.abc import Iterator

import numpy as np
from _bench import Row
from _tracking_bank import Plane, Setting, run
from _tracking_common import row
from _tracking_packages import PEERS, SPEED
from _tracking_rules import Array
from _tracking_scenes import stream

DT, SIGMA, Q = 0.5, 2.0, 0.3


def reports(steps: int) -> Array:
    """Reports of a steady target; every eighth is 20 m off."""
    rng = stream(0, "checks")
    y = np.outer(np.arange(steps) * DT, [3.0, -2.0])
    y += SIGMA * rng.normal(size=y.shape)
    y[5::8] += 20.0
    return y


def measure(quick: bool) -> Iterator[list[Row]]:
    """Compare each package with our rule of the same name.

    Args:
        quick: few reports.

    Yields:
        The rows: largest difference between positions.
    """
    y = reports(20 if quick else 100)
    t = DT * np.arange(len(y))
    new = []
    for name, (peer, rule, imm, level) in PEERS.items():
        q = np.array([[Q, 100.0 * Q]] if imm else [[Q]])
        noise = np.full((1, 2), SIGMA)
        setting = Setting(q, noise, np.array([level]), np.array([np.inf]))
        ours = run(y[None], t, Plane(SPEED), rule, setting).mean[0]
        try:
            value: float | str = np.abs(peer(y, DT, SIGMA, Q) - ours).max()
        except ImportError:
            value = "not installed"
        metric = "largest difference from the rule over lanes"
        new.append(row("checks", name, metric, value, "m"))
    yield new
