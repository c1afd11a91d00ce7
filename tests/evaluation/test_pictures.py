"""Pictures of predictions, and predictive checks, against counts by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo import Target
from pyro_geo.errors import ShapeError, UnsupportedError
from pyro_geo.evaluation.comparison import Prediction, predict
from pyro_geo.evaluation.pictures import least_sure, reliability
from pyro_geo.evaluation.predictive_checks import predictive_checks

PROBS = torch.tensor([[0.95, 0.05], [0.9, 0.1], [0.4, 0.6], [0.45, 0.55]])
LABELS = torch.tensor([0, 1, 1, 0])


def prediction(probs: torch.Tensor | None = PROBS) -> Prediction:
    return Prediction(torch.zeros(1, 4), probs, None, LABELS)


def test_reliability_counts_right_answers_in_each_bin():
    found = reliability({"ours": prediction()}, num_bins=3)
    assert found.x == pytest.approx([0.5 + 1 / 12, 0.75, 1 - 1 / 12])
    low, middle, high = found.lines["ours"]
    assert (low, high) == (0.5, 0.5)
    assert math.isnan(middle)  # no datum there
    assert found.lines["calibrated"] == found.x


def test_a_calibrated_method_is_near_its_line():
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(20_000, 3, generator=generator, dtype=torch.float64)
    probs = probs / probs.sum(-1, keepdim=True)
    labels = torch.multinomial(probs, 1, generator=generator)[:, 0]
    one = Prediction(probs[:, 0].log()[None], probs, None, labels)
    found = reliability({"ours": one}, num_bins=4)
    confidence = probs.amax(-1)
    edges = torch.linspace(1 / 3, 1, 5, dtype=torch.float64)
    for k, share in enumerate(found.lines["ours"]):
        inside = (confidence > edges[k]) & (confidence <= edges[k + 1])
        mean, count = float(confidence[inside].mean()), int(inside.sum())
        # four bins at a false-alarm rate of 1e-6 in all: 5.2 standard errors
        assert abs(share - mean) < 5.2 * (mean * (1 - mean) / count) ** 0.5


def test_the_least_sure_images_come_first():
    pixels = torch.arange(4.0).reshape(4, 1, 1).expand(4, 2, 2)
    found = least_sure(prediction(), pixels, num_images=2)
    assert found.titles == ["1? 55 %, is 0", "1? 60 %, is 1"]
    assert torch.as_tensor(found.pixels)[:, 0, 0].tolist() == [3.0, 2.0]
    with pytest.raises(ShapeError, match=r"pixels.*\(4, height, width\)"):
        least_sure(prediction(), pixels[:3])


def test_reliability_of_numbers_counts_those_below_each_quantile():
    reached = torch.tensor([0.1, 0.3, 0.35, 0.9])
    one = Prediction(torch.zeros(1, 4), None, reached, torch.zeros(4))
    found = reliability({"ours": one}, num_bins=4)
    assert found.x == found.lines["calibrated"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.lines["ours"] == [0.0, 0.25, 0.75, 0.75, 1.0]


def test_right_forecasts_of_numbers_are_near_the_diagonal():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, 2.0), obs=y)

    generator = torch.Generator().manual_seed(3)
    y = 2.0 * torch.randn(5_000, generator=generator, dtype=torch.float64)
    ours = predict(Target.from_model(model, y), torch.zeros(1, 1).double())
    found = reliability({"ours": ours}, num_bins=4)
    for level, share in zip(found.x, found.lines["ours"], strict=True):
        # three levels inside at a false-alarm rate of 1e-6 in all: 5.1 standard errors
        assert abs(share - level) <= 5.1 * (level * (1 - level) / 5_000) ** 0.5


def test_what_is_neither_a_class_nor_a_number_has_no_reliability():
    with pytest.raises(UnsupportedError, match="not one of classes"):
        reliability({"ours": prediction(None)})


def test_wrong_answers_are_marked():
    assert prediction().wrong.tolist() == [0.0, 1.0, 0.0, 1.0]
    with pytest.raises(UnsupportedError, match="not one of classes"):
        _ = prediction(None).wrong


def test_predictive_checks_count_replications_above():
    seen = torch.tensor([0.0, 2.0])
    made = torch.tensor([[0.0, 2.0], [1.0, 3.0], [-1.0, 1.0], [0.0, 9.0]])
    table = predictive_checks(seen, made.reshape(2, 2, 2))
    assert table.loc["mean", "observed"] == 1.0
    assert table.loc["mean", "p"] == (2 + 0.5) / 4
    assert table.loc["largest", "p"] == (2 + 0.5) / 4
    assert table.loc["smallest", "p"] == (1 + 2 * 0.5) / 4
    own = predictive_checks(seen, made, {"first": lambda y: y[..., 0]})
    assert own.loc["first", "p"] == (1 + 2 * 0.5) / 4
    with pytest.raises(ShapeError, match="replicated"):
        predictive_checks(seen, made[:, :1])


def test_a_model_that_cannot_make_such_data_has_an_extreme_p():
    generator = torch.Generator().manual_seed(1)
    made = torch.randn(400, 50, generator=generator)
    table = predictive_checks(3.0 + torch.randn(50, generator=generator), made)
    assert table.loc["mean", "p"] == 0.0
