"""Batches of a recipe's training set as a function of (seed, step), and its held-out part.

    open_(recipe, seed, device)   the recipe's data set (`data`, else the network's own)
        mnist, cifar10, ...       Resident: all pixels in memory as uint8, augmented a batch at a time
        imagenet                  Folder: <ZOO_DATA>/train/<class>/<picture>, decoded by worker processes
        hf:REPOSITORY             Stream: Hugging Face `datasets`, streamed from the Hub
        pool:FOLDER               Pool: any pictures, for a teacher's answers (pool.py)

    pixels uint8 (B, C, H, W) --crop, flip, cutout--> uint8 --normalise--> float32, on the training's device

Random numbers are drawn for a whole batch, which is then cut into equal parts: so they do not depend on the number of
processes (except in a Stream, where each process reads its own shards). A resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.training.recipe import Crops, Recipe
from zoo import datasets, networks, preprocessing

Batch = tuple[torch.Tensor, torch.Tensor]  # images (B, C, H, W) float32, labels (B,) int64
FOLDER_HOLDOUT = 10_000  # pictures of ImageNet's training set held out, and at most a tenth of a smaller folder


def open_(recipe: Recipe, seed: int, device: torch.device):
    """Batches of the recipe's data set. Raises what `zoo.datasets` raises, and ValueError for what a recipe gets wrong."""
    if recipe.data.startswith("hf:"):
        return Stream(recipe, seed, device)
    if recipe.data.startswith("pool:"):
        from benchmarks.training.pool import Pool

        return Pool(recipe, seed, device)
    if not datasets.get(recipe.dataset).downloadable:
        return Folder(recipe, seed, device)
    return Resident(recipe, seed, device)


