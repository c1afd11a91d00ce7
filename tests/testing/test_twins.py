"""Every gate rejects its broken twins, and lets the sound kernel through."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import DivergenceWarning, PyroGeoWarning
from pyro_geo.infer import HMC, MCMC, dissipative_flow, transition
from pyro_geo.infer.transition import ChainState
from pyro_geo.testing import gates, geweke, sbc
from pyro_geo.testing._twins_hmc import with_piece
from pyro_geo.testing.gates import (
    check_covariance,
    check_exact,
    check_gaussian,
    check_ledger,
    check_posterior,
    check_shares,
    draws_needed,
)
from pyro_geo.testing.geweke import check_geweke
from pyro_geo.testing.hmc import FixedHMC, fixed_transition
from pyro_geo.testing.sbc import check_sbc
from pyro_geo.testing.targets import GammaTarget, NormalTarget
from pyro_geo.testing.twins import (
    TWINS,
    KeptMomentum,
    flip_gradient,
    ignore_christoffel_term,
    without_friction_work,
    without_jacobian,
)

F64 = torch.float64
Q = torch.tensor([[0.7, -0.4], [0.2, 1.0], [-0.5, 0.3]], dtype=F64)
V = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.9, 0.9]], dtype=F64)
SEEDS = [0, 1, 2]


def of(gate, kind=None):
    """Parameters of a test: the twins of one gate, by name."""
    found = {n: t for n, t in TWINS.items() if t.gate == gate}
    chosen = [n for n, t in found.items() if kind in (None, t.kind)]
    assert chosen
    return pytest.mark.parametrize("make", [TWINS[n].make for n in chosen], ids=chosen)


def test_every_twin_names_a_gate_and_every_gate_has_a_twin():
    modules = (gates, sbc, geweke)
    public = {n for m in modules for n in m.__all__ if n.startswith("check_")}
    assert {twin.gate for twin in TWINS.values()} == public
    assert len(TWINS) >= 10


def test_the_docs_list_every_twin_with_its_gate():
    page = Path(__file__).parents[2] / "docs" / "reference" / "testing.md"
    cells = [line.strip("| ").split("|") for line in page.read_text().splitlines()]
    table = {row[0].strip(): row[-1].strip(" `") for row in cells if len(row) == 3}
    assert {n: table.get(n) for n in TWINS} == {n: t.gate for n, t in TWINS.items()}


# -- flows --------------------------------------------------------------------------


def bowl(q):
    return (q * q).sum(-1) + 0.5 * (q[..., 0] * q[..., 1]) ** 2


def flow(loss, **options):
    """Follow three particles by the fifth-order integrator, which has no ledger gate
    of its own: only ours can notice."""
    defaults = {"integrator": "dopri5", "time": 1.0, "friction": 0.5, "batched": True}
    return dissipative_flow(loss, Q, V, **(defaults | options))


def test_the_ledger_passes_the_sound_flow():
    check_ledger(flow(bowl))
    check_ledger(flow(bowl, integrator="splitting", step_tol=0.01, energy_atol=1e-3))


@of("check_ledger", "loss")
def test_the_ledger_rejects_a_broken_loss(make):
    with pytest.raises(AssertionError, match="ledger misses"):
        check_ledger(flow(make(bowl), alpha=1.0))


def test_the_ledger_rejects_a_gradient_of_the_wrong_sign_on_the_flat():
    with pytest.raises(AssertionError, match="ledger misses"):
        check_ledger(flow(flip_gradient(bowl), alpha=0.0))
    check_ledger(flow(ignore_christoffel_term(bowl), alpha=0.0))  # no such term there


def test_the_ledger_rejects_friction_work_left_out():
    options = {"integrator": "splitting", "step_tol": 0.01, "energy_atol": 1e-3}
    with pytest.raises(AssertionError, match="ledger misses"):
        check_ledger(flow(bowl, lift=without_friction_work, **options))


@pytest.mark.parametrize("broken", [flip_gradient, ignore_christoffel_term])
def test_a_controlled_step_is_rejected_rather_than_wrong(broken):
    result = flow(broken(bowl), integrator="splitting", max_evals=2_000)
    with pytest.raises(AssertionError):
        check_ledger(result)


def check_slope(loss, mu=0.5, time=3.0):
    """Hold a particle on the slope `2 x` against its closed form under drag."""
    start = torch.zeros(1, 1, dtype=F64)
    result = dissipative_flow(
        loss,
        start,
        start,
        time=time,
        friction=mu,
        alpha=1.0,
        integrator="dopri5",
        k_stop=0.0,
        batched=True,
    )
    w = math.sqrt(1 + 2.0**2)
    rate = math.sqrt(math.sqrt(2) * 2.0 / (mu * w)) * mu / math.sqrt(2)
    exact = -math.log(math.cosh(rate * time)) / (w * mu / math.sqrt(2))
    error = abs(float(result.theta) - exact)
    assert error < 1e-4, f"the particle is {error:.2e} away from the closed form"


def test_the_closed_form_rejects_a_gradient_of_the_wrong_sign():
    check_slope(lambda q: 2 * q.sum(-1))
    with pytest.raises(AssertionError, match="closed form"):
        check_slope(flip_gradient(lambda q: 2 * q.sum(-1)))


# -- independent draws ----------------------------------------------------------------


@of("check_covariance")
def test_independent_draws_of_the_wrong_covariance_are_rejected(make):
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=F64)
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    check_covariance(z @ root.mT, root @ root.mT)
    with pytest.raises(AssertionError, match="a moment is off"):
        check_covariance(z @ make(root).mT, root @ root.mT)


# -- samplers that start in the target ------------------------------------------------

# Trajectories near a quarter of a period, and steps large enough for rejections.
STEP = {"step_size": 1.1, "num_steps": 2}


@pytest.fixture(scope="module")
def normal():
    return NormalTarget(5, dtype=F64)


def stationary(kernel, target, seed=0, chains=400, draws=100):
    """Run from exact draws of the target: a sound kernel stays in distribution."""
    start = target.sample(chains, torch.Generator().manual_seed(seed))
    options: dict[str, Any] = {"initial_params": {"q": start}, "progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # as some twins do
        return MCMC(kernel, draws, 0, chains, seed=seed, **options).run().positions


def by_moments(draws, target):
    check_gaussian(draws, target.mean, target.covariance)


def by_reference(draws, target):
    generator = torch.Generator().manual_seed(77)
    check_posterior({"q": draws}, {"q": target.sample(100_000, generator)[:, None]})


GATES: dict[str, Callable[..., None]] = {
    "check_gaussian": by_moments,
    "check_exact": check_exact,
    "check_posterior": by_reference,
}
# The sampler has an autocorrelation time of two to three, and R-hat is strict.
SIZES = {"check_posterior": {"chains": 64, "draws": draws_needed(64, 5, 4.0)}}
# Over two steps no trajectory turns back.
STEPS = {"early turn": {"step_size": 0.9, "num_steps": 4}}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_sound_sampler_stays_in_a_normal(normal, gate, seed):
    sizes = SIZES.get(gate, {})
    GATES[gate](stationary(FixedHMC(normal, **STEP), normal, seed, **sizes), normal)


@pytest.mark.parametrize(
    "name",
    [n for n, t in TWINS.items() if t.gate in GATES and t.kind != "filter"],
    ids=str,
)
def test_a_broken_sampler_leaves_a_normal(normal, name):
    twin = TWINS[name]
    sizes = dict(SIZES.get(twin.gate, {}))
    if name == "adapts forever":  # the smallest fault of all: the variance, by 6 %
        sizes["draws"] *= 4
    step = STEPS.get(name, STEP)
    draws = stationary(twin.make(normal, **step), normal, **sizes)
    with pytest.raises(AssertionError):
        GATES[twin.gate](draws, normal)


def test_each_gate_rejects_the_mistakes_that_it_is_for(normal):
    stuck = stationary(TWINS["stuck chain"].make(normal, **STEP), normal)
    check_exact(stuck, normal)  # one of 400 does not show in the moments
    with pytest.raises(AssertionError, match="chain 0 never moves, 1 in all"):
        by_reference(stuck, normal)
    kept = stationary(KeptMomentum(normal, **STEP), normal)
    check_exact(kept, normal)  # the energies are those of the target
    with pytest.raises(AssertionError, match=r"R-hat is 1\.[0-9]+, limit 1\.01"):
        by_reference(kept, normal)


def test_a_gaussian_of_the_wrong_sign_is_left(normal):
    climbing = Target.from_potential(
        lambda q: flip_gradient(lambda x: -normal.log_prob(x))(q[None])[0], 5, dtype=F64
    )
    with pytest.raises(AssertionError):
        by_moments(stationary(FixedHMC(climbing, **STEP), normal), normal)


def test_a_stuck_sampler_is_noticed_by_its_chains(normal):
    stuck = stationary(FixedHMC(normal, step_size=1e-3, num_steps=1), normal)
    with pytest.raises(AssertionError, match="R-hat|effective"):
        by_moments(stuck, normal)


@pytest.mark.parametrize(
    "make", [HMC, *(t.make for t in TWINS.values() if t.gate == "check_shares")]
)
def test_a_warm_up_that_erases_a_mode_is_rejected(make):
    """Two modes of 20 dimensions and equal mass, one four times as wide."""

    def potential(q):
        wide = 0.5 * (q - 4).square().sum(-1)
        narrow = 8.0 * (q + 4).square().sum(-1) - 20 * math.log(4)
        return -torch.logaddexp(-wide, -narrow)

    target = Target.from_potential(potential, 20, dtype=F64)
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(64, 20, generator=generator, dtype=F64)
    wide = torch.rand(64, 1, generator=generator) < 0.5
    start = torch.where(wide, q + 4, q / 4 - 4)
    options = {"seed": 0, "compile": False, "progress_bar": False}
    fit = MCMC(make(target), 10, 60, 64, initial_params={"q": start}, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyroGeoWarning)
        modes = (fit.run().positions.mean(-1) < 0).long()
    half = torch.tensor([0.5, 0.5])
    if make is HMC:
        check_shares(modes, half)
        return
    with pytest.raises(AssertionError, match="of the draws of 64 chains"):
        check_shares(modes, half)


def test_a_missing_jacobian_is_another_gamma_distribution():
    target = GammaTarget(1, shape=3.0, dtype=F64)
    other = GammaTarget(1, shape=2.0, dtype=F64)
    step = {"step_size": 0.7, "num_steps": 3}
    broken = FixedHMC(without_jacobian(target), **step)
    start = other.layout.unflatten(other.sample(300, torch.Generator().manual_seed(0)))
    options: dict[str, Any] = {"initial_params": start, "progress_bar": False}
    options["initial_space"] = "unconstrained"
    fit = MCMC(broken, 100, 0, 300, seed=0, **options)
    draws = fit.run().positions
    check_exact(draws, other)
    with pytest.raises(AssertionError, match="a moment is off"):
        check_exact(draws, target)


# -- samplers of posteriors -----------------------------------------------------------


def rates(y):
    """A precision and a standardised mean: a positive site, and data that matter."""
    precision = pyro.sample("precision", dist.Gamma(y.new_tensor(4.0), 4.0))
    z = pyro.sample("z", dist.Normal(y.new_zeros(()), 1.0))
    scale = precision.rsqrt()
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(2 * scale * z, scale), obs=y)


ROWS = [torch.zeros(5)]
KERNEL = partial(FixedHMC, step_size=0.15, num_steps=6)


def calibrate(break_target=lambda target: target, seed=0, thin=None):
    def make(target):
        return KERNEL(break_target(target))

    return sbc.sbc(
        rates,
        ROWS,
        make,
        num_samples=150,
        warmup_steps=20,
        initial="prior",
        seed=seed,
        thin=thin,
        dtype=F64,
    )


def alternate(break_target=lambda target: target, seed=0, chains=200, sweeps=5):
    def make(target):
        return KERNEL(break_target(target))

    return geweke.geweke(
        rates, ROWS, make, num_chains=chains, num_sweeps=sweeps, seed=seed, dtype=F64
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_sound_sampler_is_calibrated(seed):
    check_sbc(calibrate(seed=seed))


# the sound step size is too large for a density with twice the curvature
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.DivergenceWarning")
def test_calibration_rejects_data_that_count_twice():
    result = calibrate(TWINS["twice the likelihood"].make, thin=5)
    with pytest.raises(AssertionError, match="not uniform") as caught:
        check_sbc(result)
    variances = 12 * ((result.ranks + 0.5) / (result.num_draws + 1)).var(0)
    assert (variances > 1.1).all()  # draws too close together: ranks pile up outside
    assert "z: p = " in str(caught.value)


@pytest.mark.slow
def test_calibration_rejects_data_that_do_not_count():
    result = calibrate(TWINS["no likelihood"].make, thin=5)
    with pytest.raises(AssertionError, match="1 of 3 .* not uniform\nlog_likelihood:"):
        check_sbc(result)


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_a_sound_sampler_keeps_the_joint_distribution(seed):
    check_geweke(alternate(seed=seed))


@of("check_geweke")
def test_the_joint_distribution_rejects_a_broken_posterior(make):
    with pytest.raises(
        AssertionError, match="moments of the joint distribution differ"
    ):
        check_geweke(alternate(make))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.DivergenceWarning")
@pytest.mark.parametrize("name", [n for n, t in TWINS.items() if t.kind == "target"])
def test_both_gates_of_posteriors_reject_each_broken_posterior(name):
    with pytest.raises(AssertionError):
        check_sbc(calibrate(TWINS[name].make, thin=5))
    with pytest.raises(AssertionError):
        check_geweke(alternate(TWINS[name].make, chains=400, sweeps=10))


# -- the twins themselves -------------------------------------------------------------


PIECES = ("start_trajectory", "leapfrog", "energy_error", "metropolis")


@pytest.fixture
def inputs(normal):
    """Inputs of a transition in which some chains are rejected."""

    def potential(q):
        return -normal.log_prob(q)

    generator = torch.Generator().manual_seed(0)
    q, p = normal.sample(50, generator), normal.sample(50, generator)
    uniform = torch.rand(50, generator=generator, dtype=F64)
    state = ChainState(q, potential(q), q.clone())
    return potential, state, p, uniform, torch.tensor(1.5, dtype=F64), 3


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_put_back_is_the_shipped_transition(inputs, name):
    """The pieces that twins replace are those that the shipped transition calls."""
    calls = []
    shipped = getattr(transition, name)

    def same(*parts):
        calls.append(name)
        return shipped(*parts)

    sound, end = fixed_transition(*inputs)
    found, other = with_piece(name, same, *inputs)
    assert calls == [name]
    assert getattr(transition, name) is shipped
    assert 0 < int((found.q == inputs[1].q).all(1).sum()) < 50  # some are rejected
    for one, two in zip((*sound, *end), (*found, *other), strict=True):
        assert torch.equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n, t in TWINS.items() if t.kind == "kernel"], ids=str
)
def test_a_twin_leaves_the_shipped_code_as_it_was(normal, name):
    before = {piece: getattr(transition, piece) for piece in PIECES}
    kernel = TWINS[name].make(normal, **STEPS.get(name, STEP))
    stationary(kernel, normal, chains=4, draws=3)
    assert {piece: getattr(transition, piece) for piece in PIECES} == before
