"""Write a report of a run in a store: `python -m pyro_geo.report run.zarr`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pyro_geo.errors import CheckpointError
from pyro_geo.io import report

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and say where it is.

    Args:
        arguments: of the command line; those of the process if None.

    Returns:
        The exit status, 1 where the folder is not the store of a run.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pyro_geo.report",
        description="Write a one-file HTML report of a run, finished or still going.",
    )
    parser.add_argument("store", help="folder that the run was given as store=")
    parser.add_argument("--out", help="file to write; run.html beside run.zarr if none")
    chosen = parser.parse_args(arguments)
    try:
        print(report(chosen.store, chosen.out))
    except CheckpointError as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
