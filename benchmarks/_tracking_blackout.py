"""A rover that was blind sees itself 700 m to the side: how long until it is back.

Nothing in the false fixes says that they are false, so nothing can refuse them; escape
is the test (after issues 64 and 117 of fusioncore, on which a robot stayed away).
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from _bench import Row
from _tracking_bank import Plane, Track
from _tracking_common import OURS, rows
from _tracking_ours import filter_plane
from _tracking_rules import RULES, Array
from _tracking_scenes import ROVER_AFTER, ROVER_BLIND, ROVER_SIGMA, blackout
from _tracking_tuning import Batch, Domain, filtered, score, tune

SIGMAS = [np.array([ROVER_SIGMA, ROVER_SIGMA])]
DOMAIN = Domain(
    Plane(2.0), SIGMAS, [(0.003,), (0.03,), (0.3,)], [(0.002, 0.1), (0.01, 1.0)]
)
QUICK = Domain(Plane(2.0), SIGMAS, [(0.03,)], [(0.01, 1.0)])
NEAR = 10.0  # metres, from then on, to have escaped
UNITS = {"escape": "s", "final error": "m"}
REPORT, TUNING = tuple(range(200, 220)), tuple(range(6))


def batch(seeds: Sequence[int], blind: float = ROVER_BLIND) -> Batch:
    """Simulate; scored is the time after the false fixes."""
    scene = blackout(seeds, blind)
    after = scene.t >= scene.t[-1] - ROVER_AFTER
    scored = np.broadcast_to(after, scene.bad.shape)
    return Batch(scene.t, scene.y, scene.truth[..., :2], scored)


def loss(square: Mapping[str, Array]) -> float:
    """Median error after the false fixes."""
    return float(np.median(next(iter(square.values()))))


def measure(quick: bool) -> Iterator[list[Row]]:
    """Tune every rule, then report.

    Args:
        quick: two seeds and three rules.

    Yields:
        The rows.
    """
    tuning, report = (TUNING[:2], REPORT[:2]) if quick else (TUNING, REPORT)
    domain = QUICK if quick else DOMAIN
    blind = 20.0 if quick else ROVER_BLIND
    seen, now = {"blackout": batch(tuning, blind)}, batch(report, blind)
    new = []
    for rule in list(RULES)[: 3 if quick else None]:
        for imm in (False, True):
            one, _ = tune(rule, imm, domain, seen, loss)
            track = filtered([one], now, domain.sensor)
            new += judged(one.name, Track(track.mean[0], track.cov[0]), now)
    t = np.broadcast_to(now.t, now.y.shape[:2])
    ours = filter_plane("rover", now.y, t, ROVER_SIGMA)
    yield new + judged(OURS, Track(ours.mean, ours.cov), now)


def judged(method: str, track: Track, now: Batch) -> list[Row]:
    """Seconds until a track is near for good, and how far off it ends."""
    error = np.sqrt(((track.mean - now.truth) ** 2).sum(-1))
    first = int(np.argmax(now.scored[0]))
    far = ~(error[:, first:] < NEAR)
    steps = far.shape[1] - np.argmax(far[:, ::-1], 1)
    steps = np.where(far.any(1), steps, 0)
    wait = np.where(far[:, -1], np.inf, steps * (now.t[1] - now.t[0]))
    before = np.broadcast_to(now.t < 60.0, now.scored.shape)
    covered = score(track, now.truth, before & ~np.isnan(now.y).any(-1)).covered
    values = {
        "escape": np.median(wait),
        "final error": np.median(error[:, -1]),
        "never back": int(far[:, -1].sum()),
        "coverage": covered.mean(),
    }
    found = rows("blackout", method, values, UNITS)
    return [row | {"seeds": len(wait)} for row in found]
