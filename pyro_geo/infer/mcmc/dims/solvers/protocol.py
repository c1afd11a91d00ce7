"""What a solver of the dissipative flow has to provide."""

from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from pyro_geo.infer.mcmc.dims.problem import Problem
from pyro_geo.infer.mcmc.dims.state import FlowState

__all__ = ["Proposal", "Solver", "Start"]


class Start(NamedTuple):
    """What a solver knows of every lane's first point, after one evaluation.

    Attributes:
        loss: loss there, `(lanes,)`.
        kinetic: kinetic energy there, `(lanes,)`.
        carried: what the first step needs besides, as in :class:`FlowState`.
    """

    loss: Tensor
    kinetic: Tensor
    carried: tuple[Tensor, ...] = ()


class Proposal(NamedTuple):
    """What a solver offers for one step of every lane.

    Attributes:
        q: positions at the end, `(lanes, dim)`.
        v: velocities at the end, `(lanes, dim)`.
        loss: loss at the end, `(lanes,)` as are all below.
        kinetic: kinetic energy at the end.
        energy: kinetic energy plus gravity times loss, at the end.
        dissipated: friction work of the step.
        length: length of the step in parameter space.
        accept: whether the step is good enough, boolean.
        factor: by how much the size of the step should change.
        carried: what the next step needs besides if this one is taken, as in
            :class:`FlowState`.
    """

    q: Tensor
    v: Tensor
    loss: Tensor
    kinetic: Tensor
    energy: Tensor
    dissipated: Tensor
    length: Tensor
    accept: Tensor
    factor: Tensor
    carried: tuple[Tensor, ...] = ()


class Solver(Protocol):
    """One way to take a step.

    A frozen dataclass, so that equal solvers share a compiled step. Its fields are
    options of :class:`~pyro_geo.infer.mcmc.dims.options.FlowOptions` by the same names.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_evals(self) -> int:
        """Evaluations of the model in one step."""
        ...

    def start(self, problem: Problem, q: Tensor, v: Tensor) -> Start:
        """Evaluate the model once where the lanes start.

        Args:
            problem: the equations of motion.
            q: positions, `(lanes, dim)`.
            v: velocities, `(lanes, dim)`.
        """
        ...

    def propose(self, problem: Problem, state: FlowState, h: Tensor) -> Proposal:
        """Offer a step of size `h` for every lane, those that have ended included.

        Args:
            problem: the equations of motion.
            state: the state before the step.
            h: sizes of the step, `(lanes,)`.
        """
        ...
