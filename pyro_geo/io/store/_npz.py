"""Arrays of a state in NumPy's format `npz`, read without trust.

`numpy.load` believes what a file says of itself: a member of a kilobyte can promise an
array of terabytes, or unpack to one. Here the sizes that a file states are compared
with its own size first. Nothing in it can execute code.
"""

from __future__ import annotations

import io
import math
import zipfile

import numpy as np

__all__ = ["pack_arrays", "unpack_arrays"]


def pack_arrays(arrays: dict[str, np.ndarray]) -> memoryview:
    """Write arrays as a file that is not compressed.

    Args:
        arrays: by name.

    Returns:
        Content of the file.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getbuffer()


def unpack_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Read the arrays of a file.

    Args:
        content: of the file.

    Returns:
        Array by name.

    Raises:
        ValueError: it is damaged, or not as we write it.

    Example:
        >>> file = pack_arrays({"a": np.arange(3), "b": np.ones(())})
        >>> {name: value.tolist() for name, value in unpack_arrays(bytes(file)).items()}
        {'a': [0, 1, 2], 'b': 1.0}
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            members = file.infolist()
            stored = all(m.compress_type == zipfile.ZIP_STORED for m in members)
            if not stored:
                raise ValueError("a member that is compressed")
            if sum(member.file_size for member in members) > len(content):
                raise ValueError("members larger than the file")
            names = [member.filename for member in members]
            if len(set(names)) < len(names):
                raise ValueError("two members of one name")
            return {
                member.filename.removesuffix(".npy"): _array(file.read(member))
                for member in members
            }
    except Exception as reason:  # of zipfile, tokenize, struct, ...: it is hostile
        raise ValueError(f"{type(reason).__name__}: {reason}") from reason


def _array(content: bytes) -> np.ndarray:
    """Read one array, whose header must promise just the bytes that follow."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"format {version} of an array")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or dtype.kind not in "biufc":
        raise ValueError(f"an array of type {dtype}")
    rest = len(content) - file.tell()
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != rest:
        raise ValueError(f"an array of shape {shape} in {rest} bytes")
    flat = np.frombuffer(content, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C").copy()
