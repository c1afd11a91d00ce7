"""Sequences whose distribution knows its steps: likelihood per step, for LOO."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch.distributions import constraints

from pyro_geo.density import Target
from pyro_geo.errors import ConfigurationError, ModelError
from pyro_geo.io.arviz import get_group

SUBJECTS, STEPS = 3, 5


class Walk(dist.TorchDistribution):
    """A random walk from zero: a sequence that knows its steps."""

    step_dim = "trial"

    @property
    def arg_constraints(self) -> dict[str, Any]:
        return {"scale": constraints.positive}

    @property
    def support(self) -> Any:
        return constraints.real_vector

    def __init__(self, scale: Any, steps: int = STEPS, validate_args: Any = None):
        self.scale = torch.as_tensor(scale)
        self.steps = steps
        event = torch.Size([steps])
        super().__init__(self.scale.shape, event, validate_args=validate_args)

    def log_prob_steps(self, value):
        increments = torch.diff(value, prepend=torch.zeros_like(value[..., :1]))
        normal = dist.Normal(0.0, self.scale[..., None], validate_args=False)
        return normal.log_prob(increments)

    def log_prob(self, value):
        return self.log_prob_steps(value).sum(-1)


class Grown(Walk):
    """The same, left to Pyro's own way of expanding."""

    def expand(self, batch_shape, _instance=None):
        expanded = ExpandedDistribution(self)
        return expanded.expand(torch.Size(batch_shape))


@pytest.fixture
def y():
    generator = torch.Generator().manual_seed(1)
    steps = torch.randn(SUBJECTS, STEPS, generator=generator, dtype=torch.float64)
    return steps.cumsum(-1)


def plated(wrap):
    def model(y):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("subject", SUBJECTS):
            pyro.sample("y", wrap(scale), obs=y)

    return model


def joined(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    pyro.sample("y", Walk(scale.expand(SUBJECTS)).to_event(1), obs=y)


def own(scale):
    return Walk(scale.expand(SUBJECTS))


def masked(scale):
    mask: Any = torch.tensor([True, False, True])
    return own(scale).mask(mask)


@pytest.mark.parametrize(
    "wrap",
    [own, masked, lambda s: Grown(s).expand([SUBJECTS])],
    ids=["own", "masked", "expanded"],
)
def test_steps_of_a_plated_sequence_sum_to_its_data(wrap, y):
    target = Target.from_model(plated(wrap), y, dtype=torch.float64)
    q = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    steps = target.stepwise_log_likelihood(q)["y"]
    assert steps.shape == (4, SUBJECTS, STEPS)
    whole = target.pointwise_log_likelihood(q)["y"]
    torch.testing.assert_close(steps.sum(-1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        steps[:, 0, 2],
        dist.Normal(0.0, q[:, 0].exp()).log_prob(y[0, 2] - y[0, 1]),
        rtol=1e-12,
        atol=1e-12,
    )
    assert bool((steps[:, 1] == 0).all()) == (wrap is masked)
    assert target.dims["y"] == ("subject", "trial")


def test_events_that_to_event_has_joined_keep_their_axes(y):
    target = Target.from_model(joined, y, dtype=torch.float64)
    q = torch.zeros(2, 1, dtype=torch.float64)
    steps = target.stepwise_log_likelihood(q)["y"]
    assert steps.shape == (2, SUBJECTS, STEPS)
    whole = target.pointwise_log_likelihood(q)["y"]
    torch.testing.assert_close(steps.sum((-1, -2)), whole, rtol=1e-12, atol=1e-12)
    assert target.dims["y"] == ("y_dim_0", "trial")


def test_a_mask_counts_and_a_scale_does_not(y):
    mask: Any = torch.tensor([True, True, False])

    def model(y):
        with poutine.scale(scale=7.0), poutine.mask(mask=mask):
            plated(own)(y)

    q = torch.zeros(1, 1, dtype=torch.float64)
    plain = Target.from_model(plated(own), y, dtype=torch.float64)
    expected = plain.stepwise_log_likelihood(q)["y"] * mask[:, None]
    found = Target.from_model(model, y, dtype=torch.float64).stepwise_log_likelihood(q)
    torch.testing.assert_close(found["y"], expected, rtol=1e-12, atol=1e-12)


def test_sites_beside_it_and_discrete_ones_are_as_they_were(y):
    def model(y, x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("subject", SUBJECTS):
            pyro.sample("y", own(scale), obs=y)
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    target = Target.from_model(model, y, y[:, 0], dtype=torch.float64)
    q = torch.zeros(2, 1, dtype=torch.float64)
    steps = target.stepwise_log_likelihood(q)
    whole = target.pointwise_log_likelihood(q)
    assert {name: value.shape[1:] for name, value in steps.items()} == {
        "y": (SUBJECTS, STEPS),
        "x": (SUBJECTS,),
    }
    torch.testing.assert_close(steps["y"].sum(-1), whole["y"], rtol=1e-12, atol=1e-12)
    assert torch.equal(steps["x"], whole["x"])


def test_two_lengths_of_one_name_are_told_apart(y):
    def model(y):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("subject", SUBJECTS):
            pyro.sample("long", own(scale), obs=y)
            pyro.sample("short", Walk(scale.expand(SUBJECTS), 2), obs=y[:, :2])

    dims = Target.from_model(model, y).dims
    assert dims["long"] == ("subject", "long_trial")
    assert dims["short"] == ("subject", "short_trial")


def test_an_error_in_a_step_names_the_site(y):
    class Broken(Walk):
        def log_prob_steps(self, value):
            if len(self.scale.shape):
                raise ValueError("no such step")
            return super().log_prob_steps(value)

        def log_prob(self, value):
            return Walk.log_prob_steps(self, value).sum(-1)

    model = plated(lambda scale: Broken(scale.expand(SUBJECTS)))
    target = Target.from_model(model, y)
    with pytest.raises(ModelError, match=r"site 'y'.*no such step"):
        target.stepwise_log_likelihood(torch.zeros(1, 1))


def test_loo_is_per_step_and_per_datum(result, y):
    import arviz as az

    generator = torch.Generator().manual_seed(0)
    q = 0.1 * torch.randn(4, 50, 1, generator=generator)
    fit = result(plated(own), y, q=q)
    idata = fit.to_arviz()
    steps = get_group(idata, "log_likelihood")
    assert steps is not None
    assert steps["y"].dims == ("chain", "draw", "subject", "trial")
    trials = az.loo(idata, pointwise=True)
    assert trials.n_data_points == SUBJECTS * STEPS
    subjects = az.loo(fit.to_arviz(log_likelihood="datum"), pointwise=True)
    assert subjects.n_data_points == SUBJECTS
    np.testing.assert_allclose(trials.elpd_loo, subjects.elpd_loo, atol=1.0)
    assert get_group(fit.to_arviz(log_likelihood=False), "log_likelihood") is None
    with pytest.raises(ConfigurationError, match="log_likelihood"):
        fit.to_arviz(log_likelihood="subject")
