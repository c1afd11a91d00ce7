"""Coloured noise: its covariance exactly, and its law where it is cut."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_geo.errors import ConfigurationError
from pyro_geo.planning.mpc.coloured import coloured, truncated


def matrix(length, beta):
    """Noise is a linear function of white noise; this is its matrix."""
    return coloured(torch.eye(length, dtype=torch.float64), beta).mT


@pytest.mark.parametrize("length", [1, 2, 7, 8, 30])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_every_value_has_variance_one_and_is_stationary(length, beta):
    covariance = matrix(length, beta) @ matrix(length, beta).mT
    torch.testing.assert_close(covariance.diagonal(), torch.ones(length).double())
    lag = covariance[0]
    for row in range(length):
        torch.testing.assert_close(covariance[row], lag.roll(row))


def test_the_spectrum_falls_as_the_exponent_says():
    length, beta = 64, 1.5
    covariance = matrix(length, beta) @ matrix(length, beta).mT
    power = np.fft.rfft(covariance[0].numpy()).real
    slope = np.diff(np.log(power[1:])) / np.diff(np.log(np.arange(1, 33)))
    np.testing.assert_allclose(slope, -beta, rtol=1e-9)
    assert power[0] == pytest.approx(power[1])


def test_white_noise_stays_what_it_is():
    white = torch.randn(5, 9, dtype=torch.float64)
    torch.testing.assert_close(coloured(white, 0.0), white)


def test_cut_numbers_have_the_law_of_a_truncated_normal():
    z = torch.from_numpy(stats.norm.ppf((np.arange(1000) + 0.5) / 1000))
    expected = stats.truncnorm(-2, 2).ppf(stats.norm.cdf(z))
    np.testing.assert_allclose(truncated(z, 2.0), expected, atol=1e-9)
    far = truncated(torch.tensor([-40.0, 40.0]), 2.0)
    torch.testing.assert_close(far, torch.tensor([-2.0, 2.0]))
    assert bool((far.abs() <= 2).all())


def test_a_negative_exponent_is_refused():
    with pytest.raises(ConfigurationError, match="beta"):
        coloured(torch.zeros(3), -1.0)
