"""Arguments, errors and results of the filter."""

import math
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from pyro_geo import filtering
from pyro_geo.errors import (
    ConfigurationError,
    HGFDomainError,
    HGFNegativePrecisionError,
    HGFShapeError,
)
from pyro_geo.filtering import HGFTrajectory
from pyro_geo.filtering.hgf.run import prepare, run_total

DOUBLE = torch.float64
BOTH = pytest.mark.parametrize("backend", ["torch", "auto"])
OWN = ([-2.0, -1.0], [1.0], [0.0, 0.0], [1.0, 1.0])


def hgf_filter(*arguments: Any, **options: Any) -> HGFTrajectory:
    """Filter with the operations of torch, which need no compiling, if not told."""
    return filtering.hgf_filter(*arguments, **({"backend": "torch"} | options))


def hgf_surprise(*arguments: Any, **options: Any) -> torch.Tensor:
    """Find the surprise in the same way."""
    return filtering.hgf_surprise(*arguments, **({"backend": "torch"} | options))


def series(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=DOUBLE)


def test_a_trajectory_is_a_tree_of_tensors_of_the_shapes_that_are_documented():
    path = hgf_filter(series(4, 6), *OWN, 1.0)
    doubled = pytree.tree_map(lambda x: 2 * x, path)
    assert isinstance(doubled, HGFTrajectory)
    assert torch.equal(doubled.final_state.mu, 2 * path.mu[:, -1])
    assert path.mu.shape == path.pihat.shape == (4, 6, 2)
    assert path.surprise.shape == path.pred.shape == path.pe_value.shape == (4, 6)
    assert path.pe_volatility.shape == (4, 6, 1)


def test_errors_of_prediction_are_what_the_beliefs_say():
    u = series(9)
    path = hgf_filter(u, *OWN, 2.0)
    torch.testing.assert_close(path.pe_value, u - path.muhat[:, 0])
    torch.testing.assert_close(path.pred, path.muhat[:, 0])
    gain = 2.0 / path.pi[:, 0] * path.pe_value
    torch.testing.assert_close(path.mu[:, 0], path.muhat[:, 0] + gain)
    change = 1 / path.pi[:, 0] + (path.mu - path.muhat)[:, 0] ** 2
    torch.testing.assert_close(path.pe_volatility[:, 0], change * path.pihat[:, 0] - 1)
    spread = (1 / path.pihat[:, 0] + 0.5).sqrt()
    density = torch.distributions.Normal(path.pred, spread).log_prob(u)
    torch.testing.assert_close(path.surprise, -density)
    state = hgf_filter(u, *OWN, 2.0, predictive="state")
    spread = (1 / path.pihat[:, 0]).sqrt()
    density = torch.distributions.Normal(path.pred, spread).log_prob(u)
    torch.testing.assert_close(state.surprise, -density)
    assert torch.equal(state.mu, path.mu)


def test_binary_predictions_are_probabilities():
    u = (series(9) > 0).double()
    path = hgf_filter(u, *OWN, kind="binary")
    p = torch.sigmoid(path.muhat[:, 0])
    torch.testing.assert_close(path.pred, p)
    torch.testing.assert_close(path.pe_value, u - p)
    expected = torch.distributions.Bernoulli(p).log_prob(u)
    torch.testing.assert_close(path.surprise, -expected)
    # certainty is bounded, as in the toolboxes
    sure = hgf_filter([0.0], *OWN[:2], [50.0, 0.0], OWN[3], kind="binary")
    assert sure.surprise.item() == pytest.approx(-math.log(1e-6))


