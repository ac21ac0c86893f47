"""Answers of a teacher, computed when they are first needed and kept in a file: float16 (rows, classes), memory-mapped.

A student that sees the same part of a picture again needs no second forward pass of its teacher (Shen and Xing 2022,
section 3). A row is flagged after it was written, so that a run that was killed leaves no half of an answer behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


class Answers:
    """The file at `path` (made where it is missing), and beside it one byte a row that says whether it was computed.

    Raises ValueError where the file belongs to another number of rows or classes.
    """

    def __init__(self, path: Path, rows: int, classes: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.logits = _table(path, np.float16, (rows, classes))
        self.computed = _table(path.with_suffix(".computed"), np.uint8, (rows,))

    def of(self, rows: torch.Tensor, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Logits float32 (B, classes) of these rows, int64 (B,); `compute` gives all of them where one is missing."""
        numbers = rows.cpu().numpy()
        if not self.computed[numbers].all():
            self.logits[numbers] = compute().cpu().numpy()
            self.computed[numbers] = 1
        return torch.from_numpy(self.logits[numbers]).float().to(rows.device)


def _table(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file():
        with open(path, "wb") as out:
            out.truncate(size)  # zeros that take no room yet
    if path.stat().st_size != size:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, expected {size}: remove it, and it is made anew")
    return np.memmap(path, dtype, "r+", shape=shape)
