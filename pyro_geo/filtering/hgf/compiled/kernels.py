"""The one function that is compiled: some blocks of lanes, there and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from pyro_geo.filtering.hgf.compiled.backward import backward
from pyro_geo.filtering.hgf.compiled.forward import forward
from pyro_geo.filtering.hgf.compiled.lanes import lanes_of
from pyro_geo.filtering.hgf.compiled.memory import (
    CHUNK,
    Data,
    Places,
    Problem,
    Results,
    begin,
    part,
    places,
    workspace,
    workspace_size,
)

__all__ = [
    "Data",
    "Problem",
    "Results",
    "SOURCES",
    "filter_blocks",
    "lanes_of",
    "workspace",
    "workspace_size",
]


@part
def finish(work: Any, at: Places, problem: Problem, out: Results, block: int) -> None:
    """Give out what belongs to whole series."""
    w, levels = at.width, problem.levels
    for lane in range(min(w, problem.lanes - block * w)):
        row = block * w + lane
        if out.total.size > 0:
            failed = work[at.flags + 2 * w + lane] < problem.steps * levels
            out.total[row] = np.nan if failed else work[at.flags + 3 * w + lane]
        if out.d_theta.size > 0:
            column = 0
            for name in range(7):
                count = levels - 1 if name == 1 or name == 6 else levels
                for level in range(count):
                    place = at.sums + (name * levels + level) * w + lane
                    out.d_theta[row, column + level] = work[place]
                column += count
            out.d_theta[row, column] = work[at.sums + 7 * levels * w + lane]
            # One lane must not spoil what others share with it: a force of 0, where
            # the derivative cannot be written, still lets a sampler refuse the point.
            for k in range(out.d_theta.shape[1]):
                if not np.isfinite(out.d_theta[row, k]):
                    out.d_theta[row, :] = 0.0
                    break


def _sources() -> int:
    """Sum up the files of this folder: numba's cache looks at this one alone."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:7], "big")


def _kernel(sources: int) -> Callable[..., int]:
    """Make the function; what it closes over is a part of its name in the cache."""

    def filter_blocks(
        width: int,
        first: int,
        last: int,
        problem: Problem,
        data: Data,
        out: Results,
        work: Any,
    ) -> int:
        """Filter some blocks of lanes in the memory given."""
        at = places(problem.levels, width)
        wants_gradient = out.d_theta.size > 0
        keep = problem.steps if wants_gradient else min(CHUNK, problem.steps)
        for block in range(first, last):
            begin(work, at, problem, data, block)
            forward(work, at, problem, data, out, block, keep)
            if wants_gradient:
                backward(work, at, problem, data, out, block)
            finish(work, at, problem, out, block)
        return sources

    return numba.njit(nogil=True, cache=True)(filter_blocks)


SOURCES = _sources()
"""What the sources are known by."""

filter_blocks = _kernel(SOURCES)
