"""Measure Gibbs posteriors: certificates beside those of others, learning coefficients.

Parts can be measured apart (`--only matrix`; the results of the others are kept):
`certificates`, a network on two data sets; `matrix`, completing a matrix; `llc`,
learning coefficients beside devinterp; `mnist`, a network on images. Double precision
on one thread. Results are written after every case.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import _gibbs_certificates
import _gibbs_llc
import _gibbs_matrix
import _gibbs_mnist
import torch
from _bench import ROOT, Row, options, write
from _gibbs_ratios import ratios, reading

from pyro_geo._process import Seconds

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "certificates": _gibbs_certificates.measure,
    "matrix": _gibbs_matrix.measure,
    "llc": _gibbs_llc.measure,
    "mnist": _gibbs_mnist.measure,
}
PACKAGES = (
    "torch",
    "pyro-ppl",
    "numpy",
    "scikit-learn",
    "numpyro",
    "jax",
    "devinterp",
)


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    path = args.out or ROOT / "benchmarks" / "results" / "gibbs.json"
    rows = [] if args.quick else kept(path, args)
    for part in args.only:
        print(f"== {part}", flush=True)
        before = Seconds.now()
        for new in PARTS[part](args.quick):
            rows += [{"part": part, **row} for row in new]
            if not args.quick:
                write("gibbs", rows, ratios(rows), args, PACKAGES)
        cpu, wall = Seconds.now() - before
        print(f"== {part}: {cpu:.0f} processor seconds, {wall:.0f} s", flush=True)
    write("gibbs", rows, ratios(rows), args, PACKAGES)
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
