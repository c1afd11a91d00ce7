"""The recursion against the batch posterior."""

from typing import Any

import numpy as np
import pytest
import torch

from pyro_geo.errors import ConfigurationError, EpisodeError, UnsupportedError
from pyro_geo.gp import ExactGPTD, OnlineGPTD, Transitions
from pyro_geo.gp.td import _online
from pyro_geo.gp.td._recursion import Recursion
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [256, 7])
def test_without_a_threshold_it_is_the_batch_posterior(kind, block, monkeypatch):
    monkeypatch.setattr(_online, "_BLOCK", block)
    data, new = walk(), new_nodes()
    gp = set_up(OnlineGPTD(data.transitions(), noise=kind, nu=1e-14))
    level, covariance, evidence = posterior(data, kind, new)
    assert deviation(gp.value(torch.from_numpy(new)), level, covariance) < 1e-10
    assert gp.log_marginal().item() == pytest.approx(evidence, abs=1e-9)
    assert len(gp.dictionary) == 40  # two visits of 42 are never looked at


def test_twins_are_rejected():
    data, new = walk(), torch.from_numpy(new_nodes())
    level, covariance, _ = posterior(data, "return", new_nodes())
    over = Episodes(data.nodes, [True] * 4, data.rewards)
    for kind, one in zip(KINDS, (data, over), strict=True):
        twin = set_up(OnlineGPTD(one.transitions(), noise=kind, nu=1e-14))
        assert deviation(twin.value(new), level, covariance) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [(5, 6), (9, 21), (20,)])
def test_steps_may_come_at_any_time(kind, cuts):
    steps, new = walk().transitions(), torch.from_numpy(new_nodes())
    want = set_up(OnlineGPTD(steps, noise=kind))
    gp = set_up(OnlineGPTD(steps[: cuts[0]], noise=kind))
    for start, stop in zip(cuts, [*cuts[1:], None], strict=True):
        gp.update(steps[start:stop])
    torch.testing.assert_close(gp.value(new).mean, want.value(new).mean)
    torch.testing.assert_close(gp.log_marginal(), want.log_marginal())
    torch.testing.assert_close(gp.residuals(), want.residuals())
    assert torch.equal(gp.dictionary, want.dictionary)


def test_a_new_episode_at_the_same_place_is_one_if_it_is_said_to_be():
    steps, new = walk(lengths=(12,)).transitions(), torch.from_numpy(new_nodes())
    label = [0] * 5 + [1] * 7
    apart = Transitions(
        steps.x, steps.x_next, steps.reward, steps.discount, episode=label
    )
    want = set_up(ExactGPTD(apart, noise="return")).value(new)
    gp = set_up(OnlineGPTD(steps[:5], noise="return", nu=1e-14))
    gp.update(steps[5:], new_episode=True)
    torch.testing.assert_close(gp.value(new).mean, want.mean)
    joined = set_up(OnlineGPTD(steps[:5], noise="return", nu=1e-14)).update(steps[5:])
    assert (joined.value(new).mean - want.mean).abs().max() > 1e-4


def test_several_successors():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 2, generator=generator)
    x_next = torch.randn(20, 3, 2, generator=generator)
    discount = torch.full((20, 3), 0.9)
    discount[4] = 0
    discount[7, 1] = 0
    weight = torch.tensor([0.2, 0.5, 0.3])
    reward = torch.randn(20, generator=generator)
    steps = Transitions(x, x_next, reward, discount, weight)
    new = torch.from_numpy(new_nodes())
    want = set_up(ExactGPTD(steps))
    gp = set_up(OnlineGPTD(steps, nu=1e-14))
    torch.testing.assert_close(gp.value(new).mean, want.value(new).mean)
    torch.testing.assert_close(
        gp.value(new).covariance_matrix, want.value(new).covariance_matrix
    )
    torch.testing.assert_close(gp.log_marginal(), want.log_marginal())


