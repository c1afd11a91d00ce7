"""The sparse and the variational model against their formulas and the exact one."""

from typing import Any

import gpytorch
import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError, EpisodeError, ShapeError
from pyro_geo.gp import (
    ExactGPTD,
    SparseGPTD,
    TDKernel,
    TDLikelihood,
    TDMean,
    Transitions,
    VariationalGPTD,
    dense_algebra,
    value_rows,
)
from pyro_geo.gp.td import _inducing, _sparse, _variational
from tests.gp.td.oracle import (
    KINDS,
    Episodes,
    deviation,
    matern,
    new_nodes,
    posterior,
    set_up,
    walk,
)

POINTS = np.random.default_rng(5).normal(size=(8, 2))


def inducing(model, kind="reward", data=None, **options):
    steps = (data or walk()).transitions()
    points = torch.from_numpy(POINTS)
    return set_up(model(steps, noise=kind, inducing_points=points, **options))


def titsias(data, kind, new, variance=0.05, mean=0.4):
    """Mean, covariance and bound with dense matrices of all rows.

    Noise of returns goes through the return form: `b` sums discounted rewards, and
    each truncated episode shares the noise of its last visit.
    """
    h, x = data.H, data.visits
    noise = np.eye(len(h))
    y = data.reward - mean * h.sum(1)
    if kind == "return":
        starts = (h > 0).any(0)
        b = np.linalg.inv(h[:, starts])
        h, y = b @ h, b @ y
        noise = b @ data.noise("return", 1.0) @ b.T
    kuu = matern(POINTS, POINTS)
    kur = matern(POINTS, x) @ h.T
    kus = matern(POINTS, new)
    q = kur.T @ np.linalg.solve(kuu, kur)
    total = q + variance * noise
    logs = np.linalg.slogdet(2 * np.pi * total)[1]
    bound = -0.5 * (y @ np.linalg.solve(total, y) + logs)
    k = h @ matern(x, x) @ h.T
    bound -= 0.5 / variance * np.trace(k - q)
    inner = kuu + kur @ np.linalg.solve(variance * noise, kur.T)
    level = mean + kus.T @ np.linalg.solve(
        inner, kur @ np.linalg.solve(variance * noise, y)
    )
    covariance = (
        matern(new, new)
        - kus.T @ np.linalg.solve(kuu, kus)
        + kus.T @ np.linalg.solve(inner, kus)
    )
    return level, covariance, bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [4096, 7])
def test_the_sparse_posterior_and_its_bound_are_those_of_the_formulas(
    kind, chunk, monkeypatch
):
    monkeypatch.setattr(_sparse, "CHUNK", chunk)
    data, new = walk(), new_nodes()
    gp = inducing(SparseGPTD, kind)
    level, covariance, bound = titsias(data, kind, new)
    # not what GPyTorch gives with the diagonal correction that it has by default
    with gpytorch.settings.sgpr_diagonal_correction(True):
        law = gp.value(torch.from_numpy(new))
    assert deviation(law, level, covariance) < 1e-11
    assert gp.log_marginal().item() == pytest.approx(bound, abs=1e-8)
    assert bound < posterior(data, kind, new)[2]


