import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import UnsupportedError
from pyro_geo.evaluation.comparison import predict, prediction_scores, score_table

X = torch.linspace(-1, 1, 12, dtype=torch.float64).unsqueeze(-1)
Y = 0.7 * X.squeeze(-1) + 0.1 * torch.sin(9 * X.squeeze(-1))
LABELS = (X.squeeze(-1) > 0).long()


def line(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(1), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.3), obs=y)


def classes(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(1, 2), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(logits=x @ w), obs=y)


def make(model, y):
    return Target.from_model(model, X, y, dtype=torch.float64)


def test_a_regression_is_scored_as_a_mixture():
    draws = torch.tensor([[0.5], [0.9]], dtype=torch.float64)
    normal = torch.distributions.Normal(X.squeeze(-1) * draws, 0.3)
    scores = prediction_scores(predict(make(line, Y), draws))
    mixed = normal.log_prob(Y).exp().mean(0).log()
    assert scores["nll"] == pytest.approx(-mixed.mean().item(), rel=1e-12)
    below = predict(make(line, Y), draws).transforms
    assert below is not None
    torch.testing.assert_close(below, normal.cdf(Y).mean(0))
    assert "accuracy" not in scores


def test_a_classifier_is_scored_by_mixed_probabilities():
    draws = torch.tensor([[0.0, 3.0], [1.0, 0.0]], dtype=torch.float64)
    probs = torch.softmax(X * draws.unsqueeze(1), -1).mean(0)
    prediction = predict(make(classes, LABELS), draws)
    assert prediction.probs is not None
    torch.testing.assert_close(prediction.probs, probs)
    right = (probs.argmax(-1) == LABELS).double().mean().item()
    assert prediction_scores(prediction)["accuracy"] == pytest.approx(right)


def test_the_table_has_a_row_for_every_method():
    target = make(line, Y)
    draws = torch.zeros(3, 1, dtype=torch.float64)
    table = score_table(target, target, {"ours": draws}, num_members=2, num_draws=400)
    assert list(table.index) == [
        "ours",
        "MAP",
        "deep ensemble of 2",
        "linearised Laplace",
    ]
    # one minimum: the ensemble is the MAP; on a linear model its linearisation is exact
    assert table.loc["MAP", "nll"] == pytest.approx(
        table.loc["deep ensemble of 2", "nll"], abs=1e-6
    )
    precision = 1 + (X**2).sum().item() / 0.3**2
    mean = (X.squeeze(-1) @ Y).item() / 0.3**2 / precision
    exact = torch.distributions.Normal(
        X.squeeze(-1) * mean, (0.3**2 + X.squeeze(-1) ** 2 / precision).sqrt()
    )
    # 400 draws: the mixture's error is far below the difference to the MAP's score
    expected = -exact.log_prob(Y).mean().item()
    assert table.loc["linearised Laplace", "nll"] == pytest.approx(expected, abs=5e-3)
    assert table.loc["ours", "nll"] > table.loc["MAP", "nll"]


def test_scores_need_one_observed_site():
    potential = Target.from_potential(lambda q: q.square().sum(), 1)
    with pytest.raises(UnsupportedError, match="one observed site"):
        predict(potential, torch.zeros(1, 1))
