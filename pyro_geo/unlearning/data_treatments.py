"""Treatments that need gradients: of what is forgotten, or of what is retained."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_geo.checks import check, check_shape
from pyro_geo.errors import MissingGradientLogError, NotPositiveDefiniteError
from pyro_geo.unlearning._buffers import Buffers, OnsBuffers
from pyro_geo.unlearning._pieces import Piece, directions, project, subtract
from pyro_geo.unlearning.treatments import Treatment, Untreated

__all__ = ["Downdate", "ProjectForget", "Refresh"]


@dataclass(frozen=True)
class Downdate(Treatment):
    """Take out what the forgotten data have added, at the weight that it still has.

    This reaches the direct part alone: later gradients were taken where the forgotten
    data had led, and stay. A memory of :class:`~pyro_geo.optim.ons.EigenONS` with a log
    needs tags; every other needs the gradients that its steps were made with. Averages
    of gradients do not know what was in them and are set to zero. The second moments of
    SOAP follow the factors.

    Attributes:
        tags: of the steps, for EigenONS.
        gradients: of each step that saw forgotten data, all parameters one after
            another, `(steps, dim)`.
        ages: steps since each gradient, for moving averages.
        allow_clip: whether more may be taken out than there is, as happens where a
            memory was truncated.
    """

    tags: Sequence[Hashable] | None = None
    gradients: Tensor | None = None
    ages: Sequence[int] | None = None
    allow_clip: bool = False

    @property
    def policy(self) -> str:
        """Name alone: data are no part of a policy."""
        return "Downdate()"

    def matched(self) -> Treatment:
        """Leave a counterfactual alone: it has nothing to take out."""
        return Untreated(self.policy)

    def apply(self, buffers: list[Buffers]) -> float:
        """Subtract, and set averages of gradients to zero.

        Args:
            buffers: of the optimiser.

        Returns:
            What was clipped. Steps without a record are a
            :class:`~pyro_geo.errors.MissingGradientLogError`.

        Raises:
            MissingGradientLogError: neither tags nor gradients were given.
        """
        logged = [one for one in buffers if isinstance(one, OnsBuffers)]
        if self.tags is not None and len(logged) == len(buffers):
            tags = list(dict.fromkeys(self.tags))
            # all are computed before any is changed
            found = [
                one.optimizer.without(tags, allow_clip=self.allow_clip)
                for one in logged
            ]
            for one, rest in zip(logged, found, strict=True):
                one.optimizer.replace(rest.memory, tags)
            return sum(rest.clipped for rest in found)
        if self.gradients is None:
            raise MissingGradientLogError(
                "what a memory has added up is not known",
                where="treatment Downdate",
                found=f"no gradients, for {buffers[0].kind}",
                expected="the gradients of the steps that saw the forgotten data",
                todo="Write them down while training and pass gradients=; or rebuild "
                "the memory with Refresh, or start again with Reset.",
            )
        rows = _rows(buffers, self.gradients)
        # all are computed before any is changed
        made = [self._rest(one, rows[one.name]) for one in buffers]
        for one, (pieces, _) in zip(buffers, made, strict=True):
            one.treat(lambda axis, _, pieces=pieces: pieces[axis])
            one.scale_momenta(0.0)
        return sum(clipped for _, clipped in made)

    def _rest(self, one: Buffers, rows: Tensor) -> tuple[dict[int, Piece], float]:
        if one.beta is not None:
            ages = self.ages
            check(ages is not None, "ages", None, "steps since each gradient")
            age = torch.tensor(list(ages or ())).to(rows)
            check_shape("ages", age.shape, (len(rows),))
            rows = rows * ((1 - one.beta) * one.beta**age).sqrt()[:, None]
        found: dict[int, Piece] = {}
        total = 0.0
        allowed = 1e-6
        for _, tensor in one.tensors():
            if tensor.is_floating_point():
                allowed = max(allowed, 64 * torch.finfo(tensor.dtype).eps)

        def act(axis: int, piece: Piece) -> Piece:
            nonlocal total
            found[axis], clipped, size = subtract(piece, one.columns(rows, axis))
            if clipped > allowed * size and not self.allow_clip:
                raise NotPositiveDefiniteError(
                    "more is taken out than a memory holds",
                    where=f"block {one.name!r}, axis {axis}",
                    found=f"negative eigenvalues of {clipped:.3g} in all",
                    expected=f"at most {allowed * size:.3g}",
                    todo="Pass gradients that this optimiser was given, with their "
                    "ages; or allow_clip=True for a memory that was truncated.",
                )
            total += clipped
            return piece

        one.peek(act)
        return found, total


@dataclass(frozen=True)
class Refresh(Treatment):
    """Build the memory again from gradients of retained data at the parameters now.

    Sums become the sum of the rows' outer products, averages their mean. Averages of
    gradients are set to zero.

    Attributes:
        gradients: one row for what would be one step, all parameters one after another,
            `(steps, dim)`.
    """

    gradients: Tensor

    @property
    def policy(self) -> str:
        """Name alone: data are no part of a policy."""
        return "Refresh()"

    def apply(self, buffers: list[Buffers]) -> float:
        """Rebuild every block."""
        rows = _rows(buffers, self.gradients)
        for one in buffers:
            one.rebuild(rows[one.name])
            one.scale_momenta(0.0)
        return 0.0


@dataclass(frozen=True)
class ProjectForget(Treatment):
    """Take the directions of forget gradients out of the memory.

    Retained data that share these directions lose them too, and an empty direction is
    a trace of its own. Averages of gradients are set to zero.

    Attributes:
        gradients: of forgotten data, all parameters one after another, `(n, dim)`.
        rank: number of leading directions of each block, or of each factor; None for
            their whole span, which for a factor is often all there is.
    """

    gradients: Tensor
    rank: int | None = None

    @property
    def policy(self) -> str:
        """Name and rank: data are no part of a policy."""
        return f"ProjectForget(rank={self.rank})"

    def apply(self, buffers: list[Buffers]) -> float:
        """Project every block."""
        rows = _rows(buffers, self.gradients)
        for one in buffers:

            def act(axis: int, piece: Piece, one: Buffers = one) -> Piece:
                columns = one.columns(rows[one.name], axis)
                return project(piece, directions(columns, self.rank))

            one.treat(act)
            one.scale_momenta(0.0)
        return 0.0


def _rows(buffers: list[Buffers], gradients: Tensor) -> dict[str, Tensor]:
    """Cut gradients of all parameters into blocks."""
    sizes = [one.dim for one in buffers]
    good = gradients.ndim == 2 and gradients.shape[1] == sum(sizes)
    check_shape("gradients", gradients.shape, f"(n, {sum(sizes)})", good=good)
    parts = gradients.detach().double().split(sizes, dim=1)
    return {one.name: part for one, part in zip(buffers, parts, strict=True)}
