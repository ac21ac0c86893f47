"""Compare two entries: exact McNemar test on their answers to the same test images, and the difference in bytes.

    python -m benchmarks compare lenet300-100-hemp1 lenet300-100-hemp2

Only the images on which exactly one of the two is wrong speak about a difference. Under the hypothesis that both are
equally good each of these is A's or B's with probability 1/2, so the test is a binomial one and exact (McNemar 1947).
Images of a sample (ImageNet) are used where the whole test set was not measured, and named as such.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.report import paired
from benchmarks.report.paired import Comparison
from zoo import datasets, evidence, measurement, registry
from zoo.records import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", help="id of an entry")
    parser.add_argument("b", help="id of another entry on the same data")


def main(args: argparse.Namespace) -> None:
    a, b = registry.find(args.a), registry.find(args.b)
    images, c = compare(a, b)
    wrong = {"A": c.both_wrong + c.only_a_wrong, "B": c.both_wrong + c.only_b_wrong}
    for name, e in (("A", a), ("B", b)):
        share = 100 * wrong[name] / c.examples
        print(f"{name}  {e.id}: {e.size_bytes:,} bytes, {wrong[name]:,} of {c.examples:,} wrong ({share:.2f} %)")
    less = a.size_bytes - b.size_bytes
    word = "smaller" if less > 0 else "larger"
    print(f"bytes: B is {abs(less):,} bytes ({100 * abs(less) / a.size_bytes:.1f} %) {word}" if less else "bytes: equal")
    print(f"wrong on {images}: both {c.both_wrong:,}, only A {c.only_a_wrong:,}, only B {c.only_b_wrong:,}")
    verdict = "a difference" if c.p < paired.LEVEL else "no difference shown"
    print(f"error of B minus A: {c.points:+.2f} points, standard error {c.standard_error:.2f}")
    print(f"exact McNemar, two-sided: p = {c.p:.3g}, {verdict} at the {100 * paired.LEVEL:g} % level")


def compare(a: Entry, b: Entry) -> tuple[str, Comparison]:
    """The images in words, and the paired outcomes on them.

    Raises ValueError where the two have no images in common that both were measured on.
    """
    if a.test_errors is not None and b.test_errors is not None:
        if a.test_set != b.test_set:
            raise ValueError(f"{a.id} and {b.id} were measured on different test sets ({a.dataset} and {b.dataset})")
        answers = [evidence.read_predictions(e.folder) for e in (a, b)]
        labels, images = np.asarray(measurement.test_images(a.dataset).labels), f"{datasets.get(a.dataset).title} test"
    elif common := paired.common_sample(a, b):
        samples = [evidence.read_sample(e.folder / common.file) for e in (a, b)]
        labelled = samples[0].labels != evidence.UNKNOWN
        answers, labels = [s.predictions[labelled] for s in samples], samples[0].labels[labelled]
        images = f"the sample {common.key} ({common.name})"
    else:
        missing = [e.id for e in (a, b) if e.test_errors is None] or [a.id, b.id]
        raise ValueError(f"no images on which both were measured: {' and '.join(missing)} has no test errors in its record")
    for e, predictions in zip((a, b), answers, strict=True):
        if len(predictions) != len(labels):
            raise ValueError(f"{e.id}: {len(predictions):,} predictions for {len(labels):,} images")
    return images, paired.compare(answers[0] != labels, answers[1] != labels)
