"""Measure trackers whose sensors lie: ours beside those of filterpy, WoLF and others.

Parts can be measured apart (`--only lidar,adsb`; the results of the others are kept):
`checks`, our copies of the peers' rules; `lidar`, ten kinds of fault; `adsb`, recorded
flights (from the folder that PYRO_GEO_DATA names); `blackout`, a rover that was blind;
`level`, `qubit` and `regression`, where parity is expected; `speed`, beside the
packages. Double precision on one thread. Results are written after every case.
"""

import os
from collections.abc import Callable, Iterator

import _tracking_adsb
import _tracking_blackout
import _tracking_checks
import _tracking_level
import _tracking_lidar
import _tracking_qubit
import _tracking_regression
import _tracking_speed
import torch
from _bench import Row, measure_parts, options
from _tracking_ratios import ratios, reading

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
    found = measure_parts("tracking", PARTS, ratios, args, PACKAGES)
    print("\n".join(["", "Reading" + " (quick: says nothing)" * args.quick]))
    print("\n".join(reading(found)))


if __name__ == "__main__":
    main()
