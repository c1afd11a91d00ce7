"""From tensors to kernels: memory, and threads."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo._process import alone, free_threads
from pyro_geo.filtering.hgf.parameters import Update

__all__ = ["UPDATES", "Options", "Wanted", "run"]

UPDATES: tuple[Update, ...] = ("unbounded", "classic", "ehgf", "ehgf_pyhgf")
"""Updates that are compiled, by their number."""

# Steps of blocks and levels that are worth another thread: about a tenth of a
# millisecond.
_WORTH_A_THREAD = 400
# Bytes of memory that a thread keeps for its next call.
_KEPT = 1 << 26


class Options(NamedTuple):
    """What a filter is besides its numbers; plain integers, as operators take them.

    Attributes:
        levels: of the chain.
        binary: 1 for binary inputs.
        update: place in :data:`UPDATES`.
        noise: 1 where the surprise counts the noise of a continuous input.
        coupled: 1 where some level carries the one below it along.
    """

    levels: int
    binary: int
    update: int
    noise: int
    coupled: int


class Wanted(NamedTuple):
    """What to compute."""

    surprise: bool = False
    beliefs: bool = False
    total: bool = False
    gradient: bool = False
    gradient_by_u: bool = False


class _Pool:
    """Threads that wait for work; a forked process starts its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process = -1
        self.size = 0
        self.executor: ThreadPoolExecutor | None = None

    def submit(self, size: int, fn: Any, *args: Any) -> Future[None]:
        with self.lock:
            if self.process != os.getpid() or self.size < size:
                self.process, self.size = os.getpid(), size
                self.executor = ThreadPoolExecutor(size, "hgf")
            assert self.executor is not None
            return self.executor.submit(fn, *args)


_pool = _Pool()
_memory = threading.local()
_compiled: set[Any] = set()


def _workspace(problem: Any, dtype: Any, backward: bool) -> Any:
    """Return this thread's memory, made larger where it has to be."""
    from pyro_geo.filtering.hgf.compiled.kernels import workspace, workspace_size

    size = workspace_size(problem, dtype, backward)
    kept = getattr(_memory, "arrays", None)
    if kept is None:
        kept = _memory.arrays = {}
    found = kept.get(dtype)
    if found is None or found.size < size:
        found = workspace(size, dtype)
        if found.nbytes <= _KEPT:
            kept[dtype] = found
    return found


def run(
    options: Options,
    wanted: Wanted,
    theta: Tensor,
    u: Tensor,
    observed: Tensor,
    time: Tensor,
    signs: Tensor,
    d_surprise: Tensor,
    d_mu: Tensor,
    d_pi: Tensor,
) -> list[Tensor]:
    """Filter all lanes, on as many threads as torch has outside of a run.

    Args:
        options: of the filter.
        wanted: which results; the others are empty.
        theta: parameters, `(lanes, 7 L - 1)`: omega, kappa, mu0, pi0, drift,
            autoconnection, value coupling, input precision.
        u: inputs, `(rows, T)`; lane `i` has row `i % rows`.
        observed: whether there is an input, `(rows, T)`.
        time: since the step before, `(rows, T)`.
        signs: of choices, -1, 0 or 1, `(rows, T)`, or `(rows, 0)` for none; their
            sharpness is the last column of `theta`, and the surprise is that of them.
        d_surprise: derivatives by each surprise, `(lanes, T)`, or empty.
        d_mu: by each mean, `(lanes, T, L)`, or empty.
        d_pi: by each precision.

    Returns:
        Surprise `(lanes, T)`, means and precisions `(lanes, T, L)`, the sum of the
        surprises `(lanes,)`, derivatives by `theta` and by the input of each lane.
    """
    from pyro_geo.filtering.hgf.compiled import kernels

    lanes, steps = theta.shape[0], u.shape[1]
    shapes = (
        (wanted.surprise, (lanes, steps)),
        (wanted.beliefs, (lanes, steps, options.levels)),
        (wanted.beliefs, (lanes, steps, options.levels)),
        (wanted.total, (lanes,)),
        (wanted.gradient, theta.shape),
        (wanted.gradient_by_u, (lanes, steps)),
    )
    results = [
        theta.new_empty(shape if yes else [0] * len(shape)) for yes, shape in shapes
    ]
    if lanes == 0 or steps == 0:
        return [result.zero_() for result in results]
    arrays = [
        x.detach().contiguous().numpy()
        for x in (
            theta,
            u,
            observed.view(torch.uint8),
            time,
            signs,
            d_surprise,
            d_mu,
            d_pi,
        )
    ]
    problem = kernels.Problem(
        lanes,
        steps,
        options.levels,
        bool(options.binary),
        options.update,
        bool(options.noise),
        bool(options.coupled),
        signs.numel() > 0,
    )
    data = kernels.Data(*arrays)
    out = kernels.Results(*(result.numpy() for result in results))
    dtype = arrays[0].dtype
    width = kernels.lanes_of(dtype)

    if dtype not in _compiled:
        with alone(f"hgf_{kernels.SOURCES:x}"):
            kernels.filter_blocks(width, 0, 0, problem, data, out, arrays[0].ravel())
        _compiled.add(dtype)

    def part(first: int, last: int) -> None:
        work = _workspace(problem, dtype, wanted.gradient)
        kernels.filter_blocks(width, first, last, problem, data, out, work)

    blocks = -(-lanes // width)
    threads = min(
        free_threads(),
        blocks,
        1 + blocks * steps * options.levels // _WORTH_A_THREAD,
    )
    bounds = [blocks * i // threads for i in range(threads + 1)]
    pairs = list(zip(bounds[:-1], bounds[1:], strict=True))
    waiting = [_pool.submit(threads - 1, part, *pair) for pair in pairs[1:]]
    part(*pairs[0])
    for one in waiting:
        one.result()
    return results
