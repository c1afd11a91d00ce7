"""Memory of a block of lanes: what lies where, and what comes in.

Arrays of a block lie in one flat piece of memory that stays in the cache. What belongs
to one level of all lanes is one vector; places are counted in numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numba
import numpy as np

from pyro_geo.filtering.hgf.compiled.lanes import BYTES, lanes_of, load, store
from pyro_geo.filtering.hgf.compiled.levels import add, logarithm

__all__ = [
    "CHUNK",
    "CLASSIC",
    "Data",
    "EHGF",
    "EHGF_PYHGF",
    "Places",
    "Problem",
    "Results",
    "UNBOUNDED",
    "add_to",
    "begin",
    "bring",
    "part",
    "places",
    "spread",
    "workspace",
    "workspace_size",
]

CHUNK = 32
"""Steps whose inputs are brought into lanes at once."""

UNBOUNDED, CLASSIC, EHGF, EHGF_PYHGF = 0, 1, 2, 3


class Problem(NamedTuple):
    """What is filtered: sizes and options.

    Attributes:
        lanes: number of series.
        steps: length of each.
        levels: of the chain.
        binary: kind of input.
        update: of the upper levels, by number.
        noise: whether the surprise counts the noise of a continuous input.
        coupled: whether some level carries the one below it along.
        responds: whether the surprise is that of choices, in place of the inputs.
    """

    lanes: int
    steps: int
    levels: int
    binary: bool
    update: int
    noise: bool
    coupled: bool
    responds: bool


class Data(NamedTuple):
    """Numbers that come in; arrays of no elements stand for what is not given.

    Attributes:
        theta: parameters, `(lanes, 7 L - 1)`.
        u: inputs, `(rows, T)`; lane `i` has row `i % rows`.
        observed: whether there is an input.
        time: since the step before.
        signs: of choices, -1 or 1, or 0 where there is none; their sharpness stands
            in the place of the input precision.
        d_surprise: derivatives by the surprise of each step, `(lanes, T)`.
        d_mu: by the beliefs, `(lanes, T, L)`.
        d_pi: the same.
    """

    theta: Any
    u: Any
    observed: Any
    time: Any
    signs: Any
    d_surprise: Any
    d_mu: Any
    d_pi: Any


class Results(NamedTuple):
    """Numbers that go out, of the shapes of their inputs; empty where not asked for."""

    surprise: Any
    mu: Any
    pi: Any
    total: Any
    d_theta: Any
    d_u: Any


class Places(NamedTuple):
    """Where in the memory of a block things begin."""

    width: int
    parameters: int  # omega, kappa, mu0, pi0, drift, autoconnection, psi, input
    hat: int  # mean, precision, log variance of the walk, its variance; a zero above
    flags: int  # noise, at_prior, first failure, sum of surprises
    inputs: int  # u, observed, time, log time, sign by steps of a chunk
    sums: int  # derivatives by the parameters
    pull: int  # derivatives by mean, precision, both predictions, gamma, old precision
    scratch: int
    path: int  # means and precisions of each step kept


# A part of the one function that is called from outside.
part: Any = cast(Any, numba.njit)(no_cpython_wrapper=True, no_cfunc_wrapper=True)


@part
def places(levels: int, width: int) -> Places:
    """Lay out the memory."""
    w = width
    parameters = 0
    hat = parameters + (7 * levels + 1) * w
    flags = hat + (4 * levels + 1) * w
    inputs = flags + 4 * w
    sums = inputs + 5 * CHUNK * w
    pull = sums + (7 * levels + 1) * w
    scratch = pull + 6 * levels * w
    path = scratch + 2 * w
    return Places(w, parameters, hat, flags, inputs, sums, pull, scratch, path)


def workspace_size(problem: Problem, dtype: Any, backward: bool) -> int:
    """Count the numbers that one block needs."""
    width = lanes_of(dtype)
    steps = problem.steps if backward else min(CHUNK, problem.steps)
    path = places.py_func(problem.levels, width).path
    return path + 2 * problem.levels * (steps + 1) * width


def workspace(size: int, dtype: Any) -> np.ndarray:
    """Allocate memory from the start of a line of the cache."""
    item = np.dtype(dtype).itemsize
    memory = np.zeros(size * item + BYTES, np.uint8)
    start = -memory.ctypes.data % BYTES
    return memory[start : start + size * item].view(dtype)


@part
def spread(work: Any, place: int, width: int, value: float) -> None:
    """Give all lanes one value."""
    for lane in range(width):
        work[place + lane] = value


@part
def begin(work: Any, at: Places, problem: Problem, data: Data, block: int) -> None:
    """Bring the parameters of a block into lanes; the last lane fills what is over."""
    w, levels = at.width, problem.levels
    for lane in range(w):
        row = min(block * w + lane, problem.lanes - 1)
        column = 0
        for name in range(7):
            # kappa and the value coupling have no entry for the highest level
            count = levels - 1 if name == 1 or name == 6 else levels
            for level in range(levels):
                value = data.theta[row, column + level] if level < count else 0.0
                work[at.parameters + (name * levels + level) * w + lane] = value
            column += count
        work[at.parameters + 7 * levels * w + lane] = data.theta[row, column]
    spread(work, at.hat + 4 * levels * w, w, 0.0)
    spread(work, at.flags, w, 1.0 if problem.noise else 0.0)
    spread(work, at.flags + w, w, 1.0 if problem.update == EHGF_PYHGF else 0.0)
    spread(work, at.flags + 2 * w, w, 1e30)
    spread(work, at.flags + 3 * w, w, 0.0)


@part
def bring(
    work: Any, at: Places, problem: Problem, data: Data, block: int, start: int
) -> None:
    """Bring the inputs of a chunk into lanes."""
    w = at.width
    end = min(start + CHUNK, problem.steps)
    rows = data.u.shape[0]
    regular = True
    for lane in range(w):
        row = min(block * w + lane, problem.lanes - 1) % rows
        for step in range(start, end):
            place = at.inputs + 5 * (step - start) * w + lane
            time = data.time[row, step]
            work[place] = data.u[row, step]
            work[place + w] = data.observed[row, step]
            work[place + 2 * w] = time
            work[place + 3 * w] = 0.0
            if problem.responds:
                work[place + 4 * w] = data.signs[row, step]
            regular &= time == 1.0
    if not regular:
        for step in range(end - start):
            place = at.inputs + 5 * step * w
            store(work, place + 3 * w, logarithm(load(work, place + 2 * w)))


@part
def add_to(work: Any, place: int, value: Any) -> None:
    """Add to what lies at a place."""
    store(work, place, add(load(work, place), value))
