"""The metadata of a store, read as if an enemy had written it.

A store is a plain folder that people copy and share. Nothing in its metadata is used,
as a path, a size or a number, before it was checked here: names must be those that we
give to folders, arrays must be exactly as we make them, counts must agree. What such
metadata promises is then compared with the files (`_array.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyro_geo._compat.zarr import (
    DATA_TYPES,
    array_node,
    axes_of,
    canonical,
    chunk_shape_of,
    dtype_of,
)
from pyro_geo.io.names import SAMPLE_DIMS, SERIES_DIMS, STAGE_DIMS
from pyro_geo.io.naming import RENAMED, folder_name, folder_names
from pyro_geo.io.store._groups import ATTRIBUTED, DRAW_CHUNK, event_chunk

__all__ = ["CHECKSUM", "FORMAT", "HEADER", "Mismatch", "check_root", "digest", "parse"]

FORMAT = 3
HEADER = "pyro_geo"  # of the root's attributes
CHECKSUM = "checksum"  # beside it: of all metadata
_DATA = "observed_data"
_GROUPS = {
    _DATA,
    "filtered",
    "posterior",
    "reports",
    "sample_stats",
    "stage_stats",
    "stages",
    "unconstrained_posterior",
}
_LEADING = {"draw": "posterior", "stage": "stages", "time": "filtered"}  # by axis
_LARGEST = 1 << 32  # bytes of a chunk, which is read as a whole
_RANK = 64  # axes of an array in NumPy


class Mismatch(ValueError):
    """Something in the metadata is not as we write it.

    Args:
        where: path of it in the document.
        found: what is there.
        expected: what should be.
    """

    def __init__(self, where: str, found: object, expected: object) -> None:
        text = repr(found)
        self.where = where
        self.found = text if len(text) <= 200 else f"{text[:200]}..."
        self.expected = str(expected)
        super().__init__(f"{where}: found {self.found}, expected {self.expected}")


def parse(content: bytes) -> Any:
    """Read JSON in UTF-8, once each key.

    Args:
        content: of a file.

    Returns:
        The document.

    Raises:
        ValueError: it is no such JSON.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def digest(root: Mapping[str, Any]) -> str:
    """Sum up the metadata of a store, its checksum left out.

    Args:
        root: content of the root's metadata file.

    Returns:
        A text that changes with anything in it.
    """
    attributes = {k: v for k, v in root["attributes"].items() if k != CHECKSUM}
    text = json.dumps({**root, "attributes": attributes})
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_root(root: Any) -> None:
    """Make sure that the metadata of a store is as we write it.

    The first thing that is not is a :class:`Mismatch`.

    Args:
        root: content of the root's metadata file.
    """
    keys = ("attributes", "zarr_format", "node_type", "consolidated_metadata")
    _fields(root, "", keys)
    _same(root["zarr_format"], 3, "zarr_format")
    _same(root["node_type"], "group", "node_type")
    place = "consolidated_metadata"
    consolidated = root[place]
    _fields(consolidated, place, ("kind", "must_understand", "metadata"))
    _same(consolidated["kind"], "inline", f"{place}.kind")
    _same(consolidated["must_understand"], False, f"{place}.must_understand")
    header = root["attributes"][HEADER]
    _check_header(header)
    nodes = consolidated["metadata"]
    _check_nodes(nodes, header)
    _check_names(header["names"], nodes)
    if header["format"] == FORMAT:
        good = root["attributes"].get(CHECKSUM) == digest(root)
        expected = "those of the last commit, which have another checksum"
        _need(good, f"attributes.{CHECKSUM}", "changed metadata", expected)


# -- the header ------------------------------------------------------------------------


def _check_header(header: Any) -> None:
    place = f"attributes.{HEADER}"
    needed = ("format", "version", "commit", "num_draws", "planned_draws", "chunk")
    needed += ("finished", "sample_dims", "names", "states")
    _fields(header, place, needed, others=True)
    _need(isinstance(header["version"], str), f"{place}.version", header, "a text")
    for name in ("format", "commit", "num_draws", "planned_draws"):
        _count(header[name], f"{place}.{name}")
    done, planned = header["num_draws"], header["planned_draws"]
    _need(done <= planned, f"{place}.num_draws", done, f"at most {planned}")
    _need(
        type(header["finished"]) is bool, f"{place}.finished", header, "a truth value"
    )
    for name, kind in (("seed", int), ("block_draws", int), ("chain_name", str)):
        good = name not in header or type(header[name]) is kind
        _need(good, f"{place}.{name}", header.get(name), kind.__name__)
    dims = header["sample_dims"]
    known = [list(SAMPLE_DIMS), list(STAGE_DIMS), list(SERIES_DIMS)]
    _need(dims in known, f"{place}.sample_dims", dims, known)
    _numbers(header["chunk"], f"{place}.chunk", least=1, length=2)
    states = header["states"]
    _need(isinstance(states, dict), f"{place}.states", states, "an object")
    for commit, value in states.items():
        good = commit.isascii() and commit.isdecimal() and len(commit) < 20
        _need(good, f"{place}.states", commit, "numbers of commits")
        _need(isinstance(value, str), f"{place}.states.{commit}", value, "a text")
    last = str(header["commit"])
    _need(last in states, f"{place}.states", sorted(states), f"{last} among them")


