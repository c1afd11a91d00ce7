"""Buffers of optimisers: which of them are memories, and what hangs on each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_geo.geometry.matrices import Diagonal, LowRank, PositiveDefinite
from pyro_geo.optim.ons import Memory
from pyro_geo.unlearning._pieces import Piece, gather

__all__ = ["DIAGONAL", "Act", "Buffers", "DiagonalBuffers", "OnsBuffers"]

# Second moment of each class, and the floor that its data stand on.
DIAGONAL = {
    "Adam": ("exp_avg_sq", None),
    "AdamW": ("exp_avg_sq", None),
    "NAdam": ("exp_avg_sq", None),
    "RAdam": ("exp_avg_sq", None),
    "ClippedAdam": ("exp_avg_sq", None),
    "RMSprop": ("square_avg", None),
    "AdagradRMSProp": ("sum", None),
    "Adagrad": ("sum", "initial_accumulator_value"),
}
_ACCUMULATES = {"Adagrad", "Shampoo"}
_MOMENTA = ("exp_avg", "momentum_buffer", "grad_avg")
_MAXIMA = ("max_exp_avg_sq",)  # AMSGrad's largest second moment is a memory too
Act = Callable[[int, Piece], Piece]
"""What is done to a factor, given its axis; axis 0 for all else."""


class Buffers:
    """The memory of one parameter, or of all that share one.

    Attributes:
        name: of the block.
        optimizer: that it is part of.
        group: of the optimiser.
        param: whose memory it is.
    """

    def __init__(self, name: str, optimizer: Any, group: dict, param: Tensor) -> None:
        self.name, self.optimizer, self.group = name, optimizer, group
        self.param = param

    @property
    def state(self) -> dict[str, Any]:
        """Buffers of the parameter; empty before the first step."""
        return self.optimizer.state.get(self.param, {})

    @property
    def kind(self) -> str:
        """Name of the optimiser's class."""
        return type(self.optimizer).__name__

    @property
    def accumulates(self) -> bool:
        """Whether all data have the same weight for ever."""
        return self.kind in _ACCUMULATES

    @property
    def beta(self) -> float | None:
        """Weight of the past in the memory's moving average; None for a sum."""
        if self.accumulates:
            return None
        if "alpha" in self.group:
            return float(self.group["alpha"])
        if "betas" not in self.group:  # Pyro's AdagradRMSProp
            return 1.0 - float(self.group["t"])
        own = self.group.get("shampoo_beta")
        return float(self.group["betas"][1] if own is None else own)

    def momenta(self) -> Iterator[Tensor]:
        """Averages of gradients, as they are stored."""
        for key in _MOMENTA:
            if torch.is_tensor(self.state.get(key)):
                yield self.state[key]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All buffers by name."""
        for key, value in self.state.items():
            parts = value if isinstance(value, list) else [value]
            for i, part in enumerate(parts):
                if torch.is_tensor(part):
                    label = f"{key}[{i}]" if isinstance(value, list) else key
                    yield f"{label} of {self.name}", part

    def matrix(self) -> PositiveDefinite:
        """The memory as a matrix, in double precision; it may be singular."""
        raise NotImplementedError

    def used(self) -> Any:
        """What steps divide by, where that is kept apart from the memory."""
        return self.matrix()

    def treat(self, act: Act) -> None:
        """Change the memory above its floor, and all that is computed from it."""
        raise NotImplementedError

    def peek(self, act: Act) -> None:
        """Show each part of the memory to a function, and change nothing."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.param.numel()

    def scale_momenta(self, factor: float) -> None:
        """Multiply averages of gradients; 0 forgets them."""
        for momentum in self.momenta():
            momentum.mul_(factor)

    def columns(self, rows: Tensor, axis: int) -> Tensor:
        """Gradients as columns whose outer products a factor adds up.

        Args:
            rows: of this block, `(m, dim)`.
            axis: of the factor.

        Returns:
            `(size of the axis, columns)`.
        """
        return rows.mT

    def rebuild(self, rows: Tensor) -> None:
        """Put the memory of other gradients in place of what is there.

        A sum becomes the sum of their outer products; an average becomes their mean,
        at the weight that an average has after as many steps.

        Args:
            rows: gradients of this block, `(m, dim)`.
        """
        weight = 1.0 if self.accumulates else self.filled() / len(rows)

        def act(axis: int, piece: Piece) -> Piece:
            return gather(self.columns(rows, axis) * weight**0.5, piece)

        self.treat(act)

    def filled(self) -> float:
        """Sum of the weights in an average, below 1 where it began at zero."""
        step = self.state.get("step", self.group.get("step", 0))
        beta = self.beta
        return 1.0 if beta is None else 1.0 - beta ** float(step)

    def reset(self) -> None:
        """Start as a new optimiser would."""
        self.optimizer.state.pop(self.param, None)
        if "step" in self.group:
            self.group["step"] = 0


