"""What a run has lost stands at the top of its report, counted."""

import re
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_geo import Target
from pyro_geo.errors import PyroGeoWarning
from pyro_geo.infer import DIMS, HMC, MCMC
from pyro_geo.io import report as report_of_store
from pyro_geo.io.arviz import to_arviz
from pyro_geo.io.reports import write_report
from tests.io.test_report import Page

SHAPE = (4, 60)


@pytest.fixture
def top(tmp_path, seed, monkeypatch):
    """Write a report of changed groups; what stands above its facts, and the rest.

    Without tables and pictures, which are not looked at and take most of the time.
    """
    for part in ("add_posterior", "add_stats"):
        monkeypatch.setattr(f"pyro_geo.io.reports.{part}", lambda *args: None)

    def write(change=None, *, facts=None, **options):
        rng = np.random.default_rng(seed)
        groups = {
            "posterior": {
                "mu": rng.normal(size=SHAPE),
                "w": rng.normal(size=(*SHAPE, 3)),
            },
            "sample_stats": {"lp": rng.normal(size=SHAPE)},
        }
        if change is not None:
            change(groups)
        path = tmp_path / "report.html"
        facts = {"seed": "1"} | (facts or {})
        idata = to_arviz(groups)
        write_report(idata, path, title="A run", facts=facts, **options)
        return split(path)

    return write


def split(path):
    """The title and what follows the facts, up to the first number; and all of it."""
    page = Page(path.read_text("utf-8"))
    top = page.html.partition("</header>")[0]
    top = re.sub(r'<dl class="facts">.*?</dl>(</details>)?', "", top, flags=re.DOTALL)
    top = re.sub(r"<details><summary>.*?</summary>", "", top)
    for part in ('<ul class="cards">', '<aside class="notes"'):
        top = top.partition(part)[0]
    return Page(top + "</header></body></html>").text, page.text


def lost(text):
    return text.partition("What this run has lost ")[2]


def test_a_run_that_lost_nothing_has_no_such_box(top):
    before, text = top()
    assert lost(text) == ""
    assert before == "A run A run"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lost_chains", "were lost"),
        ("hopeless_chains", "were given up"),
        ("stuck_chains", "were stuck"),
        ("restarted_chains", "were restarted in warm-up"),
    ],
)
def test_what_the_run_says_of_its_chains_is_counted(top, name, words):
    before, text = top(facts={name: "3", "num_chains": "4"})
    assert lost(before).startswith(f"3 of 4 chains {words}")
    assert f"3 {name.partition('_')[0]} chains" in text  # and as a number
    assert lost(top(facts={name: "0"})[0]) == ""


def still(groups):
    for name in ("mu", "w"):
        groups["posterior"][name][2] = groups["posterior"][name][2, 0]


def not_finite(groups):
    groups["posterior"]["mu"][0, :5] = np.nan
    groups["posterior"]["w"][1, 3, 2] = np.inf


def chain_of_nan(groups):
    for name in ("mu", "w"):
        groups["posterior"][name][3] = np.nan
    groups["sample_stats"]["lp"][3] = np.nan


def no_density(groups):
    groups["sample_stats"]["lp"][1, :7] = -np.inf


def flags(groups):
    for name, count in (("diverging", 5), ("saddle", 11), ("converged", 200)):
        flag = np.zeros(SHAPE, dtype=bool)
        flag.flat[:count] = True
        groups["sample_stats"][name] = flag


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (still, ["1 of 4 chains never moved: all draws are the same."]),
        (
            not_finite,
            [
                "6 of 240 draws hold numbers that are not finite, in 2 of 4 chains.",
                "2 of 4 rows of the summary hold draws that are not finite, and have "
                "no R-hat: mu, w[2].",
            ],
        ),
        (
            chain_of_nan,
            [
                "60 of 240 draws have no finite log-density.",
                "1 of 4 chains never moved",
                "60 of 240 draws hold numbers that are not finite, in 1 of 4 chains.",
                "4 of 4 rows of the summary hold draws that are not finite",
            ],
        ),
        (no_density, ["7 of 240 draws have no finite log-density."]),
        (
            flags,
            [
                "5 of 240 draws are marked as diverging.",
                "11 of 240 draws ended at saddles of the loss, which are no minima.",
                "40 of 240 draws did not converge.",
            ],
        ),
    ],
)
def test_what_the_draws_show_is_counted(top, change, sentences):
    before, text = top(change)
    for sentence in sentences:
        assert sentence in lost(before)
        assert text.count(sentence) == 1  # and nowhere else


