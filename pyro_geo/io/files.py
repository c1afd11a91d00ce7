"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_file"]


def replace_file(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Put a whole file in place, or leave the old one.

    Args:
        path: the file; its folder is made where it is missing.
        content: all of it.
    """
    folder, name = os.path.split(path)  # ten files a block: paths are not free
    part = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        try:
            handle = open(part, "wb")
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            handle = open(part, "wb")
        with handle:
            handle.write(content)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
