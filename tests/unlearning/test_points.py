"""Deletion from point estimates: closed forms, agreement of methods, named errors."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_geo.density import Target
from pyro_geo.errors import (
    ConfigurationError,
    ForgetSetError,
    LayoutMismatchError,
    LeverageError,
    NonStationaryWarning,
    NotPositiveDefiniteError,
    UnsupportedError,
)
from pyro_geo.geometry.matrices import Cholesky
from pyro_geo.unlearning import _solves, delete_point, points
from pyro_geo.unlearning.points import Method

DOUBLE = torch.float64
ROWS = [0, 3, 7]


def regression(seed: int = 0, n: int = 30, d: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=DOUBLE)
    noise = torch.randn(n, generator=generator, dtype=DOUBLE)
    return x, x @ torch.arange(1.0, d + 1).double() + noise


def linear(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1]), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def ridge(x: Tensor, y: Tensor) -> Tensor:
    """The mode of `linear`, in closed form."""
    precision = 4 * x.T @ x + torch.eye(x.shape[-1]).double() / 4
    return torch.linalg.solve(precision, 4 * x.T @ y)


def without(rows: list[int], *tensors: Tensor) -> list[Tensor]:
    keep = torch.ones(len(tensors[0]), dtype=torch.bool)
    keep[rows] = False
    return [t[keep] for t in tensors]


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs, labels, reduction="none")


def softmax_fit(seed: int = 0) -> tuple[torch.nn.Linear, tuple[Tensor, Tensor]]:
    """A softmax regression at its minimum with a prior of precision 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 3, generator=generator, dtype=DOUBLE)
    labels = (x @ torch.randn(3, 3, generator=generator, dtype=DOUBLE)).argmax(-1)
    module = torch.nn.Linear(3, 3, dtype=DOUBLE)
    flat = torch.zeros(12, dtype=DOUBLE)

    def loss(q: Tensor) -> Tensor:
        outputs = x @ q[:9].reshape(3, 3).T + q[9:]
        return cross_entropy(outputs, labels).sum() + 0.5 * q @ q

    for _ in range(30):  # damped Newton steps of a convex loss
        step = torch.linalg.solve(
            torch.func.hessian(loss)(flat), torch.func.grad(loss)(flat)
        )
        size = 1.0
        while loss(flat - size * step) > loss(flat) + 1e-12:
            size /= 2
        flat = flat - size * step
    module.weight.data.copy_(flat[:9].reshape(3, 3))
    module.bias.data.copy_(flat[9:])
    return module, (x, labels)


# -- closed forms ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["newton", "woodbury"])
def test_a_quadratic_loss_is_exact(method: Method) -> None:
    x, y = regression()
    result = delete_point(linear, {"w": ridge(x, y)}, (x, y), ROWS, method=method)
    expected = ridge(*without(ROWS, x, y))
    torch.testing.assert_close(result.values["w"], expected, rtol=1e-10, atol=1e-12)
    assert result.gradient_retained[1] < 1e-9 < result.gradient_retained[0]
    assert result.halvings == 0


def test_the_leverage_of_a_row_is_that_of_regression() -> None:
    x, y = regression()
    precision = 4 * x.T @ x + torch.eye(4).double() / 4
    expected = 4 * x[5] @ torch.linalg.solve(precision, x[5])
    result = delete_point(linear, {"w": ridge(x, y)}, (x, y), [5])
    assert result.leverage == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("stretch", [0.1, 1.0, 3.0, 10.0])
def test_the_error_of_influence_is_the_leverage(stretch: float) -> None:
    # for one row influence makes (1 - h) of the step
    x, y = regression()
    x[0] *= stretch
    start = ridge(x, y)
    exact = delete_point(linear, {"w": start}, (x, y), [0])
    rough = delete_point(linear, {"w": start}, (x, y), [0], method="influence")
    error = (rough.q - exact.q).norm() / (exact.q - start).norm()
    assert float(error) == pytest.approx(exact.leverage, rel=1e-8)


@pytest.mark.parametrize("of", ["guide", "values"])
def test_a_guide_is_copied_and_keeps_its_constraints(of: str) -> None:
    y = torch.tensor([0.5, -1.0, 2.0, 0.3, -0.7, 1.1]).double()
    kept = y[[0, 1, 3, 4, 5]]
    if of == "values":  # a mode of the density of the logarithm
        start = {"scale": _scale_mode(y, 0.0)}
        result = delete_point(spread, start, (y,), [2], num_steps=20)
        assert float(result.fit["scale"]) == pytest.approx(_mode(kept, 0.0), rel=1e-6)
        return
    guide = AutoDelta(spread)
    guide(y)
    guide.scale = _scale_mode(y, 1.0)
    result = delete_point(spread, guide, (y,), [2], num_steps=20)
    assert result.fit.scale.item() == pytest.approx(_mode(kept, 1.0), rel=1e-6)
    assert guide.scale.item() == pytest.approx(_mode(y, 1.0), rel=1e-6)
    assert [n for n, _ in result.fit.named_parameters()] == ["scale_unconstrained"]


