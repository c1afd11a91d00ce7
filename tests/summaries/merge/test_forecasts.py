"""Forecasts of what a merge costs, before it and without labels, and outcomes."""

from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.func import functional_call

from pyro_geo.errors import ConfigurationError, LayoutMismatchError, ShapeError
from pyro_geo.summaries.merge import (
    Calibration,
    build_subspace,
    calibrate,
    forecast,
    forecast_from_metrics,
    measure,
    outcome,
)
from pyro_geo.summaries.merge.calibration import calibrated_logits

pytestmark = pytest.mark.usefixtures("double_precision")


def linear(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ p["w"].T


def tanh(p: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.tanh(x @ p["w"].T) @ p["v"].T


def network(count: int = 3, seed: int = 0, size: float = 1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    base = {"w": normal(6, 4), "v": normal(3, 6)}
    models = {
        f"task {k}": {n: x + size * normal(*x.shape) for n, x in base.items()}
        for k in range(count)
    }
    data = {name: normal(200, 4) for name in models}
    mean = {n: torch.stack([m[n] for m in models.values()]).mean(0) for n in base}
    return base, models, data, mean


def test_where_outputs_are_linear_one_node_is_exact():
    models = {k: {"w": torch.randn(3, 4)} for k in "ab"}
    candidate = {"w": torch.randn(3, 4)}
    data = {k: torch.randn(50, 4) for k in "ab"}
    options: dict[str, Any] = {"forwards": linear, "inputs": data}
    actual = outcome(models, candidate, **options)
    for how in ("path", "linear"):
        table = forecast(models, candidate, how=how, nodes=1, **options)
        assert table.predicted_kl.values == pytest.approx(actual.kl.values, rel=1e-12)


def test_nodes_converge_to_the_outputs_that_are_never_computed():
    _, models, data, mean = network()
    options: dict[str, Any] = {"forwards": tanh, "inputs": data}
    direct = forecast(models, mean, how="direct", **options)
    actual = outcome(models, mean, **options)
    assert direct.predicted_kl.values == pytest.approx(actual.kl.values, rel=1e-12)
    errors = []
    for nodes in (1, 2, 4, 8, 16):
        table = forecast(models, mean, nodes=nodes, **options)
        apart = table.predicted_kl.values / actual.kl.values - 1
        errors.append(float(abs(apart).max()))
    assert errors[4] < 1e-4
    assert errors[2] < 0.1
    assert errors[4] < errors[2] < errors[0]


def test_the_candidate_itself_is_not_evaluated_by_a_path():
    _, models, data, mean = network()

    def guarded(p: dict[str, Tensor], x: Tensor) -> Tensor:
        same = (
            not isinstance(p["w"], torch.Tensor)
            or (torch.func.debug_unwrap(p["w"]) - mean["w"]).abs().max() < 1e-9
        )
        assert not same
        return tanh(p, x)

    forecast(models, mean, forwards=guarded, inputs=data)
    with pytest.raises(AssertionError):
        forecast(models, mean, forwards=guarded, inputs=data, how="direct")


def test_a_candidate_may_lie_anywhere_and_have_running_statistics():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval()

    def forward(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, p, (x,))

    def state(size: float) -> dict[str, Tensor]:
        start = module.state_dict().items()
        return {
            n: x + size * torch.rand_like(x) if x.is_floating_point() else x
            for n, x in start
        }

    models, candidate = {"a": state(0.5), "b": state(1.0)}, state(0.3)
    options: dict[str, Any] = {"forwards": forward, "inputs": [torch.randn(60, 4)] * 2}
    actual = outcome(models, candidate, **options).kl.values
    found = forecast(models, candidate, nodes=12, **options).predicted_kl.values
    assert found == pytest.approx(actual, rel=1e-5)


def labelled(sharpness: float = 1.0, n: int = 4000):
    """Two models, and labels drawn from what the first one believes."""
    generator = torch.Generator().manual_seed(1)
    one, two = ({"w": torch.randn(3, 4, generator=generator)} for _ in range(2))
    x = torch.randn(n, 4, generator=generator)
    p = (linear(one, x) / sharpness).softmax(-1)
    labels = torch.multinomial(p, 1, generator=generator)[:, 0]
    return {"a": one}, two, x, labels


def z_score(sharpness: float, **options: Any) -> float:
    models, candidate, x, labels = labelled(sharpness)
    common: dict[str, Any] = {"forwards": linear, "inputs": [x]}
    table = forecast(models, candidate, nodes=1, **common, **options)
    actual = outcome(models, candidate, labels=[labels], **common)
    apart = table.predicted_accuracy_loss - actual.accuracy_loss
    return float(apart.item() / table.standard_error.item())


def test_with_true_probabilities_the_accuracy_loss_is_right_on_average():
    # one comparison at three million to one
    assert abs(z_score(1.0)) < 5
    # a model that is three times too sure of itself
    assert abs(z_score(3.0)) > 5


def test_calibration_takes_overconfidence_back():
    models, _, x, labels = labelled(3.0)
    base = {"w": torch.zeros(3, 4)}
    common: dict[str, Any] = {"forwards": linear}
    found = calibrate(base, models, inputs=[x], labels=[labels], **common)
    logits = calibrated_logits(base, models, found, inputs=[x], **common)["a"]
    # 4000 labels: four standard errors of a fraction are 0.03
    true = (linear(models["a"], x) / 3).softmax(-1)
    assert float((logits.softmax(-1) - true).abs().mean()) < 0.03
    assert float((linear(models["a"], x).softmax(-1) - true).abs().mean()) > 0.1
    # the same labels for calibration and outcome: errors go together, if anything
    assert abs(z_score(3.0, calibrations=found, base=base)) < 5


def test_believed_accuracies_are_those_on_the_calibration_inputs():
    generator = torch.Generator().manual_seed(7)
    base, *models = ({"w": torch.randn(3, 4, generator=generator)} for _ in range(3))
    x = torch.randn(300, 4, generator=generator)
    labels = torch.randint(3, (300,), generator=generator)
    common: dict[str, Any] = {"forwards": linear, "inputs": [x, x]}
    found = calibrate(base, models, labels=[labels] * 2, **common)
    logits = calibrated_logits(base, models, found, **common)["task 0"]
    p = logits.softmax(-1)
    weights = found["task 0"]
    pairs = (
        (models[0], weights.own_class),
        (base, weights.base_class),
        (models[1], weights.others_class),
    )
    for state, weight in pairs:
        own = linear(state, x).argmax(-1)
        believed = p.gather(1, own[:, None]).mean()
        accuracy = (own == labels).double().mean()
        # the stationary point of the likelihood with its prior of precision 4
        gap = float(accuracy - believed)
        assert gap == pytest.approx(4 * weight / 300, abs=1e-8)


def test_standard_errors_cover_the_outcome():
    # many candidates on inputs of their own: 95 % intervals, tested at 1 in 10000
    generator = torch.Generator().manual_seed(4)
    inside = 0
    for _ in range(200):
        one, two = ({"w": torch.randn(3, 4, generator=generator)} for _ in range(2))
        x = torch.randn(400, 4, generator=generator)
        labels = torch.multinomial(linear(one, x).softmax(-1), 1, generator=generator)
        common: dict[str, Any] = {"forwards": linear, "inputs": [x]}
        table = forecast([one], two, how="direct", **common)
        actual = outcome([one], two, labels=[labels[:, 0]], **common)
        apart = (table.predicted_accuracy_loss - actual.accuracy_loss).item()
        inside += abs(apart) < 1.96 * table.standard_error.item()
    assert binomtest(inside, 200, 0.95).pvalue > 1e-4


def test_other_networks_are_weighed_in_where_they_know_better():
    # labels come from the base: the task's own model is noise
    generator = torch.Generator().manual_seed(2)
    base = {"w": torch.randn(3, 4, generator=generator)}
    models = [{"w": torch.randn(3, 4, generator=generator)} for _ in range(2)]
    x = torch.randn(3000, 4, generator=generator)
    labels = torch.multinomial(linear(base, x).softmax(-1), 1, generator=generator)
    found = calibrate(
        base, models, forwards=linear, inputs=[x, x], labels=[labels[:, 0]] * 2
    )
    for weights in found.values():
        assert weights.base == pytest.approx(1.0, abs=0.15)
        assert weights.own == pytest.approx(0.0, abs=0.15)
        assert weights.others == pytest.approx(0.0, abs=0.15)


def test_metrics_alone_forecast_the_divergence():
    base, models, data, mean = network(size=0.3)
    subspace = build_subspace(base, models, "block")
    metrics = {k: measure(tanh, models[k], data[k], subspace) for k in models}
    table = forecast_from_metrics(metrics, mean, subspace)
    actual = outcome(models, mean, forwards=tanh, inputs=data)
    assert list(table.task.values) == list(models)
    assert table.predicted_kl.values == pytest.approx(actual.kl.values, rel=0.3)
    z = subspace.coords(mean)
    same = forecast_from_metrics(list(metrics.values()), z, subspace)
    assert same.predicted_kl.values == pytest.approx(table.predicted_kl.values)
    assert table.attrs["outside"] == pytest.approx(0.0, abs=1e-12)
    other = {n: x + torch.randn_like(x) for n, x in mean.items()}
    assert forecast_from_metrics(metrics, other, subspace).attrs["outside"] > 0.1


def test_an_outcome_counts_what_was_lost():
    models, candidate, x, labels = labelled(n=50)
    table = outcome(
        models, candidate, forwards=linear, inputs=[x], labels=[labels], batch_size=7
    )
    own = float((linear(models["a"], x).argmax(1) == labels).double().mean())
    new = float((linear(candidate, x).argmax(1) == labels).double().mean())
    assert table.task_accuracy.item() == pytest.approx(own)
    assert table.accuracy.item() == pytest.approx(new)
    assert table.accuracy_loss.item() == pytest.approx(own - new)
    plain = outcome(models, candidate, forwards=linear, inputs=[x])
    assert set(plain) == {"kl"}


def test_means_have_a_divergence_and_no_accuracy():
    models, candidate, x, _ = labelled(n=50)
    table = forecast(
        models, candidate, forwards=linear, inputs=[x], likelihood="gaussian"
    )
    assert set(table) == {"predicted_kl", "path_kl"}
    assert table.path_kl.item() == pytest.approx(table.predicted_kl.item(), rel=1e-10)


def test_bad_calls_are_named():
    models, candidate, x, labels = labelled(n=20)
    options: dict[str, Any] = {"forwards": linear, "inputs": [x]}
    with pytest.raises(ConfigurationError, match="how"):
        forecast(models, candidate, **{**options, "how": "guess"})
    with pytest.raises(ConfigurationError, match="nodes"):
        forecast(models, candidate, nodes=0, **options)
    with pytest.raises(ConfigurationError, match="base"):
        forecast(models, candidate, calibrations=[Calibration()], **options)
    with pytest.raises(LayoutMismatchError, match="'w'"):
        forecast(models, {"w": torch.zeros(2, 4)}, **options)
    with pytest.raises(ShapeError, match="labels of task 'a'"):
        outcome(models, candidate, labels=[labels[:5]], **options)
    with pytest.raises(ShapeError, match="labels of task 'a'"):
        calibrate(candidate, models, labels=[labels[:5]], **options)


def test_metrics_of_no_task_are_refused():
    base, models, _, mean = network()
    subspace = build_subspace(base, models, "block")
    for none in ({}, []):
        with pytest.raises(ConfigurationError, match="metrics"):
            forecast_from_metrics(none, mean, subspace)
