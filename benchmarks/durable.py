"""Measure what a store costs a run, and what more processes bring.

Parts can be measured apart (`--only store`): `store`, the logistic regression of the
target's benchmark with 64 chains, with a store and without; `spread`, the same with
4,096 chains in one process and over two workers of loky, Dask and Ray. One thread for
each process, float32. Run the spread part on an idle machine.
"""

import json
from collections.abc import Callable, Iterator

import _durable_spread
import _durable_store
import torch
from _bench import ROOT, Row, options, write

PARTS: dict[str, Callable[[bool], Iterator[list[Row]]]] = {
    "store": _durable_store.measure,
    "spread": _durable_spread.measure,
}
PACKAGES = ("torch", "pyro-ppl", "numpy", "zarr", "joblib", "distributed", "ray")
AIMS = {"store_overhead/logistic": 0.03, "two_workers_speedup/logistic": 1.7}


def ratios(rows: list[Row]) -> dict[str, float]:
    """The share of sampling that a store adds, and the gain of a second worker."""
    by = {(row["case"], row["method"], row["metric"]): row["value"] for row in rows}
    found = {}
    store = "logistic, 64 chains", "store"
    if (share := by.get((*store, "storing over sampling"))) is not None:
        found["store_overhead/logistic"] = share
        kept, held = (
            by[("logistic, 64 chains", method, "bytes per draw")]
            for method in ("store", "memory")
        )
        found["bytes_per_draw/logistic"] = kept / held
    for backend in ("loky", "Dask", "Ray"):
        for what, key in (
            ("whole run", backend),
            ("whole run, workers ready", f"{backend}_ready"),
            ("sampling", f"{backend}_sampling"),
        ):
            which = "logistic, 4096 chains", f"two workers, {backend}"
            if (share := by.get((*which, f"efficiency, {what}"))) is not None:
                found[f"two_workers_speedup/{key}"] = 2 * share
    if (gain := found.get("two_workers_speedup/loky")) is not None:
        found["two_workers_speedup/logistic"] = gain
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure the parts asked for and write after each case."""
    args = options(__doc__, argv, PARTS)
    torch.set_num_threads(1)
    path = args.out or ROOT / "benchmarks" / "results" / "durable.json"
    rows: list[Row] = []
    if not args.quick and path.exists():
        kept = json.loads(path.read_text())["rows"]
        rows = [row for row in kept if row["part"] not in args.only]
    for part in args.only:
        print(f"== {part}", flush=True)
        for new in PARTS[part](args.quick):
            rows += [{"part": part, **row} for row in new]
            for row in new:
                print(row["method"], row["metric"], row["value"], row["unit"])
            if not args.quick:
                write("durable", rows, ratios(rows), args, PACKAGES)
    write("durable", rows, ratios(rows), args, PACKAGES)
    for key, aim in AIMS.items():
        if (value := ratios(rows).get(key)) is not None:
            print(f"{key}: {value:.3g}, aim {aim}")


if __name__ == "__main__":
    main()
