"""Options of the flow and of the sampler, checked when they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.infer.mcmc.dims.problem import FlowParams, flow_params
from pyro_geo.infer.mcmc.dims.solvers import SOLVERS, Integrator, Solver

__all__ = [
    "DIMSOptions",
    "FlowOptions",
    "FrictionLaw",
    "Velocity",
    "friction_pair",
]

FrictionLaw = Literal["kinetic", "linear", "mixed"]
VelocityFunction = Callable[[Tensor, int, torch.Generator], Tensor]
Velocity = Literal["laplace", "isotropic", "fixed_energy"] | VelocityFunction


@dataclass(frozen=True, kw_only=True)
class FlowOptions:
    """All options of a dissipative flow; see :func:`dissipative_flow`.

    Raises:
        ConfigurationError: an option is outside its range.
    """

    alpha: float = 1.0
    gravity: float = 1.0
    friction: float | tuple[float, float] = 0.1
    friction_law: FrictionLaw = "kinetic"
    explore_time: float = 2.0
    settle_time: float = 6.0
    settle_friction: float = 3.0
    step_tol: float = 0.3
    energy_atol: float = 1e-2
    k_stop: float = 1e-4
    max_evals: int = 20_000
    integrator: Integrator = "splitting"
    rtol: float = 1e-7
    atol: float = 1e-6
    num_lanes: int | None = None

    def __post_init__(self) -> None:
        friction_pair(self.friction, self.friction_law)
        for name in (
            "alpha",
            "gravity",
            "explore_time",
            "settle_time",
            "settle_friction",
            "energy_atol",
            "k_stop",
            "rtol",
        ):
            check_number(name, getattr(self, name))
        total = self.explore_time + self.settle_time
        check_number("explore_time + settle_time", total, strict=True)
        check_number("step_tol", self.step_tol, 0.0, 1.0, strict=True)
        check_number("atol", self.atol, strict=True)
        check_count("max_evals", self.max_evals)
        check_count("num_lanes", self.num_lanes)
        check_choice("integrator", self.integrator, tuple(SOLVERS))

    @property
    def euclidean(self) -> bool:
        """Whether the surface is flat, so that no second derivatives are needed."""
        return self.alpha == 0

    def lanes(self, count: int, dim: int = 1) -> int:
        """Number of trajectories in flight for `count` in all.

        In high dimension a step costs as much per lane however many there are, and
        with more waiting trajectories per lane, slow ones delay less. Above 16 it is a
        multiple of 16, an integer number of vector registers: compiled code treats the
        lanes left over by another number differently, and a trajectory's last bits
        would depend on its lane. Up to 16 all lanes are treated alike.

        Args:
            count: trajectories in all.
            dim: dimension.

        Returns:
            The number of lanes; the user's own, rounded up, where it is given.
        """
        wanted = self.num_lanes
        if wanted is None:
            wanted = min(count, 64 if dim > 100 else 256)
        return wanted if wanted <= 16 else 16 * -(-wanted // 16)

    def params(
        self, dtype: torch.dtype, device: torch.device | str | None = None
    ) -> FlowParams:
        """Turn the options into the tensors that a step takes."""
        linear, quadratic = friction_pair(self.friction, self.friction_law)
        return flow_params(
            dtype=dtype,
            device=device,
            alpha=self.alpha,
            gravity=self.gravity,
            step_tol=self.step_tol,
            energy_atol=self.energy_atol,
            k_stop=self.k_stop,
            max_evals=self.max_evals,
            end_time=(self.explore_time, self.settle_time),
            mu_linear=(linear, self.settle_friction),
            mu_quadratic=(quadratic, 0.0),
        )

    def solver(self) -> Solver:
        """Make the chosen solver, with those options that are fields of it."""
        kind = SOLVERS[self.integrator]
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})


@renamed(polish_tol="polish_tolerance", polish_max_iter="polish_max_steps")
@dataclass(frozen=True, kw_only=True)
class DIMSOptions(FlowOptions):
    """The flow's options and those of the sampler around it; see :class:`DIMS`.

    Raises:
        ConfigurationError: an option is outside its range.
    """

    velocity: Velocity = "laplace"
    velocity_scale: float = 1.0
    initial_energy: float | None = None
    polish: bool = True
    polish_tolerance: float = 1e-2
    polish_max_steps: int = 25
    anchor_steps: int = 2_000
    anchor_step_size: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.velocity):
            laws = ("laplace", "isotropic", "fixed_energy")
            check_choice("velocity", self.velocity, laws)
        check_number("velocity_scale", self.velocity_scale, strict=True)
        check_number("polish_tolerance", self.polish_tolerance)
        check_number("polish_max_steps", self.polish_max_steps, integer=True)
        check_number("anchor_steps", self.anchor_steps, integer=True)
        check_number("anchor_step_size", self.anchor_step_size, strict=True)
        if (self.initial_energy is None) == (self.velocity == "fixed_energy"):
            expected = "a number with velocity='fixed_energy' and None with any other"
            check(False, "initial_energy", self.initial_energy, expected)
        if self.initial_energy is not None:
            check_number("initial_energy", self.initial_energy, strict=True)


def friction_pair(
    friction: float | tuple[float, float], law: FrictionLaw
) -> tuple[float, float]:
    """Turn a friction law and its value into friction per time and per length.

    Args:
        friction: a number, or for `"mixed"` the pair (per time, per length).
        law: the law.

    Returns:
        Friction per time and friction per length. A law that is unknown, a value that
        does not fit it or a negative friction is a
        :class:`~pyro_geo.errors.ConfigurationError`.

    Example:
        >>> friction_pair(0.1, "kinetic"), friction_pair(0.1, "linear")
        ((0.0, 0.1), (0.1, 0.0))
    """
    check_choice("friction_law", law, ("kinetic", "linear", "mixed"))
    values = tuple(friction) if isinstance(friction, tuple | list) else (friction,)
    if len(values) != (2 if law == "mixed" else 1):
        expected = "a pair (per time, per length)" if law == "mixed" else "one number"
        expected = f"{expected} for friction_law={law!r}"
        check(False, "friction", friction, expected)
    for value in values:
        check_number("friction", value)
    first, last = values[0], values[-1]
    if law == "mixed":
        return first, last
    return (first, 0.0) if law == "linear" else (0.0, last)
