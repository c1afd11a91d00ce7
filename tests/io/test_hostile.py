"""Stores edited by others: read as they were written, or refused, and nothing else."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pyro_geo.errors import CheckpointError
from pyro_geo.io.store import RunStore, _folder, _npz, check_run, open_run
from tests.io import hostile

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> dict[str, bytes]:
    return hostile.content(hostile.make(tmp_path_factory.mktemp("store") / "run.zarr"))


@pytest.fixture
def store(tmp_path, original) -> Path:
    """A store, two folders deep in one that must stay as it is."""
    path = tmp_path / "outer" / "inner" / "run.zarr"
    for name in original:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / ".lock").touch()
    hostile.restore(path, original)
    return path


def edited(path: Path, change) -> None:
    """Change the metadata and sign them."""
    root = json.loads((path / "zarr.json").read_bytes())
    change(root, root["attributes"]["pyro_geo"], nodes(root))
    (path / "zarr.json").write_text(json.dumps(root))
    hostile.sign(path)


def nodes(root):
    return root["consolidated_metadata"]["metadata"]


def refused(path: Path, message: str) -> None:
    """Neither a reader nor a writer accepts the store, and nothing in it changes."""
    before = hostile.content(path)
    for use in (open_run, RunStore.open):
        with pytest.raises(CheckpointError, match=message):
            use(path)
    assert hostile.content(path) == before


def fuzz(path: Path, original: dict[str, bytes], count: int, seed: int) -> Counter:
    """Edit a store over and over; what came of it, by the kind of edit."""
    rng = random.Random(seed)
    found: Counter = Counter()
    hostile.read(path)  # imports what it needs
    for _ in range(count):
        kind = rng.choice(("signed", "unsigned", "bytes"))
        edit = hostile.edit_bytes if kind == "bytes" else hostile.edit_json
        what = edit(path, rng)
        if kind == "signed":
            hostile.sign(path)
        outcome = hostile.outcome(path)
        if outcome not in ("good", "refused"):
            pytest.fail(f"{kind}, {what}: {outcome}")
        found[kind, outcome] += 1
        hostile.restore(path, original)
    return found


def test_an_edited_store_is_good_or_refused(store, original):
    found = fuzz(store, original, 60, seed=0)
    print(dict(found))
    assert hostile.outcome(store) == "good"
    # what the checksum covers is refused, whatever it was
    assert ("unsigned", "good") not in found
    assert found["bytes", "refused"]
    outside = [p for p in store.parents[1].rglob("*") if store not in (p, *p.parents)]
    assert outside == [store.parent]


@pytest.mark.slow
def test_what_is_dropped_or_renamed_is_missed(store, original):
    """Every key of the metadata; a forger signs what is left."""
    hostile.read(store)  # imports what it needs
    found: Counter = Counter()
    for edit in hostile.losses(store):
        hostile.sign(store)
        outcome = hostile.outcome(store)
        assert outcome in ("good", "refused"), (edit, outcome)
        found[outcome] += 1
        hostile.restore(store, original)
    print(dict(found))
    assert found["refused"] > 300


@pytest.mark.slow
def test_thousands_of_edits_in_little_memory(tmp_path):
    """The same under a limit of the whole process, so that nothing is allocated."""
    code = f"""
