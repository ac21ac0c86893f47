"""Measure entries whose records have no test errors yet, ImageNet's, and write the errors into them.

    python -m benchmarks measure resnet50-dft --data imagenet/val

All that `zoo verify` derives must agree with the record, and the pictures must be the whole official validation set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo import datasets, evidence, registry, verify
from zoo.datasets.validation import ParquetPictures, not_official
from zoo.errors import WrongData
from zoo.measurement import Measurement
from zoo.records import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="entries without test errors")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="folder of the validation set")
    parser.add_argument("--device", default="cpu", help="where networks run (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    for name in args.ids:
        entry = measure(registry.find(name), args.data, args.device)
        print(f"{name}: {entry.test_errors:,} of {entry.test_examples:,} wrong ({entry.top1_error:.2f} %), written")
    return 0


def measure(entry: Entry, data_root: Path, device: str = "cpu", progress: bool = True) -> Entry:
    """The entry with the errors on the test set below `data_root`, after its record was written.

    Raises ValueError for a record that has errors already, `VerificationFailed` for one that differs from its file,
    `WrongData` for pictures that are not the whole official set.
    """
    if entry.test_errors is not None:
        raise ValueError(f"{entry.id} has test errors in its record; `zoo verify {entry.id} --data PATH` derives them again")
    outcome = verify.check(entry, data_root=data_root, device=device, progress=progress)
    outcome.check()
    if not datasets.get(entry.dataset).downloadable:  # a downloaded set is known by its digest
        require_official(datasets.validation_set(data_root))
    return record(entry, outcome.measurement)


def require_official(images: datasets.ImageFolder | ParquetPictures) -> None:
    """Raises `WrongData` unless these are all pictures of the official validation set, by names and counts of classes."""
    if (reason := not_official(images)) is not None:
        raise WrongData(f"not written: {reason}")


def record(entry: Entry, measured: Measurement) -> Entry:
    """Writes predictions and errors beside the model file; returns the entry as its record now stands."""
    changed = entry.changed(test_set=measured.test_set, test_errors=measured.errors, test_examples=measured.examples)
    evidence.write_predictions(entry.folder, measured.predictions)
    registry.save(changed)
    return registry.load_record(entry.folder)
