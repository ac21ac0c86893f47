"""Files that are written whole or not at all, and read only if they are as small as they should be."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from zoo.errors import CorruptArtifact


def write(path: Path, data: bytes | Callable[[BinaryIO], object]) -> Path:
    """Atomic: the file is there whole or not at all. data: its bytes, or what writes them into an open file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(unfinished, "wb") as out:
            if callable(data):
                data(out)
            else:
                out.write(data)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
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


def expanded(path: str | os.PathLike) -> Path:
    """The path with ~ replaced by a home directory; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def exists(path: Path) -> bool:
    """Whether a file is there; False, without an error, also for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def head(path: Path, count: int) -> bytes:
    """The first `count` bytes of a file, or fewer where it is shorter. Raises as `read` does."""
    with open(_regular(path), "rb") as file:
        return file.read(count)


def _regular(path: Path) -> Path:
    """The path of a file with content: opening a pipe would wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise CorruptArtifact(f"{path} is no regular file")
    return path


def exchange(a: Path, b: Path) -> bool:
    """Swaps two names in one step, so that both are there at every moment; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(a), os.fsencode(b)
    if hasattr(libc, "renameat2"):
        return libc.renameat2(-100, names[0], -100, names[1], 2) == 0  # AT_FDCWD, RENAME_EXCHANGE
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        return libc.renamex_np(*names, 2) == 0  # RENAME_SWAP
    return False


def leftovers(folder: Path, name: str = "") -> list[Path]:
    """Files and folders NAME.<process>.part in a folder, or any such, whose process is dead."""
    pattern = re.compile((re.escape(name) if name else ".+") + r"\.(\d{1,9})(\.old)?\.part")
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if (match := pattern.fullmatch(path.name)) and not _runs(int(match[1]))]


def clean(folder: Path) -> None:
    """Removes what dead processes left half-written in a folder."""
    for path in leftovers(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether there is a process of that number; True where the system cannot tell."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
