"""The headline comparisons of the benchmark on trackers."""

from collections.abc import Mapping, Sequence

from _bench import Row, against_aims
from _tracking_adsb import REMOVED
from _tracking_common import ORACLE, OURS
from _tracking_lidar import PER_CASE
from _tracking_scenes import LIDAR

BEST = "rmse/lidar_{}/best"
AT_MOST = {
    BEST.format("burst"): 0.40,
    BEST.format("mixed"): 0.50,
    BEST.format("wander"): 0.45,
    BEST.format("ghost"): 0.50,
    BEST.format("iid"): 0.70,
    BEST.format("long"): 0.25,
    "rmse/lidar_clean/filterpy_imm": 1.01,
    BEST.format("clutter"): 1.10,
    "rmse/lidar_burst/oracle": 0.90,
    "rmse/lidar_mixed/oracle": 1.0,
    "rmse/stuck/best": 0.70,
    "rmse/stuck/repeats_removed": 1.15,
    "captured/stuck": 0.0,
    "captured_s/spoofed": 0.0,
    "back_s/spoofed": 5.0,
    "captured/decoys": 0.01,
    "lost/decoys": 0.01,
    "escape_s/blackout": 30.0,
    "final_error/blackout": 5.0,
}
AT_LEAST = {
    "severed_least/spoofed": 10.0,
    "us/filterpy_imm@256": 100.0,
    "us/dynamax_ekf@256": 1.0,
    "us/filterpy_imm@1": 1.0,
}
COVERAGE = (0.90, 0.995)

Figures = Mapping[tuple[str, str, str], float]


