"""DiMS: minima of a loss by dissipative mechanics, many trajectories in flight."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.checks import check, known_options
from pyro_geo.density import Target
from pyro_geo.density.initial import Strategy
from pyro_geo.engine.blocks import Block, ChainGroup, Warmup
from pyro_geo.engine.kernel import Kernel
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import ObjectiveShapeError, PyroGeoWarning
from pyro_geo.geometry.curvature import GaussNewton
from pyro_geo.geometry.laplace import Laplace
from pyro_geo.infer.mcmc.dims.anchors import Anchors
from pyro_geo.infer.mcmc.dims.objective import Loss, Objective
from pyro_geo.infer.mcmc.dims.options import (
    DIMSOptions,
    FrictionLaw,
    Integrator,
    Velocity,
)
from pyro_geo.infer.mcmc.dims.placement import find_anchors
from pyro_geo.infer.mcmc.dims.review import (
    draw_warnings,
    precision_warnings,
    spread_warnings,
)
from pyro_geo.infer.mcmc.dims.trajectories import STATS, run_trajectories
from pyro_geo.infer.mcmc.dims.velocity import anchor_laplace, draw_velocities

__all__ = ["DIMS", "DIMSState"]

_MOST_LANES = 256  # beyond this no default goes
_BLOCK_LANES = 4  # trajectories per lane and block, so that long ones delay few lanes


class DIMSState(NamedTuple):
    """What the trajectories of a group of chains leave from.

    Attributes:
        anchors: one per chain.
        laplaces: Laplace approximations, one per chain, or none.
        num_lanes: trajectories in flight; None before the first block.
        num_chains: chains of the whole run, this group and the others.
        furthest: largest displacement of any draw so far in standard deviations of
            the Laplace approximation, `(chains,)`; NaN without one.
    """

    anchors: Anchors
    laplaces: list[Laplace]
    num_lanes: int | None
    num_chains: int
    furthest: Tensor


class DIMS(Kernel):
    r"""Sample minimum level sets of a loss by dissipative Riemannian mechanics.

    Particles leave a trained solution, the anchor, slide on the surface
    :math:`(\theta, \alpha L(\theta))` under gravity and friction, and are kept where
    they come to rest: an ensemble of equally good solutions for one training run.

    .. math:: \ddot\theta = -[\alpha^2 v^T H v + g]\, d/W^2 - f(K)\, v,
              \qquad W^2 = 1 + \alpha^2 |d|^2

    Three stages: *explore* under the friction given, *settle* under strong linear
    friction, *polish* by trust-region Newton steps. Use it where there are more
    parameters than the data determine. The draws are equally weighted and, given the
    anchor, independent; they are **not** posterior draws, and their intervals are not
    credible intervals. For those use a posterior sampler.

    In :class:`pyro_geo.infer.MCMC` a chain is an anchor and its draws are
    trajectories from it, `num_lanes` in flight. The same object works in
    `pyro.infer.MCMC`, one chain at a time; randomness then comes from torch's global
    generator.

    Args:
        model: a Pyro model, or a :class:`pyro_geo.Target` (of a module, say).
        potential_fn: instead of a model, a function of a dictionary of unconstrained
            values; its sites are those of `anchors`, or of `initial_params` of the
            run.
        loss: `"nll"`, minus the log-likelihood; `"joint"`, minus the log-joint in
            unconstrained space; or a function of a dictionary of unconstrained values.
        prior_weight: share of the prior added to `"nll"`; 0 keeps exact likelihood
            level sets.
        transforms: with `potential_fn`, site to the map from constrained to
            unconstrained values, as Pyro has them.
        init_strategy: start of the anchors' training, see :meth:`Target.initial`;
            medians of the prior by default.
        anchors: trained solutions instead: flat unconstrained `(num_chains, dim)`, or
            site to constrained values (an `AutoDelta` guide's median, say).
        alpha: embedding scale; 0 is Euclidean and several times cheaper.
        gravity: weight of the loss in the energy.
        friction: friction of the exploring stage.
        friction_law: `"kinetic"` (`mu sqrt(K)`), `"linear"` (`mu`), `"mixed"` (a pair).
        explore_time: length of the exploring stage.
        settle_time: length of the settling stage; 0 skips it.
        settle_friction: its linear friction.
        polish: whether to end with Newton steps.
        polish_tolerance: predicted decrease, in nats, at which the polish stops.
        polish_max_steps: Newton steps allowed.
        velocity: `"laplace"` (covariance of the Laplace approximation at the anchor),
            `"isotropic"`, `"fixed_energy"`, or `f(anchor, n, generator) -> (n, dim)`.
        velocity_scale: multiplies the velocities.
        initial_energy: kinetic energy of `"fixed_energy"`.
        step_tol: energy a step may lose track of, as a share of its friction work.
        energy_atol: energy a trajectory may lose track of besides, in nats.
        k_stop: kinetic energy below which a stage ends early.
        max_evals: model evaluations per trajectory and stage.
        num_lanes: trajectories in flight, default the smaller of all and 256 (64 above
            100 dimensions), rounded up to a multiple of 16.
        integrator: `"splitting"` or `"dopri5"`, with `rtol` and `atol`.
        rtol: relative tolerance of `"dopri5"`.
        atol: absolute tolerance of `"dopri5"`.
        anchor_steps: Adam steps at most to train an anchor.
        anchor_step_size: their largest step size.

    Raises:
        ConfigurationError: an option is outside its range.

    References:
        "Don't Stop Me Yet: Sampling Loss Minima via Dissipative Riemannian
        Mechanics", arXiv 2605.15459.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyro_geo.infer import MCMC
        >>> def model(x, y):
        ...     w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", dist.Normal(x @ w, 0.1), obs=y)
        >>> x, y = torch.eye(3)[:2], torch.tensor([1.0, -1.0])
        >>> fit = MCMC(DIMS(model), 16, seed=1, progress_bar=False).run(x, y)
        >>> w = fit.get_samples()["w"]
        >>> bool((w[:, :2] - y).abs().max() < 0.05), bool(w[:, 2].std() > 0.1)
        (True, True)
    """

    statistics = STATS
    settings = ("objective", "start_transforms", "init_strategy", "anchors", "options")
    citations = ("dims",)
    chain_name = "anchor"
    state_type = DIMSState
    draws_ahead = 64
    shown_statistic = "loss"
    diagnostic_means = {"converged": "converged"}

    @renamed(polish_tol="polish_tolerance", polish_max_iter="polish_max_steps")
    @known_options
    def __init__(
        self,
        model: Callable[..., Any] | Target | None = None,
        *,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        loss: Loss = "nll",
        prior_weight: float = 0.0,
        transforms: Mapping[str, Any] | None = None,
        init_strategy: Strategy | None = None,
        anchors: Tensor | Mapping[str, Tensor] | None = None,
        alpha: float = 1.0,
        gravity: float = 1.0,
        friction: float | tuple[float, float] = 0.1,
        friction_law: FrictionLaw = "kinetic",
        explore_time: float = 2.0,
        settle_time: float = 6.0,
        settle_friction: float = 3.0,
        polish: bool = True,
        polish_tolerance: float = 1e-2,
        polish_max_steps: int = 25,
        velocity: Velocity = "laplace",
        velocity_scale: float = 1.0,
        initial_energy: float | None = None,
        step_tol: float = 0.3,
        energy_atol: float = 1e-2,
        k_stop: float = 1e-4,
        max_evals: int = 20_000,
        num_lanes: int | None = None,
        integrator: Integrator = "splitting",
        rtol: float = 1e-7,
        atol: float = 1e-6,
        anchor_steps: int = 2_000,
        anchor_step_size: float = 0.05,
    ) -> None:
        super().__init__(model, potential_fn=potential_fn, transforms=transforms)
        self.objective = Objective(loss, prior_weight)
        self.init_strategy: Strategy | None = init_strategy
        self.anchors = anchors
        self.options = DIMSOptions(
            alpha=alpha,
            gravity=gravity,
            friction=friction,
            friction_law=friction_law,
            explore_time=explore_time,
            settle_time=settle_time,
            settle_friction=settle_friction,
            polish=polish,
            polish_tolerance=polish_tolerance,
            polish_max_steps=polish_max_steps,
            velocity=velocity,
            velocity_scale=velocity_scale,
            initial_energy=initial_energy,
            step_tol=step_tol,
            energy_atol=energy_atol,
            k_stop=k_stop,
            max_evals=max_evals,
            num_lanes=num_lanes,
            integrator=integrator,
            rtol=rtol,
            atol=atol,
            anchor_steps=anchor_steps,
            anchor_step_size=anchor_step_size,
        )

    @property
    def potential_sites(self) -> Mapping[str, Tensor]:
        """Constrained values that say which sites the potential function has."""
        if isinstance(self.anchors, Mapping):
            return self.anchors
        expected = "a dictionary of values, site to tensor, beside a potential function"
        check(self.anchors is None, "anchors", type(self.anchors).__name__, expected)
        return super().potential_sites

    def log_prob(self, target: Target, q: Tensor) -> Tensor:
        """Minus the loss, `(draws,)` at `q` of `(draws, dim)`."""
        return -self.objective.on(target)(q)

    def default_warmup(self, num_samples: int, num_chains: int) -> int:
        """No warm-up: anchors are trained, nothing is tuned."""
        return 0

    def block_draws(self, target: Target, num_samples: int, num_chains: int) -> int:
        """Draws per chain and block, so that every lane serves a few trajectories."""
        # of a run that fills all lanes: a short one is a part of its first block, so
        # that it can be made longer
        lanes = self.options.lanes(_MOST_LANES, target.dim)
        return max(1, -(-_BLOCK_LANES * lanes // num_chains))

    def start_strategy(self, target: Target) -> Strategy:
        """Where the training of an anchor starts."""
        return self.init_strategy or target.default_strategy

    def start(self, target: Target, group: ChainGroup) -> Warmup:
        """Find or train the anchors and factor their Laplace precisions."""
        self._check_early(target)
        source = self.anchors, self.init_strategy
        # of a copy: the streams go on as if nothing had been drawn from them
        normals = copy.deepcopy(group.noise).normal(target.dim, dtype=target.dtype)
        normals = normals.to(target.device)
        anchors = find_anchors(
            target, group, self.objective, self.options, *source, normals
        )
        laplaces: list[Laplace] = []
        if self.options.velocity == "laplace":
            laplaces = [
                anchor_laplace(target, anchors, i, group.noise.generator(i))
                for i in range(len(group.chains))
            ]
        furthest = torch.full_like(anchors.loss, 0.0 if laplaces else torch.nan)
        state = DIMSState(anchors, laplaces, None, group.num_chains, furthest)
        return Warmup(state, finished=True)

    def block(
        self,
        target: Target,
        state: DIMSState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Run `draws` independent trajectories from every anchor."""
        anchors, num_lanes = state.anchors, state.num_lanes
        if num_lanes is None:
            # the first block sets it: the number is part of the compiled step
            num_lanes = self.options.lanes(draws * state.num_chains, target.dim)
            state = state._replace(num_lanes=num_lanes)
        velocities = draw_velocities(
            self.options, anchors.q, anchors.grad, state.laplaces, draws, noise
        )

        def normals() -> Tensor:
            numbers = noise.normal(draws, target.dim, dtype=target.dtype)
            return numbers.to(target.device).flatten(0, 1)

        flat, flat_stats, _, rung = run_trajectories(
            target,
            self.objective,
            self.options,
            anchors.q.repeat_interleave(draws, 0),  # (chains * draws, dim)
            velocities.flatten(0, 1),
            num_lanes,
            normals,
            anchors.level(self.options.polish_tolerance).repeat_interleave(draws),
        )
        shape = (len(chains), draws)
        q = flat.unflatten(0, shape)
        stats = {name: value.unflatten(0, shape) for name, value in flat_stats.items()}
        if state.laplaces:
            # displacements in the metric of the Laplace precision; the review warns
            # where every draw fell back on its anchor
            moves = (q - anchors.q.unsqueeze(1)).nan_to_num(torch.inf)
            far = [
                laplace.precision.norm(move).max()  # in standard deviations
                for laplace, move in zip(state.laplaces, moves, strict=True)
            ]
            furthest = torch.maximum(state.furthest, torch.stack(far))
            state = state._replace(furthest=furthest)
        # Steps as if all chains ran together: the ladder must not depend on groups.
        rounds = -(-draws * state.num_chains // num_lanes)
        taken = (stats["n_steps"] + stats["n_rejected"]).double().mean(1).max()
        return Block(state, q, stats, math.ceil(rounds * float(taken)), rung)

    def review(
        self, states: Sequence[DIMSState], stats: dict[str, Tensor]
    ) -> list[PyroGeoWarning]:
        """Warn of anchors that are no minima and of draws that went wrong."""
        anchors = Anchors(
            *(
                torch.cat(parts)
                for parts in zip(*(s.anchors for s in states), strict=True)
            )
        )
        options = self.options
        return [
            *anchors.warnings(options.polish_tolerance),
            *precision_warnings([x for state in states for x in state.laplaces]),
            *draw_warnings(stats, options, dim=anchors.q.shape[1]),
            *spread_warnings(
                stats, options, torch.cat([state.furthest for state in states])
            ),
        ]

    def _check_early(self, target: Target) -> None:
        """Refuse a loss or a velocity law before anchors are trained for it."""
        # the curvature is tried too: some models have no Gauss-Newton matrix
        q = torch.full((1, target.dim), 0.1, dtype=target.dtype, device=target.device)
        shape = tuple(self.objective.on(target)(q).shape)
        if shape != (1,):
            raise ObjectiveShapeError(
                "the loss has the wrong shape",
                where="argument 'loss'",
                found=f"{shape[1:]} per position",
                expected="one number per position",
                todo="Sum it over everything but the positions.",
            )
        if self.options.velocity == "laplace":
            GaussNewton(target, q[0]).matvec(q)

    def describe(self, states: Sequence[DIMSState]) -> dict[str, str | int | float]:
        """Record how many trajectories were in flight."""
        num_lanes = states[0].num_lanes
        return {} if num_lanes is None else {"num_lanes": num_lanes}
