"""ImageNet's validation pictures, in the layouts in which people keep them.

    ROOT, or val, validation, imagenet/val, Data/CLS-LOC/val and their like below it, holds one of
        n01440764/ILSVRC2012_val_00000293.JPEG     class folders named by synset
        0/...JPEG or 000/...JPEG                   class folders named by class index, 0 to 999
        ILSVRC2012_val_00000001.JPEG               all pictures in one folder, with a file of labels beside or above it
        validation-00000-of-00014.parquet          the Hugging Face Hub's files

A file of labels is one of: lines "<picture> <class index or synset>"; Kaggle's LOC_val_solution.csv; one synset a line
in the order of the pictures; the devkit's ILSVRC2012_validation_ground_truth.txt with its meta.mat. The class indices
are positions in the sorted list of synsets. Labels of a few official pictures are known and must agree, so that
another order of the classes is noticed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.datasets import pictures
from zoo.datasets.folder import PICTURES, ImageFolder, class_folders, image_folder
from zoo.datasets.imagenet import IMAGENET, synsets
from zoo.errors import DataUnavailable, WrongData

if TYPE_CHECKING:
    from PIL.Image import Image

NESTED = ("", "val", "validation", "imagenet", "ILSVRC", "Data", "CLS-LOC", "data")  # folders that may lie around the pictures
LABEL_FILES = (
    "val.txt", "labels.tsv", "labels.txt", "labels.csv", "val_labels.txt", "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt", "ILSVRC2012_validation_ground_truth.txt",
)  # fmt: skip
EXAMPLES = 50_000  # official pictures, 50 of each class
# Official number of a picture -> its class.
OFFICIAL_CLASSES = {
    347: 472, 3842: 794, 6815: 167, 9698: 211, 12524: 218, 14896: 546, 18402: 683, 21770: 935, 24583: 411,
    27487: 498, 30143: 737, 33319: 179, 35728: 107, 38461: 846, 41763: 431, 44592: 547, 47540: 386,
}


class ParquetPictures(Sequence):
    """Pictures in parquet files with columns "image" (a struct of bytes and path) and "label": [i] -> (RGB image, class)."""

    def __init__(self, files: list[Path]):
        pyarrow = _pyarrow()
        self.files, self.class_names = files, IMAGENET.class_names()
        self.paths: list[str] = []
        labels: list[int] = []
        self._tables = []
        for path in files:
            try:
                table = pyarrow.parquet.read_table(path, columns=["image", "label"], memory_map=True)
                names = pyarrow.compute.struct_field(table["image"], "path").to_pylist()
            except (pyarrow.ArrowException, KeyError, OSError) as error:
                raise WrongData(f"{path} is no parquet file of pictures with the columns image and label ({error})") from error
            self._tables.append((len(labels), table))
            self.paths += [name or f"{path.name}:{row}" for row, name in enumerate(names)]
            labels += table["label"].to_pylist()
        if any(label is None or not 0 <= label < 1000 for label in labels):
            raise WrongData(f"{files[0].parent}: the labels of the parquet files are not class indices from 0 to 999")
        self._row = sorted(range(len(labels)), key=lambda row: official_name(self.paths[row]))
        self.paths = [self.paths[row] for row in self._row]
        self.names = [official_name(path) for path in self.paths]
        self.labels = np.array(labels, np.int64)[self._row]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        picture = pictures.read(io.BytesIO(self._blob(index)), self.paths[index], mode="RGB")
        return picture, int(self.labels[index])

    def digest(self) -> str:
        """Identity of pictures and labels, as `ImageFolder.digest`."""
        state = hashlib.sha256(b"zoo files 1\n")
        for index, (name, label) in enumerate(zip(self.names, self.labels, strict=True)):
            blob = self._blob(index)
            state.update(f"{name} {label} {len(blob)}\n".encode())
            state.update(blob)
        return state.hexdigest()

    def _blob(self, index: int) -> bytes:
        row = self._row[index]
        start, table = next((start, table) for start, table in reversed(self._tables) if start <= row)
        return table["image"][row - start].as_py()["bytes"] or b""


def validation_set(root: str | os.PathLike | None = None) -> ImageFolder | ParquetPictures:
    """The validation pictures below `root` (default: ZOO_DATA) with their class indices, in the order of their names.

    Order and digest are the same in every layout, folders of classes or none.

    Raises DataUnavailable where no layout is found, or labels or the package that reads them are missing; WrongData where
    labels contradict the official ones.
    """
    root = root if root is not None else os.environ.get("ZOO_DATA")
    if root is None:
        raise DataUnavailable("no folder of pictures named: give its path or set ZOO_DATA. ImageNet cannot "
                              "be fetched without an account: https://image-net.org/download.php")  # fmt: skip
    top = Path(root).expanduser()
    if not top.is_dir():
        raise DataUnavailable(f"there is no folder {top}")
    for place in _places(top):
        if files := sorted(place.glob("val*.parquet")):
            images: ImageFolder | ParquetPictures = ParquetPictures(files)
        elif names := _pictures(place):
            images = _flat(place, names, top)
        elif class_folders(place) and not set(class_folders(place)) & {"train", "test", *NESTED}:
            images = _ordered(image_folder(place, None))
        else:
            continue
        _check_official_classes(images)
        return images
    raise DataUnavailable(
        f"no validation pictures below {top}: expected class folders (n01440764, ... or 0 to 999), pictures with one of the "
        f"label files {', '.join(LABEL_FILES)}, or the Hub's parquet files"
    )


def not_official(images: ImageFolder | ParquetPictures) -> str | None:
    """Why these pictures are not the whole official validation set: by number, names and counts a class; None if they are."""
    if len(images) != EXAMPLES:
        return f"the official validation set has {EXAMPLES:,} pictures, found {len(images):,}"
    counts = np.bincount(images.labels, minlength=1000)
    if len(counts) != 1000 or (counts != EXAMPLES // 1000).any():
        odd = int((counts != EXAMPLES // 1000).argmax())
        return f"the official validation set has {EXAMPLES // 1000} pictures of each class, found {counts[odd]} of class {odd}"
    if {_number(path) for path in images.paths} != set(range(1, EXAMPLES + 1)):
        return f"the official pictures are called ILSVRC2012_val_00000001 to ILSVRC2012_val_{EXAMPLES:08d}; these are not"
    return None


def _ordered(images: ImageFolder) -> ImageFolder:
    """The same pictures in the order of their official names, which their digest is made with."""
    order = sorted(range(len(images)), key=lambda i: official_name(images.paths[i]))
    paths = [images.paths[i] for i in order]
    return ImageFolder(images.root, paths, images.labels[order], images.class_names, [official_name(path) for path in paths])


def official_name(path: str) -> str:
    """ILSVRC2012_val_00000001 of a picture that is called so, with a synset behind it or not; else the file's own name."""
    number = _number(path)
    return Path(path).name if number is None else f"ILSVRC2012_val_{number:08d}"


