"""Tensors of one device that are measured and decayed together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyro_geo._compat.torch import (
    multiply_each,
    norm_of_each,
    subtract_each,
    take_from_each,
)
from pyro_geo.optim.decay.rule import deviation_ratio, share_of

__all__ = ["RECORDS", "Bundle", "CompiledBundle", "ForeachBundle", "Member"]

# Sums over the steps; then the norm and what a decay took off it at the last step, from
# which the next step knows how far the base moved; then the running mean of <g, d>.
RECORDS = (
    *("steps", "conflicts", "decays", "ratio", "path_length", "undone"),
    *("norm", "taken", "mean"),
)
_STEPS, _CONFLICTS, _DECAYS, _RATIO, _PATH, _UNDONE, _NORM, _TAKEN, _MEAN = range(9)

Array = TypeVar("Array", np.ndarray, Tensor)


class Member(NamedTuple):
    """One parameter of a bundle.

    Attributes:
        param: the parameter.
        anchor: what it is pulled to; None for zeros.
        group: number of its group.
    """

    param: Tensor
    anchor: Tensor | None
    group: int


class Settings(NamedTuple):
    """What holds for a step.

    Attributes:
        spd: strength of each group.
        sign: -1 for groups that maximise.
        pooled: whether norms are those of whole groups.
        allow_overshoot: whether a tensor may pass through its anchor.
        beta: of the running mean of the condition.
        track: whether statistics are kept.
    """

    spd: Sequence[float]
    sign: Sequence[float]
    pooled: bool
    allow_overshoot: bool
    beta: float
    track: bool


class Bundle(ABC, Generic[Array]):
    """Parameters of one device, with what is remembered of them.

    Args:
        members: the parameters.
        records: what earlier steps have summed, `(9, n)`.
    """

    dot: Any
    before: Any
    records: Any
    sign: Any
    spd: Any

    def __init__(self, members: Sequence[Member], records: np.ndarray) -> None:
        self.members = list(members)
        self.params = [member.param for member in members]
        self.records = self.array(records)
        self.groups = np.array([member.group for member in members])
        self._known: Settings | None = None

    @abstractmethod
    def array(self, values: Any) -> Array:
        """Put numbers where the bundle computes."""

    @abstractmethod
    def measure(self) -> tuple[Array, Array]:
        """Measure `<g, theta - a>` and the norm of `theta - a`."""

    @abstractmethod
    def norms(self) -> Array:
        """Measure the norm of `theta - a`."""

    @abstractmethod
    def shrink(self, share: Array) -> None:
        """Take a share of `theta - a` off each parameter, in place."""

    @abstractmethod
    def pool(self, values: Array) -> Array:
        """Sum over the tensors of a group; each gets the sum of its own."""

    def gradients(self) -> list[Tensor]:
        """Collect the gradients, one for each parameter."""
        return [grad for param in self.params if (grad := param.grad) is not None]

    def keep(self, settings: Settings) -> None:
        """Put strengths and signs where the bundle computes, when they have changed.

        Args:
            settings: of the step.
        """
        if settings != self._known:
            self._known = settings
            self.sign = self.array(np.array(settings.sign)[self.groups])
            self.spd = self.array(np.array(settings.spd)[self.groups])

    def look(self, settings: Settings) -> None:
        """Measure before the base step.

        Args:
            settings: of the step.
        """
        dot: Any
        before: Any
        self.keep(settings)
        dot, before = self.measure()
        dot = dot * self.sign
        if settings.pooled:
            dot, before = self.pool(dot), self.pool(before * before) ** 0.5
        if settings.beta:
            mean = settings.beta * self.records[_MEAN] + (1 - settings.beta) * dot
            self.records[_MEAN] = dot = mean
        if settings.track:
            last = self.records[_NORM]
            growth = (before + self.records[_TAKEN] - last).clip(min=0.0)
            self.records[_PATH] += growth * (last >= 0)
            self.records[_NORM] = before
        self.dot, self.before = dot, before

    def settle(self, settings: Settings) -> None:
        """Decay after the base step.

        Args:
            settings: of the step.
        """
        spd: Any = self.spd
        after = self.norms()
        if settings.pooled:
            after = self.pool(after * after) ** 0.5
        ratio = deviation_ratio(self.dot, self.before, after) * (spd > 0)
        share = share_of(ratio, spd, allow_overshoot=settings.allow_overshoot)
        self.shrink(share)
        self.note(settings, ratio, share, after)

    def note(self, settings: Settings, ratio: Any, share: Any, after: Any) -> None:
        """Add a step to the records.

        Args:
            settings: of the step.
            ratio: deviation ratio.
            share: what was taken off.
            after: norm that the base step proposed.
        """
        if not settings.track:
            return
        records = self.records
        records[_STEPS] += 1
        records[_CONFLICTS] += self.dot > 0
        records[_DECAYS] += share > 0
        records[_RATIO] += ratio
        records[_UNDONE] += share * after
        # what is left of the norm is |1 - k| of it
        records[_TAKEN] = after - abs(1 - share) * after


class CompiledBundle(Bundle[np.ndarray]):
    """Contiguous tensors in main memory of one type, by compiled loops."""

    def __init__(self, members: Sequence[Member], records: np.ndarray) -> None:
        # here and not above: numba takes a while to import
        from pyro_geo.optim.decay import _kernels

        super().__init__(members, records)
        self.kernels = _kernels
        self.like = torch.empty(0, dtype=self.params[0].dtype).real.numpy()
        twice = 2 if self.params[0].is_complex() else 1
        self.size = np.array([twice * param.numel() for param in self.params])
        self.anchors = _addresses([member.anchor for member in members])
        self.dot, self.squares = np.zeros((2, len(members)))

    def array(self, values: Any) -> np.ndarray:
        """Make an array of double precision."""
        return np.array(values, dtype=np.float64)

    def look(self, settings: Settings) -> None:
        """Measure before the base step, in one pass.

        Args:
            settings: of the step.
        """
        self.keep(settings)
        if settings.pooled:
            super().look(settings)
        else:
            self._pass(self.sign, settings.beta, settings.track)

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Measure in one pass."""
        self._pass(np.ones_like(self.sign), 0.0, False)
        return self.dot.copy(), np.sqrt(self.squares)

    def _pass(self, sign: np.ndarray, beta: float, track: bool) -> None:
        # copies, where there are any, live until the end of the pass
        slopes = [grad.contiguous() for grad in self.gradients()]
        self.places = _addresses(self.params)
        self.dot = np.empty(len(slopes))
        self.kernels.before(
            *(self.like, self.places, self.anchors, _addresses(slopes), self.size),
            *(sign, beta, track, self.records, self.dot, self.squares),
        )

    def settle(self, settings: Settings) -> None:
        """Decay after the base step, in one pass where the norms are not pooled.

        Args:
            settings: of the step.
        """
        if settings.pooled:
            super().settle(settings)
            return
        limited = not settings.allow_overshoot
        self.kernels.settle(
            *(self.like, self.places, self.anchors, self.size, self.dot, self.squares),
            *(self.spd, limited, settings.track, self.records),
        )

    def norms(self) -> np.ndarray:
        """Measure in one pass."""
        square = np.zeros(len(self.params))
        places = _addresses(self.params)
        self.kernels.square(self.like, places, self.anchors, self.size, square)
        return np.sqrt(square)

    def shrink(self, share: np.ndarray) -> None:
        """Shrink in one pass."""
        self.kernels.shrink(self.like, self.places, self.anchors, self.size, share)

    def pool(self, values: np.ndarray) -> np.ndarray:
        """Sum over groups."""
        return np.bincount(self.groups, values)[self.groups]


