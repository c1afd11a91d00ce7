"""Kernel and mean of transitions against sums over their nodes."""

from typing import Any

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, PeriodicKernel, RBFKernel, ScaleKernel

from pyro_geo.errors import (
    ConfigurationError,
    EpisodeError,
    ShapeError,
    UnsupportedError,
)
from pyro_geo.gp import TDKernel, TDLikelihood, TDMean, Transitions, value_rows
from pyro_geo.gp.td._matern import Matern52
from tests.gp.td.oracle import walk


class Counting(RBFKernel):
    """Counts the pairs of nodes that it is asked for."""

    pairs = 0

    def forward(self, x1, x2, diag=False, **params):
        Counting.pairs += len(x1) * (1 if diag else len(x2))
        return super().forward(x1, x2, diag=diag, **params)


def by_hand(base, rows, other, dim, count) -> Any:
    """Covariances as the double sum of the definition."""

    def nodes(z):
        points = [z[:, :dim]] + [
            z[:, dim * (1 + j) : dim * (2 + j)] for j in range(count)
        ]
        factors = [torch.ones(len(z)).double(), *(-z[:, dim * (1 + count) :].mT)]
        return list(zip(factors, points, strict=True))

    return sum(
        b[:, None] * c * base(x, y).to_dense()
        for b, x in nodes(rows)
        for c, y in nodes(other)
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("path", [True, False])
def test_covariances_are_sums_over_nodes(count, path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 2, generator=generator).double()
    x_next = torch.randn(9, count, 2, generator=generator).double()
    if path:  # with a coincidence in some of the successors only
        x_next[:-1, 0] = x[1:]
        x_next[3:6, -1] = x_next[2, -1]
    discount = torch.rand(9, generator=generator).double()
    discount[4] = 0
    weight = torch.rand(9, count, generator=generator).double()
    weight = weight / weight.sum(-1, keepdim=True)
    steps = Transitions(x, x_next, torch.zeros(9), discount, weight)
    base = ScaleKernel(PeriodicKernel()).double()
    kernel = TDKernel(base, 2, count)
    rows = steps.pack()
    other = torch.cat([value_rows(x[:3], count), rows[2:7]])
    for first, second in ((rows, rows), (rows, other), (other, rows)):
        want = by_hand(base, first, second, 2, count)
        torch.testing.assert_close(kernel(first, second).to_dense(), want)
    want = by_hand(base, rows, rows, 2, count).diagonal()
    torch.testing.assert_close(kernel(rows, diag=True), want)
    torch.testing.assert_close(kernel(rows).diagonal(dim1=-1, dim2=-2), want)
    # a value is a row without successors
    torch.testing.assert_close(
        kernel(value_rows(x, count)).to_dense(), base(x).to_dense()
    )


def test_each_node_of_a_path_is_looked_at_once():
    steps = walk(lengths=(20, 30)).transitions()
    kernel = TDKernel(Counting().double(), 2)
    Counting.pairs = 0
    kernel(steps.pack()).to_dense()
    # the second episode terminates, so that its last node is not needed
    assert Counting.pairs == 51**2
    Counting.pairs = 0
    kernel(value_rows(steps.x[:7])).to_dense()
    assert Counting.pairs == 49


def test_rows_of_a_batch_may_link_differently():
    steps = [walk(seed).transitions() for seed in range(2)]
    rows = torch.stack([steps[0].pack(), steps[1].pack().flip(0)])
    kernel = TDKernel(RBFKernel().double(), 2)
    found = kernel(rows).to_dense()
    for i in range(2):
        torch.testing.assert_close(found[i], kernel(rows[i]).to_dense())
        torch.testing.assert_close(
            kernel(rows, diag=True)[i], found[i].diagonal(dim1=-2, dim2=-1)
        )


def test_derivatives_reach_each_column_of_a_row():
    rows = walk(lengths=(4,)).transitions().pack().requires_grad_()
    kernel: Any = TDKernel(RBFKernel().double(), 2)
    assert torch.autograd.gradcheck(lambda z: kernel(z).to_dense(), (rows,))
    assert torch.autograd.gradcheck(lambda z: kernel(z, diag=True), (rows,))


def test_means_are_differences():
    steps = walk().transitions()
    mean: Any = TDMean(gpytorch.means.LinearMean(2), 2).double()
    base = mean.base_mean
    want = base(steps.x) - steps.discount * base(steps.x_next)
    torch.testing.assert_close(mean(steps.pack()), want)
    constant: Any = TDMean(gpytorch.means.ConstantMean(), 2).double()
    constant.base_mean.constant.data.fill_(3.0)
    torch.testing.assert_close(constant(steps.pack()), 3 * (1 - steps.discount))


def test_rows_of_another_width_are_refused():
    with pytest.raises(ShapeError, match="dim=2 and successors=1"):
        TDKernel(RBFKernel(), 2)(torch.zeros(3, 4)).to_dense()
    with pytest.raises(ShapeError, match="dim=1 and successors=2"):
        TDMean(gpytorch.means.ConstantMean(), 1, 2)(torch.zeros(3, 4))
    with pytest.raises(ConfigurationError, match="argument dim"):
        TDKernel(RBFKernel(), 0)
    with pytest.raises(ConfigurationError, match="argument successors"):
        TDMean(gpytorch.means.ConstantMean(), 1, 0)


@pytest.mark.parametrize("batch", [torch.Size([]), torch.Size([2])])
def test_our_matern_is_that_of_gpytorch(batch):
    x = torch.randn(*batch, 8, 3, dtype=torch.float64)
    y = torch.randn(*batch, 5, 3, dtype=torch.float64)
    ours: Any = Matern52(nu=2.5, ard_num_dims=3, batch_shape=batch).double()
    theirs: Any = MaternKernel(nu=2.5, ard_num_dims=3, batch_shape=batch).double()
    for kernel in (ours, theirs):
        kernel.lengthscale = torch.tensor([0.5, 1.0, 2.0]).double()
    for args in ((x,), (x, y)):
        one, two = ours(*args).to_dense(), theirs(*args).to_dense()
        torch.testing.assert_close(one, two)
        weight = torch.randn_like(one)
        grads = [
            torch.autograd.grad((k * weight).sum(), kernel.raw_lengthscale)[0]
            for k, kernel in ((one, ours), (two, theirs))
        ]
        torch.testing.assert_close(*grads)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, y).to_dense(), theirs(x, y).to_dense())
        torch.testing.assert_close(ours(x, diag=True), theirs(x, diag=True))
    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ours(x, y).to_dense(), (leaf,))


