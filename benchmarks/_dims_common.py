"""What the parts of the DiMS benchmark share: cases, clocks and tables of scores."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from _bench import Row, Timing, load, timing
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_geo import Target
from pyro_geo.engine.noise import Noise
from pyro_geo.engine.schedule import warm_up
from pyro_geo.evaluation.baselines import fan_in_starts, map_estimate
from pyro_geo.geometry.laplace import laplace
from pyro_geo.infer import DIMS
from pyro_geo.infer.mcmc.dims.objective import Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.trajectories import run_trajectories
from pyro_geo.infer.mcmc.dims.velocity import draw_velocities

FILES = {
    "gap_network": "gap_network",
    "overparameterised": "overparameterised_regression",
    "eight_schools": "eight_schools",
}
T = TypeVar("T")


class Outcome(NamedTuple):
    """What a part has measured."""

    rows: list[Row]
    ratios: dict[str, float]


def laplace_draws(target: Target, q: Tensor, num_draws: int, seed: int) -> Tensor:
    """Draw from the Laplace approximation at a mode, `(num_draws, dim)`."""
    generator = torch.Generator().manual_seed(seed)
    return laplace(target, q, flat="refuse").draw(num_draws, generator)


class Case(NamedTuple):
    """A model of the gallery with an anchor and velocities to leave it with."""

    name: str
    module: ModuleType
    target: Target
    objective: Objective
    options: DIMSOptions
    q: Tensor  # (n, dim), every row the anchor
    v: Tensor  # (n, dim)
    level: Tensor  # (n,), loss of the anchor where that is a minimum, else NaN


def make_case(
    name: str,
    num_particles: int,
    *,
    quick: bool,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shared: Target | None = None,
    **options: Any,
) -> Case:
    """Train an anchor and draw Laplace velocities, explore and settle at `alpha` 0.

    The network leaves its MAP, trained from a start with weights scaled by their
    inputs; the other two are trained by the sampler itself.

    Args:
        name: one of `FILES`.
        num_particles: velocities to draw.
        quick: train the anchor a little only.
        dtype: of everything.
        seed: of the data (of the network), the start and the velocities.
        shared: a target of the same model on other data, whose graphs are used again.
        **options: of the sampler.

    Returns:
        The case.
    """
    module = load(FILES[name])
    data = module.data(seed) if name == "gap_network" else module.data()
    target = shared.with_data(*data) if shared else None
    if target is None:
        target = Target.from_model(module.model, *data, dtype=dtype, compile=False)
    # of what the file chooses the loss alone, so that the work stays the same
    loss = module.options()["loss"]
    chosen = {"loss": loss, "alpha": 0.0, "polish": False, **options}
    if name == "gap_network":
        steps = {"num_steps": 200, "polish_steps": 10} if quick else {}
        starts = fan_in_starts(target, 1, seed=seed)
        chosen["anchors"] = map_estimate(target, initial=starts, **steps)
    kernel, noise = DIMS(target, **chosen), Noise(seed)
    *_, warm = warm_up(
        kernel,
        lambda: target,
        [0],
        num_samples=num_particles,
        num_chains=1,
        warmup_steps=0,
        noise=noise.region(1),
    )
    anchors, laplaces = warm.state.anchors, warm.state.laplaces
    v = draw_velocities(
        kernel.options,
        anchors.q,
        anchors.grad,
        laplaces,
        num_particles,
        noise.block([0], 0),
    )
    q = anchors.q.expand(num_particles, -1).contiguous()
    level = anchors.level(kernel.options.polish_tolerance).expand(num_particles)
    return Case(name, module, target, kernel.objective, kernel.options, q, v[0], level)


def throw(
    case: Case, *, rung: str, count: int | None = None, num_lanes: int | None = None
) -> tuple[dict[str, Tensor], int]:
    """Follow the first `count` particles to rest.

    Returns:
        Their statistics, and the number of steps of all lanes together.
    """
    n = len(case.q) if count is None else count
    lanes = num_lanes or case.options.lanes(len(case.q), case.target.dim)
    target = case.target.with_rung(rung)  # pyright: ignore[reportArgumentType]
    _, stats, steps, found = run_trajectories(
        target,
        case.objective,
        case.options,
        case.q[:n],
        case.v[:n],
        lanes,
        level=case.level[:n],
    )
    if found != rung:
        raise RuntimeError(f"wanted the rung {rung}, got {found}: {target.notes}")
    return stats, steps


def seconds(work: Callable[[], T]) -> tuple[T, float]:
    """Run once and measure processor seconds."""
    before = time.process_time()
    result = work()
    return result, time.process_time() - before


def in_turn(
    functions: Mapping[str, Callable[[], object]], repetitions: Mapping[str, int]
) -> dict[str, Timing]:
    """Time warm functions in turn, the slow ones in fewer of the rounds."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for turn in range(max(repetitions.values())):
        for name, fn in functions.items():
            if turn < repetitions[name]:
                wall, cpu = time.perf_counter(), time.process_time()
                fn()
                spent = time.process_time() - cpu, time.perf_counter() - wall
                seen[name].append(spent)
    return {name: timing(pairs) for name, pairs in seen.items() if pairs}


def row(
    case: str, method: str, metric: str, value: float, unit: str, **more: Any
) -> Row:
    """Make a row and print it; numbers that are not finite become `None`."""
    new: Row = {"case": case, "method": method, "metric": metric}
    new |= {"value": rounded(value), "unit": unit}
    new |= {k: rounded(v) if isinstance(v, float) else v for k, v in more.items()}
    spread = f" +- {new['sd']}" if new.get("sd") is not None else ""
    print(f"  {case}: {method}: {metric} {new['value']}{spread} {unit}", flush=True)
    return new


def rounded(value: float) -> float | None:
    """Keep four significant digits of a number."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


class Scores:
    """Scores of several methods over several seeds.

    Args:
        case: what they are scores on.
        units: metric to unit.
    """

    def __init__(self, case: str, units: Mapping[str, str]) -> None:
        self.case = case
        self.units = units
        self.notes: dict[str, str] = {}
        self._values: dict[tuple[str, str], list[float]] = {}

    def add(self, method: str, **values: float) -> None:
        """Keep one seed's scores."""
        for metric, value in values.items():
            self._values.setdefault((method, metric), []).append(float(value))

    def mean(self, method: str, metric: str) -> float:
        """Average over seeds."""
        return statistics.fmean(self._values[method, metric])

    def rows(self) -> list[Row]:
        """Mean and spread over the seeds, and every seed's value."""
        found = []
        for (method, metric), values in self._values.items():
            more: dict[str, Any] = {"seeds": len(values)}
            if len(values) > 1:
                more["sd"] = statistics.stdev(values)
                more["by_seed"] = [rounded(value) for value in values]
            if method in self.notes:
                more["note"] = self.notes[method]
            name, unit = metric.replace("_", " "), self.units.get(metric, "")
            mean = statistics.fmean(values)
            found.append(row(self.case, method, name, mean, unit, **more))
        return found


def anchor_gap(stats: Mapping[str, Tensor]) -> float:
    """Mean loss of the draws above their anchor's."""
    return float((stats["loss"] - stats["loss_anchor"]).mean())


def slices(state: T, i: int) -> T:
    """Row `i` of every tensor, its axis kept."""
    return pytree.tree_map(lambda leaf: leaf[i : i + 1], state)
