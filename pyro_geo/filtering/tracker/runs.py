"""The tracker's pure layer: hypotheses are runs of one sensor mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyro_geo._deprecated import renamed
from pyro_geo.checks import check, check_choice, check_count, check_number
from pyro_geo.filtering.tracker.belief import Belief, Parameters, StepInfo
from pyro_geo.filtering.tracker.dynamics import Dynamics
from pyro_geo.filtering.tracker.measurements import Measurement
from pyro_geo.filtering.tracker.mixing import Bias, Blocks
from pyro_geo.filtering.tracker.plan import Plan
from pyro_geo.filtering.tracker.predict import branched, predicted
from pyro_geo.filtering.tracker.prune import flat, kept, mixture, mode_prob, unsound
from pyro_geo.filtering.tracker.score import scored
from pyro_geo.filtering.tracker.sensors import Biased, Report, SensorMode
from pyro_geo.filtering.tracker.slots import Slots
from pyro_geo.filtering.tracker.start import Start, first_belief

__all__ = ["Runs"]


class Runs:
    r"""The bounded tracker as two pure functions, :meth:`init` and :meth:`step`.

    A hypothesis is one run of one sensor mode, and holds one Gaussian for each
    dynamics. In a step

    1. the dynamics mix and predict in every hypothesis;
    2. each hypothesis continues its run, and all hypotheses of other modes are merged
       into one new run of each mode, with a new bias;
    3. each lane has the density of the report in its mode, learns what its mode
       teaches, and is weighted;
    4. the best runs of each mode are kept.

    Everything is batched over runs, dynamics and tracks, the last axis; a step is a
    graph of some hundred operations with no loop over any of them.

    Args:
        dynamics: motions of the target, all with the same orders and axes.
        measurement: what a nominal sensor reports.
        noise: covariance of a nominal report, `(m, m)`.
        faults: ways in which the sensor fails; none for a plain filter.
        keep: runs kept of each mode in which the state learns.
        p_fault: chance that a nominal sensor fails at the next report.
        recover: chance that a fault that ends leaves a nominal sensor, not another
            fault.
        hold: chance that the target keeps its dynamics from one step to the next.
        speed: least and largest speed of the target.
        linearisation: `ekf` or `ukf`, for a measurement that is not linear.

    References:
        arXiv 2603.13613 (2026), for the setting; the algorithm is derived here.
        Blom and Bar-Shalom (1988), The interacting multiple model algorithm.

    Example:
        >>> from pyro_geo.filtering.tracker.dynamics import Level
        >>> from pyro_geo.filtering.tracker.measurements import Position
        >>> runs = Runs([Level(0.1)], Position(1), torch.eye(1))
        >>> params = runs.parameters()
        >>> here = torch.ones(1, dtype=torch.bool)
        >>> belief = runs.init(params, torch.zeros(1, 1), here)
        >>> y, dt = torch.ones(1, 1), torch.ones(1)
        >>> belief, info = runs.step(params, belief, y, here, dt)
        >>> round(info.mean.item(), 4)  # prior variance 1.1, noise 1
        0.5238
    """

    @renamed(linearization="linearisation")
    def __init__(
        self,
        dynamics: Sequence[Dynamics],
        measurement: Measurement,
        noise: Tensor,
        *,
        faults: Sequence[SensorMode] = (),
        keep: int = 2,
        p_fault: float = 0.05,
        recover: float = 0.8,
        hold: float = 0.95,
        speed: tuple[float, float] | None = None,
        linearisation: Literal["ekf", "ukf"] = "ekf",
    ) -> None:
        check(len(dynamics) > 0, "dynamics", dynamics, "at least one")
        first, size = dynamics[0], measurement.size
        shapes = {(d.orders, d.axes) for d in dynamics}
        check(len(shapes) == 1, "dynamics", shapes, "the same orders and axes in all")
        check(
            not measurement.identity or size == first.axes,
            "measurement",
            f"{size} numbers",
            f"the {first.axes} axes of the dynamics",
        )
        check(
            max(measurement.reads) < first.orders,
            "measurement",
            measurement.reads,
            f"orders below {first.orders}",
        )
        good = noise.shape == (size, size) and not bool(
            torch.linalg.cholesky_ex(noise).info
        )
        check(good, "R", noise.tolist(), f"a positive definite ({size}, {size}) matrix")
        check_count("keep", keep)
        check_choice("linearisation", linearisation, ("ekf", "ukf"))
        for name, value in (("p_fault", p_fault), ("recover", recover), ("hold", hold)):
            check_number(name, value, 0.0, 1.0, strict=True)
        if speed is not None:
            low, high = map(float, speed)
            check(0 <= low < high, "speed", speed, "0 <= least < largest")
            check(
                first.velocity is not None and first.axes <= 2,
                "speed",
                speed,
                "dynamics with a velocity of one or two axes",
            )
        for fault in faults:
            check(
                _possible(fault, noise),
                "faults",
                type(fault).__name__,
                "a density that is not zero everywhere",
            )
        self.noise = noise
        self.chances = (p_fault, recover, hold)
        self.plan = Plan(
            Slots(faults, keep),
            tuple(dynamics),
            measurement,
            tuple(faults),
            speed,
            linearisation == "ukf" and not measurement.linear,
        )

    @property
    def proper(self) -> bool:
        """Whether the evidence is a density of the reports."""
        return all(mode.proper for mode in self.plan.faults)

    def parameters(self, dtype: torch.dtype | None = None) -> Parameters:
        """Give the parameters that the tracker was made with.

        Args:
            dtype: floating type; that of the noise where left out.

        Returns:
            The parameters, to be changed with `_replace`.
        """
        p_fault, recover, hold = self.chances
        like = self.noise if dtype is None else self.noise.to(dtype)
        sd = like.diagonal().sqrt()
        size = len(sd)
        count = len(self.plan.dynamics)
        widest = max(len(d.values) for d in self.plan.dynamics)
        q = like.new_zeros(count, widest)
        for row, motion in zip(q, self.plan.dynamics, strict=True):
            row[: len(motion.values)] = like.new_tensor(motion.values)
        eye = torch.eye(count).to(like)
        other = (1 - hold) / max(count - 1, 1)
        empty = like.new_zeros(0, size)
        walks = [
            f.walks(sd) if isinstance(f, Biased) else torch.zeros_like(sd)
            for f in self.plan.faults
        ]
        return Parameters(
            q,
            eye * hold + (1 - eye) * other if count > 1 else eye,
            like,
            like.new_tensor(p_fault),
            like.new_tensor(recover),
            like.new_tensor([f.share for f in self.plan.faults]),
            like.new_tensor([f.stay for f in self.plan.faults]),
            torch.stack([f.scales(sd) for f in self.plan.faults])
            if self.plan.faults
            else empty,
            torch.stack(walks) if self.plan.faults else empty,
        )

    def init(self, params: Parameters, y: Tensor, observed: Tensor) -> Belief:
        """Start every track at its first report.

        Args:
            params: numbers of the tracker.
            y: reports, `(m, tracks)`.
            observed: whether each is there, `(tracks,)`. A track without one starts at
                the first that :meth:`step` is given.

        Returns:
            The belief.
        """
        use = observed & torch.isfinite(y).all(0)
        y = torch.where(use, y, 0.0)
        fresh = self._first(params, y)
        kept, count, tracks = self.plan.slots.kept, len(self.plan.dynamics), y.shape[1]

        def full(t: Tensor, lanes: int = kept) -> Tensor:
            return t.expand(*t.shape[:-3], lanes, count, tracks).contiguous()

        bias = fresh.bias
        if bias:
            some = self.plan.slots.biased
            cross = tuple(full(c, some) for c in bias.cross)
            bias = Bias(full(bias.mean, some), full(bias.cov, some), cross)
        return Belief(
            tuple(map(full, fresh.mean)),
            tuple(map(full, fresh.cov)),
            bias,
            full(fresh.weight),
            y,
            use,
            torch.zeros_like(y[0]),
        )

    def _first(self, params: Parameters, y: Tensor) -> Start:
        return first_belief(*self.plan[:3], params, y)

    def describe(self, belief: Belief) -> StepInfo:
        """Tell what a belief says, without a report.

        Args:
            belief: of the tracker.

        Returns:
            Moments and probabilities; nothing is severed, and there is no evidence.
        """
        slots = self.plan.slots
        mean, cov = flat(*mixture(belief.weight, belief.mean, belief.cov))
        nothing = torch.zeros_like(belief.late)
        never = torch.zeros_like(belief.started)
        modes = mode_prob(slots, belief.weight.sum(1))
        known = belief.started
        return StepInfo(
            torch.where(known, mean, math.nan),
            torch.where(known, cov, math.nan),
            belief.weight.sum(0),
            modes,
            modes[0],
            torch.full_like(nothing, math.nan),
            nothing,
            nothing,
            never,
            never,
            never,
        )

    def step(
        self,
        params: Parameters,
        belief: Belief,
        y: Tensor,
        observed: Tensor,
        dt: Tensor,
    ) -> tuple[Belief, StepInfo]:
        """Move every track by a time and a report.

        A report that is NaN or not observed is missing: the target moves, the sensor
        does not. An infinite one is missing and flagged. Where the time runs back the
        report is older than the belief, and is missing until the time has caught up.

        Args:
            params: numbers of the tracker.
            belief: after the step before.
            y: reports, `(m, tracks)`.
            observed: whether each is there, `(tracks,)`.
            dt: time since the previous step, `(tracks,)`.

        Returns:
            The new belief, and what the step tells.
        """
        timed = torch.isfinite(dt)
        ahead = torch.where(timed, dt, 0.0) - belief.late
        late = observed & ~(timed & (ahead >= 0))
        infinite = observed & torch.isinf(y).any(0)
        use = observed & torch.isfinite(y).all(0) & ~late
        y = torch.where(use, y, 0.0)

        before = predicted(self.plan, params, belief, ahead.clamp(min=0.0))
        lanes = branched(self.plan, params, before, use)
        told = scored(self.plan, params, lanes, belief.last, y, use)

        slots = self.plan.slots
        after = kept(slots, lanes, told, use)
        mean, cov = mixture(after.weight, after.mean, after.cov)
        sick = (told.learned.bad & use).flatten(0, 1).any(0) | unsound(cov, len(mean))
        for x in mean:
            sick = sick | ~torch.isfinite(x).all(0)
        bad = belief.started & sick
        again = bad | ~belief.started
        fresh = self._first(params, y)
        bias = after.bias
        if bias is not None and isinstance(fresh.bias, Bias):
            bias = Bias(
                torch.where(again, fresh.bias.mean, bias.mean),
                torch.where(again, fresh.bias.cov, bias.cov),
                _chosen(again, fresh.bias.cross, bias.cross),
            )
        known = use | (belief.started & ~bad)
        new = Belief(
            _chosen(again, fresh.mean, after.mean),
            _chosen(again, fresh.cov, after.cov),
            bias or (),
            torch.where(again, fresh.weight, after.weight),
            torch.where(use, y, belief.last),
            known,
            (-ahead).clamp(min=0.0),
        )
        # chosen block by block: what is put together is written once
        began = tuple(x[:, 0, 0] for x in fresh.mean)
        mean, cov = _chosen(again, began, mean), _chosen(again, fresh.mixed, cov)
        mean, cov = flat(_known(known, mean), _known(known, cov))
        modes = mode_prob(slots, new.weight.sum(1))
        learned = use & ~again
        return new, StepInfo(
            mean,
            cov,
            new.weight.sum(0),
            modes,
            modes[0],
            torch.where(learned, told.nis, math.nan),
            torch.where(learned, after.severed, 0.0),
            torch.where(learned, after.log_evidence, 0.0),
            bad,
            infinite,
            late,
        )


def _possible(fault: SensorMode, noise: Tensor) -> bool:
    """Try the density of a fault at reports near and far."""
    sd = noise.diagonal().sqrt()
    scale = fault.scales(sd)
    if fault.learns != "nothing":
        return True
    away = torch.tensor([0.0, 1.0, -1.0, 10.0, -10.0, 1e3, -1e3]).to(sd)
    residual = (sd[:, None] * away)[:, :, None, None]
    cov = noise[:, :, None, None, None].expand(-1, -1, len(away), 1, 1)
    nothing = torch.zeros_like(residual)
    report = Report(nothing, residual, cov, residual, scale[:, None, None, None])
    return bool(torch.isfinite(fault.log_density(report)).any())


def _chosen(again: Tensor, fresh: Blocks, old: Blocks) -> Blocks:
    return tuple(torch.where(again, f, o) for f, o in zip(fresh, old, strict=True))


def _known(known: Tensor, blocks: Blocks) -> Blocks:
    return tuple(torch.where(known, x, math.nan) for x in blocks)
