"""The record of draws: the same answers from memory and from a store alone."""

from typing import Any

import pytest
import torch

from pyro_geo.density import Target
from pyro_geo.engine.commits import StoreCommits
from pyro_geo.engine.record import DrawRecord
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.errors import CheckpointError, ConfigurationError, UnsupportedError
from pyro_geo.io.store import RunStore
from tests.cases import effects, numbers

TARGET = Target.from_model(effects, 2 * numbers(4, seed=2), dtype=torch.float64)
CHAINS, DRAWS = 3, 10
Q = numbers(CHAINS, DRAWS, TARGET.dim)
STATS = {"lp": numbers(CHAINS, DRAWS, seed=1), "diverging": Q[..., 0] > 1}


def filled(path: Any = None, **options: Any) -> DrawRecord:
    """Two rounds of five draws, in groups of two chains and one."""
    record = DrawRecord(TARGET, tuple(STATS), CHAINS, **options)
    if path is not None:
        record.begin(new_store(path, record))
    for first in (0, 5):
        for chains in (range(2, 3), range(2)):  # groups finish in any order
            rows = slice(chains[0], chains[-1] + 1), slice(first, first + 5)
            stats = {name: value[rows] for name, value in STATS.items()}
            record.add(chains, first, Q[rows], stats)
        record.close_round(first + 5)
        if record.commits is not None:
            state = StateCodec().snapshot(None, record.commits.next_commit)
            record.commit(state, {}, wait=True)
    return record


def new_store(path: Any, record: DrawRecord) -> RunStore:
    return RunStore.create(
        path,
        record.recorded.variables(),
        num_chains=CHAINS,
        num_draws=DRAWS,
        chunk=(2, 5),
        state=StateCodec().snapshot(None, 0),
        data={},
        dims=TARGET.dims,
        coords=TARGET.coords,
        header={},
        facts={},
    )


@pytest.mark.parametrize("place", ["memory", "both", "store alone"])
def test_what_was_added_comes_back(tmp_path, place):
    path = None if place == "memory" else tmp_path / "run.zarr"
    record = filled(path, limit=0 if place == "store alone" else 1 << 30)
    assert record.in_store_alone == (place == "store alone")
    assert record.folder == (path if place == "store alone" else None)
    assert (record.num_chains, record.num_draws) == (CHAINS, DRAWS)
    assert torch.equal(record.positions(), Q)
    for name, value in record.stats().items():
        assert torch.equal(value, STATS[name])
    assert list(record.shapes) == list(TARGET.layout.sites)
    assert record.computed == ["theta"]
    expected = TARGET.constrain(Q)
    sites = record.sites(["tau", "theta"])
    assert list(sites) == ["tau", "theta"]
    torch.testing.assert_close(sites["tau"], expected["tau"])
    theta = expected["mu"][..., None] + expected["tau"][..., None] * expected["eta"]
    torch.testing.assert_close(sites["theta"], theta)
    record.close()


def test_kept_sites_are_all_there_is():
    record = filled(keep=["theta"])
    assert set(record.shapes) == {"theta"}
    assert record.sites(["theta"])["theta"].shape == (CHAINS, DRAWS, 4)
    with pytest.raises(UnsupportedError, match="positions were not kept"):
        record.positions()
    with pytest.raises(ConfigurationError, match="'nu'"):
        _ = DrawRecord(TARGET, ["lp"], CHAINS, keep=["nu"]).recorded


def test_thinning_counts_from_the_start_of_the_run():
    record = filled(thin=3)
    assert record.num_draws == 3
    assert torch.equal(record.positions(), Q[:, 2::3])


def test_a_round_cut_short_leaves_nothing():
    record = filled()
    record.add(range(3), DRAWS, Q, STATS)
    record.drop_round()
    record.close_round(DRAWS)
    assert torch.equal(record.positions(), Q)


def test_the_commit_after_a_failed_write_raises_and_nothing_more_is_written(
    tmp_path, monkeypatch
):
    record = DrawRecord(TARGET, tuple(STATS), CHAINS)
    store = new_store(tmp_path / "run.zarr", record)
    commits = StoreCommits(store, unit="stage")
    commits.add_statistics({name: value.dtype for name, value in STATS.items()})
    calls = []

    def full(*args: Any, **options: Any) -> None:
        calls.append(args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    commits.write({"sample_stats": STATS}, 0, 0)
    commits.flush()
    assert commits.failed
    commits.write({"sample_stats": STATS}, 0, 0)
    assert len(calls) == 1
    state = StateCodec().snapshot(None, commits.next_commit)
    with pytest.raises(CheckpointError, match=r"No space.*good up to stage 0"):
        commits.commit(DRAWS, state, {})
    commits.close()
    store.close()