def _check_names(names: Any, nodes: Mapping[str, Any]) -> None:
    place = f"attributes.{HEADER}.names"
    _fields(names, place, ("folders", "shown"))
    for kind in ("folders", "shown"):
        where = f"{place}.{kind}"
        _need(isinstance(names[kind], dict), where, names[kind], "an object")
        for group, pairs in names[kind].items():
            _need(group in nodes, where, group, "a group of the store")
            _need(isinstance(pairs, dict), f"{where}.{group}", pairs, "an object")
            for key, value in pairs.items():
                folder = value if kind == "folders" else key
                good = isinstance(value, str) and f"{group}/{folder}" in nodes
                _need(good, f"{where}.{group}.{key}", value, "names of arrays")
    # what is left out of one of the two lists would be missing in silence
    arrays = sorted(k for k, v in nodes.items() if "/" in k and not _labels(k, v))
    listed = [
        f"{g}/{f}" for g, pairs in names["folders"].items() for f in pairs.values()
    ]
    _need(sorted(listed) == arrays, f"{place}.folders", sorted(listed), arrays)
    for group, pairs in names["shown"].items():
        arrays = [key.split("/")[1] for key in nodes if key.startswith(f"{group}/")]
        shown = [pairs.get(array, array) for array in arrays]
        good = len(set(shown)) == len(shown) and all(shown)
        _need(good, f"{place}.shown.{group}", sorted(shown), "different names")
        good = not any("/" in name for name in shown)
        _need(good, f"{place}.shown.{group}", sorted(shown), "names without '/'")


def _labels(key: str, node: Mapping[str, Any]) -> bool:
    """Whether an array labels an axis."""
    return key.partition("/")[2] in axes_of(node)


# -- groups and arrays -----------------------------------------------------------------


def _check_nodes(nodes: Any, header: Mapping[str, Any]) -> None:
    place = "consolidated_metadata.metadata"
    _need(isinstance(nodes, dict), place, nodes, "an object")
    groups: dict[str, dict[str, Any]] = {}
    for key, node in nodes.items():
        where = f"{place}.{key}"
        group, _, name = key.partition("/")
        good = group in _GROUPS and (key == group or folder_name(name) == name)
        _need(good and name.count("/") == 0, place, key, "the name of a group or array")
        _need(isinstance(node, dict), where, node, "an object")
        kind = "array" if name else "group"
        _same(node.get("node_type"), kind, f"{where}.node_type")
        if name:
            _check_array(node, where)
            groups.setdefault(group, {})[name] = node
        else:
            _check_group(node, group, where)
    lead = _LEADING[header["sample_dims"][1]]
    _need(lead in groups, place, sorted(nodes), f"a group {lead}")
    chains = {}
    for group, arrays in groups.items():
        where = f"{place}.{group}"
        _need(group in nodes, place, sorted(nodes), f"a group {group}")
        # two folders are one where case does not count
        clear = list(folder_names(arrays, ()).values())
        _need(sorted(clear) == sorted(arrays), where, sorted(arrays), "different names")
        chains[group] = _check_axes(group, arrays, header, where)
    found = {count for count in chains.values() if count is not None}
    _need(len(found) == 1, place, chains, "the same number of chains in all groups")


def _check_group(node: dict[str, Any], group: str, where: str) -> None:
    attributes: Any = node.get("attributes")
    _need(isinstance(attributes, dict), f"{where}.attributes", attributes, "an object")
    if group not in ATTRIBUTED:
        good = set(attributes) <= {RENAMED}
        _need(good, f"{where}.attributes", attributes, f"{RENAMED!r} alone")
    if RENAMED in attributes:
        try:
            pairs = parse(str(attributes[RENAMED]).encode("utf-8", "surrogatepass"))
        except ValueError as reason:
            raise Mismatch(f"{where}.attributes.{RENAMED}", reason, "JSON") from reason
        good = isinstance(pairs, dict)
        good = good and all(isinstance(true, str) for true in pairs.values())
        _need(good, f"{where}.attributes.{RENAMED}", pairs, "names by names")
    for name, value in attributes.items():
        # xarray takes this one for names of variables
        good = name != "coordinates" and isinstance(value, (str, int, float))
        _need(good, f"{where}.attributes.{name}", value, "a text or a number")
    _equal(node, canonical(node), where)


