"""What the report says of Hamiltonian Monte Carlo."""

import numpy as np
import pytest

from pyro_geo._compat.arviz import major_version
from pyro_geo.io._report.stats import energy_fractions
from pyro_geo.io.arviz import import_arviz, to_arviz
from pyro_geo.io.reports import write_report


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


@pytest.fixture
def text(tmp_path):
    """Write a report and return its words."""

    def write(posterior, stats, **attrs):
        idata = to_arviz({"posterior": posterior, "sample_stats": stats}, attrs=attrs)
        path = write_report(idata, tmp_path / "r.html", title="t", facts={})
        assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
        return path.read_text("utf-8")

    return write


def hmc_stats(rng, shape):
    return {
        "lp": rng.normal(size=shape),
        "energy": rng.normal(size=shape),
        "acceptance_rate": np.full(shape, 0.75),
        "step_size": np.full(shape, 0.125),
        "n_steps": rng.integers(1, 9, size=shape),
        "diverging": np.zeros(shape, bool),
    }


def card(value, label, *, alert=False):
    return f"<li{' class=alert' if alert else ''}><strong>{value}</strong><span>{label}"


def test_the_headline_numbers_of_a_run_without_problems(rng, text):
    shape = (4, 1500)
    stats = hmc_stats(rng, shape)
    page = text({"z": rng.normal(size=shape)}, stats)
    assert card("0.75", "mean acceptance rate") in page
    assert card("0.125", "mean step size") in page
    assert card("0", "diverging") in page
    least = round(float(energy_fractions(stats["energy"]).min()), 2)
    assert card(f"{least:g}", "smallest E-BFMI") in page
    assert "Please note" not in page
    assert "nested" not in page


def test_slow_energies_and_divergences_are_marked(rng, text):
    stats = hmc_stats(rng, (4, 500))
    stats["energy"][1] = stats["energy"][1].cumsum()
    stats["diverging"][2, :7] = True
    page = text({"z": rng.normal(size=(4, 500))}, stats)
    assert "E-BFMI is below 0.3 for 1 of 4 chains" in page
    assert "<li class=alert><strong>" in page
    assert card("7", "diverging", alert=True) in page
    assert "7 of 2,000 draws are marked as diverging." in page


def test_groups_of_chains_are_judged_too(rng, text):
    z = rng.normal(size=(64, 20, 2))
    stats = {"acceptance_rate": np.ones((64, 20))}
    calm = text({"z": z}, stats, superchains=4)
    assert "largest nested R-hat" in calm
    assert "nested_r_hat" in calm  # the column of the summary
    assert "Groups of chains" not in calm
    z[:16, :, 1] += 1.0
    page = text({"z": z}, stats, superchains=4)
    assert "Groups of chains with one start disagree: nested R-hat is above" in page
    assert "largest for z[1]." in page


def test_other_kernels_have_no_energy_diagnostics(rng, text):
    stats = hmc_stats(rng, (2, 50))
    del stats["acceptance_rate"]
    page = text({"z": rng.normal(size=(2, 50))}, stats)
    assert "E-BFMI" not in page
    assert "mean step size" not in page


@pytest.mark.skipif(major_version() >= 1, reason="takes arrays in ArviZ 0.23 only")
def test_energy_fractions_are_those_of_arviz(rng):
    energy = rng.normal(size=(3, 200))
    energy[1] = energy[1].cumsum()
    expected = import_arviz().bfmi(energy)
    np.testing.assert_allclose(energy_fractions(energy), expected)


def test_energies_without_spread_have_no_diagnostic(rng, text):
    energy = np.ones((3, 9))
    energy[1, 2] = np.nan
    energy[2, 4] = np.inf
    assert np.isnan(energy_fractions(energy)).all()
    stats = hmc_stats(rng, (3, 9)) | {"energy": energy}
    assert "E-BFMI" not in text({"z": rng.normal(size=(3, 9))}, stats)
