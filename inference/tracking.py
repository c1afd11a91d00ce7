"""Track a target whose sensor may lie, and write a report with the ledger.

    python inference/tracking.py models/lidar_target.py --out run/

MODEL is a file that defines `tracker()`, a `BoundedTracker`, and `data()`, the times of
the reports and the reports; with `truth()` the track is scored. With `--store run.zarr`
the run is on disk, and the same command continues it.
"""

import argparse
import runpy
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description="Track a target by its reports")
    parser.add_argument("model", metavar="MODEL", help="path of a model file")
    parser.add_argument("--store", type=Path, help="folder of the run, to go on with")
    parser.add_argument("--compile", action="store_true", help="compile the step")
    parser.add_argument("--jobs", type=int, help="processes to spread tracks over")
    parser.add_argument("--seed", type=int, default=0, help="of draws of states")
    parser.add_argument("--out", default="tracking_report", help="folder of the report")
    arguments = parser.parse_args()

    torch.set_default_dtype(torch.float64)
    file = runpy.run_path(arguments.model)
    tracker = file["tracker"]()
    t, y = file["data"]()
    options = {
        "store": arguments.store,
        "compile": arguments.compile or "auto",
        "n_jobs": arguments.jobs,
        "seed": arguments.seed,
    }
    begun = arguments.store and arguments.store.exists()
    track = (tracker.resume if begun else tracker.filter)(y, t, **options)
    print(track.summary().round(3).to_string())

    ledger = track.ledger.table()
    print(f"\nLedger: {len(ledger)} reports refused, the first of them")
    print(ledger.head(10).round(3).to_string(index=False))
    truth = file["truth"]()["position"] if "truth" in file else None
    if truth is not None:
        print("\nAgainst the truth")
        print(track.score(truth).round(3).to_string())
    page = track.report(Path(arguments.out) / "report.html", truth=truth)
    print("\nReport:", page)


if __name__ == "__main__":
    main()
