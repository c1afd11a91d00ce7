"""The dissipative flow as one call on a plain loss, without Pyro."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_geo.checks import check, check_number
from pyro_geo.errors import NonFiniteLossError
from pyro_geo.infer.mcmc.dims.flow import advance, start_flow
from pyro_geo.infer.mcmc.dims.options import FlowOptions, FrictionLaw
from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.result import FlowResult, flow_result
from pyro_geo.infer.mcmc.dims.solvers import Integrator
from pyro_geo.infer.mcmc.dims.state import DIVERGING, FlowState, is_active
from pyro_geo.ops.lanes import map_lanes, run_lanes

__all__ = ["dissipative_flow"]

Step = Callable[[FlowState], FlowState]


def _starts(theta0: Tensor, v0: Tensor) -> tuple[Tensor, Tensor]:
    """Broadcast starts and velocities to `(n, dim)` each.

    Raises :class:`~pyro_geo.errors.ConfigurationError` where they are no vectors or
    do not fit together, or where a velocity is not finite.

    Args:
        theta0: starts, `(n, dim)` or `(dim,)`.
        v0: velocities, `(n, dim)` or `(dim,)`.

    Returns:
        Both as `(n, dim)`, without autograd history.
    """
    named = (("theta0", theta0), ("v0", v0))
    for name, x in named:
        good = x.dim() in (1, 2) and x.numel() > 0 and x.is_floating_point()
        shown = f"{x.dtype} of shape {tuple(x.shape)}"
        check(good, name, shown, "a floating tensor (dim,) or (n, dim), not empty")
    rows = {x.shape[0] for _, x in named if x.dim() == 2 and x.shape[0] > 1}
    same_kind = theta0.dtype == v0.dtype and theta0.device == v0.device
    fit = theta0.shape[-1] == v0.shape[-1] and len(rows) < 2 and same_kind
    shown = f"{theta0.dtype} {tuple(theta0.shape)} and {v0.dtype} {tuple(v0.shape)}"
    expected = "the same dtype, device and dim, and as many rows or one"
    check(fit, "theta0 and v0", shown, expected)
    theta, v = torch.broadcast_tensors(torch.atleast_2d(theta0), torch.atleast_2d(v0))
    bad = (~torch.isfinite(v)).any(-1).nonzero().flatten().tolist()
    check(not bad, "v0", f"NaN or infinity in rows {bad[:8]}", "finite velocities")
    return theta.detach(), v.detach()


def _check_start(state: FlowState) -> None:
    """Refuse rows where the loss or its slope is not a number.

    Args:
        state: every row before its first step.

    Raises:
        NonFiniteLossError: there are such rows.
    """
    bad = (state.status == DIVERGING).nonzero().flatten().tolist()
    if bad:
        more = ", ..." if len(bad) > 8 else ""
        raise NonFiniteLossError(
            "the flow cannot start",
            where=f"rows {', '.join(map(str, bad[:8]))}{more} of 'theta0'",
            found=f"loss {state.loss[bad[0]].item()} and energy "
            f"{state.energy[bad[0]].item()} in row {bad[0]}",
            expected="finite numbers",
            todo="Start where the loss and its gradient are finite.",
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
    integrator: Integrator = "splitting",
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

    Raises :class:`~pyro_geo.errors.ConfigurationError` where an option is outside
    its range, or starts, velocities or the loss have the wrong shape. A loss or
    slope that is not finite at a start is a
    :class:`~pyro_geo.errors.NonFiniteLossError`.

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
        step_tol: energy that a step may lose track of, as a share of its friction
            work, in (0, 1); not for `"dopri5"`.
        energy_atol: energy that a whole run may lose track of besides; the same.
        k_stop: a stage ends early once the kinetic energy has stayed below this for a
            twentieth of the stage; 0 never.
        max_evals: model evaluations allowed per particle and stage. A particle that
            runs out while exploring still settles.
        integrator: `"splitting"`, second order, controlled by the energy ledger;
            `"suzuki"`, seven such steps as one of fourth order, for a tight ledger; or
            `"dopri5"`, fifth order, for tight tolerances on positions.
        rtol: relative tolerance of `"dopri5"`.
        atol: absolute tolerance of `"dopri5"`.
        num_lanes: particles in flight, default the smaller of `n` and 256 (64 above 100
            dimensions), rounded up to a multiple of 16.
        batched: the loss maps `(num_lanes, dim)` to `(num_lanes,)`, independent of
            each other.
        lift: turns the step, a function of a state, into a faster one.

    Returns:
        The end points and their statistics, in the order of the starts.

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
    rows = loss if batched else torch.func.vmap(loss)
    shape = tuple(map_lanes(lambda x: rows(x).detach(), theta[:1], lanes).shape)
    check(shape == (1,), "loss", f"values of shape {shape[1:]}", "one number per point")

    # 2. The trajectories.
    problem, solver = Problem(rows, params, options.euclidean), options.solver()
    queue = map_lanes(
        lambda pair: start_flow(problem, solver, *pair), (theta, v), lanes
    )
    _check_start(queue)

    def step(state: FlowState) -> FlowState:
        return advance(problem, solver, state)

    chosen = step if lift is None else lift(step)
    return flow_result(run_lanes(chosen, queue, lanes, active=is_active))
