"""DiMS as a kernel of the batched runner."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_geo.density import Layout, Site, Target
from pyro_geo.density.initial import Strategy
from pyro_geo.engine.kernel import Block, Warmup, target_of
from pyro_geo.engine.noise import BlockNoise
from pyro_geo.errors import (
    ConfigurationError,
    NotPositiveDefiniteError,
    ObjectiveShapeError,
    PyroGeoWarning,
    ShapeError,
)
from pyro_geo.geometry.curvature import GaussNewton
from pyro_geo.geometry.laplace import Laplace, laplace
from pyro_geo.geometry.matrices import Diagonal
from pyro_geo.infer.mcmc.dims.anchors import (
    Anchors,
    examine_anchors,
    train_anchors,
)
from pyro_geo.infer.mcmc.dims.objective import Loss, Objective
from pyro_geo.infer.mcmc.dims.options import DIMSOptions
from pyro_geo.infer.mcmc.dims.review import (
    draw_warnings,
    precision_warnings,
    spread_warnings,
)
from pyro_geo.infer.mcmc.dims.trajectories import STATS, run_trajectories
from pyro_geo.infer.mcmc.dims.velocity import draw_velocities

__all__ = ["DIMSKernel", "DIMSState"]

_MAX_ANCHOR_LANES = 64
_BLOCK_LANES = 4  # trajectories per lane in one block: short ones make up for long ones


class DIMSState(NamedTuple):
    """What the trajectories of some chains leave from.

    Attributes:
        anchors: one per chain.
        laplaces: Laplace approximations, one per chain, or none.
        num_lanes: trajectories in flight.
        num_chains: chains of the whole run, this group and the others.
        furthest: largest displacement of any draw so far in standard deviations of
            the Laplace approximation, `(chains,)`; NaN without one.
    """

    anchors: Anchors
    laplaces: list[Laplace]
    num_lanes: int
    num_chains: int
    furthest: Tensor


class DIMSKernel:
    """The block protocol of DiMS; :class:`~pyro_geo.infer.DIMS` adds Pyro's own."""

    stats: tuple[str, ...] = STATS
    citations: tuple[str, ...] = ("dims",)
    chain_name: str = "anchor"
    state_type: Any = DIMSState
    max_lanes: int | None = None

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
        **options: Any,
    ) -> None:
        if (model is None) == (potential_fn is None):
            raise ConfigurationError(
                "give either a model or a potential function",
                where="arguments model and potential_fn",
                found="neither" if model is None else "both",
                expected="exactly one",
                todo="pass one of them",
            )
        if transforms is not None and potential_fn is None:
            raise ConfigurationError(
                "transforms belong to a potential function",
                where="argument 'transforms'",
                found="transforms with a model",
                expected="None",
                todo="drop them: a model's sites bring their own",
            )
        self.model = model
        self.potential_fn = potential_fn
        self.objective = Objective(loss, prior_weight)
        self.start_transforms = dict(transforms or {})
        self.init_strategy: Strategy | None = init_strategy
        self.anchors = anchors
        self.options = DIMSOptions(**options)

    def make_target(
        self, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Target:
        """Turn the model and its arguments into a density.

        Args:
            *args: the model's arguments.
            dtype: floating type, torch's default if None.
            **kwargs: the model's keyword arguments.

        Returns:
            The density.

        Raises:
            ConfigurationError: arguments beside a potential function.
        """
        if self.model is not None:
            return target_of(self.model, *args, dtype=dtype, **kwargs)
        assert self.potential_fn is not None
        if args or kwargs:
            raise ConfigurationError(
                "a potential function takes no data",
                where="arguments of run",
                found=f"{len(args) + len(kwargs)} arguments",
                expected="none",
                todo="close the function over its data, or pass a model",
            )
        return Target.from_potential(
            self.potential_fn, self._layout_of_start(), dtype=dtype
        )

    def log_prob(self, target: Target, q: Tensor) -> Tensor:
        """Minus the loss, `(draws,)` at `q` of `(draws, dim)`."""
        return -self.objective.on(target)(q)

    def default_warmup(self, num_samples: int, num_chains: int) -> int:
        """No warm-up: anchors are trained, nothing is tuned."""
        return 0

    def block_draws(self, target: Target, num_samples: int, num_chains: int) -> int:
        """Draws per chain and block, so that every lane serves a few trajectories."""
        lanes = self.options.lanes(num_samples * num_chains, target.dim)
        return max(1, -(-_BLOCK_LANES * lanes // num_chains))

    def start(
        self,
        target: Target,
        chains: Sequence[int],
        *,
        num_samples: int,
        num_chains: int,
        warmup_steps: int,
        initial: Tensor | None,
        noise: BlockNoise,
        tuning: None,
    ) -> Warmup:
        """Find or train the anchors and factor their Laplace precisions."""
        self._check_early(target)
        anchors = self._find_anchors(target, chains, num_chains, initial, noise)
        laplaces: list[Laplace] = []
        if self.options.velocity == "laplace":
            laplaces = [
                _laplace(target, anchors, i, noise.generator(i))
                for i in range(len(chains))
            ]
        lanes = self.options.lanes(num_samples * num_chains, target.dim)
        furthest = torch.full_like(anchors.loss, 0.0 if laplaces else torch.nan)
        state = DIMSState(anchors, laplaces, lanes, num_chains, furthest)
        return Warmup(state, finished=True)

    def adapt(
        self,
        target: Target,
        state: DIMSState,
        chains: Sequence[int],
        noise: BlockNoise,
    ) -> Warmup:
        """Nothing: trajectories are independent and nothing is tuned."""
        return Warmup(state, finished=True)

    def tuning(self, state: DIMSState) -> None:
        """Anchors owe each other nothing."""

    def describe(self, states: Sequence[DIMSState]) -> dict[str, str | int | float]:
        """Record how many trajectories were in flight."""
        return {"num_lanes": states[0].num_lanes}

    def block(
        self,
        target: Target,
        state: DIMSState,
        chains: Sequence[int],
        draws: int,
        noise: BlockNoise,
    ) -> Block:
        """Run `draws` independent trajectories from every anchor."""
        anchors = state.anchors
        velocities = draw_velocities(
            self.options, anchors.q, anchors.grad, state.laplaces, draws, noise
        )
        flat, flat_stats, _, rung = run_trajectories(
            target,
            self.objective,
            self.options,
            anchors.q.repeat_interleave(draws, 0),
            velocities.flatten(0, 1),
            state.num_lanes,
        )
        shape = (len(chains), draws)
        q = flat.unflatten(0, shape)
        stats = {name: value.unflatten(0, shape) for name, value in flat_stats.items()}
        if state.laplaces:
            moves = (q - anchors.q.unsqueeze(1)).nan_to_num(torch.inf)
            far = [
                found.precision.norm(move).max()  # in standard deviations
                for found, move in zip(state.laplaces, moves, strict=True)
            ]
            furthest = torch.maximum(state.furthest, torch.stack(far))
            state = state._replace(furthest=furthest)
        # Steps as if all chains ran together: the ladder must not depend on groups.
        rounds = -(-draws * state.num_chains // state.num_lanes)
        taken = (stats["n_steps"] + stats["n_rejected"]).double().mean(1).max()
        return Block(state, q, stats, math.ceil(rounds * float(taken)), rung)

    def review(
        self, states: Sequence[DIMSState], stats: dict[str, Tensor]
    ) -> list[PyroGeoWarning]:
        """Say what a user must know of the anchors and of the finished draws."""
        anchors = Anchors(
            *(
                torch.cat(parts)
                for parts in zip(*(s.anchors for s in states), strict=True)
            )
        )
        options = self.options
        return [
            *anchors.warnings(options.polish_tol),
            *precision_warnings([x for state in states for x in state.laplaces]),
            *draw_warnings(stats, options, dim=anchors.q.shape[1]),
            *spread_warnings(
                stats, options, torch.cat([state.furthest for state in states])
            ),
        ]

    def _check_early(self, target: Target) -> None:
        """Raise before anchors are trained what would be raised after."""
        q = torch.full((1, target.dim), 0.1, dtype=target.dtype, device=target.device)
        shape = tuple(self.objective.on(target)(q).shape)
        if shape != (1,):
            raise ObjectiveShapeError(
                "the loss has the wrong shape",
                where="argument 'loss'",
                found=f"{shape[1:]} per position",
                expected="one number per position",
                todo="sum it over everything but the positions",
            )
        if self.options.velocity == "laplace":
            GaussNewton(target, q[0]).matvec(q)

    def _find_anchors(
        self,
        target: Target,
        chains: Sequence[int],
        num_chains: int,
        initial: Tensor | None,
        streams: BlockNoise,
    ) -> Anchors:
        lanes = min(num_chains, _MAX_ANCHOR_LANES)
        if self.anchors is not None:
            q = self._given_anchors(target, num_chains)[list(chains)]
            return examine_anchors(
                target, self.objective, q, self.options, lanes, chains
            )
        if initial is None:
            strategy: Strategy = self.init_strategy or target.default_strategy
            generators = [streams.generator(i) for i in range(len(chains))]
            initial = target.initial_each(generators, strategy)
        return train_anchors(
            target, self.objective, initial, self.options, lanes, chains
        )

    def _given_anchors(self, target: Target, num_chains: int) -> Tensor:
        """Bring the anchors of the user to `(num_chains, dim)`."""
        anchors = self.anchors
        if isinstance(anchors, Tensor):
            q = torch.atleast_2d(anchors.detach())
        else:
            assert anchors is not None
            q = torch.atleast_2d(target.unconstrain(anchors).detach())
        if q.shape[0] == 1:
            q = q.expand(num_chains, -1)
        if q.shape != (num_chains, target.dim):
            raise ShapeError(
                "anchors do not match the chains",
                where="argument 'anchors'",
                found=f"{tuple(q.shape)}",
                expected=f"{(num_chains, target.dim)} or one row",
                todo="give one anchor per chain: num_chains says how many",
            )
        return q.to(target.dtype)

    def _layout_of_start(self) -> Layout:
        """Lay out a potential's sites by the anchors that come with it."""
        if not isinstance(self.anchors, Mapping):
            raise ConfigurationError(
                "a potential function says nothing about its sites",
                where="argument 'anchors'",
                found=type(self.anchors).__name__,
                expected="a dictionary of values, site to tensor",
                todo="pass anchors by site, or a model",
            )
        sites: dict[str, Site] = {}
        start = 0
        for name, value in self.anchors.items():
            transform = torch.distributions.biject_to(constraints.real)
            if name in self.start_transforms:
                transform = self.start_transforms[name].inv
            shape = torch.Size(transform.inverse_shape(value.shape))
            sites[name] = Site(name, start, shape, value.shape, transform)
            start += shape.numel()
        return Layout(sites)


def _laplace(
    target: Target, anchors: Anchors, row: int, generator: torch.Generator
) -> Laplace:
    """Approximate around one anchor; without a minimum there may be no precision."""
    q = anchors.q[row]
    try:
        return laplace(target, q, flat="size", generator=generator)
    except NotPositiveDefiniteError:
        if not bool(anchors.unbounded[row]):
            raise
        flat = torch.full((), target.dim, device=q.device)
        unit = Diagonal(torch.ones_like(q))
        return Laplace(q, unit, q.new_tensor(-torch.inf), flat)
