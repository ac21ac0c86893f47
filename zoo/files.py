"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


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
