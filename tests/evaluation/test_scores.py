"""Scores against scikit-learn, SciPy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn import metrics

from pyro_geo.errors import ConfigurationError, ShapeError
from pyro_geo.evaluation import scores


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture
def classified(rng):
    probs = rng.dirichlet(np.full(4, 0.7), size=200)
    labels = np.array([rng.choice(4, p=p) for p in probs])
    return torch.as_tensor(probs), torch.as_tensor(labels)


def test_negative_log_likelihood_is_that_of_the_mixture(rng):
    log_prob = rng.normal(size=(7, 30)) * 20
    expected = -np.mean(logsumexp(log_prob, axis=0, b=1 / 7))
    found = scores.negative_log_likelihood(torch.as_tensor(log_prob))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_negative_log_likelihood_of_gaussians_has_its_closed_form():
    y = torch.linspace(-3, 3, 11, dtype=torch.float64)
    one = -0.5 * ((y - 0.5) / 2.0) ** 2 - math.log(2.0) - 0.5 * math.log(2 * math.pi)
    expected = -stats.norm.logpdf(y.numpy(), 0.5, 2.0).mean()
    for draws in (1, 5):
        found = scores.negative_log_likelihood(one.expand(draws, -1))
        assert found.item() == pytest.approx(expected, rel=1e-12)


def test_a_draw_without_density_does_no_harm():
    log_prob = torch.tensor([[-math.inf, 0.0], [0.0, 0.0]])
    found = scores.negative_log_likelihood(log_prob)
    assert found.item() == pytest.approx(math.log(2) / 2)


def test_averaging_over_draws_first_would_score_worse(rng):
    log_prob = torch.as_tensor(rng.normal(size=(5, 40)))
    assert scores.negative_log_likelihood(log_prob) < -log_prob.mean()


def test_brier_is_a_sum_of_squared_errors(classified):
    probs, labels = classified
    happened = np.eye(4)[labels.numpy()]
    expected = 4 * metrics.mean_squared_error(happened, probs.numpy())
    assert scores.brier(probs, labels).item() == pytest.approx(expected, rel=1e-12)


def test_brier_is_twice_that_of_two_classes(rng):
    p = rng.uniform(size=50)
    labels = (rng.uniform(size=50) < p).astype(int)
    found = scores.brier(
        torch.as_tensor(np.stack([1 - p, p], 1)), torch.as_tensor(labels)
    )
    assert found.item() == pytest.approx(2 * metrics.brier_score_loss(labels, p))


def test_accuracy_agrees_with_scikit_learn(classified):
    probs, labels = classified
    expected = metrics.accuracy_score(labels.numpy(), probs.numpy().argmax(1))
    assert scores.accuracy(probs, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("num_bins", [1, 5, 15])
def test_expected_calibration_error_agrees_with_its_definition(classified, num_bins):
    probs, labels = classified
    confidence, right = probs.max(1).values.numpy(), (probs.argmax(1) == labels).numpy()
    expected = 0.0
    for b in range(num_bins):
        inside = (confidence > b / num_bins) & (confidence <= (b + 1) / num_bins)
        if inside.any():
            gap = right[inside].mean() - confidence[inside].mean()
            expected += inside.mean() * abs(gap)
    found = scores.expected_calibration_error(probs, labels, num_bins=num_bins)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_expected_calibration_error_in_one_bin_is_the_mean_gap(classified):
    probs, labels = classified
    gap = scores.accuracy(probs, labels) - probs.max(1).values.mean()
    found = scores.expected_calibration_error(probs, labels, num_bins=1)
    assert found.item() == pytest.approx(abs(gap.item()))


def test_predictive_entropy_agrees_with_scipy(classified):
    probs, _ = classified
    expected = stats.entropy(probs.numpy(), axis=1)
    np.testing.assert_allclose(scores.predictive_entropy(probs), expected, rtol=1e-12)


def test_predictive_entropy_keeps_leading_axes_and_reaches_its_bounds():
    probs = torch.zeros(2, 3, 5)
    probs[0], probs[1, :, 0] = 0.2, 1.0
    found = scores.predictive_entropy(probs)
    torch.testing.assert_close(found[0], torch.full((3,), math.log(5)))
    assert found[1].abs().max() == 0


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_auroc_agrees_with_scikit_learn_with_and_without_ties(rng, decimals):
    inside = rng.normal(size=80).round(decimals)
    outside = rng.normal(0.7, 1.0, size=50).round(decimals)
    truth = np.r_[np.zeros(80), np.ones(50)]
    expected = metrics.roc_auc_score(truth, np.r_[inside, outside])
    found = scores.auroc(torch.as_tensor(inside), torch.as_tensor(outside))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_auroc_turns_round_when_the_groups_are_exchanged():
    a, b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0], dtype=torch.float64)
    total = scores.auroc(a, b) + scores.auroc(b, a)
    assert total.item() == pytest.approx(1.0)
    assert scores.auroc(a, a + 10).item() == 1.0


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9, 0.99])
def test_coverage_agrees_with_numpy(rng, level):
    draws, targets = rng.normal(size=(37, 200)), rng.normal(size=200)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    expected = ((low <= targets) & (targets <= high)).mean()
    found = scores.coverage(
        torch.as_tensor(draws), torch.as_tensor(targets), level=level
    )
    assert found.item() == pytest.approx(expected)


def test_coverage_of_exact_draws_is_the_level(rng):
    n, draws = 4000, 400
    x, y = (
        torch.as_tensor(rng.normal(size=(draws, n))),
        torch.as_tensor(rng.normal(size=n)),
    )
    covered = round(scores.coverage(x, y, level=0.9).item() * n)
    # Of exact draws the interval covers 0.9 up to 1/draws; false alarm one in 10^4.
    low, _ = stats.binom.interval(1 - 1e-4, n, 0.9 - 1 / draws)
    _, high = stats.binom.interval(1 - 1e-4, n, 0.9 + 1 / draws)
    assert low <= covered <= high


def test_coverage_of_a_single_draw_is_zero():
    assert scores.coverage(torch.zeros(1, 3), torch.ones(3)).item() == 0.0


def test_pit_is_the_mean_rank(rng):
    draws, targets = rng.normal(size=(50, 20)), rng.normal(size=20)
    expected = [
        stats.percentileofscore(draws[:, i], targets[i], "mean") / 100
        for i in range(20)
    ]
    found = scores.pit(torch.as_tensor(draws), torch.as_tensor(targets))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_pit_of_exact_draws_is_uniform(rng):
    draws, targets = rng.normal(size=(2000, 500)), rng.normal(size=500)
    found = scores.pit(torch.as_tensor(draws), torch.as_tensor(targets))
    assert stats.kstest(found.numpy(), "uniform").pvalue > 1e-4


def test_calibration_error_agrees_with_its_definition(rng):
    transforms = rng.beta(0.5, 0.5, size=300)
    levels = np.arange(1, 100) / 100
    empirical = (transforms[:, None] <= levels).mean(0)
    expected = np.abs(empirical - levels).mean()
    found = scores.calibration_error(torch.as_tensor(transforms))
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_calibration_error_grows_as_predictions_become_too_narrow(rng):
    y = torch.as_tensor(rng.normal(size=2000))
    errors = [
        scores.calibration_error(torch.distributions.Normal(0.0, scale).cdf(y)).item()
        for scale in (1.0, 0.5, 1e-3)
    ]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 0.03
    assert errors[2] == pytest.approx(0.25, abs=0.02)


def _nan(*shape):
    x = torch.full(shape, 0.5)
    x.view(-1)[0] = math.nan
    return x


@pytest.mark.parametrize(
    "score",
    [
        lambda: scores.negative_log_likelihood(_nan(2, 3)),
        lambda: scores.brier(_nan(3, 2), torch.zeros(3)),
        lambda: scores.accuracy(_nan(3, 2), torch.zeros(3)),
        lambda: scores.expected_calibration_error(_nan(3, 2), torch.zeros(3)),
        lambda: scores.auroc(_nan(3), torch.ones(2)),
        lambda: scores.auroc(torch.ones(2), _nan(3)),
        lambda: scores.coverage(_nan(5, 3), torch.ones(3)),
        lambda: scores.coverage(torch.ones(5, 3), _nan(3)),
        lambda: scores.calibration_error(_nan(4)),
        lambda: scores.pit(_nan(5, 3), torch.ones(3))[0],
        lambda: scores.predictive_entropy(_nan(3, 2))[0],
    ],
)
def test_nan_in_gives_nan_out(score):
    assert score().isnan()


@pytest.mark.parametrize(
    "call",
    [
        lambda: scores.negative_log_likelihood(torch.ones(3)),
        lambda: scores.negative_log_likelihood(torch.ones(0, 3)),
        lambda: scores.brier(torch.ones(3), torch.zeros(3)),
        lambda: scores.brier(torch.ones(3, 2), torch.zeros(2)),
        lambda: scores.brier(torch.ones(3, 2), torch.full((3,), 2)),
        lambda: scores.accuracy(torch.ones(3, 2), torch.full((3,), -1)),
        lambda: scores.expected_calibration_error(torch.ones(0, 2), torch.zeros(0)),
        lambda: scores.predictive_entropy(torch.tensor(1.0)),
        lambda: scores.auroc(torch.ones(0), torch.ones(1)),
        lambda: scores.auroc(torch.ones(1), torch.ones(1, 1)),
        lambda: scores.coverage(torch.ones(3), torch.ones(3)),
        lambda: scores.pit(torch.ones(4, 3), torch.ones(4)),
        lambda: scores.calibration_error(torch.ones(2, 2)),
    ],
)
def test_shapes_that_do_not_fit_are_named(call):
    with pytest.raises(ShapeError, match=r": found .*, expected .*\. "):
        call()


def test_options_out_of_range_are_named():
    probs, labels = torch.full((2, 2), 0.5), torch.zeros(2)
    with pytest.raises(ConfigurationError, match="num_bins"):
        scores.expected_calibration_error(probs, labels, num_bins=0)
    with pytest.raises(ConfigurationError, match="level"):
        scores.coverage(torch.ones(3, 2), torch.ones(2), level=1.0)
    with pytest.raises(ConfigurationError, match="num_levels"):
        scores.calibration_error(torch.ones(2), num_levels=0)
