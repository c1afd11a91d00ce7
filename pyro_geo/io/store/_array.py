"""One array of a store, written as whole chunk files.

zarr-python writes the same files; through its event loop a small array takes about
0.6 ms, which over the ten arrays of a block is more than a store may cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyro_geo._compat.zarr import axes_of, chunk_file, chunk_shape_of, dtype_of
from pyro_geo.io._files import replace_file

__all__ = ["ChunkedArray"]


class ChunkedArray:
    """The chunk files of one array, uncompressed.

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
            replace_file(self._file(()), values.tobytes())
            return
        stop = tuple(a + n for a, n in zip(start, values.shape, strict=True))
        for place in self._touched(start, stop):
            replace_file(self._file(place), self._filled(place, start, values))

    def _touched(
        self, start: tuple[int, ...], stop: tuple[int, ...]
    ) -> Iterator[tuple[int, ...]]:
        """Chunks that overlap a box."""
        return itertools.product(
            *[
                range(a // size, -(-b // size))
                for a, b, size in zip(start, stop, self.chunk, strict=True)
            ]
        )

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

    def _read(self, place: tuple[int, ...]) -> np.ndarray:
        """A chunk as it is, or one of zeros."""
        file = self._file(place)
        if not file.exists():
            return np.zeros(self.chunk, self.dtype)
        return np.fromfile(file, self.dtype).reshape(self.chunk)

    def _file(self, place: tuple[int, ...]) -> Path:
        return chunk_file(self.folder, place)

    def damaged(self, shape: tuple[int, ...]) -> Path | None:
        """Look for a chunk that is missing or has the wrong size.

        Args:
            shape: of the array as far as it is committed.

        Returns:
            The file of the first such chunk, None if all are there.
        """
        size = int(np.prod(self.chunk, dtype=int)) * self.dtype.itemsize
        for place in self._touched((0,) * len(shape), shape):
            file = self._file(place)
            if not file.is_file() or file.stat().st_size != size:
                return file
        return None
