"""Measure values by temporal differences: cost, and coverage of their intervals.

Parts can be measured apart (`--only cost`; the results of the others are kept): `cost`,
seconds against the number of transitions, beside Engel's method and LSTD in NumPy;
`coverage`, 95 % intervals of up to 100,000 transitions against values that are known by
other means; `minibatches`, the same by the variational model; `random`, the same where
successors are random. Double precision on one thread. Results are written after every
case.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from _bench import Row, against_aims, measure_parts, options
from _gptd_cost import ENGEL, EXACT, LSTD, ONLINE, SPARSE, VARIATIONAL
from _gptd_cost import measure as cost
from _gptd_coverage import measure as coverage
from _gptd_coverage import minibatches, random_successors

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "cost": cost,
    "coverage": coverage,
    "minibatches": minibatches,
    "random": random_successors,
}
PACKAGES = ("torch", "gpytorch", "linear_operator", "numpy", "scipy")
GROWTH = {
    "exact": EXACT,
    "numpy_engel": ENGEL,
    "sparse": SPARSE,
    "variational": VARIATIONAL,
    "online": ONLINE,
    "lstd": LSTD,
}
AT_MOST = {
    "exact_time/numpy_engel@3000": 1.5,
    "fit_cpu_s/sparse@100000": 60.0,
    "coverage/sparse@100000": 0.99,
}
AT_LEAST = {"coverage/sparse@100000": 0.93}


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Compare times, and name the coverages.

    Args:
        rows: everything measured.

    Returns:
        Our time over that of the peer; exponents of growth between the two largest
        numbers of transitions; coverages and seconds of large fits.
    """
    seen = {(r["case"], r["method"], r["metric"]): r["value"] for r in rows}
    found: dict[str, float] = {}
    counts = sorted({r["count"] for r in rows if "count" in r})
    for count in counts:
        ours, theirs = (
            seen.get((f"T={count}", name, "processor seconds"))
            for name in (EXACT, ENGEL)
        )
        if ours and theirs:
            found[f"exact_time/numpy_engel@{count}"] = ours / theirs
    for key, name in GROWTH.items():
        times = {
            count: seen[f"T={count}", name, "processor seconds"]
            for count in counts
            if (f"T={count}", name, "processor seconds") in seen
        }
        if len(times) > 1:
            (n, first), (m, last) = sorted(times.items())[-2:]
            found[f"growth/{key}"] = float(np.log(last / first) / np.log(m / n))
    names = {"SparseGPTD": "sparse", "VariationalGPTD": "variational"}
    for (case, method, metric), value in seen.items():
        if case.startswith("pendulum"):
            place = f"{names[method]}@{case.partition('=')[2]}"
            if metric == "coverage of 95 %":
                found[f"coverage/{place}"] = value
            elif metric == "processor seconds":
                found[f"fit_cpu_s/{place}"] = value
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = measure_parts("gptd", PARTS, ratios, args, PACKAGES)
    print("\n".join(["", "Reading" + " (quick: says nothing)" * args.quick]))
    print("\n".join(against_aims(found, AT_MOST, AT_LEAST)))


if __name__ == "__main__":
    main()
