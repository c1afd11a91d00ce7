"""Measure HMC: effective draws per second and per gradient, and whole processes.

Six parts, each of which can be measured apart (`--only chains,saas`; the results of
the others are kept): `posteriors`, ours beside NumPyro on thirteen posteriors; `pyro`,
Pyro's NUTS on the same, which takes most of the time; `chains`, few and many chains;
`gradients`, beside nutpie by gradients; `saas`, a sparse Gaussian process;
`end_to_end`, fresh processes with everything included. Double precision on one thread.
Results are written after every case, so that an interrupt loses little.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import _hmc_end_to_end
import _hmc_nutpie
import _hmc_posteriors
import _hmc_saas
import pyro
import torch
from _bench import ROOT, Row, options, write
from _hmc_ratios import ratios
from _hmc_reading import reading

from pyro_geo._process import Seconds

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "posteriors": _hmc_posteriors.measure,
    "pyro": _hmc_posteriors.measure_pyro,
    "chains": _hmc_posteriors.measure_chains,
    "gradients": _hmc_nutpie.measure,
    "saas": _hmc_saas.measure,
    "end_to_end": _hmc_end_to_end.measure,
}
PACKAGES = ("torch", "pyro-ppl", "numpy", "arviz", "numpyro", "jax", "nutpie")


def kept(path: Path) -> list[Row]:
    """Read the rows that an earlier run has measured."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text())["rows"]
    return [row for row in rows if row.get("part") in PARTS]


def merged(rows: list[Row], part: str, new: list[Row]) -> list[Row]:
    """Put the new rows of a case in the place of the old ones, parts in order."""
    cases = {row["case"] for row in new}
    rows = [row for row in rows if row["part"] != part or row["case"] not in cases]
    rows += [{"part": part, **row} for row in new]
    return sorted(rows, key=lambda row: list(PARTS).index(row["part"]))


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    if args.quick:  # XLA compiles faster than it would for speed; read when it starts
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    path = args.out or ROOT / "benchmarks" / "results" / "hmc.json"
    rows = [] if args.quick else kept(path)
    for part in args.only:
        print(f"== {part}", flush=True)
        before = Seconds.now()
        measured = set()
        for new in PARTS[part](args.quick):
            measured |= {row["case"] for row in new}
            rows = merged(rows, part, new)
            if not args.quick:
                save(rows, args)
        rows = [r for r in rows if r["part"] != part or r["case"] in measured]
        cpu, wall = Seconds.now() - before
        print(f"== {part}: {cpu:.0f} processor seconds, {wall:.0f} s", flush=True)
    save(rows, args)
    title = "Reading" + " (of a quick run: it says nothing)" * args.quick
    print("\n".join(["", title, *reading(rows, ratios(rows))]))


def save(rows: list[Row], args: argparse.Namespace) -> None:
    """Write the rows and what they are worth."""
    write("hmc", rows, ratios(rows), args, PACKAGES)


if __name__ == "__main__":
    main()