def test_constant_rows_are_counted_beside_the_warnings(top):
    """A zero of a Cholesky factor is no loss, but its row has no R-hat either."""

    def constant(groups):
        groups["posterior"]["w"][..., 1] = 1.0

    before, text = top(constant)
    assert lost(before) == ""
    assert "1 of 4 rows of the summary are constant and have no R-hat: w[1]." in text


def test_numbers_of_other_tables_that_are_nan_are_counted(top):
    tables = {"Scores": [{"method": "ours", "nll": np.nan, "ece": 0.1}]}
    before, _ = top(tables=tables)
    assert "1 of 2 numbers of the table “Scores” could not be computed" in lost(before)


def test_a_chain_is_called_by_its_name(top):
    before, _ = top(still, chain_name="anchor")
    assert "1 of 4 anchors never moved" in lost(before)


def test_counts_are_of_all_draws_where_the_page_shows_some(top, monkeypatch):
    monkeypatch.setattr("pyro_geo.io.reports._LARGEST", 2_000)
    before, text = top(flags)
    assert "The page shows every" in text
    assert "11 of 240 draws ended at saddles" in lost(before)


def test_particles_without_weight_are_counted(tmp_path):
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(64, 1, 2))
    log_weights = np.zeros((64, 1))
    log_weights[:9] = -np.inf
    idata = to_arviz(
        {
            "posterior": {"w": draws.reshape(1, 64, 2)},
            "particles": {"w": draws, "log_weights": log_weights},
        }
    )
    path = tmp_path / "r.html"
    write_report(idata, path, title="t", facts={}, chain_name="particle")
    text = Page(path.read_text("utf-8")).text
    assert "9 of 64 particles have no weight." in lost(text)
    assert "R-hat" not in lost(text).partition("Please note")[0]


def holed():
    """A normal density with a half space of NaN."""
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    hole = torch.where(x[0] > 0.2, torch.tensor(torch.nan), torch.tensor(0.0))
    pyro.factor("hole", hole)


def quietly(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PyroGeoWarning)
        return call()


def test_a_broken_hmc_run_says_so_in_memory_and_from_its_store(tmp_path):
    store = tmp_path / "run.zarr"
    options = {"seed": 1, "progress_bar": False, "compile": False}
    # steps far too long: no proposal is accepted
    kernel = HMC(holed, step_size=1e9, metric="diagonal", trajectory_length=1e9)
    start = {"x": torch.full((4, 2), -1.0)}
    mcmc = MCMC(kernel, 20, 0, 4, initial_params=start, store=store, **options)
    fit = quietly(mcmc.run)
    assert bool((fit.positions == fit.positions[:, :1]).all())  # none has moved
    pages = [fit.report(tmp_path / "memory.html"), report_of_store(store)]
    for path in pages:
        before, _ = split(path)
        assert "4 of 4 chains never moved: all draws are the same." in lost(before)


@pytest.mark.slow
def test_a_run_of_dims_at_a_saddle_says_so(tmp_path):
    target = Target.from_potential(lambda q: (q[0] ** 2 - 1) ** 2 + q[1] ** 2, 2)
    kernel = DIMS(
        target,
        alpha=0.0,
        anchors=torch.zeros(1, 2),
        velocity="fixed_energy",
        initial_energy=1e-12,
        explore_time=0.1,
        settle_time=0.5,
        polish=False,
    )
    fit = quietly(MCMC(kernel, 8, seed=1, progress_bar=False).run)
    before, _ = split(fit.report(tmp_path / "r.html"))
    assert lost(before).startswith("8 of 8 draws ended at saddles of the loss")
    assert "8 of 8 draws did not converge." in lost(before)