def _places(top: Path) -> list[Path]:
    """Folders in which the pictures may lie, nearest first, at most four levels down."""
    places, level = [top], [top]
    for _ in range(4):
        level = [place / name for place in level for name in NESTED[1:] if (place / name).is_dir()]
        places += level
    return places


def _pictures(place: Path) -> list[str]:
    """Names of the pictures in a folder, sorted; hidden files are not pictures."""
    return sorted(p.name for p in place.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith("."))


def _flat(place: Path, names: list[str], top: Path) -> ImageFolder:
    """Pictures of one folder, with labels from the first label file beside it or above it, up to `top`."""
    above = [place, *place.parents]
    above = above[: above.index(top) + 1]
    folders = [folder / inner for inner in ("", "data", "devkit/data") for folder in above]
    path = next((folder / name for folder in folders for name in LABEL_FILES if (folder / name).is_file()), None)
    if path is None:
        raise DataUnavailable(f"{place} holds {len(names):,} pictures and no labels; expected beside them or above them one of "
                              f"{', '.join(LABEL_FILES)}")  # fmt: skip
    labels = read_labels(path, names)
    if missing := [name for name in names if name not in labels]:
        raise DataUnavailable(f"{path} has no label for {len(missing):,} of the {len(names):,} pictures, {missing[0]} for one")
    return _ordered(ImageFolder(place, names, np.array([labels[name] for name in names], np.int64), IMAGENET.class_names()))


