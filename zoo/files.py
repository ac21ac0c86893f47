"""Files that are written whole or not at all, and read only if they are as small as they should be."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from zoo.errors import CorruptArtifact


def write(path: Path, data: bytes | Callable[[BinaryIO], object]) -> Path:
    """Atomic: the file is there whole or not at all. data: its bytes, or what writes them into an open file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as out:
            if callable(data):
                data(out)
            else:
                out.write(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises `CorruptArtifact` for a larger file, of which nothing is read, and for what is no file; OSError where it cannot
    be read.
    """
    with open(_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
        if size > limit or len(content) > limit:
            raise CorruptArtifact(f"{path} has {max(size, len(content)):,} bytes, expected at most {limit:,}")
    return content


def head(path: Path, count: int) -> bytes:
    """The first `count` bytes of a file, or fewer where it is shorter. Raises as `read` does."""
    with open(_regular(path), "rb") as file:
        return file.read(count)


def _regular(path: Path) -> Path:
    """The path of a file with content: opening a pipe would wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise CorruptArtifact(f"{path} is no regular file")
    return path
