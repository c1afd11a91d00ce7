"""Recorded flights whose sensors lied: stuck receivers, a deceived one, and decoys.

Settings of every rule are chosen once, on the stuck windows for tuning, and used on all
three recordings, as ours has one preset for stuck receivers and one for cruise.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from _bench import Row
from _tracking_bank import Plane, Track
from _tracking_common import MISSING, OURS, rows
from _tracking_ours import filter_plane
from _tracking_recordings import (
    DECEIVED,
    FALSE,
    Spoofed,
    Stuck,
    available,
    cruise,
    repeats,
    spoofed,
    stuck,
)
from _tracking_rules import RULES, Array, Flags
from _tracking_scenes import Scene
from _tracking_tuning import Batch, Choice, Domain, filtered, score, tune

NOISE = 30.0  # metres, of the presets
DOMAIN = Domain(
    Plane(250.0),
    [np.array([s, s]) for s in (10.0, 30.0, 60.0)],
    [(0.2,), (0.5,), (3.0,), (10.0,)],
    [(0.02, 5.0), (0.1, 20.0), (0.5, 60.0)],
)
QUICK = Domain(Plane(250.0), [np.array([30.0, 30.0])], [(3.0,)], [(0.1, 20.0)])
REMOVED = ", repeats removed by hand"
UNITS = {
    "rmse": "m",
    "captured": "s",
    "error before the truth returns": "m",
    "back on the track": "s",
    "least severed of the false reports": "nat",
}
BACK = 300.0  # metres from the truth
NEAR = 0.25  # of the way from the decoy to the truth, to be captured by it
LOST = 500.0  # metres from it half a minute after the decoy


def pooled(square: Array, number: Array) -> float:
    """Root of the mean over bursts of their mean squared errors."""
    square = np.where(np.isfinite(square), square, 1e18)
    runs = np.unique(number[number >= 0])
    return float(np.sqrt(np.mean([square[number == run].mean() for run in runs])))


def squares(track: Track, truth: Array) -> Array:
    """Squared errors, `(tracks, time)`."""
    with np.errstate(all="ignore"):
        return ((track.mean - truth) ** 2).sum(-1)


def without_repeats(batch: Batch) -> Batch:
    """Drop every report that equals the one before."""
    return batch._replace(y=np.where(repeats(batch.y)[..., None], np.nan, batch.y))


def followed(track: Track, y: Array, truth: Array) -> Flags:
    """Where a track is nearer to a report than to the truth."""
    with np.errstate(all="ignore"):
        return squares(track, y) < squares(track, truth)


def weights(found: Stuck) -> Array:
    """Weigh the reports of each burst so that all bursts count alike."""
    weight = np.zeros(found.burst.shape)
    for run in np.unique(found.burst[found.burst >= 0]):
        inside = found.burst == run
        weight[inside] = 1.0 / inside.sum()
    return weight


def chosen(
    found: Stuck, domain: Domain, rules: Mapping[str, object]
) -> list[tuple[Choice, Choice]]:
    """Tune every rule, and again where the repeats were removed."""
    bursts = np.array([len(np.unique(row[row >= 0])) for row in found.burst])

    def loss(square: Mapping[str, Array]) -> float:
        return float(sum((bursts * each)[bursts > 0].sum() for each in square.values()))

    seen = found.batch._replace(scored=weights(found))
    both = {"as reported": seen, "without repeats": without_repeats(seen)}
    pairs = []
    for rule in rules:
        for imm in (False, True):
            _, own = tune(rule, imm, domain, both, loss)
            pairs.append((own["as reported"], own["without repeats"]))
    return pairs


def only(choice: Choice, batch: Batch, domain: Domain) -> Track:
    """Run one setting."""
    return Track(*(a[0] for a in filtered([choice], batch, domain.sensor)))


def measure(quick: bool) -> Iterator[list[Row]]:
    """Report the three recordings.

    Args:
        quick: few windows, three rules, and a part of the flight.

    Yields:
        The rows of each recording.
    """
    paths = {name: available(name) for name in ("stuck", "spoofed", "cruise")}
    domain = QUICK if quick else DOMAIN
    rules = dict(list(RULES.items())[:3]) if quick else RULES
    if paths["stuck"] is None:
        for case in paths:
            yield rows(case, OURS, {"rmse": MISSING}, UNITS)
        return
    tuning, report = (shorter(stuck(paths["stuck"], b), quick) for b in (True, False))
    pairs = chosen(tuning, domain, rules)
    yield stuck_rows(report, pairs, domain)
    if paths["spoofed"] is not None:
        yield spoofed_rows(spoofed(paths["spoofed"]), pairs, domain, quick)
    if paths["cruise"] is not None:
        seeds = range(4) if quick else range(200)
        yield decoy_rows(cruise(paths["cruise"], seeds), pairs, domain)


def shorter(found: Stuck, quick: bool) -> Stuck:
    """Keep three windows, for a quick run."""
    if not quick:
        return found
    few = slice(0, 3)
    batch = Batch(*(a[few] for a in found.batch))
    return Stuck(batch, found.bad[few], found.burst[few])


def stuck_rows(
    found: Stuck, pairs: list[tuple[Choice, Choice]], domain: Domain
) -> list[Row]:
    """Errors in bursts, and bursts at whose end the track is at the old position."""
    new = []
    bare = without_repeats(found.batch)
    for one, other in pairs:
        new += stuck_row(found, one.name, only(one, found.batch, domain))
        name = other.name + REMOVED
        new += stuck_row(found, name, only(other, bare, domain))
    ours = filter_plane("terminal", found.batch.y, found.batch.t, NOISE)
    return new + stuck_row(found, OURS, Track(ours.mean, ours.cov))


def stuck_row(found: Stuck, method: str, track: Track) -> list[Row]:
    """Judge one method on the stuck windows."""
    seen = found.batch
    judged = score(track, seen.truth, seen.scored)
    weight = seen.scored.sum(-1)
    lured = followed(track, seen.y, seen.truth) & found.bad
    ends = []
    for run in np.unique(found.burst[found.burst >= 0]):
        last = np.argwhere((found.burst == run) & found.bad)
        ends += [lured[tuple(last[-1])]] if len(last) else []
    values = {
        "rmse": pooled(squares(track, seen.truth), found.burst),
        "coverage": (judged.covered * weight).sum() / weight.sum(),
        "share captured": np.mean(ends),
    }
    return rows("stuck", method, values, UNITS)


def spoofed_rows(
    flight: Spoofed, pairs: list[tuple[Choice, Choice]], domain: Domain, quick: bool
) -> list[Row]:
    """Seconds at the decoy, and how soon a track is back when the truth is."""
    if quick:
        keep = slice(np.searchsorted(flight.t, DECEIVED[0] - 300), None, 8)
        flight = Spoofed(*(a[keep] for a in flight))
    y = np.where(repeats(flight.y)[:, None], np.nan, flight.y)
    both = np.stack([flight.y, y])
    lanes = Batch(flight.t, both, both, np.ones(both.shape[:2], bool))
    new = []
    for one, _ in pairs:
        track = only(one, lanes, domain)
        for i, how in enumerate(("", REMOVED)):
            found = Track(track.mean[i], track.cov[i])
            new += spoofed_row(flight, one.name + how, found, {})
    ours = filter_plane("en_route", flight.y[None], flight.t[None], NOISE)
    severed = ours.severed[0][flight.false].min()
    least = {"least severed of the false reports": severed}
    return new + spoofed_row(flight, OURS, Track(ours.mean[0], ours.cov[0]), least)


def spoofed_row(
    flight: Spoofed, method: str, track: Track, more: Mapping[str, object]
) -> list[Row]:
    """Judge one method on the deceived flight."""
    t = flight.t
    error = np.sqrt(squares(track, flight.truth))
    inside = (t >= FALSE[0]) & (t < DECEIVED[1])
    lured = followed(track, flight.y, flight.truth) & inside
    held = np.diff(t, append=t[-1])
    after = (t >= DECEIVED[1]) & (error < BACK)
    values = {
        "captured": held[lured].sum(),
        "error before the truth returns": error[t < DECEIVED[1]][-1],
        "back on the track": t[after][0] - DECEIVED[1] if after.any() else np.inf,
        **more,
    }
    return rows("spoofed", method, values, UNITS)


def decoy_rows(
    scene: Scene, pairs: list[tuple[Choice, Choice]], domain: Domain
) -> list[Row]:
    """Shares of tracks at the decoy when it ends, and off the truth later."""
    truth = scene.truth[..., :2]
    batch = Batch(scene.t, scene.y, truth, ~scene.bad)
    new = []
    for one, _ in pairs:
        new += decoy_row(scene, one.name, only(one, batch, domain))
    t = np.broadcast_to(scene.t, scene.bad.shape)
    ours = filter_plane("en_route", scene.y, t, NOISE)
    return new + decoy_row(scene, OURS, Track(ours.mean, ours.cov))


def decoy_row(scene: Scene, method: str, track: Track) -> list[Row]:
    """Judge one method on the decoys."""
    truth = scene.truth[..., :2]
    last = scene.bad.shape[1] - 1 - scene.bad[:, ::-1].argmax(1)
    lane = np.arange(len(last))
    error = np.sqrt(squares(track, truth))
    later = np.minimum(last + 30, error.shape[1] - 1)
    good = ~scene.bad & ~np.isnan(scene.y).any(-1)
    apart = np.hypot(*(scene.y - truth)[lane, last].T)
    aside = np.hypot(*(track.mean - scene.y)[lane, last].T)
    values = {
        "share captured": (aside < NEAR * apart).mean(),
        "share lost": (~(error[lane, later] < LOST)).mean(),
        "coverage": score(track, truth, good).covered.mean(),
    }
    return [row | {"seeds": len(last)} for row in rows("decoys", method, values, UNITS)]
