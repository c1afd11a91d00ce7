"""What a Gibbs posterior hands out, in every form, against the closed form.

The loss is squared and the prior normal, so that the posterior of the one parameter is
normal and its normaliser known. Importance draws are independent: their errors follow
from the weights. Annealed particles are not quite, so that runs are repeated and the
spread of the runs is the error. All comparisons of this file together raise a false
alarm once in ten thousand.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats as laws
from torch import Tensor

from pyro_geo.errors import ConvergenceWarning
from pyro_geo.infer import GibbsModel, GibbsPosterior, WeightedPosterior
from pyro_geo.infer.gibbs import path
from pyro_geo.io import report
from pyro_geo.io._report.words import show
from pyro_geo.io.arviz import get_group, summary
from pyro_geo.io.store import open_run

DOUBLE = torch.float64
PRIOR_SD = 1.5
COMPARISONS = 40  # an upper bound of those below
FALSE_ALARM = 1e-4 / COMPARISONS
RUNS, PARTICLES = 10, 96
PATH: dict[str, Any] = {
    "betas": [0.1, 1.0],
    "num_particles": PARTICLES,
    "pilot_particles": PARTICLES,  # one shape, traced once
    "cess": 0.8,
    "num_leapfrog": 3,
    "moves": 2,
}


def line(x: Tensor) -> Tensor:
    return x * pyro.sample("w", dist.Normal(torch.tensor(0.0, dtype=DOUBLE), PRIOR_SD))


def squared(prediction: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (prediction - y) ** 2


GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(20, generator=GENERATOR, dtype=DOUBLE)
Y = 2 * X + torch.randn(20, generator=GENERATOR, dtype=DOUBLE)
NEW = torch.tensor([1.0, -2.0], dtype=DOUBLE)
MODEL = GibbsModel(line, squared)

PRECISION = float(1 / PRIOR_SD**2 + X @ X)
MEAN, SD = float(X @ Y) / PRECISION, PRECISION**-0.5
LOG_Z = -math.log(PRIOR_SD) - 0.5 * math.log(PRECISION) - 0.5 * float(Y @ Y)
LOG_Z += 0.5 * PRECISION * MEAN**2


def guide(args: Any, targets: Any) -> None:
    """A normal that is wrong by one deviation and half as wide again."""
    centre = torch.tensor(MEAN + SD, dtype=DOUBLE)
    pyro.sample("w", dist.Normal(centre, 1.5 * SD))


def run(**options: Any) -> WeightedPosterior:
    options = {"seed": 1, "progress_bar": False, **options}
    return GibbsPosterior(MODEL, **options).run(X, Y)


def importance(**options: Any) -> WeightedPosterior:
    settings = {"method": "importance", "guide": guide, "betas": [1.0]}
    return run(**settings, **{"num_particles": 2_000, **options})


def annealed(**options: Any) -> WeightedPosterior:
    return run(**{**PATH, **options})


def group(idata: Any, name: str) -> Any:
    found = get_group(idata, name)
    assert found is not None, name
    return found


def row_of_report(page: str) -> dict[str, float]:
    """Numbers of the page's table."""
    table = re.search(r"<caption>Summary of the particles.*?</table>", page, re.S)
    assert table is not None
    header = re.findall(r"<th scope=\"col\"[^>]*>([^<]*)</th>", table[0])
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table[0])
    numbers = [
        math.nan if text == "n/a" else float(text.replace("\u2212", "-"))
        for text in cells
    ]
    return dict(zip(header[1:], numbers, strict=True))


class Estimate(NamedTuple):
    """An expectation under the posterior, as one output gives it."""

    get: Callable[[WeightedPosterior, Any], float]
    exact: float


def mean_of(group_name: str, site: str) -> Callable[[WeightedPosterior, Any], float]:
    def get(found: WeightedPosterior, tmp_path: Any) -> float:
        idata = found.to_arviz(posterior_predictive=True)
        return float(group(idata, group_name)[site].values.mean())

    return get


def weighted_mean(draws: Tensor, log_weights: Tensor) -> float:
    return float(log_weights.softmax(0) @ draws)


def of_particles(found: WeightedPosterior, tmp_path: Any) -> float:
    particles = group(found.to_arviz(False), "particles")
    weights = torch.as_tensor(particles["log_weights"].values).flatten()
    return weighted_mean(torch.as_tensor(particles["w"].values).flatten(), weights)


