"""The bridge to ArviZ: names, labels, attributes, files, and the summary."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import pyro_geo
from pyro_geo._compat.arviz import major_version
from pyro_geo.errors import ConfigurationError, FallbackWarning, ShapeError
from pyro_geo.io.arviz import get_group, import_arviz, summary, to_arviz, true_names

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def group(idata, name) -> xr.Dataset:
    found = get_group(idata, name)
    assert found is not None
    return found


def run(rng, chains=3, draws=20):
    return {
        "posterior": {
            "mu": rng.normal(size=(chains, draws)),
            "theta": rng.normal(size=(chains, draws, 4)),
            "w": rng.normal(size=(chains, draws, 4, 2)),
        },
        "sample_stats": {
            "lp": rng.normal(size=(chains, draws)),
            "diverging": rng.uniform(size=(chains, draws)) < 0.2,
        },
        "log_likelihood": {"y": rng.normal(size=(chains, draws, 4))},
        "observed_data": {"y": rng.normal(size=(4, 2))},
        "constant_data": {"x": rng.normal(size=(5,)), "n": np.array(5)},
    }


DIMS = {"theta": ["school"], "w": ["school"], "y": ["school", "event"]}
SCHOOLS = ["a", "b", "c", "d"]


def test_the_container_is_that_of_the_installed_version(rng):
    idata = to_arviz(run(rng))
    arviz = import_arviz()
    expected = xr.DataTree if major_version() >= 1 else arviz.InferenceData
    assert type(idata) is expected


def test_values_come_through_unchanged(rng):
    groups = run(rng)
    idata = to_arviz(groups, dims=DIMS, coords={"school": SCHOOLS})
    for name, arrays in groups.items():
        assert set(group(idata, name).data_vars) == set(arrays)
        for site, array in arrays.items():
            found = group(idata, name)[site]
            np.testing.assert_array_equal(found.values, array)
            assert found.dtype == array.dtype


def test_axes_are_named_from_dims_and_by_default(rng):
    idata = to_arviz(run(rng), dims=DIMS, coords={"school": SCHOOLS})
    posterior = group(idata, "posterior")
    assert posterior["mu"].dims == ("chain", "draw")
    assert posterior["theta"].dims == ("chain", "draw", "school")
    assert posterior["w"].dims == ("chain", "draw", "school", "w_dim_1")
    assert posterior["school"].values.tolist() == SCHOOLS
    assert posterior["w_dim_1"].values.tolist() == [0, 1]
    assert group(idata, "observed_data")["y"].dims == ("school", "event")
    assert group(idata, "constant_data")["x"].dims == ("x_dim_0",)
    assert group(idata, "constant_data")["n"].dims == ()


def test_default_names_are_those_of_arviz(rng):
    array = {"w": rng.normal(size=(2, 5, 3, 4))}
    arviz = import_arviz()
    given = {"posterior": array}
    theirs = (
        arviz.from_dict(given) if major_version() >= 1 else arviz.from_dict(**given)
    )
    ours = to_arviz(given)
    assert group(ours, "posterior")["w"].dims == group(theirs, "posterior")["w"].dims


def test_none_leaves_an_axis_its_default_name(rng):
    idata = to_arviz(run(rng), dims={"w": [None, "side"]})
    assert group(idata, "posterior")["w"].dims[2:] == ("w_dim_0", "side")


def test_event_axes_of_a_log_likelihood_are_left_out(rng):
    idata = to_arviz(run(rng), dims=DIMS)
    assert group(idata, "log_likelihood")["y"].dims == ("chain", "draw", "school")


def test_chains_keep_their_order_beyond_ten():
    chains = np.arange(13)[:, None].repeat(4, 1)
    flags = chains == 10
    idata = to_arviz({"posterior": {"w": chains}, "sample_stats": {"diverging": flags}})
    assert group(idata, "posterior")["chain"].values.tolist() == list(range(13))
    diverging = group(idata, "sample_stats")["diverging"]
    assert diverging.sel(chain=10).all()
    assert int(diverging.sum()) == 4
    assert (group(idata, "posterior")["w"].sel(chain=10) == 10).all()


@pytest.mark.parametrize(("chains", "draws"), [(1, 1), (64, 2), (3, 0)])
def test_extreme_counts_pass_without_a_warning(rng, chains, draws):
    idata = to_arviz(run(rng, chains, draws), dims=DIMS)
    sizes = dict(group(idata, "posterior").sizes)
    assert (sizes["chain"], sizes["draw"]) == (chains, draws)


def test_empty_groups_are_left_out(rng):
    idata = to_arviz({**run(rng), "constant_data": {}, "prior": {}})
    assert get_group(idata, "constant_data") is None
    assert get_group(idata, "prior") is None


def test_predictions_may_be_at_other_inputs(rng):
    groups = {**run(rng), "predictions": {"y": rng.normal(size=(3, 20, 9))}}
    idata = to_arviz(groups, dims={"y": ["school"]}, coords={"school": SCHOOLS})
    assert group(idata, "predictions")["school"].values.tolist() == list(range(9))


ATTRS = {
    "seed": 7,
    "rung": "compiled",
    "seconds": 1.25,
    "note": "α = 0, \u2264 1",
    "e": "",
}


def test_attributes_survive_a_file(rng, tmp_path):
    attrs = {**ATTRS, "resumed": True, "key": 2**64 + 1, "one": np.float32(0.5)}
    stored = {**ATTRS, "resumed": 1, "key": str(2**64 + 1), "one": 0.5}
    idata = to_arviz(run(rng), dims=DIMS, coords={"school": SCHOOLS}, attrs=attrs)
    idata.to_netcdf(str(tmp_path / "run.nc"))
    back = import_arviz().from_netcdf(str(tmp_path / "run.nc"))
    for name in ("posterior", "sample_stats"):
        found = group(back, name).attrs
        assert {key: found[key] for key in stored} == stored
        assert found["inference_library"] == "pyro_geo"
        assert found["inference_library_version"] == pyro_geo.__version__
    assert "seed" not in group(back, "observed_data").attrs
    assert group(back, "posterior")["school"].values.tolist() == SCHOOLS
    assert group(back, "sample_stats")["diverging"].dtype == bool
    xr.testing.assert_equal(group(back, "posterior"), group(idata, "posterior"))


def test_names_that_cannot_be_stored_are_changed_with_a_warning(rng, tmp_path):
    posterior = {"net/w": rng.normal(size=(2, 6, 3)), "b": rng.normal(size=(2, 6, 4))}
    with pytest.warns(FallbackWarning, match="net/w -> net.w"):
        idata = to_arviz(
            {"posterior": posterior},
            dims={"net/w": ["draw"], "b": ["in/out"]},
            coords={"draw": ["x", "y", "z"]},
        )
    found = group(idata, "posterior")
    assert found["net.w"].dims == ("chain", "draw", "draw_")
    assert found["draw_"].values.tolist() == ["x", "y", "z"]
    assert found["b"].dims[2:] == ("in.out",)
    renamed = {"net.w": "net/w", "draw_": "draw", "in.out": "in/out"}
    assert true_names(found.attrs) == renamed
    idata.to_netcdf(str(tmp_path / "run.nc"))
    back = import_arviz().from_netcdf(str(tmp_path / "run.nc"))
    assert true_names(group(back, "posterior").attrs) == renamed


Z = np.zeros


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        ({"posterior": {"w": Z((2, 5, 3))}}, {"dims": {"w": ["a", "b"]}}, "site 'w'"),
        ({"posterior": {"w": Z((2, 5))}}, {"dims": {"w": ["a"]}}, "1 names"),
        ({"observed_data": {"w": Z(3)}}, {"dims": {"w": ["a", "b"]}}, "observed_data"),
        (
            {"posterior": {"w": Z((2, 5, 3))}},
            {"dims": {"w": ["a"]}, "coords": {"a": ["x", "y"]}},
            "labels of dimension 'a'",
        ),
        (
            {"posterior": {"w": Z((2, 5, 3)), "v": Z((2, 5, 4))}},
            {"dims": {"w": ["a"], "v": ["a"]}},
            "'a' has two lengths",
        ),
        (
            {"posterior": {"w": Z((2, 5, 3, 3))}},
            {"dims": {"w": ["a", "a"]}},
            "used twice",
        ),
        ({"posterior": {"w": Z(5)}}, {}, "two leading axes"),
        ({"posterior": {"w": Z((2, 5)), "v": Z((2, 6))}}, {}, r"= \(2, 5\)"),
        (
            {"posterior": {"w": Z((2, 5))}, "sample_stats": {"lp": Z((5, 2))}},
            {},
            "group 'sample_stats', site 'lp'",
        ),
    ],
)
def test_what_does_not_fit_is_named(groups, options, message):
    four_parts = r"^[^:]+ \(.*\): found .*, expected .*\. [A-Z].*\.$"
    with pytest.raises(ShapeError, match=four_parts) as caught:
        to_arviz(groups, **options)
    assert re.search(message, str(caught.value))


def test_unknown_groups_and_attributes_are_refused():
    with pytest.raises(ConfigurationError, match="posteriors"):
        to_arviz({"posteriors": {"w": Z((2, 5))}})
    bad: dict = {"options": [1, 2]}
    with pytest.raises(ConfigurationError, match="attribute 'options'"):
        to_arviz({"posterior": {"w": Z((2, 5))}}, attrs=bad)


def test_loo_works_on_the_result(rng):
    groups = run(rng, 4, 100)
    result = import_arviz().loo(to_arviz(groups, dims=DIMS))
    assert np.isfinite(result.elpd_loo if major_version() < 1 else result.elpd)


def test_summary_equals_that_of_arviz(rng):
    idata = to_arviz(run(rng, 4, 100), dims=DIMS, coords={"school": SCHOOLS})
    level = {"ci_prob" if major_version() >= 1 else "hdi_prob": 0.8}
    theirs = import_arviz().summary(idata, round_to="none", **level)
    ours = summary(idata, interval=0.8)
    # numba, which only their call uses, adds up in another order
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-12)
    assert "r_hat" not in ours.attrs
    assert summary(idata, var_names=["mu"]).index.tolist() == ["mu"]
    assert "theta[b]" in ours.index
    assert (summary(idata, round_to=1) == summary(idata).round(1)).all(axis=None)


def test_one_chain_is_cut_in_four_for_rhat(rng):
    still = rng.normal(size=(1, 403))
    wandering = still + np.linspace(0, 5, 403)
    idata = to_arviz({"posterior": {"still": still, "wandering": wandering}})
    table = summary(idata)
    assert table.loc["still", "r_hat"] < 1.1
    assert table.loc["wandering", "r_hat"] > 1.5
    assert table.attrs["r_hat"] == "one chain, cut in four"
    parts = wandering[:, 3:].reshape(4, 100)
    whole = summary(to_arviz({"posterior": {"wandering": parts}}))
    assert table.loc["wandering", "r_hat"] == whole.loc["wandering", "r_hat"]
    assert table.loc["still", "mean"] == pytest.approx(still.mean())


@pytest.mark.parametrize(("chains", "draws"), [(1, 1), (1, 7), (2, 3), (4, 1)])
def test_summary_of_very_few_draws_is_quiet(rng, chains, draws, capfd):
    table = summary(to_arviz({"posterior": {"w": rng.normal(size=(chains, draws))}}))
    assert np.isnan(table.loc["w", "r_hat"])
    assert np.isfinite(table.loc["w", "mean"])
    assert capfd.readouterr() == ("", "")


def test_summary_of_constants_and_nan_is_quiet(rng, capfd):
    w = rng.normal(size=(2, 50))
    w[0, 3] = np.nan
    table = summary(to_arviz({"posterior": {"c": np.ones((2, 50)), "w": w}}))
    assert table.loc["c", "mean"] == 1.0
    assert np.isnan(table.loc["w", "mean"])
    assert capfd.readouterr() == ("", "")


def test_summary_refuses_what_it_cannot_tabulate(rng):
    with pytest.raises(ConfigurationError, match="Nothing to tabulate"):
        summary(to_arviz({"sample_stats": {"lp": Z((2, 5))}}))
    with pytest.raises(ConfigurationError, match="no draws"):
        summary(to_arviz({"posterior": {"w": Z((2, 0))}}))
    with pytest.raises(ConfigurationError, match="argument interval"):
        summary(to_arviz(run(rng)), interval=90)


def in_a_process(code, **environment):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_modules_loads_nothing_heavy():
    code = """
import sys
import pyro_geo.io.arviz, pyro_geo.io.reports
heavy = {"torch", "pyro", "arviz", "xarray", "pandas", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    in_a_process(code, HOME=os.environ.get("HOME", ""))


def test_the_first_import_of_a_day_is_quiet_with_warnings_as_errors(tmp_path):
    # An empty cache folder is what ArviZ sees on the first import of a day.
    code = "from pyro_geo.io.arviz import import_arviz; import_arviz()"
    home = str(tmp_path)
    in_a_process(code, HOME=home, XDG_CACHE_HOME=home)


def test_only_the_announcement_is_filtered():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        import_arviz()
        assert warnings.filters == before
