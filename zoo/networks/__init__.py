"""The networks of the zoo: plain ``nn.Module``s that know nothing of compression.

``SPECS``, ``spec()`` and ``names()`` are plain data and import nothing heavy; ``build()`` imports torch when called.
A name may carry a number of classes, as in ``resnet18:10``: the same network with another last layer. Or it carries a data
set, as in ``lenet5-caffe:fashion-mnist``: the same network for pictures of the same shape, with a class for each of theirs.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from zoo.errors import ZooError

# A short file can name that many and no more: a last layer of at most 268 MB (ResNet-50). ImageNet-21k fits.
MAX_CLASSES = 1 << 15

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Spec:
    """What is fixed about a network.

    ``parameters`` counts every learnable number of the uncompressed network with ``classes_count`` outputs
    (weights, biases, BN gamma and beta; not the BN statistics): the numerator of every compression ratio is
    4 bytes times this. ``input_shape`` is (C, H, W), ``features`` the width of the last dense layer's input,
    ``builder`` the file here and what in it takes a number of classes and gives the module.
    """

    name: str
    dataset: str
    parameters: int
    classes_count: int
    input_shape: tuple[int, int, int]
    features: int
    builder: str

    @property
    def base(self) -> str:
        """The name without a number of classes or a data set."""
        return self.name.partition(":")[0]


SPECS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("lenet300-100", "mnist", 266_610, 10, (1, 28, 28), 100, "lenet.LeNet300100"),
        Spec("lenet5-caffe", "mnist", 431_080, 10, (1, 28, 28), 500, "lenet.LeNet5Caffe"),
        Spec("vgg16", "cifar10", 15_249_354, 10, (3, 32, 32), 512, "vgg.VGG16"),
        Spec("resnet20-4", "cifar10", 4_286_026, 10, (3, 32, 32), 256, "resnet.resnet20_4"),
        Spec("resnet20", "cifar10", 269_722, 10, (3, 32, 32), 64, "resnet.resnet20"),
        Spec("resnet18", "imagenet", 11_689_512, 1000, (3, 224, 224), 512, "resnet.resnet18"),
        Spec("resnet50", "imagenet", 25_557_032, 1000, (3, 224, 224), 2048, "resnet.resnet50"),
        Spec("resnet50-v1.5", "imagenet", 25_557_032, 1000, (3, 224, 224), 2048, "resnet.resnet50_v1_5"),
    )
}


def names() -> list[str]:
    """Ids of all networks, smallest data set first."""
    return list(SPECS)


def spec(name: str) -> Spec:
    """What is fixed about the network of that name, with or without a number of classes or a data set.

    Raises:
        ZooError: no network has this name; the message lists the nearest ones. Or the number of classes is not one
            of 1 to MAX_CLASSES in plain decimal digits; or the pictures of the data set are not what the network takes.
    """
    base, colon, suffix = str(name).partition(":")
    if base not in SPECS:
        near = difflib.get_close_matches(base.lower(), SPECS, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(SPECS)}"
        raise ZooError(f"no network is called {name!r}; {hint}")
    base_spec = SPECS[base]
    if not colon:
        return base_spec
    dataset, count = base_spec.dataset, int(suffix) if suffix.isascii() and suffix.isdigit() and len(suffix) < 9 else 0
    if suffix[:1].isalpha():
        dataset, count = suffix, _classes_for(base_spec, suffix)
    elif suffix[:1] == "0" or not 1 <= count <= MAX_CLASSES:
        raise ZooError(f"{name!r}: a network has 1 to {MAX_CLASSES:,} classes, written as in {base}:10")
    if (dataset, count) == (base_spec.dataset, base_spec.classes_count):
        return base_spec  # one network, one name
    added = (base_spec.features + 1) * (count - base_spec.classes_count)
    return replace(base_spec, name=name, dataset=dataset, parameters=base_spec.parameters + added, classes_count=count)


def _classes_for(network: Spec, dataset: str) -> int:
    """How many classes the data set has; raises `ZooError` where it is not known or its pictures have another shape."""
    from zoo.datasets import classes, get  # numpy, which no name without a data set waits for

    try:
        shape = get(dataset).shape
    except ValueError as error:
        raise ZooError(f"'{network.name}:{dataset}': {error}") from error
    if shape != network.input_shape:
        raise ZooError(f"{network.name} takes pictures of shape {network.input_shape}, {dataset} has {shape}")
    return len(classes(dataset))


def build(name: str) -> nn.Module:
    """Make a network with random weights, in train mode, on torch's default device.

    Under ``torch.device("meta")`` nothing is allocated or drawn.

    Args:
        name: an id of :func:`names`, with the classes of its data set, or one with a number of classes.

    Returns:
        A module that maps (B, C, H, W) images to (B, classes) logits.

    Raises:
        ZooError: as :func:`spec`.
    """
    network_spec = spec(name)
    module, _, builder = network_spec.builder.partition(".")
    return getattr(importlib.import_module(f"zoo.networks.{module}"), builder)(network_spec.classes_count)


@functools.lru_cache
def shapes(name: str) -> Mapping[str, tuple[int, ...]]:
    """Shape of every tensor in a network's state dict, BN statistics included, in its order (read-only).

    Takes the name that :func:`build` takes. Imports torch, but allocates no tensor.
    """
    import torch

    with torch.device("meta"):
        state = build(name).state_dict()
    return MappingProxyType({key: tuple(tensor.shape) for key, tensor in state.items()})