def test_twins_are_rejected():
    data, new = walk(), torch.from_numpy(new_nodes())
    level, covariance, _ = titsias(data, "return", new_nodes())
    over = Episodes(data.nodes, [True] * 4, data.rewards)
    twins = inducing(SparseGPTD), inducing(SparseGPTD, "return", over)
    for twin in twins:
        assert deviation(twin.value(new), level, covariance) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_one_full_natural_step_gives_the_sparse_posterior(kind, monkeypatch):
    monkeypatch.setattr(_variational, "CHUNK", 10)
    new = torch.from_numpy(new_nodes())
    sparse, gp = inducing(SparseGPTD, kind), inducing(VariationalGPTD, kind)
    before = gp.log_marginal().item()
    gp.natural_step()
    want = sparse.value(new)
    torch.testing.assert_close(gp.value(new).mean, want.mean, rtol=0, atol=2.5e-12)
    torch.testing.assert_close(
        gp.value(new).covariance_matrix, want.covariance_matrix, rtol=0, atol=1e-12
    )
    bound = sparse.log_marginal().item()
    assert before < gp.log_marginal().item() == pytest.approx(bound, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_has_the_derivatives_of_differences(kind, monkeypatch):
    monkeypatch.setattr(_sparse, "CHUNK", 9)  # chunks are computed twice
    for model in (SparseGPTD, VariationalGPTD):
        gp = inducing(model, kind, learn_inducing=True)
        if isinstance(gp, VariationalGPTD):
            gp.natural_step(0.5)
        gp.log_marginal().backward()
        for name, parameter in gp.named_parameters():
            assert parameter.grad is not None
            flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
            for i in range(min(3, len(flat))):
                kept, h = flat[i].clone(), 1e-5
                sides = []
                for sign in (1, -1):
                    flat[i] = kept + sign * h
                    sides.append(gp.log_marginal().item())
                flat[i] = kept
                slope = (sides[0] - sides[1]) / (2 * h)
                assert grad[i].item() == pytest.approx(slope, rel=1e-5, abs=1e-4), name


def test_only_places_of_inducing_nodes_are_learned():
    gp = inducing(SparseGPTD, learn_inducing=True)
    assert gp.inducing_points.shape == (8, 2)
    gp.fit(5)
    moved = (gp.inducing_points.detach() - torch.from_numpy(POINTS)).abs().max()
    assert moved.item() > 1e-3
    fixed = inducing(SparseGPTD).fit(5)
    assert torch.equal(fixed.inducing_points, torch.from_numpy(POINTS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_with_a_node_at_each_visit_it_is_the_exact_model_after_learning_too(kind):
    data, new = walk(), torch.from_numpy(new_nodes())
    gp = SparseGPTD(
        data.transitions(), noise=kind, inducing_points=torch.from_numpy(data.visits)
    ).fit(subset=None)
    exact = ExactGPTD(data.transitions(), noise=kind).fit()
    gain = gp.log_marginal() - exact.log_marginal()
    assert gain.abs().item() < 1e-2
    off = (gp.value(new).mean - exact.value(new).mean).abs().max()
    assert off.item() < 0.02


@pytest.mark.parametrize("model", [SparseGPTD, VariationalGPTD])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_loop(model, kind):
    walks = [walk(seed).transitions() for seed in (0, 1)]
    batch = Transitions(
        torch.stack([w.x for w in walks]),
        torch.stack([w.x_next for w in walks]),
        torch.stack([w.reward for w in walks]),
        torch.stack([w.discount for w in walks]),
        episode=walks[0].episode,
    )
    points, new = torch.from_numpy(POINTS), torch.from_numpy(new_nodes())
    gp = set_up(model(batch, noise=kind, inducing_points=points), length=((0.7, 1.1),))
    if isinstance(gp, VariationalGPTD):
        gp.natural_step()
    law = gp.value(new.expand(2, -1, -1))
    assert gp.log_marginal().shape == gp.outlier().row.shape == (2,)
    for i, one in enumerate(walks):
        alone = set_up(model(one, noise=kind, inducing_points=points))
        if isinstance(alone, VariationalGPTD):
            alone.natural_step()
        torch.testing.assert_close(law.mean[i], alone.value(new).mean)
        torch.testing.assert_close(
            law.covariance_matrix[i], alone.value(new).covariance_matrix
        )
        torch.testing.assert_close(gp.log_marginal()[i], alone.log_marginal())
    assert model(batch, noise=kind, num_inducing=4).inducing_points.shape == (2, 4, 2)


def test_inducing_nodes_are_centres_or_all_different_nodes():
    steps = walk(lengths=(60, 60)).transitions()
    few = _inducing.inducing_nodes(steps, 12)
    assert few.shape == (12, 2)
    nodes = torch.cat([steps.x, steps.x_next])
    near = torch.cdist(nodes, few).min(-1).values.mean()
    chosen = nodes[torch.randperm(len(nodes))[:12]]
    assert near < torch.cdist(nodes, chosen).min(-1).values.mean()
    x = torch.arange(30.0)[:, None] % 3
    table = Transitions(x, (x + 1) % 3, torch.ones(30), 0.9)
    assert SparseGPTD(table).inducing_points.flatten().tolist() == [0, 1, 2]
    assert SparseGPTD(steps).inducing_points.shape == (24, 2)


def test_hyperparameters_come_from_pieces_of_long_data():
    steps = walk(lengths=(400,) * 3).transitions()
    few = _inducing.spread(steps, 160)
    assert len(few) == 160
    few.check_chain()
    assert len(few.episode.unique()) >= 16
    gp = SparseGPTD(steps, noise="return", num_inducing=30).fit(20, subset=200)
    assert gp.log_marginal().isfinite()
    with pytest.raises(ConfigurationError, match="argument subset"):
        gp.fit(subset=0)


def test_mistakes_are_named():
    steps = walk().transitions()
    with pytest.raises(ShapeError, match="argument inducing_points"):
        SparseGPTD(steps, inducing_points=torch.zeros(3, 1))
    with pytest.raises(ConfigurationError, match="argument num_inducing"):
        SparseGPTD(steps, num_inducing=0)
    with pytest.raises(ConfigurationError, match="argument likelihood"):
        VariationalGPTD(steps, likelihood="cauchy")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="argument degrees"):
        VariationalGPTD(steps, degrees=0)
    with pytest.raises(ConfigurationError, match="argument natural_rate"):
        VariationalGPTD(steps).fit(natural_rate=0)
    several = Transitions(steps.x, torch.stack([steps.x] * 2, 1), steps.reward, 0.9)
    for model in (SparseGPTD, VariationalGPTD):
        with pytest.raises(EpisodeError, match="several successors"):
            model(several, noise="return")
        assert model(several, num_inducing=5).value(steps.x).mean.shape == (38,)


# -- minibatches and outliers ---------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_minibatches_come_to_the_posterior_of_all(kind):
    data = walk(lengths=(150,) * 4)
    gp = inducing(VariationalGPTD, kind, data)
    rows = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    # averages of natural gradients, which are unbiased, over a whole epoch
    for step, part in enumerate(rows.split(60)):
        gp.natural_step(1 / (1 + step), part)
    want, new = inducing(SparseGPTD, kind, data), torch.from_numpy(new_nodes())
    torch.testing.assert_close(gp.value(new).mean, want.value(new).mean)
    torch.testing.assert_close(gp.log_marginal(), want.log_marginal())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_learning_from_minibatches_raises_the_bound(kind):
    steps = walk(lengths=(150,) * 4).transitions()
    gp = VariationalGPTD(steps, noise=kind, num_inducing=20)
    gp.natural_step()
    before = gp.log_marginal()
    after = gp.fit(60, batch_size=200, seed=1).log_marginal()
    assert (after - before).item() > 20
    again = VariationalGPTD(steps, noise=kind, num_inducing=20)
    again.natural_step()
    assert torch.equal(again.fit(60, batch_size=200, seed=1).log_marginal(), after)


def test_students_likelihood_is_not_moved_by_an_outlier():
    data, new = walk(lengths=(60, 60)), torch.from_numpy(new_nodes())
    names = "gaussian", "student_t"

    def fitted(name):
        gp = inducing(VariationalGPTD, data=data, likelihood=name)
        for _ in range(30):
            gp.natural_step()
        return gp

    clean = [fitted(name).value(new).mean for name in names]
    data.rewards[0][30] += 100.0
    found = [fitted(name) for name in names]
    moved = [
        (gp.value(new).mean - before).abs().max()
        for gp, before in zip(found, clean, strict=True)
    ]
    assert moved[0] > 20 * moved[1]
    assert [int(gp.outlier().row) for gp in found] == [30, 30]


def test_students_bound_is_below_its_evidence_and_full_steps_raise_it():
    # one reward, one inducing node at its place: the evidence is an integral
    steps = Transitions([[0.3, 0.1]], [[9.0, 9.0]], [2.0], 0.0)
    points = torch.tensor([[0.3, 0.1]]).double()
    gp = VariationalGPTD(
        steps, likelihood="student_t", degrees=3.0, inducing_points=points
    )
    set_up(gp)
    bounds = [gp.log_marginal().item()]
    for _ in range(40):
        gp.natural_step()
        bounds.append(gp.log_marginal().item())
    assert bool((np.diff(bounds) > -1e-12).all())
    from scipy.integrate import quad
    from scipy.stats import norm, t

    def joint(f):
        law: Any = t(3.0, loc=f, scale=np.sqrt(0.05))
        return law.pdf(2.0) * norm.pdf(f, 0.4, np.sqrt(1.3))

    exact = np.log(quad(joint, -20, 20, points=[2.0])[0])
    assert exact - 0.5 < bounds[-1] < exact


# -- GPyTorch's own sparse models with our kernel -------------------------------------


class Regression(gpytorch.models.ExactGP):
    def __init__(self, rows, reward, likelihood, points):
        super().__init__(rows, reward, likelihood)
        self.mean_module = TDMean(gpytorch.means.ConstantMean(), 2)
        base = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=2)
        inner = TDKernel(gpytorch.kernels.ScaleKernel(base), 2)
        self.covar_module = gpytorch.kernels.InducingPointKernel(
            inner, value_rows(points), likelihood
        )

    def forward(self, x):
        mean: Any = self.mean_module(x)
        return gpytorch.distributions.MultivariateNormal(mean, self.covar_module(x))


def test_inducing_point_kernels_of_gpytorch_take_our_kernel():
    steps, new = walk().transitions(), new_nodes()
    likelihood = TDLikelihood()
    gp = Regression(
        steps.pack(), steps.reward, likelihood, torch.from_numpy(POINTS)
    ).double()

    class Parts:  # where the oracle's hyperparameters go
        mean_module, covar_module = gp.mean_module, gp.covar_module.base_kernel
        likelihood: Any = None

    Parts.likelihood = likelihood
    set_up(Parts)
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, gp)
    level, _, bound = titsias(walk(), "reward", new)
    gp.train()
    with dense_algebra():
        found: Any = mll(gp(steps.pack()), steps.reward)
    assert found.item() * len(steps) == pytest.approx(bound, rel=1e-6)
    rows = value_rows(torch.from_numpy(new))
    errors = []
    for corrected in (False, True):
        gp.train().eval()
        setting = gpytorch.settings.sgpr_diagonal_correction(corrected)
        with dense_algebra(), setting, torch.no_grad():
            law: Any = gp(rows)
            errors.append(np.abs(law.mean.numpy() - level).max())
    assert errors[0] < 1e-9
    assert errors[1] > 0.01  # GPyTorch's default


