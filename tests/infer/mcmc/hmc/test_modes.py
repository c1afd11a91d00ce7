"""Several modes: warm-up judges a chain by the mass of its region, and moves none that
samples."""

import math
import warnings

import pytest
import torch

from pyro_geo import Target
from pyro_geo.errors import ConvergenceWarning, PyroGeoWarning
from pyro_geo.infer import HMC, MCMC
from pyro_geo.infer.mcmc.hmc.adaptation import start_adaptation
from pyro_geo.infer.mcmc.hmc.arrival import falling, log_mass, outside, searching
from pyro_geo.infer.mcmc.hmc.review import review_warmup
from pyro_geo.infer.mcmc.hmc.warmup import restart_lost_chains
from pyro_geo.infer.transition import chain_state_at
from tests.cases import numbers

F64 = torch.float64


class Modes:
    """Normal modes along the diagonal, each of one scale and one mass."""

    def __init__(self, dim, centres, scales, masses, dtype=F64):
        self.dim, self.dtype = dim, dtype
        self.centres = torch.tensor(centres, dtype=dtype)[:, None].expand(-1, dim)
        self.scales = torch.tensor(scales, dtype=dtype)
        self.log_masses = torch.tensor(masses, dtype=dtype).log()
        self.target = Target.from_potential(self.potential, dim, dtype=dtype)

    def potential(self, q):
        z = (q[..., None, :] - self.centres) / self.scales[:, None]
        terms = self.log_masses - 0.5 * z.square().sum(-1)
        return -(terms - self.dim * self.scales.log()).logsumexp(-1)

    def draws(self, modes, seed=0):
        """Independent draws, one from each mode of a list."""
        index = torch.tensor(modes)
        noise = numbers(len(modes), self.dim, seed=seed).to(self.dtype)
        return self.centres[index] + self.scales[index, None] * noise

    def nearest(self, q):
        return (q[..., None, :] - self.centres).square().sum(-1).argmin(-1)


def run(modes, *, num_chains=32, warmup=80, placed=None, quiet=True, **options):
    initial = None if placed is None else {"q": modes.draws(placed)}
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore", PyroGeoWarning)
        return MCMC(
            HMC(modes.target),
            20,
            warmup,
            num_chains,
            seed=1,
            compile=False,
            progress_bar=False,
            initial_params=initial,
            **options,
        ).run()


# A wide mode is lower than a narrow one of equal mass by dim * log(ratio).
CASES = {
    "2 dims, ratio 5": (2, [4, -4], [1, 0.2], [1, 1], [0, 1]),
    "10 dims, ratio 4": (10, [4, -4], [1, 0.25], [1, 1], [0, 1]),
    "50 dims, ratio 4": (50, [4, -4], [1, 0.25], [1, 1], [0, 1]),
    "50 dims, three": (50, [8, -4, 0], [1, 0.25, 0.5], [1, 1, 1], [0, 1, 2]),
    "50 dims, unequal": (50, [4, -4], [1, 0.25], [0.9, 0.1], [0] * 7 + [1]),
}


QUICK = ("10 dims, ratio 4", "50 dims, ratio 4")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)
def test_placed_chains_keep_their_modes(case):
    dim, centres, scales, masses, pattern = CASES[case]
    modes = Modes(dim, centres, scales, masses)
    placed = (pattern * 32)[:32]
    fit = run(modes, placed=placed)
    index = torch.tensor(placed)
    assert bool((modes.nearest(fit.positions) == index[:, None]).all())
    assert fit.attributes["restarted_chains"] == 0
    assert max(fit.summary()["r_hat"]) > 1.2
    # inside each mode the draws have its width: chi-square of independent chains
    for mode, scale in enumerate(scales):
        z = (fit.positions[index == mode] - modes.centres[mode]) / scale
        excess = (z.square().sum(-1) - dim).mean(1)
        score = float(excess.mean() / (excess.std() / math.sqrt(len(excess))))
        assert abs(score) < 8  # Student's t of at least 3 degrees: 1 in 250


