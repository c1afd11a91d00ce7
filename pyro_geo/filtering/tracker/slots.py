"""Where the runs of each sensor mode stand among the lanes, and how modes follow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_geo.filtering.tracker.sensors import SensorMode

__all__ = ["Slots"]

_KINDS = ("all", "motion", "nothing")


class Slots:
    """The fixed places of hypotheses: which mode each is a run of.

    Modes are sorted by what the state learns in them: all, motion, nothing. The slots
    of a mode stand side by side. In a step each mode has a new run too, and the lanes
    are, in this order,

    ===========  ==========================================
    lanes        runs
    ===========  ==========================================
    `new_plain`  new ones that learn all, the nominal last
    `plain`      kept ones that learn all, the nominal first
    `biased`     kept ones that learn the motion
    `new_biased` new ones of these
    `deaf`       kept ones that learn nothing, one a mode
    `deaf`       new ones of these
    ===========  ==========================================

    so that the nominal ones, those with a bias and those that learn are neighbours.

    Args:
        faults: modes of a sensor that fails.
        keep: runs kept of each mode in which the state learns; of the others one.

    Attributes:
        learns: what the state learns in each mode given, the nominal one first.
        order: number of each sorted mode among those given, 0 for the nominal one.
        slot_mode: sorted mode of each slot.
        first_slot: first slot of each sorted mode.
        slot_spans: the same, and the one after its last.
        lane_of_new: lane of the new run of the mode of each slot.
    """

    def __init__(self, faults: Sequence[SensorMode], keep: int) -> None:
        self.learns = ["all", *(mode.learns for mode in faults)]
        numbers = range(len(self.learns))
        self.order = sorted(numbers, key=lambda k: _KINDS.index(self.learns[k]))
        self.modes = len(self.learns)
        alone = self.modes == 1  # nothing to begin a new run from
        counts = [
            1 if alone or self.learns[mode] == "nothing" else keep
            for mode in self.order
        ]
        self.slot_mode = [m for m, count in enumerate(counts) for _ in range(count)]
        self.kept = len(self.slot_mode)
        self.first_slot = [self.slot_mode.index(m) for m in range(self.modes)]
        self.slot_spans = [
            (start, start + count)
            for start, count in zip(self.first_slot, counts, strict=True)
        ]
        kinds = [self.learns[mode] for mode in self.order]
        slot_kinds = [kinds[m] for m in self.slot_mode]
        self.plain, self.biased, self.deaf = (slot_kinds.count(k) for k in _KINDS)
        self.plain_modes = kinds.count("all")
        self.new_plain = 0 if alone else self.plain_modes
        self.new_biased = kinds.count("motion")
        self.first_deaf = self.new_plain + self.plain + self.biased + self.new_biased
        self.first_biased = self.new_plain + self.plain
        self.lanes = self.first_deaf + 2 * self.deaf
        self.lane_of_new = [self._new(m, kinds[m]) for m in self.slot_mode]

    def _new(self, mode: int, kind: str) -> int:
        if kind == "all":
            return self.plain_modes - 1 - mode
        if kind == "motion":
            return self.first_biased + self.biased + mode - self.plain_modes
        return self.first_deaf + self.deaf + mode - self.plain_modes - self.new_biased

    @property
    def nominal(self) -> slice:
        """Lanes of the nominal mode."""
        start = max(self.new_plain - 1, 0)
        return slice(start, self.new_plain + self.slot_spans[0][1])

    def arranged(self, kept: Tensor, new: Tensor, axis: int = -3) -> Tensor:
        """Put kept and new runs in the order of the lanes.

        Args:
            kept: one entry a slot.
            new: one entry a sorted mode.
            axis: of the runs, counted from the end.

        Returns:
            One entry a lane.
        """
        hearing = self.plain + self.biased
        sizes = [self.plain_modes, self.new_biased, self.deaf]
        plain, biased, deaf = new.split(sizes, axis)
        if self.plain_modes > 1:
            plain = plain.flip(axis)
        old, quiet = kept.split([hearing, self.deaf], axis)
        parts = [plain, old, biased, quiet, deaf]
        return torch.cat([part for part in parts if part.shape[axis]], axis)

    def chain(
        self, p_fault: Tensor, share: Tensor, stay: Tensor, recover: Tensor
    ) -> Tensor:
        """Write the chances that one mode follows another.

        Args:
            p_fault: chance that a nominal sensor fails at the next report.
            share: how often each fault is the one that begins, in the order given.
            stay: chance that each fault holds on.
            recover: chance that a fault that ends leaves a nominal sensor.

        Returns:
            The matrix, in the order of the sorted modes, `(modes, modes)`; rows add up
            to one.
        """
        faults = self.modes - 1
        if not faults:
            return torch.ones_like(p_fault).reshape(1, 1)
        share = share / share.sum()
        eye = torch.eye(faults, dtype=share.dtype, device=share.device)
        # another fault, in proportion to the shares of the others
        others = (1 - eye) * share
        if faults > 1:
            others = others / others.sum(1, keepdim=True)
            others = others * (1 - recover)
            back = recover.expand(faults)
        else:
            back = torch.ones_like(share)
        leave = (1 - stay)[:, None]
        nominal = torch.cat([(1 - p_fault).reshape(1), p_fault * share])
        rest = torch.cat([leave * back[:, None], eye * stay + leave * others], 1)
        matrix = torch.cat([nominal[None], rest])
        return matrix if self.order == list(range(self.modes)) else self._sorted(matrix)

    def _sorted(self, matrix: Tensor) -> Tensor:
        rows = torch.stack([matrix[k] for k in self.order])
        return torch.stack([rows[:, k] for k in self.order], 1)
