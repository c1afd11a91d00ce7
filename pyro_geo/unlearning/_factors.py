"""Memories with a small matrix for each axis of a parameter."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_geo.geometry.kronecker import Kronecker
from pyro_geo.geometry.matrices import Diagonal, PositiveDefinite, Spectral
from pyro_geo.unlearning._buffers import Act, Buffers
from pyro_geo.unlearning._pieces import Piece

__all__ = ["FactorBuffers"]


class Turned(NamedTuple):
    """A diagonal in other axes: second moments along the bases of SOAP.

    Attributes:
        moments: `(n1, n2, ...)`.
        bases: orthonormal columns for each axis; None where it is not turned.
    """

    moments: Tensor
    bases: tuple[Tensor | None, ...]

    @property
    def dim(self) -> int:
        """Number of rows."""
        return self.moments.numel()

    def matvec(self, x: Tensor) -> Tensor:
        """Multiply, `(n, dim)`."""
        tensor = self._turn(x.reshape(len(x), *self.moments.shape), back=False)
        return self._turn(self.moments * tensor, back=True).reshape(x.shape)

    def _turn(self, x: Tensor, *, back: bool) -> Tensor:
        for axis, basis in enumerate(self.bases, 1):
            if basis is not None:
                turn = basis.mT if back else basis
                x = (x.movedim(axis, -1) @ turn).movedim(-1, axis)
        return x


class FactorBuffers(Buffers):
    """A small matrix for each axis of the parameter: Shampoo and SOAP."""

    @property
    def floor(self) -> float:
        """What the diagonals held before any data."""
        return float(self.group["matrix_eps"]) if self.kind == "Shampoo" else 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor whose axes the factors belong to."""
        if self.group.get("merge_dims"):
            limit = self.group["max_precondition_dim"]
            return tuple(self.optimizer.merge_dims(self.param, limit).shape)
        return tuple(self.param.shape)

    def columns(self, rows: Tensor, axis: int) -> Tensor:
        """Gradients as columns: those of the matrix that the axis unfolds."""
        tensor = rows.reshape(len(rows), *self.shape)
        return tensor.movedim(axis + 1, 0).reshape(self.shape[axis], -1)

    def rebuild(self, rows: Tensor) -> None:
        """Put the memory of other gradients in place, in its own basis for SOAP."""
        super().rebuild(rows)
        if self.kind != "SOAP" or self.state.get("Q") is None:
            return
        turned = rows.reshape(len(rows), *self.shape)
        for axis, factor in enumerate(self.factors()):
            if factor is not None:
                basis = _eigh(factor)[1].flip(1)
                self.state["Q"][axis].copy_(basis)
                turned = (turned.movedim(axis + 1, -1) @ basis).movedim(-1, axis + 1)
        moments = turned.square().mean(0).reshape(self.state["exp_avg_sq"].shape)
        beta = float(self.group["betas"][1])
        step = max(int(self.group["step"]) - 1, 0)  # its first step is no step
        self.state["exp_avg_sq"].copy_((1 - beta**step) * moments)

    def factors(self) -> list[Tensor | None]:
        """Stored factors by axis; None where the axis has none."""
        if self.kind == "SOAP":
            stored = self.state.get("GG", [None] * len(self.shape))
            return [m if torch.is_tensor(m) else None for m in stored]
        return [self.state.get(f"pre_cond_{i}") for i in range(len(self.shape))]

    def matrix(self) -> Kronecker:
        """The product of the factors, in double precision."""
        # Each factor has the sum of squared gradients as its trace. All but the first
        # are divided by theirs, so that the product has this trace too: arXiv
        # 2406.17748, the product nearest to the sum of outer products.
        parts: list[PositiveDefinite] = []
        for n, factor in zip(self.shape, self.factors(), strict=True):
            if factor is None:  # the identity, with trace one
                ones = torch.ones(n, dtype=torch.float64, device=self.param.device)
                parts.append(Diagonal(ones / n**0.5))
                continue
            values, vectors = _eigh(factor)
            values = values.clamp(min=0)
            first = not any(isinstance(part, Spectral) for part in parts)
            size = values.sum()
            if not first and bool(size > 0):
                values = values / size
            parts.append(Spectral(values, vectors))
        return Kronecker(tuple(parts))

    def used(self) -> Any:
        """The cached roots of Shampoo undone, or the second moments of SOAP."""
        state = self.state
        if self.kind == "SOAP":
            if state.get("Q") is None:
                return self.matrix()
            bases = [q.double() if torch.is_tensor(q) else None for q in state["Q"]]
            moments = state["exp_avg_sq"].double().reshape(self.shape)
            return Turned(moments, tuple(bases))
        order = len(self.shape)
        names = [f"inv_pre_cond_{axis}" for axis in range(order)]
        roots = [state[name] for name in names if name in state]
        if len(roots) < order or not all(bool(root.any()) for root in roots):
            return self.matrix()  # no step has computed them yet
        parts = []
        for root in roots:
            values, vectors = _eigh(root)
            least = 1e-12 * values.amax()
            parts.append(Spectral(values.clamp(min=least) ** (-2 * order), vectors))
        return Kronecker(tuple(parts))

    def _piece(self, factor: Tensor) -> Piece:
        values, vectors = _eigh(factor)
        above = (values - self.floor).clamp(min=0)
        return Piece(above.flip(0), vectors.flip(1))

    def peek(self, act: Act) -> None:
        """Show each factor above its floor."""
        for axis, factor in enumerate(self.factors()):
            if factor is not None:
                act(axis, self._piece(factor))

    def treat(self, act: Act) -> None:
        """Change the factors above their floor, and what was computed from them."""
        before = self.factors()
        changed: list[Tensor | None] = []
        for axis, factor in enumerate(before):
            if factor is None:
                changed.append(None)
                continue
            made = act(axis, self._piece(factor)).dense()
            changed.append(made + self.floor * torch.eye(len(made)).to(made))
        if self.kind == "SOAP":
            self._follow_soap(before, changed)
        for old, new in zip(before, changed, strict=True):
            if old is not None and new is not None:
                old.copy_(new)
        if self.kind == "Shampoo":
            self._follow_shampoo()

    def _follow_shampoo(self) -> None:
        """Compute the roots again that steps multiply with."""
        order = len(self.shape)
        for axis, factor in enumerate(self.factors()):
            if factor is not None:
                values, vectors = _eigh(factor)
                # the factor may be a floor below the rounding of its dtype
                root = values.clamp(min=1e-2 * self.floor) ** (-1 / (2 * order))
                inverse = (vectors * root) @ vectors.mT
                self.state[f"inv_pre_cond_{axis}"].copy_(inverse)

    def _follow_soap(
        self, before: list[Tensor | None], after: list[Tensor | None]
    ) -> None:
        """Turn the basis, and carry the second moments that are kept in it."""
        state = self.state
        if state.get("Q") is None:
            return
        moments = state["exp_avg_sq"].double().reshape(self.shape)
        present = sum(m is not None for m in before)
        for axis, (old, new) in enumerate(zip(before, after, strict=True)):
            if old is None or new is None:
                continue
            basis = state["Q"][axis].double()
            first, second = (
                (basis * (m.double() @ basis)).sum(0).clamp(min=0) for m in (old, new)
            )
            ratio = torch.where(first > 0, second / first, 0.0)
            share = _share(new, old)
            # a product of factors is divided by all traces but one
            if share > 0:
                ratio = ratio * share ** (1 / present - 1)
            shape = [1] * len(self.shape)
            shape[axis] = -1
            moments = moments * ratio.reshape(shape)
            if share > 0:
                turned = _eigh(new)[1].flip(1)
                mix = (turned.mT @ basis).square()
                moments = (moments.movedim(axis, -1) @ mix.mT).movedim(-1, axis)
                state["Q"][axis].copy_(turned)
        state["exp_avg_sq"].copy_(moments.reshape(state["exp_avg_sq"].shape))


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    double = matrix.detach().double()
    return torch.linalg.eigh(0.5 * (double + double.mT))


def _share(new: Tensor, old: Tensor) -> float:
    size = float(old.double().trace())
    return float(new.double().trace()) / size if size > 0 else 0.0
