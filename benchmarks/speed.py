"""Ratios of speed: both sides of each are measured in this run, in turn, on one thread, and the median counts.

The timings are repeated until the median is known to 3 %, or the row says that it is not. Times are CPU times of this
process, so that other work on the machine disturbs them little; `evaluate` takes wall-clock times. Machine, load and
threads are printed with the numbers.

    python -m benchmarks speed                        everything, some ten minutes
    python -m benchmarks speed --only load,codec --entries 'lenet*'

    load      zoo.load of a file        against   building the network and loading safetensors in float32
    codec     million weights a second from bytes to finished float32 weights, and from integers to bytes
    overhead  bytes of a file           against   the ideal code length of its symbols
    memory    peak of zoo.load in a process of its own, over the bytes of the float32 weights
    step      a training step with the rate term against the same step without, and against plain training
    evaluate  what `zoo verify` does with the whole test set   against   a bare forward pass over the same images
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import zoo
from benchmarks.training.versions import versions
from zoo import codec, datasets, files, networks, partitionings, registry
from zoo.codec import Coded

SECTIONS = ("load", "codec", "overhead", "memory", "step", "evaluate")
RECIPES = "lenet300-100-sq,lenet5-caffe-sq,vgg16-dft,resnet20-4-dft"
SYNTHETIC_BITS = 1.3  # a weight, of the synthetic files
LARGE = 1_000_000  # weights from which on memory is measured: below, it drowns in the interpreter's own
SHORTEST = 0.02  # seconds that one timing lasts at least, by repetition
STABLE = 0.03  # of the median: half the width of its confidence interval at which timing ends
MOST = 8  # times as many timings as asked for are made before a median is called unstable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated (default: all)")
    parser.add_argument("--entries", default="*", help="shell pattern of the entries that are timed")
    parser.add_argument("--no-synthetic", action="store_true", help="leave out the synthetic ResNet-50 files")
    parser.add_argument("--recipes", default=RECIPES, help="recipes whose training steps are timed (default: %(default)s)")
    parser.add_argument("--evaluated", default="vgg16-dft", help="entry that `evaluate` measures (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7,
                        help=f"timings of each side, {MOST} times as many where unstable (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all numbers to this file, too")


def main(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    sections = args.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        raise ValueError(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    results: dict[str, list[dict] | dict] = {"machine": machine()}
    print("{processor}, {cores} cores; load {load}; {threads} thread of torch; {versions}".format(**results["machine"]))
    if set(sections) - {"step", "evaluate"}:
        blobs = {name: registry.read(registry.find(name)) for name in registry.ids(args.entries)}
        if not args.no_synthetic:
            blobs["synthetic resnet50, scalar"] = synthetic("resnet50", {})
            blobs["synthetic resnet50, dft"] = synthetic("resnet50", {"convs3x3": "dft"})
        print(f"medians of {args.repeats} timings or more; sizes decimal\n")
        of_files = {"load": load, "codec": speed_of_codec, "overhead": overhead, "memory": memory}
        for section, measure in of_files.items():
            if section in sections:
                rows = (measure(name, blob, args.repeats) for name, blob in blobs.items())
                results[section] = [show(section, row) for row in rows if row]
                print()
    if "step" in sections:
        results["step"] = [show("step", training_step(name, args.repeats)) for name in args.recipes.split(",")]
    if "evaluate" in sections:
        results["evaluate"] = [show("evaluate", evaluation(args.evaluated))]
    print(f"load at the end: {_load()}")
    if args.json:
        results["machine"]["load_at_end"] = _load()
        files.write(args.json, (json.dumps(results, indent=1) + "\n").encode())


def show(section: str, row: dict) -> dict:
    text = {
        "load": "{name}: zoo.load {ours_ms:.2f} ms, safetensors {theirs_ms:.2f} ms: {ratio:.2f} of its time",
        "codec": "{name}: decode {decode:.1f} M weights/s, encode {encode:.1f} M weights/s ({weights:.2f} M weights)",
        "overhead": "{name}: {bytes:,} bytes, ideal code length {ideal:,.0f}, tables {tables:,}, steps {psi:,}, "
        "all else {other:,.0f} ({percent:.2f} %)",
        "memory": "{name}: {peak_mb:.0f} MB at the peak of loading, {ratio:.2f} times its float32 weights",
        "step": "{name}: {rate_ms:.2f} ms a step, without the rate term {no_rate_ms:.2f} ms: the term adds "
        "{share:.0%}; plain training {plain_ms:.2f} ms: {of_plain:.2f} of it; {images:.0f} images/s",
        "evaluate": "{name}: verified on {count:,} images in {verify_s:.1f} s, a bare forward pass takes {forward_s:.1f} s: "
        "{ratio:.2f} of it",
    }[section]
    doubt = ""
    if row.get("spread", 0.0) > STABLE:
        doubt = "; NOT STABLE: the median is known to {spread:.0%} after {timings} timings".format(**row)
    print(f"{section:<9}{text.format(**row)}{doubt}")
    sys.stdout.flush()
    return row


def machine() -> dict:
    """What the numbers of a run depend on: processor, cores, load, threads of torch, versions."""
    import torch

    made_by = ", ".join(f"{name} {version}" for name, version in versions().items())
    return {"processor": _processor(), "cores": os.cpu_count(), "load": _load(), "threads": torch.get_num_threads(),
            "kernels": torch.backends.cpu.get_cpu_capability(), "system": platform.platform(), "versions": made_by}  # fmt: skip


def _processor() -> str:
    """Its model, where the system tells it; else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _load() -> str:
    """Processes that run or wait, this one included: means over 1, 5 and 15 minutes."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "not known"


@dataclass(frozen=True)
class Race:
    """Median seconds of each side; how well the least certain of them is known; timings of each side."""

    seconds: dict[str, float]
    spread: float
    timings: int

    @property
    def certainty(self) -> dict[str, float | int]:
        """The columns of a row that say how far to trust it."""
        return {"spread": self.spread, "timings": self.timings}


def race(
    sides: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] | None = None, most: int = MOST
) -> Race:
    """Times the sides in turn, so that a busy moment of the machine meets all of them; CPU seconds by default.

    After `repeats` timings of each, more follow until each median is known to STABLE, at most `most` times as many.
    """
    clock = clock or time.process_time
    counts, times = {}, {name: [] for name in sides}
    for name, side in sides.items():  # also warms up
        start = clock()
        side()
        counts[name] = max(1, round(SHORTEST / max(1e-9, clock() - start)))
    for timing in range(1, most * repeats + 1):
        for name, side in sides.items():
            start = clock()
            for _ in range(counts[name]):
                side()
            times[name].append((clock() - start) / counts[name])
        if timing >= repeats and max(map(uncertainty, times.values())) <= STABLE:
            break
    medians = {name: statistics.median(values) for name, values in times.items()}
    return Race(medians, max(map(uncertainty, times.values())), timing)


def uncertainty(values: Sequence[float]) -> float:
    """Half the width of the median's 95 % interval, over the median; from the order of the values alone."""
    ordered, n = sorted(values), len(values)
    margin = 0.98 * math.sqrt(n)  # ranks: 1.96 standard deviations of a binomial count with n trials at 1/2
    low, high = math.floor((n - 1) / 2 - margin), math.ceil((n - 1) / 2 + margin)
    return (ordered[min(n - 1, high)] - ordered[max(0, low)]) / 2 / max(1e-9, statistics.median(ordered))


