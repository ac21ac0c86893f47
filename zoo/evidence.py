"""The files beside a record: golden outputs, the answer to every test image, the answers on a sample of ImageNet.

    golden.json        logits of `zoo.datasets.golden_input`, float32 (4, C)
    predictions.npy    predicted class of every test image, in the official order
    sample.json        pictures of a sample of ImageNet, and what the entry and its reference answered
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import datasets, files
from zoo.errors import CorruptArtifact, DataUnavailable

GOLDEN, PREDICTIONS, SAMPLE = "golden.json", "predictions.npy", "sample.json"
SHOWN = 20  # items listed in a complaint


def write_golden(folder: Path, logits: np.ndarray) -> Path:
    """golden.json: the logits of `zoo.datasets.golden_input`, float32 (4, C), in the fewest digits that give them back."""
    rows = [[float(np.format_float_positional(x, unique=True)) for x in row] for row in np.asarray(logits, np.float32)]
    text = ",\n  ".join(json.dumps(row) for row in rows)
    return files.write(Path(folder) / GOLDEN, f'{{"logits": [\n  {text}\n]}}\n'.encode())


def read_golden(folder: Path) -> np.ndarray:
    """float32 (4, C). Raises `CorruptArtifact`."""
    path = Path(folder) / GOLDEN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        logits = np.array(content["logits"] if isinstance(content, dict) else content, np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    if logits.ndim != 2:
        raise CorruptArtifact(f"{path} holds no table of logits, but an array of shape {logits.shape}")
    return logits


def write_predictions(folder: Path, predictions: np.ndarray) -> Path:
    """predictions.npy: uint8 or uint16 (N,), the predicted class of every test image in the official order."""
    out = io.BytesIO()
    np.save(out, predictions, allow_pickle=False)
    return files.write(Path(folder) / PREDICTIONS, out.getvalue())


def read_predictions(folder: Path) -> np.ndarray:
    """(N,) integers. Raises `CorruptArtifact`."""
    path = Path(folder) / PREDICTIONS
    try:
        predictions = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    if predictions.ndim != 1 or predictions.dtype.kind != "u":
        raise CorruptArtifact(f"{path} holds {predictions.dtype} of shape {predictions.shape}, expected classes (N,)")
    return predictions


@dataclass(frozen=True, eq=False)
class Sample:
    """sample.json: images of a sample, and what the entry and its uncompressed reference answered.

    paths are relative to the sample's folder; the arrays are integers (N,).
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray
    reference: np.ndarray

    @property
    def errors(self) -> int:
        return int((self.predictions != self.labels).sum())

    @property
    def agreement(self) -> int:
        """Images on which the entry answers as its reference does."""
        return int((self.predictions == self.reference).sum())

    def images(self, root: str | os.PathLike) -> datasets.ImageFolder:
        """These images below `root`, which may hold more. Raises `DataUnavailable` naming what is missing."""
        root = Path(root).expanduser()
        missing = [path for path in self.paths if not (root / path).is_file()]
        if missing:
            raise DataUnavailable(f"{root} has {len(self.paths) - len(missing)} of the {len(self.paths)} images of the sample; "
                                  f"missing: {some(missing)}")  # fmt: skip
        return datasets.ImageFolder(root, list(self.paths), self.labels, datasets.classes("imagenet"))

    def record(self, name: str, digest: str, reference: str, note: str) -> dict:
        """The field `sample` of a record. digest: `test_set` of the measurement; reference: whose answers are agreed with."""
        counts = {"examples": len(self.paths), "errors": self.errors, "agreement": self.agreement}
        return {"name": name, "digest": digest} | counts | {"reference": reference, "note": note}

    def to_bytes(self) -> bytes:
        """The content of sample.json, one line an image: path, class, the entry's answer, the reference's answer."""
        columns = zip(self.paths, self.labels, self.predictions, self.reference, strict=True)
        rows = ",\n  ".join(json.dumps([path, *map(int, rest)]) for path, *rest in columns)
        return f'{{"columns": ["path", "label", "prediction", "reference"],\n "images": [\n  {rows}\n]}}\n'.encode()


def read_sample(folder: Path) -> Sample:
    """sample.json of an entry. Raises `CorruptArtifact`."""
    path = Path(folder) / SAMPLE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["images"]
        paths, *numbers = zip(*rows, strict=True)
        labels, predictions, reference = (np.array(column, np.int64) for column in numbers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    if any(not isinstance(p, str) or Path(p).is_absolute() or ".." in Path(p).parts for p in paths):
        raise CorruptArtifact(f"{path} names a file outside the sample's folder")
    return Sample(paths, labels, predictions, reference)


def some(items: Sequence[str]) -> str:
    """The first of these items in words, and how many more there are."""
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f", and {more:,} more" if more > 0 else "")