def drawn(found: WeightedPosterior, tmp_path: Any) -> float:
    torch.manual_seed(found.run_seed)
    return float(found.get_samples(50_000)["w"].mean())


def reported(found: WeightedPosterior, tmp_path: Any) -> float:
    page = found.report(tmp_path / "page.html").read_text("utf-8")
    return row_of_report(page)["mean"]


ESTIMATES = {
    "summary": Estimate(lambda r, _: r.summary().loc["w", "mean"], MEAN),
    "get_samples": Estimate(lambda r, _: float(r.get_samples()["w"].mean()), MEAN),
    "num_samples": Estimate(drawn, MEAN),
    "raw draws": Estimate(
        lambda r, _: weighted_mean(r.get_samples(resample=False)["w"], r.log_weights),
        MEAN,
    ),
    "resample": Estimate(lambda r, _: float(r.resample(5_000)["w"].mean()), MEAN),
    "posterior": Estimate(mean_of("posterior", "w"), MEAN),
    "particles": Estimate(of_particles, MEAN),
    "predictive group": Estimate(
        mean_of("posterior_predictive", "prediction"), MEAN * float(X.mean())
    ),
    "predictive": Estimate(
        lambda r, _: float(r.posterior_predictive(NEW)["prediction"][..., 1].mean()),
        -2 * MEAN,
    ),
    "report": Estimate(reported, MEAN),
}


@pytest.fixture(scope="module")
def one() -> WeightedPosterior:
    return importance()


@pytest.fixture(scope="module")
def many() -> list[WeightedPosterior]:
    return [annealed(seed=seed) for seed in range(RUNS)]


@pytest.mark.parametrize("name", ESTIMATES)
def test_importance_draws_in_every_form(one, name, tmp_path):
    get, exact = ESTIMATES[name]
    share = one.log_weights.softmax(0)
    centred = one.positions.flatten() - MEAN
    # of the weights, and of resampling to as many draws
    error = float((share * centred).square().sum() + SD**2 / len(share)) ** 0.5
    scale = abs(exact / MEAN)
    limit = laws.norm.isf(FALSE_ALARM / 2) * error * scale
    assert limit < 0.5 * SD * scale
    rounding = 5e-4 if name == "report" else 0.0  # four digits are shown
    assert abs(get(one, tmp_path) - exact) < limit + rounding


def test_draws_without_their_weights_are_told_from_the_posterior(one):
    """The limit above has power: ignoring the weights passes it by far."""
    ignored = one.get_samples(resample=False)["w"]
    z = (float(ignored.mean()) - MEAN) / (SD / one.ess**0.5)
    assert z > 2 * laws.norm.isf(FALSE_ALARM / 2)


def t_of(values: list[float], exact: float) -> float:
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return float((np.mean(values) - exact) / error)


T_LIMIT = laws.t.isf(FALSE_ALARM / 2, RUNS - 1)


@pytest.mark.parametrize("name", [name for name in ESTIMATES if name != "report"])
def test_annealed_particles_in_every_form(many, name, tmp_path):
    get, exact = ESTIMATES[name]
    assert abs(t_of([get(found, tmp_path) for found in many], exact)) < T_LIMIT


def test_the_stages_together_are_told_from_the_posterior(many):
    means = [
        float(torch.stack([stage.q.mean() for stage in found.stages]).mean())
        for found in many
    ]
    assert abs(t_of(means, MEAN)) > T_LIMIT


def test_normaliser_and_deviation(one, many):
    z = (one.log_z - LOG_Z) / (1 / one.ess - 1 / 2_000) ** 0.5
    assert abs(z) < laws.norm.isf(FALSE_ALARM / 2)
    # the estimate of the normaliser itself is unbiased
    ratios = [math.exp(found.log_z - LOG_Z) for found in many]
    assert abs(t_of(ratios, 1.0)) < T_LIMIT
    table = one.summary()
    error = table.loc["w", "mcse_sd"]
    assert abs(table.loc["w", "sd"] - SD) < laws.norm.isf(FALSE_ALARM / 2) * error


