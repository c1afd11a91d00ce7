"""What a lying sensor can and cannot do to a track."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pyro_geo.filtering.tracker.dynamics import Level
from pyro_geo.filtering.tracker.measurements import Position
from pyro_geo.filtering.tracker.runs import Runs
from pyro_geo.filtering.tracker.sensors import Biased, Random, SensorMode, Stuck
from tests.filtering.tracker.scenes import (
    F64,
    faults,
    follow,
    stacked,
    tracker,
    walk,
)


def equal(left: object, right: object) -> bool:
    """Compare trees of tensors bit for bit; NaN equals NaN."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left.nan_to_num(1.5e300), right.nan_to_num(1.5e300))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    return all(map(equal, left, right))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_report_that_is_no_number_is_a_missing_one(bad):
    y, _ = walk(20, 3)
    runs = tracker()
    seen = torch.ones(20, 3, dtype=torch.bool)
    seen[8, 1] = False
    missing, told = follow(runs, y, observed=seen)
    y[8, 0, 1] = bad
    broken, also = follow(runs, y)
    assert equal(missing, broken)
    for one, other in zip(told, also, strict=True):
        assert equal(one._replace(nonfinite=other.nonfinite), other)
    flags = stacked(also, "nonfinite")
    assert bool(flags[8, 1]) == math.isinf(bad)
    assert int(flags.sum()) == int(math.isinf(bad))


def test_nothing_happens_to_a_sensor_that_does_not_report():
    y, _ = walk(12, 2)
    runs = tracker()
    belief, told = follow(runs, y)
    nothing = torch.full((2, 2), math.nan, dtype=F64)
    here, dt = torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=F64)
    _, info = runs.step(runs.parameters(), belief, nothing, here, dt)
    torch.testing.assert_close(info.mode_prob, told[-1].mode_prob, atol=1e-14, rtol=0)
    assert info.log_evidence.tolist() == [0.0, 0.0]
    assert info.severed.tolist() == [0.0, 0.0]
    # and the target moves
    moved = told[-1].mean[:2] + told[-1].mean[2:]
    torch.testing.assert_close(info.mean[:2], moved, atol=0.2, rtol=0)


def test_a_spike_of_a_million_and_one_of_a_billion_leave_the_same_track():
    y, truth = walk(30, 2)
    runs = tracker()
    found = []
    for size in (1e6, 1e9, -1e9, 1e12):
        spiked = y.clone()
        spiked[10] += abs(size)
        spiked[20] += size
        found.append(follow(runs, spiked))
    for belief, told in found[1:]:
        for one, other in zip(told, found[0][1], strict=True):
            assert equal(one, other)
        # all but the previous report, which is a spike's for one step only
        assert equal(belief, found[0][0])
    told = found[0][1]
    assert stacked(told, "p_nominal")[[10, 20]].max() == 0.0
    assert (stacked(told, "severed")[[10, 20]] > 20.0).all()
    assert stacked(told, "mode_prob")[[10, 20], 1].min() > 0.99
    away = (stacked(told, "mean")[15:, :2] - truth[15:]).norm(dim=1)
    assert away.max() < 5.0


def test_the_nats_severed_are_the_ledger_of_the_log_odds():
    y, _ = walk(40, 3)
    y[15:18] += torch.tensor([[9.0], [0.0]], dtype=F64)
    runs = tracker()
    params = runs.parameters()
    _, told = follow(runs, y)
    chain = runs.plan.slots.chain(
        params.p_fault, params.share, params.stay, params.recover
    )
    order = runs.plan.slots.order
    place = [order.index(k) for k in range(len(order))]
    chain = chain[place][:, place]
    modes = stacked(told, "mode_prob")
    prior = torch.einsum("tkb,kl->tlb", modes[:-1], chain)[:, 0]
    posterior = modes[1:, 0]
    refused = torch.logit(prior) - torch.logit(posterior)
    # zeroed weights below e^-20 are all that is missing
    torch.testing.assert_close(
        stacked(told, "severed")[1:], refused, rtol=1e-6, atol=1e-6
    )
    total = stacked(told, "severed")[1:].sum(0)
    torch.testing.assert_close(total, refused.sum(0), rtol=1e-6, atol=1e-6)


def test_a_shifted_run_is_refused_in_position_and_learned_in_velocity():
    y, truth = walk(60, 4)
    turn = torch.zeros(60, 2, 4, dtype=F64)
    # the target turns while its reports are shifted
    turn[30:, 0] = 4.0 * torch.arange(30, dtype=F64)[:, None]
    shifted = y + turn
    shifted[28:48, 1] += 40.0
    _, told = follow(tracker(), shifted)
    _, blind = follow(tracker([Random(60.0)]), shifted)
    mean = stacked(told, "mean")[40:48]
    away = (mean[:, :2] - (truth + turn)[40:48]).norm(dim=1)
    lost = (stacked(blind, "mean")[40:48, :2] - (truth + turn)[40:48]).norm(dim=1)
    assert away.max() < 25.0
    assert away.mean() < 0.5 * lost.mean()
    assert stacked(told, "mode_prob")[40:48, 2].median() > 0.9
    gain = (truth[1, 0] - truth[0, 0]) + 4.0
    torch.testing.assert_close(mean[-1, 2], gain, atol=2.0, rtol=0)


