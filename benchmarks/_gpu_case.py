"""The same work on the processor and on a GPU: results held together, and timed."""

import math
import statistics
import time
import traceback
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from _bench import Row
from scipy import stats
from torch import Tensor

Result = dict[str, Tensor]
Work = Callable[[], Result]

REPETITIONS = 5
SECONDS = 4.0  # for the repetitions of one piece of work on one device
SLOW = 10.0  # seconds of a first call that stands for all
FALSE_ALARM = 1e-3  # of the comparison of one case, divided over its numbers


class Case(NamedTuple):
    """A piece of work that can be done on any device.

    Its result holds numbers that agree to rounding; or `mean` with `error`, of draws;
    or `call`, numbers that vary from call to call, since each has a seed of its own.

    Attributes:
        make: puts the data on a device and returns the work.
        limit: largest difference, relative to the largest number of each result; None
            for draws, which are compared in standard errors.
        threads: of the processor; a run of the library takes one for each process.
        compiles: whether most of the first call may be the compiler.
    """

    make: Callable[[torch.device], Work]
    limit: float | None
    threads: int = 1
    compiles: bool = False


class Measured(NamedTuple):
    """What one device has done: the results of all calls, and their seconds."""

    results: list[Result]
    first: float
    wall: float
    sd: float
    repetitions: int
    memory: float


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same for every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def _once(work: Work, device: torch.device) -> tuple[Result, float]:
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def measure(case: Case, device: torch.device, quick: bool) -> Measured:
    """Do the work once cold, once warm, and then a few times by the clock."""
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    results: list[Result] = []
    walls: list[float] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # runs this short have not converged
            work = case.make(device)
            count = 3 if quick else REPETITIONS + 2
            while len(walls) < count:
                result, wall = _once(work, device)
                results.append(result)
                walls.append(wall)
                if len(walls) == 1 and wall > SLOW and not case.compiles:
                    break
                if len(walls) == 2 and not quick:
                    count = 2 + max(1, min(REPETITIONS, int(SECONDS / wall)))
    finally:
        torch.set_num_threads(before)
    warm = walls[2:] or walls
    sd = statistics.stdev(warm) if len(warm) > 1 else 0.0
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    wall = statistics.median(warm)
    return Measured(results, walls[0], wall, sd, len(warm), peak / 1e9)


def difference(here: list[Result], there: list[Result]) -> tuple[float, float]:
    """Compare results: relative to their size, or in standard errors of draws.

    Args:
        here: of each call on the first device.
        there: of each call on the second.

    Returns:
        The largest difference, infinity where one is not finite; and the limit of
        standard errors, NaN for results without randomness.
    """
    one, two = here[-1], there[-1]
    if "call" in one:
        sides = [
            torch.stack([r["call"].double().cpu() for r in x]) for x in (here, there)
        ]
        moments = [(x.mean(0), x.var(0) / len(x)) for x in sides]
        free, count = min(map(len, sides)) - 1, sides[0][0].numel()
        limit = float(stats.t.isf(FALSE_ALARM / 2 / count, free))
    elif "error" in one:
        both = [
            (r["mean"].double().cpu(), r["error"].double().cpu()) for r in (one, two)
        ]
        moments = [(mean, error.square()) for mean, error in both]
        limit = float(stats.norm.isf(FALSE_ALARM / 2 / moments[0][0].numel()))
    else:
        return _rounding(one, two), math.nan
    spread = (moments[0][1] + moments[1][1]).sqrt().clamp(min=1e-12)
    worst = float(((moments[0][0] - moments[1][0]).abs() / spread).max())
    return (worst if math.isfinite(worst) else math.inf), limit


def _rounding(one: Result, two: Result) -> float:
    worst = 0.0
    for name, value in one.items():
        first, second = value.double().cpu(), two[name].double().cpu()
        if not torch.equal(first.isnan(), second.isnan()):
            return math.inf
        first, second = first.nan_to_num(), second.nan_to_num()
        size = max(float(first.abs().max()), 1e-300)
        worst = max(worst, float((first - second).abs().max()) / size)
    return worst


def _row(name: str, device: str, metric: str, value: float | None, unit: str) -> Row:
    row = {"case": name, "method": device, "metric": metric}
    return {**row, "value": value, "unit": unit}


def rows_of(
    name: str, case: Case, devices: dict[str, torch.device], quick: bool
) -> list[Row]:
    """Measure one case on both devices.

    Args:
        name: of the case.
        case: the work.
        devices: by name, the processor first.
        quick: once each.

    Returns:
        Rows; where a device fails, a row with the reason.
    """
    rows: list[Row] = []
    done: list[Measured] = []
    for label, device in devices.items():
        try:
            found = measure(case, device, quick)
        except Exception as reason:  # whatever does not run is a row of its own
            traceback.print_exc()
            line = (str(reason).strip().splitlines() or [""])[0][:160]
            row = _row(name, label, "wall", None, "s")
            rows.append(
                {**row, "note": f"does not run: {type(reason).__name__}: {line}"}
            )
            return rows
        done.append(found)
        row = _row(name, label, "wall", found.wall, "s")
        places = {value.device.type for value in found.results[0].values()}
        row |= {"sd": found.sd, "seeds": found.repetitions, "threads": case.threads}
        rows.append({**row, "results on": " ".join(sorted(places))})
        rows.append(_row(name, label, "wall, first call", found.first, "s"))
        if found.memory:
            rows.append(_row(name, label, "memory, peak", found.memory, "GB"))
    apart, limit = difference(done[0].results, done[1].results)
    unit = "of the largest number" if math.isnan(limit) else "standard errors"
    limit = case.limit if case.limit is not None else limit
    row = _row(name, list(devices)[1], "largest difference from cpu", apart, unit)
    rows.append({**row, "limit": limit, "agrees": apart <= limit})
    walls = [f"{m.wall:.4g} s" for m in done]
    print(name, walls, f"apart {apart:.2g}, limit {limit:.2g}", flush=True)
    return rows
