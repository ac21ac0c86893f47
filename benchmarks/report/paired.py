"""Which test images an entry answers wrongly, kept beside the curves, and the paired test of two such lists.

    artifacts/<id>/predictions.npy + labels of the test set  ->  benchmarks/results/outcomes.csv: one line an entry
    outcomes of A and B  ->  Comparison: wrong on both, on A alone, on B alone; exact McNemar test

The file holds one bit an image, so the leaderboard and its page compare any two entries without a data set at hand.
"""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from zoo import evidence, measurement
from zoo.records import Entry, SampleResult

OUTCOMES = Path(__file__).parents[1] / "results" / "outcomes.csv"
FIELDS = ("id", "predictions_sha256", "wrong")  # wrong: base64 of one bit an image, the first image in the highest bit
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """Paired outcomes of A and B on `examples` images: how many both, only A, only B answer wrongly; p is two-sided."""

    examples: int
    both_wrong: int
    only_a_wrong: int
    only_b_wrong: int

    @property
    def p(self) -> float:
        return exact_mcnemar(self.only_a_wrong, self.only_b_wrong)

    @property
    def points(self) -> float:
        """Error of B minus error of A, in percentage points."""
        return 100 * (self.only_b_wrong - self.only_a_wrong) / self.examples

    @property
    def standard_error(self) -> float:
        """Of `points`: of the mean of paired differences."""
        n, b, c = self.examples, self.only_a_wrong, self.only_b_wrong
        return 100 * math.sqrt(b + c - (b - c) ** 2 / n) / n


def compare(wrong_a: np.ndarray, wrong_b: np.ndarray) -> Comparison:
    """Two lists of booleans (n,): whether A, and whether B, is wrong on each image."""
    both, only_a, only_b = (wrong_a & wrong_b).sum(), (wrong_a & ~wrong_b).sum(), (wrong_b & ~wrong_a).sum()
    return Comparison(len(wrong_a), int(both), int(only_a), int(only_b))


def common_sample(a: Entry, b: Entry) -> SampleResult | None:
    """The sample on which both were measured, as A's record has it: that with the most labels."""
    digests = {sample.digest for sample in b.samples}
    return most_labelled([sample for sample in a.samples if sample.digest in digests])


def most_labelled(samples: Sequence[SampleResult]) -> SampleResult | None:
    """The sample that says most of an error; None where no picture has a label."""
    return max((s for s in samples if s.labelled), key=lambda s: s.labelled, default=None)


def exact_mcnemar(b: int, c: int) -> float:
    """Two-sided p of b against c discordant pairs: each is heads or tails of a fair coin (McNemar 1947)."""
    return float(binomtest(b, b + c).pvalue) if b + c else 1.0


# ------------------------------------------------------------------------------------------------- the file


def read(path: Path = OUTCOMES) -> dict[str, tuple[str, str]]:
    """Id -> digest of the predictions, packed outcomes."""
    return _rows(path.read_text(encoding="utf-8")) if path.is_file() else {}


@functools.lru_cache(maxsize=2)
def _rows(text: str) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["predictions_sha256"], row["wrong"]) for row in csv.DictReader(io.StringIO(text))}


def outcomes(entry: Entry, path: Path = OUTCOMES) -> np.ndarray | None:
    """Whether the entry is wrong on each test image, bool (n,); None where the file does not know these predictions.

    Raises ValueError where the file contradicts the record.
    """
    digest, packed = read(path).get(entry.id, ("", ""))
    if entry.test_errors is None or entry.folder is None or digest != predictions_digest(entry):
        return None
    wrong = unpack(packed, entry.test_examples)
    if wrong.sum() != entry.test_errors:
        raise ValueError(f"{path}: {entry.id} is wrong on {wrong.sum()} images there, on {entry.test_errors} in its record")
    return wrong


def update(entries: Sequence[Entry], path: Path = OUTCOMES) -> bytes:
    """The file for these entries. What it does not have yet is worked out from the labels of the test set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for entry in sorted(entries, key=lambda e: e.id):
        if entry.test_errors is None:
            continue
        wrong = outcomes(entry, path)
        if wrong is None:
            wrong = evidence.read_predictions(entry.folder) != np.asarray(measurement.test_images(entry.dataset).labels)
        writer.writerow([entry.id, predictions_digest(entry), pack(wrong)])
    return text.getvalue().encode()


def predictions_digest(entry: Entry) -> str:
    return hashlib.sha256((entry.folder / evidence.PREDICTIONS).read_bytes()).hexdigest()


def pack(wrong: np.ndarray) -> str:
    """Booleans (n,) as base64 of their bits, the first in the highest bit of the first byte."""
    return base64.b64encode(np.packbits(wrong).tobytes()).decode()


def unpack(packed: str, count: int) -> np.ndarray:
    """Inverse of `pack`."""
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8), count=count).astype(bool)
