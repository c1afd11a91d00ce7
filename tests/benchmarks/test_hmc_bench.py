"""The HMC benchmark measures what it says it does."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_geo.density import Target
from pyro_geo.testing import posteriordb

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
NUMPYRO = pytest.mark.skipif(
    importlib.util.find_spec("numpyro") is None, reason="numpyro is not installed"
)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def python(code):
    """Run code beside the benchmarks; JAX stays out of the process of the tests."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=FOLDER,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def rate_row(part, case, sampler, value, about="", r_hat=1.0, key=None):
    key = key or "min-ESS per processor second"
    return {
        "part": part,
        "case": case,
        "method": f"{sampler}, {about}",
        "metric": key,
        "value": value,
        "sampler": sampler,
        "about": about,
        "r_hat": r_hat,
        "key": key,
    }


# -- quality ----------------------------------------------------------------------


def test_quality_is_that_of_the_worst_scalar(bench):
    common = bench("_hmc_common")
    rng = np.random.default_rng(0)
    good = rng.normal(size=(8, 500))
    slow = np.cumsum(rng.normal(size=(8, 500, 2)), 1)  # chains that drift apart
    alone = common.quality({"good": good})
    both = common.quality({"good": good, "slow": slow})
    assert 2000 < alone.min_ess < 6000
    assert alone.r_hat < 1.01
    assert both.min_ess < 100
    assert both.r_hat > 1.1


def test_one_chain_is_cut_in_four(bench):
    common = bench("_hmc_common")
    noise = np.random.default_rng(0).normal(size=(1, 1000))
    drift = noise + np.linspace(0.0, 3.0, 1000)
    assert common.quality({"x": noise}).r_hat < 1.01
    assert common.quality({"x": drift}).r_hat > 1.1
    quarters = common.quarters(np.arange(10.0).reshape(1, 10))
    assert quarters.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_chain_that_stands_still_counts_for_nothing(bench):
    common = bench("_hmc_common")
    found = common.quality({"x": np.ones((4, 100))})
    assert found == (0.0, float("inf"))
    assert "R-hat inf" in common.marked([found.r_hat], [3])
    assert common.marked([1.001], [0]) == ""


# -- ratios -----------------------------------------------------------------------


def test_a_peer_counts_at_its_better_metric(bench):
    ratios = bench("_hmc_ratios").ratios
    rows = [
        rate_row("posteriors", "arK-arK", "ours", 600.0),
        rate_row("posteriors", "arK-arK", "NumPyro NUTS", 100.0, "dense"),
        rate_row("posteriors", "arK-arK", "NumPyro NUTS", 50.0, "diagonal"),
        rate_row("pyro", "arK-arK", "Pyro NUTS", 1.0, "dense"),
        rate_row("pyro", "arK-arK", "Pyro NUTS", 2.0, "diagonal", r_hat=1.5),
        rate_row("posteriors", "sblri-blr", "ours", 10.0),
        rate_row("posteriors", "sblri-blr", "NumPyro NUTS", 5.0, "dense"),
    ]
    stem = "min_ess_per_cpu_s"
    assert ratios(rows) == {
        f"{stem}/pyro_nuts@64/minimum": 300.0,
        f"{stem}/pyro_nuts@64/median": 300.0,
        f"{stem}/pyro_nuts@64/arK-arK": 300.0,
        f"{stem}/numpyro_nuts@64/minimum": 2.0,
        f"{stem}/numpyro_nuts@64/median": 4.0,
        f"{stem}/numpyro_nuts@64/arK-arK": 6.0,
        f"{stem}/numpyro_nuts@64/sblri-blr": 2.0,
    }


@pytest.mark.parametrize("r_hat", [1.01, None])
def test_our_figure_counts_only_where_chains_agree(bench, r_hat):
    ratios = bench("_hmc_ratios").ratios
    rows = [
        rate_row("posteriors", "arK-arK", "ours", 600.0, r_hat=r_hat),
        rate_row("posteriors", "arK-arK", "NumPyro NUTS", 100.0),
        rate_row("chains", "arK-arK", "ours", 700.0),
    ]
    assert ratios(rows) == {}
    failed = bench("_hmc_reading").failures(rows)
    assert len(failed) == 1
    assert "makes no ratio" in failed[0]


def test_gradients_are_compared_with_the_low_rank_metric(bench):
    ratios = bench("_hmc_ratios").ratios
    key = "min-ESS per gradient"
    rows = [
        rate_row("gradients", "arK-arK", "ours", 0.3, key=key),
        rate_row("gradients", "arK-arK", "nutpie NUTS", 0.2, "low-rank", key=key),
        rate_row("gradients", "arK-arK", "nutpie NUTS", 0.9, "diagonal", key=key),
    ]
    found = ratios(rows)
    assert found["min_ess_per_gradient/nutpie_low_rank/arK-arK"] == pytest.approx(1.5)
    assert found["min_ess_per_gradient/nutpie_low_rank/median"] == pytest.approx(1.5)


def test_whole_processes_compare_wall_times(bench):
    ratios = bench("_hmc_ratios").ratios
    rows = [
        rate_row("end_to_end", "eight_schools", sampler, value, about, key="wall")
        for sampler, about, value in [
            ("ours", "cold", 20.0),
            ("ours", "warm", 5.0),
            ("NumPyro NUTS", "cold", 10.0),
            ("NumPyro NUTS", "warm", 6.0),
            ("Pyro NUTS", "cold", 100.0),
        ]
    ]
    assert ratios(rows) == {
        "end_to_end/pyro_nuts/eight_schools": 20.0,
        "end_to_end/numpyro_nuts/eight_schools": 2.0,
        "end_to_end/pyro_nuts/eight_schools/cold": 5.0,
        "end_to_end/numpyro_nuts/eight_schools/cold": 0.5,
        "end_to_end/numpyro_nuts/eight_schools/warm": 1.2,
    }


