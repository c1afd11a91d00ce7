"""Part `cost`: processor time and memory as dimension and number of particles grow.

Each point is a new process, so that its peak memory is its own. Compiled, warm. Run as
a script with the fields of a point as JSON, it measures that point and prints it.
"""

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _bench import ROOT, Row, load, memory, peak_memory
from _dims_common import FILES, Case, Outcome, make_case, row, seconds, throw
from torch import Tensor

from pyro_geo import Target
from pyro_geo.infer import DIMS, MCMC
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions

DIMENSIONS = (10, 100, 1_000, 10_000, 100_000)
PARTICLES = (1, 4, 16, 64, 256, 1_024, 4_096)
ROWS = 4  # of the regression whose cost is linear in the dimension
# Models whose evaluations are counted; a filter would take hours.
MODELS = (
    *("eight_schools", "eight_schools_centred", "overparameterised_regression"),
    *("gap_network", "diabetes_network", "digits_classifier"),
)
SHORT = {"explore_time": 0.2, "settle_time": 0.6}
SHORT_NOTE = "stages a tenth as long as the defaults"


class Point(NamedTuple):
    """What one child process measures."""

    case: str  # "regression", or a model of the gallery
    dim: int = 0
    particles: int = 64
    rung: str = "compiled"
    short: bool = False


def measure(quick: bool) -> Outcome:
    """Measure every point, and the evaluations per draw of some models."""
    dims, counts = (DIMENSIONS, PARTICLES) if not quick else ((10,), (1,))
    rung = "traced" if quick else "compiled"
    points = [Point("regression", dim, rung=rung) for dim in dims]
    for count in counts:
        points += [
            Point(name, 0, count, rung, name == "gap_network")
            for name in ("eight_schools", "gap_network")
            if not (quick and name == "gap_network")
        ]
    rows: list[Row] = []
    for point in points:
        rows += rows_of(point, in_child(point))
    return Outcome(rows + evaluations(quick), {})


def rows_of(point: Point, found: dict[str, Any]) -> list[Row]:
    """Name what a child has measured."""
    if point.case == "regression":
        case = f"regression of {ROWS} rows, {point.particles} particles"
        method = f"dim {point.dim}"
    else:
        case, method = point.case, f"{point.particles} particles"
    note = f"{found['lanes']} lanes" + (f", {SHORT_NOTE}" if point.short else "")
    return [
        row(case, method, metric, found[metric], unit, note=note)
        for metric, unit in (
            ("processor per draw", "ms"),
            ("processor per lane-step", "us"),
            ("evaluations per draw", ""),
            ("peak memory", "MB"),
            ("peak memory above idle", "MB"),
        )
    ]


def in_child(point: Point) -> dict[str, Any]:
    """Measure a point in a new process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, json.dumps(point)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def regression(dim: int, particles: int) -> Case:
    """Few rows and any number of weights: an evaluation costs `O(dim)`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, dim, generator=generator) / dim**0.5
    y = torch.randn(ROWS, generator=generator)

    def potential(q: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return 50.0 * (x @ q - y).square().sum()

    target = Target.from_potential(potential, dim, x, y, compile=False)
    anchor = torch.linalg.lstsq(x, y[:, None], driver="gelsd").solution[:, 0]
    v = torch.randn(particles, dim, generator=generator)
    options = DIMSOptions(alpha=0.0, polish=False, velocity="isotropic")
    q = anchor.expand(particles, -1).contiguous()
    module = load(FILES["overparameterised"])  # not used: the loss is the potential's
    objective = Objective("nll")
    level = objective.value_and_grad(target, q)[0]  # of perfect fits
    return Case("regression", module, target, objective, options, q, v, level)


def run_point(point: Point) -> dict[str, Any]:
    """Measure a point in this process."""
    torch.set_num_threads(1)
    if point.case == "regression":
        case = regression(point.dim, point.particles)
    else:
        quick = point.rung != "compiled"
        options: dict[str, Any] = SHORT if point.short else {}
        case = make_case(point.case, point.particles, quick=quick, **options)
    lanes = case.options.lanes(point.particles, case.target.dim)
    throw(case, rung=point.rung, count=1, num_lanes=lanes)
    idle = forget_peak()
    (stats, steps), spent = seconds(lambda: throw(case, rung=point.rung))
    peak = peak_memory()
    return {
        "lanes": lanes,
        "processor per draw": 1e3 * spent / point.particles,
        "processor per lane-step": 1e6 * spent / steps / lanes,
        "evaluations per draw": float(stats["n_evals"].double().mean()),
        "peak memory": peak / 1e6,
        "peak memory above idle": (peak - idle) / 1e6,
    }


def forget_peak() -> float:
    """Start a new peak of this process's memory, and return what it holds, bytes.

    Compiling needs more than running, and what it has freed goes back to the system
    first. Where the system cannot forget a peak, the compiler's stays in.
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another libc
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_memory()
    return memory("VmRSS") or peak_memory()


def evaluations(quick: bool) -> list[Row]:
    """Count the evaluations of 16 draws of some models, as their files run them."""
    rows: list[Row] = []
    for name in MODELS[:1] if quick else MODELS:
        module = load(name)
        fit = MCMC(
            DIMS(module.model, **module.options() | {"polish": True}),
            num_samples=2 if quick else 16,
            seed=0,
            compile=False,
            progress_bar=False,
        ).run(*module.data())
        stats = {key: value.double() for key, value in fit.stats.items()}
        flow = 2 * (stats["n_steps"] + stats["n_rejected"]) + 1
        polish = stats["n_evals"] - flow
        for method, counts in (("explore + settle", flow), ("polish", polish)):
            spread = float(counts.std())
            mean = float(counts.mean())
            rows.append(row(name, method, "evaluations per draw", mean, "", sd=spread))
    return rows


if __name__ == "__main__":
    print(json.dumps(run_point(Point(*json.loads(sys.argv[1])))))
