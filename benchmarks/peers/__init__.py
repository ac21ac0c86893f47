"""Other codecs and formats beside this one on the same weights: bytes, answers that change, seconds to encode and to load.

    python -m benchmarks peers lenet5-caffe-ref --pictures mnist --out benchmarks/results/peers.csv
    python -m benchmarks peers weights.safetensors --network timm/resnet18:10 --preprocessing cifar10 --pictures cifar10

Every peer runs in an environment of its own, made on first use in the cache, with torch from here; one that does not install is
skipped with a sentence. All are measured in one run, on one thread, on pictures that calibrated none of them. Rows that the
table has already are not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import zoo
from benchmarks.peers import peer
from benchmarks.report import curve
from zoo import datasets, files, loading, named, registry
from zoo.compress import checkpoints, command
from zoo.compress.command import Pictures
from zoo.errors import ZooError

# What each environment installs; "" is the one that this command runs in.
ENVIRONMENTS = {
    "": (),
    "zstandard": ("zstandard==0.25.0",),
    "nncodec": ("numpy<2", "nncodec==2.1.3"),
    "torchao": ("torchao==0.14.1",),
}
PEERS = (  # environment, method of peer.py, setting, what it is called
    ("", "half", "", "safetensors, float16"),
    ("", "int8", "", "safetensors, int8 a row"),
    ("zstandard", "zstd", "float32", "zstd -19 of float32"),
    ("zstandard", "zstd", "int8", "zstd -19 of int8 a row"),
    ("torchao", "torchao", "", "torchao, int8 dense layers"),
    ("nncodec", "nncodec", "-32", "NNCodec 2.1, qp -32"),
    ("nncodec", "nncodec", "-28", "NNCodec 2.1, qp -28"),
    ("nncodec", "nncodec", "-24", "NNCodec 2.1, qp -24"),
    ("nncodec", "nncodec", "-20", "NNCodec 2.1, qp -20"),
)
OURS = (  # bits a number (None: exact), whether pictures calibrate
    (None, False), (8.0, False), (5.0, False), (4.0, False), (3.0, False), (4.0, True), (3.0, True), (2.0, True),
)  # fmt: skip
FIELDS = ("weights", "codec", "bytes", "pictures", "errors", "errors_before", "agreement", "encode_seconds", "load_seconds")
CALIBRATION = 300


class Subject:
    """Weights of a network, and pictures on which its answers before and after are compared."""

    def __init__(self, name: str, network: torch.nn.Module, pictures: Pictures, calibration: Pictures):
        self.name, self.network, self.pictures, self.calibration = name, network.eval(), pictures, calibration
        self.before = pictures.answers(network)
        state = network.state_dict()
        self.floats = {n: t.float().numpy() for n, t in state.items() if t.is_floating_point()}

    def row(self, codec: str, size: int, network: torch.nn.Module, encode: float, load: float) -> dict[str, str]:
        after, labels = self.pictures.answers(network), self.pictures.labels
        errors = ["", ""] if labels is None else [int((answers != labels).sum()) for answers in (after, self.before)]
        agreement = int((after == self.before).sum())
        values = (self.name, codec, size, len(after), *errors, agreement, f"{encode:.2f}", f"{load:.3f}")
        return dict(zip(FIELDS, map(str, values), strict=True))


def subject(args: argparse.Namespace) -> Subject:
    """Of an entry, or of a checkpoint whose network is named."""
    if args.network:
        state, spec = checkpoints.read(args.weights).state, datasets.preprocessing(args.preprocessing)
        network = named.module(args.network, command.complete(state, args.network))
    else:
        network, spec = zoo.load(args.weights), loading.preprocessing(registry.read(registry.locate(args.weights)))
    read = command.read_pictures(args.pictures, spec, args.images + CALIBRATION)
    halves = [Pictures(read.pixels[chosen], None if read.labels is None else read.labels[chosen], read.spec)
             for chosen in (slice(CALIBRATION, None), slice(CALIBRATION))]  # fmt: skip
    return Subject(Path(args.weights).stem, network, *halves)


def by_zoo(tested: Subject, bits: float | None, calibrated: bool) -> tuple[str, Callable[[], dict[str, str]]]:
    """Name of this zoo's codec at so many bits a number, and the function that measures its row."""
    name = "zoo, exact" if bits is None else f"zoo, {bits:g} bits" + (f", {CALIBRATION} pictures" if calibrated else "")

    def measure() -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            path, start = Path(folder) / "small.zoo", time.perf_counter()
            size = zoo.save(tested.network, path, bits=bits, calibration=tested.calibration if calibrated else None)
            encoded = time.perf_counter()
            state = zoo.load_state_dict(path)
            seconds = time.perf_counter() - encoded
        network = copy.deepcopy(tested.network)
        network.load_state_dict(state)
        return tested.row(name, size, network, encoded - start, seconds)

    return name, measure


