"""The data sets: which images, in which order, known by their digest; and the names of their classes.

    datasets.load("cifar10", "train").pixels              # (50000, 32, 32, 3) uint8, memory-mapped
    datasets.image_folder("path/to/imagenet", "val")[0]   # (PIL image, class index 0..999)

To add one: a file beside this one that makes a `Dataset`, and its name in DATASETS.
"""

from __future__ import annotations

import os

import numpy as np

from zoo.datasets import sources
from zoo.datasets.cifar10 import CIFAR10
from zoo.datasets.dataset import Dataset, Images, Split, cache_folder, digest
from zoo.datasets.fashion_mnist import FASHION_MNIST
from zoo.datasets.folder import ImageFolder, image_folder, on_disk
from zoo.datasets.imagenet import IMAGENET, synsets
from zoo.datasets.mnist import MNIST
from zoo.datasets.validation import validation_set
from zoo.preprocessing import Preprocessing

__all__ = [
    "DATASETS", "Dataset", "HOLDOUT", "IMAGENET", "ImageFolder", "Images", "PREPROCESSINGS", "Split", "cache_folder",
    "classes", "digest", "get", "golden_input", "holdout_split", "image_folder", "load", "of_preprocessing", "on_disk",
    "preprocessing", "synsets", "test_set", "validation_set",
]  # fmt: skip

HOLDOUT = 5_000  # the last images of the official training order choose between runs

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (MNIST, FASHION_MNIST, CIFAR10, IMAGENET)}

PREPROCESSINGS: dict[str, Preprocessing] = {
    preprocessing.name: preprocessing for dataset in DATASETS.values() for preprocessing in dataset.preprocessings
}


def get(name: str) -> Dataset:
    """The data set of that name. Raises ValueError with the names that exist."""
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r}; there are {', '.join(DATASETS)}")
    return DATASETS[name]


def preprocessing(name: str) -> Preprocessing:
    """The preprocessing of that name. Raises ValueError with the names that exist."""
    if name not in PREPROCESSINGS:
        raise ValueError(f"no preprocessing {name!r}; there are {', '.join(PREPROCESSINGS)}")
    return PREPROCESSINGS[name]


def of_preprocessing(name: str) -> Dataset:
    """The data set that the preprocessing of that name is for. Raises as `preprocessing` does."""
    return next(dataset for dataset in DATASETS.values() if preprocessing(name) in dataset.preprocessings)


def load(dataset: str, split: str, root: str | os.PathLike | None = None) -> Images:
    """The `split` ("train" or "test") of a data set by its name, in the official order.

    Sources, first to last: the files in the package (MNIST test set; skipped when `root` is given), `root` or
    the folder named by ZOO_DATA, the cache (ZOO_CACHE, else ~/.cache/zoo), the official hosts, the mirror.
    Sources behind the network fill the cache. Arrays from the cache are memory-mapped copy-on-write: writing
    into them never reaches the disk.

    Raises WrongData when the files in `root` are not this data set, DataUnavailable when no source gives it,
    ValueError for other names.
    """
    if dataset not in DATASETS or split not in DATASETS[dataset].splits:
        pairs = ", ".join(f"{entry.name} {name}" for entry in DATASETS.values() for name in entry.splits)
        folder = dataset in DATASETS and not DATASETS[dataset].downloadable
        hint = f"; for {DATASETS[dataset].title} see zoo.datasets.image_folder" if folder else ""
        raise ValueError(f"no data set {dataset!r} {split!r}; there are {pairs}{hint}")
    return sources.load(DATASETS[dataset], split, root)


def test_set(dataset: str, root: str | os.PathLike | None = None) -> Images | ImageFolder:
    """The whole test set; of a data set that nobody can download, the validation pictures below `root` or ZOO_DATA."""
    return load(dataset, "test", root) if get(dataset).downloadable else validation_set(root)


def holdout_split(images: Images) -> tuple[Images, Images]:
    """(all but the last 5,000 images, the last 5,000), for choices that must not see the test set."""
    if len(images) <= HOLDOUT:
        raise ValueError(f"{len(images)} images are too few to hold {HOLDOUT} out")

    def share(indices: slice) -> Images:
        pixels, labels = images.pixels[indices], images.labels[indices]
        return Images(pixels, labels, digest(pixels, labels))

    return share(slice(None, -HOLDOUT)), share(slice(-HOLDOUT, None))


def classes(dataset: str) -> tuple[str, ...]:
    """Names of the classes of a data set, in the order of the class indices. Raises ValueError for another name."""
    return get(dataset).class_names()


def golden_input(dataset: str) -> np.ndarray:
    """Four synthetic images of the native size, uint8 (4, H, W[, 3]): see `Dataset.golden_input`."""
    return get(dataset).golden_input()
