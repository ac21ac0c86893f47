"""Ratios of speed: both sides of each are measured in this run, in turn, on one thread, and the median counts.

Times are CPU times of this process, so that other work on the machine disturbs them little; `evaluate` takes wall-clock
times.

    python -m benchmarks speed                        everything, about two minutes
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
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

import zoo
from zoo import codec, networks, partitionings, registry
from zoo.codec import Coded

SECTIONS = ("load", "codec", "overhead", "memory", "step", "evaluate")
RECIPES = "lenet300-100-sq,lenet5-caffe-sq,vgg16-dft,resnet20-4-dft"
SYNTHETIC_BITS = 1.3  # a weight, of the synthetic files
LARGE = 1_000_000  # weights from which on memory is measured: below, it drowns in the interpreter's own
SHORTEST = 0.02  # seconds that one timing lasts at least, by repetition


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated (default: all)")
    parser.add_argument("--entries", default="*", help="shell pattern of the entries that are timed")
    parser.add_argument("--no-synthetic", action="store_true", help="leave out the synthetic ResNet-50 files")
    parser.add_argument("--recipes", default=RECIPES, help="recipes whose training steps are timed (default: %(default)s)")
    parser.add_argument("--evaluated", default="vgg16-dft", help="entry that `evaluate` measures (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each side (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write all numbers to this file, too")


def main(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    wanted = args.only.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        raise ValueError(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    results: dict[str, list[dict]] = {}
    if set(wanted) - {"step", "evaluate"}:
        files = {name: registry.read(registry.find(name)) for name in registry.ids(args.entries)}
        if not args.no_synthetic:
            files["synthetic resnet50, scalar"] = synthetic("resnet50", {})
            files["synthetic resnet50, dft"] = synthetic("resnet50", {"convs3x3": "dft"})
        print(f"one thread, median of {args.repeats}; sizes decimal\n")
        of_files = {"load": load, "codec": speed_of_codec, "overhead": overhead, "memory": memory}
        for section, measure in of_files.items():
            if section in wanted:
                rows = (measure(name, blob, args.repeats) for name, blob in files.items())
                results[section] = [show(section, row) for row in rows if row]
                print()
    if "step" in wanted:
        results["step"] = [show("step", training_step(name, args.repeats)) for name in args.recipes.split(",")]
    if "evaluate" in wanted:
        results["evaluate"] = [show("evaluate", evaluation(args.evaluated))]
    if args.json:
        registry.write(args.json, (json.dumps(results, indent=1) + "\n").encode())


def show(section: str, row: dict) -> dict:
    text = {
        "load": "{name}: zoo.load {ours_ms:.2f} ms, safetensors {theirs_ms:.2f} ms: {ratio:.2f} of its time",
        "codec": "{name}: decode {decode:.1f} M weights/s, encode {encode:.1f} M weights/s ({weights:.2f} M weights)",
        "overhead": "{name}: {bytes:,} bytes, ideal code length {ideal:,.0f}, tables {tables:,}, steps {psi:,}, "
        "all else {rest:,.0f} ({percent:.2f} %)",
        "memory": "{name}: {peak_mb:.0f} MB at the peak of loading, {ratio:.2f} times its float32 weights",
        "step": "{name}: {rate_ms:.2f} ms a step, without the rate term {no_rate_ms:.2f} ms: the term adds "
        "{share:.0%}; plain training {plain_ms:.2f} ms: {of_plain:.2f} of it; {images:.0f} images/s",
        "evaluate": "{name}: verified on {count:,} images in {verify_s:.1f} s, a bare forward pass takes {forward_s:.1f} s: "
        "{ratio:.2f} of it",
    }[section]
    print(f"{section:<9}{text.format(**row)}")
    sys.stdout.flush()
    return row


def race(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each side, timed in turn so that a busy moment of the machine meets all of them."""
    counts, times = {}, {name: [] for name in sides}
    for name, side in sides.items():  # also warms up
        start = time.process_time()
        side()
        counts[name] = max(1, round(SHORTEST / max(1e-9, time.process_time() - start)))
    for _ in range(repeats):
        for name, side in sides.items():
            start = time.process_time()
            for _ in range(counts[name]):
                side()
            times[name].append((time.process_time() - start) / counts[name])
    return {name: statistics.median(values) for name, values in times.items()}


