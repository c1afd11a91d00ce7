"""A guide moved to other data: the three fits, and what the caller keeps."""

from typing import Any, cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_geo.errors import ConfigurationError
from pyro_geo.summaries.finetuning import finetune

pytestmark = pytest.mark.usefixtures("double_precision")


def model(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    s = pyro.sample("s", dist.LogNormal(torch.tensor(0.0), 0.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, s), obs=y)


def labelled(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Categorical(logits=x @ w), obs=y)


def data(weights, n=30):
    x = torch.randn(n, 3)
    return x, x @ torch.tensor(weights) + 0.3 * torch.randn(n)


def test_three_fits_are_scored_beside_the_earlier_one(tmp_path):
    earlier, later = data([1.0, 0.0, 0.0]), data([0.0, 2.0, 0.0])
    pyro.param("mine", torch.ones(2))
    state = torch.get_rng_state()
    tests = {"earlier": earlier, "later": later}
    found = finetune(model, earlier, later, tests, num_steps=70, learning_rate=0.05)
    assert torch.equal(state, torch.get_rng_state())
    assert list(pyro.get_param_store().keys()) == ["mine"]
    nll = found.table["nll"].unstack()
    assert nll.loc["ClippedAdam", "later"] < nll.loc["earlier fit", "later"]
    # Bayes' rule gives up less of what was known than a fit to the new data alone
    prior = "earlier posterior as prior"
    assert nll.loc[prior, "earlier"] < nll.loc["ClippedAdam", "earlier"]
    moved = found.moved().loc["w"]  # the noise has to grow for both data to fit
    assert float(moved[prior]) < float(moved["ClippedAdam"])
    assert found.deviations["SPD"].decay_rate.notnull().all()
    assert "conflict_rate" not in found.deviations["ClippedAdam"]
    page = found.report(tmp_path / "page.html").read_text()
    assert "Moved, by fit" in page


def test_without_strength_spd_is_the_optimiser_under_it():
    earlier, later = data([1.0, 0.0, 0.0]), data([0.0, 2.0, 0.0])
    tests = {"later": later}
    found = finetune(model, earlier, later, tests, num_steps=1, spd=0.0)
    assert float(found.deviations["SPD"].undone.sum()) == 0.0


def test_labels_are_scored_as_classes():
    x = torch.randn(40, 3)
    y = (x[:, 0] > 0).long()
    found = finetune(labelled, (x, y), (x, 1 - y), {"test": (x, y)}, num_steps=40)
    assert set(found.table.columns) == {"nll", "accuracy", "ece"}
    assert found.table["accuracy"].between(0, 1).all()


def test_a_count_out_of_range():
    with pytest.raises(ConfigurationError, match="num_steps"):
        finetune(model, (), (), {}, num_steps=0)


def test_the_prior_that_is_put_in_place_is_the_earlier_posterior():
    from pyro import poutine

    from pyro_geo.optim.decay.sites import SiteMoments
    from pyro_geo.summaries.finetuning import _PriorFrom

    moments = {
        "w": SiteMoments(torch.ones(3), torch.tensor([1.0, 2.0, 3.0]), True),
        "s": SiteMoments(torch.tensor(0.2), torch.tensor(0.4), True),
    }
    trace = poutine.trace(_PriorFrom(moments)(model)).get_trace(*data([0.0] * 3))
    w, s = (cast(Any, trace.nodes[name])["fn"] for name in ("w", "s"))
    log_normal = torch.distributions.LogNormal(0.2, 0.4)
    value = torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(s.log_prob(value), log_normal.log_prob(value))
    assert w.event_shape == (3,)
    assert (
        kl_divergence(w.base_dist.base_dist, dist.Normal(*moments["w"][:2])).abs().sum()
        == 0
    )
