"""Weights, annealed stages and series under whatever ArviZ runs this file.

Run as `python weighted_check.py MAJOR`: the major version expected. It prints the table
of the particles as JSON; torch is not imported.
"""

import json
import sys
import tempfile

import numpy as np

from pyro_geo.io.arviz import get_group, import_arviz, summary, to_arviz
from pyro_geo.io.names import SERIES_DIMS, STAGE_DIMS
from pyro_geo.io.reports import report, write_report
from pyro_geo.io.series import series_to_arviz
from pyro_geo.io.store import (
    FILTERED,
    REPORTS,
    STAGE_STATS,
    STAGES,
    RunStore,
    Snapshot,
    Variable,
    open_run,
)

PARTICLES, COUNT = 50, 3  # stages


def group(idata, name):
    found = get_group(idata, name)
    assert found is not None, name
    return found


def made(rng):
    """A table of weighted draws, through a file and back."""
    draws, log_weights = rng.normal(size=(PARTICLES, 2, 3)), rng.normal(size=(50, 2))
    idata = to_arviz(
        {
            "posterior": {"w": rng.normal(size=(1, 100, 3))},
            "particles": {"w": draws, "log_weights": log_weights},
        },
        dims={"w": ["school"]},
        attrs={"log_z": -3.5},
    )
    table = summary(idata)
    with tempfile.TemporaryDirectory() as folder:
        idata.to_netcdf(f"{folder}/run.nc")
        back = import_arviz().from_netcdf(f"{folder}/run.nc")
        assert summary(back).equals(table)
        assert group(back, "particles")["w"].dims == ("particle", "draw", "school")
        page = write_report(back, f"{folder}/page.html", title="t", facts={})
        assert "Summary of the chains with their weights" in page.read_text("utf-8")
    return table


def check_stages(rng):
    """A store of stages opens with the last one as its posterior."""
    w = rng.normal(size=(PARTICLES, COUNT, 2))
    stats = {
        name: rng.normal(size=(PARTICLES, COUNT))
        for name in ("log_weights", "loss", "acceptance_rate")
    }
    stats["beta"] = np.broadcast_to([0.1, 0.5, 1.0], (PARTICLES, COUNT))
    stats["equal_rows"] = rng.integers(0, PARTICLES, size=(PARTICLES, COUNT))
    float64 = np.dtype(float)
    variables = [Variable(STAGES, "w", (2,), float64)]
    variables += [Variable(STAGE_STATS, name, (), float64) for name in stats]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/run.zarr"
        store = RunStore.create(
            path,
            variables,
            num_chains=PARTICLES,
            num_draws=COUNT,
            chunk=(PARTICLES, 1),
            sample_dims=STAGE_DIMS,
        )
        assert group(open_run(path), "posterior").sizes["draw"] == 0
        for done in range(1, COUNT + 1):
            last = done - 1
            store.write(STAGES, "w", 0, last, w[:, last:done])
            for name, values in stats.items():
                store.write(STAGE_STATS, name, 0, last, values[:, last:done])
            store.commit(done, Snapshot(None, {}, frozenset()))
            idata = open_run(path)
            rows = stats["equal_rows"][:, last]
            posterior = group(idata, "posterior")["w"]
            np.testing.assert_array_equal(posterior[0], w[rows, last])
            particles = group(idata, "particles")
            np.testing.assert_array_equal(particles["w"][:, 0], w[:, last])
            tilt = group(idata, "sample_stats")["tilt"]
            expected = (stats["beta"] * stats["loss"])[rows, last]
            np.testing.assert_array_equal(tilt[0], expected)
            if last:
                before = group(idata, "stages")["w"]
                np.testing.assert_array_equal(before, np.swapaxes(w[:, :last], 0, 1))
        page = report(path).read_text("utf-8")
        assert "it has 3 of 3 stages" in page
        store.close()


def check_series(rng):
    """Steps of a filter, through a file and from a store while they come."""
    mean, cov = rng.normal(size=(2, 6, 1)), np.ones((2, 6, 1, 1))
    y, nats = rng.normal(size=(2, 6, 1)), rng.normal(size=(2, 6))
    t = np.broadcast_to(np.arange(6.0), (2, 6))
    groups = {
        FILTERED: {"mean": mean, "cov": cov},
        "sample_stats": {"severed": nats},
        REPORTS: {"y": y, "t": t},
        "posterior": {"states": rng.normal(size=(1, 9, 2, 6, 1))},
    }
    dims = {
        "mean": ["state"],
        "cov": ["state", "state_other"],
        "y": ["channel"],
        "states": ["state"],
    }
    names = {"state": ["level"], "channel": ["level"]}
    idata = series_to_arviz(
        groups, sample_dims=SERIES_DIMS, dims=dims, coords=names, attrs={"seed": 1}
    )
    with tempfile.TemporaryDirectory() as folder:
        idata.to_netcdf(f"{folder}/run.nc")
        back = import_arviz().from_netcdf(f"{folder}/run.nc")
        np.testing.assert_array_equal(group(back, FILTERED)["mean"].values, mean)
        assert group(back, "posterior")["states"].dims[2:] == (*SERIES_DIMS, "state")
        facts = {"kernel": "Filter", "labels": json.dumps(names)}
        path, float64 = f"{folder}/run.zarr", np.dtype(float)
        store = RunStore.create(
            path,
            [
                Variable(FILTERED, "mean", (1,), float64, ("state",)),
                Variable(FILTERED, "cov", (1, 1), float64, ("state", "state_other")),
                Variable("sample_stats", "severed", (), float64),
                Variable(REPORTS, "y", (1,), float64, ("channel",)),
                Variable(REPORTS, "t", (), float64),
            ],
            num_chains=2,
            num_draws=6,
            chunk=(2, 4),
            sample_dims=SERIES_DIMS,
            facts=facts,
        )
        for first, done in ((0, 4), (4, 6)):
            for name, arrays in groups.items():
                for key, values in arrays.items() if name != "posterior" else ():
                    store.write(name, key, 0, first, values[:, first:done])
            store.commit(done, Snapshot(None, {}, frozenset()))
            idata = open_run(path)
            filtered = group(idata, FILTERED)
            np.testing.assert_array_equal(filtered["mean"], mean[:, :done])
            assert filtered["state"].values.tolist() == ["level"]
            assert filtered["time"].values.tolist() == list(range(done))
            assert group(idata, "observed_data")["y"].dims == (*SERIES_DIMS, "channel")
        page = report(path).read_text("utf-8")
        assert "it has 6 of 6 steps" in page
        assert "State over time" in page
        store.close()


def main(major):
    assert int(import_arviz().__version__.split(".")[0]) == major
    rng = np.random.default_rng(0)
    table = made(rng)
    check_stages(rng)
    check_series(rng)
    assert "torch" not in sys.modules
    columns = ("mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "khat")
    print(json.dumps({name: table[name].tolist() for name in columns}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