def load(name: str, blob: bytes, repeats: int) -> dict:
    """From a file on disk to a network in eval mode: ours, and build + load_file + load_state_dict of safetensors."""
    from safetensors.torch import load_file, save_file

    network = zoo.from_bytes(blob)
    kind = codec.read_header(blob).network
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "model.zoo"), Path(folder, "model.safetensors")
        ours.write_bytes(blob)
        save_file(network.state_dict(), theirs)

        def from_safetensors():
            network = networks.build(kind)
            network.load_state_dict(load_file(theirs))
            return network.eval()

        seconds = race({"ours": lambda: zoo.load(ours), "theirs": from_safetensors}, repeats)
    times = {f"{side}_ms": 1e3 * value for side, value in seconds.items()}
    return {"name": name, **times, "ratio": seconds["ours"] / seconds["theirs"]}


def speed_of_codec(name: str, blob: bytes, repeats: int) -> dict:
    """Decoding ends with float32 tensors, checksum and all; encoding begins with integers and fits the tables."""
    header, groups = zoo.decode(blob)

    def decode():
        header, groups = codec.decode(blob, partitionings.layout)
        return partitionings.join(header, groups)

    seconds = race({"decode": decode, "encode": lambda: zoo.encode(header.network, header.partitioning, groups)}, repeats)
    weights = sum(group.phi.size for group in groups.values()) / 1e6
    return {"name": name, "weights": weights} | {side: weights / value for side, value in seconds.items()}


def overhead(name: str, blob: bytes, repeats: int = 1) -> dict:
    """Where the bytes go: symbols at their ideal length, tables, steps, and the rest (header, checksum, last words)."""
    _, parts = codec.anatomy(blob, partitionings.layout)
    ideal = sum(part.ideal_bits for part in parts) / 8
    tables, psi = sum(part.table_bytes for part in parts), sum(part.psi_bytes for part in parts)
    rest = len(blob) - ideal - tables - psi
    return {
        "name": name, "bytes": len(blob), "ideal": ideal, "tables": tables, "psi": psi, "rest": rest,
        "percent": 100 * rest / len(blob),
    }  # fmt: skip


def memory(name: str, blob: bytes, repeats: int = 1) -> dict | None:
    """What loading adds to a process that has imported everything, at its peak; None for small networks."""
    weights = codec.read_header(blob).parameters
    if weights < LARGE:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.zoo")
        path.write_bytes(blob)
        done = subprocess.run([sys.executable, "-c", _PEAK, str(path)], check=True, capture_output=True, text=True)
    return {"name": name, "peak_mb": int(done.stdout) / 1e6, "ratio": int(done.stdout) / (4 * weights)}


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
    steps = 40 if recipe.dataset == "mnist" else 4  # a multiple of `rate_every`
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
    ms = {f"{side}_ms": 1e3 * value / steps for side, value in race(sides, repeats).items()}
    share = ms["rate_ms"] / ms["no_rate_ms"] - 1
    images = 1e3 * recipe.batch / ms["rate_ms"]
    return {"name": recipe.id, **ms, "share": share, "of_plain": ms["rate_ms"] / ms["plain_ms"], "images": images}


def evaluation(name: str) -> dict:
    """Wall-clock seconds of all that verifying an entry takes, against its network's forward pass alone."""
    import torch

    from zoo import data, verify

    network, entry = zoo.load(name), registry.find(name)
    images, transform = data.load(entry.dataset, "test"), zoo.transforms(name)
    ready = transform(images.pixels).split(verify.BATCH[entry.dataset])

    def forward() -> None:
        with torch.inference_mode():
            for part in ready:
                network(part)

    seconds = {}
    for side, work in (("forward", forward), ("verify", lambda: list(verify.verify([name])))):
        start = time.perf_counter()
        work()
        seconds[side] = time.perf_counter() - start
    times = {f"{side}_s": value for side, value in seconds.items()}
    return {"name": name, "count": len(images), **times, "ratio": seconds["verify"] / seconds["forward"]}
