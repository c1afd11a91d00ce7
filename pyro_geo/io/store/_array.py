"""One array of a store, written as whole chunk files.

zarr-python writes the same files; through its event loop a small array takes about
0.6 ms, which over the ten arrays of a block is more than a store may cost.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_geo._compat.zarr import (
    axes_of,
    checksum,
    chunk_file,
    chunk_shape_of,
    dtype_of,
)
from pyro_geo.errors import CheckpointError
from pyro_geo.io.files import replace_file
from pyro_geo.io.store._folder import damaged

__all__ = ["ChunkedArray"]

_CHECKSUM = 4  # bytes after the numbers of a chunk


class ChunkedArray:
    """The chunk files of one array, uncompressed, each with its checksum at the end.

    Args:
        folder: of the array.
        metadata: its Zarr metadata.
    """

    def __init__(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self.folder = folder
        self.chunk = chunk_shape_of(metadata)
        self.dims = axes_of(metadata)
        self.dtype = dtype_of(metadata)

    def write(self, start: tuple[int, ...], values: np.ndarray) -> None:
        """Write a box of values, chunk by chunk.

        A chunk that is only partly covered keeps what it held before.

        Args:
            start: index of the first entry.
            values: the box.
        """
        values = np.asarray(values, dtype=self.dtype)
        if values.ndim == 0:
            self._replace((), values.tobytes())
            return
        stop = tuple(a + n for a, n in zip(start, values.shape, strict=True))
        for place in self._touched(start, stop):
            self._replace(place, self._filled(place, start, values))

    def _touched(
        self, start: tuple[int, ...], stop: tuple[int, ...]
    ) -> Iterator[tuple[int, ...]]:
        """Chunks that overlap a box."""
        sides = zip(start, stop, self.chunk, strict=True)
        return _places([range(a // size, -(-b // size)) for a, b, size in sides])

    def _filled(
        self, place: tuple[int, ...], start: tuple[int, ...], values: np.ndarray
    ) -> memoryview:
        """The content of a chunk: the box's values inside it, the old ones outside."""
        # slices of the box and of the chunk where the two overlap
        inside, outside = [], []
        for i, size, a, n in zip(place, self.chunk, start, values.shape, strict=True):
            low, high = max(i * size, a), min((i + 1) * size, a + n)
            inside.append(slice(low - a, high - a))
            outside.append(slice(low - i * size, high - i * size))
        part = values[tuple(inside)]
        if part.shape != self.chunk:
            chunk = self._read(place)
            chunk[tuple(outside)] = part
            part = chunk
        return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data

    def _replace(self, place: tuple[int, ...], content: bytes | memoryview) -> None:
        replace_file(self._file(place), b"".join((content, checksum(content))))

    def _read(self, place: tuple[int, ...]) -> np.ndarray:
        """A chunk as it is, or one of zeros."""
        file = self._file(place)
        if not file.exists():
            return np.zeros(self.chunk, self.dtype)
        content = self._checked(file)
        return np.frombuffer(content, self.dtype).reshape(self.chunk).copy()

    def _checked(self, file: Path) -> memoryview:
        """The content of a file, once its size and its checksum are right."""
        if (found := self._wrong_size(file)) is None:
            content = memoryview(file.read_bytes())
            content, stored = content[:-_CHECKSUM], content[-_CHECKSUM:]
            if stored == checksum(content):
                return content
            found = "a chunk that is not what its checksum says"
        raise CheckpointError(damaged(file, found))

    def _wrong_size(self, file: Path) -> str | None:
        try:
            found = file.lstat()
        except FileNotFoundError:
            return "a missing or truncated chunk"
        if not stat.S_ISREG(found.st_mode):
            return "something that is no file"
        size = self.chunk_bytes + _CHECKSUM
        if found.st_size < size:
            return "a missing or truncated chunk"
        return None if found.st_size == size else "a chunk that is too long"

    def _file(self, place: tuple[int, ...]) -> Path:
        return chunk_file(self.folder, place)

    @property
    def chunk_bytes(self) -> int:
        """Size of the numbers in a chunk."""
        return math.prod(self.chunk) * self.dtype.itemsize

    def num_chunks(self, shape: tuple[int, ...]) -> int:
        """Count the chunks of an array of a given shape."""
        return math.prod(-(-n // k) for n, k in zip(shape, self.chunk, strict=True))

    def check(self, shape: tuple[int, ...], *, content: bool) -> None:
        """Make sure that all chunks are there, each of the right size.

        Args:
            shape: of the array as far as it is committed.
            content: whether to read them and to compare checksums too.

        Raises:
            CheckpointError: a chunk is missing or damaged.
        """
        for place in self._touched((0,) * len(shape), shape):
            file = self._file(place)
            if content:
                self._checked(file)
            elif (found := self._wrong_size(file)) is not None:
                raise CheckpointError(damaged(file, found))


def _places(ranges: Sequence[range]) -> Iterator[tuple[int, ...]]:
    """Every choice of one number from each range, one after another."""
    # `itertools.product` makes all numbers first, which may be those of a forged shape
    if not ranges:
        yield ()
        return
    for first in ranges[0]:
        for rest in _places(ranges[1:]):
            yield (first, *rest)
