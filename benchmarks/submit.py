"""Make an entry of a result from elsewhere: measured here, once; how it was trained is its authors' word.

A model file that another program wrote with `zoo.encode` or `zoo.save`:

    python -m benchmarks submit mine.zoo --id lenet300-100-mine --method "my method" --paper "A. Author 2026 (arXiv:...)"

A stream in a format of its own, with the weights that its own program decodes from it, in the network's names:

    python -m benchmarks submit mine.bin --decoded mine.safetensors --decoder https://... --network lenet5-caffe --id ...

    FILE.zoo --zoo.measure--> bytes, digests, golden outputs, test errors  -->  artifacts/<id>/
    FILE.bin, weights ──────> length of stream.bin; the errors of the weights, which model.zoo keeps exactly

The second is listed as "measured by its authors' decoder", apart from files that anybody can read here. The test set is used
by this command and no more: choose what you submit on other images.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from dataclasses import replace
from pathlib import Path

from benchmarks import evaluate
from zoo import codec, datasets, files, loading, measurement, mismatch, networks, registry, states
from zoo.errors import CorruptArtifact, NotAnArtifact, ZooError
from zoo.records import Entry

LARGEST = 1 << 28  # bytes of a file that is submitted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a model file, or with --decoded a stream of any format")
    parser.add_argument("--id", required=True, help="of the entry: <network>-<what it is>")
    parser.add_argument("--method", required=True, help="name of the method, as its authors write it")
    parser.add_argument("--paper", required=True, help="where the method is described: authors, year, title, address")
    parser.add_argument("--training", help="how it was trained, in a sentence: images, epochs, hours, starting weights")
    parser.add_argument("--license", default=evaluate.LICENSE, help="of the weights, as an SPDX name (default: %(default)s)")
    parser.add_argument("--quoted", metavar="KEY", help="published result that it stands beside (zoo/quoted.json)")
    parser.add_argument("--preprocessing", metavar="NAME", help="of the pictures (default: the file's, or the data set's own)")
    parser.add_argument("--decoded", type=Path, metavar="FILE.safetensors", help="the weights that its own program decodes")
    parser.add_argument("--decoder", metavar="ADDRESS", help="with --decoded: where that program is to be had")
    parser.add_argument("--network", metavar="NAME", help="with --decoded: network of the zoo that the weights are of")
    parser.add_argument("--out", type=Path, default=evaluate.ARTIFACTS, help="folder of the entries (default: artifacts/)")
    parser.add_argument("--device", default="cpu", help="where the network is measured (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    closed = {"decoded": args.decoded, "decoder": args.decoder, "network": args.network}
    if any(closed.values()) and not all(closed.values()):
        missing = " and ".join(f"--{name}" for name, value in closed.items() if not value)
        raise ValueError(f"a stream that only its own program decodes needs {missing}, too; a model file needs none of them")
    facts = {"method": args.method, "license": args.license, "quoted": args.quoted}
    empty = [name for name in ("id", "method", "paper", "license") if not getattr(args, name).strip()]
    if empty:
        raise ValueError(f"--{' and --'.join(empty)}: nothing is said")
    facts |= {"submission": {"paper": args.paper, "training": args.training}}
    options = {"preprocess": args.preprocessing, "out": args.out, "device": args.device}
    stream = files.read(args.file, LARGEST)
    if args.decoded:
        entry = submit_decoded(args.id, stream, args.decoded, args.decoder, args.network, facts, **options)
    else:
        entry = submit(args.id, stream, facts, **options)
    error = "test set not measured"
    if entry.top1_error is not None:
        error = f"{entry.test_errors:,} of {entry.test_examples:,} test images wrong ({entry.top1_error:.2f} %)"
    print(f"{args.out / entry.id}: {entry.size_bytes:,} bytes, {entry.ratio:,.0f}x smaller, {error}")
    if entry.decoded is not None:
        print("listed as measured by its authors' decoder")
    print(f"next: zoo verify {entry.id}; python -m benchmarks leaderboard; python -m benchmarks check")
    return 0


def submit(
    id: str, blob: bytes, facts: dict, *, preprocess: str | None = None, out: Path = evaluate.ARTIFACTS, device: str = "cpu"
) -> Entry:
    """The entry of a model file. facts: method, license, quoted and submission of its record.

    Raises ValueError for an id or a file that no entry can have, `CorruptArtifact` for a damaged file, FileExistsError where
    the id is taken by other bytes, and what `zoo.measure` raises.
    """
    try:
        header = codec.read_header(blob)
    except NotAnArtifact as error:
        raise NotAnArtifact(f"{error}. A stream in a format of its own needs --decoded, --decoder and --network") from error
    if not header.network:
        raise ValueError("the file names no network: write it with zoo.save(..., name=NETWORK)")
    return _write(id, blob, facts, preprocess, out, device)


def submit_decoded(
    id: str, stream: bytes, weights: Path, decoder: str, network: str, facts: dict, *, preprocess: str | None = None,
    out: Path = evaluate.ARTIFACTS, device: str = "cpu",
) -> Entry:  # fmt: skip
    """The entry of a stream that `decoder` alone reads, measured on the float32 weights that this made of it.

    weights: a safetensors file of the network's state dict. Raises as `submit` does, and ValueError for other tensors.
    """
    try:
        codec.read_header(stream)
    except CorruptArtifact:
        pass
    else:
        raise ValueError("this stream is a model file: submit it without --decoded")
    if not stream:
        raise ValueError("the stream is empty")
    if (out / id).exists() and registry.load_record(out / id).sha256 != hashlib.sha256(stream).hexdigest():
        raise FileExistsError(f"{out / id} holds another stream; bytes under an id never change: give this one {id}-v2")
    blob = states.pack(_weights(weights, network), network=networks.spec(network).name)
    model = {"size_bytes": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}
    facts = facts | {
        "size_bytes": len(stream),
        "sha256": hashlib.sha256(stream).hexdigest(),
        "decoded": {"decoder": decoder} | model,
    }
    return _write(id, blob, facts, preprocess, out, device, {registry.STREAM: stream})


def named_after(network: str, id: str) -> bool:
    """Whether an id reads <network>-<what it is>, as no two file systems confuse it."""
    return re.fullmatch(rf"{re.escape(network)}-[a-z0-9][a-z0-9.-]*", id) is not None


def _write(
    id: str, blob: bytes, facts: dict, preprocess: str | None, out: Path, device: str, extra: dict[str, bytes] | None = None
) -> Entry:
    """Measures the file and writes the entry, after all that can be refused without the test set."""
    spec = networks.spec(codec.read_header(blob).network)
    if spec.classes_count != len(datasets.classes(spec.dataset)):
        raise ValueError(f"entries are of networks with the classes of their data set, not of {spec.name}")
    if not named_after(spec.base, id):
        raise ValueError(f"the id reads {spec.base}-<what it is>, in small letters, digits, dots and hyphens, not {id!r}")
    if facts.get("quoted") is not None and facts["quoted"] not in registry.quoted():
        raise ValueError(f"--quoted {facts['quoted']} is no key of zoo/quoted.json")
    evaluate.refuse_other_bytes(out / id, blob)
    preprocess = preprocess or _preprocessing(blob)
    images = "test" if datasets.get(spec.dataset).downloadable else None  # `measure` does those
    measured = measurement.measure(blob, images, dataset=spec.dataset, preprocess=preprocess, device=device)
    facts = facts | {"dataset": spec.dataset, "preprocessing": preprocess}
    return evaluate.write_entry(id, blob, measured, out, extra=extra, **facts)


def _preprocessing(blob: bytes) -> str:
    """Name of what the file's pictures go through. Raises ValueError where it has none."""
    stated = loading.preprocessing(blob)
    for name, preprocessing in datasets.PREPROCESSINGS.items():
        if replace(preprocessing, name=stated.name) == stated:
            return name
    names = ", ".join(datasets.PREPROCESSINGS)
    raise ValueError(f"the file says that pictures go through {stated}, which has no name here: --preprocessing, of {names}")


def _weights(path: Path, network: str) -> dict:
    """The network's state dict in float32, from a safetensors file. Raises ValueError for other tensors, `ZooError`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(files.read(path, LARGEST))
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error})") from error
    wanted = networks.shapes(network)
    problem = mismatch.explain({name: tuple(tensor.shape) for name, tensor in state.items()}, wanted, network)
    if problem:
        raise ValueError(f"{path}: {problem}")
    infinite = [name for name, tensor in state.items() if not torch.isfinite(tensor.float()).all()]
    if infinite:
        raise ZooError(f"{path}: {', '.join(infinite)} have numbers that are not finite")
    module = networks.build(network)
    module.load_state_dict(state)
    return states.check(module.state_dict())
