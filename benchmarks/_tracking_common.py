"""What the parts of the tracking benchmark share: rows, and our tracker."""

from collections.abc import Mapping

import numpy as np
from _bench import Row

OURS = "BoundedTracker"
ORACLE = "IMM, bad reports removed by hand"
MISSING = "not available: set PYRO_GEO_DATA"


def row(case: str, method: str, metric: str, value: object, unit: str) -> Row:
    """Make one row; a text in the place of a number becomes its note."""
    if isinstance(value, str):
        found: Row = {"value": None, "note": value}
    else:
        found = {"value": short(float(np.asarray(value)))}
    return {"case": case, "method": method, "metric": metric, **found, "unit": unit}


def short(value: float) -> float | str:
    """Five digits of a number; JSON knows no infinity."""
    return float(f"{value:.5g}") if np.isfinite(value) else "infinite"


def rows(
    case: str, method: str, values: Mapping[str, object], units: Mapping[str, str]
) -> list[Row]:
    """Make the rows of one method on one case."""
    return [row(case, method, k, v, units.get(k, "")) for k, v in values.items()]
