"""Stores, interrupts, longer streams and processes: always the same bits."""

import json
import pickle
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from pyro_geo.engine.series_session import SeriesSession
from pyro_geo.errors import CheckpointError, ConvergenceWarning
from pyro_geo.filtering.tracker.blocks import TrackFilter
from pyro_geo.io import report
from pyro_geo.io.arviz import get_group
from pyro_geo.io.store import RunStore, check_run, open_run


def group(idata: Any, name: str) -> Any:
    """One group of ArviZ data, which must be there."""
    found = get_group(idata, name)
    assert found is not None
    return found


OPTIONS = {"dt": 1.0, "progress_bar": False, "block_steps": 8}


@pytest.fixture(scope="module")
def clean(y):
    return torch.where(y.isinf(), torch.nan, y)


@pytest.fixture(scope="module")
def whole(tracker, clean):
    return tracker.filter(clean, **OPTIONS)


def check_same(first, second):
    for name, value in first.values.items():
        np.testing.assert_array_equal(value, second.values[name], err_msg=name)
    assert first.num_steps == second.num_steps


def test_a_store_changes_no_bit_and_can_be_read(tracker, clean, whole, tmp_path):
    path = tmp_path / "run.zarr"
    track = tracker.filter(clean, store=path, labels=list("abcde"), **OPTIONS)
    check_same(track, whole)
    idata = open_run(path)
    filtered = group(idata, "filtered")
    assert dict(filtered["mean"].sizes) == {"track": 5, "time": 40, "state": 1}
    assert filtered["track"].values.tolist() == list("abcde")
    assert filtered["state"].values.tolist() == ["level"]
    np.testing.assert_array_equal(filtered["mean"].values, whole.mean)
    stats = group(idata, "sample_stats")
    assert stats["mode_prob"].dims == ("track", "time", "mode")
    assert stats["mode"].values.tolist() == ["nominal", "random", "stuck"]
    np.testing.assert_array_equal(stats["severed"].values, whole.severed)
    np.testing.assert_array_equal(group(idata, "observed_data")["y"].values, clean)
    assert check_run(path)["finished"]
    page = report(path).read_text()
    assert "Track a" in page
    assert "nats severed" in page


def test_a_run_that_was_cut_goes_on(tracker, clean, whole, tmp_path, monkeypatch):
    """Ctrl-C in the third block: two are kept, and the rest follows bit for bit."""
    path, block, count = tmp_path / "run.zarr", TrackFilter.block, iter(range(99))

    def interrupted(self, *args):
        if next(count) == 2:
            raise KeyboardInterrupt
        return block(self, *args)

    monkeypatch.setattr(TrackFilter, "block", interrupted)
    with pytest.warns(ConvergenceWarning, match="interrupted"):
        part = tracker.filter(clean, store=path, **OPTIONS)
    assert part.interrupted
    assert part.num_steps == 16
    np.testing.assert_array_equal(part.mean, whole.mean[:, :16])
    assert not check_run(path)["finished"]
    check_same(tracker.resume(clean, store=path, **OPTIONS), whole)
    assert check_run(path)["finished"]


@pytest.mark.parametrize("commit", [1, 2, 4])
def test_a_writer_that_dies_at_a_commit(
    tracker, clean, whole, tmp_path, monkeypatch, commit
):
    """The process is gone before a commit counts: the store is that of the last."""
    path, advance = tmp_path / "run.zarr", SeriesSession._count
    count = iter(range(99))

    def die(self):
        if next(count) == commit:
            raise SystemExit
        advance(self)

    monkeypatch.setattr(SeriesSession, "_count", die)
    with pytest.raises(SystemExit):
        tracker.filter(clean, store=path, **OPTIONS)
    monkeypatch.undo()
    assert check_run(path)["num_draws"] == 8 * commit
    check_same(tracker.resume(clean, store=path, **OPTIONS), whole)


def test_a_stream_goes_on_with_more_reports(tracker, clean, whole, tmp_path):
    path = tmp_path / "run.zarr"
    first = tracker.filter(clean[:, :21], store=path, **OPTIONS)
    assert first.num_steps == 21
    check_same(tracker.resume(clean, store=path, **OPTIONS), whole)


@pytest.mark.parametrize("stored", [False, True])
def test_extend_takes_the_new_reports_alone(tracker, clean, whole, tmp_path, stored):
    store = tmp_path / "run.zarr" if stored else None
    track = tracker.filter(clean[:, :21], store=store, **OPTIONS)
    check_same(track.extend(clean[:, 21:], dt=1.0), whole)
    t = torch.arange(21.0, 40.0)
    if not stored:  # the track itself is as long as before
        check_same(track.extend(clean[:, 21:], t), whole)
    assert track.num_steps == 21


