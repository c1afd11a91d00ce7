"""What the tracker's pure layer passes from step to step, and what it tells."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyro_geo.filtering.tracker.mixing import Bias, Blocks

__all__ = ["Belief", "Parameters", "StepInfo"]


class Parameters(NamedTuple):
    """The numbers of a tracker that may be learned; gradients flow to all of them.

    Attributes:
        q: values of each dynamics, `(dynamics, values)`.
        switch: chances that one dynamics follows another, `(dynamics, dynamics)`.
        R: covariance of a nominal report, `(m, m)`, or `(m, m, tracks)`.
        p_fault: chance that a nominal sensor fails at the next report.
        recover: chance that a fault that ends leaves a nominal sensor.
        share: how often each fault is the one that begins, `(faults,)`.
        stay: chance that each fault holds on, `(faults,)`.
        scale: standard deviations of each fault, `(faults, m)`.
        walk: standard deviations of the steps of a bias, `(faults, m)`.
    """

    q: Tensor
    switch: Tensor
    R: Tensor
    p_fault: Tensor
    recover: Tensor
    share: Tensor
    stay: Tensor
    scale: Tensor
    walk: Tensor


class Belief(NamedTuple):
    """Everything the tracker knows; the lanes `(runs, dynamics, tracks)` come last.

    Attributes:
        mean: each order of the state, `(axes, *lanes)`.
        cov: each block of its covariance, `(axes, axes, *lanes)`.
        bias: of the report, in the runs that have one; empty where none does.
        weight: probability of each lane, `(*lanes)`; adds up to one in each track.
        last: previous report, `(m, tracks)`.
        started: whether a track has had a report, `(tracks,)`.
        late: time by which the reports have run back, `(tracks,)`.
    """

    mean: Blocks
    cov: Blocks
    bias: Bias | tuple[()]
    weight: Tensor
    last: Tensor
    started: Tensor
    late: Tensor


class StepInfo(NamedTuple):
    """What one step tells of each track; the state has `n = orders * axes` numbers.

    Attributes:
        mean: of the state, `(n, tracks)`; NaN before the first report.
        cov: of the state, `(n, n, tracks)`.
        dynamics_prob: probability of each dynamics, `(dynamics, tracks)`.
        mode_prob: probability of each sensor mode, nominal first, `(modes, tracks)`.
        p_nominal: the first of them, `(tracks,)`.
        nis: squared Mahalanobis distance of the report from a nominal one, `(tracks,)`;
            NaN without a report.
        severed: nats refused: log-odds of a nominal sensor before the report minus
            those after it, `(tracks,)`.
        log_evidence: log-density of the report given the past, `(tracks,)`.
        restarted: whether a covariance degenerated and the track began again.
        nonfinite: whether the report was infinite, and was taken as missing.
        late: whether the report was older than the belief, and was taken as missing.
    """

    mean: Tensor
    cov: Tensor
    dynamics_prob: Tensor
    mode_prob: Tensor
    p_nominal: Tensor
    nis: Tensor
    severed: Tensor
    log_evidence: Tensor
    restarted: Tensor
    nonfinite: Tensor
    late: Tensor
