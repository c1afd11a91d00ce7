"""Images of a task, from a folder or an array, prepared as CLIP wants them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_geo.errors import CheckpointError

MEAN = (0.48145466, 0.4578275, 0.40821073)
SD = (0.26862954, 0.26130258, 0.27577711)
_KINDS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


class Images:
    """Images that are read when they are asked for.

    Args:
        path: a folder, with one folder for each class or without classes; or an
            `.npz` file with `images`, bytes `(n, height, width, 3)` or prepared
            numbers `(n, 3, side, side)`, and perhaps `labels`, `(n,)`. Classes are
            numbered in the order of their names, which has to be that of the head.
        side: pixels of a side.

    Attributes:
        labels: `(n,)`; None where there are none.

    Raises:
        CheckpointError: there are no images.
    """

    def __init__(self, path: str | Path, side: int) -> None:
        path = Path(path)
        self.side = side
        self.labels: Tensor | None = None
        if path.is_dir():
            self._rows, labels = _files(path)
        else:
            self._rows, labels = _arrays(path)
        if labels is not None:
            self.labels = torch.as_tensor(labels).long()
        shape: Any = getattr(self._rows, "shape", None)
        good = shape is None or shape[1:] == (3, side, side)
        good = good or (shape is not None and len(shape) == 4 and shape[3] == 3)
        good = good and (self.labels is None or self.labels.shape == (len(self),))
        if not len(self) or not good:
            raise CheckpointError(
                "there are no images that can be read",
                where=str(path),
                found=f"{len(self)} images, shape {shape}",
                expected=f"files, or an array (n, h, w, 3) or (n, 3, {side}, {side})",
                todo="Look at the file.",
            )

    def __len__(self) -> int:
        """Count the images."""
        return len(self._rows)

    def read(self, index: Tensor) -> Tensor:
        """Prepare some images, `(n, 3, side, side)`."""
        return torch.stack([_prepared(self._rows[int(i)], self.side) for i in index])

    def batches(
        self, index: Tensor, size: int
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Go through images and their labels, `size` at a time."""
        for part in index.split(size):
            yield self.read(part), None if self.labels is None else self.labels[part]

    def split(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Set images aside.

        Args:
            count: to set aside; a third at most.
            seed: of the choice.

        Returns:
            Numbers of those set aside, and of the others.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        count = min(count, max(1, len(self) // 3))
        return order[:count], order[count:].sort().values


def _files(path: Path) -> tuple[Any, Any]:
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in _KINDS)
    folders = sorted({p.relative_to(path).parts[0] for p in found})
    if any((path / name).is_file() for name in folders) or len(folders) < 2:
        return found, None
    return found, [folders.index(p.relative_to(path).parts[0]) for p in found]


def _arrays(path: Path) -> tuple[Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["images"], file["labels"] if "labels" in file else None
    except (OSError, KeyError, ValueError, EOFError) as reason:
        raise CheckpointError(
            "there are no images that can be read",
            where=str(path),
            found=str(reason),
            expected="a folder, or an .npz file with `images`",
            todo="Look at the file.",
        ) from reason


def _prepared(row: Any, side: int) -> Tensor:
    """Shorter side to `side`, the middle square, and CLIP's units."""
    from PIL import Image

    if isinstance(row, np.ndarray) and row.shape == (3, side, side):
        return torch.as_tensor(row, dtype=torch.float32)
    if isinstance(row, np.ndarray):
        picture = Image.fromarray(row.astype(np.uint8))
    else:
        with Image.open(row) as opened:
            picture = opened.convert("RGB")
    width, height = picture.size
    ratio = side / min(width, height)
    size = (max(side, int(width * ratio)), max(side, int(height * ratio)))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    pixels = torch.as_tensor(np.asarray(picture, dtype=np.float32)) / 255
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(SD)).permute(2, 0, 1)
