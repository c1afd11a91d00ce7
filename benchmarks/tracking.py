"""Measure trackers whose sensors lie: ours beside those of filterpy, WoLF and others.

Parts can be measured apart (`--only lidar,adsb`; the results of the others are kept):
`checks`, our copies of the peers' rules; `lidar`, ten kinds of fault; `adsb`, recorded
flights (from the folder that PYRO_GEO_DATA names); `blackout`, a rover that was blind;
`level`, `qubit` and `regression`, where parity is expected; `speed`, beside the
packages. Double precision on one thread. Results are written after every case.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import _tracking_adsb
import _tracking_blackout
import _tracking_checks
import _tracking_level
import _tracking_lidar
import _tracking_qubit
import _tracking_regression
import _tracking_speed
import torch
from _bench import ROOT, Row, options, write
from _tracking_ratios import ratios, reading

from pyro_geo._process import Seconds

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "checks": _tracking_checks.measure,
    "lidar": _tracking_lidar.measure,
    "adsb": _tracking_adsb.measure,
    "blackout": _tracking_blackout.measure,
    "level": _tracking_level.measure,
    "qubit": _tracking_qubit.measure,
    "regression": _tracking_regression.measure,
    "speed": _tracking_speed.measure,
}
PACKAGES = (
    "torch",
    "pyro-ppl",
    "numpy",
    "filterpy",
    "stonesoup",
    "pyrecest",
    "dynamax",
    "cuthbert",
    "jax",
    "arch",
)


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    if args.quick:  # XLA compiles faster than it would for speed; read when it starts
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    path = args.out or ROOT / "benchmarks" / "results" / "tracking.json"
    rows = [] if args.quick else kept(path, args)
    for part in args.only:
        print(f"== {part}", flush=True)
        before = Seconds.now()
        for new in PARTS[part](args.quick):
            rows += [{"part": part, **row} for row in new]
            if not args.quick:
                write("tracking", rows, ratios(rows), args, PACKAGES)
        cpu, wall = Seconds.now() - before
        print(f"== {part}: {cpu:.0f} processor seconds, {wall:.0f} s", flush=True)
    rows.sort(key=lambda row: list(PARTS).index(row["part"]))
    write("tracking", rows, ratios(rows), args, PACKAGES)
    print("\n".join(["", "Reading" + " (quick: says nothing)" * args.quick]))
    print("\n".join(reading(ratios(rows))))


def kept(path: Path, args: argparse.Namespace) -> list[Row]:
    """Read what an earlier run has measured of the parts not asked for."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text())["rows"]
    return [row for row in rows if row["part"] not in args.only]


if __name__ == "__main__":
    main()
