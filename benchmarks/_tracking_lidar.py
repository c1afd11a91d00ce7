"""A LiDAR target under ten kinds of fault: every robust rule, ours, and an oracle.

Every rule has one setting for all cases, chosen on the tuning split, as ours has one
preset; what it reaches when it is chosen anew for each kind of fault stands beside.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from _bench import Row
from _tracking_bank import Polar, Track
from _tracking_common import ORACLE, OURS, rows
from _tracking_ours import filter_lidar
from _tracking_rules import RULES, Array
from _tracking_scenes import LIDAR, REPORT, SIGMA, TUNE, lidar
from _tracking_tuning import Batch, Choice, Domain, Score, score, scores, tune

DOMAIN = Domain(
    Polar(),
    [SIGMA],
    [(1.0,), (5.0,), (20.0,), (60.0,)],
    [(0.05, 8.0), (0.1, 20.0), (0.5, 60.0), (2.0, 100.0)],
)
QUICK = Domain(Polar(), [SIGMA], [(5.0,)], [(0.1, 20.0)])
PER_CASE = ", tuned per case"
LOST = 10.0  # metres off at the end


def batch(case: str, seeds: Sequence[int], steps: int | None, clean: bool) -> Batch:
    """Simulate a case; `clean` removes every bad report."""
    scene = lidar(case, seeds)
    y = np.where(scene.bad[..., None], np.nan, scene.y) if clean else scene.y
    truth = scene.truth[..., :2]
    cut = slice(None, steps)
    scored = np.ones(scene.bad.shape, bool)
    return Batch(scene.t[cut], y[:, cut], truth[:, cut], scored[:, cut])


def loss(squares: Mapping[str, Array]) -> float:
    """Mean over cases of the logarithm of the median error."""
    return float(np.mean([np.log(np.median(s)) for s in squares.values()]))


def measure(quick: bool) -> Iterator[list[Row]]:
    """Tune every rule, then report every case.

    Args:
        quick: two seeds of a short track, and one model of motion.

    Yields:
        The rows of each case.
    """
    domain, steps = (QUICK, 60) if quick else (DOMAIN, None)
    tuning, report = (TUNE[:2], REPORT[:2]) if quick else (TUNE, REPORT)
    cases = ("clean", "burst", "mixed") if quick else LIDAR
    seen = {case: batch(case, tuning, steps, False) for case in cases}
    cleaned = {case: batch(case, tuning, steps, True) for case in cases}
    found = [
        tune(rule, imm, domain, seen, loss) for rule in RULES for imm in (False, True)
    ]
    oracle, _ = tune("Kalman", True, domain, cleaned, loss)
    for case in cases:
        now = batch(case, report, steps, False)
        new = []
        for one, own in found:
            new += measured(case, one, now, domain)
            new += measured(case, own[case], now, domain, PER_CASE)
        bare = batch(case, report, steps, True)
        new += judged(case, ORACLE, scores([oracle], bare, domain.sensor))
        new += judged(case, OURS, our_score(now))
        yield new


def our_score(now: Batch) -> Score:
    """Score our tracker."""
    found = filter_lidar(now.y, now.t)
    return score(Track(found.mean, found.cov), now.truth, now.scored)


def measured(
    case: str, choice: Choice, now: Batch, domain: Domain, how: str = ""
) -> list[Row]:
    """Score one setting of one rule."""
    return judged(case, choice.name + how, scores([choice], now, domain.sensor))


def judged(case: str, method: str, found: Score) -> list[Row]:
    """Report the median error over tracks, the coverage and the tracks that failed."""
    error = np.sqrt(np.ravel(found.square))
    values = {
        "rmse": np.median(error),
        "coverage": np.mean(found.covered),
        "tracks that failed": int((error > LOST).sum()),
    }
    found_rows = rows(f"lidar_{case}", method, values, {"rmse": "m"})
    return [row | {"seeds": error.size} for row in found_rows]
