"""Scores of predictions, and the SAAS posterior beside one best fit."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from pyro_geo.errors import ShapeError
from pyro_geo.gp import (
    load_exact_gp,
    mixture_scores,
    predict,
    relevance,
    saas_hyperparameters,
    saas_scores,
)
from pyro_geo.gp._scores import _best, _evidence
from pyro_geo.infer import HMC, MCMC
from tests.gp.saas import load_saas, saas_target


def test_scores_of_a_normal_are_what_they_say():
    torch.set_default_dtype(torch.float64)
    y = 3.0 + 2.0 * torch.randn(100_000)
    prediction = Normal(torch.full_like(y, 3.0), torch.full_like(y, 2.0))
    scores = mixture_scores(prediction, y)
    # limits: five standard errors of a mean of 100,000
    error = 5 * 100_000**-0.5
    entropy = 0.5 * math.log(2 * math.pi * math.e * 4)
    assert abs(scores["nll"] - entropy) < error * 0.5**0.5
    assert abs(scores["rmse"] - 2) < error * 2 * 0.5**0.5
    assert abs(scores["inside_50"] - 0.5) < error * 0.5
    assert abs(scores["inside_90"] - 0.9) < error * 0.3
    assert scores["calibration"] < error * 0.5


def test_scores_mix_draws_before_they_count():
    torch.set_default_dtype(torch.float64)
    # two draws far apart: the central half of the mixture lies between them
    mean = torch.tensor([[-10.0, 10.0]])
    parts = Normal(mean, torch.ones(1, 2))
    mixture = MixtureSameFamily(Categorical(torch.ones(1, 2)), parts)
    scores = mixture_scores(mixture, torch.tensor([0.0]))
    assert scores["inside_50"] == 1.0
    assert scores["nll"] == pytest.approx(50 + 0.5 * math.log(2 * math.pi))
    edge = mixture_scores(mixture, torch.tensor([12.0]))
    assert edge["inside_50"] == 0.0
    assert edge["inside_90"] == 0.0
    assert edge["rmse"] == pytest.approx(12.0)


@pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
def test_observations_must_match_the_predictions(shape):
    prediction = Normal(torch.zeros(2), torch.ones(2))
    with pytest.raises(ShapeError, match="argument y"):
        mixture_scores(prediction, torch.zeros(shape))


def test_evidence_leaves_out_the_priors_and_nothing_else():
    torch.set_default_dtype(torch.float64)
    target = saas_target()
    q = target.initial(4, "uniform", torch.Generator().manual_seed(0))
    evidence = _evidence(target)
    torch.testing.assert_close(evidence.log_prob(q), target.log_likelihood(q))
    _, slope = evidence.value_and_grad(q)
    q.requires_grad_()
    (expected,) = torch.autograd.grad(target.log_likelihood(q).sum(), q)
    torch.testing.assert_close(slope, expected)


@pytest.mark.slow
def test_table_scores_the_draws_given_and_the_two_fits():
    torch.set_default_dtype(torch.float64)
    module, target = load_saas(), saas_target()
    known, new = module.data(), module.data(40, seed=5)
    q = target.initial(6, "uniform", torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    table = saas_scores(target, q.reshape(2, 3, -1), known, new, num_steps=60, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    rows = {
        "posterior": q,
        "mode": _best(target, 60, 3),
        "maximum likelihood": _best(_evidence(target), 60, 3),
    }
    assert table.index.tolist() == list(rows)
    for name, draws in rows.items():
        gp = load_exact_gp(saas_hyperparameters(target.constrain(draws)), *known)
        expected = mixture_scores(predict(gp, new[0]), new[1])
        assert table.loc[name].drop("cpu_s").to_dict() == pytest.approx(expected)
    mode, most = rows["mode"], rows["maximum likelihood"]
    assert target.log_prob(mode) > target.log_prob(most)
    assert target.log_likelihood(most) > target.log_likelihood(mode)


@pytest.mark.slow
def test_posterior_keeps_the_two_inputs_and_knows_what_it_does_not_know():
    torch.set_default_dtype(torch.float64)
    module = load_saas()
    known = module.data()
    kernel = HMC(module.model)
    fit = MCMC(kernel, num_samples=250, num_chains=16, seed=0, progress_bar=False)
    fit.run(*known)
    assert max(fit.summary()["r_hat"].tolist()) < 1.02
    values = saas_hyperparameters(fit.get_samples())
    matters = relevance(values, *known)["matters"].to_dict()
    active = module.truth()["active"].tolist()
    assert min(matters[i] for i in active) > 0.98
    assert max(matters[i] for i in matters if i not in active) < 0.05
    scores = saas_scores(fit.target, fit.positions, known, module.new_points())
    rows = scores.to_dict(orient="index")
    posterior, likelihood = rows["posterior"], rows["maximum likelihood"]
    # a fit of 34 numbers to 30 points is far too sure of itself, the posterior is not
    assert likelihood["inside_90"] < 0.7
    assert posterior["inside_90"] >= 0.9
    assert posterior["nll"] < likelihood["nll"] - 1
    assert posterior["rmse"] < likelihood["rmse"]
