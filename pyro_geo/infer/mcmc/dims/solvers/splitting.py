"""Splitting steps of the dissipative flow, controlled by the energy ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.solvers.protocol import Proposal, Start
from pyro_geo.infer.mcmc.dims.state import FlowState
from pyro_geo.ops.lanes import column, dot

__all__ = ["ROUNDING", "Move", "Splitting", "compose", "propose_by_ledger", "split"]

# Rounding of the energy itself, in units of machine precision times its size. Float32
# losses of the gallery's networks were seen to be off by up to 2.3 of these.
ROUNDING = 16.0
SQRT_HALF = 0.5**0.5
# The kick divides by 1 + h a.u, and friction over a negative time by 1 - mu1 s sqrt K.
# A step that brings either below this is far too long.
SMALLEST_DIVISOR = 0.3


class Move(NamedTuple):
    """What one or several splitting steps do to every lane.

    Attributes:
        q: positions at the end, `(lanes, dim)`.
        v: velocities at the end, `(lanes, dim)`.
        work: friction work, `(lanes,)` as are all below; negative backwards in time.
        length: length of the way in parameter space; negative backwards in time.
        divisor: smallest number that the step divides by, 1 for a short step.
        num_splits: number of splitting steps.
    """

    q: Tensor
    v: Tensor
    work: Tensor
    length: Tensor
    divisor: Tensor
    num_splits: int = 1


def _log1p_ratio(x: Tensor) -> Tensor:
    """Evaluate `log(1 + x) / x`, which is 1 at 0."""
    zero = x == 0
    return torch.where(zero, 1.0, torch.log1p(x) / torch.where(zero, 1.0, x))


def _linear_friction(s: Tensor, mu0: Tensor) -> tuple[Tensor, Tensor]:
    """Speed lost and way made by unit speed under linear friction over time `s`."""
    x = mu0 * s
    shrink = -torch.expm1(-x)
    still = x == 0
    reach = s * torch.where(still, 1.0, shrink / torch.where(still, 1.0, x))
    return shrink, reach


def split(
    problem: Problem, q: Tensor, v: Tensor, h: Tensor, mu0: Tensor, mu1: Tensor
) -> Move:
    r"""Take one splitting step, at one evaluation of the model.

    Half a drift, half the friction, a kick, half the friction, half a drift: second
    order, self-adjoint and explicit, because the Christoffel term has rank one. The
    drifts allow for the friction beside them, so that flat directions are exact at
    any step size. A negative `h` goes back in time, and takes friction work back.

    Args:
        problem: the equations of motion.
        q: positions, `(lanes, dim)`.
        v: velocities, `(lanes, dim)`.
        h: sizes of the step, `(lanes,)`.
        mu0: friction per time, `(lanes,)`.
        mu1: friction per length, `(lanes,)`.

    Returns:
        Where the lanes get to, with the friction work and the length.
    """
    half, g = 0.5 * h, problem.params.gravity
    # A drift under friction: `reach` is its way at unit speed without `mu1`. Drifting
    # by `half` has the same order, but this one is exact in flat directions. There a
    # lane that has lost its energy in all others makes long steps.
    shrink, reach = _linear_friction(half, mu0)
    speed0 = dot(v, v).sqrt()
    scale = SQRT_HALF * mu1 * reach  # speed to relative loss, off the slopes
    way0 = reach * _log1p_ratio(scale * speed0)
    middle = torch.addcmul(q, column(way0), v)

    _, d, product = problem.derivatives(middle, v)
    # Both frictions over half a step: dK/dt = -2 (mu0 + mu1 sqrt K) K has the closed
    # solution K_end = c0^2 K.
    k0 = problem.kinetic_energy(v, d)
    drag0 = 1.0 + mu1 * reach * k0.sqrt()
    c0 = (1.0 - shrink) / drag0
    if product is None:
        room = torch.ones_like(h)
        kick = h * g
    else:
        # v' - v = -h [u (a.v') + g d/W^2] with u = alpha^2 d/W^2 is linear in a.v'.
        alpha2 = problem.params.alpha**2
        w2 = 1.0 + alpha2 * dot(d, d)
        slope = h * c0 * dot(product, d) / w2  # h a.d/W^2
        room = 1.0 + alpha2 * slope
        bend = (c0**2 * dot(product, v) - g * slope) / room
        kick = h * (alpha2 * bend + g) / w2
    v1 = column(c0) * v - column(kick) * d
    k1 = problem.kinetic_energy(v1, d)
    drag1 = 1.0 + mu1 * reach * k1.sqrt()
    c1 = (1.0 - shrink) / drag1
    v_end = column(c1) * v1
    # The adjoint of the first drift: its inverse over a negative time.
    speed1 = dot(v1, v1).sqrt()
    way1 = reach / drag1 * _log1p_ratio(-scale * speed1 / drag1)
    return Move(
        q=torch.addcmul(middle, column(way1), v1),
        v=v_end,
        work=k0 * (1.0 - c0**2) + k1 * (1.0 - c1**2),
        length=way0 * speed0 + way1 * speed1,
        divisor=torch.minimum(room, torch.minimum(drag0, drag1)),
    )


def compose(
    problem: Problem, state: FlowState, h: Tensor, weights: Sequence[float]
) -> Move:
    """Take splitting steps of the sizes `h` times each weight, one after the other."""
    mu0, mu1 = problem.friction(state.stage)
    first, *rest = weights
    move = split(problem, state.q, state.v, first * h, mu0, mu1)
    for weight in rest:
        part = split(problem, move.q, move.v, weight * h, mu0, mu1)
        # The work is one more variable of the equations of motion: its sum has the
        # order that the composition gives to positions and velocities.
        move = Move(
            q=part.q,
            v=part.v,
            work=move.work + part.work,
            length=move.length + part.length,
            divisor=torch.minimum(move.divisor, part.divisor),
            num_splits=move.num_splits + 1,
        )
    return move


def propose_by_ledger(
    problem: Problem, state: FlowState, h: Tensor, move: Move, order: int
) -> Proposal:
    r"""Offer a move whose energy balance closes, after one evaluation at its end.

    .. math:: |E_{n+1} - E_n + q| \le \eta q + \epsilon h/T
              + 16 m \epsilon_m (K_n + |g L_n|),

    with `q` the friction work of the `m` splitting steps, each of which rounds. So
    :math:`E` falls along the steps that are taken, up to the absolute term.

    Args:
        problem: the equations of motion.
        state: the state before the step.
        h: sizes of the step, `(lanes,)`.
        move: what the step does.
        order: order of the solver, a power of two.

    Returns:
        The proposal.
    """
    params, info = problem.params, torch.finfo(h.dtype)
    value, kinetic = problem.loss_and_kinetic_energy(move.q, move.v)
    energy = kinetic + params.gravity * value
    defect = (energy - state.energy + move.work).abs()
    share = h / (params.end_time[0] + params.end_time[1])
    # of the parts, for their sum may cancel
    parts = state.kinetic + (params.gravity * state.loss).abs()
    floor = move.num_splits * ROUNDING * info.eps * parts
    allowed = params.step_tol * move.work + params.energy_atol * share + floor
    possible = torch.isfinite(defect) & (move.divisor >= SMALLEST_DIVISOR)
    ratio = (allowed + info.tiny) / (defect + info.tiny)
    # The defect relative to what is allowed goes as the power `order` of `h`, but jumps
    # about: half the exponent that this asks for rejects a fifth as many steps and
    # saves 10 to 30 % of them all. The root of order 2 `order`, by square roots:
    for _ in range(order.bit_length()):
        ratio = ratio.sqrt()
    factor = (0.8 * ratio).clamp(0.3, 1.3)
    return Proposal(
        q=move.q,
        v=move.v,
        loss=value,
        kinetic=kinetic,
        energy=energy,
        dissipated=move.work,
        length=move.length,
        accept=possible & (defect <= allowed),
        factor=torch.where(possible, factor, 0.3),
    )


@dataclass(frozen=True)
class Splitting:
    """The splitting step of second order: robust, cheap, and the default.

    Example:
        >>> from pyro_geo.infer.mcmc.dims.flow import advance, start_flow
        >>> from pyro_geo.infer.mcmc.dims.problem import flow_params
        >>> params = flow_params(dtype=torch.float64, mu_linear=(1.0, 0.0))
        >>> bowl = Problem(lambda x: 0.5 * x.square().sum(-1), params, euclidean=True)
        >>> q, v = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        >>> solver = Splitting()
        >>> state = advance(bowl, solver, start_flow(bowl, solver, q, v))
        >>> state.t.item(), state.n_evals.item()
        (0.04, 3)
    """

    num_evals = 2

    def start(self, problem: Problem, q: Tensor, v: Tensor) -> Start:
        """Evaluate loss and kinetic energy."""
        return Start(*problem.loss_and_kinetic_energy(q, v))

    def propose(self, problem: Problem, state: FlowState, h: Tensor) -> Proposal:
        """Offer one splitting step."""
        move = compose(problem, state, h, (1.0,))
        return propose_by_ledger(problem, state, h, move, order=2)
