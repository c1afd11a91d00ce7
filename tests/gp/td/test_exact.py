"""The exact model against dense matrices, and what GPyTorch does with it."""

from typing import Any

import gpytorch
import numpy as np
import pytest
import torch

from pyro_geo.errors import NotPositiveDefiniteError, ShapeError
from pyro_geo.gp import (
    ExactGPTD,
    TDKernel,
    TDLikelihood,
    TDMean,
    Transitions,
    dense_algebra,
    value_rows,
)
from tests.gp.td.oracle import (
    KINDS,
    Episodes,
    Features,
    deviation,
    matern,
    new_nodes,
    posterior,
    set_up,
    walk,
)


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_and_evidence_are_those_of_dense_matrices(kind):
    data, new = walk(), new_nodes()
    gp = set_up(ExactGPTD(data.transitions(), noise=kind))
    level, covariance, evidence = posterior(data, kind, new)
    assert deviation(gp.value(torch.from_numpy(new)), level, covariance) < 1e-12
    assert gp.log_marginal().item() == pytest.approx(evidence, abs=1e-11)


def agrees(gp, kind):
    """The gate of the two twins below."""
    level, covariance, evidence = posterior(walk(), kind, new_nodes())
    off = deviation(gp.value(torch.from_numpy(new_nodes())), level, covariance)
    return off < 1e-8 and abs(gp.log_marginal().item() - evidence) < 1e-8


def test_twins_are_rejected():
    data = walk()
    assert agrees(set_up(ExactGPTD(data.transitions(), noise="return")), "return")
    # noise of returns, passed off as noise of rewards
    twin = set_up(ExactGPTD(data.transitions(), noise="reward"))
    assert not agrees(twin, "return")
    # truncated episodes, treated as if they had terminated
    over = Episodes(data.nodes, [True] * 4, data.rewards)
    for kind in KINDS:
        twin = set_up(ExactGPTD(over.transitions(), noise=kind))
        assert not agrees(twin, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_episodes_is_of_no_effect(kind):
    data, new = walk(), torch.from_numpy(new_nodes())
    first = set_up(ExactGPTD(data.transitions(), noise=kind))
    second = set_up(ExactGPTD(data.transitions([2, 0, 3, 1]), noise=kind))
    with torch.no_grad():
        law = first.value(new)
        want = law.mean.numpy(), law.covariance_matrix.numpy()
    assert deviation(second.value(new), *want) < 1e-12
    torch.testing.assert_close(first.log_marginal(), second.log_marginal())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [9, 14])  # between two episodes, and inside one
