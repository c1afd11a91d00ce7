"""Stores that somebody else has edited: how to edit one, and what may come of it."""

from __future__ import annotations

import json
import random
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pyro_geo._compat.arviz import get_group
from pyro_geo.engine.snapshots import StateCodec
from pyro_geo.errors import CheckpointError
from pyro_geo.io.store import RunStore, Snapshot, Variable, _metadata, open_run

CHAINS, DRAWS, BLOCK = 4, 12, 6
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    10**12,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "..",
    "../../victim/x",
    "/elsewhere/victim",
    "C:\\victim",
    "a\x00b",
    "\udc80",
    "NaN",
    "x" * 10_000,
    [],
    {},
    [[]],
    [-1, 3],
    [10**12],
    {"name": "gzip", "configuration": {"level": 9}},
    [{"name": "bytes", "configuration": {"endian": "big"}}],
]
"""In place of any value of the metadata."""


def values(name: str) -> np.ndarray:
    rng = np.random.default_rng(len(name))
    return rng.normal(size=(CHAINS, DRAWS, 3)[: 2 + (name == "w")])


def make(path: Path) -> Path:
    """A small store of two blocks, finished."""
    variables = [
        Variable("posterior", "w", (3,), np.dtype(float)),
        Variable("posterior", "net/b", (), np.dtype(float)),
        Variable("unconstrained_posterior", "net/b", (), np.dtype(float)),
    ]
    store = RunStore.create(
        path,
        variables,
        num_chains=CHAINS,
        num_draws=DRAWS,
        chunk=(CHAINS, BLOCK),
        state=state(0),
        data={"y": np.arange(5.0)},
        dims={"w": ["feature"], "y": ["row"]},
        coords={"feature": [1, 2, 3]},
        header={"seed": 1, "block_draws": BLOCK},
        facts={"kernel": "Test", "step_size": 0.5},
    )
    store.add([Variable("sample_stats", "lp", (), np.dtype(float))])
    for block in range(DRAWS // BLOCK):
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        for group, name, *_ in [*variables, ("sample_stats", "lp")]:
            store.write(group, name, 0, rows.start, values(name)[:, rows])
        store.commit(rows.stop, state(block + 1), finished=rows.stop == DRAWS)
    store.close()
    return path


def state(block: int) -> Snapshot:
    arrays = {f"{block}.0": np.full((2, 3), block + 0.5)}
    tensors = [{"tensor": name} for name in sorted({"0.0", *arrays})]
    doc = {"mapping": [["block", block], ["tensors", tensors]]}
    return Snapshot(doc, arrays, frozenset({0} if block else ()))


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store, but for the lock, which is empty."""
    files = (f for f in path.rglob("*") if f.is_file() and f.name != ".lock")
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in files}


def restore(path: Path, original: dict[str, bytes]) -> None:
    for name in set(content(path)) - set(original):
        (path / name).unlink()
    for name, whole in original.items():
        (path / name).write_bytes(whole)


def sign(path: Path) -> None:
    """Make metadata whose checksum is right again, as a forger would."""
    root = json.loads((path / "zarr.json").read_bytes())
    try:
        root["attributes"]["checksum"] = _metadata.digest(root)
    except (KeyError, TypeError, AttributeError):
        return
    (path / "zarr.json").write_text(json.dumps(root))


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in a document, as its container and its key."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        yield document, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def edit_json(path: Path, rng: random.Random) -> str:
    """Give a value of the metadata another one, or rename or drop a key."""
    document = json.loads((path / "zarr.json").read_bytes())
    container, key = rng.choice(list(places(document)))
    value = rng.choice(HOSTILE)
    kind = rng.choice(("value", "value", "value", "drop", "rename"))
    if kind == "value" or isinstance(container, list):
        container[key] = value
    elif kind == "drop":
        del container[key]
    else:
        container[str(value)] = container.pop(key)
    (path / "zarr.json").write_text(json.dumps(document))
    return f"{kind} {key!r}: {str(value)[:40]!r}"


def losses(path: Path) -> Iterator[str]:
    """Drop each key of the metadata, and give each another name, one at a time."""
    whole = (path / "zarr.json").read_bytes()
    for number, (_, key) in enumerate(places(json.loads(whole))):
        for kind in ("drop", "rename"):
            document = json.loads(whole)
            container, _ = list(places(document))[number]
            value = container.pop(key)
            if kind == "rename":
                if isinstance(container, list):
                    continue
                container["another"] = value
            (path / "zarr.json").write_text(json.dumps(document))
            yield f"{kind} {key!r}"


def edit_bytes(path: Path, rng: random.Random) -> str:
    """Cut a file, make it longer, flip a bit of it, or remove it."""
    name = rng.choice(sorted(content(path)))
    whole = bytearray((path / name).read_bytes())
    kind = rng.choice(("cut", "extend", "flip", "flip", "remove"))
    if kind == "remove":
        (path / name).unlink()
        return f"remove {name}"
    if kind == "cut":
        del whole[rng.randrange(len(whole)) :]
    elif kind == "extend":
        whole += bytes(rng.randrange(1, 99))
    else:
        whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
    (path / name).write_bytes(whole)
    return f"{kind} {name}"


def read(path: Path) -> None:
    """Open a store both ways and compare all that it holds with what was written."""
    idata = open_run(path)
    for group, names in (
        ("posterior", {"w": "w", "net.b": "net/b"}),
        ("unconstrained_posterior", {"net.b": "net/b"}),
        ("sample_stats", {"lp": "lp"}),
    ):
        found = get_group(idata, group)
        assert found is not None
        assert found["draw"].values.tolist() == list(range(DRAWS))
        for name, true in names.items():
            np.testing.assert_array_equal(found[name].values, values(true))
    found = get_group(idata, "observed_data")
    assert found is not None
    np.testing.assert_array_equal(found["y"].values, np.arange(5.0))
    store = RunStore.open(path)
    try:
        # as the engine takes it, which refuses a state that lacks an array
        state = StateCodec().restore(*store.load())
        assert state["block"] == 2
        assert [float(x.mean()) for x in state["tensors"]] == [0.5, 2.5]
        for name in ("w", "net/b"):
            stored = store.read("posterior", [name])[name]
            np.testing.assert_array_equal(stored, values(name))
    finally:
        store.close()


def outcome(path: Path, used: Callable[[Path], None] = read) -> str:
    """What comes of a store: good, refused, or the name of anything else."""
    before = content(path)
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            used(path)
        found = "good"
    except CheckpointError as reason:
        found = "refused" if "found" in str(reason) else f"bare message: {reason}"
    except BaseException as reason:
        found = f"{type(reason).__name__}: {reason}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if content(path) != before:
        found = "changed the store"
    return found if peak < 1 << 24 else f"took {peak:,} bytes"