def load(name: str, blob: bytes, repeats: int) -> dict:
    """From a file on disk to a network in eval mode: ours, and build + load_file + load_state_dict of safetensors."""
    from safetensors.torch import load_file, save_file

    network = zoo.from_bytes(blob)
    kind = codec.read_header(blob).network
    with tempfile.TemporaryDirectory() as folder:
        zoo_file, safetensors_file = Path(folder, "model.zoo"), Path(folder, "model.safetensors")
        zoo_file.write_bytes(blob)
        save_file(network.state_dict(), safetensors_file)

        def from_safetensors():
            network = networks.build(kind)
            network.load_state_dict(load_file(safetensors_file))
            return network.eval()

        result = race({"ours": lambda: zoo.load(zoo_file), "theirs": from_safetensors}, repeats)
    times = {f"{side}_ms": 1e3 * value for side, value in result.seconds.items()}
    return {"name": name, **times, "ratio": times["ours_ms"] / times["theirs_ms"], **result.certainty}


def speed_of_codec(name: str, blob: bytes, repeats: int) -> dict:
    """Decoding ends with float32 tensors, checksum and all; encoding begins with integers and fits the tables."""
    header, groups = zoo.decode(blob)

    def decode():
        header, groups = codec.decode(blob, partitionings.layout, narrow=True)  # as zoo.load does
        return partitionings.join(header, groups, consume=True)

    result = race({"decode": decode, "encode": lambda: zoo.encode(header.network, header.partitioning, groups)}, repeats)
    weights = sum(group.phi.size for group in groups.values()) / 1e6
    rates = {side: weights / value for side, value in result.seconds.items()}
    return {"name": name, "weights": weights, **rates, **result.certainty}


def overhead(name: str, blob: bytes, repeats: int = 1) -> dict:
    """Where the bytes go: symbols at their ideal length, tables, steps, and other bytes (header, checksum, last words)."""
    _, breakdown = codec.anatomy(blob, partitionings.layout)
    ideal = sum(group.ideal_bits for group in breakdown) / 8
    tables, psi = sum(group.table_bytes for group in breakdown), sum(group.psi_bytes for group in breakdown)
    other = len(blob) - ideal - tables - psi
    return {
        "name": name, "bytes": len(blob), "ideal": ideal, "tables": tables, "psi": psi, "other": other,
        "percent": 100 * other / len(blob),
    }  # fmt: skip