def test_conditioning_on_more_is_making_a_model_of_all(kind, cut):
    steps, new = walk().transitions(), torch.from_numpy(new_nodes())
    whole = set_up(ExactGPTD(steps, noise=kind))
    part = set_up(ExactGPTD(steps[:cut], noise=kind)).condition(steps[cut:])
    assert part.transitions.episode.tolist() == steps.episode.tolist()
    torch.testing.assert_close(
        part.value(new).covariance_matrix,
        whole.value(new).covariance_matrix,
        rtol=0,
        atol=1e-12,
    )
    torch.testing.assert_close(
        part.value(new).mean, whole.value(new).mean, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(part.log_marginal(), whole.log_marginal())
    with pytest.raises(ShapeError, match="transitions of another kind"):
        whole.condition(Transitions([[1.0]], [[2.0]], [0.0], 0.9))


@pytest.mark.parametrize("kind", KINDS)
def test_fantasies_of_gpytorch_are_fits_to_more(kind):
    steps, new = walk().transitions(), torch.from_numpy(new_nodes())
    whole = set_up(ExactGPTD(steps, noise=kind))
    part = set_up(ExactGPTD(steps[:14], noise=kind))
    part.value(new)
    rows, reward = steps[14:].pack(), steps[14:].reward
    with dense_algebra():
        one = part.get_fantasy_model(rows, reward)
        two = part.get_fantasy_model(rows, torch.stack([reward, reward + 1]))
        law: Any = one(one.value_rows(new))
    want = whole.value(new)
    torch.testing.assert_close(law.mean, want.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(law.covariance_matrix, want.covariance_matrix)
    both: Any = two(two.value_rows(new).expand(2, -1, -1))
    mean = both.mean
    torch.testing.assert_close(mean[0], want.mean)
    assert (mean[1] - mean[0]).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_loop(kind):
    walks = [walk(seed).transitions() for seed in (0, 1, 2)]
    batch = Transitions(
        torch.stack([w.x for w in walks]),
        torch.stack([w.x_next for w in walks]),
        torch.stack([w.reward for w in walks]),
        torch.stack([w.discount for w in walks]),
        episode=walks[0].episode,
    )
    new = torch.from_numpy(new_nodes())
    gp = set_up(ExactGPTD(batch, noise=kind), length=((0.7, 1.1),))
    law = gp.value(new.expand(3, -1, -1))
    for i, one in enumerate(walks):
        alone = set_up(ExactGPTD(one, noise=kind))
        want = alone.value(new)
        torch.testing.assert_close(law.mean[i], want.mean, rtol=0, atol=5e-11)
        torch.testing.assert_close(law.covariance_matrix[i], want.covariance_matrix)
        torch.testing.assert_close(gp.log_marginal()[i], alone.log_marginal())
    assert gp.outlier().row.shape == (3,)
    gp.fit(3)
    assert gp.value(new.expand(3, -1, -1)).mean.shape == (3, 6)


def test_the_evidence_has_the_derivatives_of_differences():
    gp = set_up(ExactGPTD(walk().transitions(), noise="return"))
    gp.log_marginal().backward()
    for name, parameter in gp.named_parameters():
        assert parameter.grad is not None
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(len(flat)):
            kept, h = flat[i].clone(), 1e-5
            sides = []
            for sign in (1, -1):
                flat[i] = kept + sign * h
                sides.append(float(gp.log_marginal().detach()))
            flat[i] = kept
            slope = (sides[0] - sides[1]) / (2 * h)
            assert float(grad[i]) == pytest.approx(slope, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("unit", [1e-4, pytest.param(1e5, marks=pytest.mark.slow)])
def test_learning_does_not_depend_on_units(unit):
    data = walk()
    scaled = Episodes(
        data.nodes, data.terminated, [unit * r for r in data.rewards], data.gamma
    )
    one = ExactGPTD(data.transitions()).fit()
    two = ExactGPTD(scaled.transitions()).fit()
    shift = len(data.reward) * np.log(unit)
    gain = two.log_marginal().item() + shift - one.log_marginal().item()
    assert abs(gain) < 1e-3
    new = torch.from_numpy(new_nodes())
    off = (two.value(new).mean / unit - one.value(new).mean).abs().max()
    assert off.item() < 1e-2


def test_priors_of_gpytorch_count_when_learning():
    steps = walk().transitions()
    free = ExactGPTD(steps).fit()
    tied = ExactGPTD(steps)
    prior = gpytorch.priors.LogNormalPrior(np.log(30.0), 0.01).double()
    tied.likelihood.noise_covar.register_prior("noise_prior", prior, "noise")
    tied.fit()
    assert free.likelihood.noise.item() < 2
    assert tied.likelihood.noise.item() == pytest.approx(30.0, rel=0.05)


def test_a_learned_constant_finds_a_level_far_from_zero():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(101, 1))
    reward = 50 + 0.1 * rng.normal(size=100)
    gp = ExactGPTD(Transitions(x[:-1], x[1:], reward, 0.9)).fit()
    far = gp.value(torch.tensor([[40.0]]))  # where nothing was seen
    assert far.mean.item() == pytest.approx(500, rel=0.01)
    assert "NoiseAbove" in repr(gp)


def test_iterative_solvers_are_never_used():
    # GPyTorch would take them for more than 800 rows
    data = walk(lengths=(850,))
    gp = set_up(ExactGPTD(data.transitions(), noise="return"))
    level, covariance, evidence = posterior(data, "return", new_nodes())
    assert deviation(gp.value(torch.from_numpy(new_nodes())), level, covariance) < 1e-10
    assert gp.log_marginal().item() == pytest.approx(evidence, rel=1e-11)


def test_double_precision_is_the_default_and_single_can_be_had():
    data, new = walk(), new_nodes()
    level, covariance, _ = posterior(data, "reward", new)
    steps = data.transitions()
    single = Transitions(
        steps.x, steps.x_next, steps.reward, steps.discount, dtype=torch.float32
    )
    gp = set_up(ExactGPTD(single))
    law = gp.value(torch.from_numpy(new))
    assert law.mean.dtype == torch.float32
    assert 1e-9 < deviation(law, level, covariance) < 1e-4
    as_float32 = Transitions(steps.x.float(), steps.x_next.float(), [0.0] * 38, 0.9)
    assert as_float32.x.dtype == torch.float64


def test_a_covariance_without_a_factor_is_named():
    def wrong(x):
        return torch.full_like(x, torch.nan)

    steps = walk().transitions()
    gp = ExactGPTD(steps, kernel=Features(wrong))
    with pytest.raises(NotPositiveDefiniteError, match="no Cholesky factor"):
        gp.log_marginal()
    with pytest.raises(NotPositiveDefiniteError, match="no Cholesky factor"):
        gp.value(steps.x)
    with pytest.raises(ShapeError, match=r"\(\*batch, n, 2\)"):
        gp.value(torch.zeros(3, 1))


def test_a_step_of_learning_that_goes_too_far_is_taken_back():
    gp = ExactGPTD(walk().transitions())
    rest, calls = gp.log_marginal, []

    def sometimes():
        calls.append(1)
        if len(calls) in (2, 5):
            raise NotPositiveDefiniteError
        return rest()

    gp.log_marginal = sometimes
    before = rest().item()
    gp.fit(10)
    assert rest().item() > before + 1
    assert len(calls) > 5


def test_the_row_with_a_wrong_reward_is_reported():
    data = walk()
    data.rewards[2][4] += 40.0
    gp = set_up(ExactGPTD(data.transitions()))
    found = gp.outlier()
    assert int(found.row) == 9 + 12 + 4
    # the same by leaving the row out
    h, x = data.H, data.visits
    q = h @ matern(x, x) @ h.T + 0.05 * np.eye(len(h))
    rest = np.arange(len(h)) != int(found.row)
    y = data.reward - 0.4 * h.sum(1)
    cross = q[~rest][:, rest]
    mean = cross @ np.linalg.solve(q[rest][:, rest], y[rest])
    variance = q[~rest][:, ~rest] - cross @ np.linalg.solve(q[rest][:, rest], cross.T)
    want = float(((y[~rest] - mean) / np.sqrt(variance)).item())
    assert float(found.residual) == pytest.approx(want, rel=1e-9)


# -- GPyTorch's own script ------------------------------------------------------------


class Process(gpytorch.models.ExactGP):
    """The `ExactGP` of GPyTorch's first tutorial, with two lines changed."""

    def __init__(self, train_x, train_y, likelihood):
        super().__init__(train_x, train_y, likelihood)
        self.mean_module = TDMean(gpytorch.means.ConstantMean(), dim=2)
        self.covar_module = TDKernel(
            gpytorch.kernels.ScaleKernel(
                gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=2)
            ),
            dim=2,
        )

    def forward(self, x):
        mean: Any = self.mean_module(x)
        return gpytorch.distributions.MultivariateNormal(mean, self.covar_module(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_of_gpytorch_works_with_two_lines_changed(kind):
    data, new = walk(), new_nodes()
    steps = data.transitions()
    train_x, train_y = steps.pack(), steps.reward
    if kind == "reward":
        likelihood = gpytorch.likelihoods.GaussianLikelihood()
    else:
        likelihood = TDLikelihood("return", steps)
    model = set_up(Process(train_x, train_y, likelihood).double())
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    level, covariance, evidence = posterior(data, kind, new)
    model.train()
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        with dense_algebra():
            value: Any = mll(model(train_x), train_y)
        loss = -value
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    assert -losses[0] * len(train_y) == pytest.approx(evidence, abs=1e-10)
    assert losses[1] < losses[0]
    set_up(model).eval()
    with torch.no_grad(), dense_algebra():
        law = model(value_rows(torch.from_numpy(new)))
    assert deviation(law, level, covariance) < 1e-12


def test_a_likelihood_of_gpytorch_may_meet_a_singular_prior():
    data, new = walk(), new_nodes()
    steps = data.transitions()
    rows = torch.cat([steps.pack(), steps.pack()])  # each of them twice
    reward = torch.cat([steps.reward, steps.reward])
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    model = set_up(Process(rows, reward, likelihood).double(), 0.1).eval()
    level, covariance, _ = posterior(data, "reward", new, 0.05)
    with torch.no_grad(), dense_algebra():
        law = model(value_rows(torch.from_numpy(new)))
        assert deviation(law, level, covariance) < 1e-11
        one = set_up(Process(rows[:38], reward[:38], likelihood).double(), 0.1).eval()
        one(value_rows(steps.x[:1]))
        two = one.get_fantasy_model(rows[38:], reward[38:])
        law = two(value_rows(torch.from_numpy(new)))
    assert deviation(law, level, covariance) < 1e-11


def test_names_that_need_gpytorch_are_listed_and_others_are_not_there():
    import pyro_geo
    from pyro_geo import gp

    assert {"ExactGPTD", "Transitions"} <= {*dir(gp)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gp.nothing
    assert "engel2005reinforcement" in pyro_geo.citation(ExactGPTD)
