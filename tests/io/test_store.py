"""Stores of runs: what a reader and the next writer find, whatever happened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from pyro_geo.errors import CheckpointError
from pyro_geo.io import arviz
from pyro_geo.io.store import (
    RunStore,
    Snapshot,
    Variable,
    _array,
    _metadata,
    _run,
    check_run,
    open_run,
)

CHAINS, BLOCK, BLOCKS = 6, 4, 3
SINGLE = np.dtype(np.float32)
VARIABLES = [
    Variable("posterior", "w", (3,), SINGLE),
    Variable("posterior", "b/c", (), SINGLE),
    Variable("posterior", "n", (2, 2), np.dtype(np.int64)),
]
STATS = [Variable("sample_stats", "diverging", (), np.dtype(bool))]


def draws(block: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(block)
    return {
        "w": rng.normal(size=(CHAINS, BLOCK, 3)).astype(SINGLE),
        "b/c": rng.normal(size=(CHAINS, BLOCK)).astype(SINGLE),
        "n": rng.integers(-9, 9, size=(CHAINS, BLOCK, 2, 2)),
    }


def diverging(block: int) -> np.ndarray:
    return np.random.default_rng(50 + block).random((CHAINS, BLOCK)) < 0.5


def state(block: int) -> Snapshot:
    arrays = {f"{block}.0": np.full(5, block)}
    # one array of an earlier commit is still needed
    return Snapshot({"block": block}, arrays, frozenset({0} if block else ()))


def create(path: Path, **options: Any) -> RunStore:
    settings: dict[str, Any] = {
        "num_chains": CHAINS,
        "num_draws": BLOCK * BLOCKS,
        "chunk": (4, BLOCK),  # the second chunk of chains is not full
        "state": state(0),
        "data": {"y": np.arange(3.0), "flag": np.array(False)},
        "dims": {"w": ["feature"], "y": ["row"]},
        "coords": {"feature": [10, 20, 30]},
        "header": {"seed": 1},
        "facts": {"kernel": "Test"},
    }
    return RunStore.create(path, VARIABLES, **(settings | options))


def advance(store: RunStore, block: int) -> None:
    """Write one block and commit it."""
    if not store.has("sample_stats"):
        store.add(STATS)
    for name, values in draws(block).items():
        store.write("posterior", name, 0, block * BLOCK, values[:4])
        store.write("posterior", name, 4, block * BLOCK, values[4:])
    store.write("sample_stats", "diverging", 0, block * BLOCK, diverging(block))
    store.commit(
        (block + 1) * BLOCK,
        state(block + 1),
        facts={"num_draws": (block + 1) * BLOCK},
        finished=block + 1 == BLOCKS,
    )


def check_content(path: Path, blocks: int) -> None:
    """Compare all that a reader sees with what was written up to a block."""
    idata = open_run(path)
    posterior = arviz.get_group(idata, "posterior")
    assert posterior is not None
    assert posterior.sizes["draw"] == blocks * BLOCK
    assert posterior["draw"].values.tolist() == list(range(blocks * BLOCK))
    assert posterior["chain"].values.tolist() == list(range(CHAINS))
    assert posterior["feature"].values.tolist() == [10, 20, 30]
    for name in ("w", "b/c", "n"):
        found = posterior[name.replace("/", ".")]
        assert found.dtype == draws(0)[name].dtype
        if blocks:
            expected = np.concatenate([draws(k)[name] for k in range(blocks)], 1)
            np.testing.assert_array_equal(found.values, expected)
    if blocks:
        stats = arviz.get_group(idata, "sample_stats")
        assert stats is not None
        expected = np.concatenate([diverging(k) for k in range(blocks)], 1)
        np.testing.assert_array_equal(stats["diverging"].values, expected)
    observed = arviz.get_group(idata, "observed_data")
    assert observed is not None
    assert observed["y"].values.tolist() == [0.0, 1.0, 2.0]
    assert not observed["flag"].values


def filled(path: Path, blocks: int = BLOCKS) -> Path:
    store = create(path)
    for block in range(blocks):
        advance(store, block)
    store.close()
    return path


def test_a_store_is_arviz_data_after_every_commit(tmp_path):
    path = tmp_path / "run.zarr"
    store = create(path)
    for block in range(BLOCKS):
        check_content(path, block)
        assert check_run(path)["finished"] is False
        advance(store, block)
        assert store.num_draws == (block + 1) * BLOCK
    check_content(path, BLOCKS)
    assert check_run(path)["finished"] is True
    assert check_run(path)["seed"] == 1
    posterior = arviz.get_group(open_run(path), "posterior")
    assert posterior is not None
    assert posterior.attrs["kernel"] == "Test"
    assert posterior.attrs["num_draws"] == BLOCK * BLOCKS


def test_what_was_opened_before_a_commit_stays_what_it_was(tmp_path):
    path = tmp_path / "run.zarr"
    store = create(path)
    advance(store, 0)
    early = arviz.get_group(open_run(path), "posterior")
    advance(store, 1)
    assert early is not None
    np.testing.assert_array_equal(early["w"].values, draws(0)["w"])


def test_the_last_state_is_found_with_what_it_needs_of_earlier_ones(tmp_path):
    store = RunStore.open(filled(tmp_path / "run.zarr"))
    doc, arrays = store.load()
    assert doc == {"block": BLOCKS}
    assert sorted(arrays) == ["0.0", "3.0"]
    assert arrays["3.0"].tolist() == [BLOCKS] * 5
    # and nothing else is left over
    assert sorted(f.name for f in (store.path / ".state").iterdir()) == [
        "0.npz",
        "3.npz",
    ]


def test_chunks_are_those_that_zarr_reads_itself(tmp_path):
    import zarr

    path = filled(tmp_path / "run.zarr")
    array = zarr.open_array(path / "posterior" / "w", mode="r")
    assert array.chunks == (4, BLOCK, 3)
    expected = np.concatenate([draws(k)["w"] for k in range(BLOCKS)], 1)
    np.testing.assert_array_equal(np.asarray(array[...]), expected)


class Killed(BaseException):
    """In place of a signal that nothing can catch."""


def killed_at(path: Path, place: int, monkeypatch) -> int | None:
    """Write a whole run, killed before one of its files is in place.

    Returns:
        Blocks that were committed, or None where there was no such file.
    """
    left = [place]
    whole = _array.replace_file

    def replace_file(file: Path, content: Any) -> None:
        if left[0] == 0:
            # half of the file was written, beside the old one
            file.parent.mkdir(parents=True, exist_ok=True)
            half = bytes(content)[: len(content) // 2]
            file.with_name(f".{file.name}.1.part").write_bytes(half)
            raise Killed
        left[0] -= 1
        whole(file, content)

    done = -1
    with monkeypatch.context() as patched:
        patched.setattr(_array, "replace_file", replace_file)
        patched.setattr(_run, "replace_file", replace_file)
        # a killed process does not clean up either
        patched.setattr(shutil, "rmtree", lambda *args, **options: None)
        store: RunStore | None = None
        try:
            store = create(path)
            done = 0
            for block in range(BLOCKS):
                advance(store, block)
                done += 1
        except Killed:
            return done
        finally:
            if store is not None:
                store.close()
    return None


@pytest.mark.slow
def test_after_a_kill_before_any_file_the_last_commit_can_be_read_and_resumed(
    tmp_path, monkeypatch
):
    places = 0
    while True:
        path = tmp_path / f"{places}.zarr"
        done = killed_at(path, places, monkeypatch)
        if done is None:
            break
        places += 1
        if done < 0:
            assert not path.exists()
            continue
        check_content(path, done)
        store = RunStore.open(path)
        assert store.load()[0] == {"block": done}
        for block in range(done, BLOCKS):
            advance(store, block)
        store.close()
        check_content(path, BLOCKS)
    # a coordinate, a state and the root; two coordinates with the statistics; and for
    # each block eight chunks, a state and the root
    assert places == 3 + 2 + 10 * BLOCKS


def test_more_draws_can_be_planned_later(tmp_path):
    store = RunStore.open(filled(tmp_path / "run.zarr"))
    store.plan(BLOCK * (BLOCKS + 400))  # beyond the first chunk of the coordinate
    check_content(store.path, BLOCKS)
    for block in range(BLOCKS, BLOCKS + 3):
        advance(store, block)
    check_content(store.path, BLOCKS + 3)
    assert check_run(store.path)["planned_draws"] == BLOCK * (BLOCKS + 400)


def test_draws_are_read_lazily(tmp_path):
    path = filled(tmp_path / "run.zarr")
    posterior = arviz.get_group(open_run(path), "posterior")
    assert posterior is not None
    assert posterior["w"].chunks is not None
    shutil.rmtree(path / "posterior" / "w" / "c")
    assert posterior["w"].shape == (CHAINS, BLOCK * BLOCKS, 3)


def test_a_copy_can_read_but_not_hold_the_lock(tmp_path):
    store = create(tmp_path / "run.zarr")
    advance(store, 0)
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.read("posterior", ["w"])["w"], draws(0)["w"])
    copy.close()
    with pytest.raises(CheckpointError, match="another process"):
        RunStore.open(store.path)


# -- what is refused ---------------------------------------------------------------


def content(path: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(path)): f.read_bytes()
        for f in path.rglob("*")
        if f.is_file() and f.name != ".lock"
    }


def refused(path: Path, message: str) -> None:
    """Neither a writer nor a reader accepts the folder, and nothing in it changes."""
    before = content(path) if path.is_dir() else None
    with pytest.raises(CheckpointError, match=message):
        RunStore.open(path)
    if before is not None:
        assert content(path) == before


def test_a_missing_path_a_file_and_a_foreign_folder_are_refused(tmp_path):
    refused(tmp_path / "none", "nothing there")
    file = tmp_path / "file"
    file.write_text("x")
    refused(file, "a file")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "no zarr.json")
    foreign = tmp_path / "foreign.zarr"
    xr.Dataset({"x": ("i", np.arange(3))}).to_zarr(
        foreign, zarr_format=3, consolidated=False
    )
    refused(foreign, "metadata of something else")
    with pytest.raises(CheckpointError, match="not the store of a run"):
        open_run(foreign)
    for path in (file, foreign):
        before = content(tmp_path)
        with pytest.raises(CheckpointError, match="the store's path exists already"):
            create(path)
        assert content(tmp_path) == before


def test_an_empty_folder_is_taken(tmp_path):
    path = tmp_path / "run.zarr"
    path.mkdir()
    filled(path)
    check_content(path, BLOCKS)


def test_a_finished_store_is_never_overwritten(tmp_path):
    path = filled(tmp_path / "run.zarr")
    before = content(path)
    with pytest.raises(CheckpointError, match="found a run, expected a new path"):
        create(path)
    assert content(path) == before
    assert [f.name for f in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 99}, "format 99"), ({"version": "9.9"}, "pyro_geo 9.9")],
)
def test_another_version_is_refused(tmp_path, change, message):
    path = filled(tmp_path / "run.zarr")
    root = json.loads((path / "zarr.json").read_bytes())
    root["attributes"]["pyro_geo"] |= change
    root["attributes"]["checksum"] = _metadata.digest(root)
    (path / "zarr.json").write_text(json.dumps(root))
    refused(path, message)
    check_content(path, BLOCKS)  # but can be read


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_metadata_is_refused(tmp_path, share):
    path = filled(tmp_path / "run.zarr")
    file = path / "zarr.json"
    os.truncate(file, int(share * file.stat().st_size))
    refused(path, "metadata of something else")


@pytest.mark.parametrize(
    "name",
    ["posterior/w/c/0/1/0", "sample_stats/diverging/c/1/2", "posterior/draw/c/0"],
)
@pytest.mark.parametrize("size", [None, 7])
def test_a_missing_or_truncated_chunk_is_named(tmp_path, name, size):
    path = filled(tmp_path / "run.zarr")
    if size is None:
        (path / name).unlink()
    else:
        os.truncate(path / name, size)
    refused(path, f"{name}.*missing or truncated chunk")


@pytest.mark.parametrize("name", ["0.npz", "3.npz"])
@pytest.mark.parametrize("size", [None, 30, 400])
def test_a_damaged_state_is_named(tmp_path, name, size):
    store = RunStore.open(filled(tmp_path / "run.zarr"))
    file = store.path / ".state" / name
    if size is None:
        file.unlink()
    else:
        os.truncate(file, size)
    with pytest.raises(CheckpointError, match=f"the store is damaged.*{name}"):
        store.load()


def test_a_state_cannot_execute_code(tmp_path):
    """A pickle in the place of an array is refused, not loaded."""
    store = RunStore.open(filled(tmp_path / "run.zarr"))
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> Any:
            return (marker.write_text, ("x",))

    bomb: Any = np.array([Bomb()], dtype=object)
    np.savez(store.path / ".state" / "3.npz", doc=bomb, allow_pickle=True)
    with pytest.raises(CheckpointError, match="damaged"):
        store.load()
    assert not marker.exists()


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    path = tmp_path / "run.zarr"
    store = create(path)
    advance(store, 0)
    with pytest.raises(CheckpointError, match="another process writes to the store"):
        RunStore.open(path)
    check_content(path, 1)
    advance(store, 1)
    store.close()
    RunStore.open(path).close()


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(CheckpointError, match="the store cannot be written"):
        create(file / "run.zarr")
