"""Chains that start in modes: shared out, scattered, followed, reported."""

import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.engine.mode_starts import Modes, ModeStarts, interleaved, review_modes
from pyro_geo.engine.noise import Noise
from pyro_geo.errors import (
    CheckpointError,
    ConfigurationError,
    InitializationError,
    LayoutMismatchError,
    ModesNotJoinedWarning,
)
from pyro_geo.geometry.laplace import laplace
from pyro_geo.infer import DIMS, HMC, MCMC
from pyro_geo.io import report
from pyro_geo.io.arviz import get_group
from pyro_geo.io.modes import ModeFacts, tally_modes
from pyro_geo.io.store import open_run
from pyro_geo.ops.random import substream

F64 = torch.float64
CENTRES = torch.tensor([[6.0, 0.0], [-6.0, 0.0], [0.0, 8.0]], dtype=F64)
SCALES = torch.tensor([1.0, 0.25, 0.5], dtype=F64)
WEIGHTS = [0.6, 0.3, 0.1]


def wells(q):
    """Minus the log-density of three normal densities, far apart."""
    z = (q - CENTRES) / SCALES[:, None]
    logs = torch.tensor(WEIGHTS, dtype=F64).log() - 2 * SCALES.log()
    return -(logs - 0.5 * z.square().sum(-1)).logsumexp(0)


class Known:
    """Modes that are known, with their weights."""

    def __init__(self, target, q, weights):
        self.q, self.layout = q, target.layout
        self.log_prob = target.log_prob(q)
        self.log_weights = torch.tensor(weights, dtype=F64).log()
        self.laplace = laplace(target, q, curvature="hessian")
        self.copies = torch.arange(len(q))
        self.searched = {"starts": 99, "radius": 1.5}
        self.notes = ("The weights are exact.",)

    def assign(self, q):
        gap = (q.to(self.q)[..., None, :] - self.q).norm(dim=-1)
        return torch.where(gap.amin(-1) < 5.0, gap.argmin(-1), -1)

    def chain_modes(self, num_chains):
        weights = self.log_weights.exp()
        counts = torch.ones(len(weights), dtype=torch.long)
        while counts.sum() < num_chains:
            counts[(weights / (counts + 1)).argmax()] += 1
        return torch.arange(len(weights)).repeat_interleave(counts)[:num_chains]


@pytest.fixture(scope="module")
def target():
    return Target.from_potential(wells, 2, dtype=F64)


@pytest.fixture(scope="module")
def modes(target):
    return Known(target, CENTRES, WEIGHTS)


OPTIONS = {"warmup_steps": 60, "seed": 1, "progress_bar": False, "compile": False}


def run(target, modes, chains=10, draws=40, **options):
    options = {**OPTIONS, **options}
    fit = MCMC(HMC(target), draws, num_chains=chains, initial_params=modes, **options)
    with pytest.warns(ModesNotJoinedWarning, match="3 sets of modes.*0 \\| 1 \\| 2"):
        return fit.run()


@pytest.fixture(scope="module")
def fit(target, modes):
    return run(target, modes)


def test_it_is_a_protocol(modes):
    assert isinstance(modes, Modes)
    assert not isinstance({"q": 1.0}, Modes)


def test_the_first_group_of_chains_has_every_mode():
    chains = torch.tensor([0] * 6 + [1] * 3 + [2])
    found = interleaved(chains)
    assert found.sort().values.tolist() == chains.tolist()
    assert found[:3].tolist() == [0, 1, 2]
    assert found[:5].tolist() == [0, 1, 2, 0, 1]


def test_starts_have_the_normal_density_of_their_mode(target, modes):
    starts = ModeStarts(modes, target, 4000)
    q = starts.positions(Noise(substream(1, 2)).block(range(4000), 0))
    assert starts.chains.bincount().tolist() == [2400, 1200, 400]
    for k in range(3):
        z = (q[starts.chains == k] - CENTRES[k]) / SCALES[k]
        n = len(z)
        # draws in a thousand that are drawn in hardly move these
        assert (z.mean(0).abs() < 4 / n**0.5).all()
        assert (z.var(0) - 1).abs().max() < 4 * (2 / n) ** 0.5 + 0.01


