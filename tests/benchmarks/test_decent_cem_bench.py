"""The benchmark of searches and modes measures what it says it does."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import dblquad

from pyro_geo.density import Target

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def target_of(posterior):
    return Target.from_model(posterior.model, *posterior.args, dtype=torch.float64)


def test_lowest_values_are_those_of_a_fine_grid(module):
    problems = module("_decent_cem_problems").problems()
    x = torch.linspace(-7.5, 7.5, 1_500_001)[:, None]
    one = problems["toy"]
    assert float(one.f(x).min()) == pytest.approx(one.lowest, abs=1e-9)
    wells = problems["tilted wells, d = 4"]
    # the coordinates are independent
    fun = wells.f(x.repeat(1, 4)).min()
    assert float(fun) == pytest.approx(wells.lowest, abs=1e-8)
    funnel = problems["double funnel, d = 6"]
    assert float(funnel.f(torch.full((6,), 2.5))) == funnel.lowest
    rastrigin = problems["shifted Rastrigin, d = 3"]
    assert float(rastrigin.f(torch.tensor([1.3, -2.1, 0.7]))) == rastrigin.lowest


def test_success_is_a_share_within_a_hundredth(module):
    problem = module("_decent_cem_problems").problems()["toy, d = 2"]
    fun = problem.lowest + torch.tensor([0.0, 0.009, 0.011, 1.0])
    assert problem.solved(fun) == 0.5


def test_scalar_functions_are_the_batched_ones(module):
    peers = module("_decent_cem_peers")
    problems = module("_decent_cem_problems").problems()
    for case, f in peers.CASES.items():
        points = np.random.default_rng(0).uniform(-3, 3, (problems[case].dim, 7))
        batched = problems[case].f(torch.from_numpy(points.T))
        np.testing.assert_allclose(f(points), batched.numpy(), rtol=1e-12)
        assert f(points[:, 0]) == pytest.approx(float(batched[0]), rel=1e-12)


@pytest.mark.parametrize("name", ["cauchy", "wells"])
def test_closed_forms_are_stationary_points(module, name):
    posterior = module("_decent_cem_posteriors").posteriors()[name]
    q, weights = module("_decent_cem_references").closed_form(name)
    value, slope = target_of(posterior).value_and_grad(q)
    assert slope.abs().max() < 1e-9
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert len(q) == {"cauchy": 4, "wells": 16}[name]
    # heights and masses go together here, but are not the same thing
    assert weights.argmax() == value.argmax()


def test_masses_of_closed_forms_are_those_of_quadrants(module):
    module("_decent_cem_posteriors")
    references = module("_decent_cem_references")
    q, weights = references.closed_form("cauchy")
    slopes = [references.cauchy_slope(y) for y in references.OBSERVED]
    cuts = [
        sorted(r.real for r in s.roots() if abs(r.imag) < 1e-9)[1] for s, _ in slopes
    ]

    def density(y, x):
        return np.exp(slopes[0][1](x) + slopes[1][1](y))

    parts = []
    for mode in q.tolist():
        (a, b), (c, d) = [
            (cut, 30.0) if place > cut else (-30.0, cut)
            for place, cut in zip(mode, cuts, strict=True)
        ]
        parts.append(dblquad(density, a, b, c, d, epsabs=1e-9, epsrel=1e-6)[0])
    shares = np.array(parts) / np.sum(parts)
    np.testing.assert_allclose(weights.numpy(), shares, rtol=1e-4)


@pytest.mark.parametrize("name", ["three tones", "factors", "lines", "network"])
def test_copies_are_as_probable(module, name):
    posterior = module("_decent_cem_posteriors").posteriors()[name]
    target = target_of(posterior)
    start = target.initial(1, "prior", torch.Generator().manual_seed(0))[0]
    values = target.constrain(start)
    copies = list(posterior.copies(values))
    q = torch.stack([target.unconstrain(copy) for copy in copies])
    value = target.log_prob(q)
    torch.testing.assert_close(value, value[:1].expand_as(value), rtol=1e-9, atol=1e-8)
    count = {"three tones": 6, "factors": 4, "lines": 6, "network": 8}[name]
    assert len({tuple(np.round(row.numpy(), 6)) for row in q}) == count


def test_importance_sampling_finds_unequal_masses(module):
    """Two normals of different widths: the masses are the mixture's weights."""
    references = module("_decent_cem_references")
    means, scale = torch.tensor([[-6.0, 0.0], [6.0, 1.0]]), torch.tensor([0.5, 2.0])
    share = torch.tensor([0.3, 0.7])

    def potential(q):
        square = ((q - means) / scale[:, None]).square().sum(-1)
        return -torch.logsumexp(share.log() - 2 * scale.log() - 0.5 * square, 0)

    target = Target.from_potential(potential, 2, dtype=torch.float64)
    hessian = torch.diag_embed(scale.pow(-2)[:, None].expand(2, 2))
    found = references.masses(target, means, hessian, 20_000)
    torch.testing.assert_close(found, share, rtol=0.0, atol=0.02)


def test_a_mode_left_out_is_noticed(module):
    modes = module("_decent_cem_modes")
    references = module("_decent_cem_references")
    q = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 8.0]])
    weights = torch.tensor([0.6, 0.3, 0.1])
    hessian = torch.eye(2).repeat(3, 1, 1)
    wanted = references.Reference(q, weights, hessian, "by hand")
    assert (wanted.distances(q).diagonal() == 0).all()
    assert float(modes.apart(modes.shares(wanted, q, weights), wanted)) < 1e-12
    fewer = modes.shares(wanted, q[:2] + 0.1, torch.tensor([2 / 3, 1 / 3]))
    assert float(modes.apart(fewer, wanted)) == pytest.approx(0.1)
    near = (wanted.distances(q[:2] + 0.1) < modes.SAME).any(1)
    assert near.tolist() == [True, True, False]


def test_ratios_count_posteriors_and_take_the_fastest_peer(module):
    modes, cpu = module("_decent_cem_modes"), module("_decent_cem_cpu")
    rows = [
        {"case": case, "method": "find_modes", "metric": modes.FOUND, "value": value}
        for case, value in (("a", 1.0), ("b", 0.95), ("c", 0.8))
    ]
    found = modes.ratios(rows)
    assert found["modes_found/all"] == 2
    assert found["modes_found/worst"] == 0.8
    times = {"DecentCEM": 2.0, "evotorch CEM, 640": 30.0, "evotorch CEM, 64 x 10": 24.0}
    rows = [
        {"case": cpu.CASE, "method": name, "metric": cpu.TIME, "value": value}
        for name, value in times.items()
    ]
    assert cpu.ratios(rows) == {"cpu/evotorch@64x10": 12.0}


def test_chains_count_where_they_agree_or_say_that_they_do_not(module):
    chains = module("_decent_cem_chains")
    rows = [
        {
            "part": "chains",
            "case": case,
            "method": chains.OURS,
            "metric": chains.R_HAT,
            "value": value,
            "says": says,
        }
        for case, value, says in (
            ("joined", 1.01, False),
            ("apart, said", 2.0, True),
            ("apart, silent", 2.0, False),
        )
    ]
    assert chains.ratios(rows)["chains/joined_or_said"] == 2