def memory(name: str, blob: bytes, repeats: int = 1) -> dict | None:
    """What loading adds to a process that has imported everything, at its peak; None for small networks."""
    weights = codec.read_header(blob).parameters
    if weights < LARGE:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.zoo")
        path.write_bytes(blob)
        process = subprocess.run([sys.executable, "-c", _PEAK, str(path)], check=True, capture_output=True, text=True)
    return {"name": name, "peak_mb": int(process.stdout) / 1e6, "ratio": int(process.stdout) / (4 * weights)}


# VmHWM where there is one: ru_maxrss of a new process may begin at its parent's.
_PEAK = """
import resource, sys, zoo, zoo.verify, torch

def peak():
    if sys.platform == "linux":
        lines = open("/proc/self/status").read().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

torch.set_num_threads(1)
zoo.networks.build("lenet300-100")
before = peak()
network = zoo.load(sys.argv[1])
print(peak() - before)
"""


def synthetic(network: str, decoders: Mapping[str, str], bits: float = SYNTHETIC_BITS, seed: int = 0) -> bytes:
    """A file of the network with Laplace-shaped integers of `bits` entropy a weight; groups are scalar if not named."""
    from zoo import reparam

    draw = np.random.default_rng(seed)
    values, probabilities = np.arange(-40, 41), _laplace(bits)
    groups = {}
    for group in partitionings.get(network).groups:
        decoder = decoders.get(group.name, "scalar")
        columns = reparam.columns(decoder, group.shapes[0])
        phi = draw.choice(values, size=(columns, group.size // columns), p=probabilities).astype(np.int32).T
        groups[group.name] = Coded(decoder, "static", phi, {"scale": np.full((1, columns), 2.0**-6, np.float32)})
    return zoo.encode(network, "paper", groups)


def _laplace(bits: float) -> np.ndarray:
    """Probabilities p of -40..40, two-sided geometric, with that entropy in bits."""
    low, high = 1e-3, 0.99
    for _ in range(60):
        decay = (low + high) / 2
        p = decay ** np.abs(np.arange(-40.0, 41.0))
        p /= p.sum()
        low, high = (decay, high) if -(p * np.log2(p)).sum() < bits else (low, decay)
    return p


def training_step(name: str, repeats: int) -> dict:
    """Steps of a recipe with its rate term, of the same without it, and of plain training of the whole network.

    The batches, the precision and the teacher are the recipe's; plain training has no teacher, and no channel removed.
    """
    from benchmarks.training import recipe as recipes
    from benchmarks.training.loop import Run

    recipe = recipes.read(name)
    steps = 40 if datasets.get(recipe.dataset).size < 32 else 4  # a multiple of `rate_every`
    compressed = Run(recipe, 0)
    changes = {"method": "plain", "options": {}, "warm_start": "", "teacher": "", "features": 0.0, "stages": [], "keep": {}}
    plain = Run(recipes.from_dict(recipe.plain() | changes), 0)
    rate_term = compressed.method.regularise

    def some_steps(training: Run, rate: bool) -> Callable[[], None]:
        def side() -> None:
            if training is compressed:
                compressed.method.regularise = rate_term if rate else lambda step, generator: None
            for _ in range(steps):
                training.train_step()

        return side

    sides = {"rate": some_steps(compressed, True), "no_rate": some_steps(compressed, False), "plain": some_steps(plain, False)}
    result = race(sides, repeats)
    ms = {f"{side}_ms": 1e3 * value / steps for side, value in result.seconds.items()}
    share = ms["rate_ms"] / ms["no_rate_ms"] - 1
    images = 1e3 * recipe.batch / ms["rate_ms"]
    of_plain = ms["rate_ms"] / ms["plain_ms"]
    return {"name": recipe.id, **ms, "share": share, "of_plain": of_plain, "images": images, **result.certainty}


def evaluation(name: str) -> dict:
    """Wall-clock seconds of all that verifying an entry takes, against its network's forward pass alone."""
    import torch

    from zoo import datasets, verify

    network, entry = zoo.load(name), registry.find(name)
    images, transform = datasets.load(entry.dataset, "test"), zoo.transforms(name)
    ready = transform(images.pixels).split(datasets.get(entry.dataset).batch)

    def forward() -> None:
        with torch.inference_mode():
            for batch in ready:
                network(batch)

    sides = {"forward": forward, "verify": lambda: list(verify.verify([name], progress=False))}
    result = race(sides, 3, time.perf_counter, most=1)  # each takes long
    times = {f"{side}_s": value for side, value in result.seconds.items()}
    return {"name": name, "count": len(images), **times, "ratio": times["verify_s"] / times["forward_s"], **result.certainty}
