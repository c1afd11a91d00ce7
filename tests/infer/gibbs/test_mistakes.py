"""Slips on the way to a certificate: refused where they are made, or understood."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.errors import ConfigurationError, EmptyEnsembleError, ShapeError
from pyro_geo.infer import GibbsModel, GibbsPosterior
from pyro_geo.infer.certificates import certify


def model(x):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    return x @ w


def loss(scores, y):
    return torch.nn.functional.softplus(-scores * y)


generator = torch.Generator().manual_seed(0)
X = torch.randn(40, 2, generator=generator)
Y = (X @ torch.tensor([2.0, -1.0])).sign()


def sampler(**options):
    options = {"betas": [1.0], "num_particles": 16, "pilot_particles": 8, **options}
    return GibbsPosterior(
        GibbsModel(model, loss), seed=1, progress_bar=False, **options
    )


@pytest.fixture(scope="module")
def posterior():
    return sampler().run(X, Y)


@pytest.mark.parametrize("betas", [1.0, "1", {1.0}])
def test_inverse_temperatures_are_a_list(betas):
    with pytest.raises(ConfigurationError, match=r"argument betas.*\[0.1, 0.3, 1.0\]"):
        sampler(betas=betas)


def test_what_the_result_has_is_told_where_the_sampler_is_asked():
    for name in ("summary", "codebook", "report", "get_samples"):
        with pytest.raises(AttributeError, match=rf"posterior\.{name}"):
            getattr(sampler(), name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'$"):
        _ = sampler().nonsense


def test_a_certificate_asks_for_the_codebook(posterior):
    with pytest.raises(ConfigurationError, match=r"posterior\.codebook\(\)"):
        certify(posterior, lambda f, y: f * y <= 0, (X, Y))


def test_a_risk_of_truth_values_counts_zero_and_one(posterior):
    book = posterior.codebook()
    truth = certify(book, lambda f, y: f * y <= 0, (X, Y))
    number = certify(book, lambda f, y: (f * y <= 0).to(f), (X, Y))
    assert truth.value == number.value


def test_no_examples_are_refused():
    with pytest.raises(ShapeError, match="at least one row"):
        sampler().run(X[:0], Y[:0])


def test_targets_of_nan_are_told_apart_from_a_bad_loss():
    with pytest.raises(EmptyEnsembleError, match="NaN in the arguments"):
        sampler().run(X, torch.where(torch.arange(40) == 3, torch.nan, Y))