def test_a_start_beyond_what_the_density_has_is_drawn_in():
    """Walls of another width than the curvature at the mode says."""

    def walls(q):
        return (0.05 * q.square() + (q / 2) ** 8).sum()

    target = Target.from_potential(walls, 4, dtype=F64)
    starts = ModeStarts(Known(target, torch.zeros(1, 4, dtype=F64), [1.0]), target, 200)
    q = starts.positions(Noise(3).block(range(200), 0))
    assert q.abs().max() < 4.0  # the normal density would go to 14
    assert (q != 0).any(-1).all()


def test_starts_depend_on_seed_and_chain_alone(target, modes):
    few, many = (ModeStarts(modes, target, n) for n in (10, 10))
    noise = Noise(5).block(range(10), 0)
    again = Noise(5).block(range(10), 0)
    assert torch.equal(few.positions(noise), many.positions(again))


def test_what_each_mode_kept_is_in_result_and_attributes(fit):
    table = fit.mode_table()
    assert table["share of draws"].tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert table["weight"].tolist() == pytest.approx(WEIGHTS)
    assert table["chains started"].tolist() == [6, 3, 1]
    assert table["chains that left"].tolist() == [0, 0, 0]
    r_hat = table["r_hat"].tolist()  # within a mode, of two chains at least
    assert all(0.9 < value < 1.2 for value in r_hat[:2])
    assert np.isnan(r_hat[2])
    assert fit.stats["mode"].shape == (10, 40)
    facts = fit.attributes
    assert facts["modes"] == 3
    assert facts["mode_sets"] == 3
    assert facts["chain_modes"] == "0 1 2 0 1 0 1 0 0 0"
    assert facts["modes_searched"] == "starts 99, radius 1.5"
    notes = "\n".join(fit.notes)
    for text in ("R-hat cannot show a mode", "starts 99", "0: 0.600 (0.600)", "exact"):
        assert text in notes
    assert float(fit.summary()["r_hat"].max()) > 1.2  # and R-hat sees it too


def test_draws_are_weighed_by_the_mass_of_their_mode(target, modes):
    few = run(target, modes, chains=3, draws=200, warmup_steps=80)
    weighted = few.weighted_by_mode()
    mean = weighted.summary()["mean"]
    exact = torch.tensor(WEIGHTS, dtype=F64) @ CENTRES
    assert mean.tolist() == pytest.approx(exact.tolist(), abs=0.25)
    assert few.summary()["mean"].iloc[0] == pytest.approx(0.0, abs=0.25)  # unweighted
    assert weighted.log_weights is not None
    assert float(weighted.log_weights.exp().sum()) == pytest.approx(1.0)
    assert "as good as these estimates" in weighted.notes[-1]


def test_a_run_without_modes_has_no_table(target):
    plain = MCMC(HMC(target), 5, num_chains=2, **OPTIONS)
    with pytest.raises(ConfigurationError, match="initial_params.*find_modes"):
        plain.mode_table()


def test_a_store_goes_on_and_tells_the_same(target, modes, fit, tmp_path):
    store = {"store": tmp_path / "run.zarr"}
    run(target, modes, draws=25, **store)
    options = {**OPTIONS, "num_chains": 10, **store}
    more = MCMC(HMC(target), 40, initial_params=modes, **options)
    with pytest.warns(ModesNotJoinedWarning):
        more.resume()
    assert torch.equal(more.positions, fit.positions)
    assert torch.equal(more.stats["mode"], fit.stats["mode"])
    assert more.notes == fit.notes
    idata = open_run(tmp_path / "run.zarr")
    stats, posterior = (get_group(idata, n) for n in ("sample_stats", "posterior"))
    assert stats is not None
    assert posterior is not None
    labels, facts = stats["mode"].values, ModeFacts.read(posterior.attrs)
    assert facts is not None
    assert tally_modes(labels, facts).shares.tolist() == pytest.approx([0.6, 0.3, 0.1])
    page = report(tmp_path / "run.zarr").read_text()
    for text in ("Modes: weight before the run", "not joined", "starts 99, radius 1.5"):
        assert text in page
    other = Known(target, CENTRES[[0, 1]], [0.7, 0.3])
    with pytest.raises(CheckpointError, match="initial_params"):
        MCMC(HMC(target), 40, initial_params=other, **options).resume()


def test_groups_of_chains_tune_for_all_modes(target, modes):
    groups = run(target, modes, chain_batch_size=4)
    assert groups.mode_table()["share of draws"].tolist() == pytest.approx(WEIGHTS)
    assert (groups.stats["acceptance_rate"].mean(1) > 0.5).all()


