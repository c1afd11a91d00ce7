"""Files of tensors, written one tensor at a time, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pyro_geo.errors import CheckpointError
from pyro_geo.summaries.merge._files import DTYPES

__all__ = ["write_safe", "write_shards", "write_torch"]

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
Pairs = Iterable[tuple[str, Tensor]]


def write_safe(path: Path, frame: Mapping[str, Tensor], pairs: Pairs) -> None:
    """Write a safetensors file as its tensors arrive.

    Args:
        path: the file.
        frame: shapes and types of all tensors.
        pairs: names and tensors, in any order.
    """
    with _whole(path) as part, open(part, "wb") as file:
        start, places = _header(path, file, frame)
        _fill(path, {name: (file, start + at) for name, at in places.items()}, pairs)
        file.flush()
        os.fsync(file.fileno())


def write_shards(
    path: Path, frame: Mapping[str, Tensor], pairs: Pairs, shard_bytes: int
) -> None:
    """Write a folder of safetensors files and their index.

    Args:
        path: the folder; it must not be there yet, or be empty.
        frame: shapes and types of all tensors.
        pairs: names and tensors, in any order.
        shard_bytes: most bytes of one file, where a tensor is not larger.

    Raises:
        CheckpointError: the folder holds something.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(
            "the folder to write is taken",
            where=str(path),
            found="something there",
            expected="a new or empty folder",
            todo="Name another, or remove it.",
        )
    shards = _split(frame, shard_bytes)
    total = len(shards)
    names = [f"model-{k + 1:05d}-of-{total:05d}.safetensors" for k in range(total)]
    with _whole(path) as part:
        part.mkdir(parents=True)
        targets: dict[str, tuple[BinaryIO, int]] = {}
        files = [open(part / name, "wb") for name in names]
        try:
            for file, shard in zip(files, shards, strict=True):
                start, places = _header(path, file, shard)
                targets |= {name: (file, start + at) for name, at in places.items()}
            _fill(path, targets, pairs)
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in files:
                file.close()
        places = {k: name for name, s in zip(names, shards, strict=True) for k in s}
        size = sum(value.nbytes for value in frame.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        text = json.dumps(index, indent=2)
        (part / "model.safetensors.index.json").write_text(text)
        if path.exists():
            path.rmdir()


def write_torch(path: Path, frame: Mapping[str, Tensor], pairs: Pairs) -> None:
    """Write a state dict by `torch.save`; all of it is in memory at once.

    Args:
        path: the file.
        frame: shapes and types of all tensors.
        pairs: names and tensors, in any order.
    """
    with _whole(path) as part:
        state = dict(pairs)
        _check_all(path, frame, state)
        torch.save({name: _alone(state[name]) for name in frame}, part)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Place for what is not finished, put in place at the end or removed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except BaseException as reason:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):  # where it could not be made either
                part.unlink(missing_ok=True)
        if isinstance(reason, OSError) and not isinstance(reason, CheckpointError):
            raise CheckpointError(
                "a file of tensors cannot be written",
                where=str(path),
                found=f"{type(reason).__name__}: {reason}",
                expected="a place that can be written",
                todo="Make room, or name another place.",
            ) from reason
        raise


def _header(
    path: Path, file: BinaryIO, frame: Mapping[str, Tensor]
) -> tuple[int, dict[str, int]]:
    """Write a header; return where numbers start, and the place of each tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places, end = {}, 0
    # wide types first: every tensor then starts at a multiple of its width
    for name in sorted(frame, key=lambda name: -frame[name].element_size()):
        value = frame[name]
        if value.dtype not in _NAMES:
            raise CheckpointError(
                "the format has no such type",
                where=f"{path}, tensor {name!r}",
                found=value.dtype,
                expected=f"one of {sorted(DTYPES)}",
                todo="Convert the tensor, or write a .pt file.",
            )
        places[name], end = end, end + value.nbytes
        header[name] = {
            "dtype": _NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [places[name], end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    start = file.tell()
    file.truncate(start + end)
    return start, places


def _fill(
    path: Path, targets: Mapping[str, tuple[BinaryIO, int]], pairs: Pairs
) -> None:
    """Write each tensor at its place."""
    written: dict[str, None] = {}
    for name, value in pairs:
        file, place = targets[name]
        file.seek(place)
        flat = value.detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)
        written[name] = None
    _check_all(path, targets, written)


def _check_all(
    path: Path, expected: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    missing = sorted(set(expected) - set(found))
    if missing:
        raise CheckpointError(
            "tensors are missing",
            where=str(path),
            found=f"none for {missing[:3]}",
            expected=f"{len(expected)} tensors",
            todo="Pass a tensor for every name.",
        )


def _alone(value: Tensor) -> Tensor:
    """A tensor whose memory holds nothing else, all of which would be saved."""
    value = value.detach().contiguous()
    alone = value.untyped_storage().nbytes() == value.nbytes
    return value if alone else value.clone()


def _split(frame: Mapping[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    """Tensors in their order, as many to a file as fit."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in frame.items():
        if shards[-1] and size + value.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    return shards
