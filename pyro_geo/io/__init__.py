"""Draws on their way out: the ArviZ bridge and the one-file report.

Nothing here imports torch, and ArviZ, matplotlib and xarray are imported by the
functions that need them.

Modules:
    arviz: NumPy draws to ArviZ objects, and the summary table.
    report: a one-file HTML report.
"""
