"""Pictures in class folders, as a user keeps them: <root>/<class>/<file>."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo import files
from zoo.datasets import pictures
from zoo.datasets.imagenet import IMAGENET, synsets
from zoo.errors import DataUnavailable, WrongData

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageFolder(Sequence):
    """A user's folder <class>/<file> of pictures, decoded when asked for: folder[i] -> (RGB image, class).

    labels: int64 (N,), class indices in the order of the images (folders sorted, files sorted in each).
    class_names: what the indices mean; for ImageNet all 1,000, even if the folder holds only some of them.
    names: of the pictures in the digest, where these are not their paths.
    """

    def __init__(
        self, root: Path, paths: list[str], labels: np.ndarray, class_names: tuple[str, ...], names: list[str] | None = None
    ):
        self.root, self.paths, self.labels, self.class_names = root, paths, labels, class_names
        self.names = paths if names is None else names

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        path = self.root / self.paths[index]
        source = path if on_disk(self.root, self.paths[index]) == path else io.BytesIO(self._blob(index))
        return pictures.read(source, path, mode="RGB"), int(self.labels[index])

    def _blob(self, index: int) -> bytes:
        """The encoded picture: a file, or a member of a zip file."""
        path = self.root / self.paths[index]
        place = on_disk(self.root, self.paths[index])
        if place == path:
            return path.read_bytes()
        member = path.relative_to(place).as_posix()
        try:
            if (size := _archive(place).getinfo(member).file_size) > LARGEST_MEMBER:
                raise WrongData(f"{path} has {size:,} bytes, expected at most {LARGEST_MEMBER:,}")
            return _archive(place).read(member)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise WrongData(f"{path} cannot be read ({error})") from error

    def digest(self) -> str:
        """Identity of the folder: SHA-256 (hex) over the encoded files in order.

        Hashed are the line "zoo files 1", then for each file the line "<name> <class index> <length in bytes>" and its bytes;
        every line in UTF-8 and ended by one newline. Encoded, because JPEG decoders differ in the last bit. It reads every
        file: for ImageNet-val 6 GB.
        """
        state = hashlib.sha256(b"zoo files 1\n")
        for index, (name, label) in enumerate(zip(self.names, self.labels, strict=True)):
            blob = self._blob(index)
            state.update(f"{name} {label} {len(blob)}\n".encode())
            state.update(blob)
        return state.hexdigest()


LARGEST_MEMBER = 1 << 26  # bytes of a picture in a zip file
PICTURES = (".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".webp")


def on_disk(root: Path, path: str) -> Path:
    """The file that holds a picture: itself, or the zip file that its path names before the member's name."""
    shard, separator, _ = path.partition(".zip/")
    return root / (f"{shard}.zip" if separator else path)


@functools.lru_cache(maxsize=16)
def _archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def class_folders(place: Path) -> list[str]:
    """Names of the folders in `place`, sorted, without hidden ones; none where there is no such place."""
    return sorted(p.name for p in place.iterdir() if p.is_dir() and not p.name.startswith(".")) if place.is_dir() else []


def image_folder(root: str | os.PathLike | None = None, split: str | None = "val") -> ImageFolder:
    """The pictures below `root` (default: ZOO_DATA), by class folder.

    Looks in root/<split>, root/imagenet/<split> and root itself (only there for split=None), and takes the
    first that has class folders. If these are named by ImageNet synsets (n01440764, ...) the class is the
    synset's index in the sorted list of all 1,000, so part of the classes is enough; if by numbers from 0 to 999, the
    class is that number; otherwise the sorted order of the folders decides. Hidden files and folders do not count.

    Raises DataUnavailable when there is no such folder, WrongData when synsets and other names are mixed or a
    class folder holds no picture.
    """
    if root is None:
        root = os.environ.get("ZOO_DATA")
    if root is None:
        raise DataUnavailable("no folder of pictures named: give its path or set ZOO_DATA. ImageNet cannot "
                              "be fetched without an account: https://image-net.org/download.php")
    top = files.expanded(root)
    places = [top / split, top / IMAGENET.name / split, top] if split else [top]
    for place in places:
        names = class_folders(place)
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
    numbers = all(name.isascii() and name.isdigit() for name in names)
    if numbers and max(map(int, names)) > 999:
        raise WrongData(f"{place}: class folders named by numbers go from 0 to 999, found {max(names, key=int)}")
    if strangers:
        index_of = {name: int(name) if numbers else i for i, name in enumerate(names)}
    paths, labels = [], []
    for name in names:
        file_names = sorted(f.name for f in (place / name).iterdir() if f.suffix.lower() in PICTURES and f.name[0] != ".")
        if not file_names:
            raise WrongData(f"{place / name} holds no picture")
        paths += [f"{name}/{file}" for file in file_names]
        labels += [index_of[name]] * len(file_names)
    whole = not strangers or (numbers and max(map(int, names)) >= min(len(names), 999))  # numbers with gaps are ImageNet's
    class_names = IMAGENET.class_names() if whole else tuple(sorted(names, key=index_of.__getitem__))
    return ImageFolder(place, paths, np.array(labels, np.int64), class_names)
