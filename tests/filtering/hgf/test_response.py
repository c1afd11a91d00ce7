"""Response models against closed forms, and what Pyro asks of a distribution."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine

from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.filtering import hgf_filter, response
from pyro_geo.filtering.hgf.features import learning_rates, weighted_errors

D = torch.float64
EXACT: Any = {"rtol": 1e-10, "atol": 1e-10}
SUBJECTS, STEPS = 3, 12


def uniform(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, dtype=D, generator=generator)


@pytest.fixture
def u():
    return (uniform(SUBJECTS, STEPS) < 0.7).to(D)


def binary(u, **options):
    omega = torch.tensor([-2.0, -3.0], dtype=D)
    return hgf_filter(u, omega, [1.0], [0.0, 0.5], [1.0, 2.0], kind="binary", **options)


@pytest.fixture
def beliefs(u):
    return binary(u)


@pytest.fixture
def classes():
    k = torch.tensor([0, 1, 0, 2, 2, 1, 0, 0])
    omega = torch.tensor([-1.0, -2.0], dtype=D).expand(3, 2)
    path = hgf_filter(k, omega, [1.0], [0.0, 0.0], [1.0, 1.0], kind="categorical")
    return k, path


# -- choices ---------------------------------------------------------------------------


def test_noiseless_repetition_of_the_input_is_minus_the_surprise(u, beliefs):
    found = response.unit_square(beliefs, u, zeta=1.0)
    torch.testing.assert_close(found, -beliefs.surprise, **EXACT)
    sure = hgf_filter(u, [-2.0], None, [40.0], [1e6], kind="binary")  # beyond the cut
    found = response.unit_square(sure, u)
    torch.testing.assert_close(found, -sure.surprise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", ["predictions", "posteriors"])
def test_the_unit_square_is_the_ratio_of_powers(u, beliefs, which):
    zeta = torch.tensor([0.3, 1.0, 4.0], dtype=D)
    mean = beliefs.muhat if which == "predictions" else beliefs.mu
    p, z = mean[..., 0].sigmoid(), zeta[:, None]
    one = p**z / (p**z + (1 - p) ** z)
    expected = torch.where(u == 1, one, 1 - one).log()
    found = response.unit_square(beliefs, u, zeta, beliefs=which)
    torch.testing.assert_close(found, expected, **EXACT)


def test_volatility_makes_decisions_noisier(u, beliefs):
    found = response.unit_square(beliefs, u, 2.0, noise_level=2)
    zeta = 2.0 * torch.exp(-beliefs.muhat[..., 1])
    expected = torch.nn.functional.logsigmoid(
        (2 * u - 1) * zeta * beliefs.muhat[..., 0]
    )
    torch.testing.assert_close(found, expected, **EXACT)
    for wrong in (1, 3, "2"):
        with pytest.raises(ConfigurationError, match="noise_level"):
            response.unit_square(beliefs, u, noise_level=wrong)


def test_extreme_noise_and_beliefs_keep_value_and_gradient_finite(u):
    zeta = torch.tensor([1e-300, 1.0, 1e300], dtype=D, requires_grad=True)
    mean = torch.full((2,), 500.0, dtype=D)
    path = hgf_filter(u, [-2.0, -2.0], [1.0], mean, [1.0, 1.0], kind="binary")
    value = response.unit_square(path, u, zeta)
    assert value.isfinite().all()
    (grad,) = torch.autograd.grad(value.sum(), zeta)
    assert grad.isfinite().all()


def test_softmax_of_classes_and_of_a_binary_input(u, beliefs, classes):
    k, path = classes
    beta = torch.tensor(2.5, dtype=D)
    found = response.softmax(path, k, beta)
    expected = (beta * path.pred).log_softmax(-1).gather(-1, k[:, None])[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    p = path.mu[..., 0].sigmoid()
    scale = 2.5 * torch.exp(-path.mu[..., 1].mean(0))
    logits = scale[:, None] * (p / p.sum(0)).T
    found = response.softmax(path, k, beta, beliefs="posteriors", noise_level=2)
    expected = logits.log_softmax(-1).gather(-1, k[:, None])[:, 0]
    torch.testing.assert_close(found, expected, **EXACT)
    # two classes: a logistic curve of the difference of their probabilities
    found = response.softmax(beliefs, u, beta, kind="binary")
    q = beliefs.muhat[..., 0].sigmoid()
    expected = torch.nn.functional.logsigmoid((2 * u - 1) * beta * (2 * q - 1))
    torch.testing.assert_close(found, expected, **EXACT)


def test_a_bandit_shows_the_chosen_arm_alone():
    choices = torch.tensor([[0, 1, 1, 0, 2], [2, 2, -1, 0, 0]])
    rewards = uniform(2, 5, seed=3)
    rewards[0, 1] = torch.nan  # a reward that was not shown
    u, observed = response.bandit_inputs(choices, rewards, 3)
    assert observed.sum().item() == 8
    assert observed[0, 1].tolist() == [False, False, True, False, False]
    path = hgf_filter(u, [-1.0], None, [0.5], [4.0], 10.0, observed=observed)
    for arm in range(3):  # the filter of an arm is that of its own rewards
        alone = hgf_filter(
            torch.where(choices[0] == arm, rewards[0], torch.nan),
            [-1.0],
            None,
            [0.5],
            [4.0],
            10.0,
            nan_policy="missing",
        )
        torch.testing.assert_close(path.muhat[0, arm], alone.muhat, **EXACT)
    beta = torch.tensor([1.0, 3.0], dtype=D)
    seen = choices >= 0
    found = response.bandit(path, choices, beta, kind="continuous", observed=seen)
    logits = beta[:, None, None] * path.muhat[..., 0].mT
    expected = logits.log_softmax(-1).gather(-1, choices.clamp(0)[..., None])[..., 0]
    torch.testing.assert_close(found, torch.where(seen, expected, 0.0), **EXACT)
    sticky = response.bandit(
        path,
        choices,
        beta,
        kind="continuous",
        observed=seen,
        stickiness=torch.tensor([0.5, -1.0], dtype=D),
        choices=choices,
    )
    logits[0, 1, 0] += 0.5  # the first subject has just chosen arm 0
    expected = logits[0, 1].log_softmax(-1)[1]
    torch.testing.assert_close(sticky[0, 1], expected, **EXACT)
    torch.testing.assert_close(sticky[:, 0], found[:, 0], **EXACT)
    with pytest.raises(ConfigurationError, match="stickiness"):
        response.bandit(path, choices, beta, stickiness=1.0)


# -- numbers ---------------------------------------------------------------------------


def test_gaussian_and_reaction_times_are_linear_in_features(u, beliefs):
    b = torch.tensor([[0.4, 1.0, -2.0], [0.1, 0.0, 0.3], [1.0, 1.0, 1.0]], dtype=D)
    sigma = torch.tensor([0.5, 1.0, 2.0], dtype=D)
    p = beliefs.muhat[..., 0].sigmoid()
    mean = b[:, :1] + b[:, 1:2] * beliefs.surprise + b[:, 2:] * p * (1 - p)
    names = ["surprise", "bernoulli_variance"]
    y = uniform(SUBJECTS, STEPS, seed=5) + 0.1
    found = response.gaussian(beliefs, y, b, sigma, names=names)
    expected = scipy.stats.norm.logpdf(y, mean, sigma[:, None])
    torch.testing.assert_close(found, torch.from_numpy(expected), **EXACT)
    found = response.response_time(beliefs, y, b, sigma, names=names)
    expected = scipy.stats.lognorm.logpdf(y, sigma[:, None], scale=mean.exp())
    torch.testing.assert_close(found, torch.from_numpy(expected), **EXACT)
    with pytest.raises(ShapeError, match="coefficients"):
        response.gaussian(beliefs, y, b, sigma, names=["surprise"])


def test_features_have_their_names(u, beliefs):
    names = ["prediction", "posterior", "input_error", "mean_1", "volatility_2"]
    names += ["uncertainty_2", "weighted_error_1", "weighted_error_2"]
    names += ["learning_rate_1", "learning_rate_2"]
    found = dict(zip(names, response.features(beliefs, names).unbind(-1), strict=True))
    torch.testing.assert_close(found["prediction"], beliefs.pred, **EXACT)
    torch.testing.assert_close(found["posterior"], beliefs.mu[..., 0].sigmoid())
    torch.testing.assert_close(found["input_error"], u - beliefs.pred, **EXACT)
    assert torch.equal(found["mean_1"], beliefs.muhat[..., 0])
    assert torch.equal(found["volatility_2"], beliefs.muhat[..., 1])
    assert torch.equal(found["uncertainty_2"], 1 / beliefs.pihat[..., 1])
    moved = beliefs.mu[..., 0] - beliefs.muhat[..., 0]
    torch.testing.assert_close(found["weighted_error_1"], moved, **EXACT)
    rate = found["learning_rate_1"] * found["input_error"]
    torch.testing.assert_close(rate, moved, rtol=1e-9, atol=1e-9)
    pi, pihat = beliefs.pi, beliefs.pihat
    delta = pihat[..., 0] * (1 / pi[..., 0] + moved**2) - 1
    error = pihat[..., 0] / pi[..., 1] * delta
    torch.testing.assert_close(found["weighted_error_2"], error, rtol=1e-9, atol=1e-9)
    for wrong in ("volatility_3", "mean_0", "volatility"):
        with pytest.raises(ConfigurationError, match=wrong):
            response.features(beliefs, [wrong])
    own = response.features(beliefs, [lambda path: path.mu[..., 0] ** 2])
    assert torch.equal(own[..., 0], beliefs.mu[..., 0] ** 2)


def test_the_classic_update_moves_by_its_weighted_error():
    x = uniform(1, 20, seed=7)
    omega, kappa = -3.0, 0.8
    path = hgf_filter(
        x, [omega, -5.0], [kappa], [0.0, 0.0], [2.0, 5.0], 3.0, update="classic"
    )
    volatility = torch.exp(kappa * path.muhat[..., 1] + omega)
    moved = path.mu - path.muhat
    error = weighted_errors(path)
    torch.testing.assert_close(moved[..., 0], error[..., 0], **EXACT)
    expected = 0.5 * kappa * volatility * error[..., 1]
    torch.testing.assert_close(moved[..., 1], expected, rtol=1e-9, atol=1e-9)
    gain = learning_rates(path, "continuous")[..., 0]
    torch.testing.assert_close(gain, 3.0 / path.pi[..., 0], rtol=1e-9, atol=1e-9)


def test_a_missing_input_teaches_nothing(u):
    seen = torch.ones(STEPS, dtype=torch.bool)
    seen[4] = False
    path = binary(u, observed=seen)
    assert bool((learning_rates(path, "binary")[:, 4] == 0).all())
    assert bool((weighted_errors(path)[:, 4] == 0).all())


# -- as distributions ------------------------------------------------------------------


def test_any_function_of_the_trajectory_is_a_response_model(u, beliefs):
    y = uniform(SUBJECTS, STEPS, seed=8)

    def rating(path):
        return dist.StudentT(3.0, path.pred, 0.2)

    found = response.custom(beliefs, y, rating)
    expected = scipy.stats.t.logpdf(y, 3.0, beliefs.pred, 0.2)
    torch.testing.assert_close(found, torch.from_numpy(expected), **EXACT)
    with pytest.raises(ConfigurationError, match="base"):
        response.custom(beliefs, y, lambda path: dist.Normal(0.0, 1.0))


def test_missing_responses_count_nothing_and_have_no_gradient(u, beliefs):
    zeta = torch.ones(SUBJECTS, dtype=D, requires_grad=True)
    y = u.clone()
    y[0, 3] = torch.nan
    choices = response.UnitSquare(beliefs, zeta, nan_policy="missing")
    full = response.unit_square(beliefs, u, zeta)
    steps = choices.log_prob_steps(y)
    assert steps[0, 3].item() == 0
    torch.testing.assert_close(steps[1:], full[1:])
    seen = torch.ones(SUBJECTS, STEPS, dtype=torch.bool)
    seen[0, 3] = False
    same = response.UnitSquare(beliefs, zeta, observed=seen)
    torch.testing.assert_close(same.log_prob(u), choices.log_prob(y), **EXACT)
    (grad,) = torch.autograd.grad(choices.log_prob(y).sum(), zeta)
    assert grad.isfinite().all()
    with pytest.raises(ValueError, match="support"):
        response.UnitSquare(beliefs, 1.0, validate_args=True).log_prob(y)
    late = torch.full((SUBJECTS, STEPS), torch.nan, dtype=D)
    times = response.ResponseTime(
        beliefs, torch.zeros(4, dtype=D), 1.0, nan_policy="missing"
    )
    assert times.log_prob(late).tolist() == [0.0] * SUBJECTS
    with pytest.raises(ShapeError, match="observed"):
        response.UnitSquare(beliefs, 1.0, observed=seen[:, :5])


def test_responses_are_drawn_with_their_probabilities(beliefs):
    draws = 20_000
    pyro.set_rng_seed(0)
    drawn = response.UnitSquare(beliefs, 2.0).sample((draws,))
    assert drawn.shape == (draws, SUBJECTS, STEPS)
    p = (2.0 * beliefs.muhat[..., 0]).sigmoid()
    assert (drawn.mean(0) - p).abs().max() < 6 * 0.5 / math.sqrt(draws)


def test_a_model_of_responses_has_a_density_per_trial(u):
    def model(u, y):
        zeta = pyro.sample("zeta", dist.LogNormal(1.0, 1.0))
        omega = pyro.sample("omega", dist.Normal(-3.0, 1.0))
        levels = torch.stack([omega, omega.new_tensor(-3.0)], -1)
        path = hgf_filter(u, levels, [1.0], [0.0, 0.5], [1.0, 2.0], kind="binary")
        with pyro.plate("subject", SUBJECTS):
            pyro.sample("y", response.UnitSquare(path, zeta), obs=y)

    target = Target.from_model(model, u, u, dtype=D)
    q = torch.tensor([[-2.0, 0.0], [-1.0, 0.7]], dtype=D)
    steps = target.stepwise_log_likelihood(q)["y"]
    assert target.dims["y"] == ("subject", "trial")
    torch.testing.assert_close(steps[0], -binary(u).surprise, **EXACT)
    torch.testing.assert_close(
        steps.sum((-1, -2)), target.log_likelihood(q), rtol=1e-12, atol=1e-12
    )
    value, grad = target.with_rung("mapped").value_and_grad(q)
    assert value.isfinite().all()
    assert grad.isfinite().all()


def test_pyro_can_expand_mask_and_scale_them(u, beliefs):
    one: Any = response.UnitSquare(binary(u[0]), 2.0)
    assert one.expand([4, 3]).log_prob(u).shape == (4, 3)
    event = one.expand([3]).to_event(1)
    torch.testing.assert_close(event.log_prob(u), one.log_prob(u).sum(), **EXACT)
    trace = poutine.trace(
        poutine.scale(
            lambda: pyro.sample("y", one.expand([3]).mask(False).to_event(1), obs=u),
            scale=3.0,
        )
    ).get_trace()
    assert float(torch.as_tensor(trace.log_prob_sum())) == 0
