"""The controlled splitting step of the dissipative flow.

The step keeps a ledger of energy and friction work, and the ledger controls its size.
The equations of motion and the state are in :mod:`pyro_geo.infer.mcmc.dims.state`;
the names a caller needs are also here.
"""

import torch
from torch import Tensor

from pyro_geo.infer.mcmc.dims.state import (
    ACTIVE,
    DIVERGING,
    OUT_OF_BUDGET,
    OUT_OF_TIME,
    STOPPED,
    FlowParams,
    FlowState,
    Proposal,
    advance,
    clip_step,
    flow_params,
    init_state,
    is_active,
    kinetic_energy,
    stage_values,
)
from pyro_geo.ops.derivatives import BatchedLoss, value_and_grad, value_grad_hvp
from pyro_geo.ops.lanes import column, dot

__all__ = [
    "ACTIVE",
    "DIVERGING",
    "OUT_OF_BUDGET",
    "OUT_OF_TIME",
    "STOPPED",
    "FlowParams",
    "FlowState",
    "flow_params",
    "init_state",
    "is_active",
    "splitting_step",
]

# Rounding of the energy itself, in units of machine precision times its size. Float32
# losses of the gallery's networks were seen to be off by up to 2.3 of these.
ROUNDING = 16.0
SQRT_HALF = 0.5**0.5


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


def splitting_step(
    loss: BatchedLoss, params: FlowParams, state: FlowState, *, euclidean: bool
) -> FlowState:
    r"""Advance every active lane by one controlled step of the splitting integrator.

    Half a drift, half the friction, a kick, half the friction, half a drift: second
    order, self-adjoint and explicit, because the Christoffel term has rank one. The
    drifts allow for the friction beside them, so that flat directions are exact at
    any step size. A step is kept if the energy balance closes,

    .. math:: |E_{n+1} - E_n + q| \le \eta q + \epsilon h/T
              + 16 \epsilon_m (K_n + |g L_n|),

    with `q` the step's friction work; so :math:`E` falls along the kept steps up to
    the absolute term. A rejected lane stays where it is and shortens its step.

    Args:
        loss: block-separable loss, `(lanes, dim) -> (lanes,)`.
        params: what all lanes share.
        state: the state before the step.
        euclidean: whether to leave the surface's metric out (`alpha` 0); then no
            Hessian-vector product is taken and `params.alpha` is not read.

    Returns:
        The next state; lanes that were not active are bitwise unchanged.

    Example:
        >>> params = flow_params(dtype=torch.float64, mu_linear=(1.0, 0.0))
        >>> def loss(x):
        ...     return 0.5 * (x**2).sum(-1)
        >>> q, v = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
        >>> state = init_state(loss, q, v, params, euclidean=True)
        >>> state = splitting_step(loss, params, state, euclidean=True)
        >>> state.t.item(), state.n_evals.item()
        (0.04, 3)
    """
    end_time, mu0, mu1 = stage_values(params, state.stage)
    h, last = clip_step(state, end_time)
    half = 0.5 * h
    v, g = state.v, params.gravity
    # A drift under friction: `reach` is its way at unit speed without `mu1`. Drifting
    # by `half` would do for the order, but a lane whose energy has gone out of all but
    # the flat directions makes long steps, and there this is exact.
    shrink, reach = _linear_friction(half, mu0)
    speed0 = dot(v, v).sqrt()
    scale = SQRT_HALF * mu1 * reach  # speed to relative loss, off the slopes
    way0 = reach * _log1p_ratio(scale * speed0)
    middle = torch.addcmul(state.q, column(way0), v)

    if euclidean:
        _, d = value_and_grad(loss, middle)
        product = None
    else:
        _, d, product = value_grad_hvp(loss, middle, v)
    k0 = kinetic_energy(v, d, params.alpha, euclidean=euclidean)
    c0 = (1.0 - shrink) / (1.0 + mu1 * reach * k0.sqrt())
    if product is None:
        room = torch.ones_like(h)
        kick = h * g
    else:
        # v' - v = -h [u (a.v') + g d/W^2] with u = alpha^2 d/W^2 is linear in a.v'.
        alpha2 = params.alpha**2
        w2 = 1.0 + alpha2 * dot(d, d)
        slope = h * c0 * dot(product, d) / w2  # h a.d/W^2
        room = 1.0 + alpha2 * slope
        bend = (c0**2 * dot(product, v) - g * slope) / room
        kick = h * (alpha2 * bend + g) / w2
    v1 = column(c0) * v - column(kick) * d
    k1 = kinetic_energy(v1, d, params.alpha, euclidean=euclidean)
    drag1 = 1.0 + mu1 * reach * k1.sqrt()
    c1 = (1.0 - shrink) / drag1
    v_end = column(c1) * v1
    # The adjoint of the first drift: its inverse over a negative time.
    speed1 = dot(v1, v1).sqrt()
    way1 = reach / drag1 * _log1p_ratio(-scale * speed1 / drag1)
    q_end = torch.addcmul(middle, column(way1), v1)
    work = k0 * (1.0 - c0**2) + k1 * (1.0 - c1**2)

    if euclidean:
        value = loss(q_end).detach()
        kinetic = 0.5 * dot(v_end, v_end)
    else:
        value, d_end = value_and_grad(loss, q_end)
        kinetic = kinetic_energy(v_end, d_end, params.alpha, euclidean=False)
    energy = kinetic + g * value

    info = torch.finfo(h.dtype)
    defect = (energy - state.energy + work).abs()
    share = h / (params.end_time[0] + params.end_time[1])
    # of the parts, for their sum may cancel
    parts = state.kinetic + (g * state.loss).abs()
    floor = ROUNDING * info.eps * parts
    allowed = params.step_tol * work + params.energy_atol * share + floor
    finite = torch.isfinite(defect)
    possible = finite & (room >= 0.3)
    ratio = (allowed + info.tiny) / (defect + info.tiny)
    # The defect goes as the square of `h` relative to what is allowed, but jumps about:
    # half that exponent rejects a fifth as many steps and saves 10 to 30 % of them all.
    factor = torch.where(possible, (0.8 * ratio.sqrt().sqrt()).clamp(0.3, 1.3), 0.3)
    proposal = Proposal(
        q=q_end,
        v=v_end,
        loss=value,
        energy=energy,
        kinetic=kinetic,
        dissipated=work,
        length=way0 * speed0 + way1 * speed1,
        accept=possible & (defect <= allowed),
        factor=factor,
    )
    return advance(params, state, proposal, h, last, 2)
