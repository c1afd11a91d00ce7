"""zarr still keeps a store the way `_compat/zarr.py` writes it (zarr 3.1.6, 3.4.2)."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from pyro_geo._compat import zarr as compat
from pyro_geo.io.store import _groups

VALUES = np.arange(24.0).reshape(4, 6)


@pytest.fixture
def store(tmp_path) -> Path:
    root = zarr.create_group(tmp_path / "run.zarr", attributes={"a": 1})
    group = root.create_group("posterior")
    array = _groups._make_array(group, "w", VALUES, ("chain", "draw"), (4, 3))
    array[...] = VALUES
    _groups._make_array(group, "n", np.zeros((), np.int32), (), ())
    return tmp_path / "run.zarr"


def test_the_metadata_of_all_nodes_open_a_store(store):
    root = compat.consolidate(store)
    assert sorted(root["consolidated_metadata"]["metadata"]) == [
        "posterior",
        "posterior/n",
        "posterior/w",
    ]
    (store / "zarr.json").write_text(json.dumps(root))
    opened = zarr.open_group(store, mode="r", use_consolidated=True)
    for file in store.rglob("zarr.json"):  # readers need that of the root alone
        if file.parent != store:
            file.unlink()
    assert np.array_equal(np.asarray(opened["posterior/w"]), VALUES)
    assert opened.attrs["a"] == 1


def test_zarr_writes_the_same_metadata_when_it_consolidates(store):
    ours = compat.consolidate(store)["consolidated_metadata"]
    with warnings.catch_warnings():  # zarr's own convention, no part of the standard
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(store)
    theirs = json.loads((store / "zarr.json").read_text())["consolidated_metadata"]
    assert {k: theirs[k] for k in ("kind", "must_understand")} == {
        k: ours[k] for k in ("kind", "must_understand")
    }
    nodes = ours["metadata"]
    assert set(theirs["metadata"]) == set(nodes)
    assert theirs["metadata"]["posterior/w"] == nodes["posterior/w"]


def test_the_metadata_of_an_array_tell_its_chunks_axes_and_type(store):
    node = json.loads((store / "posterior" / "w" / "zarr.json").read_text())
    assert compat.chunk_shape_of(node) == (4, 3)
    assert compat.axes_of(node) == ("chain", "draw")
    assert compat.dtype_of(node) == np.dtype("<f8")
    scalar = json.loads((store / "posterior" / "n" / "zarr.json").read_text())
    assert compat.chunk_shape_of(scalar) == ()
    assert compat.axes_of(scalar) == ()


def test_a_chunk_is_a_file_of_bare_numbers_and_their_checksum(store):
    folder = store / "posterior" / "w"
    file = compat.chunk_file(folder, (0, 1))
    second = np.frombuffer(file.read_bytes()[:-4], "<f8").reshape(4, 3)
    assert np.array_equal(second, VALUES[:, 3:])
    content = (-second).tobytes()
    file.write_bytes(content + compat.checksum(content))
    back = np.asarray(zarr.open_array(folder, mode="r"))
    assert np.array_equal(back, np.concatenate([VALUES[:, :3], -second], 1))


def test_chunks_that_are_all_zero_are_written_too(store):
    zarr.open_array(store / "posterior" / "n", mode="r+")[...] = 0
    folder = store / "posterior"
    group = zarr.open_group(folder, mode="r+", use_consolidated=False)
    zeros = np.zeros(3, np.float32)
    _groups._make_array(group, "z", zeros, ("draw",), (3,))[...] = zeros
    assert compat.chunk_file(folder / "z", (0,)).stat().st_size == 12 + 4


@pytest.mark.parametrize("data_type", compat.DATA_TYPES)
def test_an_array_is_described_as_zarr_does(tmp_path, data_type):
    root = zarr.create_group(tmp_path / "run.zarr")
    values = np.ones((4, 6), data_type)
    _groups._make_array(root, "w", values, ("chain", "draw"), (4, 3))[...] = values
    node = json.loads((tmp_path / "run.zarr" / "w" / "zarr.json").read_text())
    assert node == compat.array_node((4, 6), (4, 3), data_type, ("chain", "draw"))


def test_a_checksum_is_that_of_the_codec(store):
    content = compat.chunk_file(store / "posterior" / "w", (0, 0)).read_bytes()
    assert compat.checksum(content[:-4]) == content[-4:]
    assert compat.checksum(memoryview(content)[:-4]) == content[-4:]
