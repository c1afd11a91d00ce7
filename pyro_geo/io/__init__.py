"""Draws on their way out: the ArviZ bridge and the one-file report.

Nothing here imports torch, and ArviZ, matplotlib and xarray are imported by the
functions that need them.

Modules:
    arviz: NumPy draws to ArviZ objects, and the summary table.
    files: files that appear whole or not at all.
    reports: a one-file HTML report.
    store: a folder of draws that a run leaves behind as it goes.
"""

from typing import TYPE_CHECKING

from pyro_geo._lazy import importer

if TYPE_CHECKING:
    from pyro_geo.io.reports import report

__all__ = ["report"]

__getattr__ = importer(globals(), {"report": "pyro_geo.io.reports"})


def __dir__() -> list[str]:
    """List the module's names, those not imported yet included."""
    return sorted({*globals(), *__all__})
