"""Which channels the tensors of a network share.

A *space* is a set of channels that tensors share: what a layer puts out, its batch normalisation and what reads it. Layers
whose outputs are added share one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from types import MappingProxyType

from zoo.networks import shapes, spec

CHAINS = {
    "lenet300-100": ("fc1", "fc2", "fc3"),
    "lenet5-caffe": ("conv1", "conv2", "fc1", "fc2"),
    "vgg16": (*(f"conv{n}" for n in range(1, 14)), "fc1", "fc2", "fc3"),
}
# Spaces whose first channels are another space's, in order: the shortcuts without parameters of the networks for CIFAR-10.
WITHIN = dict.fromkeys(("resnet20-4", "resnet20"), {"stage2": "stage1", "stage3": "stage2"})


@functools.lru_cache
def spaces(network: str) -> Mapping[str, tuple[str | None, ...]]:
    """State-dict name -> space of its outputs, and of its inputs where it has any; None where channels are fixed.

    In the order of the state dict (read-only). Where a dense layer reads flattened maps it has several inputs for each
    channel, one after another.
    """
    base = spec(network).base
    if base in CHAINS:
        listed = _chain(CHAINS[base])
    elif base == "resnet20-4":
        listed = _resnet20_4()
    elif base.startswith("resnet"):
        listed = _resnet(shapes(network))
    else:
        listed = {}  # of another network nobody has said what reads what: all its channels stay
    return MappingProxyType({name: listed[name] for name in shapes(network) if name in listed})


def widths(network: str) -> dict[str, int]:
    """Space -> number of its channels."""
    tensors = shapes(network)
    sizes = {where[0]: tensors[name][0] for name, where in spaces(network).items() if len(where) == 2 and where[0]}
    return dict(sorted(sizes.items(), key=lambda item: item[0] in WITHIN.get(spec(network).base, ())))


def _chain(layers: tuple[str, ...]) -> dict[str, tuple[str | None, ...]]:
    """Each layer reads the one before; convN has bnN where there are any."""
    listed = {}
    for layer, (inputs, outputs) in zip(layers, itertools.pairwise([None, *layers[:-1], None]), strict=True):
        listed[f"{layer}.weight"] = (outputs, inputs)
        listed |= _vectors(layer, outputs) | _vectors(layer.replace("conv", "bn"), outputs)
    return listed


def _resnet20_4() -> dict[str, tuple[str | None, ...]]:
    """A stage's blocks add to one stream; batch normalisation stands before its convolution."""
    listed = {"conv1.weight": ("stage1", None), **_vectors("bn", "stage3")}
    listed |= {"fc.weight": (None, "stage3"), "fc.bias": (None,)}
    for stage, block in itertools.product((1, 2, 3), (0, 1, 2)):
        name, outputs = f"layer{stage}.{block}", f"stage{stage}"
        inputs = f"stage{stage - 1}" if stage > 1 and block == 0 else outputs
        listed |= _vectors(f"{name}.bn1", inputs) | _vectors(f"{name}.bn2", name)
        listed |= {f"{name}.conv1.weight": (name, inputs), f"{name}.conv2.weight": (outputs, name)}
    return listed


def _resnet(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str | None, ...]]:
    """ResNet-20, -18 and -50: where the shape changes, a new stream begins; batch normalisation follows its convolution."""
    stream = "stem" if "layer1.0.downsample.0.weight" in tensors else "stage1"
    listed = {"conv1.weight": (stream, None), **_vectors("bn1", stream)}
    for block in dict.fromkeys(name.rsplit(".", 2)[0] for name in tensors if name.startswith("layer") and ".conv" in name):
        before, stream = stream, f"stage{block[len('layer')]}"
        last = 3 if f"{block}.conv3.weight" in tensors else 2
        chain = [before, *(f"{block}.conv{n}" for n in range(1, last)), stream]
        for n, (inputs, outputs) in enumerate(itertools.pairwise(chain), start=1):
            listed[f"{block}.conv{n}.weight"] = (outputs, inputs)
            listed |= _vectors(f"{block}.bn{n}", outputs)
        listed[f"{block}.downsample.0.weight"] = (stream, before)
        listed |= _vectors(f"{block}.downsample.1", stream)
    return listed | {"fc.weight": (None, stream), "fc.bias": (None,)}


def _vectors(layer: str, space: str | None) -> dict[str, tuple[str | None]]:
    """What a layer may have one number of for each channel; its weight, too, where it is batch normalisation."""
    normalises = "bn" in layer or layer.endswith("downsample.1")
    kinds = ("weight", "bias", "running_mean", "running_var") if normalises else ("bias",)
    return {f"{layer}.{kind}": (space,) for kind in kinds}
