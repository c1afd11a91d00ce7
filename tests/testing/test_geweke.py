"""The joint-distribution test: exact from the first sweep on, for any kernel."""

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_geo.errors import ConfigurationError
from pyro_geo.testing.geweke import (
    GewekeResult,
    _compare,
    _normal_scores,
    check_geweke,
    geweke,
)
from pyro_geo.testing.hmc import FixedHMC

F64 = torch.float64


def pair(y):
    """A positive site and heavy tails: moments of the values themselves fail."""
    scale = pyro.sample("scale", dist.HalfCauchy(y.new_ones(())))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(y.new_zeros(()), scale), obs=y)


KERNEL = partial(FixedHMC, step_size=0.3, num_steps=2)


def alternate(kernel=KERNEL, **options):
    defaults = {"num_chains": 100, "num_sweeps": 3, "dtype": F64}
    return geweke(pair, [torch.zeros(3)], kernel, **(defaults | options))


@pytest.fixture(scope="module")
def result():
    return alternate()


def test_a_kernel_that_hardly_moves_passes(result):
    """Chains start in the joint distribution, so mixing does not matter."""
    check_geweke(result)
    check_geweke(alternate(partial(FixedHMC, step_size=1e-3, num_steps=1)))


def test_the_moments_have_names(result):
    assert result.names == (
        "scale",
        "scale, squared",
        "average of y",
        "average of y, squared",
        "log_prior",
        "log_prior, squared",
        "log_likelihood",
        "log_likelihood, squared",
    )
    assert result.scores.shape == result.freedom.shape == (8,)
    assert bool((result.freedom >= 99).all())


def test_own_functions_get_constrained_values_and_data():
    seen = {}

    def functions(latents, data):
        seen.update(latents=latents, data=data)
        return {"ratio": data["y"][:, 0] / latents["scale"]}

    found = alternate(functions=functions)
    assert found.names == ("ratio", "ratio, squared")
    assert bool((seen["latents"]["scale"] > 0).all())
    assert seen["data"]["y"].shape == (100, 3)
    check_geweke(found)


def test_the_same_seed_gives_the_same_scores(result):
    assert torch.equal(alternate().scores, result.scores)
    assert not torch.equal(alternate(seed=1).scores, result.scores)


def test_a_kernel_that_tunes_itself_does_so_on_other_data():
    """And is used with what it found, from exact joint draws."""
    seen = []

    class Tuned(FixedHMC):
        def start(self, target, group):
            seen.append((group.initial, group.tuning, target.data[-1]))
            return super().start(target, group)

        def tuning(self, state) -> Any:
            return "found"

    check_geweke(alternate(partial(Tuned, step_size=0.3, num_steps=2), warmup_steps=5))
    (first, none, data), *sweeps = seen
    assert none is None
    assert all(tuning == "found" for _, tuning, _ in sweeps)
    assert not torch.equal(data, sweeps[0][2])
    assert not torch.equal(first, sweeps[0][0])
    # data change between the sweeps
    assert not torch.equal(sweeps[0][2], sweeps[1][2])


def test_normal_scores_are_those_of_ranks():
    x = torch.tensor([[3.0, 1.0, 2.0, 2.0]], dtype=F64)
    expected = stats.norm.ppf((stats.rankdata(x[0].numpy()) - 0.375) / 4.25)
    found = _normal_scores(x[..., None])[0, :, 0]
    torch.testing.assert_close(found, torch.as_tensor(expected))


def numbers(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


def test_false_alarms_are_no_more_than_stated(seed):
    """Chains that repeat themselves count once; tails do no harm."""
    generator = torch.Generator().manual_seed(seed)
    rate, repeats, failed = 0.2, 200, 0
    for _ in range(repeats):
        ours = numbers(generator, 2, 40, 1).expand(2, 40, 5)
        ours = ours + 0.1 * numbers(generator, 2, 40, 5)
        theirs = numbers(generator, 2, 40, 5) * (1 + 0.1**2) ** 0.5
        cubed = _compare(["a", "b"], ours**3, theirs**3)
        try:
            check_geweke(cubed, false_alarm=rate)
        except AssertionError:
            failed += 1
    assert failed <= stats.binom.isf(1e-4, repeats, rate)


def test_a_difference_is_found_and_named():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = numbers(generator, 2, 100, 5), numbers(generator, 2, 100, 5)
    ours[1] *= 1.6
    with pytest.raises(AssertionError) as caught:
        check_geweke(_compare(["a", "b"], ours, theirs))
    first, *rest = str(caught.value).splitlines()
    assert first == "1 of 4 moments of the joint distribution differ"
    assert rest[0].startswith("b, squared: differs by 0.")
    assert "standard errors, limit" in rest[0]


def test_scores_that_are_no_numbers_fail():
    nan = torch.tensor([torch.nan])
    bad = GewekeResult(("a",), nan, nan, torch.tensor([50.0]))
    with pytest.raises(AssertionError, match="a: differs by nan"):
        check_geweke(bad)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"num_chains": 10}, "num_chains"),
        ({"num_sweeps": 0}, "num_sweeps"),
        ({"transitions": 0}, "transitions"),
    ],
)
def test_counts_out_of_range_are_named(options, name):
    with pytest.raises(ConfigurationError, match=f"argument {name}.*at least"):
        alternate(**options)
