"""Measure entries whose records have no test errors yet, ImageNet's, and write the errors into them.

    python -m benchmarks measure resnet50-dft --data imagenet/val

All that `zoo verify` derives must agree with the record, and the pictures must be the whole official validation set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from zoo import datasets, evidence, registry, verify
from zoo.errors import WrongData
from zoo.measurement import Measurement
from zoo.records import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="entries without test errors")
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="the validation set, as class folders")
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
    require_official(datasets.get(entry.dataset), outcome.measurement)
    return record(entry, outcome.measurement)


def require_official(dataset: datasets.Dataset, measured: Measurement) -> None:
    """Raises `WrongData` unless the images were as many as the official test set has, equally many of each class."""
    counts = np.bincount(measured.labels, minlength=len(dataset.class_names()))
    if dataset.downloadable or (measured.examples == dataset.test_examples and counts.min() == counts.max()):
        return  # a downloaded set is known by its digest
    raise WrongData(
        f"not written: the official test set has {dataset.test_examples:,} images, as many of each of {len(counts):,} classes; "
        f"found {measured.examples:,} images of {int((counts > 0).sum()):,} classes"
    )


def record(entry: Entry, measured: Measurement) -> Entry:
    """Writes predictions and errors beside the model file; returns the entry as its record now stands."""
    changed = entry.changed(test_set=measured.test_set, test_errors=measured.errors, test_examples=measured.examples)
    evidence.write_predictions(entry.folder, measured.predictions)
    registry.save(changed)
    return registry.load_record(entry.folder)
