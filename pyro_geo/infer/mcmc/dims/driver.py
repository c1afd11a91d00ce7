"""The dissipative flow as one call on a plain loss, without Pyro."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_geo.checks import check_number
from pyro_geo.errors import (
    ConfigurationError,
    NonFiniteLossError,
    explain,
)
from pyro_geo.infer.mcmc.dims.dopri5 import (
    DopriState,
    dopri5_init,
    dopri5_is_active,
    dopri5_step,
)
from pyro_geo.infer.mcmc.dims.flow import splitting_step
from pyro_geo.infer.mcmc.dims.options import FlowOptions, FrictionLaw
from pyro_geo.infer.mcmc.dims.state import (
    DIVERGING,
    OUT_OF_TIME,
    STOPPED,
    FlowState,
    init_state,
    is_active,
)
from pyro_geo.ops.derivatives import BatchedLoss
from pyro_geo.ops.lanes import map_lanes, run_lanes

__all__ = ["FlowResult", "dissipative_flow", "flow_result"]

AnyState = FlowState | DopriState
Step = Callable[[AnyState], AnyState]


class FlowResult(NamedTuple):
    """Where every trajectory ended and what it went through.

    Attributes:
        theta: end points, `(n, dim)`.
        velocity: velocities there, `(n, dim)`.
        loss: loss there, `(n,)` as are all below.
        loss_explored: loss where exploring ended.
        loss_settled: loss where settling ended; `loss` under the name it has beside
            a polished one.
        energy: kinetic energy plus gravity times loss, at the end.
        energy_initial: the same at the start.
        energy_dissipated: friction work.
        energy_error: what the balance of the last three misses, relative to the
            energy that was there to lose: the larger of the initial kinetic energy
            and the friction work.
        kinetic: kinetic energy at the end.
        peak_loss: largest loss along the way.
        path_length: length of the path in parameter space.
        integration_time: time integrated, both stages.
        n_steps: accepted steps.
        n_rejected: rejected steps.
        n_evals: model evaluations.
        step_size: mean accepted step.
        finished: whether both stages ended by time or by standing still.
        diverging: whether no step was small enough; the trajectory is then frozen at
            its last finite point.
    """

    theta: Tensor
    velocity: Tensor
    loss: Tensor
    loss_explored: Tensor
    loss_settled: Tensor
    energy: Tensor
    energy_initial: Tensor
    energy_dissipated: Tensor
    energy_error: Tensor
    kinetic: Tensor
    peak_loss: Tensor
    path_length: Tensor
    integration_time: Tensor
    n_steps: Tensor
    n_rejected: Tensor
    n_evals: Tensor
    step_size: Tensor
    finished: Tensor
    diverging: Tensor


def flow_result(state: FlowState) -> FlowResult:
    """Name what a final state holds the way results are named.

    Args:
        state: final states, leading axis `n`.

    Returns:
        The result, leading axis `n`.
    """
    tiny = torch.finfo(state.q.dtype).tiny
    missed = state.energy - state.energy_initial + state.dissipated
    scale = torch.maximum(state.kinetic_initial, state.dissipated).clamp(min=tiny)
    ended = (state.status == OUT_OF_TIME) | (state.status == STOPPED)
    return FlowResult(
        theta=state.q,
        velocity=state.v,
        loss=state.loss,
        loss_explored=state.loss_explored,
        loss_settled=state.loss,
        energy=state.energy,
        energy_initial=state.energy_initial,
        energy_dissipated=state.dissipated,
        energy_error=missed / scale,
        kinetic=state.kinetic,
        peak_loss=state.peak_loss,
        path_length=state.path_length,
        integration_time=state.time_total,
        n_steps=state.n_steps,
        n_rejected=state.n_rejected,
        n_evals=state.n_evals_total,
        step_size=state.time_total / state.n_steps.clamp(min=1),
        finished=ended,
        diverging=state.status == DIVERGING,
    )


def _starts(theta0: Tensor, v0: Tensor) -> tuple[Tensor, Tensor]:
    """Broadcast starts and velocities to `(n, dim)` each.

    Args:
        theta0: starts, `(n, dim)` or `(dim,)`.
        v0: velocities, `(n, dim)` or `(dim,)`.

    Returns:
        Both as `(n, dim)`, without autograd history.

    Raises:
        ConfigurationError: they are no vectors, do not fit together, or a velocity is
            not finite.
    """
    both = (("theta0", theta0), ("v0", v0))
    for name, x in both:
        if x.dim() not in (1, 2) or x.numel() == 0 or not x.is_floating_point():
            raise ConfigurationError(
                "Not a batch of vectors",
                f"argument {name!r}",
                f"{x.dtype} of shape {tuple(x.shape)}",
                "a floating tensor (dim,) or (n, dim), not empty",
                "Flatten every start to one row.",
            )
    rows = {x.shape[0] for _, x in both if x.dim() == 2 and x.shape[0] > 1}
    same_kind = theta0.dtype == v0.dtype and theta0.device == v0.device
    if theta0.shape[-1] != v0.shape[-1] or len(rows) > 1 or not same_kind:
        raise ConfigurationError(
            "Starts and velocities do not fit",
            "arguments 'theta0' and 'v0'",
            f"{theta0.dtype} {tuple(theta0.shape)} and {v0.dtype} {tuple(v0.shape)}",
            "the same dtype, device and dim, and as many rows or one",
            "Give both the shape (n, dim).",
        )
    theta, v = torch.broadcast_tensors(torch.atleast_2d(theta0), torch.atleast_2d(v0))
    if not bool(torch.isfinite(v).all()):
        bad = (~torch.isfinite(v)).any(-1).nonzero().flatten().tolist()
        raise ConfigurationError(
            "Velocities are not finite",
            f"rows {bad[:8]} of 'v0'",
            v[bad[0]].tolist()[:8],
            "finite numbers",
            "Draw the velocities again.",
        )
    return theta.detach(), v.detach()


def _bad_starts(flow: FlowState) -> str | None:
    """Name the rows where the loss or its slope is not a number, if there are any."""
    bad = (flow.status == DIVERGING).nonzero().flatten().tolist()
    if not bad:
        return None
    more = ", ..." if len(bad) > 8 else ""
    return explain(
        "The flow cannot start",
        f"rows {', '.join(map(str, bad[:8]))}{more} of 'theta0'",
        f"loss {flow.loss[bad[0]].item()} and energy {flow.energy[bad[0]].item()} "
        f"in row {bad[0]}",
        "finite numbers",
        "Start where the loss and its gradient are finite.",
    )


def dissipative_flow(
    loss: Callable[[Tensor], Tensor],
    theta0: Tensor,
    v0: Tensor,
    *,
    time: float = 2.0,
    gravity: float = 1.0,
    friction: float | tuple[float, float] = 0.1,
    friction_law: FrictionLaw = "kinetic",
    alpha: float = 1.0,
    settle_time: float = 0.0,
    settle_friction: float = 3.0,
    step_tol: float = 0.3,
    energy_atol: float = 1e-2,
    k_stop: float = 1e-4,
    max_evals: int = 20_000,
    integrator: Literal["splitting", "dopri5"] = "splitting",
    rtol: float = 1e-7,
    atol: float = 1e-6,
    num_lanes: int | None = None,
    batched: bool = False,
    lift: Callable[[Step], Step] | None = None,
) -> FlowResult:
    r"""Let particles slide on a loss surface until time or friction ends them.

    Solves :math:`\ddot\theta = -[\alpha^2 v^T H v + g]\, d/W^2 - f(K) v` with
    gradient `d`, Hessian `H`, :math:`W^2 = 1 + \alpha^2 |d|^2` and kinetic energy
    `K` on the surface. Exploring uses the friction given; a settling stage with
    linear friction may follow. Every particle has its own step size and leaves when
    it is done, so that a stiff one does not hold up the rest.

    Args:
        loss: function of one point, `(dim,)` to `()`, that `torch.func.vmap` can map;
            or of all, if `batched`.
        theta0: starts, `(n, dim)` or `(dim,)`.
        v0: velocities, `(n, dim)` or `(dim,)`.
        time: length of the exploring stage; 0 skips it.
        gravity: weight `g` of the loss in the energy. No particle climbs by more than
            its kinetic energy over `g`.
        friction: friction of the exploring stage; a pair (per time, per length) for
            the law `"mixed"`.
        friction_law: `"kinetic"`, :math:`f = \mu \sqrt K`; `"linear"`,
            :math:`f = \mu`; `"mixed"`, :math:`f = \mu_0 + \mu_1 \sqrt K`.
        alpha: scale of the embedding; 0 is Euclidean and needs no second derivatives.
        settle_time: length of the settling stage; 0 skips it.
        settle_friction: its friction per time.
        step_tol: energy that a splitting step may lose track of, as a share of its
            friction work, in (0, 1).
        energy_atol: energy that a whole run may lose track of besides.
        k_stop: a stage ends early once the kinetic energy has stayed below this for a
            twentieth of the stage; 0 never.
        max_evals: model evaluations allowed per particle and stage. A particle that
            runs out while exploring still settles.
        integrator: `"splitting"`, second order, controlled by the energy ledger; or
            `"dopri5"`, fifth order, for tight tolerances on curved surfaces.
        rtol: relative tolerance of `"dopri5"`.
        atol: absolute tolerance of `"dopri5"`.
        num_lanes: particles in flight, default the smaller of `n` and 256 (64 above 100
            dimensions), rounded up to a multiple of 16.
        batched: the loss maps `(num_lanes, dim)` to `(num_lanes,)`, rows not seeing
            each other.
        lift: turns the step, a function of a state, into a faster one.

    Returns:
        The end points and their statistics, in the order of the starts.

    Raises:
        ConfigurationError: an option is outside its range, or starts, velocities or
            the loss have the wrong shape.
        NonFiniteLossError: the loss or its slope is not finite at a start.

    Example:
        >>> hyperbola = lambda x: (x[0] * x[1] - 1) ** 2
        >>> start = torch.ones(2, dtype=torch.float64)
        >>> v0 = torch.tensor([[1.0, -1.0], [-0.5, 0.5]], dtype=torch.float64)
        >>> result = dissipative_flow(hyperbola, start, v0, settle_time=6.0)
        >>> bool(result.loss.max() < 1e-2), result.finished.tolist()
        (True, [True, True])
    """
    # 1. The call, before any integration.
    check_number("time", time)
    options = FlowOptions(
        alpha=alpha,
        gravity=gravity,
        friction=friction,
        friction_law=friction_law,
        explore_time=time,
        settle_time=settle_time,
        settle_friction=settle_friction,
        step_tol=step_tol,
        energy_atol=energy_atol,
        k_stop=k_stop,
        max_evals=max_evals,
        integrator=integrator,
        rtol=rtol,
        atol=atol,
        num_lanes=num_lanes,
    )
    theta, v = _starts(theta0, v0)
    lanes = options.lanes(len(theta), theta.shape[-1])
    params = options.params(theta.dtype, theta.device)
    rows: BatchedLoss = loss if batched else torch.func.vmap(loss)
    found = tuple(map_lanes(lambda x: rows(x).detach(), theta[:1], lanes).shape)
    if found != (1,):
        raise ConfigurationError(
            "The loss has the wrong shape",
            "argument 'loss'",
            f"{found[1:]} per point",
            "one number per point",
            "Sum the loss over everything but the points.",
        )

    # 2. The trajectories.
    splitting = integrator == "splitting"
    start = partial(
        init_state if splitting else dopri5_init,
        rows,
        params=params,
        euclidean=options.euclidean,
    )
    queue = map_lanes(lambda pair: start(*pair), (theta, v), lanes)
    fault = _bad_starts(queue if isinstance(queue, FlowState) else queue.flow)
    if fault is not None:
        raise NonFiniteLossError(fault)

    def step(state: AnyState) -> AnyState:
        if isinstance(state, FlowState):
            return splitting_step(rows, params, state, euclidean=options.euclidean)
        return dopri5_step(
            rows, params, state, euclidean=options.euclidean, rtol=rtol, atol=atol
        )

    def active(state: AnyState) -> Tensor:
        return (
            is_active(state)
            if isinstance(state, FlowState)
            else dopri5_is_active(state)
        )

    final = run_lanes(step if lift is None else lift(step), queue, lanes, active=active)
    return flow_result(final if isinstance(final, FlowState) else final.flow)