def spread(y: Tensor) -> None:
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(0.0, scale), obs=y)


def _mode(y: Tensor, power: float) -> float:
    return float(_scale_mode(y, power))


def _scale_mode(y: Tensor, power: float) -> Tensor:
    """Mode in the scale (`power` 1) or in its logarithm (0), by bisection."""
    low, high = torch.tensor(-5.0).double(), torch.tensor(5.0).double()
    for _ in range(80):
        middle = (low + high) / 2
        slope = -len(y) + (y**2).sum() * torch.exp(-2 * middle) - middle - power
        low, high = (middle, high) if slope > 0 else (low, middle)
    return low.exp()


def test_scales_of_the_model_count() -> None:
    def scaled(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(4), 2.0).to_event(1))
        with pyro.plate("data", len(x)), poutine.scale(scale=3.0):
            pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)

    x, y = regression()
    root3 = 3**0.5  # a scale of 3 is a noise that is smaller by its root
    start, expected = ridge3(x * root3, y * root3), without(ROWS, x, y)
    result = delete_point(scaled, {"w": start}, (x, y), ROWS)
    expected = ridge3(*(root3 * t for t in expected))
    torch.testing.assert_close(result.values["w"], expected, rtol=1e-10, atol=1e-12)


def ridge3(x: Tensor, y: Tensor) -> Tensor:
    return ridge(x, y)


# -- agreement ------------------------------------------------------------------------


def test_woodbury_is_newton() -> None:
    module, data = softmax_fit()
    options = {"loss": cross_entropy, "prior_precision": 1.0}
    newton = delete_point(module, None, data, ROWS, **options)
    other = delete_point(module, None, data, ROWS, method="woodbury", **options)
    assert float((newton.q - other.q).abs().max()) < 1e-10
    assert newton.leverage == pytest.approx(other.leverage, rel=1e-10)


def test_newton_repeated_is_a_new_fit() -> None:
    module, data = softmax_fit()
    result = delete_point(
        module, None, data, ROWS, loss=cross_entropy, prior_precision=1.0, num_steps=8
    )
    assert result.gradient_retained[1] < 1e-9
    once = delete_point(
        module, None, data, ROWS, loss=cross_entropy, prior_precision=1.0
    )
    before, after = once.gradient_retained
    assert after < 0.1 * before
    # what was given is left as it was
    assert not torch.equal(once.fit.weight, module.weight)
    torch.testing.assert_close(once.values["weight"], once.fit.weight.detach())


