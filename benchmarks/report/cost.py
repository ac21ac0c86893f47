"""What a training cost, as its log says: image passes, and minutes of one core.

    train.log: "recipe {json}" ... "seed 0, device cpu, processes 1, threads 2, float32" ... "step 8775, ..., 3860 s"
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from zoo import evidence
from zoo.records import Entry


@dataclass(frozen=True)
class Cost:
    """Of the run that ships, without what its starting weights cost."""

    images: int | None  # forward and backward passes of one image
    core_minutes: float | None  # wall clock times threads, on a CPU
    device: str = "cpu"
    start: str = ""  # id of the entry whose weights it began with

    def __str__(self) -> str:
        phrases = []
        if self.images is not None:
            phrases.append(f"{_count(self.images)} images" if self.images else "no training")
        if self.core_minutes is not None:
            minutes = max(1, round(self.core_minutes))
            unit = "core-minute" if self.device == "cpu" else f"{self.device}-minute"
            phrases.append(f"{'under ' if self.core_minutes < 1 else ''}{minutes} {unit}{'s' * (minutes > 1)}")
        return ", ".join(phrases)


def of(entry: Entry) -> Cost:
    """What the entry's train.log says; empty where there is none."""
    path = None if entry.folder is None else entry.folder / evidence.LOG
    start = (entry.warm_start or "").partition("@")[0]
    if path is None or not path.is_file():
        return Cost(None, None, start=start)
    text = path.read_text(encoding="utf-8")
    if text.startswith("python -m benchmarks compress"):
        return Cost(_calibration(text), None, start=entry.weights_source.source if entry.weights_source else "")
    first = text.partition("\n")[0]
    if not first.startswith("recipe "):
        return Cost(None, None, start=start)
    recipe = json.loads(first.removeprefix("recipe "))
    where = re.search(r"^seed \d+, device (\S+), processes (\d+), threads (\d+)(?:, \w+)?$", text, re.MULTILINE)
    seconds = re.findall(r"^step \d+, .*?(\d+) s$", text, re.MULTILINE)
    if not where or not seconds:
        return Cost(recipe["steps"] * recipe["batch"], None, start=start)
    device, processes, threads = where.group(1), int(where.group(2)), int(where.group(3))
    cores = processes * (threads if device == "cpu" else 1)
    return Cost(recipe["steps"] * recipe["batch"], int(seconds[-1]) * cores / 60, device, start)


def _calibration(text: str) -> int | None:
    """Images times epochs of a `compress` command; its calibration has no backward passes apart from the tuning."""
    words = shlex.split(text.partition("\n")[0])
    options = dict(zip(words, words[1:], strict=False))
    return int(options["--images"]) * max(1, int(options.get("--epochs", 1))) if "--images" in options else None


def _count(images: int) -> str:
    return f"{images / 1e6:.3g} M" if images >= 1e6 else f"{images / 1e3:.3g} k" if images >= 1e4 else f"{images:,}"