def read_labels(path: Path, names: list[str]) -> dict[str, int]:
    """Class index of each picture that the label file speaks of, by the picture's name as in `names`.

    Raises WrongData for a file whose labels cannot be told.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise WrongData(f"{path} cannot be read: {error}") from error
    rows = list(csv.reader(lines)) if path.suffix == ".csv" else [line.split() for line in lines]
    if all(len(row) == 1 for row in rows):
        return _labels_in_order(path, [row[0] for row in rows], names)
    stems = {Path(name).stem: name for name in names}
    labels = {}
    for row in rows:
        stem = Path(row[0]).stem
        label = _class_index(row[1].split()[0]) if len(row) > 1 and row[1].split() else None
        if stem in stems and label is not None:
            labels[stems[stem]] = label
    return labels


def _labels_in_order(path: Path, entries: list[str], names: list[str]) -> dict[str, int]:
    """Labels of a file that names no pictures: line n is of the official picture n."""
    numbers = {_number(name): name for name in names}
    if None in numbers or len(entries) != EXAMPLES:
        raise WrongData(f"{path} has {len(entries):,} labels without names: they belong to the {EXAMPLES:,} official pictures, "
                        "which are called ILSVRC2012_val_00000001.JPEG and so on")  # fmt: skip
    if all(entry.isdigit() for entry in entries):
        order = _devkit_order(path)
        labels = [order.get(int(entry)) for entry in entries]
    else:
        labels = [_class_index(entry) for entry in entries]
    if None in labels:
        raise WrongData(f"{path}: line {labels.index(None) + 1} names no class of ImageNet")
    return {name: labels[number - 1] for number, name in numbers.items() if 1 <= number <= EXAMPLES}


def _devkit_order(path: Path) -> dict[int, int]:
    """The devkit's own class numbers, 1 to 1000, -> class index. They are no positions in the sorted list: meta.mat tells."""
    meta = path.with_name("meta.mat")
    try:
        from scipy.io import loadmat

        table = loadmat(meta, squeeze_me=True)["synsets"]
        numbers = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table}
        return {number: synsets().index(synset) for number, synset in numbers.items() if number <= 1000}
    except ModuleNotFoundError as error:
        raise DataUnavailable(f"{path.name} numbers the classes as the devkit does; reading its meta.mat needs scipy: "
                              "pip install scipy") from error  # fmt: skip
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataUnavailable(f"{path.name} numbers the classes as the devkit does, in no order of synsets: the devkit's "
                              f"meta.mat must lie beside it ({error})") from error  # fmt: skip


def _class_index(text: str) -> int | None:
    """Of a class index in decimal digits, or a synset; None for anything else."""
    if text.isascii() and text.isdigit() and len(text) < 5:
        return int(text) if int(text) < 1000 else None
    return synsets().index(text) if text in synsets() else None


def _check_official_classes(images: ImageFolder | ParquetPictures) -> None:
    """Raises WrongData where an official picture has another label than it is known to have."""
    for path, label in zip(images.paths, images.labels, strict=True):
        official = OFFICIAL_CLASSES.get(_number(path) or 0)
        if official is not None and official != label:
            names = IMAGENET.class_names()
            raise WrongData(f"{path} is of class {official} ({names[official]}), its label is {label} ({names[int(label)]}): the "
                            "labels are in another order than that of the sorted synsets")  # fmt: skip


def _number(path: str) -> int | None:
    """Official number of a validation picture by its name, which may end with a synset."""
    match = re.fullmatch(r"ILSVRC2012_val_(\d{8})(_n\d{8})?", Path(path).stem)
    return int(match[1]) if match else None


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DataUnavailable("these pictures are in parquet files, which pyarrow reads: pip install pyarrow") from error
    return pyarrow
