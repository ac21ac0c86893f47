"""Measure an entry, and the network that it compresses, on pictures that nobody has trained on or chosen with.

    python -m benchmarks sample resnet50-dft --pictures FOLDER --key val650 --reference keras/resnet50
        pictures by class folder, or flat with a file of labels (zoo/datasets/validation.py)
    python -m benchmarks sample resnet50-dft --pool FOLDER --key pool2000 --reference keras/resnet50
        the large pictures of a pool that every training leaves out (benchmarks/training/pool.py); some have no label

    pictures --entry------> answers --.
       '------reference--> answers ---+--> sample-<key>.json, one of the record's `samples`

A sample is measured once for an entry: a key that its record has is refused.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.training import distill, pool
from zoo import datasets, evidence, files, measurement, preprocessing, registry
from zoo.compress.calibration import BATCH
from zoo.records import Entry

HELD_OUT = "pictures of the pool, of short side 160 and more, that no training sees"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pictures", type=Path, metavar="FOLDER", help="labelled pictures, in any layout of the validation set")
    source.add_argument("--pool", metavar="FOLDER", help="a pool: the pictures that are held out for the published agreement")
    parser.add_argument("--key", required=True, help="short name of the sample, e.g. val650")
    parser.add_argument("--name", help="what the pictures are, in words (default: their number and origin)")
    parser.add_argument("--note", default="never used for training or for a choice", help="for the record (default: %(default)s)")
    parser.add_argument("--reference", required=True, help="the uncompressed network: a source of weights, or an entry")


def main(args: argparse.Namespace) -> int:
    entry = registry.find(args.id)
    images = held_out(args.pool) if args.pool else datasets.validation_set(args.pictures)
    origin = HELD_OUT if args.pool else f"pictures of {args.pictures.name}"
    result = add(entry, images, args.key, args.name or f"{len(images):,} {origin}", args.note, args.reference).samples[-1]
    wrong = f"{result.errors} of {result.labelled} wrong ({args.reference}: {result.reference_errors}), "
    shown = wrong if result.labelled else ""
    print(f"{entry.id}, {result.key}: {shown}the same answer on {result.agreement} of {result.examples}")
    return 0


def add(entry: Entry, images: datasets.ImageFolder, key: str, name: str, note: str, reference: str) -> Entry:
    """The entry as its record stands after the sample was measured and written. Raises ValueError for a key that it has."""
    if any(sample.key == key for sample in entry.samples):
        raise ValueError(f"{entry.id} was measured on {key} before: a sample is used once for an entry")
    blob = registry.read(entry)
    derived = measurement.measure(blob, images, dataset=entry.dataset, preprocess=entry.preprocessing)
    sample = compared(images, derived.predictions, *distill.load(reference))
    record = sample.record(key, name, derived.test_set, reference, note)
    changed = entry.changed(samples=[s.model_dump() for s in entry.samples] + [record])
    files.write(entry.folder / changed.samples[-1].file, sample.to_bytes())
    registry.save(changed)
    return registry.load_record(entry.folder)


def compared(images: datasets.ImageFolder, predictions: np.ndarray, network: nn.Module, source: str) -> evidence.Sample:
    """An entry's answers (N,) beside those of the uncompressed network, through the preprocessing called `source`."""
    transform, batches = preprocessing.preprocess(source), []
    with torch.inference_mode():
        for begin in tqdm(range(0, len(images), BATCH), desc="uncompressed network", disable=None):
            pictures = [images[i][0] for i in range(begin, min(begin + BATCH, len(images)))]
            batches.append(network(transform(pictures)).argmax(1))
    return evidence.Sample(tuple(images.paths), np.asarray(images.labels), predictions, torch.cat(batches).numpy())


def held_out(folder: str) -> datasets.ImageFolder:
    """The pictures of a pool whose agreement is published, as members of its zip files or as files."""
    root = pool.locate(folder)
    pictures = pool.read(root)
    _, measured, _ = pool.split(pictures)
    places = {}
    for shard in sorted(root.glob("*.zip")):
        with zipfile.ZipFile(shard) as archive:
            places |= {name: f"{shard.name}/{name}" for name in archive.namelist()}
    paths = [places.get(pictures.names[n], pictures.names[n]) for n in measured.tolist()]
    labels = np.where(pictures.labels == pool.UNKNOWN, evidence.UNKNOWN, pictures.labels)[measured.numpy()]
    return datasets.ImageFolder(root, paths, labels, datasets.IMAGENET.class_names())
