"""The files that the fuzzer starts from: every decoder and entropy model, small networks of the fuzzer's own and real ones."""

from __future__ import annotations

import functools

import numpy as np

from zoo import codec, partitionings
from zoo.codec import Coded, entropy
from zoo.errors import LayoutMismatch, UnknownName

from .tokens import File, take_apart

OWN = {
    "tiny": {"weight": ((6, 10),), "bias": ((6,),)},
    "kernels": {"convs": ((4, 2, 3, 3), (3, 4, 3, 3)), "fc": ((40, 30),), "bias": ((43,),)},
    "long": {"wide": ((10, 200),), "column": ((900, 1),), "several": ((30, 30), (30, 30), (7,))},
}
TARGETS = ("lenet300-100", "lenet5-caffe", "vgg16", "resnet20-4", "resnet18", "resnet50")  # that a change may name


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
    return [take_apart(blob, layout) for blob in blobs]


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