@pytest.mark.parametrize("normalise", [True, False])
def test_classes_are_binary_chains(normalise):
    u = torch.randint(0, 3, (2, 8), generator=torch.Generator().manual_seed(0))
    observed = torch.ones(2, 8, dtype=torch.bool)
    observed[0, 3] = False
    options = {"kind": "categorical", "observed": observed}
    path = hgf_filter(u, *OWN, **options, num_classes=3, normalise=normalise)
    assert path.mu.shape == (2, 3, 8, 2)
    assert path.pred.shape == (2, 8, 3)
    parts = []
    for c in range(3):
        own = hgf_filter((u == c).double(), *OWN, kind="binary", observed=observed)
        torch.testing.assert_close(path.mu[:, c], own.mu)
        torch.testing.assert_close(path.pe_value[:, c], own.pe_value)
        parts.append(own)
    p = torch.stack([part.pred for part in parts], -1)
    p = p / p.sum(-1, keepdim=True)
    torch.testing.assert_close(path.pred, p)
    expected = -torch.distributions.Categorical(p).log_prob(u)
    if not normalise:
        expected = torch.stack([part.surprise for part in parts]).sum(0)
    expected = torch.where(observed, expected, 0.0)
    torch.testing.assert_close(path.surprise, expected)
    again = hgf_surprise(u, *OWN, **options, num_classes=3, normalise=normalise)
    torch.testing.assert_close(again, path.surprise)
    # each class its own volatility, which tells their number
    omega = torch.tensor([[-2.0, -1.0], [-1.0, -1.0], [0.0, -1.0]], dtype=DOUBLE)
    own = hgf_filter(u, omega, *OWN[1:], **options, normalise=normalise)
    torch.testing.assert_close(own.mu[:, 0], path.mu[:, 0])
    assert not torch.allclose(own.mu[:, 1], path.mu[:, 1])


def test_types_are_those_of_the_tensors():
    assert hgf_filter([0.0, 1.0], *OWN, 1.0).mu.dtype == DOUBLE
    single = torch.zeros(3)
    assert hgf_filter(single, *OWN, 1.0).surprise.dtype == torch.float32
    omega = torch.tensor(OWN[0], dtype=DOUBLE)
    assert hgf_surprise(single, omega, *OWN[1:], 1.0).dtype == DOUBLE
    whole = torch.tensor([0, 1, 1])
    assert hgf_surprise(whole, *OWN, kind="binary").dtype == DOUBLE


def test_numbers_are_for_all_levels():
    path = hgf_filter(series(5), [-2.0, -2.0, -2.0], 1.0, 0.0, 1.0, 1.0)
    three = ([-2.0] * 3, [1.0] * 2, [0.0] * 3, [1.0] * 3, 1.0)
    assert torch.equal(path.mu, hgf_filter(series(5), *three).mu)
    one = hgf_filter(series(5), -2.0, None, 0.0, 1.0, 1.0)
    assert one.mu.shape == (5, 1)


def test_missing_inputs():
    u = series(2, 6)
    u[1, 2] = torch.nan
    with pytest.raises(HGFDomainError, match=r"subject 1, trial 2.*nan_policy"):
        hgf_filter(u, *OWN, 1.0)
    path = hgf_filter(u, *OWN, 1.0, nan_policy="missing")
    observed = ~u.isnan()
    assert torch.equal(path.mu, hgf_filter(u, *OWN, 1.0, observed=observed).mu)
    assert path.surprise[1, 2] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pi0": [1.0, -1.0]}, r"pi0 out of range \(level 1\): found -1.0"),
        ({"input_precision": 0.0}, r"input_precision out of range \(scalar\)"),
        ({"time_step": [1.0, 0.0, 1.0]}, r"time_step out of range \(trial 1\)"),
        ({"u": [0.0, math.inf, 0.0]}, r"u out of range \(trial 1\): found inf"),
        ({"u": [0.0, 0.5, 1.0], "kind": "binary"}, r"\(trial 1\): found 0.5"),
        (
            {"u": [0, 3, 1], "kind": "categorical", "num_classes": 3},
            r"\(trial 1\): found 3.0, expected a class number, 0 to 2",
        ),
    ],
)
def test_values_out_of_range_are_named(changes, message):
    names = ("omega", "kappa", "mu0", "pi0")
    given = dict(zip(names, OWN, strict=True)) | {"input_precision": 1.0}
    with pytest.raises(HGFDomainError, match=message):
        hgf_filter(**({"u": [0.0, 0.0, 0.0]} | given | changes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, *OWN), "no axis of time"),
        ((series(5), OWN[0], [1.0, 1.0], *OWN[2:]), "kappa for 3 levels"),
        (
            (series(3, 5), torch.zeros(2, 2), *OWN[1:]),
            r"batch \(3,\) of inputs, \(2,\)",
        ),
        ((series(5), torch.zeros(2, 2), torch.zeros(3, 1), *OWN[2:]), "broadcast"),
    ],
)
def test_shapes_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(HGFShapeError, match=message):
        hgf_filter(*arguments, input_precision=1.0)


