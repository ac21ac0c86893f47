"""Networks of other libraries, trained for minutes, made small: answers before and after, with and without pictures.

    python -m benchmarks others --only resnet18 --out benchmarks/results/others.csv

    CIFAR-10's training set --a few minutes--> weights --zoo.save(bits=...)----------------> plain rounding
                                                 '-----zoo.save(bits=..., calibration=...)--> second-order rounding

The networks are timm's under the names that it lists, and a transformer of characters without any library. They are trained on
all but the last 5,000 pictures (a text: its first nine tenths) and measured on these; calibration takes pictures of training.
Weights are kept in the work folder, so that another size costs no training. On one slow core: an hour for everything.
"""

from __future__ import annotations

import argparse
import math
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.report import curve
from zoo import datasets, files, named, preprocessing
from zoo.compress import tensors

HELD_OUT = 5000  # pictures
CALIBRATION = 400  # pictures, or pieces of text
BATCH = 64
LENGTH = 128  # characters of a piece of text
TEXT = 2_000_000  # characters
PIECES = 200  # of the text, on which is measured


@dataclass(frozen=True)
class Case:
    """A network, the examples that it is trained on, and how: pictures enlarged so many times."""

    name: str
    examples: int
    rate: float
    enlarge: int = 1


CASES = {
    case.name: case
    for case in (
        Case("timm/resnet18:10", 40_000, 2e-3),
        Case("timm/mobilenetv3_small_050:10", 80_000, 4e-3, 2),
        Case("timm/convnext_atto:10", 30_000, 2e-3, 2),
        Case("timm/test_vit:10", 50_000, 2e-3, 5),
        Case("characters", 6_000, 3e-3),
    )
}


class Characters(nn.Module):
    """Predicts the next of 128 characters: (B, T) int64 -> (B, T, 128). Three blocks, embedding and output tied."""

    def __init__(self, width: int = 96, blocks: int = 3, heads: int = 4, length: int = LENGTH) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 128, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x) + self.positions[: x.shape[1]]  # (B, T, width)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # (B, T, 128)


class Block(nn.Module):
    """Attention and two dense layers, each after a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # (B, heads, T, width / heads) each
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, width)
        x = x + self.out(mixed)
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


@dataclass(frozen=True)
class Task:
    """What a case is trained and measured on. held_out, calibration: inputs that are sliced along their first side."""

    build: Callable[[], nn.Module]
    batches: Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]  # so many examples -> inputs, labels
    calibration: torch.Tensor
    held_out: torch.Tensor
    labels: torch.Tensor


def pictures(case: Case) -> Task:
    """CIFAR-10, as `Case` has it."""
    data, base = datasets.load("cifar10", "train"), datasets.preprocessing("cifar10")
    spec = preprocessing.Preprocessing(**{**vars(base), "enlarge": case.enlarge})
    pixels = torch.from_numpy(np.asarray(data.pixels).copy()).permute(0, 3, 1, 2).contiguous()  # uint8 (N, 3, 32, 32)
    labels = torch.from_numpy(np.asarray(data.labels, np.int64))

    def batches(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator, order = torch.Generator().manual_seed(0), []
        for _ in range(math.ceil(count / BATCH)):
            while len(order) < BATCH:
                order += torch.randperm(len(pixels) - HELD_OUT, generator=generator).tolist()
            chosen, order = order[:BATCH], order[BATCH:]
            x = F.pad(pixels[chosen], (4, 4, 4, 4))
            top, left, flip = torch.randint(9, (2,), generator=generator).tolist() + [torch.rand((), generator=generator) < 0.5]
            x = x[:, :, top : top + 32, left : left + 32]
            yield preprocessing.normalise(spec, x.flip(3) if flip else x), labels[chosen]

    def seen(some: torch.Tensor) -> torch.Tensor:
        return preprocessing.normalise(spec, some)

    first = len(pixels) - HELD_OUT
    held_out = slice(first, first + 2000)
    return Task(lambda: named.build(case.name), batches, seen(pixels[first - CALIBRATION : first]),
                seen(pixels[held_out]), labels[held_out])  # fmt: skip


def characters(case: Case) -> Task:
    """The sources of Python's library as one text of ASCII characters."""
    texts = (path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    raw = np.frombuffer(b"".join(texts)[:TEXT], np.uint8)
    text = torch.from_numpy(np.where(raw < 128, raw, ord("?")).astype(np.int64))
    split = 9 * len(text) // 10

    def piece(start: torch.Tensor, shift: int = 0) -> torch.Tensor:
        return text[start[:, None] + torch.arange(LENGTH) + shift]

    def batches(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(math.ceil(count / BATCH)):
            start = torch.randint(split - LENGTH - 1, (BATCH,), generator=generator)
            yield piece(start), piece(start, 1)

    calibration = torch.linspace(0, split - LENGTH - 1, CALIBRATION).long()
    held_out = torch.linspace(split, len(text) - LENGTH - 1, PIECES).long()
    return Task(Characters, batches, piece(calibration), piece(held_out), piece(held_out, 1))


def train(case: Case, task: Task, path: Path) -> nn.Module:
    """The trained network, from `path` where it was trained before."""
    torch.manual_seed(0)
    network = task.build()
    if path.is_file():
        network.load_state_dict(tensors.load(path))
        return network.eval()
    steps = math.ceil(case.examples / BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=case.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, case.rate, total_steps=steps, pct_start=0.1)
    bar = tqdm(task.batches(case.examples), total=steps, desc=f"training {case.name}", disable=None)
    for x, labels in bar:
        logits = network(x)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix_str(f"loss {loss.item():.3f}")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors.save(path, {name: tensor.clone() for name, tensor in network.state_dict().items()})  # tied ones, too
    return network.eval()
