"""The gates keep their false-alarm rates, and name what they reject."""

import math

import pytest
import torch
from scipy import stats

from pyro_geo._compat.arviz import import_arviz
from pyro_geo.errors import ReferenceMismatchError, ShapeError
from pyro_geo.testing.gates import (
    check_exact,
    check_posterior,
    compare_posterior,
    draws_needed,
    student_limit,
)
from pyro_geo.testing.targets import NormalTarget


@pytest.fixture
def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def autoregressive(generator, chains, draws, components, time):
    """Stationary chains of standard normals with this autocorrelation time."""
    rho = (time - 1) / (time + 1)
    noise = normal(generator, chains, draws, components)
    x = [noise[:, 0]]
    for i in range(1, draws):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * noise[:, i])
    return torch.stack(x, 1)


def alarms(make, repeats, **options):
    return sum(
        bool(compare_posterior(*make(), **options).failures) for _ in range(repeats)
    )


@pytest.mark.slow
@pytest.mark.parametrize("chains", [4, 40], ids=["few chains", "many chains"])
@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "lognormal"])
def test_false_alarms_are_no_more_than_stated(generator, chains, heavy):
    rate, repeats = 0.2, 60

    def make():
        sides = normal(generator, chains, 400, 2), normal(generator, 10, 300, 2)
        return [{"x": side.exp() if heavy else side} for side in sides]

    found = alarms(make, repeats, false_alarm=rate, least_effective=0)
    assert found <= stats.binom.isf(1e-4, repeats, rate)


@pytest.mark.slow
@pytest.mark.parametrize("chains", [4, 64])
def test_false_alarms_are_as_rare_as_stated_with_autocorrelation(generator, chains):
    rate, repeats, time = 0.05, 300, 2.0
    draws = draws_needed(chains, 3, time, false_alarm=rate)

    def make():
        x = autoregressive(generator, chains, draws, 3, time)
        return {"x": x}, {"x": normal(generator, 10, 1000, 3)}

    found = alarms(make, repeats, false_alarm=rate, least_effective=0)
    assert found <= stats.binom.isf(1e-4, repeats, rate)


def test_the_draws_needed_are_enough_and_a_quarter_of_them_is_not(generator):
    time, components, chains = 4.0, 2, 30
    enough = draws_needed(chains, components, time)
    x = autoregressive(generator, chains, enough, components, time)
    reference = {"x": normal(generator, 5000, 1, components)}
    check_posterior({"x": x}, reference)
    short = compare_posterior({"x": x[:, : enough // 4]}, reference)
    assert any("R-hat" in line for line in short.failures)


def test_a_shift_is_found_at_the_error_that_it_has(generator):
    """The score of a shift is the shift over the standard error: here 1 / 40."""
    x, y = normal(generator, 40, 40), normal(generator, 10**6, 1)
    before = compare_posterior({"x": x}, {"x": y}, least_effective=0).scores[0, 0]
    moved = compare_posterior({"x": x + 0.5}, {"x": y}, least_effective=0).scores[0, 0]
    assert float(moved - before) == pytest.approx(20, rel=0.35)  # of 39 chain means


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda x: x + 0.3, r"b\[1\]: mean .*standard errors apart, limit"),
        (lambda x: 1.3 * x, r"b\[1\]: second moment .* apart, limit"),
        (lambda x: x.clamp(min=-1), r"b\[1\]: second moment"),
        (
            lambda x: x + 0.4 * torch.arange(len(x)).sub(1.5)[:, None],
            r"b\[1\]: R-hat is 1\.\d+, limit 1\.01",
        ),
        (
            lambda x: x * torch.linspace(0.5, 1.5, len(x))[:, None],
            r"b\[1\]: R-hat is 1\.\d+, limit 1\.01",  # by the folded half alone
        ),
        (
            lambda x: x[:, ::20].repeat_interleave(20, 1),
            r"b\[1\]: effective size is \d+, at least 400",
        ),
        (
            lambda x: torch.where(torch.arange(len(x))[:, None] == 2, 0.5, x),
            r"b\[1\]: chain 2 never moves, 1 in all",
        ),
        (
            lambda x: torch.where(x > 2, torch.nan, x),
            r"b\[1\]: \d+ draws not finite",
        ),
    ],
    ids=["shift", "scale", "cut", "chains", "folded", "slow", "stuck", "nan"],
)
def test_the_component_and_its_fault_are_named(generator, change, fault):
    draws = {"a": normal(generator, 4, 1000), "b": normal(generator, 4, 1000, 2)}
    exact = {"a": normal(generator, 5000, 1), "b": normal(generator, 5000, 1, 2)}
    check_posterior(draws, exact)
    draws["b"][..., 1] = change(draws["b"][..., 1])
    with pytest.raises(AssertionError, match=fault) as caught:
        check_posterior(draws, exact)
    lines = str(caught.value).splitlines()
    assert lines[0] == "1 of 3 components fail"
    assert all(line.startswith("b[1]: ") for line in lines[1:])


