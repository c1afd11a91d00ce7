"""Measure DiMS: predictions beside other methods, cost, and speed beside loops.

Five parts, each of which can be measured apart (`--only speed,cost`; the results of
the others are kept): `gap`, a regression with a gap; `digits`, digits inside and
outside the training classes; `cost`, time and memory as dimension and particles grow;
`speed`, draws per processor second beside two loops over particles; `lockstep`, beside
one step size for all particles. Everything on one thread.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import _dims_cost
import _dims_digits
import _dims_gap
import _dims_lockstep
import _dims_speed
import pyro
import torch
from _bench import ROOT, Row, options, write
from _dims_common import Outcome, seconds
from _dims_reading import reading

from pyro_geo.errors import PyroGeoWarning

PARTS: dict[str, Callable[[bool], Outcome]] = {
    "gap": _dims_gap.measure,
    "digits": _dims_digits.measure,
    "cost": _dims_cost.measure,
    "speed": _dims_speed.measure,
    "lockstep": _dims_lockstep.measure,
}
PACKAGES = ("torch", "pyro-ppl", "numpy", "scikit-learn", "torchdiffeq")


def kept(path: Path) -> tuple[list[Row], dict[str, float]]:
    """Read what an earlier run has measured."""
    if not path.exists():
        return [], {}
    old = json.loads(path.read_text())
    rows = [row for row in old["rows"] if row.get("part") in PARTS]
    return rows, old["ratios"]


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    path = args.out or ROOT / "benchmarks" / "results" / "dims.json"
    rows, ratios = ([], {}) if args.quick else kept(path)
    for part in args.only:
        print(f"== {part}", flush=True)
        with warnings.catch_warnings():
            # what draws have not reached is among the figures
            warnings.simplefilter("ignore", PyroGeoWarning)
            found, spent = seconds(lambda part=part: PARTS[part](args.quick))
        print(f"== {part}: {spent:.0f} processor seconds", flush=True)
        new = [{"part": part, **row} for row in found.rows]
        rows = [row for row in rows if row["part"] != part] + new
        rows.sort(key=lambda row: list(PARTS).index(row["part"]))
        ratios |= found.ratios
        write("dims", rows, ratios, args, PACKAGES)
    title = "Reading" + " (of a quick run: it says nothing)" * args.quick
    print("\n".join(["", title, *reading(rows, ratios)]))


if __name__ == "__main__":
    main()
