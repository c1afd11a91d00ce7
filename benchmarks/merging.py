"""Measure combinations of posteriors.

Parts can be measured apart (`--only shards`; results of the others are kept): `shards`,
logistic regressions on shards of patients against all patients at once, beside the
`consensus` and `parametric` of NumPyro; `memory`, the peak memory of merging files over
the size of one; `digits` and `mnist`, networks of eight tasks merged in every way, with
forecasts of what each task loses; `projection`, curvature on a subspace beside
curvlinops. Double precision on one thread. Results are written after every case.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from _bench import Row, against_aims, measure_parts, options
from _merging_digits import measure as digits
from _merging_digits import ratios as digit_ratios
from _merging_memory import measure as memory
from _merging_memory import ratios as memory_ratios
from _merging_mnist import measure as mnist
from _merging_mnist import ratios as mnist_ratios
from _merging_projection import measure as projection
from _merging_projection import ratios as projection_ratios
from _merging_shards import measure as shards
from _merging_shards import ratios as shard_ratios

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "shards": shards,
    "memory": memory,
    "digits": digits,
    "mnist": mnist,
    "projection": projection,
}
RATIOS: dict[str, Callable[[Sequence[Row]], dict[str, float]]] = {
    "shards": shard_ratios,
    "memory": memory_ratios,
    "digits": digit_ratios,
    "mnist": mnist_ratios,
    "projection": projection_ratios,
}
PACKAGES = (
    "torch",
    "pyro-ppl",
    "numpyro",
    "jax",
    "numpy",
    "scikit-learn",
    "safetensors",
    "curvlinops-for-pytorch",
)
AT_MOST = {
    "kl_to_full/consensus": 0.25,
    "kl_to_full/laplace": 1 / 3,
    "memory": 3.0,
}
AT_LEAST = {
    "accuracy/digits/mean": 75.0,
    "accuracy/digits/worst": 58.0,
    "accuracy_over_best_baseline/digits/mean": 2.0,
    "accuracy_over_best_baseline/digits/worst": 2.0,
    "forecast_spearman/digits": 0.95,
    "forecast_within_2_points/digits": 0.9,
    "metric_speed/curvlinops": 2.0,
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
    print("\n".join(against_aims(found, AT_MOST, AT_LEAST)))


if __name__ == "__main__":
    main()
