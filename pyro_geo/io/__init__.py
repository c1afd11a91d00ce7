"""Draws on their way out: the ArviZ bridge and the one-file report.

Nothing here imports torch, and ArviZ, matplotlib and xarray are imported by the
functions that need them.

Modules:
    arviz: NumPy draws to ArviZ objects, and the summary table.
    files: files that appear whole or not at all.
    reports: a one-file HTML report.
    store: a folder of draws that a run leaves behind as it goes.
"""

from pyro_geo.io.reports import report

__all__ = ["report"]
