"""The torch-free half of the bridge, checked under whatever ArviZ runs this file.

Run as `python bridge_check.py MAJOR OLD_FILE NEW_FILE`: the major version expected, a
NetCDF file written elsewhere to read back (or "-"), and where to write one.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

from pyro_geo._compat.arviz import pareto_k, quiet, smoothed_weights
from pyro_geo.errors import ShapeError
from pyro_geo.io.arviz import (
    get_group,
    import_arviz,
    nested_r_hat,
    summary,
    to_arviz,
    true_names,
)
from pyro_geo.io.reports import write_report
from pyro_geo.io.store import RunStore, Snapshot, Variable, open_run

ATTRS = {"seed": 7, "rung": "compiled", "seconds": 1.25, "superchains": 4}
SCHOOLS = ["a", "b", "c"]


def group(idata, name) -> xr.Dataset:
    found = get_group(idata, name)
    assert found is not None, name
    return found


def made():
    """Twelve chains; those of chain 10 diverge, and it is told by its values."""
    rng = np.random.default_rng(0)
    chains = np.arange(12)[:, None].repeat(30, 1)
    return to_arviz(
        {
            "posterior": {
                "chain_number": chains,
                "theta": rng.normal(size=(12, 30, 3)),
                "w": rng.normal(size=(12, 30, 3, 2)),
            },
            "sample_stats": {
                "diverging": chains == 10,
                "lp": rng.normal(size=(12, 30)),
            },
            "log_likelihood": {"y": rng.normal(size=(12, 30, 3))},
            "posterior_predictive": {"y": rng.normal(size=(12, 30, 3))},
            "prior": {"theta": rng.normal(size=(1, 50, 3))},
            "prior_predictive": {"y": rng.normal(size=(1, 50, 3))},
            "observed_data": {"y": rng.normal(size=3)},
        },
        dims={"theta": ["school"], "w": ["school"], "y": ["school"]},
        coords={"school": SCHOOLS},
        attrs=ATTRS,
    )


def check(idata):
    """Hold a result against what `made` put into it."""
    posterior, stats = group(idata, "posterior"), group(idata, "sample_stats")
    assert posterior["theta"].dims == ("chain", "draw", "school")
    assert posterior["w"].dims == ("chain", "draw", "school", "w_dim_1")
    assert posterior["school"].values.tolist() == SCHOOLS
    assert group(idata, "observed_data")["y"].dims == ("school",)
    for name, lead in (
        ("posterior_predictive", (12, 30)),
        ("prior_predictive", (1, 50)),
    ):
        found = group(idata, name)["y"]
        assert found.dims == ("chain", "draw", "school")
        assert found.shape == (*lead, 3)
        assert found["school"].values.tolist() == SCHOOLS
    assert group(idata, "prior")["theta"].shape == (1, 50, 3)
    for chain in range(12):
        assert (posterior["chain_number"].sel(chain=chain) == chain).all()
    assert stats["diverging"].dtype == bool
    assert stats["diverging"].sum("draw").values.tolist() == [0] * 10 + [30, 0]
    for found in (posterior, stats):
        assert {key: found.attrs[key] for key in ATTRS} == ATTRS
    table = summary(idata)
    assert table.loc["theta[b]", "r_hat"] < 1.1
    assert np.isfinite(table.loc["w[c, 1]", "ess_bulk"])
    assert table.loc["theta[b]", "nested_r_hat"] < 1.1
    result = import_arviz().loo(idata)
    assert result.n_data_points == 3


def check_nested_r_hat():
    """Ours is that of ArviZ 1.x: it has one, which cuts each chain in two for ranks."""
    arviz_stats = importlib.import_module("arviz_stats")  # comes with ArviZ 1.x

    draws = np.random.default_rng(2).normal(size=(12, 40)) ** 3
    draws[:3] += 0.5
    ids = np.arange(4).repeat(3)
    halves = draws.reshape(24, 20)  # stay beside each other, as superchains must
    for ours, method in (
        (nested_r_hat(draws, 4), "identity"),
        (nested_r_hat(halves, 4), "split"),
        (nested_r_hat(halves, 4, ranked=True), "rank"),
    ):
        theirs = arviz_stats.rhat_nested(
            draws, superchain_ids=ids, method=method, chain_axis=0, draw_axis=1
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def called():
    """Every function of ArviZ that the package calls, on the same draws.

    Returns:
        Name to the number it gives; they are equal under both versions.
    """
    arviz = import_arviz()
    draws = np.random.default_rng(3).normal(size=(4, 100)).cumsum(1)
    table = summary(to_arviz({"posterior": {"w": draws}}), interval=0.8)
    # without ess_tail: the two versions take other quantiles of few draws
    columns = ("mean", "sd", "ess_bulk", "r_hat", "mcse_mean", "mcse_sd")
    numbers = {f"summary {name}": table.loc["w", name] for name in columns}
    with quiet():
        for name, method in (
            ("rhat", "rank"),
            ("ess", "bulk"),
            ("ess", "mean"),
            ("mcse", "mean"),
        ):
            numbers[f"{name} {method}"] = getattr(arviz, name)(draws, method=method)
        numbers["rhat"], numbers["ess"] = arviz.rhat(draws), arviz.ess(draws)
        # degenerate draws give NaN without a word
        assert np.isnan(arviz.rhat(np.ones((4, 10))))
        assert np.isnan(arviz.ess(np.full((4, 10), np.nan)))
    for scale in (0.5, 1.0, 3.0):
        weights = scale * np.random.default_rng(4).normal(size=400)
        numbers[f"pareto_k {scale}"] = pareto_k(weights)
        smoothed, shapes = smoothed_weights(weights[None])
        numbers[f"smoothed {scale}"] = smoothed.max()
        numbers[f"shape {scale}"] = shapes[0]
    numbers["pareto_k of few"] = pareto_k(np.random.default_rng(4).normal(size=30))
    assert np.isnan(pareto_k(np.arange(29.0)))
    assert np.isnan(pareto_k(np.zeros(400)))
    return {name: float(np.asarray(value)) for name, value in numbers.items()}


def check_store():
    """A store is written and opened, with the zarr of this environment."""
    draws = np.random.default_rng(5).normal(size=(4, 10, 3))
    variables = [
        Variable("posterior", "w", (3,), np.dtype(float)),
        Variable("posterior", "net/b", (), np.dtype(bool)),
        Variable("unconstrained_posterior", "w", (2,), np.dtype(float), ()),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/run.zarr"
        store = RunStore.create(
            path, variables, num_chains=4, num_draws=10, chunk=(4, 5)
        )
        store.write("posterior", "w", 0, 0, draws)
        store.write("posterior", "net/b", 0, 0, draws[..., 0] > 0)
        store.write("unconstrained_posterior", "w", 0, 0, draws[..., :2])
        store.commit(10, Snapshot(None, {}, frozenset()), finished=True)
        store.close()
        opened, file = open_run(path), f"{folder}/run.nc"
        opened.to_netcdf(file)
        for idata in (opened, import_arviz().from_netcdf(file)):
            posterior = group(idata, "posterior")
            np.testing.assert_array_equal(posterior["w"].values, draws)
            np.testing.assert_array_equal(posterior["net.b"], draws[..., 0] > 0)
            assert posterior["w"].dims == ("chain", "draw", "w_dim_0")
            assert true_names(posterior.attrs) == {"net.b": "net/b"}
            free = group(idata, "unconstrained_posterior")["w"]
            np.testing.assert_array_equal(free.values, draws[..., :2])


def main(major, old, new):
    arviz = import_arviz()
    assert int(arviz.__version__.split(".")[0]) == major, arviz.__version__
    idata = made()
    if major >= 1:
        assert isinstance(idata, xr.DataTree)
        check_nested_r_hat()
    check(idata)
    if old != "-":
        check(arviz.from_netcdf(old))
    idata.to_netcdf(new)
    check(arviz.from_netcdf(new))
    check_store()

    walk = np.random.default_rng(1).normal(size=(1, 200)).cumsum(1)
    one = summary(to_arviz({"posterior": {"w": walk}}))
    assert one.loc["w", "r_hat"] > 1.1
    said = ""
    try:
        to_arviz({"posterior": {"w": walk}}, dims={"w": ["a"]})
    except ShapeError as error:
        said = str(error)
    assert "site 'w'" in said

    path = write_report(idata, Path(new).with_suffix(".html"), title="t", facts={})
    page = path.read_text("utf-8")
    assert page.count("data:image/png") == 3
    assert "30 of 360 draws are marked as diverging." in page
    assert "torch" not in sys.modules
    print(json.dumps({"version": arviz.__version__, "numbers": called()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
