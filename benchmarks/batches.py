"""Batches of a recipe's training set as a function of (seed, step), and its held-out part."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.recipe import Recipe
from zoo import data, preprocessing


def open_(recipe: Recipe, seed: int, device: torch.device):
    """Batches of the recipe's data set."""
    return Resident(recipe, seed, device)


class Resident:
    """A data set that fits into memory as uint8: MNIST and CIFAR-10.

    augment: {"shift": s} moves each image by up to s pixels (zeros come in).
    """

    def __init__(self, recipe: Recipe, seed: int, device: torch.device):
        train, heldout = data.holdout_split(data.load(recipe.dataset, "train"))
        self.recipe, self.seed, self.device = recipe, seed, device
        prepare = preprocessing.preprocess(recipe.dataset)
        self.images = prepare(train.pixels).to(device)  # (N, C, H, W) float32
        self.labels = torch.as_tensor(train.labels, dtype=torch.int64, device=device)
        self.heldout_images = prepare(heldout.pixels).to(device)
        self.heldout_labels = torch.as_tensor(heldout.labels, dtype=torch.int64, device=device)
        self.heldout_count = len(heldout)
        self.shift = recipe.augment.get("shift", 0)
        if unknown := set(recipe.augment) - {"shift"}:
            raise ValueError(f"unknown augmentation {sorted(unknown)}; known: shift")
        if self.shift:
            black = float(prepare(train.pixels[:1] * 0)[0, 0, 0, 0])
            self.images = torch.nn.functional.pad(self.images, [self.shift] * 4, value=black)
        self._epoch, self._order = -1, None

    def train(self, step: int, rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rank's equal share of batch number `step`: images (B, C, H, W), labels (B,)."""
        batch = self.recipe.batch
        per_epoch = len(self.labels) // batch
        epoch, position = divmod(step, per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed << 32) + epoch)
            self._order, self._epoch = torch.randperm(len(self.labels), generator=generator).to(self.device), epoch
        share = batch // world
        start = position * batch + rank * share
        index = self._order[start : start + share]
        images = self.images[index]
        if self.shift:
            generator = torch.Generator().manual_seed((self.seed << 32) + (step << 8) + rank)
            images = self._crop(images, torch.randint(0, 2 * self.shift + 1, (2, share), generator=generator).to(self.device))
        return images, self.labels[index]

    def heldout(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, self.heldout_count, 1000):
            yield self.heldout_images[start : start + 1000], self.heldout_labels[start : start + 1000]

    def _crop(self, images: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
        """The window of the original size at each image's own corner (2, B)."""
        count, channels, height, width = images.shape
        h, w = height - 2 * self.shift, width - 2 * self.shift
        rows = corner[0][:, None] + torch.arange(h, device=self.device)  # (B, h)
        columns = corner[1][:, None] + torch.arange(w, device=self.device)  # (B, w)
        index = (rows[:, :, None] * width + columns[:, None, :]).reshape(count, 1, h * w).expand(-1, channels, -1)
        return images.flatten(2).gather(2, index).reshape(count, channels, h, w)