# -- noise ----------------------------------------------------------------------------


def test_noise_of_returns_is_that_of_visits():
    data = walk()
    steps = data.transitions()
    likelihood: Any = TDLikelihood("return", steps).double()
    likelihood.noise = torch.tensor(0.3).double()
    want = torch.from_numpy(data.noise("return", 0.3))
    for found in (
        likelihood.covariance(steps.pack()),  # told by the transitions
        likelihood(normal(38)).lazy_covariance_matrix - torch.eye(38).double(),
    ):
        torch.testing.assert_close(found.to_dense(), want)
    # without transitions, from what the rows look like
    alone = TDLikelihood("return").double()
    alone.noise = torch.tensor(0.3).double()
    torch.testing.assert_close(alone.covariance(steps.pack()).to_dense(), want)
    # noisy values
    rows = value_rows(steps.x[:5])
    eye = torch.eye(5).double()
    torch.testing.assert_close(likelihood.covariance(rows).to_dense(), 0.3 * eye)


def normal(count):
    mean = torch.zeros(count).double()
    return gpytorch.distributions.MultivariateNormal(mean, torch.eye(count).double())


def test_an_episode_that_ends_where_the_next_begins_is_no_longer_path():
    x = torch.zeros(4, 1)  # all nodes are the same
    steps = Transitions(x, x, torch.ones(4), 0.9, episode=[0, 0, 1, 1])
    noise: Any = TDLikelihood("return", steps).covariance(steps.pack())
    side = noise.side
    assert (side != 0).tolist() == [True, False, True]


def test_noise_of_returns_asks_for_what_it_does_not_know():
    likelihood = TDLikelihood("return").double()
    with pytest.raises(EpisodeError, match="discounts of the rows are unknown"):
        likelihood(normal(3))
    bound = TDLikelihood("return", walk().transitions()).double()
    with pytest.raises(EpisodeError, match="3 rows, and 38 transitions"):
        bound(normal(3))
    with pytest.raises(EpisodeError, match="several successors"):
        likelihood.covariance(torch.zeros(3, 8).double())
    with pytest.raises(UnsupportedError, match="VariationalGPTD"):
        bound.expected_log_prob(torch.zeros(38).double(), normal(38))
    with pytest.raises(ConfigurationError, match="argument noise"):
        TDLikelihood("returns")  # type: ignore[arg-type]
    with pytest.raises(EpisodeError, match="gap"):
        TDLikelihood("return", Transitions([[0.0], [5.0]], [[1.0], [6.0]], [0, 0], 0.9))


def test_noise_of_rewards_is_that_of_gpytorch():
    ours: Any = TDLikelihood().double()
    theirs: Any = gpytorch.likelihoods.GaussianLikelihood().double()
    y = torch.from_numpy(np.linspace(-1, 1, 4))
    torch.testing.assert_close(
        ours.expected_log_prob(y, normal(4)), theirs.expected_log_prob(y, normal(4))
    )
    torch.testing.assert_close(
        ours(normal(4)).covariance_matrix, theirs(normal(4)).covariance_matrix
    )