class Approximate(gpytorch.models.ApproximateGP):
    def __init__(self, points):
        law = gpytorch.variational.NaturalVariationalDistribution(len(points))
        super().__init__(
            gpytorch.variational.VariationalStrategy(
                self, value_rows(points), law, learn_inducing_locations=False
            )
        )
        self.mean_module = TDMean(gpytorch.means.ConstantMean(), 2)
        base = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=2)
        self.covar_module = TDKernel(gpytorch.kernels.ScaleKernel(base), 2)

    def forward(self, x):
        mean: Any = self.mean_module(x)
        return gpytorch.distributions.MultivariateNormal(mean, self.covar_module(x))


def test_variational_strategies_of_gpytorch_take_our_kernel():
    steps, new = walk().transitions(), new_nodes()
    gp = Approximate(torch.from_numpy(POINTS)).double()
    likelihood = TDLikelihood().double()
    gp.likelihood = likelihood
    set_up(gp)
    gp(steps.pack())  # begins the variational law
    mll = gpytorch.mlls.VariationalELBO(likelihood, gp, num_data=len(steps))
    natural = gpytorch.optim.NGD(gp.variational_parameters(), len(steps), lr=1.0)
    natural.zero_grad()
    value: Any = mll(gp(steps.pack()), steps.reward)
    (-value).backward()
    natural.step()
    level, covariance, _ = titsias(walk(), "reward", new)
    gp.eval()
    # GPyTorch adds 1e-4 to variances there
    assert deviation(gp(value_rows(torch.from_numpy(new))), level, covariance) < 1e-2