def test_nothing_is_left_to_do(tracker, clean, whole, tmp_path):
    path = tmp_path / "run.zarr"
    tracker.filter(clean, store=path, **OPTIONS)
    check_same(tracker.resume(clean, store=path, **OPTIONS), whole)


def test_another_run_is_refused(tracker, clean, tmp_path):
    path = tmp_path / "run.zarr"
    tracker.filter(clean[:, :21], store=path, **OPTIONS)
    changed = clean.clone()
    changed[0, 0] += 1e-9
    refused = {
        "other reports": lambda: tracker.resume(changed, store=path, **OPTIONS),
        "run in the store is longer": lambda: tracker.resume(
            clean[:, :8], store=path, **OPTIONS
        ),
        "params": lambda: tracker.given({"p_fault": 0.2}).resume(
            clean, store=path, **OPTIONS
        ),
        "exists already": lambda: tracker.filter(clean, store=path, **OPTIONS),
        "block_steps": lambda: tracker.resume(
            clean, store=path, **{**OPTIONS, "block_steps": 4}
        ),
        "dtype": lambda: tracker.resume(clean.float(), store=path, **OPTIONS),
        "num_tracks": lambda: tracker.resume(clean[:2], store=path, **OPTIONS),
    }
    for match, run in refused.items():
        with pytest.raises(CheckpointError, match=match):
            run()
    longer = torch.arange(40.0)
    longer[3] = 3.5
    with pytest.raises(CheckpointError, match="argument t"):
        tracker.resume(clean, longer, store=path, progress_bar=False, block_steps=8)
    assert tracker.resume(clean, store=path, **OPTIONS).num_steps == 40


def test_values_may_stay_in_the_store_alone(tracker, clean, whole, tmp_path):
    path = tmp_path / "run.zarr"
    options = {**OPTIONS, "memory_limit": 2_000}
    track = tracker.filter(clean, store=path, **options)
    check_same(track, whole)
    assert group(track.to_arviz(), "filtered")["mean"].shape == (5, 40, 1)
    check_same(pickle.loads(pickle.dumps(track)), whole)
    again = tracker.resume(clean, store=path, **options)
    check_same(again, whole)
    assert again.summary().equals(whole.summary())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_groups_of_tracks_may_run_anywhere(tracker, clean, whole, tmp_path, backend):
    options = {**OPTIONS, "track_batch_size": 2}
    here = tracker.filter(clean, **options)
    np.testing.assert_allclose(here.mean, whole.mean, rtol=1e-12, atol=1e-13)
    with joblib.parallel_config(backend=backend):
        spread = tracker.filter(clean, n_jobs=2, store=tmp_path / "run.zarr", **options)
    check_same(here, spread)
    stored = group(open_run(tmp_path / "run.zarr"), "filtered")["mean"].values
    np.testing.assert_array_equal(stored, here.mean)


def test_each_track_may_have_times_of_its_own(tracker, clean, tmp_path):
    t = torch.arange(40.0) + torch.rand(5, 1)
    options = {"progress_bar": False, "store": tmp_path / "run.zarr"}
    track = tracker.filter(clean, t, **options)
    for idata in (track.to_arviz(), open_run(tmp_path / "run.zarr")):
        data = group(idata, "observed_data")
        np.testing.assert_array_equal(data["t"].values, t.double())
        assert data["time"].values.tolist() == list(range(40))


def test_labels_that_were_tampered_with_are_left_out(tracker, clean, tmp_path):
    path = tmp_path / "run.zarr"
    tracker.filter(clean, store=path, **OPTIONS)
    for text in ("no JSON", "[1, 2]", json.dumps({"track": "abcde", "state": [1, 2]})):
        store = RunStore.open(path)
        for name in ("filtered", "sample_stats"):
            store._metadata[name]["attributes"]["labels"] = text
        store._write_root()
        store.close()
        filtered = group(open_run(path), "filtered")
        assert filtered["mean"].shape == (5, 40, 1)
        assert filtered["track"].values.tolist() == list(range(5))


def test_a_store_whose_axes_were_changed_is_refused(tracker, clean, tmp_path):
    path = tmp_path / "run.zarr"
    tracker.filter(clean, store=path, **OPTIONS)
    store = RunStore.open(path)
    store.header["sample_dims"] = ["chain", "draw"]
    store._write_root()
    store.close()
    with pytest.raises(CheckpointError):
        open_run(path)
    with pytest.raises(CheckpointError):
        tracker.resume(clean, store=path, **OPTIONS)