def figures(rows: Sequence[Row]) -> dict[tuple[str, str, str], float]:
    """Look numbers up by case, method and metric."""
    return {
        (row["case"], row["method"], row["metric"]): row["value"]
        for row in rows
        if isinstance(row.get("value"), int | float)
    }


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Compare ours with the best of the others.

    Args:
        rows: everything measured.

    Returns:
        Comparisons by key: errors and times to capture are good when small, speeds
        when large.
    """
    seen = figures(rows)
    found: dict[str, float] = {}
    for case in LIDAR:
        found |= lidar(f"lidar_{case}", seen)
    found |= recordings(seen)
    found |= levels(seen)
    for (case, method, metric), value in seen.items():
        if metric == "coverage" and method.startswith(OURS):
            part = method[len(OURS) :].replace(", ", "/")
            found[f"coverage/{case}{part}"] = value
    return found | speeds(seen)


def lidar(case: str, seen: Figures) -> dict[str, float]:
    """Divide by the best peer, by the oracle, and by the plain IMM.

    The best is the smallest median error of all. A median hides that a rule has lost
    tracks, so the best of those that lost none stands beside.
    """
    errors = {m: v for (c, m, k), v in seen.items() if (c, k) == (case, "rmse")}
    mine = errors.pop(OURS, None)
    oracle = errors.pop(ORACLE, None)
    if mine is None or oracle is None:
        return {}
    one = {m: v for m, v in errors.items() if not m.endswith(PER_CASE)}
    own = {m: v for m, v in errors.items() if m.endswith(PER_CASE)}
    kept = [v for m, v in one.items() if not seen[case, m, "tracks that failed"]]
    found = {f"rmse/{case}/oracle": mine / oracle}
    if one:
        found[f"rmse/{case}/best"] = mine / min(one.values())
    if kept:
        found[f"rmse/{case}/best_that_loses_none"] = mine / min(kept)
    if own:
        found[f"rmse/{case}/best_tuned_per_case"] = mine / min(own.values())
    if case == "lidar_clean":
        found[f"rmse/{case}/filterpy_imm"] = mine / errors["IMM"]
    return found


def recordings(seen: Figures) -> dict[str, float]:
    """Compare on the recorded flights and on the blackout."""
    found: dict[str, float] = {}
    errors = {m: v for (c, m, k), v in seen.items() if (c, k) == ("stuck", "rmse")}
    mine = errors.pop(OURS, None)
    bare = [v for m, v in errors.items() if m.endswith(REMOVED)]
    plain = [v for m, v in errors.items() if not m.endswith(REMOVED)]
    if mine is not None and bare and plain:
        found["rmse/stuck/best"] = mine / min(plain)
        found["rmse/stuck/repeats_removed"] = mine / min(bare)
    own = {
        "captured/stuck": ("stuck", "share captured"),
        "captured_s/spoofed": ("spoofed", "captured"),
        "severed_least/spoofed": ("spoofed", "least severed of the false reports"),
        "back_s/spoofed": ("spoofed", "back on the track"),
        "captured/decoys": ("decoys", "share captured"),
        "lost/decoys": ("decoys", "share lost"),
        "escape_s/blackout": ("blackout", "escape"),
        "final_error/blackout": ("blackout", "final error"),
    }
    for key, (case, metric) in own.items():
        if (case, OURS, metric) in seen:
            found[key] = seen[case, OURS, metric]
    return found


def levels(seen: Figures) -> dict[str, float]:
    """Compare where parity is expected: levels, a regression, a qubit."""
    found: dict[str, float] = {}
    for name, metric in (("rmse", "rmse"), ("nll", "nll")):
        cases = {c for c, _, k in seen if k == metric and c.split("_")[0] in LEVEL}
        for case in sorted(cases):
            values = {m: v for (c, m, k), v in seen.items() if (c, k) == (case, metric)}
            ours = [v for m, v in values.items() if m.startswith(OURS)]
            theirs = [v for m, v in values.items() if not m.startswith(OURS)]
            if ours and theirs and name == "rmse":
                found[f"rmse/{case}/best"] = min(ours) / min(theirs)
            if ours and theirs and name == "nll":
                found[f"nll_difference/{case}/best"] = min(ours) - min(theirs)
    for case, metric, base in OTHERS:
        ours = seen.get((case, "BoundedLikelihood" + ODDS[case], metric))
        theirs = seen.get((case, base, metric))
        if ours is not None and theirs:
            found[f"{metric.split()[-1]}/{case}/{base.lower()}"] = ours / theirs
    return found


LEVEL = ("order", "market")
ODDS = {"regression": "", "qubit_flip": ", 0.15", "qubit_dark": ", 0.15"}
OTHERS = (
    ("regression", "coefficient rmse", "Student-t"),
    ("regression", "coefficient rmse", "Gaussian"),
    ("qubit_flip", "infidelity", "Bayes"),
    ("qubit_dark", "infidelity", "Bayes"),
)


SPEEDS = {
    "us/filterpy_imm@256": ("filterpy IMM of two UKF", "", "256 tracks"),
    "us/filterpy_imm@1": ("filterpy IMM of two UKF", "", "one track"),
    "us/stonesoup_pda@256": ("stonesoup EKF with PDA", "", "256 tracks"),
    "us/pyro_ekf@256": ("Pyro EKFState", " without faults", "256 tracks"),
    "us/dynamax_ekf@256": ("dynamax EKF, 256 tracks", " without faults", "256 tracks"),
    "us/cuthbert_kf@256": (
        "cuthbert square-root Kalman filter, 256 tracks",
        " without faults",
        "256 tracks",
    ),
}


def speeds(seen: Figures) -> dict[str, float]:
    """Divide their processor time for a step of a track by ours.

    Once for steps alone, as those of the peers are, and once for a call of `filter`,
    which also makes the result.
    """
    found = {}
    for key, (peer, how, tracks) in SPEEDS.items():
        theirs = seen.get(("speed", peer, "processor"))
        for call, name in (("", key), (".filter", f"{key}/filter")):
            mine = f"{OURS}{how}{call}, {tracks}"
            ours = seen.get(("speed", mine, "processor"))
            if theirs is not None and ours:
                found[name] = theirs / ours
    return found


def reading(found: Mapping[str, float]) -> list[str]:
    """Hold the comparisons against their aims.

    Args:
        found: the comparisons.

    Returns:
        Lines of text.
    """
    lines = against_aims(found, AT_MOST, AT_LEAST)
    low, high = COVERAGE
    for key, value in found.items():
        if key.startswith("coverage/"):
            met = "met" if low <= value <= high else "MISSED"
            lines.append(f"- {key}: {value:.3g}, aim {low:g} to {high:g}, {met}")
    return lines
