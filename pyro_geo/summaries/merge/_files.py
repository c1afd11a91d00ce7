"""Files of tensors, read one tensor at a time, with little of them in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from pyro_geo.errors import CheckpointError, MissingExtraError

__all__ = ["DTYPES", "SafeFile", "TensorFile", "TorchFile", "open_file", "shards_of"]

# names of the safetensors format
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_MAPPED = 1 << 23  # bytes read through one mapping of a file, before it is let go


class TensorFile(Protocol):
    """A file of named tensors."""

    frame: dict[str, Tensor]

    def read(self, name: str, rows: slice = slice(None)) -> Tensor:
        """Read one tensor, or some rows of it, into memory of its own."""
        ...


class SafeFile:
    """A file in the safetensors format.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frame: dict[str, Tensor] = {}
        with self._open() as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                part = file.get_slice(name)
                dtype = DTYPES.get(part.get_dtype())
                if dtype is None:
                    _refuse(path, f"type {part.get_dtype()} of {name!r}")
                self.frame[name] = _frame(part.get_shape(), dtype)

    def read(self, name: str, rows: slice = slice(None)) -> Tensor:
        """Read one tensor, or some rows of it, into memory of its own."""
        # opened for each: pages of a mapped file count as memory until it is closed
        with self._open() as file:
            if rows == slice(None):
                return file.get_tensor(name).clone()
            return file.get_slice(name)[rows].clone()

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as reason:
            raise MissingExtraError(
                "files in this format need safetensors",
                where=str(self.path),
                found="no such package",
                expected="safetensors",
                todo="Install pyro_geo[checkpoints].",
            ) from reason
        with _named(self.path, SafetensorError), safe_open(self.path, "pt") as file:
            yield file


class TorchFile:
    """A state dict written by `torch.save`; no code in it is run.

    Args:
        path: the file.
        key: of the state dict inside, where the file holds more than it.
    """

    def __init__(self, path: Path, key: str | None = None) -> None:
        self.path, self.key = path, key
        self._mapped = 0
        self._state: Mapping[str, Tensor] | None = self._load()
        self.frame = {k: _frame(v.shape, v.dtype) for k, v in self._state.items()}

    def read(self, name: str, rows: slice = slice(None)) -> Tensor:
        """Read one tensor, or some rows of it, into memory of its own."""
        if self._state is None:
            self._state = self._load()
        whole = self._state[name]
        value = (whole if rows == slice(None) else whole[rows]).clone()
        self._mapped += value.nbytes
        if self._mapped > _MAPPED:
            self._state, self._mapped = None, 0
        return value

    def _load(self) -> Mapping[str, Tensor]:
        from pickle import UnpicklingError

        kinds = RuntimeError, UnpicklingError, EOFError, ValueError
        with _named(self.path, *kinds):
            state = torch.load(self.path, "cpu", weights_only=True, mmap=True)
        if self.key is not None:
            if not isinstance(state, Mapping) or self.key not in state:
                _refuse(self.path, f"no {self.key!r}")
            state = state[self.key]
        good = isinstance(state, Mapping) and all(
            isinstance(name, str) and isinstance(value, Tensor)
            for name, value in state.items()
        )
        if not good:
            keys = list(state)[:5] if isinstance(state, Mapping) else type(state)
            _refuse(self.path, f"no state dict: {keys}")
        return state


def open_file(path: Path, key: str | None = None) -> TensorFile:
    """Open one file by what its name ends in.

    Args:
        path: the file.
        key: of the state dict inside a file of torch.

    Returns:
        The file.
    """
    if not path.is_file():
        _refuse(path, "no such file")
    return SafeFile(path) if path.suffix == ".safetensors" else TorchFile(path, key)


def shards_of(folder: Path) -> dict[str, str | None]:
    """Files of a folder that hold one model.

    Args:
        folder: of the model.

    Returns:
        Tensor to file name, or one file name to None where a file holds all.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    indices = indices or sorted(folder.glob("*.index.json"))
    if not indices:
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
        if len(files) != 1:
            _refuse(folder, f"no index, and {len(files)} files of tensors")
        return {files[0].name: None}
    with _named(indices[0], ValueError, KeyError, TypeError, AttributeError):
        places = json.loads(indices[0].read_text())["weight_map"]
        found = {str(name): str(file) for name, file in places.items()}
    for file in found.values():
        if Path(file).name != file:
            _refuse(indices[0], f"a file outside the folder: {file!r}")
    return dict(found)


def _frame(shape: Any, dtype: torch.dtype) -> Tensor:
    """A tensor of this shape and type that holds a single number."""
    return torch.zeros((), dtype=dtype).expand(tuple(shape))


def _refuse(path: Path, found: str, reason: Exception | None = None) -> NoReturn:
    raise CheckpointError(
        "a file of tensors cannot be read",
        where=str(path),
        found=found,
        expected="a whole state dict, in .safetensors or written by torch.save",
        todo="Write or fetch the file again.",
    ) from reason


@contextmanager
def _named(path: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turn what other libraries raise about a file into an error that names it."""
    try:
        yield
    except (OSError, *kinds) as reason:
        if isinstance(reason, CheckpointError):
            raise
        text = str(reason).split("\n")[0]
        _refuse(path, f"{type(reason).__name__}: {text}", reason)