def test_one_set_of_columns_and_keys(one):
    table = one.summary()
    row = table.loc["w"]
    assert row["ess_bulk"] == pytest.approx(one.ess)
    assert row["khat"] == pytest.approx(one.khat)
    assert math.isnan(row["r_hat"])
    assert {"mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail"} <= set(table)
    found = one.diagnostics()
    assert float(found["w"]["n_eff"]) == pytest.approx(one.ess)
    assert math.isnan(float(found["w"]["r_hat"]))
    assert found["log_z"] == one.log_z
    assert {"acceptance rate", "khat", "complexity", "killed", "status"} <= set(found)
    facts = one.attributes
    assert facts["ess"] == one.ess
    assert "wang2026gibbs" in str(facts["citation"])
    assert all(isinstance(value, (str, int, float)) for value in facts.values())


def test_groups_of_arviz_belong_together(one):
    """Statistics, likelihood and predictions are those of the resampled draws."""
    idata = one.to_arviz(posterior_predictive=True)
    posterior = group(idata, "posterior")["w"].values
    assert posterior.shape == (1, 2_000)
    np.testing.assert_array_equal(posterior[0], one.get_samples()["w"])
    predicted = group(idata, "posterior_predictive")["prediction"].values
    np.testing.assert_allclose(predicted[0], posterior[0][:, None] * X.numpy())
    loss = 0.5 * (predicted[0] - Y.numpy()) ** 2
    likelihood = group(idata, "log_likelihood")["gibbs"].values
    np.testing.assert_allclose(likelihood[0], -loss)
    tilt = group(idata, "sample_stats")["tilt"].values
    np.testing.assert_allclose(tilt[0], loss.sum(1))
    particles = group(idata, "particles")
    assert particles["w"].dims == ("particle", "draw")
    np.testing.assert_array_equal(
        particles["w"].values.ravel(), one.get_samples(resample=False)["w"]
    )
    np.testing.assert_array_equal(
        particles["log_weights"].values.ravel(), one.log_weights
    )
    assert particles.attrs["log_z"] == one.log_z
    assert summary(idata).equals(one.summary())