class DiagonalBuffers(Buffers):
    """One number for each entry of the parameter."""

    @property
    def key(self) -> str:
        """Name of the buffer."""
        return DIAGONAL.get(self.kind, ("exp_avg_sq", None))[0]

    @property
    def floor(self) -> float:
        """What it held before any data."""
        name = DIAGONAL.get(self.kind, ("", None))[1]
        return 0.0 if name is None else float(self.group[name])

    def matrix(self) -> Diagonal:
        """The memory, in double precision."""
        stored = self.state.get(self.key)
        if stored is None:
            start = torch.full_like(self.param, self.floor, dtype=torch.float64)
            return Diagonal(start.detach().reshape(-1).sqrt())
        return Diagonal(stored.detach().double().clamp(min=0).reshape(-1).sqrt())

    def peek(self, act: Act) -> None:
        """Show the second moment above its floor."""
        stored = self.state.get(self.key)
        if stored is not None:
            act(0, Piece(stored.detach().double().reshape(-1) - self.floor, None))

    def treat(self, act: Act) -> None:
        """Change the second moment above its floor."""
        for key in (self.key, *_MAXIMA):
            stored = self.state.get(key)
            if torch.is_tensor(stored):
                piece = Piece(stored.detach().double().reshape(-1) - self.floor, None)
                values = act(0, piece).values + self.floor
                stored.copy_(values.reshape(stored.shape))


class OnsBuffers(Buffers):
    """The memory that all parameters of an EigenONS share."""

    @property
    def accumulates(self) -> bool:
        """Whether all data have the same weight for ever."""
        return self.optimizer.beta is None

    @property
    def beta(self) -> float | None:
        """Weight of the past; None for a sum."""
        return self.optimizer.beta

    def filled(self) -> float:
        """Sum of the weights in an average."""
        return 1.0 - (self.beta or 0.0) ** self.optimizer.steps

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All buffers by name."""
        for key, value in self.optimizer.memory._asdict().items():
            yield f"{key} of {self.name}", value

    def matrix(self) -> LowRank:
        """The memory."""
        return self.optimizer.matrix()

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.optimizer.dim

    def peek(self, act: Act) -> None:
        """Show the eigenvalues above the floor."""
        memory = self.optimizer.memory
        act(0, Piece(memory.values, memory.vectors))

    def treat(self, act: Act) -> None:
        """Change the eigenvalues above the floor.

        Columns that were written down are not there any more at the weight they had.
        """
        memory = self.optimizer.memory
        piece = act(0, Piece(memory.values, memory.vectors))
        assert piece.vectors is not None
        values, order = piece.values.sort(descending=True)
        kept = order[values > 0][: self.optimizer.rank]
        self.optimizer.replace(
            Memory(memory.floor, piece.vectors[:, kept], piece.values[kept])
        )

    def reset(self) -> None:
        """Empty it."""
        self.optimizer.reset()
