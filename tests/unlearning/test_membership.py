"""Areas under curves, forget energies and attacks on memories."""

import math

import pytest
import torch

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.geometry.matrices import Dense, Diagonal
from pyro_geo.unlearning.membership import auc, forget_energy, rayleigh, state_attack
from tests.cases import numbers
from tests.geometry.test_matrices import positive_definite


def test_constant_scores_say_nothing():
    found = auc(torch.ones(5), torch.ones(7))
    assert found.value == 0.5
    assert found.se == 0.0


def test_the_area_counts_pairs_with_ties_one_half():
    x = torch.tensor([0.0, 1.0, 1.0, 3.0])
    y = torch.tensor([1.0, 0.0, 2.0])
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in x for b in y]
    assert auc(x, y).value == pytest.approx(sum(pairs) / 12)
    assert auc(y, x).value == pytest.approx(1 - sum(pairs) / 12)
    assert auc(x + 5, y).value == 1.0
    assert math.isnan(auc(x[:1], y).se)


def test_a_monotone_map_changes_nothing():
    x, y = numbers(20, seed=1), numbers(30, seed=2)
    assert auc(x.exp(), y.exp()) == auc(x, y)


def test_the_standard_error_is_that_of_repeated_samples():
    """Over 400 samples: the mean variance is within 5 errors of the one observed."""
    generator = torch.Generator().manual_seed(3)
    found = [
        auc(
            0.7 + torch.randn(40, generator=generator),
            torch.randn(60, generator=generator),
        )
        for _ in range(400)
    ]
    values = torch.tensor([one.value for one in found]).double()
    said = torch.tensor([one.se for one in found]).double().square().mean()
    seen = float(values.var())
    # the relative error of a variance of 400 draws is sqrt(2 / 399)
    assert abs(float(said) / seen - 1) < 5 * math.sqrt(2 / 399)
    true = 0.5 * (1 + math.erf(0.7 / 2))
    assert abs(float(values.mean()) - true) < 5 * math.sqrt(seen / 400)


def test_scores_are_logarithms_of_rayleigh_quotients():
    m, g = positive_definite(4), numbers(3, 4)
    unit = g / g.norm(dim=1, keepdim=True)
    expected = ((unit @ m) * unit).sum(1).log()
    found = rayleigh(Dense.from_matrix(m), g)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(rayleigh(Dense.from_matrix(m), 9 * g), expected)
    with_zero = torch.cat([g, torch.zeros(1, 4).double()])
    torch.testing.assert_close(rayleigh(Dense.from_matrix(m), with_zero), expected)


def test_a_multiple_of_the_identity_has_no_forget_energy():
    same = Diagonal(torch.full((4,), 3.0))
    found = forget_energy(same, numbers(5, 4), numbers(7, 4, seed=1))
    assert found == pytest.approx(0, abs=1e-12)


def test_forget_energy_is_free_of_scale_and_rotation():
    m, f, c = positive_definite(4), numbers(5, 4), numbers(6, 4, seed=1)
    turn = torch.linalg.qr(numbers(4, 4, seed=2)).Q
    plain = forget_energy(Dense.from_matrix(m), f, c)
    assert forget_energy(Dense.from_matrix(7 * m), f, c) == pytest.approx(plain)
    moved = Dense.from_matrix(turn @ m @ turn.mT)
    assert forget_energy(moved, f @ turn.mT, c @ turn.mT) == pytest.approx(plain)


def test_an_attacker_finds_the_memories_that_hold_the_forget_set():
    f, c = torch.eye(3)[:1], torch.eye(3)[1:]
    seen = [Diagonal(torch.tensor([2.0 + i, 1.0, 1.0])) for i in range(3)]
    never = [Diagonal(torch.tensor([1.0, 1.0 + i, 1.0])) for i in range(3)]
    assert state_attack(seen, never, f, c).value == 1.0
    assert state_attack(never, never, f, c).value == pytest.approx(0.5)


def test_mistakes_are_named():
    with pytest.raises(ShapeError, match="members"):
        auc(torch.ones(0), torch.ones(3))
    with pytest.raises(ConfigurationError, match="NaN"):
        auc(torch.tensor([1.0, float("nan")]), torch.ones(3))
    with pytest.raises(ShapeError, match="gradients"):
        rayleigh(Diagonal(torch.ones(3)), torch.ones(2, 4))
    with pytest.raises(ConfigurationError, match="unlearned"):
        state_attack([], [Diagonal(torch.ones(3))], torch.eye(3), torch.eye(3))
