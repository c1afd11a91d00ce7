"""How results and what makes them show themselves, and how they are copied."""

import copy
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.errors import UnsupportedError
from pyro_geo.infer import DIMS, HMC, MCMC, GibbsModel, GibbsPosterior
from pyro_geo.testing.hmc import FixedHMC

Y = torch.tensor([1.0, 2.0, 0.0])


def model(y):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m + w.sum(), 1.0), obs=y)


def kernel(what=model):
    return FixedHMC(what, step_size=0.1, num_steps=2)


def unrun(what=model, **options) -> MCMC:
    options = {"num_chains": 2, "seed": 1, "progress_bar": False, **options}
    return MCMC(kernel(what), 20, 0, **options)


@pytest.fixture(scope="module")
def fit():
    return unrun().run(Y)


@pytest.fixture(scope="module")
def weighted():
    def predictor(x):
        return pyro.sample("a", dist.Normal(0.0, 1.0)) * x

    gibbs = GibbsModel(predictor, lambda f, y: (f - y) ** 2)
    options: dict[str, Any] = {"num_particles": 8, "pilot_particles": 4}
    return GibbsPosterior(
        gibbs, betas=[0.1], seed=1, progress_bar=False, **options
    ).run(Y, Y)


def test_a_run_shows_its_kernel_and_its_draws(fit):
    shown = "MCMC(FixedHMC(model, step_size=0.1, num_steps=2); "
    assert repr(unrun()) == f"{shown}no draws yet)"
    assert repr(fit) == str(fit)
    assert repr(fit) == f"{shown}2 chains, 20 draws of each; m (), w (2,))"


def start(anchor, n, generator):
    return anchor


def bowl(z) -> torch.Tensor:
    return z["x"].square().sum()


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        (HMC(model), "HMC(model)"),
        (HMC(model, metric="dense"), "HMC(model, metric='dense')"),
        (DIMS(model, velocity=start), "DIMS(model, velocity=start)"),
        (
            DIMS(model, anchors=torch.zeros(1, 3)),
            "DIMS(model, anchors=tensor of (1, 3))",
        ),
        (HMC(potential_fn=bowl), "HMC(potential_fn=bowl)"),
        (GibbsModel(model, start), "GibbsModel(model, start)"),
        (
            GibbsPosterior(GibbsModel(model, start), num_particles=8),
            "GibbsPosterior(GibbsModel(model, start), num_particles=8)",
        ),
        (Target.from_model(model, Y), "Target(m (), w (2,); dim 3, float32)"),
        (
            HMC(Target.from_potential(lambda q: q.sum(), 2, dtype=torch.float64)),
            "HMC(Target)",
        ),
    ],
)
def test_kernels_and_targets_show_what_they_are_of(what, shown):
    assert repr(what) == shown


def test_notebooks_show_a_table(fit, weighted):
    for result in (fit, weighted):
        html = result._repr_html_()
        assert html.count("<table") == html.count("</table>") == 1
        for row in result.summary().index:
            assert f"<th>{row}</th>" in html
    html = unrun()._repr_html_()
    assert "<table" in html
    assert "num_samples" in html
    assert "object at 0x" not in html


def test_notebooks_escape_what_users_name(fit):
    def odd():
        pyro.sample("<b>", dist.Normal(0.0, 1.0))

    html = unrun(odd).run()._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


def test_notebooks_do_not_tabulate_thousands_of_numbers(monkeypatch):
    def wide():
        pyro.sample("w", dist.Normal(torch.zeros(500), 1.0).to_event(1))

    fit = unrun(wide).run()
    monkeypatch.setattr(fit, "summary", lambda: pytest.fail("a table of 500 rows"))
    html = fit._repr_html_()
    assert "<table" in html
    assert "(500,)" in html


def pickled(x):
    return pickle.loads(pickle.dumps(x))


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
def test_results_are_copied_with_all_they_can_do(fit, weighted, copied):
    other = copied(fit)
    assert other.positions.equal(fit.positions)
    assert other.positions.data_ptr() != fit.positions.data_ptr()
    assert other.summary().equals(fit.summary())
    assert other.posterior_predictive()["y"].equal(fit.posterior_predictive()["y"])
    assert other.run(Y).positions.equal(fit.positions)
    particles = copied(weighted)
    assert particles.log_weights.equal(weighted.log_weights)
    assert particles.summary().equals(weighted.summary())
    assert repr(copied(unrun())) == repr(unrun())


def test_a_fit_of_a_lambda_pickles():
    factor = 2.0
    fit = unrun(lambda y: model(factor * y)).run(Y)
    other = pickle.loads(pickle.dumps(fit))
    assert other.positions.equal(fit.positions)
    q = fit.positions[0]
    assert other.target.log_prob(q).equal(fit.target.log_prob(q))


def test_what_does_not_pickle_is_said(fit):
    class Stubborn:
        def __reduce__(self):
            raise TypeError("a cable")

    other = copy.copy(fit)
    other._args = (Stubborn(),)
    with pytest.raises(UnsupportedError, match=r"a cable.*get_samples\(\)"):
        pickle.dumps(other)


def test_some_draws_at_random_follow_pyros_rule(fit):
    """With replacement, from all chains or the same draws of each, by torch's seed."""
    everything = fit.get_samples()["m"]
    torch.manual_seed(3)
    picked = fit.get_samples(num_samples=50)["m"]
    torch.manual_seed(3)
    rows = torch.randint(0, 40, (50,))
    assert picked.equal(everything[rows])
    chains = fit.get_samples(group_by_chain=True)["m"]
    torch.manual_seed(3)
    picked = fit.get_samples(5, group_by_chain=True)["m"]
    torch.manual_seed(3)
    assert picked.equal(chains[:, torch.randint(0, 20, (5,))])
    assert fit.get_samples(num_samples=0)["w"].shape == (0, 2)
    for wrong in (-1, 2.5, "all"):
        with pytest.raises(ValueError, match="num_samples"):
            fit.get_samples(num_samples=wrong)


def test_a_single_draw_of_a_single_chain_has_its_shapes():
    fit = MCMC(kernel(), 1, 0, 1, seed=1, progress_bar=False).run(y=Y)
    assert fit.get_samples()["w"].shape == (1, 2)
    assert fit.get_samples(group_by_chain=True)["m"].shape == (1, 1)
    assert len(fit.summary()) == 3
    assert set(fit.diagnostics()) == {"m", "w", "divergences", "acceptance rate"}
    assert set(fit.diagnostics()["m"]) == {"n_eff", "r_hat"}
    assert "<table" in fit._repr_html_()