def test_the_number_of_classes_must_be_clear():
    u = torch.tensor([0, 1, 2])
    with pytest.raises(HGFShapeError, match="Pass num_classes"):
        hgf_filter(u, *OWN, kind="categorical")
    omega = torch.zeros(4, 2)
    with pytest.raises(HGFShapeError, match="number of classes unclear"):
        hgf_filter(u, omega, *OWN[1:], kind="categorical", num_classes=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update": "best"}, "'unbounded' or"),
        ({"kind": "ordinal"}, "'binary'"),
        ({"on_invalid": "ignore"}, "'-inf'"),
        ({"update": "collapsed", "kind": "binary"}, "continuous input and 2 levels"),
        ({"input_precision": None}, "input_precision"),
        ({"mu0": None}, "init_state"),
        ({"kappa": None}, "1 couplings of 2 levels"),
    ],
)
def test_options_out_of_range_are_named(changes, message):
    names = ("omega", "kappa", "mu0", "pi0")
    given = dict(zip(names, OWN, strict=True)) | {"input_precision": 1.0}
    with pytest.raises(ConfigurationError, match=message):
        hgf_filter(**({"u": [0.0, 0.0, 0.0]} | given | changes))


def failing() -> tuple[torch.Tensor, torch.Tensor]:
    """Three series of which the classic update fails in the middle one at step 8."""
    u = 0.1 * series(3, 12)
    u[1, 8] = 20.0
    omega = torch.tensor([-2.0, 1.0], dtype=DOUBLE).expand(3, 2)
    return u, omega


@pytest.mark.parametrize(
    ("update", "backend"),
    [("classic", "torch"), ("ehgf_pyhgf", "torch"), ("ehgf_pyhgf", "auto")],
)
def test_a_failed_update_says_where(update, backend):
    u, omega = failing()
    options = {"update": update, "backend": backend}
    message = r"subject 1, trial 8, level 1.*update='unbounded'"
    for function in (hgf_filter, hgf_surprise):
        with pytest.raises(HGFNegativePrecisionError, match=message):
            function(u, omega, *OWN[1:], 1.0, **options)
    path = hgf_filter(u, omega, *OWN[1:], 1.0, on_invalid="nan", **options)
    bad = path.mu.isnan()
    assert not bad[[0, 2]].any()
    assert not bad[1, :8].any()
    assert bad[1, 8].tolist() == [False, True]
    assert bad[1, 9:].all()
    assert path.surprise[1].isnan().tolist() == [False] * 8 + [True] * 4
    assert path.muhat[1].isnan().any(-1).tolist() == [False] * 9 + [True] * 3


@pytest.mark.parametrize(
    ("update", "backend"),
    [("classic", "torch"), ("ehgf_pyhgf", "torch"), ("ehgf_pyhgf", "auto")],
)
def test_a_failed_update_has_no_gradient_within_inference(update, backend):
    u, omega = failing()
    omega = omega.clone().requires_grad_()
    options = {"update": update, "backend": backend, "on_invalid": "-inf"}
    log_prob = -hgf_surprise(u, omega, *OWN[1:], 1.0, **options).sum(-1)
    assert log_prob.isfinite().tolist() == [True, False, True]
    assert log_prob[1] == -torch.inf
    (gradient,) = torch.autograd.grad(log_prob.sum(), omega)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    alone = omega[::2].detach().requires_grad_()
    total = -hgf_surprise(u[::2], alone, *OWN[1:], 1.0, update=update)
    (expected,) = torch.autograd.grad(total.sum(), alone)
    torch.testing.assert_close(gradient[::2], expected)
    path = hgf_filter(u, omega, *OWN[1:], 1.0, **options)
    torch.testing.assert_close(-path.surprise.sum(-1), log_prob)
    total = run_total(prepare(u, omega, *OWN[1:], 1.0, **options))
    torch.testing.assert_close(-total, log_prob)
    (again,) = torch.autograd.grad(-total.sum(), omega)
    torch.testing.assert_close(again, gradient)


@BOTH
def test_proposals_that_are_no_parameters_have_no_density(backend):
    u = 0.1 * series(6, 9)
    u[5, 4] = torch.nan
    pi0 = torch.ones(6, 2, dtype=DOUBLE)
    pi0[:3, 0] = torch.tensor([torch.nan, torch.inf, -1.0])
    omega = torch.tensor([-2.0, -1.0], dtype=DOUBLE).repeat(6, 1)
    omega[3, 1] = torch.nan
    leaves = [omega.requires_grad_(), pi0.requires_grad_()]
    options = {"on_invalid": "-inf", "validate": False, "backend": backend}
    own = (leaves[0], OWN[1], OWN[2], leaves[1], 1.0)
    surprise = hgf_surprise(u, *own, **options).sum(-1)
    assert surprise.isinf().tolist() == [True] * 4 + [False, True]
    for gradient in torch.autograd.grad(surprise.sum(), leaves):
        assert gradient.isfinite().all()
        assert (gradient[[0, 1, 2, 3, 5]] == 0).all()
        assert (gradient[4] != 0).any()