class ForeachBundle(Bundle[Tensor]):
    """Tensors of one device by torch's operations on lists.

    Nothing is read by the host, so that the stream of an accelerator never stops.
    """

    def __init__(self, members: Sequence[Member], records: np.ndarray) -> None:
        self.device = members[0].param.device
        super().__init__(members, records)
        self.places = torch.as_tensor(self.groups, device=self.device)

    def array(self, values: Any) -> Tensor:
        """Make a tensor of double precision on the device, where it has that."""
        exact = torch.float64 if self.device.type != "mps" else torch.float32
        return torch.as_tensor(values, dtype=exact, device=self.device)

    def measure(self) -> tuple[Tensor, Tensor]:
        """Measure by a list of differences."""
        d = self._displacements()
        slopes = [_real(grad) for grad in self.gradients()]
        dots = [
            torch.dot(x.reshape(-1), g.to(x.dtype).reshape(-1))
            for x, g in zip(d, slopes, strict=True)
        ]
        return self.array(torch.stack(dots)), self._norms(d)

    def norms(self) -> Tensor:
        """Measure by a list of differences, which the decay takes again."""
        self.displaced = self._displacements()
        return self._norms(self.displaced)

    def shrink(self, share: Tensor) -> None:
        """Shrink by lists."""
        d = self.displaced
        del self.displaced  # memory of the size of the parameters
        multiply_each(d, [k.to(x.dtype) for k, x in zip(share, d, strict=True)])
        take_from_each([_real(param) for param in self.params], d)

    def pool(self, values: Tensor) -> Tensor:
        """Sum over groups."""
        sums = values.new_zeros(int(self.groups.max()) + 1)
        return sums.index_add_(0, self.places, values)[self.places]

    def _norms(self, d: list[Tensor]) -> Tensor:
        return self.array(torch.stack([x.to(d[0].dtype) for x in norm_of_each(d)]))

    def _displacements(self) -> list[Tensor]:
        """Subtract the anchors, half precision as single."""
        values = [_wide(_real(param)) for param in self.params]
        anchors = [
            torch.zeros_like(x) if m.anchor is None else _wide(_real(m.anchor))
            for x, m in zip(values, self.members, strict=True)
        ]
        return subtract_each(values, anchors)


def _addresses(tensors: Any) -> np.ndarray:
    """List where tensors begin, 0 for None."""
    return np.array([0 if x is None else x.data_ptr() for x in tensors], dtype=np.int64)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