def normal(x: float, variance: float) -> float:
    return -0.5 * (x * x / variance + math.log(2 * math.pi * variance))


def test_the_evidence_of_two_reports_is_the_sum_over_all_sequences_of_modes():
    """Nothing is merged in two steps that start from one run of a mode each."""
    R, q, wide, near, walks = 1.0, 0.5, 9.0, 1.5, 0.2
    modes: list[SensorMode] = [
        Random(wide, share=0.6, stay=0.9),
        Biased(wide, walk=walks, share=0.2, stay=0.8),
        Stuck(near, share=0.2, stay=0.7),
    ]
    pf, recover = 0.05, 0.8
    one = torch.ones(1, dtype=torch.bool)
    runs = Runs([Level(q)], Position(1), torch.eye(1, dtype=F64), faults=modes)
    params = runs.parameters()
    belief = runs.init(params, torch.zeros(1, 1, dtype=F64), one)
    y = [0.0, 2.3]
    _, info = runs.step(
        params,
        belief,
        torch.full((1, 1), y[1], dtype=F64),
        one,
        torch.ones(1, dtype=F64),
    )
    share = {1: 0.6, 2: 0.2, 3: 0.2}
    stay = {1: 0.9, 2: 0.8, 3: 0.7}

    def chance(a: int, b: int) -> float:
        if a == 0:
            return 1 - pf if b == 0 else pf * share[b]
        if a == b:
            return stay[a]
        if b == 0:
            return (1 - stay[a]) * recover
        rest = sum(s for k, s in share.items() if k != a)
        return (1 - stay[a]) * (1 - recover) * share[b] / rest

    start = [1 - pf, pf * 0.6, pf * 0.2, pf * 0.2]
    first = {0: R, 1: R + wide**2, 2: R + wide**2, 3: R + wide**2}
    parts: dict[int, list[float]] = {b: [] for b in range(4)}
    # new runs are merged from the others, so that their density is that of one normal
    for b in range(4):
        sources = [(a, start[a] * chance(a, b)) for a in range(4) if a != b]
        weight = sum(w for _, w in sources)
        merged = sum(w * first[a] for a, w in sources) / weight + q
        old = first[b] + q
        for variance, mass, new in (
            (merged, weight, True),
            (old, start[b] * chance(b, b), False),
        ):
            if b == 0:
                log = normal(y[1], variance + R)
            elif b == 1:
                log = normal(y[1], variance + R + wide**2)
            elif b == 2 and new:
                log = normal(y[1], variance + R + wide**2)
            elif b == 2:
                # place and bias cancel in the report that began the run
                log = normal(y[1], q + R + R + walks**2)
            else:
                log = normal(y[1] - y[0], near**2)
            parts[b].append(mass * math.exp(log))
    evidence = sum(map(sum, parts.values()))
    assert float(info.log_evidence) == pytest.approx(math.log(evidence), abs=1e-11)
    # two runs are kept of the modes that teach something, of the others the better one
    left = [sum(parts[0]), max(parts[1]), sum(parts[2]), max(parts[3])]
    expected = torch.tensor(left, dtype=F64) / sum(left)
    torch.testing.assert_close(info.mode_prob[:, 0], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("cap", "eps", "slope", "spread"),
    [
        (3.0, 0.05, 2.474, 3.053),
        (3.0, 0.2, 1.965, 2.300),
        (6.9, 0.05, 3.543, 4.972),
    ],
)
def test_one_report_moves_a_mean_by_a_bounded_amount(cap, eps, slope, spread):
    """With a floor `cap` nats under the peak, w(d) = 1 / (1 + e/(1-e) exp(d^2/2 - c)).

    The supremum over d of d w(d) is that of the step in units of the predicted spread,
    for a sensor without noise; that of the variance follows from both moments.
    """
    tiny = 1e-6
    modes = [Random(rel=cap, share=1.0, stay=0.5)]
    runs = Runs(
        [Level(1.0)],
        Position(1),
        tiny * torch.eye(1, dtype=F64),
        faults=modes,
        keep=1,
        p_fault=eps,
    )
    params = runs.parameters()
    d = torch.linspace(0.0, 9.0, 4001, dtype=F64)[None]
    here = torch.ones(d.shape[1], dtype=torch.bool)
    belief = runs.init(params, torch.zeros_like(d), here)
    weight = torch.zeros_like(belief.weight)
    weight[0] = 1.0  # a nominal sensor so far
    _, info = runs.step(params, belief._replace(weight=weight), d, here, here.to(F64))
    sd = math.sqrt(1.0 + tiny)
    w = 1 / (1 + eps / (1 - eps) * torch.exp((d[0] / sd) ** 2 / 2 - cap))
    close = d[0] < 6.0  # beyond, the weight is exactly zero
    torch.testing.assert_close(info.p_nominal[close], w[close], rtol=1e-4, atol=1e-7)
    assert float(info.mean.abs().max()) / sd == pytest.approx(slope, abs=2e-3)
    # what the report adds to the variance: that between moving and not moving
    added = w * (1 - w) * (d[0] / sd) ** 2
    assert float(added.max()) == pytest.approx(spread, abs=2e-3)
    torch.testing.assert_close(
        info.cov[0, 0][close], ((1 - w) * sd**2 + added)[close], rtol=1e-3, atol=1e-4
    )
    assert not runs.proper