def test_classes_of_which_one_has_no_parameters_have_no_density():
    omega = torch.full((4, 3, 2), -2.0, dtype=DOUBLE)
    omega[1, 2, 0] = torch.nan
    omega.requires_grad_()
    u = torch.tensor([0, 1, 2, 2, 0])
    options = {"kind": "categorical", "on_invalid": "-inf", "validate": False}
    surprise = hgf_surprise(u, omega, *OWN[1:], **options).sum(-1)
    assert surprise.isfinite().tolist() == [True, False, True, True]
    (gradient,) = torch.autograd.grad(surprise.sum(), omega)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    assert (gradient[0] != 0).any()
    pi0 = torch.ones(4, 3, 2)
    pi0[2, 1] = 0.0
    with pytest.raises(HGFDomainError, match=r"subject 2, class 1, level 0"):
        hgf_filter(u, omega, OWN[1], OWN[2], pi0, kind="categorical")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("update", ["unbounded", "classic", "moment"])
def test_derivatives_of_absurd_proposals_are_finite(dtype, update):
    generator = torch.Generator().manual_seed(2)
    high = 14 if dtype == torch.float32 else 90

    def absurd(*shape: int) -> torch.Tensor:
        draws = torch.rand(2, 300, *shape, generator=generator, dtype=DOUBLE)
        sizes = 10 ** ((2 * draws[0] - 1) * high)
        normal = torch.randn(300, *shape, generator=generator, dtype=DOUBLE)
        draw = torch.where(draws[1] < 0.6, normal, sizes * normal.sign())
        return draw.to(dtype)

    leaves = [absurd(2), absurd(1), absurd(2), absurd(2).abs(), absurd().abs()]
    leaves = [x.requires_grad_() for x in leaves]
    u = absurd(5)
    options = {"on_invalid": "-inf", "validate": False, "update": update}
    surprise = hgf_surprise(u, *leaves, **options).sum(-1)
    assert not surprise.isnan().any()
    gradients = torch.autograd.grad(surprise.sum(), leaves, allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)


def test_what_overflows_is_named():
    u = [0.0, 1e250, 0.0]
    with pytest.raises(HGFDomainError, match=r"trial 1, level 1.*scale near 1"):
        hgf_filter(u, *OWN, 1.0)


@pytest.mark.parametrize(
    ("place", "name"), [(0, "omega"), (1, "kappa"), (2, "mu0"), (3, "pi0")]
)
def test_a_parameter_of_nan_is_refused_and_not_filtered_with(place: int, name: str):
    own = [list(values) for values in OWN]
    own[place][0] = math.nan
    u = torch.tensor([1.0, 0.0, 1.0])
    with pytest.raises(HGFDomainError, match=rf"{name} out of range \(.*level 0"):
        filtering.hgf_filter(u, *own, kind="binary")  # compiled, where that works


@pytest.mark.parametrize(
    ("u", "omega", "name"), [("red", OWN[0], "u"), ([1.0, 0.0], ["a", "b"], "omega")]
)
def test_what_is_no_number_is_refused_by_name(u: Any, omega: Any, name: str):
    with pytest.raises(HGFShapeError, match=rf"argument {name}\).*a list of numbers"):
        hgf_filter(u, omega, *OWN[1:], kind="binary")


def test_a_series_has_at_least_one_trial():
    with pytest.raises(HGFShapeError, match=r"no trials.*\(0,\)"):
        hgf_filter(torch.zeros(0), *OWN, kind="binary")


def test_a_trajectory_shows_the_shapes_of_its_fields():
    path = hgf_filter(series(3), *OWN, 10.0)
    assert repr(path).startswith("HGFTrajectory(mu (3, 2), pi (3, 2), ")
    assert repr(path).endswith("final_state.mu (2,), final_state.pi (2,))")
    assert "<th>surprise</th><td>(3,)</td>" in path._repr_html_()
