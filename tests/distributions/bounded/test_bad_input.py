"""Mistakes raise at construction and name the argument."""

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch

from pyro_geo.distributions import (
    BoundedFlat,
    BoundedGamma,
    BoundedLikelihood,
    BoundedMeasure,
    BoundedMultivariateNormal,
    BoundedNormal,
    EllipsoidBall,
)
from pyro_geo.errors import (
    BallSpecError,
    ConfigurationError,
    NotPositiveDefiniteError,
    ShapeError,
    UnsupportedError,
)

ZERO, EYE = torch.zeros(2), torch.eye(2)
NAN = math.nan


@pytest.mark.parametrize(
    "size",
    [
        {},
        {"radius": 1.0, "mass": 0.5},
        {"radius": 1.0, "nats": 0.5, "mass": 0.5},
    ],
)
def test_a_ball_has_exactly_one_size(size):
    with pytest.raises(BallSpecError, match="radius, nats, mass"):
        BoundedNormal(0.0, 1.0, **size)
    with pytest.raises(BallSpecError, match="radius, nats, mass"):
        BoundedMultivariateNormal(ZERO, EYE, **size)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("radius", value) for value in (0.0, -1.0, math.inf, NAN, "wide")),
        *(("nats", value) for value in (0.0, -1.0, math.inf, NAN)),
        *(("mass", value) for value in (0.0, 1.0, 1.5, -0.1, NAN)),
    ],
)
def test_a_size_out_of_range_is_refused(name, value):
    size: Any = {name: value}
    with pytest.raises(BallSpecError, match=name):
        BoundedNormal(0.0, 1.0, **size)
    with pytest.raises(BallSpecError, match=name):
        BoundedMultivariateNormal(ZERO, EYE, **size)
    if not isinstance(value, str):
        size = {name: torch.tensor([value, 0.5])}
        with pytest.raises(BallSpecError, match=name):
            BoundedNormal(0.0, 1.0, **size)


@pytest.mark.parametrize("kappa", [-0.5, math.inf, NAN, torch.tensor(1.0), "1"])
def test_a_power_out_of_range_is_refused(kappa):
    with pytest.raises(BallSpecError, match="kappa"):
        BoundedFlat(ZERO, EYE, radius=1.0, kappa=kappa)


def test_tail_nats_have_no_field():
    with pytest.raises(BallSpecError, match="separation and kappa"):
        BoundedNormal(0.0, 1.0, nats=2.0, separation="tail", kappa=1.0)


def test_unknown_choices_are_refused():
    with pytest.raises(ConfigurationError, match="separation"):
        BoundedNormal(0.0, 1.0, nats=2.0, separation="delta")  # pyright: ignore
    with pytest.raises(ConfigurationError, match="bijector"):
        BoundedFlat(ZERO, EYE, radius=1.0, bijector="sigmoid")  # pyright: ignore


def test_a_scale_is_given_once_and_is_positive_definite():
    with pytest.raises(ConfigurationError, match="covariance_matrix"):
        BoundedMultivariateNormal(ZERO, mass=0.9)
    with pytest.raises(ConfigurationError, match="scale_tril"):
        BoundedMultivariateNormal(ZERO, EYE, EYE, mass=0.9)
    for name in ("covariance_matrix", "precision_matrix"):
        for matrix in (-EYE, torch.zeros(2, 2), EYE * NAN):
            given: Any = {name: matrix}
            with pytest.raises(NotPositiveDefiniteError, match=name):
                BoundedMultivariateNormal(ZERO, mass=0.9, **given)
    for matrix in (-EYE, torch.ones(2, 2), EYE * NAN):
        with pytest.raises(ValueError, match="scale_tril"):
            BoundedMultivariateNormal(ZERO, matrix, mass=0.9)


def test_parameters_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="loc"):
        BoundedNormal(NAN, 1.0, mass=0.9)
    for scale in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match="scale"):
            BoundedNormal(0.0, scale, mass=0.9)
    with pytest.raises(ValueError, match="loc"):
        BoundedMultivariateNormal(ZERO * NAN, EYE, mass=0.9)


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match="loc"):
        BoundedMultivariateNormal(torch.tensor(0.0), EYE, mass=0.9)
    with pytest.raises(ShapeError, match="scale_tril"):
        BoundedMultivariateNormal(ZERO, torch.eye(3), mass=0.9)
    with pytest.raises(ShapeError, match="covariance_matrix"):
        BoundedMultivariateNormal(ZERO, covariance_matrix=torch.ones(2), mass=0.9)
    one = BoundedMultivariateNormal(torch.zeros(4, 2), EYE, mass=0.9)
    for shape in ((3,), (5, 2), (4, 1)):
        with pytest.raises(ShapeError, match="value"):
            one.log_prob(torch.zeros(shape))
    with pytest.raises(ShapeError, match="value"):
        BoundedNormal(torch.zeros(3), 1.0, mass=0.9).log_prob(torch.zeros(4))


def test_without_validation_nothing_raises():
    one = BoundedNormal(0.0, torch.tensor(-1.0), radius=1.0, validate_args=False)
    assert torch.isnan(one.log_prob(torch.tensor(0.0)))
    size = torch.tensor(-1.0)
    one = BoundedNormal(0.0, 1.0, mass=size, validate_args=False)
    assert torch.isnan(one.radius)


def test_representations_are_short():
    assert "tanh" in repr(EllipsoidBall(ZERO, EYE, 1.0))
    assert repr(BoundedNormal(0.0, 1.0, mass=0.9)).startswith("BoundedNormal(loc: 0.0")
    short = "BoundedGamma(Gamma(concentration: 2.0, rate: 1.0), nats: 4.605)"
    assert repr(BoundedGamma(2.0, 1.0, mass=0.99)) == short
    many = BoundedGamma(2.0, torch.ones(3), mass=0.99)
    assert repr(many).endswith("nats: tensor of (3,))")


def test_a_class_in_the_place_of_a_distribution_is_named():
    with pytest.raises(UnsupportedError, match=r"the class Gamma.*Gamma\(\.\.\.\)"):
        BoundedMeasure(dist.Gamma, mass=0.9)


def test_likelihoods_of_shapes_that_do_not_broadcast_are_refused():
    good, bad = dist.Normal(torch.zeros(3), 1.0), dist.Uniform(torch.zeros(2), 5.0)
    with pytest.raises(ShapeError, match=r"\(3,\), \(2,\), \(\)"):
        BoundedLikelihood(good, bad, 0.1)