def test_one_mode_alone_stays_alone():
    modes = Modes(50, [4, -4], [1, 0.25], [1, 1])
    fit = run(modes, placed=[0] * 32, quiet=False)
    assert bool((modes.nearest(fit.positions) == 0).all())
    assert fit.notes == []


def test_groups_and_single_precision_keep_their_modes():
    modes = Modes(50, [4, -4], [1, 0.25], [1, 1], dtype=torch.float32)
    placed = [0, 1] * 16
    fit = run(modes, placed=placed, chain_batch_size=16, warmup=60)
    index = torch.tensor(placed)
    assert bool((modes.nearest(fit.positions) == index[:, None]).all())
    assert max(fit.summary()["r_hat"]) > 1.2


# -- negligible mass ----------------------------------------------------------------

# The second mode attracts three in eight of the uniform starts; its mass is e**-80.
NEGLIGIBLE = Modes(5, [-2, 2], [0.2, 0.2], [1, math.exp(-80)])


def test_starts_are_searched_for_where_the_mass_is_and_this_is_said():
    with pytest.warns(ConvergenceWarning, match="of 32 chains were restarted"):
        fit = run(NEGLIGIBLE, quiet=False)
    assert bool((NEGLIGIBLE.nearest(fit.positions) == 0).all())
    count = int(fit.attributes["restarted_chains"])
    assert 2 <= count <= 24  # binomial of 32 and 0.38: 1 in 10,000 outside
    assert any(f"restarted {count} of 32" in note for note in fit.notes)


def test_a_placed_chain_stays_where_there_is_no_mass_and_is_reported():
    placed = [0] * 28 + [1] * 4
    with pytest.warns(ConvergenceWarning, match="4 of 32 chains, by their density"):
        fit = run(NEGLIGIBLE, placed=placed, quiet=False)
    index = torch.tensor(placed)
    assert bool((NEGLIGIBLE.nearest(fit.positions) == index[:, None]).all())
    assert fit.attributes["restarted_chains"] == 0
    assert max(fit.summary()["r_hat"]) > 1.05
    # the others' tuning knows nothing of them
    alone = run(NEGLIGIBLE, placed=[0] * 32)
    steps = [float(f.attributes["step_size"]) for f in (fit, alone)]
    assert steps[0] == pytest.approx(steps[1], rel=0.3)


def test_a_minor_mode_is_not_ours_to_erase():
    modes = Modes(5, [-2, 2], [0.2, 0.2], [1, 1e-6])
    fit = run(modes)
    share = (modes.nearest(fit.positions) == 1).double().mean()
    assert 4 / 32 <= float(share) <= 28 / 32
    assert fit.attributes["restarted_chains"] == 0
    assert max(fit.summary()["r_hat"]) > 1.05


def test_few_restarts_are_noted_and_many_warned_of():
    assert review_warmup(64, 6, 0) == []
    (warning,) = review_warmup(64, 62, 0)
    assert "62 of 64 chains were restarted at other chains" in str(warning)
    (warning,) = review_warmup(64, 0, 2)
    assert "2 of 64" in str(warning)


# -- the parts ----------------------------------------------------------------------


def points_of(modes, placed, steps=30):
    """Independent draws of the modes, as chains that mix at once have them."""
    rows = []
    for i in range(steps):
        chains = chain_state_at(modes.target, modes.draws(placed, seed=i))
        rows.append((chains.q, chains.grad, chains.potential))
    return rows


