"""Measure combinations of posteriors.

Parts can be measured apart (`--only shards`; results of the others are kept): `shards`,
logistic regressions on shards of patients against all patients at once, beside the
`consensus` and `parametric` of NumPyro. Double precision on one thread. Results are
written after every case.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from _bench import Row, against_aims, measure_parts, options
from _merging_shards import measure as shards
from _merging_shards import ratios as shard_ratios

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {"shards": shards}
RATIOS: dict[str, Callable[[Sequence[Row]], dict[str, float]]] = {
    "shards": shard_ratios,
}
PACKAGES = ("torch", "pyro-ppl", "numpyro", "jax", "numpy", "scikit-learn")
AT_MOST = {
    "kl_to_full/consensus": 0.25,
    "kl_to_full/laplace": 1 / 3,
}


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Make the headline comparisons of each part from its rows."""
    found: dict[str, float] = {}
    for part, own in RATIOS.items():
        found |= own([row for row in rows if row["part"] == part])
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    found = measure_parts("merging", PARTS, ratios, args, PACKAGES)
    print("\n".join(["", "Reading" + " (quick: says nothing)" * args.quick]))
    print("\n".join(against_aims(found, AT_MOST)))


if __name__ == "__main__":
    main()