def test_the_dictionary_is_small_and_the_error_is_that_of_the_threshold():
    data, new = walk(lengths=(150, 150)), torch.from_numpy(np.sin(new_nodes()))
    data.nodes = [np.sin(x) for x in data.nodes]
    want = set_up(ExactGPTD(data.transitions())).value(new).mean
    sizes, errors = [], []
    for nu in (1e-1, 1e-2, 1e-4):
        gp = set_up(OnlineGPTD(data.transitions(), nu=nu))
        sizes.append(len(gp.dictionary))
        errors.append((gp.value(new).mean - want).abs().max().item())
    assert sizes == sorted(sizes)
    assert sizes[0] < 40 < sizes[2] < 300
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_coarse_dictionary_it_is_the_posterior_of_what_that_can_say(kind):
    # each node is a combination of those that were in the dictionary when it was seen
    data, new = walk(lengths=(30, 40)), new_nodes()
    gp = set_up(OnlineGPTD(data.transitions(), noise=kind, nu=0.3))
    points = gp.dictionary.numpy()
    k = matern(points, points)
    seen = data.visits[:-1]  # the last episode terminates
    a = np.zeros((len(seen), len(points)))
    known = 0
    for row, x in enumerate(seen):
        if known < len(points) and (x == points[known]).all():
            known += 1
        cross = matern(points[:known], x[None])[:, 0]
        a[row, :known] = np.linalg.solve(k[:known, :known], cross)
    design = data.H[:, :-1] @ a
    assert len(points) < 40
    q = design @ k @ design.T + data.noise(kind, 0.05)
    y = data.reward - 0.4 * data.H.sum(1)
    cross = matern(new, points) @ design.T
    level = 0.4 + cross @ np.linalg.solve(q, y)
    covariance = matern(new, new) - cross @ np.linalg.solve(q, cross.T)
    assert deviation(gp.value(torch.from_numpy(new)), level, covariance) < 1e-9
    logs = np.linalg.slogdet(2 * np.pi * q)[1]
    evidence = -0.5 * (y @ np.linalg.solve(q, y) + logs)
    assert gp.log_marginal().item() == pytest.approx(evidence, abs=1e-8)


def test_nearly_equal_nodes_cost_no_digits():
    # pairs of nodes a hair apart, all of them in the dictionary
    rng = np.random.default_rng(6)
    x = np.repeat(rng.normal(size=(12, 2)), 2, 0)
    x[1::2] += 1e-4
    data = Episodes([x], [False], [rng.normal(size=23)])
    gp = set_up(OnlineGPTD(data.transitions(), nu=1e-12))
    level, covariance, _ = posterior(data, "reward", new_nodes())
    assert len(gp.dictionary) == 24
    off = deviation(gp.value(torch.from_numpy(new_nodes())), level, covariance)
    assert off < 1e-7
    # the same recursion with an inverse instead of a factor loses them
    inverse = np.linalg.inv(matern(x, x))
    a = inverse @ matern(x, x)
    assert np.abs(a - np.eye(24)).max() > 1e3 * off


def test_hyperparameters_are_learned_from_a_part():
    steps = walk(lengths=(100, 100)).transitions()
    gp = OnlineGPTD(steps, noise="return")
    before = gp.log_marginal()
    gp.fit(30, subset=120)
    assert (gp.log_marginal() - before).item() > 10
    assert gp.residuals().shape == (200,)


def test_an_outlier_is_reported():
    data = walk(lengths=(60,))
    data.rewards[0][33] += 50.0
    assert int(set_up(OnlineGPTD(data.transitions())).outlier().row) == 33


def test_arrays_grow_as_nodes_come_in():
    recursion = Recursion(1e-9, 0.1, returns=False, capacity=1)
    eye = np.eye(5)
    for i in range(5):
        assert recursion.place(eye[i, :i], 1.0) is None
        recursion.learn(eye[i, : i + 1], 1.0, 0.0)
    np.testing.assert_allclose(recursion.weights, 1 / 1.1)
    np.testing.assert_allclose(recursion.covariance, np.eye(5) / 1.1)
    found: Any = recursion.place(eye[2], 1.0)
    np.testing.assert_allclose(found, eye[2])


def test_mistakes_are_named():
    steps = walk().transitions()
    with pytest.raises(UnsupportedError, match="batch of recursions"):
        OnlineGPTD(steps.expand((2,)))
    with pytest.raises(ConfigurationError, match="argument nu"):
        OnlineGPTD(steps, nu=-1.0)
    with pytest.raises(ConfigurationError, match="argument subset"):
        OnlineGPTD(steps).fit(subset=0)
    gap = Transitions([[0.0, 0.0], [1.0, 0.0]], [[5.0, 0.0], [2.0, 0.0]], [0, 0], 0.9)
    with pytest.raises(EpisodeError, match="gap"):
        OnlineGPTD(steps, noise="return").update(gap)