import resource
from pathlib import Path
from tests.io import hostile, test_hostile
path = hostile.make(Path({str(tmp_path)!r}) / "run.zarr")
original = hostile.content(path)
test_hostile.fuzz(path, original, 20, seed=9)
resource.setrlimit(resource.RLIMIT_AS, ({_used()} + (1 << 30),) * 2)
found = test_hostile.fuzz(path, original, 1500, seed=1)
print(dict(found))
assert sum(found.values()) == 1500
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def _used() -> int:
    """Addresses that a process with the library loaded has; a generous guess."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


# -- names that become paths -----------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "posterior/../../victim",
        "../../victim/x",
        "/elsewhere/victim",
        "posterior/..",
        "posterior/.",
        "posterior/",
        "posterior/a/b",
        "posterior/a\\b",
        "posterior/C:x",
        "posterior/a\x00",
        "posterior/\udc80",
        "posterior/.hidden",
        "posterior/zarr.json",
        "posterior/CON",
        "posterior/W",  # the folder of w where case does not count
        "someone",
        "",
    ],
)
def test_a_name_that_is_no_folder_of_ours_is_refused(store, name):
    def change(root, header, nodes):
        nodes[name] = dict(nodes["posterior/w"])

    edited(store, change)
    refused(store, "metadata")


@pytest.mark.parametrize(
    ("kind", "pair"),
    [
        ("folders", {"net/b": "../../victim"}),
        ("folders", {"net/b": "none"}),
        ("shown", {"net.b": "w"}),
        ("shown", {"net.b": "a/b"}),
        ("shown", {"..": "b"}),
        ("shown", {"net.b": 3}),
        ("shown", []),
    ],
)
def test_names_of_folders_are_those_of_arrays(store, kind, pair):
    def change(root, header, nodes):
        header["names"][kind]["posterior"] = pair

    edited(store, change)
    refused(store, "names")


@pytest.mark.parametrize(
    "commit", ["../../victim", "/elsewhere/victim", "-1", "", "1e3", "²"]
)
def test_a_state_is_a_number(store, commit):
    def change(root, header, nodes):
        header["states"][commit] = "0"

    edited(store, change)
    refused(store, "numbers of commits")


@pytest.mark.parametrize(
    "place", ["posterior", "posterior/w/c/0", "posterior/w/c/0/0/0"]
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_a_device_is_refused(store, tmp_path, place, kind):
    target = store / place
    moved = tmp_path / "moved"
    target.rename(moved)
    if kind == "link":
        target.symlink_to(moved)
    else:
        os.mkfifo(target)
    before = [f.stat().st_mtime_ns for f in sorted(tmp_path.rglob("*"))]
    for use in (open_run, RunStore.open, check_run):
        with pytest.raises(CheckpointError, match="a link|no file"):
            use(store)
    assert before == [f.stat().st_mtime_ns for f in sorted(tmp_path.rglob("*"))]


@pytest.mark.parametrize("name", [".lock", "zarr.json", ".state"])
def test_files_that_are_opened_first_are_no_links(store, tmp_path, name):
    victim = tmp_path / "victim"
    (store / name).rename(victim)
    if name == ".lock":
        victim.write_text("precious")
    (store / name).symlink_to(victim)
    refused(store, "a link")
    assert name != ".lock" or victim.read_text() == "precious"


def test_a_lock_that_is_another_file_too_is_not_emptied(store, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (store / ".lock").unlink()
    os.link(victim, store / ".lock")
    with pytest.raises(CheckpointError, match="a lock with content"):
        RunStore.open(store)
    assert victim.read_text() == "precious"


def test_a_store_reached_by_a_link_is_good(store, tmp_path):
    link = tmp_path / "link.zarr"
    link.symlink_to(store)
    assert hostile.outcome(link) == "good"


# -- sizes -----------------------------------------------------------------------------


def array(name):
    def chosen(change):
        return lambda root, header, nodes: change(nodes[f"posterior/{name}"])

    return chosen


def set_all(nodes, axis, size):
    for node in nodes.values():
        if axis in node.get("dimension_names", ()):
            node["shape"][node["dimension_names"].index(axis)] = size


def more_draws(root, header, nodes):
    header["num_draws"] = header["planned_draws"] = 10**12
    set_all(nodes, "draw", 10**12)


def more_plans(root, header, nodes):
    header["planned_draws"] = 10**12


def more_chains(root, header, nodes):
    set_all(nodes, "chain", 10**12)


def large_chunks(root, header, nodes):
    header["chunk"] = [10**6, 10**6]
    for node in nodes.values():
        if node.get("dimension_names", ())[:2] == ["chain", "draw"]:
            node["chunk_grid"]["configuration"]["chunk_shape"][:2] = [10**6, 10**6]


def large_axis(root, header, nodes):
    set_all(nodes, "feature", 10**12)


def compressed(root, header, nodes):
    nodes["posterior/w"]["codecs"].insert(1, {"name": "zstd", "configuration": {}})


def sharded(root, header, nodes):
    nodes["posterior/w"]["codecs"] = [{"name": "sharding_indexed"}]


def objects(root, header, nodes):
    nodes["posterior/w"]["data_type"] = "variable_length_utf8"


def filled(root, header, nodes):
    nodes["posterior/w"]["fill_value"] = 7.0


def scaled(root, header, nodes):
    nodes["posterior/w"]["attributes"] = {"scale_factor": 2.0}


def many_axes(root, header, nodes):
    nodes["posterior/w"]["shape"] = [1] * 10_000


@pytest.mark.parametrize(
    "change",
    [
        more_draws,
        more_plans,
        more_chains,
        large_chunks,
        large_axis,
        compressed,
        sharded,
        objects,
        filled,
        scaled,
        many_axes,
    ],
)
def test_sizes_and_codecs_are_checked_before_anything_is_allocated(store, change):
    edited(store, change)
    assert hostile.outcome(store) == "refused"


def test_metadata_of_great_depth_or_length_are_refused(store, monkeypatch):
    file = store / "zarr.json"
    whole = file.read_bytes()
    for content in (
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b"[1, 2]",
        b'"text"',
        b"null",
        b"",
        whole.decode().encode("utf-16"),
        whole.replace(b'"seed": 1', b'"seed": 1, "seed": 1'),
        whole.replace(b'"seed": 1', b'"seed": ' + b"9" * 5000),
        whole[:-3],
        whole + whole,
    ):
        file.write_bytes(content)
        refused(store, "not the store of a run")
    file.write_bytes(whole)
    monkeypatch.setattr(_folder, "LARGEST_ROOT", len(whole) - 1)
    refused(store, "bytes of metadata")


# -- states ----------------------------------------------------------------------------


def npz(path: Path, **members: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path.read_bytes()


def header_of(shape: str, dtype: str = "<f8") -> bytes:
    """An array that promises a shape, without its numbers."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "promise",
    [
        header_of("(1000000000000,)"),
        header_of("(-1,)"),
        header_of("(" * 5000),
        header_of("(1,)", "|O"),
        header_of("(0,)", "|O") + b"cos\nsystem\n",
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_a_state_that_promises_more_than_it_holds_is_refused(tmp_path, promise):
    with pytest.raises(ValueError, match=r"^\w+: "):
        _npz.unpack_arrays(npz(tmp_path / "a.npz", a=promise))


def test_a_compressed_state_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", header_of("(100000,)") + bytes(800_000))
    content = (tmp_path / "a.npz").read_bytes()
    assert len(content) < 3000
    with pytest.raises(ValueError, match="compressed"):
        _npz.unpack_arrays(content)


def test_arrays_of_every_kind_come_back_from_a_state():
    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "e": np.zeros((0, 3), np.float32),
        "b": np.array(True),
        "c": np.array([1j]),
        "i": np.array([2**63], np.uint64),
    }
    back = _npz.unpack_arrays(bytes(_npz.pack_arrays(arrays)))
    assert set(back) == set(arrays)
    for name, value in arrays.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)
        assert back[name].flags.writeable