def test_tracks_do_not_know_of_each_other():
    y, _ = walk(25, 5)
    y[10, :, 2] = math.nan
    y[12:15, :, 3] += 50.0
    runs = tracker()
    belief, told = follow(runs, y)
    order = [3, 0, 4, 2, 1]
    _, turned = follow(runs, y[:, :, order])
    for one, other in zip(told, turned, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(
                a[..., order], b, rtol=1e-11, atol=1e-11, equal_nan=True
            )
    alone, _ = follow(runs, y[:, :, 3:4])
    torch.testing.assert_close(
        alone.mean[0][..., 0], belief.mean[0][..., 3], rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("broken", [math.nan, -1.0])
def test_a_covariance_that_degenerates_restarts_its_own_track_alone(broken):
    y, _ = walk(20, 3)
    runs = tracker()
    params = runs.parameters()
    belief, _ = follow(runs, y[:10])
    here, dt = torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=F64)
    hurt = belief.cov[0].clone()
    hurt[:, :, :, :, 1] = broken * (1e4 if broken < 0 else 1.0)
    good, told = runs.step(params, belief, y[10], here, dt)
    cov = (hurt, *belief.cov[1:])
    bad, also = runs.step(params, belief._replace(cov=cov), y[10], here, dt)
    assert also.restarted.tolist() == [False, True, False]
    assert not told.restarted.any()
    others = [0, 2]
    for one, other in zip(told, also, strict=True):
        assert equal(one[..., others], other[..., others])
    for one, other in zip(good.mean + good.cov, bad.mean + bad.cov, strict=True):
        assert equal(one[..., others], other[..., others])
    torch.testing.assert_close(also.mean[:2, 1], y[10, :, 1])
    assert also.mean[2:, 1].tolist() == [0.0, 0.0]
    # and goes on as a track that starts there
    fresh = runs.init(params, y[10], here)
    torch.testing.assert_close(bad.cov[0][..., 1], fresh.cov[0][..., 1])
    _, later = runs.step(params, bad, y[11], here, dt)
    assert not later.restarted.any()


def test_a_track_without_reports_stays_unknown_and_one_that_is_late_starts_late():
    y, _ = walk(12, 3)
    y[:, :, 0] = math.nan
    y[:5, :, 1] = math.nan
    _, told = follow(tracker(), y)
    mean, evidence = stacked(told, "mean"), stacked(told, "log_evidence")
    assert mean[:, :, 0].isnan().all()
    assert mean[:5, :, 1].isnan().all()
    assert torch.equal(mean[5, :2, 1], y[5, :, 1])
    assert evidence[:, 0].abs().max() == 0.0
    assert not stacked(told, "restarted").any()
    _, later = follow(tracker(), y[5:, :, 1:])
    torch.testing.assert_close(mean[5:, :, 1], stacked(later, "mean")[..., 0])


def test_time_that_runs_back_makes_reports_late_until_it_has_caught_up():
    y, _ = walk(8, 1)
    runs = tracker()
    params = runs.parameters()
    here = torch.ones(1, dtype=torch.bool)
    steps = [0.0, 1.0, 1.0, -1.5, 0.5, 2.0, 1.0]  # times 0 1 2 .5 1 3 4
    belief = runs.init(params, y[0], torch.zeros(1, dtype=torch.bool))
    late, info = [], runs.describe(belief)
    for row, dt in zip(y, steps, strict=False):
        lapse = torch.full((1,), dt, dtype=F64)
        belief, info = runs.step(params, belief, row, here, lapse)
        late.append(bool(info.late))
    assert late == [False, False, False, True, True, False, False]
    assert float(belief.late) == 0.0
    # the belief went from time 2 to time 3 and 4, with two empty steps between
    mirror = runs.init(params, y[0], torch.zeros(1, dtype=torch.bool))
    told = info
    for k, dt in ((0, 0.0), (1, 1.0), (2, 1.0), (3, 0.0), (4, 0.0), (5, 1.0), (6, 1.0)):
        lapse = torch.full((1,), dt, dtype=F64)
        use = here & (k not in (3, 4))
        mirror, told = runs.step(params, mirror, y[k], use, lapse)
    assert torch.equal(told.mean, info.mean)


def test_a_report_at_the_same_time_is_a_second_one():
    y, _ = walk(6, 1)
    runs = tracker([])
    belief, _ = follow(runs, y)
    here, still = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=F64)
    again, info = runs.step(runs.parameters(), belief, y[-1], here, still)
    assert not info.late.any()
    assert float(info.cov[0, 0]) < float(runs.describe(belief).cov[0, 0])


