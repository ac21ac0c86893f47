"""The networks of the zoo: plain ``nn.Module``s that know nothing of compression.

``SPECS`` and ``names()`` are plain data and import nothing heavy; ``build()`` imports torch when called.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Spec:
    """What is fixed about a network.

    ``parameters`` counts every learnable number of the uncompressed network with ``classes_count`` outputs
    (weights, biases, BN gamma and beta; not the BN statistics): the numerator of every compression ratio is
    4 bytes times this. ``input_shape`` is (C, H, W).
    """

    name: str
    dataset: str
    parameters: int
    classes_count: int
    input_shape: tuple[int, int, int]


SPECS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("lenet300-100", "mnist", 266_610, 10, (1, 28, 28)),
        Spec("lenet5-caffe", "mnist", 431_080, 10, (1, 28, 28)),
        Spec("vgg16", "cifar10", 15_249_354, 10, (3, 32, 32)),
        Spec("resnet20-4", "cifar10", 4_286_026, 10, (3, 32, 32)),
        Spec("resnet18", "imagenet", 11_689_512, 1000, (3, 224, 224)),
        Spec("resnet50", "imagenet", 25_557_032, 1000, (3, 224, 224)),
        Spec("resnet50-v1.5", "imagenet", 25_557_032, 1000, (3, 224, 224)),
    )
}


def names() -> list[str]:
    """Ids of all networks, smallest data set first."""
    return list(SPECS)


def build(name: str, classes: int | None = None) -> nn.Module:
    """Make a network with random weights, in train mode, on torch's default device.

    Under ``torch.device("meta")`` nothing is allocated or drawn.

    Args:
        name: an id of :func:`names`.
        classes: outputs of the last layer; those of the network's data set if None.

    Returns:
        A module that maps (B, C, H, W) images to (B, classes) logits.

    Raises:
        ZooError: no network has this name; the message lists the nearest ones.
    """
    if name not in SPECS:
        near = difflib.get_close_matches(str(name).lower(), SPECS, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(SPECS)}"
        raise ZooError(f"no network is called {name!r}; {hint}")
    count = SPECS[name].classes_count if classes is None else classes
    if count < 1:
        raise ZooError(f"{name}: a network needs at least one class, not {count}")

    from zoo.networks import lenet, resnet, vgg

    builders = {
        "lenet300-100": lenet.LeNet300100,
        "lenet5-caffe": lenet.LeNet5Caffe,
        "vgg16": vgg.VGG16,
        "resnet20-4": resnet.resnet20_4,
        "resnet18": resnet.resnet18,
        "resnet50": resnet.resnet50,
        "resnet50-v1.5": resnet.resnet50_v1_5,
    }
    return builders[name](count)


@functools.lru_cache
def shapes(name: str, classes: int | None = None) -> Mapping[str, tuple[int, ...]]:
    """Shape of every tensor in a network's state dict, BN statistics included, in its order (read-only).

    Takes the arguments of :func:`build`. Imports torch, but allocates no tensor.
    """
    import torch

    with torch.device("meta"):
        state = build(name, classes).state_dict()
    return MappingProxyType({key: tuple(tensor.shape) for key, tensor in state.items()})