def test_the_page_has_the_numbers_of_the_table(one, tmp_path):
    page = one.report(tmp_path / "page.html").read_text("utf-8")
    row, expected = row_of_report(page), one.summary().loc["w"]
    for name in ("mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "khat"):
        assert row[name] == pytest.approx(expected[name], rel=2e-3)
    assert f"<dt>log of the normaliser</dt><dd>{show(one.log_z)}</dd>" in page
    assert "<strong>2,000</strong><span>particles</span>" in page
    picture = re.search(r"w: median ([\d.]+), central 90 % from", page)
    assert picture is not None
    median = float(np.median(one.get_samples()["w"]))
    assert float(picture[1]) == pytest.approx(median, rel=5e-3)


def test_draws_repeat_with_the_seed_and_leave_torch_alone(one):
    state = torch.get_rng_state()
    first, again = one.get_samples()["w"], one.get_samples()["w"]
    other = one.resample(seed=one.run_seed + 1)["w"]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert torch.equal(first, one.resample()["w"])
    assert not torch.equal(first, other)
    assert one.get_samples(group_by_chain=True)["w"].shape == (1, 2_000)
    raw = one.get_samples(group_by_chain=True, resample=False)["w"]
    assert raw.shape == (2_000, 1)


def test_states_of_extended_particles_are_weighed(many):
    longer = many[0].extend(4)
    assert longer.get_samples()["w"].shape == (4 * PARTICLES,)
    idata = longer.to_arviz(False)
    assert group(idata, "posterior")["w"].shape == (1, 4 * PARTICLES)
    assert group(idata, "particles")["w"].shape == (PARTICLES, 4)
    expected = weighted_mean(longer.positions.flatten(), longer.log_weights)
    assert longer.summary().loc["w", "mean"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_a_result_travels(many, one):
    for found in (many[0], one):
        back = pickle.loads(pickle.dumps(found))
        assert back.summary().equals(found.summary())
        assert torch.equal(back.get_samples()["w"], found.get_samples()["w"])
        assert repr(back) == repr(found)
    back = pickle.loads(pickle.dumps(many[0]))
    assert torch.equal(back.extend(2).positions, many[0].extend(2).positions)


def test_the_representation_is_short(many):
    expected = f"WeightedPosterior({PARTICLES} particles, 1 draw of each, with weights"
    assert repr(many[0]) == f"{expected}; w ())"


# -- from a store ---------------------------------------------------------------------


def same_as_opened(found: WeightedPosterior, folder: Any) -> None:
    """What the folder shows is what the result gives, to the last bit."""
    idata, own = open_run(folder), found.to_arviz(False)
    for name in ("posterior", "particles", "sample_stats"):
        theirs, ours = group(idata, name), group(own, name)
        assert set(theirs.data_vars) == set(ours.data_vars)
        for variable in ours.data_vars:
            assert theirs[variable].dims == ours[variable].dims
            np.testing.assert_array_equal(theirs[variable], ours[variable])
    assert summary(idata).equals(found.summary())
    assert group(idata, "posterior").attrs["log_z"] == found.log_z


@pytest.mark.parametrize("make", [importance, annealed])
def test_a_store_opens_with_the_posterior(make, tmp_path, one, many):
    folder = tmp_path / "run.zarr"
    found = make(store=folder, seed=one.run_seed if make is importance else 0)
    expected = one if make is importance else many[0]
    assert torch.equal(found.positions, expected.positions)
    same_as_opened(found, folder)
    page = report(folder).read_text("utf-8")
    row = row_of_report(page)
    assert row["mean"] == pytest.approx(found.summary().loc["w", "mean"], rel=1e-3)
    assert f"<dt>log of the normaliser</dt><dd>{show(found.log_z)}</dd>" in page
    assert "it has" not in page


def test_the_stages_before_stand_apart(tmp_path):
    folder = tmp_path / "run.zarr"
    found = annealed(store=folder)
    stages, stats = (group(open_run(folder), n) for n in ("stages", "stage_stats"))
    before = found.stages[:-1]
    assert stages["w"].dims == ("stage", "particle")
    assert stats["beta"].values.tolist() == [stage.beta for stage in before]
    for index, stage in enumerate(before):
        np.testing.assert_array_equal(stages["w"][index], stage.q[:, 0])
        np.testing.assert_array_equal(stats["log_weights"][index], stage.log_weights)
        np.testing.assert_array_equal(stats["loss"][index], stage.loss)


def test_an_interrupted_run_shows_its_last_stage_and_goes_on(tmp_path, monkeypatch):
    folder, full = tmp_path / "run.zarr", annealed()
    assert full.plan is not None
    pilot_moves = 3 * len(full.plan.betas)
    move, left = path.ParticleMover.move, [pilot_moves + 2]

    def interrupted(self: Any, *rest: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return move(self, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(path.ParticleMover, "move", interrupted)
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            cut = annealed(store=folder)
    assert len(cut.stages) == 2
    same_as_opened(cut, folder)
    page = report(folder).read_text("utf-8")
    assert f"was interrupted: it has 2 of {len(full.stages)} stages" in page
    sampler = GibbsPosterior(MODEL, store=folder, progress_bar=False, **PATH)
    found = sampler.resume(X, Y)
    assert torch.equal(found.positions, full.positions)
    assert torch.equal(found.log_weights, full.log_weights)
    same_as_opened(found, folder)


def test_a_store_without_a_stage_has_no_draws(tmp_path, monkeypatch):
    folder = tmp_path / "run.zarr"

    def stopped(self: Any, *rest: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(path.ParticleMover, "move", stopped)
    with pytest.raises(KeyboardInterrupt):
        annealed(store=folder)
    assert group(open_run(folder), "posterior").sizes["draw"] == 0
    assert "There are no draws in this run." in report(folder).read_text("utf-8")


def test_a_site_with_the_name_of_an_axis_is_renamed(tmp_path):
    def model(x: Tensor) -> Tensor:
        with pyro.plate("stage", 2):
            w = pyro.sample("particle", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0))
        return x * w.sum()

    folder = tmp_path / "run.zarr"
    sampler = GibbsPosterior(
        GibbsModel(model, squared),
        betas=[0.1, 1.0],
        num_particles=16,
        seed=1,
        store=folder,
        progress_bar=False,
    )
    found = sampler.run(X, Y)
    opened = group(open_run(folder), "posterior")["particle_"]
    assert opened.dims == ("chain", "draw", "stage_")
    np.testing.assert_array_equal(opened[0], found.get_samples()["particle"])
