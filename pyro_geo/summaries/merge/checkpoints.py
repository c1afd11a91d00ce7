"""Files of networks: opened lazily, merged layer by layer, written whole or not at all.

Formats are safetensors, one file or a folder of shards with an index, and state dicts
of `torch.save` that hold nothing but tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pyro_geo.checks import check, check_count
from pyro_geo.errors import CheckpointError
from pyro_geo.summaries.merge._files import TensorFile, open_file, shards_of
from pyro_geo.summaries.merge._tasks import of_each, task_names
from pyro_geo.summaries.merge._writing import write_safe, write_shards, write_torch

__all__ = ["Checkpoint", "merge_checkpoints", "open_checkpoint", "write_checkpoint"]

StatePath = str | os.PathLike[str]


class Checkpoint(Mapping[str, Tensor]):
    """A state dict whose tensors are read from files when they are asked for.

    Args:
        files: tensor to the file that holds it.
    """

    def __init__(self, files: Mapping[str, TensorFile]) -> None:
        self._files = dict(files)

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor, into memory of its own."""
        return self._files[name].read(name)

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors."""
        return iter(self._files)

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._files)

    def rows(self, name: str, rows: slice) -> Tensor:
        """Read some rows of one tensor.

        Args:
            name: of the tensor.
            rows: of its first axis.

        Returns:
            A tensor with memory of its own.
        """
        return self._files[name].read(name, rows)

    def frame(self) -> dict[str, Tensor]:
        """Shapes and types, without reading numbers.

        Returns:
            Tensor to a stand-in of its shape and type, all zero.
        """
        return {name: file.frame[name] for name, file in self._files.items()}


def open_checkpoint(path: StatePath, *, key: str | None = None) -> Checkpoint:
    """Open a file or folder of tensors; numbers are read when they are asked for.

    Args:
        path: a `.safetensors` file, a file of `torch.save`, or a folder with one of
            them or with shards and their index.
        key: of the state dict inside a file of `torch.save` that holds more.

    Returns:
        A mapping from name to tensor.

    Raises:
        CheckpointError: there is no such file, it is damaged or half-written, it holds
            something else than tensors, or a shard lacks what the index promises.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "net.safetensors"
        >>> write_checkpoint(place, {"w": torch.ones(2)})
        >>> open_checkpoint(place)["w"]
        tensor([1., 1.])
    """
    path = Path(path)
    if not path.is_dir():
        file = open_file(path, key)
        return Checkpoint(dict.fromkeys(file.frame, file))
    places = shards_of(path)
    files = {
        shard: open_file(path / shard, key)
        for shard in dict.fromkeys(file or name for name, file in places.items())
    }
    found: dict[str, TensorFile] = {}
    for name, shard in places.items():
        if shard is None:
            found |= dict.fromkeys(files[name].frame, files[name])
        elif name in files[shard].frame:
            found[name] = files[shard]
        else:
            raise CheckpointError(
                "a shard lacks a tensor of the index",
                where=str(path / shard),
                found=f"{len(files[shard].frame)} others",
                expected=f"tensor {name!r}",
                todo="Fetch the shards again.",
            )
    return Checkpoint(found)


def write_checkpoint(
    path: StatePath,
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    *,
    like: Mapping[str, Tensor] | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Write tensors as they arrive; the file appears whole or not at all.

    Args:
        path: a `.safetensors` file; a `.pt`, `.pth` or `.bin` file, for which all
            tensors are held in memory; or a folder, for shards and their index.
        tensors: by name, or pairs of name and tensor.
        like: a mapping with the names, shapes and types that pairs will have.
        shard_bytes: most bytes of a file, for a folder.

    Raises:
        CheckpointError: the place cannot be written, or a tensor is missing.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "net.pt"
        >>> write_checkpoint(place, {"w": torch.ones(2)})
        >>> list(open_checkpoint(place))
        ['w']
    """
    check_count("shard_bytes", shard_bytes)
    frame = _frame_of(tensors if like is None else like)
    source = tensors.items() if isinstance(tensors, Mapping) else tensors
    pairs = _checked(cast("Iterable[tuple[str, Tensor]]", source), frame)
    path = Path(path)
    if path.suffix == ".safetensors":
        write_safe(path, frame, pairs)
    elif path.suffix in (".pt", ".pth", ".bin"):
        write_torch(path, frame, pairs)
    elif path.suffix == "" or path.is_dir():
        write_shards(path, frame, pairs, shard_bytes)
    else:
        raise CheckpointError(
            "unknown kind of file",
            where=str(path),
            found=path.suffix,
            expected=".safetensors, .pt, .pth, .bin, or a folder",
            todo="Name the file accordingly.",
        )


def merge_checkpoints(
    base: StatePath | Mapping[str, Tensor],
    models: Mapping[str, StatePath] | Sequence[StatePath],
    out: StatePath,
    how: str,
    *,
    shared: Callable[[str], bool] | None = None,
    dtype: torch.dtype = torch.float64,
    shard_bytes: int = 5_000_000_000,
    **options: Any,
) -> None:
    """Merge files of networks into a file, one tensor of all tasks at a time.

    The numbers are those that the function of the same name gives for state dicts.
    Memory is that of one tensor in all tasks, in `dtype`, and of what the method makes
    of it; where each element is merged apart (`average`, `task_arithmetic`, `ties`,
    `dare`) that of a piece of it. `ties` and `larv` read the files more than once.

    Args:
        base: file or folder of the base network, or its tensors.
        models: task to a file or folder, or a sequence of them.
        out: what is written, as for :func:`write_checkpoint`.
        how: name of the method, such as `"average"`, `"ties"` or `"tsv_merge"`.
        shared: whether the tensor of a name is merged; by default all are.
        dtype: to compute in.
        shard_bytes: most bytes of a file, where `out` is a folder.
        **options: of the method; `statistics` as for state dicts.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for k in range(3):
        ...     write_checkpoint(folder / f"{k}.pt", {"w": torch.full((2,), float(k))})
        >>> files = [folder / "1.pt", folder / "2.pt"]
        >>> merge_checkpoints(folder / "0.pt", files, folder / "out.pt", "average")
        >>> open_checkpoint(folder / "out.pt")["w"]
        tensor([1.5000, 1.5000])
    """
    from pyro_geo.summaries.merge._reader import Reader, merge_all
    from pyro_geo.summaries.merge._registry import rule_of

    make = rule_of(how, options)
    names = task_names(models)
    paths = of_each(models, names, "models")
    start = base if isinstance(base, Mapping) else open_checkpoint(base)
    opened = {task: open_checkpoint(path) for task, path in paths.items()}
    reader = Reader(start, opened, shared=shared, dtype=dtype)
    pairs = merge_all(reader, make, options)
    write_checkpoint(out, pairs, like=start, shard_bytes=shard_bytes)


def _frame_of(model: Any) -> dict[str, Tensor]:
    good = isinstance(model, Mapping)
    check(good, "like", "None", "a mapping, where the tensors are pairs")
    return model.frame() if isinstance(model, Checkpoint) else dict(model)


def _checked(
    pairs: Iterable[tuple[str, Tensor]], frame: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Refuse tensors that are not those announced."""
    for name, value in pairs:
        like = frame.get(name)
        if like is None or like.shape != value.shape or like.dtype != value.dtype:
            known = (
                "no such tensor" if like is None else (tuple(like.shape), like.dtype)
            )
            raise CheckpointError(
                "a tensor is not as announced",
                where=f"tensor {name!r}",
                found=(tuple(value.shape), value.dtype),
                expected=known,
                todo="Pass pairs that fit `like`.",
            )
        yield name, value
