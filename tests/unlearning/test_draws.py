"""Deletion from draws against exact posteriors, rung by rung."""

import hashlib
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer as pyro_infer
import pytest
import torch
from torch import Tensor

from pyro_geo import Target
from pyro_geo.errors import (
    ConfigurationError,
    ForgetSetError,
    NonFiniteDataError,
    UnreliableWeightsError,
    UnreliableWeightsWarning,
)
from pyro_geo.evaluation.moment_matching import Matched, khat_limit, match_moments
from pyro_geo.infer import HMC, MCMC, GibbsModel, GibbsPosterior
from pyro_geo.io.arviz import to_arviz
from pyro_geo.ops.weights import khat
from pyro_geo.unlearning.draws import delete_draws
from tests.unlearning.exact import (
    data,
    error,
    fit_of,
    intercepts,
    intercepts_posterior,
    leverage,
    linear,
    linear_fit,
    posterior,
    spread,
)


def without(x: Tensor, y: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
    keep = [i for i in range(len(x)) if i not in rows]
    return x[keep], y[keep]


def influential() -> tuple[Tensor, Tensor, list[int]]:
    """One row that holds most of what is known of a direction."""
    x, y = data()
    x[0] = torch.tensor([16.0, 0.0, 0.0], dtype=x.dtype)
    y[0] = x[0] @ torch.tensor([1.4, 2.0, 3.0], dtype=x.dtype)
    return x, y, [0]


def test_light_weights_are_enough_for_few_rows() -> None:
    x, y = data()
    less = delete_draws(linear_fit(x, y), [3, 17])
    truth = posterior(*without(x, y, [3, 17]))
    assert less.attributes["rung"] == "psis"
    # four standard errors for the effective number of draws
    assert error(less, truth) < 4 / math.sqrt(less.ess)
    assert less.attributes["forgotten"] == 2
    assert less.log_weights is not None


def test_the_result_holds_no_deleted_row() -> None:
    x, y = data()
    less = delete_draws(linear_fit(x, y), [3, 17])
    expected = without(x, y, [3, 17])
    for found, kept in zip(less.target.data, expected, strict=True):
        assert torch.equal(found, kept)
    assert less.posterior_predictive()["y"].shape[-1] == 58
    assert less.notes == []


def test_heavy_weights_are_matched_by_moments() -> None:
    x, y, rows = influential()
    assert leverage(x, y, rows) > 0.8
    less = delete_draws(linear_fit(x, y), rows)
    truth = posterior(*without(x, y, rows))
    facts = less.attributes
    assert facts["rung"] == "moment_matching"
    assert float(facts["khat_before"]) > 0.7 >= float(facts["khat"])
    assert error(less, truth) < 4 / math.sqrt(less.ess)
    assert spread(less, truth) < 4 / math.sqrt(less.ess)


def test_weights_without_the_ladder_miss() -> None:
    """The twin that the gate above rejects: raw weights, taken at their word."""
    x, y, rows = influential()
    fit = linear_fit(x, y)
    raw = delete_draws(fit, rows, limit=1e6)
    assert raw.attributes["rung"] == "psis"
    truth = posterior(*without(x, y, rows))
    assert error(raw, truth) > 10 / math.sqrt(2000)
    assert spread(raw, truth) > 10 / math.sqrt(2000)


@pytest.mark.parametrize("moves", ["hmc", "random_walk"])
def test_particles_reach_the_posterior_of_the_rest(moves: str) -> None:
    x, y, rows = influential()
    fit = linear_fit(x, y)
    less = delete_draws(fit, rows, start="smc", moves=moves)  # type: ignore[arg-type]
    truth = posterior(*without(x, y, rows))
    assert less.attributes["rung"] == "smc"
    assert int(less.attributes["stages"]) >= 2
    assert less.log_weights is None
    # particles that were moved count as half as many draws at worst
    assert error(less, truth) < 4 / math.sqrt(1000)
    assert spread(less, truth) < 4 / math.sqrt(1000)


def test_a_refit_ends_the_ladder() -> None:
    x, y, rows = influential()
    target = Target.from_model(linear, x, y, dtype=torch.float64)
    fit = MCMC(HMC(target), 250, 100, 4, seed=1, progress_bar=False).run()
    less = delete_draws(fit, rows, start="refit", seed=2)
    truth = posterior(*without(x, y, rows))
    assert less.attributes["rung"] == "refit"
    assert less.positions.shape == fit.positions.shape
    assert error(less, truth) < 4 / math.sqrt(200)


def test_what_may_not_climb_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, rows = influential()
    fit = linear_fit(x, y)

    def unmoved(*args: Any, **options: Any) -> Matched:
        return match_moments(*args, **{**options, "max_steps": 0})

    monkeypatch.setattr("pyro_geo.unlearning.draws.match_moments", unmoved)
    with pytest.raises(UnreliableWeightsError, match="khat"):
        delete_draws(fit, rows, fallback="raise")
    with pytest.warns(UnreliableWeightsWarning, match="khat"):
        less = delete_draws(fit, rows, fallback="none")
    assert less.log_weights is not None
    assert float(less.attributes["khat"]) > 0.7
    climbed = delete_draws(fit, rows)
    assert climbed.attributes["rung"] == "smc"


def test_latents_of_deleted_subjects_are_integrated_out() -> None:
    generator = torch.Generator().manual_seed(1)
    b = 0.3 + 0.7 * torch.randn(8, 1, generator=generator, dtype=torch.float64)
    y = b + 0.5 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    target = Target.from_model(intercepts, y, dtype=torch.float64)
    fit = fit_of(target, intercepts_posterior(y).draws(2000))
    less = delete_draws(fit, {"subject": [2]})
    keep = [i for i in range(8) if i != 2]
    truth = intercepts_posterior(y[keep])
    assert less.attributes["rung"] == "psis"
    assert less.target.dim == 8
    assert less.get_samples()["b"].shape[-1] == 7
    assert error(less, truth) < 4 / math.sqrt(less.ess)
    # weights of the joint draws lose what the deleted subject's own latent knows
    joint = fit.target.pointwise_log_likelihood(fit.positions.flatten(0, 1))["y"]
    assert khat(-joint[:, 2]) > 0.7 > float(less.attributes["khat"])


def test_particles_lose_latents_of_deleted_subjects_too() -> None:
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    target = Target.from_model(intercepts, y, dtype=torch.float64)
    fit = fit_of(target, intercepts_posterior(y).draws(2000))
    less = delete_draws(fit, [0, 5], start="smc", num_particles=1000)
    assert less.positions.shape == (1000, 1, 5)
    assert error(less, intercepts_posterior(y[1:5])) < 4 / math.sqrt(500)


def test_foreign_draws_are_read_with_their_target() -> None:
    x, y = data()
    target = Target.from_model(linear, x, y, dtype=torch.float64)
    q = posterior(x, y).draws(1000)
    truth = posterior(*without(x, y, [5]))
    idata = to_arviz({"posterior": {"w": q.unflatten(0, (4, 250)).numpy()}})
    for draws in (idata, {"w": q}):
        less = delete_draws(draws, [5], target=target)
        assert error(less, truth) < 4 / math.sqrt(less.ess)
    with pytest.raises(ConfigurationError, match="density of the model"):
        delete_draws({"w": q}, [5])


def test_chains_of_pyro_are_read_with_their_target() -> None:
    x, y = data(n=20, d=1)
    pyro.set_rng_seed(0)
    kernel = pyro_infer.HMC(linear, step_size=1, num_steps=3)
    run = pyro_infer.MCMC(kernel, 150, 50, disable_progbar=True)
    run.run(x, y)
    target = Target.from_model(linear, x, y, dtype=torch.float64)
    less = delete_draws(run, [5], target=target)
    assert error(less, posterior(*without(x, y, [5]))) < 4 / math.sqrt(40)


def test_draws_with_weights_keep_them() -> None:
    x, y = data()
    target = Target.from_model(linear, x, y, dtype=torch.float64)
    wide = posterior(x, y)
    wide = wide._replace(precision=wide.precision / 1.5)
    q = wide.draws(4000)
    proposal = dist.MultivariateNormal(wide.loc, precision_matrix=wide.precision)
    weights = target.log_prob(q) - proposal.log_prob(q)
    draws = fit_of(target, q, chains=4000)
    fit = type(draws)(target, draws._draws, log_weights=weights[:, None])
    less = delete_draws(fit, [3, 17])
    truth = posterior(*without(x, y, [3, 17]))
    assert error(less, truth) < 4 / math.sqrt(less.ess)
    assert spread(less, truth) < 4 / math.sqrt(less.ess)


def test_gibbs_posteriors_lose_examples() -> None:
    x, y = data(n=40, d=2)

    def model(x: Tensor) -> Tensor:
        zero = torch.zeros(2, dtype=x.dtype)
        return x @ pyro.sample("w", dist.Normal(zero, 1.0).to_event(1))

    # half of the squared error over the variance, at inverse temperature 1: the model
    gibbs = GibbsModel(model, lambda f, y: 0.5 * (f - y) ** 2 / 0.25)
    run = GibbsPosterior(
        gibbs, betas=[1.0], num_particles=400, seed=1, progress_bar=False
    )
    fit = run.run(x, y)
    less = delete_draws(fit, [3, 17])
    truth = posterior(*without(x, y, [3, 17]))
    assert less.notes == []
    assert len(less.target.data[1]) == 38
    # the path leaves fewer independent particles than its weights say
    assert error(less, truth) < 4 / math.sqrt(0.5 * less.ess)


def test_an_impossible_datum_names_its_draws() -> None:
    def model(y: Tensor) -> None:
        top = pyro.sample("top", dist.Exponential(torch.ones((), dtype=y.dtype)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Uniform(0, 1 + top), obs=y)

    y = torch.tensor([0.5, 1.5], dtype=torch.float64)
    target = Target.from_model(model, y, dtype=torch.float64)
    q = torch.ones(100, 1, dtype=torch.float64)
    q[[7, 40]] = -5.0  # below 1.5
    with pytest.raises(NonFiniteDataError, match=r"2 draws, among them \[7, 40\]"):
        delete_draws(fit_of(target, q), [1])


@pytest.mark.parametrize("rows", [[], list(range(60)), [1, 1], [60]])
def test_forget_sets_are_checked(rows: list[int]) -> None:
    x, y = data()
    with pytest.raises(ForgetSetError):
        delete_draws(linear_fit(x, y, draws=40), rows)


def test_a_model_that_cannot_be_split_keeps_the_rows_with_weight_zero() -> None:
    x, y = data()

    def closed(y: Tensor) -> None:
        linear(x, y)

    target = Target.from_model(closed, y, dtype=torch.float64)
    fit = fit_of(target, posterior(x, y).draws(2000))
    less = delete_draws(fit, [3, 17])
    truth = posterior(*without(x, y, [3, 17]))
    assert error(less, truth) < 4 / math.sqrt(less.ess)
    assert "weight zero" in less.notes[0]


def test_the_store_of_the_fit_is_left_as_it_was(tmp_path: Path) -> None:
    x, y = data(n=20, d=2)
    store = tmp_path / "run.zarr"
    target = Target.from_model(linear, x, y, dtype=torch.float64)
    fit = MCMC(HMC(target), 100, 50, 4, seed=1, store=store, progress_bar=False).run()

    def digest() -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(store.rglob("*"))
            if path.is_file()
        }

    before, q = digest(), fit.positions.clone()
    for start in ("psis", "smc", "refit"):
        delete_draws(fit, [3], start=start, num_particles=100)  # type: ignore[arg-type]
    assert digest() == before
    assert torch.equal(fit.positions, q)
    assert fit.target.data[0].shape[0] == 20


def test_random_state_is_left_alone_and_seeds_decide() -> None:
    x, y, rows = influential()
    fit = linear_fit(x, y)
    state = torch.random.get_rng_state()
    runs = [
        delete_draws(fit, rows, start="smc", num_particles=100, seed=s).positions
        for s in (1, 1, 2)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_limit_of_a_tail_grows_with_the_draws() -> None:
    assert khat_limit(10**5) == 0.7
    assert khat_limit(100) == pytest.approx(0.5)