def test_single_precision_equals_double_to_a_thousandth():
    y, _ = walk(200, 8)
    y[50:60, 0] += 30.0
    y[100] += 1e6
    y[120] = math.nan
    runs = tracker()
    _, double = follow(runs, y)
    _, single = follow(runs, y.float())
    for name in ("mean", "cov", "mode_prob", "log_evidence"):
        a, b = stacked(double, name), stacked(single, name)
        assert b.dtype == torch.float32
        unit = a.abs().amax(1, keepdim=True) if name != "mode_prob" else 1.0
        gap = (a - b).abs() / unit if name != "log_evidence" else (a - b).abs() / 10.0
        assert float(gap.nan_to_num().max()) < 1e-3
        assert not b[1:].isnan().any()


def test_evidence_has_the_gradients_that_finite_differences_have():
    y, _ = walk(8, 2)
    y[4, 0] += 25.0
    runs = tracker()
    params = runs.parameters()

    def evidence(*moved: Tensor) -> Tensor:
        names = ("q", "R", "p_fault", "stay", "scale")
        now = params._replace(**dict(zip(names, moved, strict=True)))
        return stacked(follow(runs, y, now)[1], "log_evidence").sum()

    start = [params.q, params.R, params.p_fault, params.stay, params.scale]
    leaves = [t.clone().requires_grad_() for t in start]
    gradients = torch.autograd.grad(evidence(*leaves), leaves)
    for number, gradient in enumerate(gradients):
        flat = gradient.flatten()
        for entry in range(0, flat.numel(), max(1, flat.numel() // 2)):
            step = 1e-5 * max(1.0, float(start[number].flatten()[entry]))
            ends = []
            for sign in (1.0, -1.0):
                moved = [t.clone() for t in start]
                moved[number].view(-1)[entry] += sign * step
                ends.append(evidence(*moved))
            slope = float(ends[0] - ends[1]) / (2 * step)
            assert float(flat[entry]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_a_fault_of_ones_own_that_teaches_all_is_a_nominal_sensor_with_more_noise():
    class Noisy(SensorMode):
        learns = "all"

    R, extra = 1.0, 3.0
    runs = Runs(
        [Level(0.5)], Position(1), torch.eye(1, dtype=F64), faults=[Noisy(extra)]
    )
    params = runs.parameters()._replace(p_fault=torch.tensor(0.5, dtype=F64))
    here = torch.ones(1, dtype=torch.bool)
    belief = runs.init(params, torch.zeros(1, 1, dtype=F64), here)
    only = torch.zeros_like(belief.weight)
    only[0] = 1.0
    y = torch.full((1, 1), 2.0, dtype=F64)
    _, info = runs.step(
        params, belief._replace(weight=only), y, here, torch.ones(1, dtype=F64)
    )
    P = R + 0.5
    logs = [normal(2.0, P + R), normal(2.0, P + R + extra**2)]
    top = math.exp(logs[0]) + math.exp(logs[1])
    weight = [math.exp(value) / top for value in logs]
    mean = weight[0] * 2 * P / (P + R) + weight[1] * 2 * P / (P + R + extra**2)
    assert float(info.p_nominal) == pytest.approx(weight[0], abs=1e-12)
    assert float(info.mean) == pytest.approx(mean, abs=1e-12)


def test_keeps_the_best_runs_of_each_mode():
    runs = tracker()
    assert runs.plan.slots.kept == 2 + 2 + 1 + 1
    y, _ = walk(30, 2)
    belief, told = follow(runs, y)
    torch.testing.assert_close(belief.weight.sum((0, 1)), torch.ones(2, dtype=F64))
    assert (told[-1].p_nominal > 0.95).all()
    assert tracker(keep=4).plan.slots.kept == 4 + 4 + 1 + 1
    pairs = itertools.pairwise(range(len(faults()) + 1))
    assert len(list(pairs)) == len(faults())
