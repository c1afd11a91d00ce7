"""Durable draws: a folder that is valid ArviZ data at every instant of a run.

A store is a Zarr hierarchy (format 3) with ArviZ's groups. Draws are appended as whole
chunk files and the kernel's state as one more file; none of it counts until the root
`zarr.json`, which holds the metadata of all arrays, is replaced in one step. Whatever
kills the writer, a reader finds the draws of the last commit, and so does the next
writer.

Nothing here imports torch.
"""

from pyro_geo.io.store._groups import Variable
from pyro_geo.io.store._read import check_run, open_run
from pyro_geo.io.store._run import RunStore, Snapshot
from pyro_geo.io.store._series import FILTERED, LABELS, REPORTS, arrange_series
from pyro_geo.io.store._stages import STAGE_STATS, STAGES
from pyro_geo.io.store._writer import Writer

__all__ = [
    "FILTERED",
    "LABELS",
    "REPORTS",
    "STAGES",
    "STAGE_STATS",
    "RunStore",
    "Snapshot",
    "Variable",
    "Writer",
    "arrange_series",
    "check_run",
    "open_run",
]