@pytest.mark.parametrize("dim", [1, 10, 100])
@pytest.mark.parametrize("ratio", [2.0, 10.0])
def test_modes_of_equal_mass_are_found_equal(dim, ratio):
    modes = Modes(dim, [50, -50], [1, 1 / ratio], [1, 1])
    points = points_of(modes, [0, 1] * 8)
    mass = log_mass(points)
    gap = float(mass[::2].mean() - mass[1::2].mean())
    # the mean of chi-squares / 2, ten of each of eight chains
    assert abs(gap) < 4 * math.sqrt(dim / 2 / 80 * 2)
    assert bool((outside([p[2] for p in points], dim)[1::2] == 0).all())
    everywhere = torch.ones(16, dtype=torch.bool)
    assert not bool(searching(points, everywhere).any())


def test_the_mass_is_what_counts():
    for log_ratio, negligible in ((-10.0, False), (-60.0, True)):
        modes = Modes(10, [50, -50], [1, 0.25], [math.exp(log_ratio), 1])
        points = points_of(modes, [0, 0, 1, 1, 1, 1, 1, 1])
        far = outside([p[2] for p in points], 10)
        found = searching(points, far)
        wanted = [negligible] * 2 + [False] * 6
        assert found.tolist() == wanted


@pytest.mark.parametrize("chains", [4, 16])
def test_where_almost_all_are_far_nobody_is_judged(chains):
    modes = Modes(2, [50, -50], [1, 1], [math.exp(-100), 1])
    for arrived in (1, 2):
        placed = [0] * (chains - arrived) + [1] * arrived
        points = points_of(modes, placed)
        far = outside([p[2] for p in points], 2)
        assert far.tolist() == [mode == 0 for mode in placed]
        found = searching(points, far)
        assert found.tolist() == (far.tolist() if arrived == 2 else [False] * chains)


def test_falling_is_told_from_stationary():
    modes = Modes(20, [0], [1], [1])
    energies = [p[2] for p in points_of(modes, [0] * 400)]
    assert not bool(falling(energies, 20).any())
    down = [energy - 3.0 * i for i, energy in enumerate(energies)]
    assert bool(falling(down, 20).all())
    up = [energy + 3.0 * i for i, energy in enumerate(energies)]
    assert not bool(falling(up, 20).any())


@pytest.mark.parametrize("placed", [False, True])
def test_only_searching_chains_are_moved_and_none_that_is_placed(placed):
    modes = Modes(2, [0], [1], [1])
    chains = chain_state_at(modes.target, modes.draws([0] * 8))
    state = start_adaptation(chains, 100, "diagonal", 2, 0.8, None, None, placed=placed)
    state.set_searching(torch.arange(8) == 2)
    points = points_of(modes, [0] * 8)
    uniform = torch.linspace(0, 0.999, 8, dtype=F64)
    moved = restart_lost_chains(state, points, chains, uniform, state.searching)
    if placed:
        assert moved is chains
        assert not bool(state.restarted.any())
        return
    assert state.restarted.tolist() == [i == 2 for i in range(8)]
    assert not bool(state.searching.any())
    others = torch.arange(8) != 2
    for new, old in zip(moved, chains, strict=True):
        assert torch.equal(new[others], old[others])
    same = (moved.q[2] == chains.q).all(-1).nonzero().flatten().tolist()
    assert same not in ([], [2])
    for new, old in zip(moved, chains, strict=True):
        assert torch.equal(new[2], old[same[0]])


def test_a_chain_that_still_falls_goes_on_by_itself():
    modes = Modes(2, [0], [1], [1])
    chains = chain_state_at(modes.target, modes.draws([0] * 8))
    points = points_of(modes, [0] * 8)
    for i, row in enumerate(points):
        row[2][2] = 1e4 - 100 * i
    uniform = torch.zeros(8, dtype=F64)
    for last in (False, True):
        state = start_adaptation(chains, 100, "diagonal", 2, 0.8, None, None)
        state.set_searching(torch.arange(8) == 2)
        moved = restart_lost_chains(
            state, points, chains, uniform, state.searching, last=last
        )
        assert bool(state.restarted[2]) is last
        assert (moved is chains) is not last