def test_every_component_that_fails_is_named(generator):
    draws = {"b": normal(generator, 4, 1000, 2, 2) + 1}
    with pytest.raises(AssertionError) as caught:
        check_posterior(draws, {"b": normal(generator, 5000, 1, 2, 2)})
    for name in ("b[0,0]: mean", "b[0,1]: mean", "b[1,0]: mean", "b[1,1]: mean"):
        assert name in str(caught.value)


def test_diagnostics_are_those_of_arviz(generator):
    x = autoregressive(generator, 4, 300, 1, 3.0)
    found = compare_posterior({"x": x}, {"x": normal(generator, 2000, 1, 1)})
    arviz = import_arviz()
    assert float(found.r_hat) == pytest.approx(float(arviz.rhat(x[..., 0].numpy())))
    assert float(found.effective) == pytest.approx(float(arviz.ess(x[..., 0].numpy())))


def test_the_floor_of_the_effective_size_can_be_set(generator):
    draws, exact = {"x": normal(generator, 4, 100)}, {"x": normal(generator, 999, 1)}
    check_posterior(draws, exact, least_effective=200)
    with pytest.raises(AssertionError, match="effective size is .*, at least 1000"):
        check_posterior(draws, exact, least_effective=1000)


def test_a_single_chain_is_cut_in_four(generator):
    x, exact = normal(generator, 1, 2000), {"x": normal(generator, 5000, 1)}
    check_posterior({"x": x}, exact)
    drifting = x + torch.linspace(-1, 1, 2000)
    with pytest.raises(AssertionError, match="R-hat"):
        check_posterior({"x": drifting}, exact)


def test_a_constant_must_stay_the_same(generator):
    """Such as the diagonal of a correlation matrix."""
    draws = {"x": normal(generator, 4, 500), "one": torch.ones(4, 500)}
    exact = {"x": normal(generator, 5000, 1), "one": torch.ones(5000, 1).double()}
    check_posterior(draws, exact)
    draws["one"][0, 0] = 1.5
    with pytest.raises(AssertionError, match=r"one: off by 0\.5 from 1, a constant"):
        check_posterior(draws, exact)


def test_sites_of_one_side_are_left_out(generator):
    x, y = normal(generator, 4, 500), normal(generator, 5000, 1)
    found = compare_posterior({"x": x, "more": x}, {"x": y, "other": y})
    assert found.names == ("x",)
    with pytest.raises(ReferenceMismatchError, match="argument draws"):
        check_posterior({"x": x}, {"y": y})


def test_shapes_that_do_not_fit_are_named(generator):
    x, y = normal(generator, 4, 500, 2), normal(generator, 5000, 1)
    with pytest.raises(ShapeError, match=r"site 'x'.*\(2,\).*\(\)"):
        check_posterior({"x": x}, {"x": y})
    with pytest.raises(ShapeError, match=r"\(500, 4, 2\).*at least 8 draws"):
        check_posterior({"x": x.transpose(0, 1)}, {"x": x})


def test_inputs_stay_as_they_are(generator):
    draws, exact = {"x": normal(generator, 4, 500)}, {"x": normal(generator, 900, 1)}
    before = draws["x"].clone(), exact["x"].clone()
    check_posterior(draws, exact)
    assert torch.equal(before[0], draws["x"])
    assert torch.equal(before[1], exact["x"])


def test_exact_draws_of_a_known_target_pass_and_others_do_not(generator):
    target = NormalTarget(3, condition=1e8, rotation=0, dtype=torch.float64)
    q = target.sample(5000, generator).view(50, 100, 3)
    check_exact(q, target)
    with pytest.raises(AssertionError, match="a moment is off"):
        check_exact(q * 1.1, target)
    # in the widest direction a tenth of a standard deviation is 1e3
    with pytest.raises(AssertionError, match="a moment is off"):
        check_exact(q + 0.2 * target.covariance.diagonal().sqrt(), target)


@pytest.mark.parametrize("freedom", [29, 63, 255])
@pytest.mark.parametrize("rate", [1e-2, 1e-4, 1e-6])
def test_student_limits_agree_with_scipy(freedom, rate):
    assert student_limit(freedom, rate) == pytest.approx(
        stats.t.isf(rate / 2, freedom), rel=2e-3
    )