class Resident:
    """A data set that fits into memory as uint8, augmented by `recipe.Shifts`: MNIST and CIFAR-10."""

    def __init__(self, recipe: Recipe, seed: int, device: torch.device):
        self.recipe, self.seed, self.device = recipe, seed, device
        train, heldout = datasets.holdout_split(datasets.load(recipe.dataset, "train"))
        self.spec = datasets.PREPROCESSINGS[recipe.preprocess]
        self.images = _planes(train.pixels).to(device)  # (N, C, H, W) uint8
        self.labels = torch.as_tensor(train.labels, dtype=torch.int64, device=device)
        self.heldout_images = _planes(heldout.pixels).to(device)
        self.heldout_labels = torch.as_tensor(heldout.labels, dtype=torch.int64, device=device)
        self.heldout_count = len(heldout)
        self.augment, self.size = recipe.augment, self.images.shape[-1]
        self.border = self.augment.shift or self.augment.crop
        if self.border:  # reflection wants floats; images are padded once and in parts
            mode = "reflect" if self.augment.crop else "constant"
            pad = torch.nn.functional.pad
            padded = [pad(images.float(), [self.border] * 4, mode=mode).byte() for images in self.images.split(5000)]
            self.images = torch.cat(padded)
        self._epoch, self._order = -1, None

    def train(self, step: int, rank: int, world: int) -> Batch:
        """The rank's equal share of batch number `step`."""
        index, portion = self._index(step, rank, world)
        return self._normalise(self._augmented(index, step, portion)), self.labels[index]

    @property
    def variants(self) -> int | None:
        """How many different training images there are, shifted ones counted apart; None where they are too many to list."""
        if self.augment.flip or self.augment.cutout:
            return None
        count = len(self.labels) * (2 * self.border + 1) ** 2
        return count if count <= 1_000_000 else None

    def numbers(self, step: int, rank: int, world: int) -> torch.Tensor:
        """Which of the variants the rank's share of batch number `step` shows, int64 (B,)."""
        index, portion = self._index(step, rank, world)
        sides = 2 * self.border + 1
        if not self.border:
            return index
        corner = self._corners(self._generator(step))[:, portion].to(self.device)
        return index * sides**2 + corner[0] * sides + corner[1]

    def variant_images(self, numbers: torch.Tensor) -> torch.Tensor:
        """The variants of these numbers, as a network gets them."""
        sides, along = 2 * self.border + 1, torch.arange(self.size, device=self.device)
        rows, columns = (numbers % sides**2 // sides)[:, None] + along, (numbers % sides)[:, None] + along
        return self._normalise(self._cut(numbers // sides**2, rows, columns))

    def _index(self, step: int, rank: int, world: int) -> tuple[torch.Tensor, slice]:
        """Training images of the rank's share of a batch, and the place of that share in the batch."""
        batch = self.recipe.batch
        epoch, position = divmod(step, len(self.labels) // batch)
        if epoch != self._epoch:
            self._order, self._epoch = permutation(len(self.labels), self.seed, epoch).to(self.device), epoch
        share = batch // world
        portion = slice(rank * share, (rank + 1) * share)
        return self._order[position * batch : (position + 1) * batch][portion], portion

    def _corners(self, generator: torch.Generator) -> torch.Tensor:
        """By how much the images of a batch are shifted: (2, batch), rows and columns."""
        return torch.randint(0, 2 * self.border + 1, (2, self.recipe.batch), generator=generator)

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(mixed(self.seed, step << 8))

    def _cut(self, index: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """These rows and columns (B, size) of the bordered images: uint8 (B, C, size, size)."""
        full, picture = self.images.shape[-1], self.images[index].flatten(2)  # (B, C, full * full)
        pixel = (rows[:, :, None] * full + columns[:, None, :]).reshape(len(index), 1, -1)
        return picture.gather(2, pixel.expand(-1, picture.shape[1], -1)).reshape(len(index), -1, self.size, self.size)

    def heldout(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The rank's part of the held-out images."""
        for start in range(rank * 500, self.heldout_count, world * 500):
            rows = slice(start, start + 500)
            yield self._normalise(self.heldout_images[rows]), self.heldout_labels[rows]

    def _augmented(self, index: torch.Tensor, step: int, portion: slice) -> torch.Tensor:
        """uint8 (B, C, size, size)"""
        augment, batch, size = self.augment, self.recipe.batch, self.size
        if not self.border and not augment.flip and not augment.cutout:
            return self.images[index]
        generator = self._generator(step)
        corner = self._corners(generator)[:, portion].to(self.device)
        along = torch.arange(size, device=self.device)
        rows, columns = corner[0][:, None] + along, corner[1][:, None] + along  # (B, size)
        if augment.flip:
            mirrored = torch.randint(0, 2, (batch, 1), generator=generator)[portion].bool().to(self.device)
            columns = torch.where(mirrored, columns.flip(1), columns)
        images = self._cut(index, rows, columns)
        if side := augment.cutout:  # DeVries & Taylor 2017: the square's centre is anywhere in the image
            centre = torch.randint(0, size, (2, batch, 1), generator=generator)[:, portion].to(self.device)
            inside = [(along >= c - side // 2) & (along < c - side // 2 + side) for c in centre]  # (B, size) each
            hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
            grey = torch.tensor(self.spec.mean, device=self.device).mul(self.spec.scale).round().byte()
            images = torch.where(hole, grey[:, None, None], images)
        return images

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        return preprocessing.normalise(self.spec, images)


class Folder:
    """The user's ImageNet (or another folder of classes), decoded by worker processes as it is needed.

    Augmented by `recipe.Crops`. The environment variable ZOO_WORKERS sets the number of workers, which changes no result. The
    held-out pictures are drawn from the training set, the same ones for every seed.
    """

    def __init__(self, recipe: Recipe, seed: int, device: torch.device):
        self.recipe, self.seed, self.device = recipe, seed, device
        self.augment, self.spec = crops(recipe)
        self.folder = datasets.image_folder(split="train")
        count, classes = len(self.folder.class_names), networks.spec(recipe.network).classes_count
        if count > classes:
            raise ValueError(f"{self.folder.root} has {count} classes, {recipe.network} tells {classes} apart")
        order = permutation(len(self.folder), seed=20, epoch=0)  # the same for every seed of a recipe
        self.heldout_count = min(FOLDER_HOLDOUT, len(order) // 10)
        self.heldout_index = sorted(order[: self.heldout_count].tolist())
        self.index = order[self.heldout_count :].sort().values
        if len(self.index) < recipe.batch:
            raise ValueError(f"{self.folder.root} has {len(self.index)} training pictures, fewer than a batch of {recipe.batch}")
        self._loader, self._next = None, None

    def train(self, step: int, rank: int, world: int) -> Batch:
        """The rank's equal share of batch number `step`. Steps in order are prefetched; any other starts the workers anew."""
        if self._next != (step, rank, world):
            self.close()
            self._loader = iter(self._loading(_Pictures(self.folder, self.augment), self._keys(step, rank, world)))
        pixels, labels = next(self._loader)
        self._next = (step + 1, rank, world)
        return self._to_device(pixels), labels.to(self.device)

    def heldout(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The rank's part of the held-out pictures, resized and cropped to the centre as for evaluation."""
        keys = [[(i, None) for i in self.heldout_index[start : start + 100]] for start in range(0, self.heldout_count, 100)]
        for pixels, labels in self._loading(_Pictures(self.folder, {"spec": self.spec}), keys[rank::world]):
            yield self._to_device(pixels), labels.to(self.device)

    def close(self) -> None:
        """Ends the worker processes."""
        self._loader = self._next = None

    def _keys(self, step: int, rank: int, world: int) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        """For each batch from `step` on: (picture, seed of its crop) of the rank's share."""
        batch = self.recipe.batch
        share, last = batch // world, -1
        while True:
            epoch, position = divmod(step, len(self.index) // batch)
            if epoch != last:
                order, last = self.index[permutation(len(self.index), self.seed, epoch)], epoch
            start = position * batch + rank * share
            yield [(int(order[i]), (self.seed, epoch, i)) for i in range(start, start + share)]
            step += 1

    def _loading(self, pictures: _Pictures, keys) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(
            pictures, batch_sampler=keys, num_workers=_workers(), pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else starting workers would advance torch's global generator
        )

    def _to_device(self, pixels: torch.Tensor) -> torch.Tensor:
        return preprocessing.normalise(self.spec, pixels.to(self.device, non_blocking=True))


class Stream:
    """A data set of the Hugging Face Hub with columns "image" and "label", read as it comes: nothing is kept on disk.

    Augmented by `recipe.StreamedCrops`. The first 10,000 examples are held out. Each process reads its own shards; resuming
    reads on from the epoch's beginning, exactly, but it takes as long as reading does. Raises ModuleNotFoundError with
    what to install where `datasets` is missing.
    """

    def __init__(self, recipe: Recipe, seed: int, device: torch.device):
        try:
            import datasets
            from datasets.distributed import split_dataset_by_node
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{recipe.data} is streamed with the `datasets` package: pip install datasets; "
                f"or put the pictures into a folder and use data = \"imagenet\""
            ) from error
        self.recipe, self.seed, self.device = recipe, seed, device
        self.augment, self.spec = crops(recipe)
        name = recipe.data.removeprefix("hf:")
        self.source = datasets.load_dataset(name, recipe.augment.configuration, split="train", streaming=True)
        self.split = split_dataset_by_node
        splits = getattr(self.source.info, "splits", None) or {}
        count = recipe.augment.examples or getattr(splits.get("train"), "num_examples", None)
        if not count:
            raise ValueError(f"the Hub does not tell how many examples {name} has: give augment.examples")
        self.heldout_count = min(FOLDER_HOLDOUT, count // 10)
        self.per_epoch = (count - self.heldout_count) // recipe.batch
        self.buffer = recipe.augment.buffer
        self._examples, self._next = None, None

    def train(self, step: int, rank: int, world: int) -> Batch:
        """The rank's share of batch number `step`; any step but the next one reads the epoch from its beginning."""
        epoch, position = divmod(step, self.per_epoch)
        share = self.recipe.batch // world
        if position == 0 or self._next != (step, rank, world):
            self._examples = self._epoch(epoch, rank, world, position * share)
        self._next = (step + 1, rank, world)
        pixels, labels = [], []
        for i in range(position * share, (position + 1) * share):
            example = next(self._examples)
            pixels.append(_random_crop(example["image"], self.augment, (self.seed, epoch, rank, i)))
            labels.append(example["label"])
        return self._to_device(np.stack(pixels)), torch.tensor(labels, device=self.device)

    def heldout(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The rank's part of the first examples of the stream."""
        examples = iter(self.source.take(self.heldout_count))
        for number, start in enumerate(range(0, self.heldout_count, 100)):
            chunk = [next(examples) for _ in range(start, min(start + 100, self.heldout_count))]
            if number % world == rank:
                pixels = np.stack([_centre_crop(example["image"], self.spec) for example in chunk])
                yield self._to_device(pixels), torch.tensor([example["label"] for example in chunk], device=self.device)

    def _epoch(self, epoch: int, rank: int, world: int, start: int) -> Iterator[dict]:
        """The rank's examples from number `start` on. Shards differ in length: who runs out begins again."""
        examples = self.source.skip(self.heldout_count).shuffle(seed=mixed(self.seed, epoch), buffer_size=self.buffer)
        examples = self.split(examples, rank=rank, world_size=world) if world > 1 else examples
        once = examples.skip(start)
        while True:
            empty = True
            for example in once:
                empty = False
                yield example
            if empty and once is examples:
                raise datasets.DataUnavailable(f"{self.recipe.data}: process {rank} of {world} finds no examples in its part")
            once = examples

    def _to_device(self, pixels: np.ndarray) -> torch.Tensor:
        planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        return preprocessing.normalise(self.spec, planes.to(self.device))


class _Pictures(torch.utils.data.Dataset):
    """(number, crop seed or None) -> pixels uint8 (3, size, size), label. Lives in the worker processes."""

    def __init__(self, folder: datasets.ImageFolder, augment: dict):
        self.folder, self.augment = folder, augment

    def __getitem__(self, key: tuple[int, tuple[int, ...] | None]) -> tuple[torch.Tensor, int]:
        number, seed = key
        image, label = self.folder[number]
        pixels = _random_crop(image, self.augment, seed) if seed is not None else _centre_crop(image, self.augment["spec"])
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), label


def _random_crop(image, augment: dict, seed: tuple[int, ...]) -> np.ndarray:
    """A random part of a PIL image, resized and perhaps mirrored: uint8 (size, size, 3), a function of `seed`.

    Area and shape of the part are drawn as in torchvision's RandomResizedCrop (Szegedy et al. 2015, section 6).
    """
    from PIL import Image

    draw = np.random.default_rng(seed)
    image = image.convert("RGB")
    width, height = image.size
    low, high = (math.log(r) for r in augment["ratio"])
    for _ in range(10):
        area = width * height * draw.uniform(*augment["area"])
        ratio = math.exp(draw.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.integers(0, width - w + 1)), int(draw.integers(0, height - h + 1))
            break
    else:  # a picture of extreme shape: its centre
        w, h = min(width, round(height * augment["ratio"][1])), min(height, round(width / augment["ratio"][0]))
        left, top = (width - w) // 2, (height - h) // 2
    size = (augment["size"], augment["size"])
    image = image.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
    if augment["flip"] and draw.integers(2):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(image)


def _centre_crop(image, spec: preprocessing.Preprocessing) -> np.ndarray:
    return np.array(preprocessing.resize_and_crop(spec, image))


def crops(recipe: Recipe) -> tuple[dict, preprocessing.Preprocessing]:
    """"size", "area", "ratio" and "flip" of random crops, and the evaluation's preprocessing at the same size."""
    augment = recipe.augment.model_dump(include=set(Crops.model_fields))
    augment["size"] = augment["size"] or networks.spec(recipe.network).input_shape[-1]
    spec = datasets.PREPROCESSINGS[recipe.preprocess]
    return augment, replace(spec, size=augment["size"], resize=round(spec.resize * augment["size"] / spec.size))


def mixed(seed: int, number: int) -> int:
    """A seed below 2^32, all that torch's generator of the CPU takes: another one for each run and number."""
    return (seed * 0x9E3779B1 + number) % 2**32


def permutation(count: int, seed: int, epoch: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(mixed(seed, epoch)))


def _planes(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W[, C]) -> (N, C, H, W)"""
    images = torch.from_numpy(np.array(pixels))
    return images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()


def _workers() -> int:
    """Decoding processes of this training process: ZOO_WORKERS, else its share of the cores, none on a single core."""
    if number := os.environ.get("ZOO_WORKERS"):
        return int(number)
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return cores if cores > 1 else 0
