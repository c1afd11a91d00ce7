"""The same trajectories as a user would write them without this library.

A Python loop over particles with functional autograd on the model's log-density, no
batching and no compilation: half a drift, friction, kick, friction, half a drift, the
step controlled by the energy balance, explore then settle, at `alpha` 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from _dims_common import Case
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from torch import Tensor

from pyro_geo.infer.mcmc.dims.flow import CALM_SHARE, FIRST_STEP, SMALLEST_STEP
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.solvers.splitting import ROUNDING

Loss = Callable[[Tensor], Tensor]


class End(NamedTuple):
    """Where one particle came to rest, and how many steps it tried."""

    q: Tensor
    loss: float
    steps: int


class Stage(NamedTuple):
    """Length and friction per time and per length of one stage."""

    time: float
    linear: float
    quadratic: float


def loss_of(case: Case) -> Loss:
    """Write the loss down with Pyro alone; validation is for the caller to turn off.

    Args:
        case: the joint density goes through Pyro's own potential, the likelihood
            alone through a trace of the conditioned model.

    Returns:
        The loss of one flat position, `(dim,)`.
    """
    layout, model, data = case.target.layout, case.module.model, case.module.data()
    if case.objective.loss == "joint":
        potential = initialize_model(model, data)[1]
        return lambda q: potential(layout.unflatten(q))
    observed = set(case.target.observed)

    def loss(q: Tensor) -> Tensor:
        conditioned = poutine.condition(model, data=layout.constrain(q))
        trace = poutine.trace(conditioned).get_trace(*data)
        return -torch.as_tensor(trace.log_prob_sum(lambda name, _: name in observed))

    return loss


def stages(options: DIMSOptions) -> list[Stage]:
    """List the two stages of a run with kinetic friction."""
    assert options.friction_law == "kinetic"
    assert isinstance(options.friction, float)
    return [
        Stage(options.explore_time, 0.0, options.friction),
        Stage(options.settle_time, options.settle_friction, 0.0),
    ]


def trajectory(loss: Loss, q: Tensor, v: Tensor, options: DIMSOptions) -> End:
    """Follow one particle to rest.

    Args:
        loss: of one position.
        q: start, `(dim,)`.
        v: velocity, `(dim,)`.
        options: the same as the batched run's.

    Returns:
        Its end.
    """
    slope = torch.func.grad_and_value(loss)
    plan = stages(options)
    whole = sum(stage.time for stage in plan)
    value, steps, h = float(loss(q)), 0, FIRST_STEP * plan[0].time
    for stage in plan:
        t = calm = 0.0
        evals = 1 if steps == 0 else 0
        while t < stage.time and evals < options.max_evals and h >= SMALLEST_STEP:
            last = h >= stage.time - t
            now = stage.time - t if last else h
            new_q, new_v, work = step(slope, q, v, now, stage, options.gravity)
            new = float(loss(new_q))
            before, after = 0.5 * float(v @ v), 0.5 * float(new_v @ new_v)
            energy = before + options.gravity * value
            defect = abs(after + options.gravity * new - energy + work)
            allowed = options.step_tol * work + options.energy_atol * now / whole
            parts = before + abs(options.gravity * value)
            allowed += ROUNDING * torch.finfo(q.dtype).eps * parts
            steps, evals = steps + 1, evals + 2
            grown = 0.3
            if math.isfinite(defect):
                grown = min(max(0.8 * (allowed / (defect + 1e-38)) ** 0.25, 0.3), 1.3)
            if not defect <= allowed:
                h = now * grown
                continue
            q, v, value, t = new_q, new_v, new, stage.time if last else t + now
            h = max(now * grown, h) if last else now * grown
            calm = 0.0 if max(before, after) >= options.k_stop else calm + now
            if calm >= CALM_SHARE * stage.time:
                break
    return End(q, value, steps)


def step(
    slope: Callable[[Tensor], tuple[Tensor, Tensor]],
    q: Tensor,
    v: Tensor,
    h: float,
    stage: Stage,
    gravity: float,
) -> tuple[Tensor, Tensor, float]:
    """One step of the splitting integrator, with the friction work it took."""
    half, mu0, mu1 = 0.5 * h, stage.linear, stage.quadratic
    shrink = -math.expm1(-mu0 * half)
    reach = shrink / mu0 if mu0 else half
    speed = float(v @ v) ** 0.5
    scale = 0.5**0.5 * mu1 * reach
    middle = q + reach * log1p_ratio(scale * speed) * v
    d, _ = slope(middle)
    k0 = 0.5 * speed**2
    c0 = (1.0 - shrink) / (1.0 + mu1 * reach * k0**0.5)
    kicked = c0 * v - h * gravity * d
    k1 = 0.5 * float(kicked @ kicked)
    drag = 1.0 + mu1 * reach * k1**0.5
    c1 = (1.0 - shrink) / drag
    way = reach / drag * log1p_ratio(-scale * (2.0 * k1) ** 0.5 / drag)
    work = k0 * (1.0 - c0**2) + k1 * (1.0 - c1**2)
    return middle + way * kicked, c1 * kicked, work


def log1p_ratio(x: float) -> float:
    """Evaluate `log(1 + x) / x`, which is 1 at 0."""
    return math.log1p(x) / x if x else 1.0
