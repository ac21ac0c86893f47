"""The files that the fuzzer starts from: every decoder and entropy model, small networks of the fuzzer's own and real ones."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from zoo import codec, networks, partitionings
from zoo.codec import Coded, Description, Picture, Tensor, described, entropy
from zoo.errors import LayoutMismatch, UnknownName

from .tokens import File, take_apart

OWN = {
    "tiny": {"weight": ((6, 10),), "bias": ((6,),)},
    "kernels": {"convs": ((4, 2, 3, 3), (3, 4, 3, 3)), "fc": ((40, 30),), "bias": ((43,),)},
    "long": {"wide": ((10, 200),), "column": ((900, 1),), "several": ((30, 30), (30, 30), (7,))},
}
TARGETS = tuple(networks.SPECS)  # that a change may name


def layout(header) -> dict:
    """Tensors of the fuzzer's networks and of the zoo's."""
    if header.network not in OWN:
        return partitionings.layout(header)
    shapes = OWN[header.network]
    if header.partitioning != "paper":
        raise UnknownName(f"network {header.network!r} has no partitioning {header.partitioning!r}")
    if header.parameters != sum(int(np.prod(shape)) for tensors in shapes.values() for shape in tensors):
        raise LayoutMismatch(f"the file declares {header.parameters:,} parameters")
    return shapes


@functools.cache
def files() -> list[File]:
    """The seeds, taken apart: always the same."""
    draw, blobs = np.random.default_rng(0), []
    for network, shapes in OWN.items():
        for model in entropy.MODELS:
            for decoder in ("scalar", "codebook", "float32"):
                groups = {name: _group(draw, decoder, model, tensors) for name, tensors in shapes.items()}
                if network == "kernels" and decoder == "scalar":
                    groups["convs"] = _group(draw, ("dft", "sq", "orth:7")[len(model) % 3], model, shapes["convs"])
                blobs.append(codec.encode(network, "paper", groups, shapes))
    for model in ("static", "classes"):
        shapes = {group.name: group.shapes for group in partitionings.get("lenet300-100").groups}
        groups = {group: _group(draw, "scalar", model, tensors, 0.05) for group, tensors in shapes.items()}
        blobs.append(codec.encode("lenet300-100", "paper", groups, shapes))
    blobs += _described(draw)
    return [take_apart(blob, layout) for blob in blobs]


def _described(draw) -> list[bytes]:
    """Files of version 2: each entropy model under each decoder, rounded to each type; numbers of all kinds kept exactly."""
    blobs, rounded = [], itertools.cycle(described.DECODED)
    for model, decoder in itertools.product(entropy.MODELS, ("scalar", "kernels", "codebook", "float32", "pool:4")):
        shapes = {"kernels": OWN["kernels"]["convs"], "pool:4": ((5, 32), (3, 16))}.get(decoder, ((8, 30), (30,), (2, 3, 4), ()))
        if decoder == "kernels":
            decoder = ("dft", "sq", "orth:7")[len(model) % 3]
        tensors = [Tensor(f"layers.{i}.weight", shape, 0) for i, shape in enumerate(shapes)]
        tensors += [Tensor("layers.0.bias", (10,), 1), Tensor("tied.weight", shapes[0], None, 0), Tensor("count", (), 2)]
        kinds = (next(rounded), ("bfloat16", "float64", "int8")[len(blobs) % 3], "int64")
        groups = [_group(draw, decoder, model, shapes), _exact(draw, kinds[1], 10), _exact(draw, kinds[2], 1)]
        blobs.append(described.encode(Description("", kinds, tuple(tensors)), groups))
    kinds = tuple(described.DTYPES)
    tensors = tuple(Tensor(f"{kind}.{kind[:3]}", (3, 1 + i), i) for i, kind in enumerate(kinds))
    blobs.append(described.encode(Description("", kinds, tensors), [_exact(draw, t.name.split(".")[0], 3 * t.shape[1])
                                                                    for t in tensors]))  # fmt: skip
    grey = Picture("mnist", "L", 28, None, 255.0, (0.1307,), (0.3081,))
    coloured = Picture("imagenet", "RGB", 224, 256, 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 2, "bicubic")
    names = partitionings.get("lenet300-100")
    shapes = {group.name: group.shapes for group in names.groups}
    tensors = tuple(Tensor(name, shape, number) for number, group in enumerate(names.groups)
                    for name, shape in zip(group.tensors, group.shapes, strict=True))  # fmt: skip
    groups = [_group(draw, "scalar", "classes", tensors, 0.05) for tensors in shapes.values()]
    blobs.append(described.encode(Description("lenet300-100", ("float32",) * 3, tensors, grey, tuple("0123456789")), groups))
    empty = Description("timm/vit_tiny_patch16_224:3", ("float16",), (Tensor("a", (0, 5), 0),), coloured, ("cat", "Käse", ""))
    blobs.append(described.encode(empty, [_exact(draw, "float16", 0)]))
    blobs.append(described.encode(Description("", (), ()), []))
    return blobs


def _exact(draw, kind: str, count: int) -> Coded:
    high = 2 if kind == "bool" else 256
    return Coded("exact", "static", draw.integers(0, high, (count, described.DTYPES[kind])).astype(np.uint8))


def _group(draw, decoder: str, model: str, shapes, spread: float = 1.0) -> Coded:
    """Integers that repeat in runs, differ in size by row, and have a few outliers, so that each model finds what it codes."""
    size = sum(int(np.prod(shape)) for shape in shapes)
    l = shapes[0][-1] ** 2 if decoder in ("dft", "sq") or decoder.startswith("orth") else 1
    phi = np.rint(draw.laplace(0, spread, size) * np.exp2(draw.integers(-2, 3, size // 50 + 1)).repeat(50)[:size])
    phi = np.where(draw.random(size) < 0.4, np.roll(phi, 1), phi).astype(np.int32)
    phi[draw.integers(0, size, size // 100)] *= 1000
    psi = {"scale": np.full((1, l), 0.25, np.float32)}
    if decoder == "codebook":
        phi, psi = np.abs(phi) % 5, {"codebook": draw.normal(size=(len(shapes), 5)).astype(np.float32)}
    if decoder == "float32":
        phi, psi = (phi.astype(np.float32) / 8 + 1).view(np.int32), {}
    if l > 1 and draw.random() < 0.5:
        psi["shift"] = draw.normal(size=(len(shapes), l)).astype(np.float32)
    return Coded(decoder, model, phi.reshape(-1, l), psi)