@pytest.mark.parametrize("method", ["newton", "woodbury", "influence"])
def test_products_alone_give_the_same(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = softmax_fit()
    options = {"loss": cross_entropy, "prior_precision": 1.0, "method": method}
    dense = delete_point(module, None, data, ROWS, **options)
    for part in (points, _solves):
        monkeypatch.setattr(part, "MAX_DENSE_DIM", 0)
    free = delete_point(module, None, data, ROWS, **options)
    assert float((dense.q - free.q).abs().max()) < 1e-9
    assert free.leverage == pytest.approx(dense.leverage, rel=1e-6)


def test_a_kept_precision_serves() -> None:
    x, y = regression()
    precision = 4 * x.T @ x + torch.eye(4).double() / 4
    kept = Cholesky(torch.linalg.cholesky(precision))
    result = delete_point(
        linear, {"w": ridge(x, y)}, (x, y), ROWS, method="woodbury", precision=kept
    )
    expected = ridge(*without(ROWS, x, y))
    torch.testing.assert_close(result.values["w"], expected, rtol=1e-10, atol=1e-12)


def test_keywords_positions_and_targets_are_read() -> None:
    x, y = regression()
    start = ridge(x, y)
    one = delete_point(linear, start, {"x": x, "y": y}, ROWS)
    target = Target.from_model(linear, x, y, dtype=DOUBLE)
    mask = torch.zeros(len(x), dtype=torch.bool)
    mask[ROWS] = True
    two = delete_point(target, start, None, {"data": mask})
    torch.testing.assert_close(one.q, two.q)
    assert isinstance(one.fit, Tensor)
    assert two.to_dict()["leverage"] == pytest.approx(one.leverage)


# -- hard cases -----------------------------------------------------------------------


def test_a_step_that_overshoots_is_halved() -> None:
    def model(y: Tensor) -> None:
        log_rate = pyro.sample("log_rate", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Poisson(log_rate.exp()), obs=y)

    y = torch.cat([torch.full((1,), 100.0), torch.zeros(20)]).double()
    target = Target.from_model(model, y, dtype=DOUBLE, compile=False)
    start = torch.log(torch.tensor([100 / 21])).double()
    for _ in range(50):  # Newton's method to the mode
        slope = 100 - 21 * start.exp() - start / 100
        start = start + slope / (21 * start.exp() + 0.01)
    result = delete_point(target, start, None, range(1, 21))
    assert result.halvings > 0
    assert result.loss_retained[1] < result.loss_retained[0]


def test_a_factor_has_a_hessian() -> None:
    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.factor("fit", -0.5 * (y - mean) ** 2)

    y = torch.tensor([1.0, 2.0, 6.0]).double()
    result = delete_point(model, {"mean": y.sum() / 4}, (y,), [2])
    assert result.curvature == "hessian"
    assert float(result.values["mean"]) == pytest.approx(1.0)


def test_baselines_do_what_they_say() -> None:
    x, y = regression()
    start = {"w": ridge(x, y)}
    tuned = delete_point(
        linear, start, (x, y), ROWS, method="finetune", num_steps=120, learning_rate=0.1
    )
    expected = ridge(*without(ROWS, x, y))
    assert float((tuned.q - expected).norm()) < 0.1 * float(
        (start["w"] - expected).norm()
    )
    risen = delete_point(linear, start, (x, y), ROWS, method="ascent", num_steps=5)
    gone = x[ROWS], y[ROWS]
    assert _squares(risen.q, *gone) > _squares(start["w"], *gone)


def _squares(w: Tensor, x: Tensor, y: Tensor) -> float:
    return float((y - x @ w).square().sum())


# -- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forget", [[], [1, 1], [99], [-99], list(range(30)), torch.zeros(30).bool()]
)
def test_an_impossible_forget_set_is_refused(forget: object) -> None:
    x, y = regression()
    with pytest.raises(ForgetSetError):
        delete_point(linear, {"w": ridge(x, y)}, (x, y), forget)


@pytest.mark.parametrize("method", ["newton", "woodbury", "influence"])
def test_all_the_information_cannot_be_removed(method: Method) -> None:
    # the last parameter is known from row 3 alone, and has no prior
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    y = torch.tensor([[1.0], [2.0], [1.0], [5.0]]).double()
    module = torch.nn.Linear(2, 1, bias=False, dtype=DOUBLE)
    module.weight.data.copy_(torch.tensor([[1.0, 5.0]]))
    with pytest.raises(LeverageError, match="leverage 1"):
        delete_point(module, None, (x, y), [3], method=method, loss=_square)


def _square(f: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (f - y).square().sum(-1)


@pytest.mark.parametrize("method", ["woodbury", "influence"])
def test_data_that_were_never_fitted_are_noticed(method: Method) -> None:
    x, y = regression()
    kept = Cholesky(torch.linalg.cholesky(4 * x.T @ x / 10))  # of a tenth of the data
    with pytest.raises(LeverageError):
        delete_point(
            linear,
            {"w": ridge(x, y)},
            (x, y),
            list(range(20)),
            method=method,
            precision=kept,
        )


def test_parameters_that_are_no_minimum_are_told() -> None:
    x, y = regression()
    with pytest.warns(NonStationaryWarning, match="gradient"):
        delete_point(linear, {"w": ridge(x, y) + 0.1}, (x, y), ROWS)


def test_no_curvature_is_named() -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()
    y = torch.zeros(3, 1).double()
    module = torch.nn.Linear(5, 1, bias=False, dtype=DOUBLE)
    module.weight.data.zero_()
    with pytest.raises(NotPositiveDefiniteError, match="damping"):
        delete_point(module, None, (x, y), [0], loss=_square)
    result = delete_point(module, None, (x, y), [0], loss=_square, damping=1.0)
    assert float(result.q.abs().max()) == 0


def test_mistakes_in_the_call_are_named() -> None:
    x, y = regression()
    start = {"w": ridge(x, y)}
    with pytest.raises(ConfigurationError, match="method"):
        delete_point(linear, start, (x, y), ROWS, method="magic")  # pyright: ignore
    with pytest.raises(ConfigurationError, match="params"):
        delete_point(linear, None, (x, y), ROWS)
    with pytest.raises(LayoutMismatchError):
        delete_point(linear, {"v": ridge(x, y)}, (x, y), ROWS)
    with pytest.raises(UnsupportedError, match="forget"):
        delete_point(linear, object(), (x, y), ROWS)
    with pytest.raises(ConfigurationError, match="precision"):
        delete_point(linear, start, (x, y), ROWS, precision=Cholesky(torch.eye(4)))
