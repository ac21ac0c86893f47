"""Networks of other libraries, trained for minutes, made small: answers before and after, with and without pictures.

    python -m benchmarks others --out benchmarks/results/others.csv

    CIFAR-10's training set --a few minutes--> weights --zoo.save(bits=...)-----------------> plain rounding
                                                  '----zoo.save(bits=..., calibration=...)--> second-order rounding

The networks are timm's under the names that it lists, and a transformer of characters without any library. They are trained on
all but the last 5,000 pictures (a text: its first nine tenths), for minutes alone, and measured on 2,000 of these; calibration
takes pictures of training, or some that are made from batch normalisation. Weights and rows of the table are kept: a stopped
run goes on. On one slow core: an hour for everything.
"""

from __future__ import annotations

import argparse
import copy
import math
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

import zoo
from benchmarks.report import curve
from zoo import datasets, files, named, preprocessing
from zoo.compress import bn, synthesis, tensors
from zoo.compress.calibration import Examples
from zoo.compress.command import FINE, Pictures

HELD_OUT = 5000  # pictures
MEASURED = 2000  # of these
CALIBRATION = 300  # pictures, or pieces of text
BITS = (8.0, 4.0, 3.0)  # a number
FIELDS = ("network", "numbers", "bits", "rounding", "bytes", "correct", "agreement", "held_out", "correct_before", "seconds")
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
        Case("timm/test_resnet:10", 10_000, 4e-3, 2),
        Case("timm/mobilenetv3_small_050:10", 80_000, 4e-3, 2),
        Case("timm/test_convnext:10", 20_000, 4e-3, 2),
        Case("timm/test_vit:10", 5_000, 2e-3, 5),
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
        heads = self.qkv(self.norm1(x)).reshape(b, t, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, heads, T, width / heads) each
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, width)
        x = x + self.out(mixed)
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


@dataclass(frozen=True)
class Task:
    """What a case is trained and measured on. synthetic: makes inputs from a network's batch normalisation."""

    build: Callable[[], nn.Module]
    batches: Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]  # so many examples -> inputs, labels
    calibration: Examples
    held_out: Examples
    labels: torch.Tensor
    synthetic: Callable[[nn.Module], Examples] | None = None


def pictures(case: Case) -> Task:
    """CIFAR-10, as `Case` has it."""
    data, base = datasets.load(datasets.CIFAR10.name, "train"), datasets.preprocessing(datasets.CIFAR10.name)
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

    def seen(first: int, count: int) -> Pictures:
        return Pictures(np.asarray(data.pixels[first : first + count]), None, spec)

    def synthetic(network: nn.Module) -> Pictures:
        made, _ = synthesis.pictures(network, spec, CALIBRATION)
        return Pictures(made, None, spec)

    first = len(pixels) - HELD_OUT
    return Task(lambda: named.build(case.name), batches, seen(first - CALIBRATION, CALIBRATION), seen(first, MEASURED),
                labels[first : first + MEASURED], synthetic)  # fmt: skip


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


@torch.inference_mode()
def answers(network: nn.Module, task: Task) -> torch.Tensor:
    """int64 (N,) or (N, T): the class of the largest output for each held-out example."""
    size = 50
    return torch.cat([network(task.held_out[i : i + size]).argmax(-1) for i in range(0, len(task.held_out), size)])


def measure(case: Case, work: Path, path: Path, bits_each: Sequence[float] = BITS) -> None:
    """Adds the rows that the table at `path` lacks of the case."""
    task = (pictures if "/" in case.name else characters)(case)
    network = train(case, task, work / f"{case.name.replace('/', '-').replace(':', '-')}.safetensors")
    before = answers(network, task)
    correct = int((before == task.labels).sum())
    numbers = sum(tensor.numel() for tensor in {id(t): t for t in network.state_dict(keep_vars=True).values()}.values())
    print(f"{case.name}: {numbers:,} numbers, {correct} of {before.numel()} right")
    calibrations = {"plain": None, "second order": lambda: task.calibration}
    if task.synthetic and bn.layers(network):
        calibrations["second order, synthetic"] = lambda: task.synthetic(network)
    for name, calibration in calibrations.items():
        examples = None
        for bits in bits_each:
            rows = curve.kept(path)
            same = [r for r in rows if (r["network"], float(r["bits"]), r["rounding"]) == (case.name, bits, name)]
            if same or (calibration and bits > FINE):  # finer than that, plain rounding is as good as exact
                continue
            if calibration and examples is None:
                examples = calibration()
            file, start = work / "small.zoo", time.perf_counter()
            size = zoo.save(network, file, bits=bits, calibration=examples)
            seconds = time.perf_counter() - start
            after = answers(zoo.load(file, into=copy.deepcopy(network)), task)
            right, agreement = int((after == task.labels).sum()), int((after == before).sum())
            values = (case.name, numbers, f"{bits:g}", name, size, right, agreement, before.numel(), correct, f"{seconds:.0f}")
            rows = curve.kept(path)  # others may have written meanwhile
            rows.append(dict(zip(FIELDS, map(str, values), strict=True)))
            print(f"{name}, {bits:g} bits: {size:,} bytes, {rows[-1]['correct']} right, {rows[-1]['agreement']} as before")
            files.write(path, curve.text(FIELDS, rows).encode())
            files.write(path.with_suffix(".md"), table(rows).encode())


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: right answers before and after, and how many are as before."""
    order = {name: number for number, name in enumerate(CASES)}
    rows = sorted(rows, key=lambda r: (order[r["network"]], -float(r["bits"]), r["rounding"]))
    lines = ["| network | numbers | bits a number | rounding | bytes | right before | right after | as before |",
             "|:---|---:|---:|:---|---:|---:|---:|---:|"]  # fmt: skip
    for r in rows:
        share = {key: f"{100 * int(r[key]) / int(r['held_out']):.1f} %" for key in ("correct", "agreement", "correct_before")}
        lines.append(f"| `{r['network']}` | {int(r['numbers']):,} | {r['bits']} | {r['rounding']} | {int(r['bytes']):,} | "
                     f"{share['correct_before']} | {share['correct']} | {share['agreement']} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="NETWORK", help=", ".join(CASES))
    parser.add_argument("--bits", type=float, nargs="+", default=BITS, help="a number (default: 8 4 3)")
    parser.add_argument("--out", type=Path, default=Path("runs/others/others.csv"), help="table (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/others"), help="trained weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    for name in args.only:
        measure(CASES[name], args.work, args.out, args.bits)
