"""A pool of pictures to distil with: decoded once, then cropped and mixed a batch at a time on the training's device.

    <ZOO_DATA>/<folder>/*.zip or <folder>/<class>/<picture>     a class index 000 to 999, a synset, or x where it is unknown
        | decode, once
    <cache>/pool-<digest>.u8     all pixels, memory-mapped; a second copy of each picture at half the size
        | random part of a picture, bilinear, from the copy nearest in scale
    float32 (B, 3, size, size)   normalised; some pictures mixed with the next one of the batch (Zhang et al. 2018)

Pictures of a short side of `LARGE` pixels or more are held out, drawn once and for all: `MEASURED` of them for the
agreement that is published, `CHOSEN` for choices during training. A label is given only where the class is known, the
picture is too small for a teacher to be sure of it, and nothing is mixed in; elsewhere it is UNKNOWN.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.training import batches
from benchmarks.training.answers import Answers
from benchmarks.training.recipe import Recipe
from zoo import datasets, files, preprocessing
from zoo.datasets import pictures
from zoo.errors import DataUnavailable, WrongData

UNKNOWN = -100  # label of a picture whose class is not known; torch's own index to ignore
CAP = 256  # pixels of the short side that are kept
LARGE = 160  # short side of pictures that may be held out
SMALL = 100  # short side below which a known class is taught beside the teacher's answer
MEASURED, CHOSEN = 2_000, 1_000  # pictures held out, at most a quarter of the large ones each
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


@dataclass
class Pictures:
    """All pictures of a pool, decoded.

    pixels: uint8 (P, 3), every pixel of every copy; start, height, width: int64 (N, 2), the first pixel and the size of
    each picture as it is and at half the size; labels: int64 (N,), class or UNKNOWN; digest: of the pool's files.
    """

    names: list[str]
    pixels: np.ndarray
    start: np.ndarray
    height: np.ndarray
    width: np.ndarray
    labels: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.names)

    def image(self, number: int):
        """PIL image of one picture."""
        from PIL import Image

        h, w, start = int(self.height[number, 0]), int(self.width[number, 0]), int(self.start[number, 0])
        return Image.fromarray(np.array(self.pixels[start : start + h * w]).reshape(h, w, 3))


class Pool:
    """Batches of a pool, augmented by `recipe.MixedCrops`."""

    def __init__(self, recipe: Recipe, seed: int, device: torch.device):
        self.recipe, self.seed, self.device = recipe, seed, device
        self.mixup = recipe.augment.mixup
        self.augment, self.spec = batches.crops(recipe)
        self.views = recipe.augment.views
        self.pictures = read(locate(recipe.data.removeprefix("pool:")))
        self.chosen, self.measured, self.index = split(self.pictures)
        if len(self.index) < recipe.batch:
            raise ValueError(f"{recipe.data} has {len(self.index)} training pictures, fewer than a batch of {recipe.batch}")
        self.heldout_count = len(self.chosen)
        self.pixels = torch.from_numpy(self.pictures.pixels).to(device)
        self.sizes = torch.from_numpy(np.stack([self.pictures.start, self.pictures.height, self.pictures.width])).to(device)
        self.answer: Callable[[torch.Tensor], torch.Tensor] | None = None  # the teacher's, set by the training
        self._answers: dict[int, torch.Tensor] = {}  # first held-out picture of a batch -> the teacher's answers to it
        self.order = functools.lru_cache(maxsize=2)(self._order)
        self.view = functools.lru_cache(maxsize=2)(self._view)

    def train(self, step: int, rank: int, world: int) -> batches.Batch:
        """The rank's equal share of batch number `step`."""
        number = self._numbers(step)
        draw = torch.Generator().manual_seed(batches.mixed(self.seed, step << 8))
        if self.views:
            boxes = self.view(self._epoch(step) % self.views)[:, number.cpu()]
        else:
            boxes = random_boxes(self.sizes[1:, number, 0].cpu(), self.augment, draw)
        share = torch.where(torch.rand(len(number), generator=draw) < self.mixup, torch.rand(len(number), generator=draw), 1.0)
        portion = _share(len(number), rank, world)
        pair = torch.arange(portion.start, portion.stop + (self.mixup > 0)) % len(number)  # each picture, and the next one
        images = self._cropped(number[pair], boxes[:, pair])
        if self.mixup:
            images = torch.lerp(images[1:], images[:-1], share[portion].to(self.device)[:, None, None, None])
        class_of = torch.from_numpy(self.pictures.labels)[number.cpu()]
        small = self.sizes[1:, number, 0].amin(0).cpu() < SMALL
        labels = torch.where(small & (share == 1.0), class_of, UNKNOWN)
        return images, labels[portion].to(self.device)

    def rows(self, step: int, rank: int, world: int) -> torch.Tensor:
        """Rows of the kept answers that belong to the rank's share of a batch, int64 (B,): one for each view and picture."""
        number = self._numbers(step)[_share(self.recipe.batch, rank, world)]
        return number + self._epoch(step) % self.views * len(self.pictures)

    def answers(self, classes: int) -> Answers:
        """The table of kept answers, for every view of every picture; all seeds share it."""
        recipe = self.recipe
        deciding = self.pictures.digest, recipe.teacher, recipe.preprocess, sorted(recipe.augment.plain().items())
        name = hashlib.sha256(repr(deciding).encode()).hexdigest()[:16]
        return Answers(datasets.cache_folder() / f"answers-{name}.f16", self.views * len(self.pictures), classes)

    def clean(self, step: int, rank: int, world: int) -> batches.Batch:
        """Training pictures as they are evaluated, for statistics of BN."""
        number = self._numbers(step)[_share(self.recipe.batch, rank, world)]
        return self._evaluated(number.tolist()), torch.full((len(number),), UNKNOWN, device=self.device)

    def heldout(self, rank: int = 0, world: int = 1) -> Iterator[batches.Batch]:
        """The rank's part of the held-out pictures; their labels are the teacher's answers."""
        for start in range(rank * 50, len(self.chosen), world * 50):
            images = self._evaluated(self.chosen[start : start + 50].tolist())
            if start not in self._answers:
                if self.answer is None:
                    raise ValueError(f"{self.recipe.data} has no labels of its own: the recipe must name a teacher")
                self._answers[start] = self.answer(images)
            yield images, self._answers[start]

    def _numbers(self, step: int) -> torch.Tensor:
        """Pictures of batch number `step`, int64 (B,), on the device."""
        position = step % (len(self.index) // self.recipe.batch)
        return self.order(self._epoch(step))[position * self.recipe.batch : (position + 1) * self.recipe.batch]

    def _epoch(self, step: int) -> int:
        return step // (len(self.index) // self.recipe.batch)

    def _order(self, epoch: int) -> torch.Tensor:
        return self.index[batches.permutation(len(self.index), self.seed, epoch)].to(self.device)

    def _view(self, number: int) -> torch.Tensor:
        """One fixed random part of every picture, float32 (5, N), the same for all seeds."""
        draw = torch.Generator().manual_seed(batches.mixed(0, number))
        return random_boxes(self.sizes[1:, :, 0].cpu(), self.augment, draw)

    def _cropped(self, number: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        start, height, width = self.sizes[:, number]
        pixels = cut(self.pixels, start, height, width, boxes.to(self.device), self.augment["size"])
        return preprocessing.normalise(self.spec, pixels)

    def _evaluated(self, numbers: list[int]) -> torch.Tensor:
        resized = [np.asarray(preprocessing.resize_and_crop(self.spec, self.pictures.image(n))) for n in numbers]
        planes = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()
        return preprocessing.normalise(self.spec, planes.to(self.device))


def random_boxes(sizes: torch.Tensor, augment: dict, draw: torch.Generator) -> torch.Tensor:
    """(left, top, width, height, mirrored) of a random part of each picture: float32 (5, B), for `sizes` (height, width).

    Area and shape are drawn as in Szegedy et al. 2015, section 6; a part that does not fit is cut to the picture.
    """
    height, width = sizes.float()
    uniform = torch.rand((5, len(height)), generator=draw)
    least, most = augment["area"]
    area = height * width * (least + (most - least) * uniform[0])
    low, high = torch.tensor(augment["ratio"]).log()
    ratio = (low + (high - low) * uniform[1]).exp()
    w, h = torch.minimum((area * ratio).sqrt(), width), torch.minimum((area / ratio).sqrt(), height)
    mirrored = (uniform[4] < 0.5) & torch.tensor(augment["flip"])
    return torch.stack([uniform[2] * (width - w), uniform[3] * (height - h), w, h, mirrored.float()])


def cut(pixels, start, height, width, boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Parts of pictures, bilinear: float32 (B, 3, size, size) in 0 .. 255.

    pixels: uint8 (P, 3); start, height, width: int64 (B, 2) of each picture as it is and at half the size; boxes as
    `random_boxes` makes them. A part that must shrink by more than 1.5 is read from the smaller copy, so that it has no aliases.
    """
    x_offset, top, w, h, mirrored = boxes
    level = ((w * h).sqrt() / size > 1.5).long()[:, None]
    start, height, width = (t.gather(1, level) for t in (start, height, width))  # (B, 1)
    scale = 0.5 ** level.float()
    along = (torch.arange(size, device=pixels.device) + 0.5) / size  # (S,)
    across = torch.where(mirrored[:, None] > 0, 1 - along, along)
    x = ((x_offset[:, None] + across * w[:, None]) * scale - 0.5).clamp_min(0).minimum(width - 1)  # (B, S)
    y = ((top[:, None] + along * h[:, None]) * scale - 0.5).clamp_min(0).minimum(height - 1)
    x0, y0 = x.floor().long(), y.floor().long()
    x1, y1 = (x0 + 1).minimum(width - 1), (y0 + 1).minimum(height - 1)

    def at(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        index = (start + rows * width)[:, :, None] + columns[:, None, :]  # (B, S, S)
        return pixels[index].float()  # (B, S, S, 3)

    fx, fy = (x - x0)[:, None, :, None], (y - y0)[:, :, None, None]
    above, below = torch.lerp(at(y0, x0), at(y0, x1), fx), torch.lerp(at(y1, x0), at(y1, x1), fx)
    return torch.lerp(above, below, fy).permute(0, 3, 1, 2).contiguous()


def split(pictures: Pictures) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers of the pictures for choices, of those whose agreement is published, and of the others, to train on."""
    short = np.minimum(pictures.height[:, 0], pictures.width[:, 0])
    large = torch.from_numpy(np.flatnonzero(short >= LARGE))
    large = large[batches.permutation(len(large), seed=21, epoch=0)]
    measured, chosen = large[: min(MEASURED, len(large) // 4)], large[len(large) // 4 :][: min(CHOSEN, len(large) // 4)]
    train = torch.ones(len(pictures), dtype=torch.bool)
    train[torch.cat([measured, chosen])] = False
    return chosen.sort().values, measured.sort().values, train.nonzero()[:, 0]


def locate(folder: str) -> Path:
    """The folder of a pool: a path, or one below ZOO_DATA. Raises DataUnavailable where there is none."""
    places = [Path(folder).expanduser()] + ([Path(root).expanduser() / folder] if (root := os.environ.get("ZOO_DATA")) else [])
    for place in places:
        if place.is_dir():
            return place
    tried = " or ".join(map(str, places))
    raise DataUnavailable(f"no folder of pictures {tried}: set ZOO_DATA to the folder that holds {folder!r}")


def read(folder: Path) -> Pictures:
    """The pictures of a pool, decoded now or before. Raises WrongData where there is none or one cannot be read."""
    files = sorted(folder.glob("*.zip")) or sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise WrongData(f"{folder} holds neither zip files nor pictures ({', '.join(SUFFIXES)})")
    digest = _digest(folder, files)
    cached = datasets.cache_folder() / f"pool-{digest[:16]}.u8"
    index = cached.with_suffix(".npz")
    if not (cached.is_file() and index.is_file()):
        _decode(folder, files, cached, index)
    with np.load(index, allow_pickle=False) as table:
        names, labels = table["names"].tolist(), table["labels"]
        start, height, width = table["start"], table["height"], table["width"]
    with warnings.catch_warnings():  # nobody writes to the pixels
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        pixels = np.memmap(cached, np.uint8, "r").reshape(-1, 3)
        torch.from_numpy(pixels[:1])
    if len(pixels) != start[-1, 1] + height[-1, 1] * width[-1, 1]:
        raise WrongData(f"{cached} was cut short: remove it, and it is made anew")
    return Pictures(names, pixels, start, height, width, labels, digest)


def _decode(folder: Path, sources: list[Path], cached: Path, index: Path) -> None:
    from PIL import Image

    names, labels, start, height, width = [], [], [], [], []

    def decode(out: BinaryIO) -> None:
        position = 0
        for name, blob in tqdm(_blobs(folder, sources), desc="decoding the pool", unit=" pictures"):
            image = pictures.read(io.BytesIO(blob), f"{folder}: {name}", mode="RGB")
            if min(image.size) > CAP:
                factor = CAP / min(image.size)
                image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
            copies = [image, image.reduce(2)]
            names.append(name)
            labels.append(_class(name.split("/")[-2] if "/" in name else "x"))
            height.append([copy.height for copy in copies])
            width.append([copy.width for copy in copies])
            start.append([position, position + image.width * image.height])
            for copy in copies:
                out.write(copy.tobytes())
                position += copy.width * copy.height

    files.write(cached, decode)
    tables = {"start": start, "height": height, "width": width, "labels": labels}
    tables = {key: np.array(value, np.int64) for key, value in tables.items()}
    files.write(index, lambda out: np.savez(out, names=np.array(names), **tables))


def _blobs(folder: Path, files: list[Path]) -> Iterator[tuple[str, bytes]]:
    """(name, encoded picture), in the order of the files."""
    for path in files:
        if path.suffix.lower() != ".zip":
            yield path.relative_to(folder).as_posix(), path.read_bytes()
            continue
        try:
            with zipfile.ZipFile(path) as shard:
                for entry in shard.infolist():
                    if Path(entry.filename).suffix.lower() in SUFFIXES and entry.file_size < 1 << 26:
                        yield entry.filename, shard.read(entry)
        except zipfile.BadZipFile as error:
            raise WrongData(f"{path} is no readable zip file ({error})") from error


def _class(folder: str) -> int:
    """Class index of a folder's name: 000 to 999, a synset, or UNKNOWN."""
    if folder.isascii() and folder.isdigit() and int(folder) < 1000:
        return int(folder)
    return datasets.synsets().index(folder) if folder in datasets.synsets() else UNKNOWN


def _digest(folder: Path, files: list[Path]) -> str:
    """SHA-256 (hex) of the line "zoo pool 1", then of "<path> <bytes>", a newline and the bytes of each file, sorted by path."""
    state = hashlib.sha256(b"zoo pool 1\n")
    for path in files:
        blob = path.read_bytes()
        state.update(f"{path.relative_to(folder).as_posix()} {len(blob)}\n".encode())
        state.update(blob)
    return state.hexdigest()


def _share(count: int, rank: int, world: int) -> slice:
    return slice(rank * count // world, (rank + 1) * count // world)