def by_peer(
    tested: Subject, environment: str, method: str, setting: str, name: str
) -> tuple[str, Callable[[], dict[str, str]]]:
    """Name of another codec, and the function that measures its row."""

    def measure() -> dict[str, str]:
        python = interpreter(environment)
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "weights.npz", **tested.floats)
            script = str(Path(peer.__file__).resolve())
            process = run([python, script, method, setting or "-", "weights.npz", "decoded.npz"], folder)
            try:
                answer = json.loads(process.stdout.strip().splitlines()[-1])
                with np.load(Path(folder) / "decoded.npz") as decoded:
                    arrays = {key: torch.from_numpy(decoded[key]) for key in decoded.files}
            except (IndexError, ValueError, OSError) as error:
                raise ZooError(f"it ended with {_last_line(process.stderr)}") from error
        network = copy.deepcopy(tested.network)
        network.load_state_dict(arrays, strict=False)
        return tested.row(name, answer["bytes"], network, answer["encode"], answer["load"])

    return name, measure


def interpreter(environment: str) -> str:
    """The Python that has these packages, which are installed on first use. Raises ZooError where that fails."""
    packages = ENVIRONMENTS[environment]
    if not packages:
        return sys.executable
    folder = datasets.cache_folder() / "peers" / environment
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    if mark.is_file() and mark.read_text() == "\n".join(packages):
        return str(python)
    print(f"installing {', '.join(packages)} in {folder}")
    venv.create(folder, with_pip=True, clear=True)
    inside = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip()
    # torch and numpy are those of this environment, unless the peer brings its own: a .pth comes last.
    (Path(inside) / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages])
    if done.returncode:
        raise ZooError(f"{', '.join(packages)} does not install: {_last_line(done.stderr)}")
    files.write(mark, "\n".join(packages).encode())
    return str(python)


def run(arguments: list[str], folder: str | None = None) -> subprocess.CompletedProcess:
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | one
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1]


def table(rows: list[dict[str, str]]) -> str:
    """Markdown, for each set of weights the largest files first."""
    lines = []
    for weights in dict.fromkeys(row["weights"] for row in rows):
        chosen = sorted((row for row in rows if row["weights"] == weights), key=lambda row: -int(row["bytes"]))
        first = chosen[0]
        before = f"; uncompressed {first['errors_before']} wrong" if first["errors_before"] else ""
        lines += [f"`{weights}`, {int(first['pictures']):,} pictures{before}:", "",
                  "| codec | bytes | wrong | answered as before | encode, s | load, s |",
                  "|:---|---:|---:|---:|---:|---:|"]  # fmt: skip
        for row in chosen:
            share = 100 * int(row["agreement"]) / int(row["pictures"])
            lines.append(f"| {row['codec']} | {int(row['bytes']):,} | {row['errors'] or '-'} | {share:.1f} % | "
                         f"{row['encode_seconds']} | {row['load_seconds']} |")  # fmt: skip
        lines.append("")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", help="an entry or model file of this zoo, or a checkpoint with --network")
    parser.add_argument("--network", help="what the checkpoint is of: a zoo name, timm/NAME or torchvision/NAME")
    names = datasets.PREPROCESSINGS
    parser.add_argument("--preprocessing", choices=names, default=datasets.IMAGENET.name, help="of a checkpoint's pictures")
    parser.add_argument("--pictures", required=True, help="folder of pictures, in class folders if their classes are known; or a "
                        "data set to download, for the last ones of its training set")  # fmt: skip
    parser.add_argument("--images", type=int, default=1000, help="pictures to measure on at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/peers.csv"), help="table (default: %(default)s)")


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    tested = subject(args)
    for name, measure in [*(by_peer(tested, *setting) for setting in PEERS), *(by_zoo(tested, *setting) for setting in OURS)]:
        rows = curve.kept(args.out)
        if any((row["weights"], row["codec"]) == (tested.name, name) for row in rows):
            continue
        try:
            row = measure()
        except (ZooError, ValueError) as error:
            print(f"{name}: skipped, {error}")
            continue
        print(f"{name}: {int(row['bytes']):,} bytes, {row['agreement']} of {row['pictures']} as before")
        rows = curve.kept(args.out)  # others may have written meanwhile
        rows.append(row)
        files.write(args.out, curve.text(FIELDS, rows).encode())
        files.write(args.out.with_suffix(".md"), table(rows).encode())