def test_reading_holds_every_posterior_against_its_aim(bench):
    key = "min_ess_per_cpu_s/pyro_nuts@64"
    ratios = {f"{key}/minimum": 100.0, f"{key}/a": 100.0, f"{key}/b": 400.0}
    text = "\n".join(bench("_hmc_reading").reading([], ratios))
    assert "MISSED" in text
    assert "1 of 2 meet it; not a 100" in text
    assert "end_to_end/numpyro_nuts/eight_schools: not measured" in text


# -- the result file --------------------------------------------------------------


def test_a_part_replaces_its_own_cases_only(bench, tmp_path):
    hmc = bench("hmc")
    old = [
        {"part": "posteriors", "case": "a", "value": 1},
        {"part": "posteriors", "case": "b", "value": 2},
        {"part": "saas", "case": "a", "value": 3},
        {"part": "gone", "case": "a", "value": 4},
    ]
    path = tmp_path / "hmc.json"
    path.write_text(json.dumps({"rows": old}))
    rows = hmc.merged(hmc.kept(path), "posteriors", [{"case": "a", "value": 5}])
    assert [(row["part"], row["case"], row["value"]) for row in rows] == [
        ("posteriors", "b", 2),
        ("posteriors", "a", 5),
        ("saas", "a", 3),
    ]


# -- the sides --------------------------------------------------------------------


def flat_line(y):
    mean = pyro.sample(
        "mean", dist.ImproperUniform(constraints.real, torch.Size(), torch.Size())
    )
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.slow
def test_pyro_runs_on_flat_priors_until_the_time_is_up(bench):
    torch.set_default_dtype(torch.float64)
    run, y = bench("_hmc_pyro").run, torch.tensor([3.9, 4.1, 4.0])
    done = run(flat_line, (y,), 200, dense=True, limit=60.0, warmup=50)
    assert done.failed is None
    assert done.draws["mean"].shape == (1, 200)
    # five standard errors of a mean of 50 independent draws
    assert abs(done.draws["mean"].mean() - 4.0) < 5 * (1 / 3 / 50) ** 0.5
    assert min(spent[0] for spent in done.seconds.values()) > 0

    cut = run(flat_line, (y,), 10**6, dense=False, limit=1.0, warmup=20)
    assert 16 <= cut.draws["mean"].shape[1] < 10**6
    assert "stopped after 1 s" in cut.about
    late = run(flat_line, (y,), 10, dense=False, limit=0.0, warmup=20)
    assert "1 transitions in 0 s, 20 are warm-up" in late.failed
    assert bench("_hmc_common").rate(late) == -float("inf")


def test_every_call_of_a_peer_is_counted(bench):
    target = Target.from_potential(
        lambda q: 0.5 * (q * q).sum(), 2, dtype=torch.float64, compile=False
    )
    counted = bench("_hmc_nutpie").Counted(target)
    value, grad = counted(np.array([1.0, 2.0]))
    counted(np.zeros(2))
    assert value == -2.5
    assert grad.tolist() == [-1.0, -2.0]
    assert counted.calls == 2


def test_our_gradients_include_the_warm_up(bench):
    target = Target.from_potential(
        lambda q: 0.5 * (q * q).sum(), 2, dtype=torch.float64, compile=False
    )
    run = bench("_hmc_ours").run(target, 8, 50, 0, compile=False, warmup_steps=50)
    assert run.draws["q"].shape == (8, 50, 2)
    assert run.gradients >= 8 * (50 + 50)
    assert set(run.seconds) == {"warm-up", "compilation", "sampling"}


@pytest.mark.slow
def test_a_peer_that_is_not_installed_is_said_to_be(bench, monkeypatch, capsys):
    torch.set_default_dtype(torch.float64)
    saas = bench("_hmc_saas")
    monkeypatch.setattr(saas, "installed", lambda name: False)
    (rows,) = saas.measure(quick=True)
    note = {row["method"]: row.get("note") for row in rows}
    assert note["NumPyro NUTS"] == "not installed"
    assert "not installed" in capsys.readouterr().out
    assert {row.get("sampler") for row in rows} >= {"ours", "Pyro NUTS"}


# -- the same density on both sides -----------------------------------------------


@NUMPYRO
@pytest.mark.slow
@pytest.mark.skipif(
    posteriordb.folder() is None, reason="no posteriordb folder: set PDB_PATH"
)
def test_numpyro_models_have_our_densities():
    code = """
from _hmc_density import MODELS, checked, posteriordb
from _hmc_posteriors import NAMES
assert set(MODELS) == set(NAMES)
for name in NAMES:
    checked(name, posteriordb.folder())
print(len(NAMES))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["13"]


@NUMPYRO
@pytest.mark.slow
def test_the_numpyro_process_has_our_density_and_another_is_refused():
    code = """
import torch
torch.set_default_dtype(torch.float64)
import _hmc_saas
from pyro_geo.density import Target
model = _hmc_saas.load("saas_gp").model
x, y = _hmc_saas.data(quick=False)
_hmc_saas.numpyro_model(Target.from_model(model, x, y, compile=False), quick=False)
print("agrees")
_hmc_saas.numpyro_model(Target.from_model(model, x, y + 0.01, compile=False), False)
"""
    done = python(code)
    assert done.stdout.split() == ["agrees"], done.stderr
    assert "saas: the two densities differ by" in done.stderr
