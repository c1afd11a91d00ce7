"""The evidence as a likelihood: values, gradients, chains, and fits by Pyro."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.nn import PyroParam, PyroSample
from pyro.optim import PyroOptim
from torch.distributions import constraints

from pyro_geo import Target
from pyro_geo.errors import ConfigurationError, UnsupportedError
from pyro_geo.filtering import BoundedTracker, Level, Position, Random
from pyro_geo.filtering.tracker.evidence import Evidence, TrackReports

START = [0.05, 1.0, 0.05, 4.0]  # p_fault, R, q of both motions


@pytest.fixture(scope="module")
def few(y):
    """Two tracks without the infinite report."""
    return y[[0, 3], :12]


@pytest.fixture(scope="module")
def log_evidence(tracker, few):
    """Evidence of both tracks as a function of some numbers."""
    evidence = Evidence(tracker.runs, torch.float64)
    observed = ~few.isnan().any(-1)
    dt = torch.ones(observed.shape)
    dt[:, 0] = 0.0

    def function(p):
        plain = tracker.runs.parameters()
        params = plain._replace(p_fault=p[0], R=p[1].reshape(1, 1), q=p[2:, None])
        return TrackReports(evidence, params, observed, dt, 1).log_prob(few)

    return function


@pytest.fixture
def at():
    return torch.tensor(START, dtype=torch.float64)


def test_it_is_that_of_the_filter(tracker, few, log_evidence, at):
    track = tracker.filter(few, dt=1.0, progress_bar=False)
    np.testing.assert_allclose(log_evidence(at), track.log_evidence.sum(1), rtol=1e-12)


def test_gradients_are_those_of_finite_differences(log_evidence, at):
    q = at.clone().requires_grad_()
    values = log_evidence(q)
    weights = torch.tensor([0.3, 2.0], dtype=torch.float64)
    (found,) = torch.autograd.grad((weights * values).sum(), q)
    for k in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[k] = 1e-5 * at[k]
        ends = [(weights * log_evidence(at + s * step)).sum() for s in (1, -1)]
        slope = float((ends[0] - ends[1]) / (2 * step[k]))
        assert float(found[k]) == pytest.approx(slope, rel=1e-6, abs=1e-7)


@pytest.mark.slow  # a target maps two chains in the default run
def test_chains_are_mapped_each_as_it_is_alone(log_evidence, at):
    chains = torch.stack([at, 1.2 * at, 0.7 * at])
    value = torch.func.grad_and_value(lambda q: log_evidence(q).sum())
    grads, values = torch.func.vmap(value)(chains)
    for q, grad, total in zip(chains, grads, values, strict=True):
        alone = value(q)
        np.testing.assert_allclose(alone[1], total, rtol=1e-12)
        np.testing.assert_allclose(alone[0], grad, rtol=1e-9)


def test_second_derivatives_are_refused_and_not_zero(log_evidence, at):
    q = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_evidence(q).sum(), q, create_graph=True)
    with pytest.raises(UnsupportedError, match="second derivatives"):
        slope.sum().backward()


def test_reports_cannot_be_mapped(tracker, few):
    evidence = Evidence(tracker.runs, torch.float64)
    observed = torch.ones(2, 12, dtype=torch.bool)
    params = tracker.runs.parameters()

    def value(y):
        reports = TrackReports(evidence, params, observed, observed.double(), 1)
        return reports.log_prob(y)

    with pytest.raises(UnsupportedError, match="vmap over reports"):
        torch.func.vmap(value)(few[None])


def test_the_distribution_has_the_batch_of_its_tracks(tracker):
    evidence = Evidence(tracker.runs, torch.float64)
    ones = torch.ones(2, 12, dtype=torch.bool)
    params = tracker.runs.parameters()
    reports = TrackReports(evidence, params, ones, ones.double(), 1)
    assert reports.batch_shape, reports.event_shape == ((2,), (12, 1))
    assert reports.expand((2,)) is reports
    with pytest.raises(UnsupportedError, match="one batch"):
        reports.expand((3, 2))


@pytest.fixture(scope="module")
def base():
    return BoundedTracker(Level(0.1), Position(1), 1.0, faults=(Random(),))


@pytest.fixture
def simple(base):
    """A tracker of each test's own, which shares the graphs of the others."""
    return base.given({})


@pytest.mark.slow  # a prior is fitted by SVI in the default run
def test_svi_raises_the_evidence_over_parameters(simple, few):
    one = torch.full((1, 1), 9.0, dtype=torch.float64)
    simple.R = PyroParam(one, constraints.positive)
    adam = PyroOptim(torch.optim.Adam, {"lr": 0.3})
    svi = SVI(simple, lambda *_, **__: None, adam, Trace_ELBO())
    losses = [float(svi.step(few, dt=1.0)) for _ in range(6)]  # type: ignore[arg-type]
    assert losses[-1] < losses[0] - 1.0
    # the fitted value is in the simple, which filters with it
    track = simple.filter(few, dt=1.0, progress_bar=False)
    assert -float(track.log_evidence.sum()) < losses[-1]
    assert float(simple.parameters_now().R.detach()) < 9.0


@pytest.mark.slow
def test_a_prior_is_fitted_and_then_given(simple, few):
    simple.p_fault = PyroSample(dist.Beta(torch.tensor(1.0, dtype=torch.float64), 9.0))
    with pytest.raises(ConfigurationError, match="given"):
        simple.filter(few, dt=1.0)
    guide = AutoDelta(simple)
    svi = SVI(simple, guide, PyroOptim(torch.optim.Adam, {"lr": 0.1}), Trace_ELBO())
    for _ in range(2):
        svi.step(few, dt=1.0)
    fixed = simple.given(guide.median())
    track = fixed.filter(few, dt=1.0, progress_bar=False)
    assert torch.equal(fixed.p_fault, guide.median()["p_fault"].detach())
    assert track.num_steps == 12


def test_a_target_traces_it_as_one_operation(simple, few):
    simple.p_fault = PyroSample(dist.Beta(torch.tensor(1.0, dtype=torch.float64), 9.0))
    target = Target.from_model(simple, few, dt=1.0, dtype=torch.float64)
    q = torch.tensor([[-2.0], [-3.0]], dtype=torch.float64)
    lp, grad = target.value_and_grad(q)
    assert target.rung == "traced"
    assert target.notes == []
    assert target.graph_size.operations < 200
    ends = [target.log_prob(q + step) for step in (1e-5, -1e-5)]
    slope = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(grad[:, 0], slope, rtol=1e-6)
    assert target.pointwise_log_likelihood(q)["y"].shape == (2, 2)
    np.testing.assert_allclose(
        target.pointwise_log_likelihood(q)["y"].sum(1), target.log_likelihood(q)
    )
    assert lp.shape == (2,)


@pytest.mark.slow
def test_compiled_steps_give_the_same_gradient(tracker, few):
    observed = ~few.isnan().any(-1)
    p_fault = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    found = []
    for compile in (False, True):
        evidence = Evidence(tracker.runs, torch.float64, compile)
        params = tracker.runs.parameters()._replace(p_fault=p_fault)
        dt = observed.double()
        total = TrackReports(evidence, params, observed, dt, 1).log_prob(few).sum()
        found.append((total, *torch.autograd.grad(total, p_fault)))
    (traced, first), (compiled, second) = found
    torch.testing.assert_close(compiled, traced, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(second, first, rtol=1e-10, atol=0.0)
