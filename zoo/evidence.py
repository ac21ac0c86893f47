"""The files beside a record: golden outputs, the answer to every test image, the answers on a sample of ImageNet.

    golden.json        logits of `zoo.datasets.golden_input`, float32 (4, C)
    predictions.npy    predicted class of every test image, in the official order
    sample-<key>.json  pictures of a sample of ImageNet, and what the entry and its reference answered
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from zoo import datasets, files
from zoo.errors import CorruptArtifact, DataUnavailable
from zoo.records import Fields, Name, faults, inside

LARGEST = 1 << 24  # bytes of such a file; golden outputs of 32,768 classes have 2 MB
GOLDEN, PREDICTIONS, LOG = "golden.json", "predictions.npy", "train.log"
SHOWN = 20  # items listed in a complaint
UNKNOWN = -1  # label of an image whose class is not known

COLUMNS = ("path", "label", "prediction", "reference")

Class = Annotated[int, Field(ge=0, lt=1 << 15)]
Parsed = TypeVar("Parsed", bound=Fields)


def write_golden(folder: Path, logits: np.ndarray) -> Path:
    """golden.json: the logits of `zoo.datasets.golden_input`, float32 (4, C), in the fewest digits that give them back."""
    rows = [[float(np.format_float_positional(x, unique=True)) for x in row] for row in np.asarray(logits, np.float32)]
    text = ",\n  ".join(json.dumps(row) for row in rows)
    return files.write(Path(folder) / GOLDEN, f'{{"logits": [\n  {text}\n]}}\n'.encode())


def read_golden(folder: Path) -> np.ndarray:
    """float32 (4, C). Raises `CorruptArtifact`."""
    path = Path(folder) / GOLDEN
    rows = _parsed(path, _Golden).logits
    logits = np.array([row for row in rows if len(row) == len(rows[0])], np.float64)
    if logits.ndim != 2 or len(logits) != len(rows) or not logits.size:
        raise CorruptArtifact(f"{path} cannot be read: it holds no table of logits with rows of one length")
    if np.abs(logits).max() > np.finfo(np.float32).max:
        raise CorruptArtifact(f"{path} cannot be read: {logits.flat[np.abs(logits).argmax()]:g} is no float32")
    return logits.astype(np.float32)


def write_predictions(folder: Path, predictions: np.ndarray) -> Path:
    """predictions.npy: uint8 or uint16 (N,), the predicted class of every test image in the official order."""
    out = io.BytesIO()
    np.save(out, predictions, allow_pickle=False)
    return files.write(Path(folder) / PREDICTIONS, out.getvalue())


def read_predictions(folder: Path) -> np.ndarray:
    """(N,) integers. Raises `CorruptArtifact`. What the file declares is checked before memory is asked for."""
    path = Path(folder) / PREDICTIONS
    try:
        content = io.BytesIO(files.read(path, LARGEST))
        version = np.lib.format.read_magic(content)
        if version != (1, 0):
            raise ValueError(f"version {version} of the format, expected (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    if dtype.hasobject:
        raise CorruptArtifact(f"{path} cannot be read: it holds Python objects, a pickle")
    if len(shape) != 1 or dtype.kind != "u":
        raise CorruptArtifact(f"{path} holds {dtype} of shape {shape}, expected classes (N,)")
    body = content.read()
    if len(body) != shape[0] * dtype.itemsize:
        raise CorruptArtifact(f"{path} cannot be read: {len(body):,} bytes for {shape[0]:,} numbers of {dtype.itemsize}")
    return np.frombuffer(body, dtype)


@dataclass(frozen=True, eq=False)
class Sample:
    """sample-<key>.json: images of a sample, and what the entry and its uncompressed reference answered.

    paths are relative to the sample's folder, of files or of members of a zip file ("pool-00.zip/x/a.webp"); the arrays are
    integers (N,), labels UNKNOWN where the class is not known.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray
    reference: np.ndarray

    @property
    def labelled(self) -> int:
        """Images whose class is known."""
        return int((self.labels != UNKNOWN).sum())

    @property
    def errors(self) -> int:
        """Wrong answers of the entry, of the labelled images."""
        return self._wrong(self.predictions)

    @property
    def reference_errors(self) -> int:
        return self._wrong(self.reference)

    @property
    def agreement(self) -> int:
        """Images on which the entry answers as its reference does."""
        return int((self.predictions == self.reference).sum())

    def images(self, root: str | os.PathLike) -> datasets.ImageFolder:
        """These images below `root`, which may hold more. Raises `DataUnavailable` naming what is missing."""
        root = files.expanded(root)
        missing = [path for path in self.paths if not datasets.on_disk(root, path).is_file()]
        if missing:
            raise DataUnavailable(f"{root} has {len(self.paths) - len(missing)} of the {len(self.paths)} images of the sample; "
                                  f"missing: {abridged(missing)}")  # fmt: skip
        return datasets.ImageFolder(root, list(self.paths), self.labels, datasets.IMAGENET.class_names())

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of a record that follow from the answers."""
        return {
            "examples": len(self.paths),
            "labelled": self.labelled,
            "errors": self.errors,
            "reference_errors": self.reference_errors,
            "agreement": self.agreement,
        }

    def record(self, key: str, name: str, digest: str, reference: str, note: str) -> dict:
        """One of the `samples` of a record. digest: `test_set` of the measurement; reference: whose answers are agreed with."""
        return {"key": key, "name": name, "digest": digest} | self.counts | {"reference": reference, "note": note}

    def _wrong(self, answers: np.ndarray) -> int:
        return int(((answers != self.labels) & (self.labels != UNKNOWN)).sum())

    def to_bytes(self) -> bytes:
        """The content of the file, one line an image: path, class or null, the entry's answer, the reference's answer."""
        labels = [None if label == UNKNOWN else int(label) for label in self.labels]
        columns = zip(self.paths, labels, self.predictions.tolist(), self.reference.tolist(), strict=True)
        rows = ",\n  ".join(json.dumps(row) for row in columns)
        return f'{{"columns": {json.dumps(COLUMNS)},\n "images": [\n  {rows}\n]}}\n'.encode()


def read_sample(path: Path) -> Sample:
    """A file that `Sample.to_bytes` made. Raises `CorruptArtifact`."""
    paths, labels, *answers = zip(*_parsed(path, _Sample).images, strict=True)
    numbers = [UNKNOWN if label is None else label for label in labels], *answers
    labels, predictions, reference = (np.array(column, np.int64) for column in numbers)
    if not all(map(inside, paths)):
        raise CorruptArtifact(f"{path} names a file outside the sample's folder")
    return Sample(paths, labels, predictions, reference)


class _Golden(Fields):
    logits: Annotated[list[list[Annotated[float, Field(allow_inf_nan=False)]]], Field(min_length=1)]


class _Sample(Fields):
    columns: tuple[Literal["path"], Literal["label"], Literal["prediction"], Literal["reference"]] = COLUMNS
    images: Annotated[list[tuple[Name, Class | None, Class, Class]], Field(min_length=1)]


def _parsed(path: Path, model: type[Parsed]) -> Parsed:
    """A JSON file as this model. Raises `CorruptArtifact` with every fault."""
    try:
        return model.model_validate_json(files.read(path, LARGEST))
    except OSError as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise CorruptArtifact(f"{path} cannot be read: {abridged(faults(error))}") from error


def read_log(folder: Path) -> tuple[dict, int | None] | None:
    """(recipe as it was run, seed) from an entry's train.log; None where there is no log, or none of a recipe.

    The first line is "recipe <JSON>", a later one begins with "seed <number>,". Raises `CorruptArtifact`.
    """
    path = Path(folder) / LOG
    if not path.is_file():
        return None
    lines = files.read(path, LARGEST).decode(errors="replace").split("\n", 3)
    if not lines[0].startswith("recipe "):
        return None
    try:
        recipe = json.loads(lines[0].removeprefix("recipe "))
        if not isinstance(recipe, dict):
            raise ValueError("its first line holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error
    seeds = [match[1] for line in lines[1:3] if (match := re.match(r"seed (\d{1,9}),", line))]
    return recipe, int(seeds[0]) if seeds else None


def abridged(items: Sequence[str]) -> str:
    """The first of these items in words, and how many more there are."""
    more = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f", and {more:,} more" if more > 0 else "")