def _check_array(node: dict[str, Any], where: str) -> None:
    shape = _numbers(node.get("shape"), f"{where}.shape")
    data_type = node.get("data_type")
    good = isinstance(data_type, str) and data_type in DATA_TYPES
    _need(good, f"{where}.data_type", data_type, f"one of {DATA_TYPES}")
    grid: Any = node.get("chunk_grid")
    _fields(grid, f"{where}.chunk_grid", ("name", "configuration"))
    place = f"{where}.chunk_grid.configuration"
    _fields(grid["configuration"], place, ("chunk_shape",))
    place = f"{place}.chunk_shape"
    chunk = grid["configuration"]["chunk_shape"]
    chunk = _numbers(chunk, place, least=1, length=len(shape))
    dims: Any = node.get("dimension_names")
    good = isinstance(dims, list) and all(isinstance(name, str) for name in dims)
    good = good and len(set(dims)) == len(dims) == len(shape)
    _need(good, f"{where}.dimension_names", dims, f"{len(shape)} different names")
    _equal(node, array_node(shape, chunk, str(data_type), dims), where)
    size = dtype_of(node).itemsize
    for count in chunk:
        size *= count
    _need(size <= _LARGEST, place, chunk, f"chunks of at most {_LARGEST} bytes")


def _check_axes(
    group: str, arrays: Mapping[str, Any], header: Mapping[str, Any], where: str
) -> int | None:
    """Compare the shapes of a group's arrays; the number of chains, if it has any."""
    lead: tuple[str, ...] = () if group == _DATA else tuple(header["sample_dims"])
    sizes: dict[str, int] = {axis: header["num_draws"] for axis in lead[1:]}
    used, coordinates = set(lead), set()
    for name, node in arrays.items():
        place, dims, chunk = f"{where}/{name}", axes_of(node), chunk_shape_of(node)
        for axis, size in zip(dims, node["shape"], strict=True):
            known = sizes.setdefault(axis, size)
            _need(size == known, f"{place}.shape", node["shape"], f"{axis} = {known}")
        if name in dims:
            _same(list(dims), [name], f"{place}.dimension_names")
            coordinates.add(name)
            length = DRAW_CHUNK if name in lead[1:] else max(1, node["shape"][0])
            expected: tuple[int, ...] = (length,)
        elif lead:
            _same(list(dims[:2]), list(lead), f"{place}.dimension_names")
            head = header["chunk"]
            event = tuple(node["shape"][2:])
            cut = event_chunk(event, dtype_of(node).itemsize, (head[0], head[1]))
            expected = (*head, *(max(1, size) for size in cut))
        else:
            expected = tuple(max(1, size) for size in node["shape"])
        used |= set(dims)
        _same(list(chunk), list(expected), f"{place}.chunk_grid")
    _same(sorted(coordinates), sorted(used), f"{where}: arrays that label axes")
    return sizes.get(lead[0]) if lead else None


# -- small checks ----------------------------------------------------------------------


def _need(good: bool, where: str, found: object, expected: object) -> None:
    if not good:
        raise Mismatch(where, found, expected)


def _same(found: object, expected: object, where: str) -> None:
    """Compare JSON; truth values and fractions are not integers."""
    _need(json.dumps(found) == json.dumps(expected), where, found, repr(expected))


def _equal(found: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    _fields(found, where, expected)
    for key, value in expected.items():
        _need(
            _canonical(found[key]) == _canonical(value),
            f"{where}.{key}",
            found[key],
            value,
        )


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _fields(
    found: Any, where: str, keys: Iterable[str], *, others: bool = False
) -> None:
    _need(isinstance(found, dict), where, found, "an object")
    for key in keys:
        _need(key in found, where, sorted(found), f"{key!r} among the keys")
    extra = sorted(set(found) - set(keys))
    _need(others or not extra, where, extra, f"the keys {list(keys)} alone")


def _count(value: Any, where: str, least: int = 0) -> None:
    good = type(value) is int and least <= value < 2**63
    _need(good, where, value, f"an integer of at least {least}")


def _numbers(
    value: Any, where: str, least: int = 0, length: int | None = None
) -> Sequence[int]:
    good = isinstance(value, list) and len(value) <= _RANK
    _need(good, where, value, "a list of integers")
    for number in value:
        _count(number, where, least)
    if length is not None:
        _need(len(value) == length, where, value, f"{length} numbers")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("JSON with a key that occurs twice")
    return document
