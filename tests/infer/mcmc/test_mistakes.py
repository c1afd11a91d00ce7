"""Slips of the first hour: each is refused where it is made, in words to act on."""

from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.errors import ConfigurationError, ModelError
from pyro_geo.infer import DIMS, HMC, MCMC

Y = torch.tensor([1.0, 2.0, 0.0])


def model(y=None):
    mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", 3 if y is None else len(y)):
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def labels(y):
    logit = pyro.sample("logit", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=logit), obs=y)


def sampler(kernel=None, **options):
    kernel = HMC(model, step_size=0.5, trajectory_length=1.0) if not kernel else kernel
    options = {"num_chains": 2, "warmup_steps": 0, "seed": 1, **options}
    return MCMC(kernel, 4, progress_bar=False, **options)


@pytest.fixture(scope="module")
def fit():
    return sampler().run(Y)


@pytest.mark.parametrize("seed", ["a", 1.5, torch.tensor(0.5)])
def test_a_seed_that_is_no_integer_is_refused_before_a_run(seed):
    with pytest.raises(ConfigurationError, match=r"argument seed\).*an integer"):
        sampler(seed=seed)


def test_a_seed_may_be_any_integer():
    one = sampler(seed=torch.tensor(3)).run(Y)
    assert torch.equal(one.positions, sampler(seed=3).run(Y).positions)
    assert one.run_seed == 3


@pytest.mark.parametrize("count", ["num_chains", "thin", "warmup_steps"])
def test_a_truth_value_is_no_count(count):
    with pytest.raises(ConfigurationError, match=f"{count}.*True"):
        sampler(**{count: True})


def test_starts_in_the_place_of_pyros_fourth_value_are_told_their_name():
    make: Any = MCMC
    with pytest.raises(ConfigurationError, match="initial_params="):
        make(HMC(model), 20, 30, {"mean": torch.tensor(0.0)})


def test_values_by_position_are_counted():
    make: Any = MCMC
    kernel: Any = HMC
    with pytest.raises(ConfigurationError, match="warmup_steps, num_chains by positi"):
        make(HMC(model), 20, 30, 4, 1)
    with pytest.raises(ConfigurationError, match="takes model by position, not 2"):
        kernel(model, 0.9)


@pytest.mark.parametrize(
    "ask",
    [
        lambda fit: fit.report("report.html"),
        lambda fit: fit.attributes,
        lambda fit: fit.diagnostics(),
        lambda fit: fit.summary(),
        lambda fit: fit.posterior_predictive(),
        lambda fit: fit.target,
        lambda fit: fit.positions,
        lambda fit: fit.resample(),
    ],
)
def test_what_needs_draws_says_so_before_a_run(ask):
    with pytest.raises(ModelError, match="Call run first"):
        ask(sampler())


def test_summary_names_the_argument_that_was_passed(fit):
    with pytest.raises(ConfigurationError, match="argument prob"):
        fit.summary(prob=90)


def test_a_report_goes_to_a_file_and_takes_tables_with_captions(fit, tmp_path):
    with pytest.raises(ConfigurationError, match="argument path"):
        fit.report(tmp_path)
    frame = pd.DataFrame({"error": [0.5]})
    for tables in (frame, [frame]):
        with pytest.raises(ConfigurationError, match="argument tables"):
            fit.report(tmp_path / "r.html", tables=tables)
    page = fit.report(tmp_path / "r.html", tables={"My scores": frame})
    assert "My scores" in page.read_text("utf-8")


def test_a_count_of_prior_draws_is_no_switch(fit):
    with pytest.raises(ConfigurationError, match="argument prior"):
        fit.to_arviz(prior=True)


def test_data_without_a_row_are_named():
    with pytest.raises(ModelError, match=r"argument 1 of the model.*\(0,\)"):
        sampler().run(Y[:0])


def test_labels_as_truth_values_are_told_to_be_floats():
    kernel = HMC(labels, step_size=0.5, trajectory_length=1.0)
    with pytest.raises(ModelError, match=r"torch.bool.*x.float\(\)"):
        sampler(kernel).run(Y > 0.5)
    assert sampler(kernel).run((Y > 0.5).float()).positions.isfinite().all()


@pytest.mark.parametrize("kernel", [HMC, DIMS])
def test_a_plain_module_is_no_model(kernel):
    net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh())
    with pytest.raises(ConfigurationError, match="Target.from_module"):
        kernel(net)


def test_a_module_of_ones_own_may_have_sample_statements():
    class Mine(torch.nn.Module):
        def forward(self, y):
            return model(y)

    kernel = HMC(Mine(), step_size=0.5, trajectory_length=1.0)
    assert sampler(kernel).run(Y).positions.shape == (2, 4, 1)


def test_a_run_without_data_is_noted_as_one_of_the_prior(fit):
    note = "No site is observed: these are draws of the prior."
    forgotten = sampler().run()
    assert forgotten.notes == [note]
    assert note in forgotten._repr_html_()
    assert note not in fit.notes

    def scored():  # a factor stands for data
        x = pyro.sample("x", dist.Normal(torch.tensor(0.0), 1.0))
        pyro.factor("score", -x * x)

    kernel = HMC(scored, step_size=0.5, trajectory_length=1.0)
    assert note not in sampler(kernel).run().notes