def test_it_pickles_and_reports(fit, tmp_path):
    copy = pickle.loads(pickle.dumps(fit))
    assert copy.mode_table().equals(fit.mode_table())
    page = copy.report(tmp_path / "page.html").read_text()
    for text in ("Stars: modes", "Rings: where chains started", "modes given"):
        assert text in page
    assert "0 1 2 0 1 0 1 0 0 0" not in page  # a table says it better


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyro_geo.errors.ConvergenceWarning")
def test_anchors_start_in_modes_too(target, modes):
    options = {**OPTIONS, "warmup_steps": 0}
    kernel = DIMS(target, velocity="isotropic")
    dims = MCMC(kernel, 4, num_chains=3, initial_params=modes, **options)
    with pytest.warns(ModesNotJoinedWarning):
        dims.run()
    assert dims.mode_table()["chains started"].tolist() == [1, 1, 1]


def test_fewer_chains_than_modes_are_noted(target, modes):
    fit = MCMC(HMC(target), 10, num_chains=1, initial_params=modes, **OPTIONS).run()
    assert any("No chain started in 2 of the modes" in note for note in fit.notes)


def test_modes_of_another_model_are_refused(modes):
    def model():
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(LayoutMismatchError, match="modes are of another model"):
        MCMC(HMC(model), 5, num_chains=3, initial_params=modes, **OPTIONS).run()


def test_modes_where_nothing_is_finite_are_refused(target):
    holes = Target.from_potential(lambda q: (q - 3).log().sum() ** 2, 2, dtype=F64)
    wrong = Known(target, CENTRES, WEIGHTS)
    with pytest.raises(InitializationError, match="chain 0, mode 0"):
        MCMC(HMC(holes), 5, num_chains=3, initial_params=wrong, **OPTIONS).run()


def test_other_data_are_noted(target):
    modes = Known(target, CENTRES, WEIGHTS)
    modes.log_prob = modes.log_prob + 1.0
    notes = ModeStarts(modes, target, 3).notes()
    assert "with other data" in notes[-1]


def test_joined_modes_are_no_warning(target, modes):
    starts = ModeStarts(modes, target, 3)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (3, 100), generator=generator)
    found = review_modes(labels, starts)
    assert found.warnings == []
    assert "3 of 3 chains moved between modes." in found.notes
    left = review_modes(torch.tensor([[1] * 9, [1] * 9, [2] * 9]), starts)
    assert any("1 of 3 chains left the mode" in note for note in left.notes)


def test_modes_that_chains_seldom_join_are_said(target, modes):
    labels = torch.zeros(3, 400, dtype=torch.long)
    labels[0, 200:] = 1
    labels[1] = 1
    labels[1, 300:] = 2
    labels[2] = 2
    (warning,) = review_modes(labels, ModeStarts(modes, target, 3)).warnings
    assert "too seldom" in str(warning)


def test_copies_by_symmetry_are_told_apart_from_other_modes(target):
    modes = Known(target, CENTRES, WEIGHTS)
    modes.copies = torch.zeros(3, dtype=torch.long)
    (warning,) = review_modes(
        torch.tensor([[0] * 9, [1] * 9, [2] * 9]), ModeStarts(modes, target, 3)
    ).warnings
    assert "copies by a symmetry" in str(warning)


def test_a_draw_of_a_tail_is_no_visit():
    labels = np.zeros((2, 100), dtype=int)
    labels[0, 50] = 1
    labels[1] = 1
    facts = ModeFacts(np.array([0.5, 0.5]), np.arange(2), np.array([0, 1]), "")
    assert tally_modes(labels, facts).sets == [[0], [1]]
    labels[0, 50:56] = 1
    assert tally_modes(labels, facts).sets == [[0, 1]]
    light = facts._replace(weights=np.array([0.96, 0.04]))
    labels[0, 52:56] = 0  # two draws of a hundred are what a light mode may have
    assert tally_modes(labels, light).sets == [[0, 1]]
    labels[0, :30] = -1
    assert tally_modes(labels, light).unclaimed == pytest.approx(0.15)


@pytest.mark.parametrize(
    "damage", [{"chain_modes": "0 7"}, {"mode_weights": "a b"}, {"mode_copies": "0"}]
)
def test_damaged_attributes_are_none(fit, damage):
    assert ModeFacts.read(fit.attributes) is not None
    assert ModeFacts.read({**fit.attributes, **damage}) is None
    assert ModeFacts.read({}) is None
